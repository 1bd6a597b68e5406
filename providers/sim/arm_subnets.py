"""VNETs and subnets as Microsoft.Network shows them, and what is free in them.

Shapes: azure-rest-api-specs, examples VirtualNetworkGet, SubnetGet, VirtualNetworkListUsage and
VirtualNetworkCheckIPAddressAvailability.
"""

from __future__ import annotations

import itertools
from ipaddress import IPv4Address
from typing import Any

from providers.sim.allocator import Refusal
from providers.sim.arm_errors import JsonObject, bad_request
from providers.sim.arm_records import Subnet, Vnet
from providers.sim.arm_state import ArmState

VNET_TYPE = "Microsoft.Network/virtualNetworks"
# The published example names so many free ones when the asked one is not.
_SUGGESTIONS = 5


def vnet(state: ArmState, one: Vnet) -> JsonObject:
    """The VNET with its subnets."""
    return {
        **one.document,
        "name": one.name,
        "id": one.vnet_id,
        "etag": one.etag,
        "type": VNET_TYPE,
        "location": one.location,
        "properties": {
            "provisioningState": "Succeeded",
            "resourceGuid": one.guid,
            "addressSpace": {"addressPrefixes": [str(prefix) for prefix in one.prefixes]},
            "subnets": [subnet(state, each) for each in state.subnets_of(one)],
            "virtualNetworkPeerings": [],
            "enableDdosProtection": False,
        },
    }


def subnet(state: ArmState, one: Subnet) -> JsonObject:
    """The subnet; its etag is the VNET's. Without `ipConfigurations` when there is none to show."""
    properties: JsonObject = {
        "provisioningState": one.state.value,
        **_prefix(one),
        "delegations": [],
        "privateEndpointNetworkPolicies": "Disabled",
        "privateLinkServiceNetworkPolicies": "Enabled",
    }
    if one.shows_configurations and (rows := _configurations(state, one)):
        properties["ipConfigurations"] = rows
    return {
        "name": one.name,
        "id": one.subnet_id,
        "etag": state.vnet(one.vnet_key).etag,
        "type": f"{VNET_TYPE}/subnets",
        "properties": properties,
    }


def usages(state: ArmState, one: Vnet) -> list[JsonObject]:
    """How full each subnet is; the five reserved addresses are in neither number."""
    return [_usage(state, each) for each in state.subnets_of(one)]


def availability(state: ArmState, one: Vnet, asked: str) -> JsonObject:
    """Whether an address is free, and if not, which others are."""
    try:
        address = IPv4Address(asked)
    except ValueError as error:
        raise bad_request("InvalidIPAddressFormat", f"'{asked}' is no IP address.") from error
    home = next((each for each in state.subnets_of(one) if address in each.cidr), None)
    if home is None:
        raise bad_request(
            "PrivateIPAddressNotInAnySubnet",  # from memory
            f"Private IP address {address} does not belong to any subnet of {one.vnet_id}.",
        )
    refusal = home.pool.refusal(address)
    others: list[str] = [] if refusal is None else _free_ones(home)
    return {
        "available": refusal is None,
        "availableIPAddresses": others,
        "isPlatformReserved": refusal is Refusal.RESERVED,
    }


def _prefix(one: Subnet) -> dict[str, Any]:
    """`addressPrefix` or `addressPrefixes`: a client must be right with either."""
    if one.has_prefix_list:
        return {"addressPrefixes": [str(one.cidr)]}
    return {"addressPrefix": str(one.cidr)}


def _configurations(state: ArmState, one: Subnet) -> list[JsonObject]:
    """References to everything that has an address here, that of other tenants included."""
    rows = [
        f"{nic.nic_id}/ipConfigurations/{config.name}"
        for nic in state.nics_in(one)
        for config in nic.configs
    ]
    group = one.subnet_id.split("/providers/", 1)[0]
    rows += [
        f"{group}/providers/Microsoft.Network/networkInterfaces/other-{number}"
        "/ipConfigurations/ipconfig1"
        for number in range(len(state.tenants.get(one.key, ())))
    ]
    return [{"id": row} for row in rows]


def _usage(state: ArmState, one: Subnet) -> JsonObject:
    used, limit = -1, -1
    if one.is_counted:
        configs = [config for nic in state.nics_in(one) for config in nic.configs]
        block = state.behaviour.usage_of_block
        used = sum(block if config.is_block else 1 for config in configs)
        used += len(state.tenants.get(one.key, ()))
        limit = one.cidr.num_addresses - 5
    return {
        "currentValue": used,
        "id": one.subnet_id,
        "limit": limit,
        "name": {"localizedValue": "Subnet size and usage", "value": "SubnetSpace"},
        "unit": "Count",
    }


def _free_ones(one: Subnet) -> list[str]:
    free = (address for address in one.cidr.hosts() if one.pool.refusal(address) is None)
    return [str(address) for address in itertools.islice(free, _SUGGESTIONS)]
