"""The arithmetic of the round trips' benchmark, and its refusal of a path that does not work."""

from __future__ import annotations

import socket
from contextlib import ExitStack

import pytest

from providers.sim import bench_rtt
from providers.sim.bench_rtt import PacketLost, Way, measure, missed, parsed, rows

Key = tuple[str, str, int]


def loop(stack: ExitStack, *, is_whole: bool = True) -> Way:
    """Two sockets of this machine that hear each other, or of which the far one hears nothing."""
    ends = [stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in "ab"]
    for end in ends:
        end.bind(("127.0.0.1", 0))
        end.settimeout(0)
    near, far = ends
    far.connect(near.getsockname())
    near.connect(far.getsockname() if is_whole else ("127.0.0.1", 9))
    return Way(near, far)


def test_every_path_has_as_many_round_trips() -> None:
    with ExitStack() as stack:
        ways: dict[Key, Way] = {("pod-pod", "grouped", n): loop(stack) for n in (0, 1)}
        found = measure(ways, rounds=3, seed=1)

    assert {key: len(values) for key, values in found.items()} == dict.fromkeys(ways, 150)
    assert all(value > 0 for values in found.values() for value in values)


def test_a_path_on_which_nothing_arrives_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_rtt, "LOST_SECONDS", 0.01)
    with ExitStack() as stack, pytest.raises((PacketLost, ConnectionRefusedError)):
        loop(stack, is_whole=False).round_trip_us()


def test_the_ratio_is_to_the_same_path_on_the_emptiest_node_of_the_same_mode() -> None:
    found = {
        ("pod-pod", "grouped", 0): [4.0],
        ("pod-pod", "grouped", 250): [5.0],
        ("pod-pod", "per-pod", 0): [8.0],
        ("pod-pod", "per-pod", 250): [16.0],
    }

    assert [row.ratio for row in rows(found)] == [1.0, 1.25, 1.0, 2.0]


@pytest.mark.parametrize(
    ("path", "mode", "pods", "is_missed"),
    [
        ("pod-pod", "grouped", 250, True),
        ("pod-eni", "grouped", 250, True),
        ("pod-pod", "grouped", 1000, False),
        ("pod-pod", "per-pod", 250, False),
    ],
    ids=["pod to pod", "pod to ENI", "no goal for so many", "no goal for the peer's rules"],
)
def test_only_a_goal_can_be_missed(path: str, mode: str, pods: int, is_missed: bool) -> None:
    made = list(rows({(path, mode, 0): [10.0], (path, mode, pods): [11.6]}))

    assert [row.pods for row in missed(made)] == [pods] * is_missed


def test_the_table_tells_of_each_goal_whether_it_is_met() -> None:
    made = list(rows({("pod-pod", "grouped", 0): [10.0], ("pod-pod", "grouped", 250): [11.5]}))

    assert bench_rtt.table(made).splitlines()[2].endswith("<= 1.15: met")


@pytest.mark.parametrize(
    "arguments", [["--pods", "many"], ["--pods", "-1"], ["--pods", "5000"], ["--rounds", "-1"]]
)
def test_what_cannot_be_measured_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(arguments)
