"""ARM's API: the one narrow door to azure-mgmt-network and azure-mgmt-compute.

Everything comes back as plain JSON in wire names (camelCase), with the fields that nobody here
knows, so that a body that is read, edited and written loses nothing, and the SDK can be replaced
behind this class. The SDK's own retries and polling are off: throttling must be seen by whoever
plans, a PUT must not be repeated with a stale body, and one loop of ours serves every operation
(`providers.azure.settle`).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Body = dict[str, Any]
"""A JSON object as ARM gave it or will get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer of ARM's. `etag` is that of the header, else of the body, "" where neither has one.

    `operation_url` is where the outcome of a write can be read (Azure-AsyncOperation, else
    Location; "" when ARM named none), `retry_after_seconds` when it makes sense to look (0: not
    said).
    """

    body: Body = field(default_factory=dict)
    etag: str = ""
    operation_url: str = ""
    retry_after_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """How a write stands. `status` is "InProgress", "Succeeded", "Failed", "Canceled" or another
    word of ARM's that means that it has not ended; `code` and `message` say why it failed."""

    status: str
    code: str = ""
    message: str = ""
    retry_after_seconds: float = 0.0

    @property
    def has_ended(self) -> bool:
        """Whether the status is final ("ARM, asynchronous operations")."""
        return self.status.lower() in ("succeeded", "failed", "canceled")


class ArmApi:
    """Thread-safe. Ids are taken in any case. Every failure is a CloudError (`errors`)."""

    def nic(self, nic_id: str) -> Answered:
        """One NIC: of a VM, or the read-only view of a scale set instance's."""
        raise NotImplementedError

    def vm(self, vm_id: str) -> Answered:
        """One VM; its NICs' ids are under properties.networkProfile.networkInterfaces."""
        raise NotImplementedError

    def instance(self, instance_id: str) -> Answered:
        """The model of one scale set instance (properties.networkProfileConfiguration)."""
        raise NotImplementedError

    def instance_nics(self, instance_id: str) -> tuple[Body, ...]:
        """The views of all NICs of one scale set instance, each with its `etag` where it has one."""
        raise NotImplementedError

    def subnet(self, subnet_id: str) -> Answered:
        """One subnet."""
        raise NotImplementedError

    def vnet(self, vnet_id: str) -> Answered:
        """One VNET (properties.addressSpace.addressPrefixes)."""
        raise NotImplementedError

    def usages(self, vnet_id: str) -> tuple[Body, ...]:
        """How full the subnets of a VNET are: `id`, `currentValue`, `limit` (-1: not counted)."""
        raise NotImplementedError

    def put_nic(self, nic_id: str, body: Body, etag: str) -> Answered:
        """Replace a NIC of a VM as a whole; the answer has its new state, often still `Updating`.

        `etag` is sent as If-Match where it is not empty; Busy (code PreconditionFailed) when it is
        stale. Not waited for.
        """
        raise NotImplementedError

    def put_instance(self, instance_id: str, body: Body, etag: str) -> Answered:
        """Replace the model of a scale set instance; like `put_nic`. The body of the answer is the
        model, which has no addresses, and may be {} with a 202."""
        raise NotImplementedError

    def operation(self, url: str) -> Operation:
        """How a write stands by the URL that its answer named.

        CloudError (code ForeignUrl), unsent, for a URL that is not under the ARM endpoint: the
        token must go nowhere else.
        """
        raise NotImplementedError
