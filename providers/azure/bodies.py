"""What to PUT: a NIC, or the NICs of a scale set instance, as read and with our changes. Pure.

A PUT replaces a whole NIC, so whatever is left out is reset: its security group, other people's
configurations, fields that nobody here knows. Hence a body is a deep copy of what was read in which
only configurations of our prefix come and go. What the API reference calls read-only is dropped, as
the SDK's own models do.

A PUT of an instance replaces what it names. Its other parts are other people's: a CSI driver
attaches disks by the same PUT, so that disks as we read them a moment ago would detach a new one.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from ipamd.errors import CloudError, LimitReached
from providers.azure.configs import BLOCK_LENGTH, Body, key_of, primary_first, primary_of
from providers.azure.names import Kind, is_ours

MAX_CONFIGS = 256
"""Private addresses of one NIC, and of one VM, of any size ("Azure networking limits"); a block
counts as one."""

# Each of these: the members that azure-mgmt-network 33.1 marks so.
_NIC_READ_ONLY = frozenset({"name", "type", "etag"})
_NIC_PROPERTIES_READ_ONLY = frozenset(
    {
        "virtualMachine", "privateEndpoint", "tapConfigurations", "macAddress", "primary",
        "vnetEncryptionSupported", "defaultOutboundConnectivityEnabled", "hostedWorkloads",
        "dscpConfiguration", "resourceGuid", "provisioningState",
    }
)  # fmt: skip
_DNS_READ_ONLY = frozenset({"appliedDnsServers", "internalFqdn", "internalDomainNameSuffix"})
_CONFIG_READ_ONLY = frozenset({"type", "etag"})
_CONFIG_PROPERTIES_READ_ONLY = frozenset({"provisioningState", "privateLinkConnectionProperties"})

_INSTANCE_PARTS = ("location",)
_INSTANCE_PROPERTIES = ("hardwareProfile", "networkProfileConfiguration")
"""What is sent of an instance: what AKS' cloud controller manager sends to put its NICs into a load
balancer (cloud-provider-azure, azure_vmss.go); the one that attaches disks sends the disks alone
(kubernetes issue 71991). So no image is named either, for which ARM wants rights in whatever
subscription it is (AKS issue 1819), nor identities and encryption sets, which want rights too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """What becomes different on one NIC: configurations to add, by name and kind, and the names, in
    lower case, of those to leave out."""

    adds: tuple[tuple[str, Kind], ...] = ()
    removes: frozenset[str] = frozenset()

    @property
    def is_empty(self) -> bool:
        """Whether the NIC stays as it is."""
        return not self.adds and not self.removes


def nic_body(nic: Body, edit: Edit) -> Body:
    """The NIC to PUT. `LimitReached`, before any call, for more configurations than a NIC takes;
    CloudError (NotOurs) for a removal of what is not ours."""
    made = _without(copy.deepcopy(nic), _NIC_READ_ONLY)
    properties = made["properties"] = _without(made["properties"], _NIC_PROPERTIES_READ_ONLY)
    if isinstance(properties.get("dnsSettings"), dict):
        properties["dnsSettings"] = _without(properties["dnsSettings"], _DNS_READ_ONLY)
    kept = [_sendable(raw) for raw in properties.get("ipConfigurations") or []]
    properties["ipConfigurations"] = edited(kept, edit, _nic_config)
    return made


def instance_body(instance: Body, edits: Mapping[str, Edit]) -> Body:
    """The instance to PUT, with the edits of its NICs by their name in lower case; errors like
    `nic_body`, LookupError for a NIC that the model has not."""
    made = _only(instance, _INSTANCE_PARTS)
    made["properties"] = copy.deepcopy(_only(instance["properties"], _INSTANCE_PROPERTIES))
    modelled = {key_of(nic): nic for nic in nics_of(made)}
    for key, edit in edits.items():
        inner = modelled[key]["properties"]
        inner["ipConfigurations"] = edited(inner.get("ipConfigurations") or [], edit, _model_config)
    return made


def nics_of(instance: Body) -> list[Body]:
    """The NIC configurations in an instance's model; LookupError where there is none."""
    listed: list[Body] = instance["properties"]["networkProfileConfiguration"][
        "networkInterfaceConfigurations"
    ]
    return listed


def edited(listed: list[Body], edit: Edit, make: Callable[[str, Kind, Body], Body]) -> list[Body]:
    """The configurations as they shall be: the primary first, the rest in its order, new ones last.

    Errors like `nic_body`.
    """
    primary = primary_of(listed)
    if primary is None:
        raise CloudError("the NIC has no ipConfiguration to add to", code="NoPrimary")
    _refuse_foreign((raw for raw in listed if key_of(raw) in edit.removes), primary)
    kept = [raw for raw in primary_first(listed) if key_of(raw) not in edit.removes]
    if len(kept) + len(edit.adds) > MAX_CONFIGS and edit.adds:
        raise too_many(len(kept), len(edit.adds))
    return [*kept, *(make(name, kind, primary) for name, kind in edit.adds)]


def too_many(held: int, asked: int) -> LimitReached:
    """The refusal of what ARM would refuse."""
    return LimitReached(
        f"the NIC has {held} ipConfigurations and takes {MAX_CONFIGS}: not {asked} more",
        code="MaxConfigs",
    )


def _refuse_foreign(leaving: Iterable[Body], primary: Body) -> None:
    for raw in leaving:
        if raw is primary or not is_ours(key_of(raw)):
            raise CloudError(f"ipConfiguration {raw['name']} is not ours to remove", code="NotOurs")


def _nic_config(name: str, kind: Kind, primary: Body) -> Body:
    made = _model_config(name, kind, primary)
    made["properties"]["privateIPAllocationMethod"] = "Dynamic"
    return made


def _model_config(name: str, kind: Kind, primary: Body) -> Body:
    """A new configuration. Of the primary it gets the subnet, since all of a NIC are in one, and
    the application security groups, since rules that name them hold for pods like for the node; no
    load balancer, NAT rule or public address, which are the node's own."""
    properties: Body = {
        "primary": False,
        "privateIPAddressVersion": "IPv4",
        "subnet": {"id": primary["properties"]["subnet"]["id"]},
    }
    groups = primary["properties"].get("applicationSecurityGroups")
    if groups:
        properties["applicationSecurityGroups"] = [{"id": group["id"]} for group in groups]
    if kind is Kind.BLOCK:
        properties["privateIPAddressPrefixLength"] = BLOCK_LENGTH
    return {"name": name, "properties": properties}


def _sendable(raw: Body) -> Body:
    """A configuration as it goes back: its address stays in it, or ARM may choose another."""
    kept = _without(raw, _CONFIG_READ_ONLY)
    return {**kept, "properties": _without(kept["properties"], _CONFIG_PROPERTIES_READ_ONLY)}


def _without(raw: Body, members: frozenset[str]) -> Body:
    return {key: value for key, value in raw.items() if key not in members}


def _only(raw: Body, members: tuple[str, ...]) -> Body:
    return {key: raw[key] for key in members if key in raw}
