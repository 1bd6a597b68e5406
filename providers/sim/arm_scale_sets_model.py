"""The network model of a Uniform instance, and what it asks of Microsoft.Network.

A model is `networkProfileConfiguration`: NIC configurations with ipConfigurations that have a name
and a subnet, and no address. It is translated into bodies of NIC writes, which are then checked and
carried out as every other NIC write (`arm_nics`). Source: Microsoft.Compute API,
VirtualMachineScaleSetNetworkConfiguration and ...IPConfiguration.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

from providers.sim.arm_errors import ArmError, JsonObject, bad_request, no_resource, subnet_is_full
from providers.sim.arm_nics import replace_nic
from providers.sim.arm_records import Nic
from providers.sim.arm_state import ArmState
from providers.sim.arm_wishes import wishes

# What a model says beside, or instead of, what a NIC says.
_OF_NIC_CONFIG = ("deleteOption", "ipConfigurations", "primary")
_OF_CONFIG = (
    "loadBalancerInboundNatPools",
    "privateIPAddress",
    "publicIPAddressConfiguration",
)

Bodies = dict[str, JsonObject]


def nic_bodies(state: ArmState, instance_id: str, model: JsonObject) -> Bodies:
    """By NIC name, the body of the write that gives each NIC of a model what it asks for.

    The primary NIC comes first. Configurations that exist are sent with their addresses. Raises
    ArmError when the model makes no sense, or is none that a running instance can change to.
    """
    has = {nic.name.lower(): nic for nic in state.attached_to(instance_id)}
    rows = _rows(model, "networkInterfaceConfigurations")
    asked = {_name(row): row for row in sorted(rows, key=lambda row: not _is_primary(row))}
    if len(asked) < len(rows):
        raise _wrong("networkInterfaceConfigurations", "every name occurs once")
    if len(rows) > 1 and sum(map(_is_primary, rows)) != 1:
        raise _wrong("networkInterfaceConfigurations", "exactly one is primary")
    if has and has.keys() != {name.lower() for name in asked}:
        raise bad_request(
            "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported",
            "Secondary network interfaces cannot be added to or deleted from a running virtual "
            "machine.",
        )
    bodies = {
        name: _body(row, has.get(name.lower()), instance_id.rsplit("/", 1)[1])
        for name, row in asked.items()
    }
    for name, body in bodies.items():
        nic = has.get(name.lower())
        wishes(state, nic_id(instance_id, name), nic, body)
    return bodies


def make_nics(state: ArmState, instance_id: str, model: JsonObject, netns_path: str) -> None:
    """Make and attach the NICs of a new instance, or, with an ArmError, none."""
    try:
        for index, (name, body) in enumerate(nic_bodies(state, instance_id, model).items()):
            made = replace_nic(state, nic_id(instance_id, name), body)
            state.attach(made.nic_id, instance_id, device_index=index, netns_path=netns_path)
    except ArmError:
        for nic in list(state.attached_to(instance_id)):
            state.drop_nic(nic.nic_id)
        raise


def apply_bodies(state: ArmState, instance_id: str, bodies: Bodies, *, is_half: bool) -> None:
    """Write the NICs one after the other; ArmError when one is refused.

    `is_half`: only the first half of what is new, rounded up, as when an operation fails on its
    way.
    """
    for name, body in bodies.items():
        nic = state.nic(nic_id(instance_id, name))
        replace_nic(state, nic.nic_id, _halved(body, nic) if is_half else body)


def check_room(state: ArmState, instance_id: str, bodies: Mapping[str, JsonObject]) -> None:
    """Raise what `apply_bodies` would raise for want of addresses, and change nothing."""
    for name, body in bodies.items():
        nic = state.nic(nic_id(instance_id, name))
        new = [row for row in body["properties"]["ipConfigurations"] if _is_new(row, nic)]
        blocks = sum("privateIPAddressPrefixLength" in row["properties"] for row in new)
        wanted = len(new) + 15 * blocks
        subnet = state.subnet(nic.primary.subnet_key)
        if wanted > subnet.pool.free_count:
            raise subnet_is_full(subnet.name, subnet.cidr, wanted)
        if blocks > subnet.pool.free_blocks():
            raise bad_request(
                state.behaviour.block_shortage_code,
                f"Subnet {subnet.name} with address prefix {subnet.cidr} does not have enough "
                f"free CIDR blocks for {blocks} blocks of /28.",
            )


def without_config(document: JsonObject, nic_name: str, name: str) -> JsonObject:
    """The body of a write that removes one configuration from an instance's model."""
    body = copy.deepcopy(document)
    model = body["properties"]["networkProfileConfiguration"]
    for nic in _rows(model, "networkInterfaceConfigurations"):
        if _name(nic).lower() == nic_name.lower():
            rows = nic["properties"]["ipConfigurations"]
            kept = [row for row in rows if _name(row).lower() != name.lower()]
            if len(kept) == len(rows):
                raise no_resource(f"{nic_name}/ipConfigurations/{name}")
            nic["properties"]["ipConfigurations"] = kept
    return body


