"""Round trips of a pod on nodes with more and more pods, in both modes of routing rules
(scripts/bench/rtt).

Each node of the lab has real daemons and so many standing pods; `per-pod` are the rules that
aws-node writes, so that its rows stand for the peer. On each node two more pods come last, and of
these one talks to the other (pod-pod) and to the VPC's router over the fabric (pod-eni): one byte
by UDP there and back, both ends in one thread that asks again and again, so that no wake-up of a
process is in the figure. All paths take turns in random order.

Pods stand on the primary ENI as long as it has room (784), then on a second one.

Exit status: 0; 1 if a goal is missed; 2 if it cannot run here.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from providers.sim import netns
from providers.sim.bench_add_del import SCRATCH, require_bytecode
from providers.sim.bench_nodes import Ground, Shape, ground
from providers.sim.bench_rounds import say, stand
from providers.sim.bench_sides import NotReady, Ours
from providers.sim.bench_statistics import p95
from providers.sim.lab_node import Node
from providers.sim.lab_process import LabError

PODS = (0, 110, 250, 1000)
MODES = ("grouped", "per-pod")
ROUNDS, QUICK_ROUNDS = 60, 5
PINGS = 50
"""In one turn of a path; the first few, which find the caches cold, do not count."""

WARM_UP = 5
PATHS = ("pod-pod", "pod-eni")
GOALS: Mapping[tuple[str, str, int], float] = {(path, "grouped", 250): 1.15 for path in PATHS}
LOST_SECONDS = 1.0
SPARE_ADDRESSES = 20
FABRIC = "/run/netns/vpc"  # where the lab keeps the VPC's router


class PacketLost(Exception):
    """A packet did not arrive: the path that was to be measured does not work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One path on one node. `ratio` is to the same path of the same mode on the emptiest node."""

    path: str
    mode: str
    pods: int
    median_us: float
    p95_us: float
    ratio: float
    round_trips: int


@dataclass(frozen=True, slots=True)
class Way:
    """Two connected sockets, in two namespaces."""

    near: socket.socket
    far: socket.socket

    def round_trip_us(self) -> float:
        """One byte there and back. Raises PacketLost."""
        began = time.perf_counter_ns()
        for sender, receiver in ((self.near, self.far), (self.far, self.near)):
            sender.send(b"x")
            _await(receiver, began)
        return (time.perf_counter_ns() - began) / 1e3


def _await(receiver: socket.socket, began: int) -> None:
    while True:
        try:
            receiver.recv(1)
        except BlockingIOError:
            if time.perf_counter_ns() - began > LOST_SECONDS * 1e9:
                raise PacketLost(f"nothing came to {receiver.getsockname()}") from None
        else:
            return


def connected(near: tuple[str, str], far: tuple[str, str], stack: ExitStack) -> Way:
    """A path between two (namespace, address) pairs; its sockets close with the stack."""
    ends = [
        stack.enter_context(netns.call_in(path, lambda address=address: _bound(address)))  # type: ignore[misc]
        for path, address in (near, far)
    ]
    for end, other in zip(ends, reversed(ends), strict=True):
        end.connect(other.getsockname())
    return Way(*ends)


def _bound(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, 0))
    made.setblocking(False)  # noqa: FBT003 - the socket module's own
    return made


def measure(
    paths: Mapping[tuple[str, str, int], Way], *, rounds: int, seed: int
) -> dict[tuple[str, str, int], list[float]]:
    """So many turns of every path, in random order; microseconds of each round trip."""
    chance = random.Random(seed)  # noqa: S311 - an order that can be repeated
    found: dict[tuple[str, str, int], list[float]] = {key: [] for key in paths}
    for _ in range(rounds):
        for key in chance.sample(list(paths), len(paths)):
            turn = [paths[key].round_trip_us() for _ in range(PINGS + WARM_UP)]
            found[key] += turn[WARM_UP:]
    return found


def rows(found: Mapping[tuple[str, str, int], Sequence[float]]) -> Iterator[Row]:
    """A row for each path, with its ratio to the emptiest node of its mode."""
    for (path, mode, pods), values in found.items():
        least = min(p for other, m, p in found if (other, m) == (path, mode))
        middle = statistics.median(values)
        yield Row(
            path=path,
            mode=mode,
            pods=pods,
            median_us=round(middle, 2),
            p95_us=round(p95(values), 2),
            ratio=round(middle / statistics.median(found[path, mode, least]), 3),
            round_trips=len(values),
        )


def table(made: Sequence[Row]) -> str:
    """The rows for people."""
    lines = [
        f"{'path':8} {'mode':8} {'pods':>5} {'median us':>10} {'p95 us':>8} {'ratio':>6}  goal"
    ]
    for each in made:
        goal = GOALS.get((each.path, each.mode, each.pods))
        verdict = "-"
        if goal is not None:
            verdict = f"<= {goal:.2f}: {'met' if each.ratio <= goal else 'missed'}"
        lines.append(
            f"{each.path:8} {each.mode:8} {each.pods:5} {each.median_us:10.2f} "
            f"{each.p95_us:8.2f} {each.ratio:6.2f}  {verdict}"
        )
    return "\n".join(lines)


def missed(made: Sequence[Row]) -> list[Row]:
    """The rows that are over their goal."""
    return [r for r in made if r.ratio > GOALS.get((r.path, r.mode, r.pods), r.ratio)]


def _stood(made: Ground, mode: str, pods: int) -> tuple[Node, Ours]:
    node = made.node(f"{mode}-{pods}", Shape(addresses=pods + SPARE_ADDRESSES, mode=mode))
    side = made.ours(node, "c")
    faults = stand(side, pods, made.new_pod)
    if faults:
        raise LabError("; ".join(faults[:3]))
    return node, side


def _paths(
    made: Ground, mode: str, pods: int, stack: ExitStack
) -> Iterator[tuple[tuple[str, str, int], Way]]:
    """Two more pods, and what one of them talks to."""
    node, side = _stood(made, mode, pods)
    assert node.identity is not None
    ends = []
    for name in ("far", "near"):
        pod = made.new_pod(f"probe-{name}")
        fault = side.add(pod).fault
        if fault:
            raise LabError(f"{mode}, {pods} pods: {fault}")
        ends.append((pod.netns_path, side.address_of(pod)))
    router = (FABRIC, str(node.identity.gateway))
    yield ("pod-pod", mode, pods), connected(ends[1], ends[0], stack)
    yield ("pod-eni", mode, pods), connected(ends[1], router, stack)


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench/rtt",
        description="Round trips pod to pod and pod to ENI on nodes with many pods.",
    )
    usual = ",".join(map(str, PODS))
    parser.add_argument("--pods", default=usual, help=f"pods per node, by default {usual}")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, 0 and 30 pods"
    )
    parser.add_argument("--rounds", type=int, help=f"by default {ROUNDS}")
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds")
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    said = parser.parse_args(arguments)
    said.rounds = said.rounds or (QUICK_ROUNDS if said.quick else ROUNDS)
    try:
        said.pods = [int(n) for n in ("0,30" if said.quick else said.pods).split(",")]
    except ValueError:
        parser.error(f"--pods {said.pods}: want numbers with commas between them")
    if said.rounds < 1 or not 0 <= min(said.pods) <= max(said.pods) <= max(PODS):
        parser.error(f"want at least 1 round, and 0 to {max(PODS)} pods")
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    said = parsed(arguments)
    try:
        require_bytecode()
        with (
            tempfile.TemporaryDirectory(prefix="rtt-", dir=SCRATCH) as scratch,
            ground(Path(scratch)) as made,
            ExitStack() as stack,
        ):
            paths = dict(
                pair
                for pods in said.pods
                for mode in MODES
                for pair in _paths(made, mode, pods, stack)
            )
            say(f"measuring {len(paths)} paths, {said.rounds} turns of each")
            found = measure(paths, rounds=said.rounds, seed=said.seed)
    except (LabError, NotReady, PacketLost, OSError, subprocess.CalledProcessError) as e:
        say(f"scripts/bench/rtt: {e}")
        return 2
    made_rows = list(rows(found))
    text = json.dumps({"rows": [asdict(r) for r in made_rows]})
    print(text if said.output == "json" else table(made_rows))
    return 1 if missed(made_rows) else 0


if __name__ == "__main__":
    sys.exit(main())
