"""Published API examples against the emulated ARM, through the newer SDK's own models."""

from __future__ import annotations

import pytest

from tests.sim.azure.judges import bodies
from tests.sim.azure.judges.examples import READS, dumped, furnish, paths, put, unexcused, update
from tests.sim.azure.judges.names import GROUP, NIC, SET
from tests.sim.azure.judges.shapes import leaves
from tests.sim.azure.judges.world import Door, World


@pytest.fixture
def furnished(world: World, door: Door) -> World:
    furnish(world, door)
    return world


@pytest.mark.parametrize("example", READS)
def test_an_answer_has_what_the_published_example_has(
    example: str, furnished: World, door: Door
) -> None:
    assert unexcused(example, "200", dumped(READS[example](door))) == {}


@pytest.mark.parametrize("part", ["201", "200"])
def test_a_nic_written_as_published_is_answered_as_published(
    part: str, world: World, door: Door
) -> None:
    body = bodies.example_nic()
    assert leaves(body) == paths("NetworkInterfaceCreate", "body")
    answer = put(door, body)
    if part == "200":
        answer = put(door, bodies.example_nic())
    assert [entry.status for entry in world.arm.log if entry.method == "PUT"][-1] == int(part)
    assert unexcused("NetworkInterfaceCreate", part, answer) == {}


def test_what_was_written_as_published_comes_back(world: World, door: Door) -> None:
    body = bodies.example_nic()
    put(door, body)
    read = door.network.network_interfaces.get(GROUP, NIC).as_dict()
    assert unexcused("NetworkInterfaceCreate", "body", read) == {}
    single, block = read["properties"]["ipConfigurations"]
    assert single["properties"]["privateIPAddress"] == "10.0.0.4"
    assert block["properties"]["privateIPAddress"] == "10.0.0.16/28"


def test_an_instance_written_as_published_comes_back(furnished: World, door: Door) -> None:
    body = bodies.example_instance()
    assert leaves(body) == paths("VirtualMachineScaleSetVM_Update", "body")
    answer = update(door, body)
    assert unexcused("VirtualMachineScaleSetVM_Update", "200", answer) == {}
    read = door.compute.virtual_machine_scale_set_vms.get(GROUP, SET, "0").as_dict()
    assert unexcused("VirtualMachineScaleSetVM_Update", "body", read) == {}
