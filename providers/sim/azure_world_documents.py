"""The documents that machines of the lab are made by, and where they are: pure."""

from __future__ import annotations

from typing import Any

from providers.sim.arm_errors import JsonObject
from providers.sim.arm_state import LOCATION

# Invented: nobody's subscription.
SUBSCRIPTION = "00000000-0000-0000-0000-00000000c10d"
RESOURCE_GROUP = "lab"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{RESOURCE_GROUP}/providers"


def nic_document(subnet_id: str) -> JsonObject:
    """The body that makes a NIC with one dynamic address."""
    config = {"name": "ipconfig1", "properties": {"primary": True, "subnet": {"id": subnet_id}}}
    return {"location": LOCATION, "properties": {"ipConfigurations": [config]}}


def scale_set_document(name: str, subnet_id: str, nics: int) -> JsonObject:
    """A scale set's document: NICs `<name>-nic-<n>` with one configuration each, and a disk image.

    The image is of a gallery, as that of AKS nodes is.
    """
    gallery = f"{GROUP}/Microsoft.Compute/galleries/images/images/node/versions/1.0.0"
    configs: list[dict[str, Any]] = [
        {
            "name": f"{name}-nic-{place}",
            "properties": {
                "primary": place == 0,
                "enableAcceleratedNetworking": False,
                "enableIPForwarding": False,
                "dnsSettings": {"dnsServers": []},
                "ipConfigurations": [
                    {
                        "name": "ipconfig1",
                        "properties": {
                            "primary": True,
                            "subnet": {"id": subnet_id},
                            "privateIPAddressVersion": "IPv4",
                        },
                    }
                ],
            },
        }
        for place in range(nics)
    ]
    profile = {
        "storageProfile": {
            "imageReference": {"id": gallery},
            "osDisk": {"osType": "Linux", "createOption": "FromImage", "caching": "ReadOnly"},
        },
        "networkProfile": {"networkInterfaceConfigurations": configs},
    }
    policy = {"mode": "Manual"}
    return {"properties": {"virtualMachineProfile": profile, "upgradePolicy": policy}}


def vm_document(name: str) -> JsonObject:
    """What is known of a VM beside its NICs and its size."""
    return {
        "properties": {
            "osProfile": {"computerName": name},
            "storageProfile": {"osDisk": {"osType": "Linux", "createOption": "FromImage"}},
        }
    }
