"""The bound: what the buckets, the limits and the times alone allow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.bench.fleet_sim import chance, loads, oracle
from scripts.bench.fleet_sim.loads import FOREVER, Load, Pod

INSTANT = chance.Spread(median_seconds=1e-9, p99_seconds=1.1e-9)


@pytest.fixture(autouse=True)
def instant(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls and attaches take no time: what is left is the buckets'."""
    for name in ("ATTACH", "DETACH", "READ", "WRITE"):
        monkeypatch.setattr(chance, name, INSTANT)


def load(nodes: int, pods: int, *, setting: str = "default", ends: float = FOREVER) -> Load:
    """`pods` at once on each m5.large."""
    made = loads.make(f"burst/m5.large/{setting}", nodes=nodes, seed=1)
    return replace(
        made,
        pods=tuple(
            Pod(node=node, starts_at=0.0, ends_at=ends)
            for node in range(nodes)
            for _ in range(pods)
        ),
    )


def test_pods_that_the_warm_pool_carries_wait_for_nothing() -> None:
    outcome = oracle.run(load(500, 9), seed=1)
    assert (outcome.wait_max_s, outcome.calls) == (0.0, 0)


def test_500_attaches_take_the_bucket_90_seconds() -> None:
    """50 tokens, then 5 a second: the last of 500 has its token after 90 s."""
    outcome = oracle.run(load(500, 10), seed=1)
    assert outcome.wait_max_s == pytest.approx(90.0, abs=0.5)
    assert outcome.calls_by_api["AttachNetworkInterface"] == 500


def test_two_attaches_a_node_take_190_seconds() -> None:
    outcome = oracle.run(load(500, 20), seed=1)
    assert outcome.wait_max_s == pytest.approx(190.0, abs=0.5)
    assert outcome.calls == 4 * 1000


def test_the_fuller_eni_comes_first() -> None:
    """27 pods: 9 are warm, two ENIs of 9 follow; 20 pods: the second ENI serves 2 only."""
    few, many = oracle.run(load(100, 20), seed=1), oracle.run(load(100, 27), seed=1)
    assert few.wait_max_s == many.wait_max_s == pytest.approx(30.0, abs=0.5)
    assert few.wait_p50_s < many.wait_p50_s


def test_prefixes_come_with_one_assign_a_node() -> None:
    outcome = oracle.run(load(500, 81, setting="prefixes"), seed=1)
    assert outcome.calls_by_api == {"AssignPrivateIpAddresses": 500}
    assert outcome.wait_max_s == pytest.approx(80.0, abs=0.5)


def test_what_a_node_cannot_carry_is_never_served() -> None:
    outcome = oracle.run(load(1, 29), seed=1)
    assert outcome.pods_never_served == 2


def test_a_need_that_is_known_is_met_before_it_arises() -> None:
    made = load(20, 9)
    later = tuple(Pod(node=n, starts_at=60.0, ends_at=FOREVER) for n in range(20))
    outcome = oracle.run(replace(made, pods=made.pods + later), seed=1)
    assert (outcome.wait_max_s, outcome.calls_by_api["AttachNetworkInterface"]) == (0.0, 20)


def test_a_released_address_cools_for_the_oracle_too() -> None:
    made = load(1, 27, ends=100.0)
    later = tuple(Pod(node=0, starts_at=101.0, ends_at=FOREVER) for _ in range(27))
    outcome = oracle.run(replace(made, pods=made.pods + later), seed=1)
    assert outcome.wait_max_s == pytest.approx(29.0, abs=0.5)


def test_idle_is_what_is_held_and_not_used() -> None:
    """One ENI with 9 addresses, 4 of them used, for half an hour."""
    assert oracle.run(load(1, 4), seed=1).idle_address_hours == pytest.approx(2.5)
