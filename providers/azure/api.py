"""ARM's API: the one narrow door to azure-mgmt-network and azure-mgmt-compute.

Everything comes back as plain JSON in wire names (camelCase), with the fields that nobody here
knows, so that a body that is read, edited and written loses nothing, and the SDK can be replaced
behind this class. The SDK's own retries and polling are off: throttling must be seen by whoever
plans, a PUT must not be repeated with a stale body, and one loop of ours serves every operation
(`providers.azure.settle`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ipamd.errors import CloudError, NotFound
from providers.azure.configs import Body
from providers.azure.errors import WRONG_VERSION, said
from providers.azure.headers import retry_after_seconds
from providers.azure.ids import ArmId, Kind, arm_id
from providers.azure.pipeline import Heard, Pipeline, odd
from providers.azure.purse import Api


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One answer of ARM's. `etag` is the header's, else the body's, "" where neither has one.

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


OLDEST_NICS = "2018-10-01"
"""The api-version that the SDK reads NICs of scale set instances with, and which ARM has served
since there are any. It knows no prefix lengths."""

NEWEST_NICS = "2026-03-01"
"""That of all else in azure-mgmt-network 33.1. No document says whether ARM serves these NICs with
it, so it is tried, and OLDEST_NICS taken where it is refused."""


class ArmApi:
    """Thread-safe. Ids are taken in any case. Every failure is a CloudError (`errors`)."""

    def __init__(self, pipeline: Pipeline, *, scale_set_nic_api_version: str = "") -> None:
        self._pipeline = pipeline
        self._nic_version = scale_set_nic_api_version or NEWEST_NICS
        self._may_fall_back = not scale_set_nic_api_version

    def close(self) -> None:
        """Close the connections."""
        self._pipeline.close()

    def nic(self, nic_id: str) -> Answered:
        """One NIC: of a VM, or the read-only view of a scale set instance's."""
        nic = _id(nic_id, Kind.NIC, Kind.INSTANCE_NIC)
        if nic.kind is Kind.NIC:
            return self._network(
                Api.NIC_GET,
                nic,
                lambda client, options: client.network_interfaces.get(
                    nic.group, nic.name, **options
                ),
            )
        heard = self._versioned(
            Api.INSTANCE_NIC,
            nic,
            lambda client, options: (
                client.network_interfaces.get_virtual_machine_scale_set_network_interface(
                    nic.group, *nic.names, **options
                )
            ),
        )
        return _answered(Api.INSTANCE_NIC, heard[-1])

    def instance_nics(self, instance_id: str) -> tuple[Body, ...]:
        """The views of all NICs of one scale set instance, each with `etag` where it has one."""
        instance = _id(instance_id, Kind.INSTANCE)
        heard = self._versioned(
            Api.INSTANCE_NICS,
            instance,
            lambda client, options: list(
                client.network_interfaces.list_virtual_machine_scale_set_vm_network_interfaces(
                    instance.group, *instance.names, **options
                )
            ),
        )
        return _items(Api.INSTANCE_NICS, heard)

    def vm(self, vm_id: str) -> Answered:
        """One VM; its NICs' ids are under properties.networkProfile.networkInterfaces."""
        vm = _id(vm_id, Kind.VM)
        heard = self._pipeline.compute(
            Api.VM_GET,
            vm.subscription,
            lambda client, options: client.virtual_machines.get(vm.group, vm.name, **options),
        )
        return _answered(Api.VM_GET, heard[-1])

    def instance(self, instance_id: str) -> Answered:
        """The model of one scale set instance (properties.networkProfileConfiguration)."""
        instance = _id(instance_id, Kind.INSTANCE)
        heard = self._pipeline.compute(
            Api.INSTANCE_GET,
            instance.subscription,
            lambda client, options: client.virtual_machine_scale_set_vms.get(
                instance.group, *instance.names, **options
            ),
        )
        return _answered(Api.INSTANCE_GET, heard[-1])

    def subnet(self, subnet_id: str) -> Answered:
        """One subnet."""
        subnet = _id(subnet_id, Kind.SUBNET)
        return self._network(
            Api.SUBNET_GET,
            subnet,
            lambda client, options: client.subnets.get(subnet.group, *subnet.names, **options),
        )

    def vnet(self, vnet_id: str) -> Answered:
        """One VNET (properties.addressSpace.addressPrefixes)."""
        vnet = _id(vnet_id, Kind.VNET)
        return self._network(
            Api.VNET_GET,
            vnet,
            lambda client, options: client.virtual_networks.get(vnet.group, vnet.name, **options),
        )

    def usages(self, vnet_id: str) -> tuple[Body, ...]:
        """How full the subnets of a VNET are: `id`, `currentValue`, `limit` (-1: not counted)."""
        vnet = _id(vnet_id, Kind.VNET)
        heard = self._pipeline.network(
            Api.USAGES,
            vnet.subscription,
            lambda client, options: list(
                client.virtual_networks.list_usage(vnet.group, vnet.name, **options)
            ),
        )
        return _items(Api.USAGES, heard)

    def put_nic(self, nic_id: str, body: Body, etag: str) -> Answered:
        """Replace a NIC of a VM as a whole; the answer has its new state, often still `Updating`.

        `etag` is sent as If-Match where it is not empty; Busy (code PreconditionFailed) when it is
        stale. Not waited for.
        """
        nic = _id(nic_id, Kind.NIC)
        return self._network(
            Api.NIC_PUT,
            nic,
            lambda client, options: client.network_interfaces.begin_create_or_update(
                nic.group, nic.name, body, polling=False, **_if_match(etag), **options
            ),
        )

    def put_instance(self, instance_id: str, body: Body, etag: str) -> Answered:
        """Replace the model of a scale set instance; like `put_nic`. The body of the answer is the
        model, which has no addresses, and may be {} with a 202."""
        instance = _id(instance_id, Kind.INSTANCE)
        heard = self._pipeline.compute(
            Api.INSTANCE_PUT,
            instance.subscription,
            lambda client, options: client.virtual_machine_scale_set_vms.begin_update(
                instance.group, *instance.names, body, polling=False, **_if_match(etag), **options
            ),
        )
        return _answered(Api.INSTANCE_PUT, heard[-1])

    def operation(self, url: str) -> Operation:
        """How a write stands by the URL that its answer named.

        CloudError (code ForeignUrl), unsent, for a URL that is not under the ARM endpoint: the
        token must go nowhere else.
        """
        is_compute = "/microsoft.compute/" in url.lower()
        api = Api.COMPUTE_OPERATION if is_compute else Api.NETWORK_OPERATION
        return _operation(api, self._pipeline.get(api, url))

    def _network(self, api: Api, named: ArmId, call: Callable[[Any, Any], object]) -> Answered:
        heard = self._pipeline.network(
            api, named.subscription, call, eni_id=named.text if named.kind is Kind.NIC else ""
        )
        return _answered(api, heard[-1])

    def _versioned(
        self, api: Api, named: ArmId, call: Callable[[Any, Any], object]
    ) -> tuple[Heard, ...]:
        """A call with the api-version for NICs of instances; once more with the oldest where the
        newest is refused, and from then on if that one is taken."""
        version = self._nic_version

        def versioned(client: Any, options: dict[str, Any]) -> object:
            return call(client, options | {"api_version": version})

        try:
            heard = self._pipeline.network(api, named.subscription, versioned)
        except CloudError as e:
            if version == OLDEST_NICS or not self._may_be_the_version(e):
                raise
            version = OLDEST_NICS
            heard = self._pipeline.network(api, named.subscription, versioned)
        self._nic_version, self._may_fall_back = version, False
        return heard

    def _may_be_the_version(self, error: CloudError) -> bool:
        """Whether a call may have been refused for its api-version: by its code, or, as nobody
        could find out with which code, because the thing is not there."""
        return self._may_fall_back and (
            error.code.lower() in WRONG_VERSION or type(error) in (CloudError, NotFound)
        )


