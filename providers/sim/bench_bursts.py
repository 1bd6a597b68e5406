"""Many pods at once: the wall time of a burst, and what parallel clients get done.

A burst is timed from before its first process starts until the last one has been reaped; the
processes are started by as many threads, so that each has its own pod and its own pipes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from providers.sim.bench_rounds import READY_SECONDS, NewPod, say
from providers.sim.bench_sides import Side
from providers.sim.bench_spawn import Run
from providers.sim.runtime import Pod

SETTLE_SECONDS = 0.5
"""Between bursts: 50 links are freed, and daemons have looked at what happened."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bursts:
    """Wall times in milliseconds per verb and side; and what went wrong."""

    walls: dict[tuple[str, str], list[float]]
    faults: tuple[str, ...]


def bursts(sides: Sequence[Side], new_pod: NewPod, *, pods: int, repetitions: int) -> Bursts:
    """So many bursts of ADDs and of DELs by every side, one side after the other."""
    walls: dict[tuple[str, str], list[float]] = {}
    faults: list[str] = []
    made = {side.name: [new_pod(f"burst-{n}") for n in range(pods)] for side in sides}
    with ThreadPoolExecutor(pods) as threads:
        for number in range(repetitions):
            say(f"  burst {number} of {repetitions}")
            for side in sides:
                side.wait_ready(pods, READY_SECONDS)
                for verb in ("ADD", "DEL"):
                    time.sleep(SETTLE_SECONDS)
                    wall, bad = _burst(threads, side, verb, made[side.name])
                    walls.setdefault((verb, side.name), []).append(wall)
                    faults += [f"burst {number}, {verb} by {side.name}: {why}" for why in bad]
    return Bursts(walls=walls, faults=tuple(faults))


def _burst(
    threads: ThreadPoolExecutor, side: Side, verb: str, pods: Sequence[Pod]
) -> tuple[float, list[str]]:
    began = time.monotonic_ns()
    runs: list[Run] = list(threads.map(lambda pod: side.call(verb, pod), pods))
    wall = (time.monotonic_ns() - began) / 1e6
    judge = side.add_fault if verb == "ADD" else side.delete_fault
    faults = [judge(pod, run) for pod, run in zip(pods, runs, strict=True)]
    return wall, [fault for fault in faults if fault]


@dataclass(frozen=True, slots=True, kw_only=True)
class Throughput:
    """Pods per second that came and went again, one number for each spell of each side."""

    per_second: dict[str, list[float]]
    faults: tuple[str, ...]

    def median(self, name: str) -> float:
        """Of one side's spells."""
        return statistics.median(self.per_second[name])


def throughput(
    sides: Sequence[Side], new_pod: NewPod, *, clients: int, seconds: float, spells: int
) -> Throughput:
    """Clients that each add and delete one pod over and over, for some spells by every side."""
    per_second: dict[str, list[float]] = {side.name: [] for side in sides}
    faults: list[str] = []
    pods = [new_pod(f"client-{n}") for n in range(clients)]
    with ThreadPoolExecutor(clients) as threads:
        for number in range(spells):
            say(f"  spell {number} of {spells}")
            for side in sides:
                side.wait_ready(clients, READY_SECONDS)
                time.sleep(SETTLE_SECONDS)
                until = time.monotonic() + seconds
                began = time.monotonic()
                done = list(threads.map(lambda pod: _cycles(side, pod, until), pods))  # noqa: B023
                taken = time.monotonic() - began
                per_second[side.name].append(sum(len(cycles) for cycles, _ in done) / taken)
                faults += [f"spell {number} by {side.name}: {bad}" for _, bad in done if bad]
    return Throughput(per_second=per_second, faults=tuple(faults))


def _cycles(side: Side, pod: Pod, until: float) -> tuple[list[Run], str]:
    """ADD and DEL until the time is over or one fails; the DELs, and why it ended early."""
    done: list[Run] = []
    while time.monotonic() < until:
        runs = [side.call(verb, pod) for verb in ("ADD", "DEL")]
        failed = [str(run) for run in runs if run.exit_code != 0]
        if failed:
            return done, failed[0]
        done += runs[1:]
    return done, ""
