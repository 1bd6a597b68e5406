"""Both SDKs write one NIC at the same time: what If-Match saves, and what is lost without it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from azure.core.exceptions import HttpResponseError

from tests.sim.azure.judges import bodies, examples
from tests.sim.azure.judges.names import GROUP, NIC, SUBNET_ID
from tests.sim.azure.judges.old_sdk import OldSdk
from tests.sim.azure.judges.world import Door, World

# Enough for tens of lost races.
EACH = 15


@pytest.fixture
def nic(world: World, door: Door) -> World:
    """A NIC; nobody is throttled, because virtual time stands still during a race."""
    world.set_buckets("off")
    examples.put(door, bodies.first_nic())
    return world


def append(door: Door, names: list[str]) -> int:
    """What the older client's `append` does, with the newer SDK; how many writes lost a race."""
    lost = 0
    for name in names:
        while not appended(door, name):
            lost += 1
            assert lost < 1000, f"{name} never won"
    return lost


def appended(door: Door, name: str) -> bool:
    nic = door.network.network_interfaces.get(GROUP, NIC)
    try:
        put(door, nic, name, headers={"If-Match": nic.etag})
    except HttpResponseError as error:
        if error.status_code != 412:
            raise
        return False
    return True


def put(door: Door, nic: Any, name: str, **more: Any) -> None:
    nic.ip_configurations.append({"name": name, "properties": {"subnet": {"id": SUBNET_ID}}})
    door.network.network_interfaces.begin_create_or_update(GROUP, NIC, nic, **more).result()


def names_of(world: World) -> list[str]:
    (nic,) = world.state.nics.values()
    return [config.name for config in nic.configs]


def test_with_if_match_no_update_of_either_client_is_lost(
    nic: World, door: Door, old: OldSdk
) -> None:
    theirs, ours = ([f"{who}-{number}" for number in range(EACH)] for who in ("old", "new"))
    with ThreadPoolExecutor(2) as pool:
        lost = [
            pool.submit(old.ask, "append", group=GROUP, name=NIC, configs=theirs),
            pool.submit(append, door, ours),
        ]
    assert sorted(names_of(nic)) == sorted(["ipconfig1", *theirs, *ours])
    refused = sum(future.result() for future in lost)
    assert nic.arm.refused == ({"PreconditionFailed": refused} if refused else {})


def test_an_update_between_read_and_write_of_the_other_client_is_refused_to_it(
    nic: World, door: Door, old: OldSdk
) -> None:
    read = door.network.network_interfaces.get(GROUP, NIC)
    old.ask("add_config", group=GROUP, name=NIC, config="old", etag=read.etag)
    with pytest.raises(HttpResponseError) as refused:
        put(door, read, "new", headers={"If-Match": read.etag})
    assert refused.value.status_code == 412
    assert refused.value.error and refused.value.error.code == "PreconditionFailed"
    assert names_of(nic) == ["ipconfig1", "old"]


def test_without_if_match_the_last_writer_wins(nic: World, door: Door, old: OldSdk) -> None:
    read = door.network.network_interfaces.get(GROUP, NIC)
    old.ask("add_config", group=GROUP, name=NIC, config="old")
    put(door, read, "new")
    assert names_of(nic) == ["ipconfig1", "new"]
