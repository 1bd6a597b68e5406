"""The requests of the published examples, and how the answers differ from those."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.sim.azure.judges import bodies, machines
from tests.sim.azure.judges.names import GROUP, NIC, NSG_ID, SET, SET_NIC, VNET
from tests.sim.azure.judges.shapes import disagreements, excused, facts
from tests.sim.azure.judges.world import Door, World

Ask = Callable[[Door], Any]

READS: dict[str, Ask] = {
    "NetworkInterfaceGet": lambda door: door.network.network_interfaces.get(GROUP, NIC),
    "NetworkInterfaceList": lambda door: door.network.network_interfaces.list(GROUP),
    "NetworkInterfaceIPConfigurationGet": lambda door: (
        door.network.network_interface_ip_configurations.get(GROUP, NIC, "ipconfig1")
    ),
    "NetworkInterfaceIPConfigurationList": lambda door: (
        door.network.network_interface_ip_configurations.list(GROUP, NIC)
    ),
    "VirtualNetworkListUsage": lambda door: door.network.virtual_networks.list_usage(GROUP, VNET),
    "VirtualNetworkCheckIPAddressAvailability": lambda door: (
        door.network.virtual_networks.check_ip_address_availability(
            GROUP, VNET, ip_address="10.0.0.4"
        )
    ),
    "SubnetGet": lambda door: door.network.subnets.get(GROUP, VNET, "nodes"),
    "VirtualNetworkGet": lambda door: door.network.virtual_networks.get(GROUP, VNET),
    "VirtualMachine_Get": lambda door: door.compute.virtual_machines.get(GROUP, "vm1"),
    "VirtualMachineScaleSetVM_Get": lambda door: door.compute.virtual_machine_scale_set_vms.get(
        GROUP, SET, "0", expand="userData"
    ),
    "VmssNetworkInterfaceIpConfigGet": lambda door: (
        door.network.network_interfaces.get_virtual_machine_scale_set_ip_configuration(
            GROUP, SET, "0", SET_NIC, "ipconfig1"
        )
    ),
    "VmssNetworkInterfaceIpConfigList": lambda door: (
        door.network.network_interfaces.list_virtual_machine_scale_set_ip_configurations(
            GROUP, SET, "0", SET_NIC
        )
    ),
}


def differences(example: str, part: str, answer: Any) -> dict[str, str]:
    """By path, what of an answer is not as published, excused or not."""
    return disagreements(facts("examples", example=example, part=part), answer)


def unexcused(example: str, part: str, answer: Any) -> dict[str, str]:
    found = differences(example, part, answer)
    return {path: problem for path, problem in found.items() if path not in excused(example)}


def dumped(answer: Any) -> Any:
    """What the SDK made of an answer: a model, or the pages of a list put together."""
    if hasattr(answer, "as_dict"):
        return answer.as_dict()
    return {"value": [one.as_dict() for one in answer]}


def paths(example: str, part: str) -> frozenset[str]:
    return frozenset(fact.path for fact in facts("examples", example=example, part=part))


def put(door: Door, body: Any) -> Any:
    nics = door.network.network_interfaces
    return nics.begin_create_or_update(GROUP, NIC, body).result().as_dict()


def update(door: Door, body: Any) -> Any:
    instances = door.compute.virtual_machine_scale_set_vms
    return instances.begin_update(GROUP, SET, "0", body).result().as_dict()


def furnish(world: World, door: Door) -> None:
    """A VM, its NIC, and an instance of a scale set, with everything that the examples have."""
    body = bodies.example_nic()
    body["properties"]["networkSecurityGroup"] = {"id": NSG_ID}
    first = body["properties"]["ipConfigurations"][0]["properties"]
    first |= bodies.balanced_config("ipconfig1")["properties"]
    put(door, body)
    machines.add_vm(world)
    machines.add_scale_set(world, machines.profile_of_example(), tags={"myTag1": "judged"})
