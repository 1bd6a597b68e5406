"""Rounds of a benchmark: each verb once by every side, in random order, and what of it counts.

Between two verbs there is a pause: caches go cold as in life, and what a verb left to do in the
background is not charged to the next.
"""

from __future__ import annotations

import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from providers.sim.bench_sides import Side, Timing
from providers.sim.bench_statistics import Pair
from providers.sim.runtime import Pod

VERBS = ("ADD", "DEL")
PROBED = 10  # of the standing pods, at either end
READY_SECONDS = 60.0
PAUSE_SECONDS = 0.06
"""A DEL's link takes some 20 ms to be freed after its answer (kernel, rcu_barrier), and vpc-cnid
looks at the host for 10-20 ms after foreign links came and went."""

NewPod = Callable[[str], Pod]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds:
    """What every side did in each round, by (verb, side), in order; and what went wrong."""

    timings: Mapping[tuple[str, str], Sequence[Timing]]
    faults: tuple[str, ...]

    def pairs(self, verb: str, ours: str, theirs: str) -> list[Pair]:
        """The rounds that count: both sides verified."""
        both = zip(self.timings[verb, ours], self.timings[verb, theirs], strict=True)
        return [
            Pair(ours_ms=mine.milliseconds, peer_ms=other.milliseconds)
            for mine, other in both
            if not mine.fault and not other.fault
        ]


def say(text: str) -> None:
    """Progress and complaints; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def stand(side: Side, pods: int, new_pod: NewPod) -> tuple[str, ...]:
    """Start pods that stay; a sentence for each that does not work.

    Of many only the first and the last are probed: each probe leaves neighbour entries, of which
    the kernel has room for 1,024 in all namespaces (net.ipv4.neigh.default.gc_thresh3).
    """
    faults = []
    for number in range(pods):
        pod = new_pod(f"standing-{number}")
        is_probed = not PROBED <= number < pods - PROBED
        fault = side.add(pod).fault if is_probed else side.start_fault(pod, side.call("ADD", pod))
        if fault:
            faults.append(f"standing pod {number}, ADD by {side.name}: {fault}")
    return tuple(faults)


def interleaved(
    sides: Sequence[Side],
    new_pod: NewPod,
    *,
    rounds: int,
    seed: int,
    pause_seconds: float = PAUSE_SECONDS,
) -> Rounds:
    """So many rounds of all the sides, whose names differ: no two pods on a node have one name."""
    pods = {
        (number, side.name): new_pod(f"bench-{side.name}-{number}")
        for number in range(rounds)
        for side in sides
    }
    chance = random.Random(seed)  # noqa: S311 - an order that can be repeated
    timings: defaultdict[tuple[str, str], list[Timing]] = defaultdict(list)
    faults = []
    for number in range(rounds):
        if number % 10 == 0:
            say(f"  round {number} of {rounds}")
        for verb in VERBS:
            for side in chance.sample(sides, len(sides)):
                timing = _verb(verb, side, pods[number, side.name], pause_seconds)
                timings[verb, side.name].append(timing)
                if timing.fault:
                    faults.append(f"round {number}, {verb} by {side.name}: {timing.fault}")
    return Rounds(timings=timings, faults=tuple(faults))


def _verb(verb: str, side: Side, pod: Pod, pause_seconds: float) -> Timing:
    if verb == "ADD":
        side.wait_ready(1, READY_SECONDS)
    time.sleep(pause_seconds)
    return side.add(pod) if verb == "ADD" else side.delete(pod)
