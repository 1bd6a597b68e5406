"""What the body of a NIC write asks for: read and checked, before any address is taken.

Rules and codes of Microsoft.Network; docs/emulated-azure.md names the source of each. A list in
the body is the whole of it: what is missing there is to be deleted.
"""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, NetmaskValueError
from typing import Any

from providers.sim.arm_errors import (
    JsonObject,
    bad_request,
    duplicate_name,
    no_reference,
    not_provisioned,
    unsupported,
)
from providers.sim.arm_records import BLOCK_LENGTH, Nic, NicConfig, State, Subnet
from providers.sim.arm_state import ArmState

# What only the service may say of a configuration; a client's value for it is not looked at.
_READ_ONLY = ("id", "etag", "type")
_READ_ONLY_PROPERTIES = ("provisioningState", "privateLinkConnectionProperties")
# What the record holds, and the document therefore not.
_OWN_PROPERTIES = (
    "primary",
    "privateIPAddress",
    "privateIPAddressPrefixLength",
    "privateIPAllocationMethod",
    "subnet",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """One configuration as asked for.

    `named`: the address (/32) or block (/28) in the body, if any. `existing`: the configuration of
    that name that the NIC has now, if any.
    """

    name: str
    subnet: Subnet
    is_primary: bool
    is_static: bool
    is_block: bool
    named: IPv4Network | None
    existing: NicConfig | None
    document: JsonObject

    def keeps(self, keeps_unsent: bool) -> IPv4Network | None:
        """What the configuration keeps of what it has; None when it is to get something new.

        A Dynamic one keeps it whatever address was sent; without any, only if `keeps_unsent`.
        """
        has = self.existing
        if has is None or has.subnet_key != self.subnet.key or has.is_block != self.is_block:
            return None
        if self.is_static:
            return has.cidr if self.named in (None, has.cidr) else None
        return has.cidr if self.named is not None or keeps_unsent else None


def wishes(state: ArmState, nic_id: str, before: Nic | None, body: JsonObject) -> list[Wish]:
    """The configurations of a body, the primary one first; ArmError when they cannot be."""
    rows = _rows(nic_id, body)
    if not rows:
        raise bad_request(
            "NetworkInterfaceMustHaveAtLeastOneIpConfiguration",  # invented
            f"Network interface {nic_id} must have at least one IP configuration.",
        )
    if len(rows) > state.behaviour.nic_limit:
        raise bad_request(
            "NetworkInterfaceIpConfigurationLimitExceeded",  # invented
            f"Network interface {nic_id} asks for {len(rows)} IP configurations; "
            f"{state.behaviour.nic_limit} are allowed.",
        )
    _check_names(nic_id, rows)
    primary = _primary_name(nic_id, before, rows)
    home = next(row for row in rows if row["name"] == primary)
    subnet = _subnet(state, nic_id, home, None)
    asked = [_wish(state, nic_id, before, row, primary, subnet) for row in rows]
    _check_subnets(nic_id, before, asked)
    _check_groups(nic_id, asked)
    return sorted(asked, key=lambda wish: not wish.is_primary)


def _rows(nic_id: str, body: JsonObject) -> list[JsonObject]:
    """The ipConfigurations of a body, each with properties."""
    properties = body.get("properties") or {}
    rows = properties.get("ipConfigurations") or [] if isinstance(properties, dict) else None
    if not isinstance(rows, list) or not all(map(_is_row, rows)):
        raise bad_request(
            "InvalidRequestFormat", f"{nic_id}: properties.ipConfigurations cannot be read."
        )
    return [{**row, "properties": row.get("properties") or {}} for row in rows]


def _is_row(row: Any) -> bool:
    return isinstance(row, dict) and isinstance(row.get("properties") or {}, dict)


def _check_names(nic_id: str, rows: list[JsonObject]) -> None:
    names = Counter(str(row.get("name") or "").lower() for row in rows)
    if names[""]:
        raise bad_request("InvalidRequestFormat", f"{nic_id}: an IP configuration has no name.")
    name, times = names.most_common(1)[0]
    if times > 1:
        raise duplicate_name(nic_id, name)


def _primary_name(nic_id: str, before: Nic | None, rows: list[JsonObject]) -> str:
    """Who is primary: the one that says so, or the only one that can be."""
    marked = [row for row in rows if row["properties"].get("primary")]
    able = [row for row in rows if not _is_block(row, before)]
    if not marked and len(able) == 1:
        marked = able
    if len(marked) != 1:
        many = "more than one" if marked else "none"
        raise bad_request(
            "NetworkInterfaceMustHaveOneOneIPConfigAsPrimary",
            f"Network Interface {nic_id} specifies multiple IPConfigurations but {many} of the "
            "IPConfigurations is specified as Primary.",
        )
    if _is_block(marked[0], before):
        raise bad_request(
            "PrimaryIpConfigurationCannotHavePrefixLength",  # invented
            f"{nic_id}: the primary IP configuration cannot be a block of addresses.",
        )
    name = str(marked[0]["name"])
    if before is not None and before.primary.name.lower() != name.lower():
        raise bad_request(
            "IpConfigDeleteNotSupported",
            f"IP Configuration {before.primary.name} cannot be deleted. Deletion and renaming of "
            "primary IP Configuration is not supported",
        )
    return name


def _is_block(row: JsonObject, before: Nic | None) -> bool:
    """Whether a row is of a block: it says so, or it is one and nothing is said.

    A client of an old api-version sees no length and sends none; its block stays one.
    """
    if row["properties"].get("privateIPAddressPrefixLength") is not None:
        return True
    existing = before.config(str(row["name"])) if before else None
    return existing is not None and existing.is_block


def _wish(
    state: ArmState, nic_id: str, before: Nic | None, row: JsonObject, primary: str, home: Subnet
) -> Wish:
    properties = row["properties"]
    length = properties.get("privateIPAddressPrefixLength")
    if length not in (None, BLOCK_LENGTH):
        raise bad_request(
            "InvalidPrivateIPAddressPrefixLength",  # invented
            f"{nic_id}: private IP address prefix length {length} is not {BLOCK_LENGTH}.",
        )
    if properties.get("privateIPAddressVersion", "IPv4") != "IPv4":
        raise unsupported("IPv6 on network interfaces")
    is_static = properties.get("privateIPAllocationMethod", "Dynamic") == "Static"
    is_block = _is_block(row, before)
    named = _named(properties.get("privateIPAddress"), is_block)
    existing = before.config(str(row["name"])) if before else None
    if is_static and named is None and existing is None:
        raise bad_request(
            "StaticPrivateIPAddressNotSpecified",  # invented
            f"{nic_id}: a Static IP configuration needs a privateIPAddress.",
        )
    return Wish(
        name=str(row["name"]),
        subnet=_subnet(state, nic_id, row, home),
        is_primary=row["name"] == primary,
        is_static=is_static,
        is_block=is_block,
        named=named,
        existing=existing,
        document=_stored(row),
    )


def _named(text: Any, is_block: bool) -> IPv4Network | None:
    """The address or block in a body. A block may be written with or without its length."""
    if not text:
        return None
    address, _, length = str(text).partition("/")
    try:
        if not is_block:
            return IPv4Network(IPv4Address(text))
        if length not in ("", str(BLOCK_LENGTH)):
            raise NetmaskValueError(length)
        return IPv4Network(f"{address}/{BLOCK_LENGTH}")
    except ValueError as error:
        raise bad_request(
            "InvalidIPAddressFormat",  # invented
            f"'{text}' is no private IP address" + (" of an aligned block." if is_block else "."),
        ) from error


def _subnet(state: ArmState, nic_id: str, row: JsonObject, home: Subnet | None) -> Subnet:
    """The subnet that a row names; without a name, that of the primary configuration.

    The published example of NetworkInterfaces_CreateOrUpdate has a block without a subnet.
    """
    named = (row["properties"].get("subnet") or {}).get("id")
    if named is None:
        if home is None:
            raise bad_request(
                "SubnetReferenceRequired",  # the text is Azure's (azure-cli #1238), the code not
                "Subnet reference is required for ipconfiguration "
                f"{nic_id}/ipConfigurations/{row['name']}.",
            )
        return home
    found = state.subnets.get(str(named).lower())
    if found is None:
        raise no_reference(str(named), nic_id)
    if found.state is not State.SUCCEEDED:
        raise not_provisioned(found.subnet_id, nic_id, found.state.value)
    return found


def _check_subnets(nic_id: str, before: Nic | None, asked: list[Wish]) -> None:
    if len({wish.subnet.key for wish in asked}) > 1:
        raise bad_request(
            "IpConfigurationsOnSameNicCannotUseDifferentSubnets",  # from memory
            "IPConfigurations on a Nic cannot belong to different subnets.",
        )
    moves = before is not None and before.primary.subnet_key != asked[0].subnet.key
    if moves and before is not None and before.vm_id and before.device_index:
        raise bad_request(
            "SecondaryNetworkInterfaceInUseCannotChangeSubnet",
            f"Cannot change subnet of network interface {nic_id} while it is in use as a "
            "secondary network interface.",
        )


def _check_groups(nic_id: str, asked: list[Wish]) -> None:
    """Every configuration of a NIC is in the same application security groups."""
    groups = {wish.name: _groups(wish.document) for wish in asked}
    if len(set(groups.values())) > 1:
        told = ", ".join(f"{name}: {sorted(ids)}" for name, ids in groups.items())
        raise bad_request(
            "AllIpConfigurationsOnANicMustBelongToTheSameApplicationSecurityGroups",
            f"All IPConfigurations on Network Interface {nic_id} should reference the same set "
            f"of Application Security Groups; they reference {told[:500]}.",
        )


def _groups(document: JsonObject) -> frozenset[str]:
    rows = document["properties"].get("applicationSecurityGroups") or []
    return frozenset(str(row.get("id", "")).lower() for row in rows)


def _stored(row: JsonObject) -> JsonObject:
    """What is kept of a row beside the record's fields; unknown fields are among it."""
    kept = {name: value for name, value in row.items() if name not in _READ_ONLY}
    hidden = (*_READ_ONLY_PROPERTIES, *_OWN_PROPERTIES)
    properties = row["properties"]
    kept["properties"] = {name: one for name, one in properties.items() if name not in hidden}
    return copy.deepcopy(kept)
