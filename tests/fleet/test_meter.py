"""Percentiles, and addresses held idle over time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench.fleet_sim.meter import Meter, percentile


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        pytest.param([], 0.99, 0.0, id="of nothing"),
        pytest.param([5.0], 0.5, 5.0, id="of one"),
        pytest.param([float(n) for n in range(1, 101)], 0.99, 99.0, id="99 of 100"),
        pytest.param([float(n) for n in range(1, 101)], 0.50, 50.0, id="half of 100"),
        pytest.param([1.0, 2.0, 3.0], 1.0, 3.0, id="the largest"),
    ],
)
def test_percentile(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


@given(
    st.lists(st.floats(0, 1e6), min_size=1, max_size=300).map(sorted),
    st.sampled_from([0.5, 0.9, 0.99, 1.0]),
)
def test_no_more_than_the_rest_exceed_a_percentile(values: list[float], share: float) -> None:
    found = percentile(values, share)
    assert sum(v > found for v in values) <= len(values) * (1 - share) + 1e-6


def test_idle_is_what_is_held_and_not_used_over_time() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.hold(10)
    clock.now = 1800.0
    meter.use(4)
    clock.now = 5400.0
    assert meter.outcome(never_served=[]).idle_address_hours == pytest.approx(5.0 + 6.0)


def test_what_was_before_the_start_does_not_count_but_stays_held() -> None:
    clock = Clock()
    meter = Meter(clock=clock)
    meter.hold(10)
    meter.calls["DescribeSubnets"] += 3
    meter.waits.append(7.0)
    clock.now = 3600.0
    meter.start()
    clock.now = 7200.0
    outcome = meter.outcome(never_served=[])
    assert (outcome.calls, outcome.pods) == (0, 0)
    assert outcome.idle_address_hours == pytest.approx(10.0)


def test_a_pod_that_was_never_served_waited_all_the_same() -> None:
    meter = Meter(clock=Clock())
    meter.waits.append(1.0)
    outcome = meter.outcome(never_served=[600.0])
    assert (outcome.wait_p99_s, outcome.pods_never_served) == (600.0, 1)
