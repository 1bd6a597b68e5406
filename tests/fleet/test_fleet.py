"""Small fleets end to end: all three sides, the report, and one result for one seed."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.bench.fleet_sim import chance, loads, plot, report, sides
from scripts.bench.fleet_sim.chance import Spread
from scripts.bench.fleet_sim.meter import Outcome

ROOT = Path(__file__).resolve().parents[2]

SMALL = Outcome(
    wait_p50_s=1.0,
    wait_p99_s=10.0,
    wait_max_s=12.0,
    pods=100,
    pods_never_served=0,
    calls=100,
    calls_by_api={"AttachNetworkInterface": 10, "DescribeSubnets": 90},
    throttled=3,
    idle_address_hours=50.0,
)


def small(name: str, side: str) -> Outcome:
    return sides.run(name, side, nodes=3, seed=5, seconds=300.0)


@pytest.mark.parametrize("side", list(sides.SIDES))
@pytest.mark.parametrize("name", loads.names())
def test_every_pod_is_served(name: str, side: str) -> None:
    outcome = small(name, side)
    assert outcome.pods_never_served == 0
    assert outcome.wait_p50_s <= outcome.wait_p99_s <= outcome.wait_max_s < 200.0


@pytest.mark.parametrize("side", list(sides.SIDES))
def test_equal_seeds_give_equal_figures(side: str) -> None:
    name = "burst/m5.large/default"
    assert small(name, side) == small(name, side)


@pytest.mark.parametrize("name", [n for n in loads.names() if n.startswith("burst/")])
def test_no_side_waits_less_than_the_bound(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where times vary, who asks for more ENIs than it needs may have one sooner.
    monkeypatch.setattr(chance, "ATTACH", Spread(median_seconds=3.0, p99_seconds=3.0001))
    waits = {side: small(name, side).wait_p99_s for side in sides.SIDES}
    assert waits["oracle"] <= min(waits["ours"], waits["peer"]) + 0.1


def test_both_sides_meet_the_same_pods() -> None:
    pods = {small("churn/m5.large/targets", side).pods for side in sides.SIDES}
    assert len(pods) == 1


@pytest.mark.parametrize(
    ("load", "ours", "expected"),
    [
        pytest.param("burst/m5.large/default", {}, (True, False, True), id="equal to the peer"),
        pytest.param(
            "burst/m5.large/default", {"calls": 70}, (True, True, True), id="0.7 of its calls"
        ),
        pytest.param("churn/m5.large/default", {"calls": 34}, (True, False, True), id="churn, 34"),
        pytest.param("churn/m5.large/default", {"calls": 33}, (True, True, True), id="churn, 33"),
        pytest.param(
            "burst/m5.large/default",
            {"wait_p99_s": 10.2},
            (False, False, True),
            id="above the peer's wait",
        ),
        pytest.param(
            "burst/m5.large/default",
            {"idle_address_hours": 50.1},
            (True, False, False),
            id="more idle",
        ),
    ],
)
def test_goals(load: str, ours: dict[str, Any], expected: tuple[bool, bool, bool]) -> None:
    judged = report.goals(load, {"ours": replace(SMALL, **ours), "peer": SMALL, "oracle": SMALL})
    assert (judged.wait, judged.calls, judged.idle) == expected


def test_a_wait_within_a_fifth_of_the_bound_is_met() -> None:
    slow = replace(SMALL, wait_p99_s=100.0)
    judged = [
        report.goals(
            "burst/x/y", {"ours": replace(SMALL, wait_p99_s=w), "peer": slow, "oracle": SMALL}
        )
        for w in (12.0, 12.1)
    ]
    assert [j.wait for j in judged] == [True, False]


def test_without_enis_there_is_no_goal_for_calls() -> None:
    oracle = replace(SMALL, calls_by_api={"AssignPrivateIpAddresses": 1})
    judged = report.goals("burst/x/y", {"ours": SMALL, "peer": SMALL, "oracle": oracle})
    assert judged.calls is None


def test_the_json_has_every_side_of_every_load() -> None:
    results = {"burst/m5.large/default": dict.fromkeys(sides.SIDES, SMALL)}
    document = json.loads(report.as_json(results, nodes=3, seed=5))
    figures = document["loads"]["burst/m5.large/default"]
    assert set(figures) == {"ours", "peer", "oracle"}
    assert set(figures["ours"]) >= {
        "wait_p50_s",
        "wait_p99_s",
        "calls",
        "calls_by_api",
        "throttled",
        "idle_address_hours",
    }


def test_the_plot_has_a_bar_for_every_figure() -> None:
    results = {name: dict.fromkeys(sides.SIDES, SMALL) for name in loads.names()}
    drawn = ET.fromstring(plot.as_svg(results, title="a <test>"))
    bars = [r for r in drawn.iter("{http://www.w3.org/2000/svg}rect") if len(r)]
    assert len(bars) == len(results) * 3 * len(plot.PANELS)


def test_the_command_says_which_loads_there_are() -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "scripts.bench.fleet_sim", "--only", "storm"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert asked.returncode == 2
    assert "burst/m5.large/default" in asked.stderr


def test_the_command_prints_one_row_a_load() -> None:
    arguments = ["--nodes", "2", "--only", "burst/m5.large/*", "--jobs", "1"]
    asked = subprocess.run(
        [sys.executable, "-m", "scripts.bench.fleet_sim", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(asked.stdout.splitlines()) == 2 + 3
    assert asked.stderr.count("\n") == 9
