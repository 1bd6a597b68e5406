"""Machines with everything that the examples and recordings of Microsoft.Compute show.

Put into the emulator's memory as a deployment would; sizes, names and ids are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from providers.sim import arm_compute, arm_scale_sets
from providers.sim.arm_compute_records import Mode, ScaleSet
from providers.sim.azure_world import AzureWorld
from tests.sim.azure.judges.names import (
    BALANCER,
    COMPUTE,
    NIC_ID,
    SET_ID,
    SET_NIC,
    SUBNET_ID,
    VM_ID,
)

Json = dict[str, Any]
SIZE = "Standard_D4s_v5"
USER_DATA = "anVkZ2Vk"
_NO_TAGS: Mapping[str, str] = {}


def add_scale_set(
    azure: AzureWorld, profile: Json, *, instances: int = 1, tags: Mapping[str, str] = _NO_TAGS
) -> None:
    """A Uniform set behind a balancer, and its instances 0, 1, ..."""
    made = ScaleSet(
        set_id=SET_ID,
        size=SIZE,
        mode=Mode.UNIFORM,
        etag=azure.compute.new_etag(),
        document={"properties": {"virtualMachineProfile": profile}},
        tags=tags,
    )
    azure.compute.put(made)
    for _ in range(instances):
        arm_scale_sets.make_instance(azure.compute, azure.compute.scale_set(SET_ID))


def profile_of_2019() -> Json:
    """What the set of the recording test_vmss_nics was made with."""
    accelerated = {"enableAcceleratedNetworking": False}
    return _profile(_storage("set", has_data_disk=False, is_exact=False), accelerated)


def profile_of_2022() -> Json:
    """What the instance of the recording test_vmss_update was like."""
    made = _profile(_storage("set", has_data_disk=False), {})
    made["osProfile"]["windowsConfiguration"]["enableVMAgentPlatformUpdates"] = False
    protection = {"protectFromScaleIn": True, "protectFromScaleSetActions": True}
    return {
        **made,
        "licenseType": "Windows_Server",
        "hardwareProfile": {"vmSize": SIZE},
        "protectionPolicy": protection,
    }


def profile_of_example() -> Json:
    """What the published example of VirtualMachineScaleSetVMs_Get shows."""
    made = _profile(_storage("set", has_data_disk=True), {"enableAcceleratedNetworking": False})
    return {
        **made,
        "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        "userData": USER_DATA,
    }


def add_vm(azure: AzureWorld) -> None:
    """A VM with the NIC of `NIC_ID`, which exists, and with what its example has."""
    properties = {
        "storageProfile": _storage("vm", has_data_disk=True),
        "osProfile": _os("vm1"),
        "diagnosticsProfile": {
            "bootDiagnostics": {"enabled": True, "storageUri": "https://disks.example"}
        },
        "userData": USER_DATA,
        "extensionsTimeBudget": "PT50M",
        "availabilitySet": {"id": f"{COMPUTE}/availabilitySets/set"},
        "proximityPlacementGroup": {"id": f"{COMPUTE}/proximityPlacementGroups/near"},
        "applicationProfile": {
            "galleryApplications": [
                {
                    "tags": "judged",
                    "order": 1,
                    "packageReferenceId": f"{COMPUTE}/galleries/g/applications/a/versions/1.0",
                    "configurationReference": "https://disks.example/settings",
                }
            ]
        },
    }
    arm_compute.make_vm(
        azure.compute,
        VM_ID,
        [NIC_ID],
        tags={"myTag1": "judged"},
        document={"properties": properties},
    )


def _profile(storage: Json, of_nic: Json) -> Json:
    os_profile = {
        **_os("judged"),
        "allowExtensionOperations": True,
        "requireGuestProvisionSignal": True,
    }
    network = {"networkInterfaceConfigurations": [_nic_configuration(of_nic)]}
    return {"storageProfile": storage, "osProfile": os_profile, "networkProfile": network}


def _storage(name: str, *, has_data_disk: bool, is_exact: bool = True) -> Json:
    image = {"publisher": "judges", "offer": "node", "sku": "one", "version": "1.2.3"}
    exact = {"exactVersion": "1.2.3"} if is_exact else {}
    data = [{"lun": 1, "toBeDetached": False, **_disk(f"{name}-data", "Empty")}]
    return {
        "imageReference": {**image, **exact},
        "osDisk": {"osType": "Linux", **_disk(f"{name}-os", "FromImage")},
        "dataDisks": data if has_data_disk else [],
    }


def _disk(name: str, create: str) -> Json:
    disk_id = f"{COMPUTE}/disks/{name}"
    return {
        "name": name,
        "createOption": create,
        "caching": "ReadWrite",
        "managedDisk": {"storageAccountType": "Premium_LRS", "id": disk_id},
        "diskSizeGB": 127,
    }


def _os(name: str) -> Json:
    return {
        "computerName": name,
        "adminUsername": "judge",
        "windowsConfiguration": {"provisionVMAgent": True, "enableAutomaticUpdates": True},
        "secrets": [],
    }


def _nic_configuration(more: Json) -> Json:
    config = {
        "name": "ipconfig1",
        "properties": {
            "subnet": {"id": SUBNET_ID},
            "privateIPAddressVersion": "IPv4",
            "loadBalancerBackendAddressPools": [{"id": f"{BALANCER}/backendAddressPools/pool"}],
            "loadBalancerInboundNatPools": [{"id": f"{BALANCER}/inboundNatPools/ssh"}],
        },
    }
    return {
        "name": SET_NIC,
        "properties": {
            "primary": True,
            "enableIPForwarding": False,
            "dnsSettings": {"dnsServers": []},
            "ipConfigurations": [config],
            **more,
        },
    }
