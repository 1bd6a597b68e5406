"""The VPC's networks from the metadata service: new ones at once, vanished ones not on one word."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest

from ipamd.model import IPNetwork
from ipamd.pool.hint import VpcNetworks
from tests.engine import Engine
from tests.unit.test_engine import play, settle
from tests.virtual_time import VirtualLoop

FIRST, SECOND = IPv4Network("10.0.0.0/16"), IPv4Network("100.64.0.0/16")
SIX = IPv6Network("2001:db8::/56")

Readings = list[tuple[float, tuple[IPNetwork, ...]]]

READINGS: dict[str, tuple[Readings, set[IPNetwork]]] = {
    "a new one holds at once": ([(0, (FIRST, SECOND))], {FIRST, SECOND}),
    "of another family too": ([(0, (FIRST, SIX))], {FIRST, SIX}),
    "missing once it stays": ([(0, (FIRST, SECOND)), (60, (FIRST,))], {FIRST, SECOND}),
    "missing twice it goes": (
        [(0, (FIRST, SECOND)), (60, (FIRST,)), (120, (FIRST,))],
        {FIRST},
    ),
    "missing twice in a moment it stays": (
        [(0, (FIRST, SECOND)), (60, (FIRST,)), (89, (FIRST,))],
        {FIRST, SECOND},
    ),
    "seen between it stays": (
        [(0, (FIRST, SECOND)), (60, (FIRST,)), (120, (FIRST, SECOND)), (180, (FIRST,))],
        {FIRST, SECOND},
    ),
    "nothing shown says nothing": ([(0, (FIRST,)), (60, ()), (120, ())], {FIRST}),
    "all others in its place": ([(0, (FIRST,)), (60, (SECOND,)), (120, (SECOND,))], {SECOND}),
}


@pytest.mark.parametrize("name", READINGS)
def test_what_is_believed_after_some_readings(name: str) -> None:
    readings, expected = READINGS[name]
    networks = VpcNetworks()
    for now, shown in readings:
        networks = networks.after(shown, now=now)
    assert set(networks.known) == expected
    assert len(networks.known) == len(expected)


def test_a_running_node_follows_its_vpc_without_a_call_to_the_api(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(60.0)
        told: list[tuple[IPNetwork, ...]] = []
        engine.reconciler.listen(lambda: told.append(engine.reconciler.facts_needed().vpc_cidrs))
        looks = engine.cloud.calls["snapshot"]
        engine.cloud.cloud.vpc_cidrs = (FIRST, SECOND)
        await settle(91.0)
        assert told == [(FIRST, SECOND)]
        engine.cloud.cloud.vpc_cidrs = (FIRST,)
        await settle(91.0)
        assert told == [(FIRST, SECOND)], "one reading without it is no evidence"
        await settle(91.0)
        assert told == [(FIRST, SECOND), (FIRST,)]
        assert engine.cloud.calls["snapshot"] == looks

    play(tmp_path, scenario)


def test_pods_that_come_and_go_do_not_hide_a_new_network(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(60.0)
        engine.cloud.cloud.vpc_cidrs = (FIRST, SECOND)
        for n in range(12):  # each of them has the pool grow
            await engine.add(f"c{n}")
            await settle(10.0)
        assert engine.reconciler.facts_needed().vpc_cidrs == (FIRST, SECOND)

    play(tmp_path, scenario, WARM_IP_TARGET="1")
