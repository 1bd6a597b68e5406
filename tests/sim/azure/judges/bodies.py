"""Requests as the examples and recordings have them: their members, our values."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

from tests.sim.azure.judges.names import (
    ASG_ID,
    BALANCER,
    NETWORK,
    NIC_ID,
    NSG_ID,
    PUBLIC_IP_ID,
    SET_ID,
    SET_NIC,
    SUBNET_ID,
)

Json = dict[str, Any]
CONFIG_TYPE = "Microsoft.Network/networkInterfaces/ipConfigurations"


def example_nic() -> Json:
    """The body of NetworkInterfaceCreate: one address with a public one, and a block."""
    return {
        "location": "westeurope",
        "properties": {
            "disableTcpStateTracking": True,
            "enableAcceleratedNetworking": True,
            "ipConfigurations": [
                {
                    "name": "ipconfig1",
                    "properties": {
                        "publicIPAddress": {"id": PUBLIC_IP_ID},
                        "subnet": {"id": SUBNET_ID},
                    },
                },
                {"name": "ipconfig2", "properties": {"privateIPAddressPrefixLength": 28}},
            ],
        },
    }


def balanced_config(name: str) -> Json:
    """The configuration of NetworkInterfaceIPConfigurationGet: behind a balancer, and tapped."""
    return {
        "name": name,
        "properties": {
            "subnet": {"id": SUBNET_ID},
            "loadBalancerBackendAddressPools": [{"id": f"{BALANCER}/backendAddressPools/pool"}],
            "loadBalancerInboundNatRules": [{"id": f"{BALANCER}/inboundNatRules/ssh"}],
            "virtualNetworkTaps": [{"id": f"{NETWORK}/virtualNetworkTaps/tap"}],
        },
    }


def example_instance() -> Json:
    """The body of VirtualMachineScaleSetVM_Update, as far as the tables have it."""
    config = {
        "name": "ipconfig1",
        "properties": {
            "subnet": {"id": SUBNET_ID},
            "privateIPAddressVersion": "IPv4",
            "primary": True,
            "publicIPAddressConfiguration": _PUBLIC,
            "applicationGatewayBackendAddressPools": [{"id": f"{BALANCER}/backendAddressPools/a"}],
            "applicationSecurityGroups": [{"id": ASG_ID}],
            "loadBalancerBackendAddressPools": [{"id": f"{BALANCER}/backendAddressPools/pool"}],
            "loadBalancerInboundNatPools": [{"id": f"{BALANCER}/inboundNatPools/ssh"}],
        },
    }
    nic = {
        "name": SET_NIC,
        "properties": {
            "primary": True,
            "enableAcceleratedNetworking": True,
            "enableIPForwarding": True,
            "enableFpga": True,
            "dnsSettings": {"dnsServers": []},
            "networkSecurityGroup": {"id": NSG_ID},
            "deleteOption": "Delete",
            "ipConfigurations": [config],
        },
    }
    attached = {
        "id": f"{SET_ID}/virtualMachines/0/networkInterfaces/{SET_NIC}",
        "properties": {"primary": True, "deleteOption": "Delete"},
    }
    return {
        "location": "westeurope",
        "tags": {},
        "properties": {
            "networkProfileConfiguration": {"networkInterfaceConfigurations": [nic]},
            "networkProfile": {"networkInterfaces": [attached], "networkApiVersion": "2020-11-01"},
            "hardwareProfile": {"vmSize": "Standard_D4s_v5"},
            "protectionPolicy": {"protectFromScaleIn": True, "protectFromScaleSetActions": True},
            "licenseType": "None",
            "userData": "anVkZ2Vk",
            "securityProfile": {"encryptionAtHost": True},
            "additionalCapabilities": {"ultraSSDEnabled": True},
        },
    }


_PUBLIC: Json = {
    "name": "public",
    "properties": {
        "idleTimeoutInMinutes": 18,
        "dnsSettings": {"domainNameLabel": "judged"},
        "ipTags": [{"ipTagType": "RoutingPreference", "tag": "Internet"}],
        "publicIPPrefix": {"id": f"{NETWORK}/publicIPPrefixes/prefix"},
        "publicIPAddressVersion": "IPv4",
        "deleteOption": "Delete",
    },
    "sku": {"name": "Standard", "tier": "Regional"},
}


def first_nic(name: str = "ipconfig1") -> Json:
    """A recorded `az network nic create`."""
    return {
        "location": "westeurope",
        "properties": {
            "ipConfigurations": [
                {
                    "name": name,
                    "properties": {
                        "privateIPAddressVersion": "IPv4",
                        "privateIPAllocationMethod": "Dynamic",
                        "subnet": {"id": SUBNET_ID},
                    },
                }
            ]
        },
    }


def nic_again(shown: Json, *, new: Iterable[str] = (), left_out: Iterable[str] = ()) -> Json:
    """A recorded `az network nic [ip-config] ...`: what was shown, in the members CLI keeps."""
    gone = set(left_out)
    kept = [
        _config_again(row)
        for row in shown["properties"]["ipConfigurations"]
        if row["name"] not in gone
    ]
    return {
        "id": NIC_ID,
        "location": shown["location"],
        "properties": {
            "dnsSettings": {"dnsServers": []},
            "enableIPForwarding": False,
            "nicType": "Standard",
            "ipConfigurations": [*kept, *(_new_config(name) for name in new)],
        },
    }


def grouped(body: Json) -> Json:
    """The same body with every configuration in one application security group."""
    for row in body["properties"]["ipConfigurations"]:
        row["properties"]["applicationSecurityGroups"] = [{"id": ASG_ID}]
    return body


def _config_again(row: Json) -> Json:
    names = ("primary", "privateIPAddress", "privateIPAddressVersion", "privateIPAllocationMethod")
    kept = {name: row["properties"][name] for name in names}
    return {
        "id": row["id"],
        "name": row["name"],
        "type": CONFIG_TYPE,
        "properties": {**kept, "subnet": {"id": SUBNET_ID}},
    }


def _new_config(name: str) -> Json:
    return {
        "name": name,
        "properties": {
            "primary": False,
            "privateIPAddressVersion": "IPv4",
            "privateIPAllocationMethod": "Dynamic",
            "subnet": {"id": SUBNET_ID},
        },
    }


def instance_again(shown: Json) -> Json:
    """A recorded `az vmss update --instance-id`: what was shown, without the image."""
    properties = shown["properties"]
    storage = {name: properties["storageProfile"][name] for name in ("osDisk", "dataDisks")}
    os_profile = copy.deepcopy(properties["osProfile"])
    del os_profile["windowsConfiguration"]["enableVMAgentPlatformUpdates"]  # newer than that CLI
    return {
        "location": shown["location"],
        "tags": {},
        "properties": {
            "storageProfile": storage,
            "osProfile": os_profile,
            "networkProfile": properties["networkProfile"],
            "networkProfileConfiguration": properties["networkProfileConfiguration"],
            "hardwareProfile": properties["hardwareProfile"],
            "licenseType": properties["licenseType"],
            "protectionPolicy": {"protectFromScaleIn": False, "protectFromScaleSetActions": False},
        },
    }
