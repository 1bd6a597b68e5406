"""A benchmark's arithmetic, and its rule that only verified rounds count."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from providers.sim import bench_add_del, bench_statistics
from providers.sim.bench_kinds import KINDS
from providers.sim.bench_rounds import Rounds, interleaved, stand
from providers.sim.bench_sides import Side, Timing, lines_naming
from providers.sim.bench_spawn import timed_run
from providers.sim.bench_statistics import Pair, Row
from providers.sim.runtime import Pod


def row_of(*pairs: tuple[float, float]) -> Row:
    measured = [Pair(ours_ms=ours, peer_ms=peer) for ours, peer in pairs]
    return bench_statistics.row(
        measured, kind="single", verb="ADD", launcher="c", pods=10, mode="grouped", peer="ptp"
    )


@pytest.mark.parametrize(
    ("values", "expected"),
    [(range(1, 101), 95), (range(1, 11), 10), (range(1, 21), 19), ([7.0], 7.0), ([3, 1, 2], 3)],
    ids=["a hundred", "ten", "twenty", "one", "unsorted"],
)
def test_p95_is_the_value_of_nearest_rank(values: list[float], expected: float) -> None:
    assert bench_statistics.p95(list(values)) == expected


def test_the_ratio_is_of_medians_and_not_of_means() -> None:
    assert bench_statistics.ratio((1, 2, 9), (8, 8, 2)) == 0.25


@pytest.mark.parametrize("sides", [((), (1.0,)), ((1.0,), ())], ids=["ours", "theirs"])
def test_there_is_no_ratio_without_values(sides: tuple[tuple[float], tuple[float]]) -> None:
    with pytest.raises(ValueError, match="no ratio"):
        bench_statistics.ratio(*sides)


def test_there_is_no_percentile_without_values() -> None:
    with pytest.raises(ValueError, match="no percentile"):
        bench_statistics.p95([])


def test_a_row_holds_both_medians_and_their_ratio() -> None:
    row = row_of((1.0, 10.0), (2.0, 8.0), (6.0, 4.0))

    assert (row.median_ms, row.p95_ms, row.peer_median_ms, row.ratio, row.rounds) == (
        2.0, 6.0, 8.0, 0.25, 3,
    )  # fmt: skip


def test_a_row_without_rounds_has_no_figures() -> None:
    row = row_of()

    assert (row.median_ms, row.p95_ms, row.peer_median_ms, row.ratio, row.rounds) == (
        None, None, None, None, 0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("goal", "expected"),
    [(0.25, "<= 0.25: met"), (0.24, "<= 0.24: missed")],
    ids=["at the goal", "above it"],
)
def test_the_table_says_whether_a_goal_is_met(goal: float, expected: str) -> None:
    lines = bench_statistics.table([row_of((2.0, 8.0))], {row_of().key: goal}).splitlines()

    assert (len(lines), lines[1].endswith(expected)) == (2, True)


def test_the_table_calls_a_goal_unknown_where_nothing_was_verified() -> None:
    assert bench_statistics.table([row_of()], {row_of().key: 1.0}).endswith("<= 1.00: unknown")


@pytest.mark.parametrize(
    ("line", "is_named"),
    [
        ("10.0.0.1 dev veth9 scope host", True),
        ("512: from 10.0.0.1/32 lookup 2", True),
        ("7: eni1@if2: <UP> mtu 9001", True),
        ("10.0.0.12 dev veth9 scope host", False),
        ("110.0.0.1 dev veth9", False),
        ("7: eni12@if2: <UP> mtu 9001", False),
    ],
    ids=["route", "rule", "link", "longer address", "address within", "longer link"],
)
def test_a_leftover_is_found_by_whole_words(line: str, is_named: bool) -> None:
    assert lines_naming(f"lo\n{line}\n", ("eni1", "10.0.0.1")) == [line] * is_named


def test_a_timed_run_hands_stdin_over_and_brings_everything_back() -> None:
    code = "import sys; print(sys.stdin.read() * 2); print('oh', file=sys.stderr); sys.exit(3)"

    run = timed_run([sys.executable, "-IS", "-c", code], {}, b"ab")

    assert (run.exit_code, run.stdout, run.stderr) == (3, b"abab\n", b"oh\n")


def test_a_timed_run_kills_what_does_not_end() -> None:
    run = timed_run(["/bin/sh", "-c", "exec sleep 100"], {"PATH": "/usr/bin:/bin"}, b"", 0.05)

    assert (run.exit_code, 50 <= run.milliseconds < 50_000) == (-9, True)


def test_a_timed_run_refuses_a_stdin_that_would_block() -> None:
    with pytest.raises(ValueError, match="a pipe holds"):
        timed_run(["/bin/true"], {}, b"x" * (1 << 22))


class ScriptedSide(Side):
    """Takes a fixed time, and fails the calls it is told to."""

    def __init__(self, name: str, milliseconds: float, failing: frozenset[str]) -> None:
        self.name = name
        self.order: list[str] = []
        self._milliseconds = milliseconds
        self._failing = failing

    def wait_ready(self, addresses: int, timeout_seconds: float) -> None:
        """At once."""

    def add(self, pod: Pod) -> Timing:
        return self._timing(f"ADD {pod.name}")

    def delete(self, pod: Pod) -> Timing:
        return self._timing(f"DEL {pod.name}")

    def _timing(self, call: str) -> Timing:
        fault = "no probe passed" if call in self._failing else ""
        return Timing(milliseconds=self._milliseconds, fault=fault)

    def _probe_target(self, attached: object) -> str:
        raise AssertionError("nothing is wired here")

    def _ledger_fault(self, address: str) -> str:
        raise AssertionError("nothing is wired here")


def new_pod(name: str) -> Pod:
    return Pod(
        namespace="default", name=name, uid="u", container_id=name, netns_name=name,
        netns_path=f"/nonexistent/{name}",
    )  # fmt: skip


SIDES = {"c": 1.0, "python": 2.0, "peer": 4.0}


def measured(*failing: str) -> Rounds:
    """Four rounds: C takes 1 ms, Python 2 ms, the peer 4 ms. `failing`: "VERB side round"."""
    sides = [
        ScriptedSide(
            name, ms, frozenset(f"{verb} bench-{name}-{number}" for verb, side, number in
                                map(str.split, failing) if side == name)
        )
        for name, ms in SIDES.items()
    ]  # fmt: skip
    return interleaved(sides, new_pod, rounds=4, seed=1, pause_seconds=0.0)


def rounds_of(seen: Rounds) -> dict[tuple[str, str], int]:
    return {
        (verb, launcher): len(seen.pairs(verb, launcher, "peer"))
        for verb in ("ADD", "DEL")
        for launcher in ("c", "python")
    }


def test_every_verified_round_counts() -> None:
    seen = measured()

    assert (rounds_of(seen), seen.pairs("ADD", "c", "peer")[0], seen.faults) == (
        {("ADD", "c"): 4, ("ADD", "python"): 4, ("DEL", "c"): 4, ("DEL", "python"): 4},
        Pair(ours_ms=1.0, peer_ms=4.0),
        (),
    )


@pytest.mark.parametrize(
    ("failing", "expected"),
    [
        ("ADD c 2", {("ADD", "c"): 3}),
        ("DEL python 0", {("DEL", "python"): 3}),
        ("ADD peer 1", {("ADD", "c"): 3, ("ADD", "python"): 3}),
    ],
    ids=["ours", "the other launcher", "the peer"],
)
def test_a_round_counts_only_when_both_sides_were_verified(
    failing: str, expected: dict[tuple[str, str], int]
) -> None:
    seen = measured(failing)

    everything = dict.fromkeys(rounds_of(seen), 4)
    assert (rounds_of(seen), len(seen.faults)) == (everything | expected, 1)


def test_a_standing_pod_that_does_not_work_is_a_fault() -> None:
    side = ScriptedSide("peer", 4.0, frozenset({"ADD standing-3"}))

    assert stand(side, 5, new_pod) == ("standing pod 3, ADD by peer: no probe passed",)


@pytest.mark.parametrize("said", ["", "{}", '{"ips": [{"address": "10.0.0.5/32"}]}'])
def test_a_plugin_that_ends_well_without_a_result_did_no_add(said: str, tmp_path: Path) -> None:
    program = tmp_path / "plugin"
    program.write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    program.chmod(0o755)
    side = ScriptedSide("c", 0.0, frozenset())
    run = timed_run([str(program)], {}, b"")

    assert "lacks" in Side.add_fault(side, new_pod("web"), run)


@pytest.mark.parametrize(
    ("arguments", "kinds", "rounds"),
    [
        ([], tuple(KINDS), bench_add_del.ROUNDS),
        (["--quick"], ("single",), bench_add_del.QUICK_ROUNDS),
        (["--rows", "burst,memory", "--rounds", "3"], ("burst", "memory"), 3),
        (["--quick", "--rows", "scale"], ("scale",), bench_add_del.QUICK_ROUNDS),
    ],
    ids=["all", "quick", "chosen", "quick and chosen"],
)
def test_what_is_measured_can_be_chosen(
    arguments: list[str], kinds: tuple[str, ...], rounds: int
) -> None:
    options, _ = bench_add_del.parsed(arguments)

    assert (options.kinds, options.rounds) == (kinds, rounds)


@pytest.mark.parametrize(
    "arguments", [["--rows", "speed"], ["--pods", "many"], ["--pods", "0"], ["--rounds", "0"]]
)
def test_what_cannot_be_measured_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        bench_add_del.parsed(arguments)

    assert arguments[0] in capsys.readouterr().err


def test_every_goal_is_of_a_row_that_can_be() -> None:
    assert {kind for kind, *_ in bench_add_del.GOALS} <= set(KINDS)
