"""Recorded traffic of Azure CLI's tests against the emulated ARM: sequence, shapes and headers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from providers.sim.arm_behaviour import Behaviour
from tests.sim.azure.judges.replay import Exchange, Replay, differences
from tests.sim.azure.judges.sequences import (
    SEQUENCES,
    TARGETS,
    WITH_GROUPS,
    adding,
    addresses,
    first,
    shorthand,
    with_groups,
    write_of_an_instance,
)
from tests.sim.azure.judges.world import World


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_a_recorded_sequence_is_answered_as_it_was(
    sequence: Callable[[World], list[Exchange]], world: World
) -> None:
    found = [each for exchange in sequence(world) for each in differences(exchange)]
    assert [each.text for each in found if not each.is_excused] == []


def test_addresses_are_the_lowest_free_ones_and_those_that_stay_are_kept(world: World) -> None:
    *_, all_five, _, _, two_left = shorthand(world)
    assert addresses(all_five) == [f"10.0.0.{host}" for host in (4, 5, 6, 7, 8)]
    assert addresses(two_left) == ["10.0.0.4", "10.0.0.7"]


@pytest.fixture
def slow(world: World) -> World:
    """A world in which a write takes a while, as that of the groups did when it was recorded."""
    world.state.behaviour = Behaviour(write_seconds=3.0, retry_after_seconds=0)
    return world


def test_a_nic_answered_as_updating_has_another_etag_when_it_has_succeeded(slow: World) -> None:
    *_, put, _, read = with_groups(slow, settle_seconds=3.0)
    assert (put.state, read.state) == ("Updating", "Succeeded")
    assert put.etag != read.etag == read.headers["etag"]


def test_a_nic_answered_as_succeeded_keeps_its_etag(world: World) -> None:
    _, put, _, read, *_ = with_groups(world)
    assert (put.state, read.state) == ("Succeeded", "Succeeded")
    assert put.etag == read.etag == read.headers["etag"]


def test_a_write_with_an_etag_that_is_not_the_nics_is_refused_as_recorded(world: World) -> None:
    Replay(world, TARGETS).play(WITH_GROUPS, [first, adding("ipconfig2"), adding("ipconfig3")])
    replay = Replay(world, TARGETS, headers={"if-match": "dummy"})
    (refused,) = replay.play("test_dns_zone_update_if_match", [first])
    assert refused.status == 412
    assert refused.said["error"]["code"] == "PreconditionFailed"


def test_a_write_of_an_instance_is_updating_until_its_operation_ends(world: World) -> None:
    before, put, operation, after = write_of_an_instance(world)
    states = [one.state for one in (before, put, operation, after)]
    assert states == ["Succeeded", "Updating", "Succeeded", "Succeeded"]


def test_a_write_of_an_instance_that_goes_well_tells_of_an_empty_queue(world: World) -> None:
    _, put, _, _ = write_of_an_instance(world)
    said = put.headers["x-ms-ratelimit-remaining-resource"].split(",")
    assert "Microsoft.Compute/VmssQueuedVMOperations;0" in said
