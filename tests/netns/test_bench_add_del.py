"""scripts/bench/add_del on the real thing, with few rounds, and what it takes for a leftover."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from providers.sim import netns
from providers.sim.bench_sides import PEER_PLUGINS, Attached, kernel_fault

pytestmark = pytest.mark.netns

SCRIPT = Path(__file__).parents[2] / "scripts" / "bench" / "add_del"
ROUNDS = 3
needs_peer = pytest.mark.skipif(
    not (PEER_PLUGINS / "ptp").exists(),
    reason=f"{PEER_PLUGINS}/ptp is missing: apt-get install containernetworking-plugins",
)


@cache
def finished() -> subprocess.CompletedProcess[str]:
    """One run for all tests: it starts a cloud and a node, which takes some ten seconds."""
    return subprocess.run(
        [str(SCRIPT), "--rows", "single,burst,memory", "-o", "json", "--rounds", str(ROUNDS)],
        capture_output=True, text=True, check=False, timeout=240,
    )  # fmt: skip


def document() -> dict[str, list[dict[str, Any]]]:
    said: dict[str, list[dict[str, Any]]] = json.loads(finished().stdout)
    return said


@needs_peer
def test_every_round_of_the_benchmark_is_verified_and_counts() -> None:
    done = finished()

    assert (done.returncode, done.stderr.count("not verified")) == (0, 0), done.stderr
    assert {row["rounds"] for row in document()["rows"]} == {ROUNDS}


@needs_peer
def test_the_document_has_a_row_for_each_verb_and_launcher() -> None:
    rows = document()["rows"]
    said = [(r["kind"], r["verb"], r["launcher"], r["pods"], r["mode"], r["peer"]) for r in rows]

    assert said == [
        *(
            ("single", verb, launcher, 10, "grouped", "ptp+host-local")
            for verb in ("ADD", "DEL")
            for launcher in ("c", "python")
        ),
        *(("burst", f"{v} x50", "c", 10, "grouped", "ptp+host-local") for v in ("ADD", "DEL")),
    ]


@needs_peer
def test_the_figures_of_a_row_belong_together() -> None:
    for row in document()["rows"]:
        assert 0 < row["median_ms"] <= row["p95_ms"], row
        assert row["ratio"] == pytest.approx(row["median_ms"] / row["peer_median_ms"], abs=0.001)


@needs_peer
def test_the_daemons_memory_is_told_at_rest_and_with_pods() -> None:
    said = [(m["process"], m["pods"]) for m in document()["memory"]]

    assert said == [("vpc-cnid", 0), ("ipamd", 0), ("vpc-cnid", 250), ("ipamd", 250)]
    assert all(0 < m["pss_mb"] <= m["rss_mb"] for m in document()["memory"])


def attached(address: str, host_link: str) -> Attached:
    return Attached(address=address, gateway="", host_link=host_link, document={})


@pytest.mark.parametrize(
    ("command", "named"),
    [
        ("ip link add eni9 type veth peer name eth9", "eni9"),
        ("ip route add 10.9.9.9 dev lo table 5120", "10.9.9.9"),
        ("ip rule add from 10.9.9.9 lookup 7", "10.9.9.9"),
    ],
    ids=["link", "route", "rule"],
)
def test_a_del_does_not_count_while_the_kernel_holds_something_of_the_pod(
    make_netns: Callable[[str], str], command: str, named: str
) -> None:
    path = make_netns("leftover")
    pod = attached("10.9.9.9", "eni9")

    def look() -> str:
        return kernel_fault(pod)

    netns.run_in(path, ["ip", "link", "set", "lo", "up"])
    before = netns.call_in(path, look)
    netns.run_in(path, command.split())

    assert (before, named in netns.call_in(path, look)) == ("", True)
