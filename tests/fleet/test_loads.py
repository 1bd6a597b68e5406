"""The loads are what they say: who starts where, when, and never more than a node can carry."""

from __future__ import annotations

import pytest

from scripts.bench.fleet_sim import loads
from scripts.bench.fleet_sim.loads import FOREVER, Load
from scripts.bench.fleet_sim.shapes import HOST_NETWORK_PODS


def most_at_once(load: Load, node: int) -> int:
    """The most pods that a node has at any moment of the load."""
    pods = [p for p in load.pods if p.node == node]
    moments = [p.starts_at for p in pods]
    return max(sum(p.starts_at <= t < p.ends_at for p in pods) for t in moments)


@pytest.mark.parametrize("name", loads.names())
def test_no_node_gets_more_pods_than_its_type_carries(name: str) -> None:
    load = loads.make(name, nodes=2, seed=3)
    room = load.node_type.max_pods(use_prefixes=load.setting.use_prefixes) - HOST_NETWORK_PODS
    assert all(most_at_once(load, node) <= room for node in range(2))


@pytest.mark.parametrize("name", loads.names())
def test_the_seed_decides_the_load(name: str) -> None:
    assert loads.make(name, nodes=2, seed=3) == loads.make(name, nodes=2, seed=3)


def test_another_seed_is_another_load() -> None:
    name = "churn/m5.large/default"
    assert loads.make(name, nodes=1, seed=3).pods != loads.make(name, nodes=1, seed=4).pods


def test_a_burst_comes_at_once_and_stays() -> None:
    load = loads.make("burst/m5.large/default", nodes=3, seed=1)
    assert {(p.starts_at, p.ends_at) for p in load.pods} == {(0.0, FOREVER)}
    assert len(load.pods) == 3 * 20


def test_a_rollout_replaces_every_pod_twice() -> None:
    load = loads.make("rolling/m5.large/default", nodes=1, seed=1)
    assert len(load.pods) == 3 * 16
    assert sum(p.ends_at == FOREVER for p in load.pods) == 16


def test_a_replaced_pod_goes_after_its_successor_came() -> None:
    load = loads.make("rolling/m5.large/default", nodes=1, seed=1)
    starts = {round(p.starts_at, 6) for p in load.pods}
    assert all(round(p.ends_at - 10.0, 6) in starts for p in load.pods if p.ends_at != FOREVER)


def test_churn_stays_around_its_level() -> None:
    load = loads.make("churn/c5.4xlarge/default", nodes=20, seed=1)
    there = [
        sum(p.starts_at <= t < p.ends_at for p in load.pods) / 20
        for t in (0.0, 900.0, 1800.0, 2700.0, 3500.0)
    ]
    # Poisson around 54: the mean of 20 nodes has a standard deviation of 1.6.
    assert all(abs(mean - load.pods_per_node) < 6.5 for mean in there)


def test_a_shortened_load_ends_earlier() -> None:
    load = loads.make("rolling/m5.large/default", nodes=4, seed=1, seconds=300.0)
    assert load.seconds == 300.0
    assert max(p.starts_at for p in load.pods) < 300.0


@pytest.mark.parametrize(
    "name", ["storm/m5.large/default", "burst/t2.nano/default", "burst/m5.large/x"]
)
def test_an_unknown_load_is_refused(name: str) -> None:
    with pytest.raises(KeyError):
        loads.make(name, nodes=1, seed=1)