def nic_id(instance_id: str, name: str) -> str:
    """The ARM id of an instance's NIC."""
    return f"{instance_id}/networkInterfaces/{name}"


def _body(row: JsonObject, nic: Nic | None, number: str) -> JsonObject:
    properties = _properties(row)
    configs = [_config(one, nic, number) for one in _rows(properties, "ipConfigurations")]
    if nic is not None and not any(one["properties"].get("primary") for one in configs):
        for one in configs:
            one["properties"]["primary"] = one["name"].lower() == nic.primary.name.lower()
    kept = {name: value for name, value in properties.items() if name not in _OF_NIC_CONFIG}
    return copy.deepcopy({"properties": {**kept, "ipConfigurations": configs}})


def _config(row: JsonObject, nic: Nic | None, number: str) -> JsonObject:
    """A NIC's configuration; of NAT pools it has one rule each (recording test_vmss_nics)."""
    name, properties = _name(row), _properties(row)
    if "privateIPAddress" in properties:
        raise _wrong(name, "a scale set's instance cannot ask for an address")
    made: dict[str, Any] = {
        key: value for key, value in properties.items() if key not in _OF_CONFIG
    }
    made["privateIPAllocationMethod"] = "Dynamic"
    if pools := properties.get("loadBalancerInboundNatPools"):
        made["loadBalancerInboundNatRules"] = [
            {"id": f"{pool['id'].replace('/inboundNatPools/', '/inboundNatRules/')}.{number}"}
            for pool in pools
        ]
    if nic is not None and (existing := nic.config(name)) is not None:
        made["privateIPAddress"] = (
            str(existing.cidr) if existing.is_block else str(existing.address)
        )
    return {"name": name, "properties": made}


def _halved(body: JsonObject, nic: Nic) -> JsonObject:
    rows = body["properties"]["ipConfigurations"]
    new = [row for row in rows if _is_new(row, nic)]
    left_out = {row["name"] for row in new[math.ceil(len(new) / 2) :]}
    kept = [row for row in rows if row["name"] not in left_out]
    return {**body, "properties": {**body["properties"], "ipConfigurations": kept}}


def _is_new(row: JsonObject, nic: Nic) -> bool:
    return nic.config(row["name"]) is None


def _is_primary(row: JsonObject) -> bool:
    return bool(_properties(row).get("primary"))


def _rows(document: JsonObject, name: str) -> list[JsonObject]:
    rows: Any = document.get(name)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise _wrong(name, "it has to be a list of objects and not empty")
    return rows


def _properties(row: JsonObject) -> JsonObject:
    properties = row.get("properties")
    return properties if isinstance(properties, dict) else {}


def _name(row: JsonObject) -> str:
    name = row.get("name")
    if not isinstance(name, str) or not name:
        raise _wrong("name", "every configuration has one")
    return name


def _wrong(target: str, text: str) -> ArmError:
    return bad_request("InvalidParameter", f"{target}: {text}.")