def _id(text: str, *kinds: Kind) -> ArmId:
    try:
        return arm_id(text, *kinds)
    except ValueError as e:
        raise CloudError(str(e), operation="ids", code="BadId") from e


def _if_match(etag: str) -> dict[str, Any]:
    return {"headers": {"If-Match": etag}} if etag else {}


def _answered(api: Api, heard: Heard) -> Answered:
    if not heard.body and heard.status == 202:
        body: Body = {}
    elif isinstance(heard.body, dict):
        body = heard.body
    else:
        raise odd(api, "no JSON object", heard.body)
    etag = heard.headers.get("etag") or body.get("etag")
    url = heard.headers.get("azure-asyncoperation") or heard.headers.get("location")
    return Answered(
        body=body,
        etag=etag if isinstance(etag, str) else "",
        operation_url=url or "",
        retry_after_seconds=retry_after_seconds(heard.headers),
    )


def _items(api: Api, pages: tuple[Heard, ...]) -> tuple[Body, ...]:
    found: list[Body] = []
    for page in pages:
        items = page.body.get("value") if isinstance(page.body, dict) else None
        if not isinstance(items, list) or not all(isinstance(i, dict) for i in items):
            raise odd(api, "no list of objects under value", page.body)
        found += items
    return tuple(found)


def _operation(api: Api, heard: Heard) -> Operation:
    """Both styles of ARM's: an operation resource with a `status`, and a Location that gives 202
    until it gives the resource, or the refusal."""
    body = heard.body if isinstance(heard.body, dict) else {}
    what = said(body)
    status = body.get("status")
    if not isinstance(status, str) or not status:
        status = _location_status(heard.status, body)
    if not status:
        raise odd(api, f"no status in an answer {heard.status}", heard.body)
    return Operation(
        status=status,
        code=what.telling_code,
        message=what.message,
        retry_after_seconds=retry_after_seconds(heard.headers),
    )


def _location_status(http_status: int, body: Body) -> str:
    if http_status == 202:
        return "InProgress"
    if http_status >= 400:
        return "Failed"
    if http_status == 204:
        return "Succeeded"
    properties = body.get("properties")
    state = properties.get("provisioningState") if isinstance(properties, dict) else None
    return state if isinstance(state, str) else ""
