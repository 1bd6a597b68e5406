"""NICs as Microsoft.Network shows them (azure-rest-api-specs, examples NetworkInterface*.json).

What the client sent comes back with it, unknown fields too; over that lies what the service says.
A scale set's NIC has no type, no location and no kind (azure-cli recording `test_vmss_nics`).
"""

from __future__ import annotations

import copy

from providers.sim.arm_errors import JsonObject
from providers.sim.arm_records import BLOCK_LENGTH, Nic, NicConfig
from providers.sim.arm_state import ArmState

NIC_TYPE = "Microsoft.Network/networkInterfaces"
CONFIG_TYPE = f"{NIC_TYPE}/ipConfigurations"
# azure-cli #30837: the length came with this version of Microsoft.Network.
FIRST_WITH_LENGTH = "2023-11-01"
# Invented, in the shape of Azure's: a label of 26 characters, then this domain.
_SUFFIX = "sim0azure0emulated0suffix0.ax.internal.cloudapp.net"


def nic(state: ArmState, one: Nic, api_version: str) -> JsonObject:
    """The NIC as GET and PUT answer with it."""
    document = copy.deepcopy(one.document)
    properties = document.pop("properties", {})
    dns = properties.pop("dnsSettings", None) or {}
    shown: JsonObject = {"name": one.name, "id": one.nic_id, "etag": one.etag}
    if not one.is_of_scale_set:
        shown |= {"type": NIC_TYPE, "location": one.location, "kind": "Regular"}
    shown |= document
    shown["properties"] = {
        "enableAcceleratedNetworking": False,
        "enableIPForwarding": False,
        "disableTcpStateTracking": False,
        "nicType": "Standard",
        "auxiliaryMode": "None",
        "auxiliarySku": "None",
        **properties,
        "provisioningState": one.state.value,
        "resourceGuid": one.guid,
        "ipConfigurations": [config(state, one, each, api_version) for each in one.configs],
        "dnsSettings": {
            "dnsServers": [],
            **dns,
            "appliedDnsServers": dns.get("dnsServers") or [],
            "internalDomainNameSuffix": _SUFFIX,
        },
        "hostedWorkloads": [],
        "tapConfigurations": [],
        "vnetEncryptionSupported": False,
        **_attachment(one),
    }
    return shown


def config(state: ArmState, one: Nic, each: NicConfig, api_version: str) -> JsonObject:
    """One ipConfiguration; its etag is the NIC's."""
    document = copy.deepcopy(each.document)
    properties = document.pop("properties", {})
    shown: JsonObject = {
        **document,
        "name": each.name,
        "id": f"{one.nic_id}/ipConfigurations/{each.name}",
        "etag": one.etag,
    }
    if not one.is_of_scale_set:
        shown["type"] = CONFIG_TYPE
    shown["properties"] = {
        "privateIPAddressVersion": "IPv4",
        **properties,
        "provisioningState": each.state.value,
        **_address(state, each, api_version),
        "privateIPAllocationMethod": "Static" if each.is_static else "Dynamic",
        "primary": each.is_primary,
        "subnet": {"id": state.subnet(each.subnet_key).subnet_id},
    }
    return shown


def _address(state: ArmState, each: NicConfig, api_version: str) -> JsonObject:
    if not each.is_block:
        return {"privateIPAddress": str(each.address)}
    if api_version[:10] >= FIRST_WITH_LENGTH:
        return {"privateIPAddress": str(each.cidr), "privateIPAddressPrefixLength": BLOCK_LENGTH}
    has_suffix = state.behaviour.shows_suffix_to_old
    return {"privateIPAddress": str(each.cidr if has_suffix else each.address)}


def _attachment(one: Nic) -> JsonObject:
    """What a NIC has from its first attach on, and while it is attached."""
    shown: JsonObject = {"macAddress": one.mac} if one.mac else {}
    if one.vm_id:
        shown |= {"primary": one.device_index == 0, "virtualMachine": {"id": one.vm_id}}
    return shown
