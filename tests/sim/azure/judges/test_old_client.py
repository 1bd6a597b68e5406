"""An older pair of the SDK as second client of the emulated ARM, over TLS."""

from __future__ import annotations

import pytest

from providers.sim.arm_compute_state import Style
from tests.sim.azure.judges import bodies, machines
from tests.sim.azure.judges.examples import put
from tests.sim.azure.judges.names import GROUP, NIC, NIC_ID, SET, SET_NIC, VM_ID
from tests.sim.azure.judges.old_sdk import TREE, OldSdk, Refused
from tests.sim.azure.judges.shapes import disagreements, facts, leaves
from tests.sim.azure.judges.world import Door, World


@pytest.fixture
def nic(world: World, door: Door) -> World:
    """A VM's NIC, written by the newer SDK."""
    put(door, bodies.example_nic())
    world.state.attach(NIC_ID, VM_ID)
    return world


def config_names(nic: bodies.Json) -> list[str]:
    return [row["name"] for row in nic["properties"]["ipConfigurations"]]


def test_the_older_pair_is_really_the_older_one(old: OldSdk) -> None:
    versions = old.ask("versions")
    assert (versions["network"], versions["compute"]) == ("30.2.0", "37.2.0")
    assert versions["path"].startswith(str(TREE))


def test_the_older_models_find_every_member_of_the_published_example(
    nic: World, old: OldSdk
) -> None:
    wanted = facts("examples", example="NetworkInterfaceCreate", part="200")
    assert disagreements(wanted, old.ask("nic", group=GROUP, name=NIC)) == {}


@pytest.mark.parametrize("block", [False, True], ids=["an address", "a block"])
def test_the_older_sdk_adds_and_removes_a_configuration(
    block: bool, nic: World, old: OldSdk
) -> None:
    added = old.ask("add_config", group=GROUP, name=NIC, config="more", block=block)
    new = added["properties"]["ipConfigurations"][-1]["properties"]
    assert new["privateIPAddress"] == ("10.0.0.32/28" if block else "10.0.0.5")
    assert new["provisioningState"] == "Succeeded"
    left = old.ask("remove_config", group=GROUP, name=NIC, config="more")
    assert config_names(left) == ["ipconfig1", "ipconfig2"]


def test_the_older_sdk_is_told_that_its_etag_is_stale(nic: World, old: OldSdk) -> None:
    stale = old.ask("nic", group=GROUP, name=NIC)["etag"]
    old.ask("add_config", group=GROUP, name=NIC, config="one", etag=stale)
    with pytest.raises(Refused) as refused:
        old.ask("add_config", group=GROUP, name=NIC, config="two", etag=stale)
    assert (refused.value.status, refused.value.code) == (412, "PreconditionFailed")
    shown = old.ask("nic", group=GROUP, name=NIC)
    assert config_names(shown) == ["ipconfig1", "ipconfig2", "one"]


@pytest.fixture
def instance(world: World) -> World:
    machines.add_scale_set(world, machines.profile_of_example())
    return world


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("put_status", [200, 202])
def test_the_older_sdk_follows_a_write_of_an_instance_to_its_end(
    style: Style, put_status: int, instance: World, old: OldSdk
) -> None:
    instance.set_compute_behaviour(style=style, put_status=put_status)
    before = old.ask("instance", group=GROUP, scale_set=SET, instance_id="0")
    assert before["properties"]["provisioningState"] == "Succeeded"
    ended = old.ask(
        "add_instance_config", group=GROUP, scale_set=SET, instance_id="0", config="more"
    )
    assert ended["status"] == "Succeeded"
    model = ended["model"]["properties"]["networkProfileConfiguration"]
    (nic,) = model["networkInterfaceConfigurations"]
    assert config_names(nic) == ["ipconfig1", "more"]


def test_the_older_sdk_sees_the_addresses_of_an_instance_in_the_nic_view_alone(
    instance: World, old: OldSdk
) -> None:
    old.ask("add_instance_config", group=GROUP, scale_set=SET, instance_id="0", config="more")
    (nic,) = old.ask("instance_nics", group=GROUP, scale_set=SET, instance_id="0")
    assert nic["name"] == SET_NIC
    configs = nic["properties"]["ipConfigurations"]
    assert [row["properties"]["privateIPAddress"] for row in configs] == ["10.0.0.4", "10.0.0.5"]
    model = old.ask("instance", group=GROUP, scale_set=SET, instance_id="0")
    assert not any(path.endswith(".privateIPAddress") for path in leaves(model))
