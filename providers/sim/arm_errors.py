"""ARM's refusals: the status, the code, the text and the headers that a client sees.

The envelope is that of the Azure Resource Manager API guidelines ("Error response content"). Which
codes are documented, and which are from memory, is in docs/emulated-azure.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Any

JsonObject = dict[str, Any]


class ArmError(Exception):
    """A request that ARM or a resource provider refuses. Nothing has changed when it is raised."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        details: Sequence[JsonObject] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.details = tuple(details)
        self.headers = dict(headers or {})

    @property
    def error(self) -> JsonObject:
        """{"code", "message", "details"}, as an operation's status shows it too."""
        return {"code": self.code, "message": self.message, "details": list(self.details)}

    @property
    def envelope(self) -> JsonObject:
        """The body of the answer."""
        return {"error": self.error}


def bad_request(code: str, message: str) -> ArmError:
    """400, the usual status of a refusal by Microsoft.Network."""
    return ArmError(400, code, message)


def unsupported(what: str) -> ArmError:
    """What Azure has and the emulator has not: said aloud, never ignored."""
    return bad_request("NotEmulated", f"The emulated Azure does not support {what}.")


def no_resource(resource_id: str) -> ArmError:
    """404 for a resource id that nothing has."""
    kind, group = _kind_and_group(resource_id)
    return ArmError(
        404,
        "ResourceNotFound",
        f"The Resource '{kind}' under resource group '{group}' was not found. "
        "For more details please go to https://aka.ms/ARMResourceNotFoundFix",
    )


def no_parent(resource_id: str) -> ArmError:
    """404 for a resource whose parent does not exist."""
    kind, _ = _kind_and_group(resource_id)
    return ArmError(
        404,
        "ParentResourceNotFound",
        f"Failed to perform 'read' on resource(s) of type '{kind}', because the parent resource "
        "could not be found.",
    )


def no_reference(resource_id: str, by: str) -> ArmError:
    """400 for a body that names a resource that does not exist."""
    return bad_request(
        "InvalidResourceReference",
        f"Resource {resource_id} referenced by resource {by} was not found. Please make sure that "
        "the referenced resource exists, and that both resources are in the same region.",
    )


def precondition_failed(etag: str = "") -> ArmError:
    """412: If-Match or If-None-Match does not hold."""
    has = f" The resource's etag is {etag}." if etag else ""
    return ArmError(
        412, "PreconditionFailed", f"Precondition failed: the given etag does not match.{has}"
    )


def subnet_is_full(name: str, cidr: IPv4Network, wanted: int) -> ArmError:
    """SubnetIsFull, with its real text (MicrosoftDocs/azure-docs #88211)."""
    return bad_request(
        "SubnetIsFull",
        f"Subnet {name} with address prefix {cidr} does not have enough capacity for {wanted} "
        "IP addresses.",
    )


def address_allocated(address: IPv4Address, config_id: str, holder_id: str) -> ArmError:
    """A named address that somebody has (F5Networks/terraform-azure-bigip-module #63)."""
    return bad_request(
        "PrivateIPAddressIsAllocated",
        f"IP configuration {config_id} is using the private IP address {address} which is already "
        f"allocated to resource {holder_id}.",
    )


def duplicate_name(resource_id: str, name: str) -> ArmError:
    """Two children of one name (Azure/migAz #181, #218)."""
    detail = {
        "code": "DuplicateResourceName",
        "message": f"Resource {resource_id} has two child resources with the same name ({name}).",
    }
    return ArmError(400, "InvalidRequestFormat", "Cannot parse the request.", details=[detail])


def not_provisioned(resource_id: str, by: str, state: str) -> ArmError:
    """429 for a resource that needs another one which is being changed.

    hashicorp/terraform #7986; azure-powershell #14460 for the pause.
    """
    detail = {
        "code": "ReferencedResourceNotProvisioned",
        "message": f"Cannot proceed with operation because resource {resource_id} used by resource "
        f"{by} is not in Succeeded state. Resource is in {state} state and the last operation that "
        "updated/is updating the resource is PutSubnetOperation.",
    }
    return ArmError(
        429,
        "RetryableError",
        "A retryable error occurred.",
        details=[detail],
        headers={"Retry-After": "10"},
    )


def _kind_and_group(resource_id: str) -> tuple[str, str]:
    """`Microsoft.Network/networkInterfaces/n` and the resource group of an id."""
    head, _, tail = resource_id.partition("/providers/")
    parts = head.split("/")
    return tail or resource_id, parts[4] if len(parts) > 4 else ""
