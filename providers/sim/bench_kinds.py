"""What the benchmark of ADD and DEL measures, kind by kind; each brings its own nodes."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from providers.sim.bench_agent import memory_of
from providers.sim.bench_bursts import bursts, throughput
from providers.sim.bench_nodes import LAUNCHERS, Ground, Shape
from providers.sim.bench_rounds import (
    PAUSE_SECONDS,
    READY_SECONDS,
    VERBS,
    Rounds,
    interleaved,
    say,
    stand,
)
from providers.sim.bench_sides import HOST_LOCAL, STATIC, Ours, Side
from providers.sim.bench_statistics import Pair, Row, row
from providers.sim.lab_node import Node
from providers.sim.runtime import Pod

FEW_PODS = 10
MODES = ("grouped", "per-pod")
BURST, BURSTS = 50, 8
CLIENTS, SPELL_SECONDS, SPELLS = 8, 3.0, 5
MEMORY_PODS = 250
REST_SECONDS = 10.0
"""After the last change: reports and looks that it caused have been made."""

FEW = Shape(addresses=87, instance_type="m5.4xlarge", uses_prefixes=False)
"""Three ENIs' worth (29 secondary addresses each). Each launcher does 2 rounds a second at most, so
at most 40 addresses cool at any time, beside 10 standing."""

SPARE_ADDRESSES = 110
"""Beyond the standing pods: two bursts that cool, or the rounds of ten seconds."""

THROUGHPUT = Shape(addresses=1400, cooldown_seconds=1)
"""A thousand pods a second may come and go before an ADD would wait for a cooldown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    rounds: int
    seed: int
    kinds: tuple[str, ...]
    pods: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One daemon's memory in millions of bytes, and how many pods its node had."""

    process: str
    pods: int
    rss_mb: float
    pss_mb: float

    def __str__(self) -> str:
        return f"{self.process:9} {self.pods:4} pods  Rss {self.rss_mb} MB  Pss {self.pss_mb} MB"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Every row, every daemon's memory, and a sentence for each verb that was not verified."""

    rows: tuple[Row, ...] = ()
    memory: tuple[Footprint, ...] = ()
    faults: tuple[str, ...] = ()

    def __add__(self, other: Result) -> Result:
        return Result(
            rows=self.rows + other.rows,
            memory=self.memory + other.memory,
            faults=self.faults + other.faults,
        )


def single(options: Options, made: Ground) -> Result:
    """Both launchers beside ptp + host-local, few pods standing."""
    node = made.node("single", FEW)
    ours = [made.ours(node, launcher) for launcher in LAUNCHERS]
    peer = made.host_local(made.peer_node("single-peer"))
    say(f"starting {FEW_PODS} pods on each node")
    faults = stand(ours[0], FEW_PODS, made.new_pod) + stand(peer, FEW_PODS, made.new_pod)
    seen = interleaved([*ours, peer], made.new_pod, rounds=options.rounds, seed=options.seed)
    rows = tuple(
        row(
            seen.pairs(verb, side.name, peer.name),
            kind="single", verb=verb, launcher=side.name, pods=FEW_PODS, mode=FEW.mode,
            peer=peer.name,
        )
        for verb in VERBS
        for side in ours
    )  # fmt: skip
    return Result(rows=rows, faults=faults + seen.faults)


def scale(options: Options, made: Ground) -> Result:
    """A node for each number of pods and each mode, two nodes of the peer's for each number."""
    sides: list[Side] = []
    faults: list[str] = []
    for pods in options.pods:
        here: list[Side] = [
            made.ours(made.node(f"{mode}-{pods}", _with_room(pods, mode)), "c", f"{mode}-{pods}")
            for mode in MODES
        ]
        here += [
            made.host_local(made.peer_node(f"local-{pods}"), f"{HOST_LOCAL}-{pods}"),
            made.static(made.peer_node(f"static-{pods}"), f"{STATIC}-{pods}"),
        ]
        for side in here:
            say(f"starting {pods} pods of {side.name}")
            faults += stand(side, pods, made.new_pod)
        sides += here
    seen = interleaved(sides, made.new_pod, rounds=options.rounds, seed=options.seed)
    return Result(rows=tuple(_scale_rows(options.pods, seen)), faults=(*faults, *seen.faults))


def _with_room(pods: int, mode: str) -> Shape:
    return Shape(addresses=pods + SPARE_ADDRESSES, mode=mode)


def _scale_rows(pods: tuple[int, ...], seen: Rounds) -> Iterator[Row]:
    first = pods[0]
    for verb in VERBS:
        for mode in MODES:
            for number in pods:
                others = {HOST_LOCAL: f"{HOST_LOCAL}-{number}", STATIC: f"{STATIC}-{number}"}
                if number != first:
                    others[f"ours at {first} pods"] = f"{mode}-{first}"
                for peer, name in others.items():
                    yield row(
                        seen.pairs(verb, f"{mode}-{number}", name),
                        kind="scale", verb=verb, launcher="c", pods=number, mode=mode, peer=peer,
                    )  # fmt: skip


def burst(options: Options, made: Ground) -> Result:
    """Fifty at once, few pods standing."""
    node = made.node("burst", _with_room(FEW_PODS, MODES[0]))
    ours, peer = made.ours(node, "c"), made.host_local(made.peer_node("burst-peer"))
    faults = stand(ours, FEW_PODS, made.new_pod) + stand(peer, FEW_PODS, made.new_pod)
    repetitions = min(options.rounds, BURSTS)
    seen = bursts([ours, peer], made.new_pod, pods=BURST, repetitions=repetitions)
    rows = tuple(
        row(
            [
                Pair(ours_ms=mine, peer_ms=other)
                for mine, other in zip(
                    seen.walls[verb, ours.name], seen.walls[verb, peer.name], strict=True
                )
            ],
            kind="burst", verb=f"{verb} x{BURST}", launcher="c", pods=FEW_PODS, mode="grouped",
            peer=peer.name,
        )
        for verb in VERBS
    )  # fmt: skip
    return Result(rows=rows, faults=faults + seen.faults)


def sustained(options: Options, made: Ground) -> Result:
    """Parallel clients; told as milliseconds of wall time per pod, so that less is better."""
    node = made.node("sustained", THROUGHPUT)
    ours, peer = made.ours(node, "c"), made.host_local(made.peer_node("sustained-peer"))
    faults = stand(ours, FEW_PODS, made.new_pod) + stand(peer, FEW_PODS, made.new_pod)
    seen = throughput(
        [ours, peer],
        made.new_pod,
        clients=CLIENTS,
        seconds=SPELL_SECONDS,
        spells=min(options.rounds, SPELLS),
    )
    spells = zip(seen.per_second[ours.name], seen.per_second[peer.name], strict=True)
    made_row = row(
        [Pair(ours_ms=1e3 / mine, peer_ms=1e3 / other) for mine, other in spells],
        kind="throughput", verb="ADD+DEL", launcher="c", pods=FEW_PODS, mode="grouped",
        peer=peer.name,
    )  # fmt: skip
    return Result(rows=(made_row,), faults=faults + seen.faults)


def busy(options: Options, made: Ground) -> Result:
    """ADDs with and without a process that computes, on one node, one after the other."""
    node = made.node("busy", FEW)
    ours = made.ours(node, "c")
    faults = list(stand(ours, FEW_PODS, made.new_pod))
    pairs = []
    for number in range(options.rounds):
        pod = made.new_pod(f"busy-{number}")
        quiet = _timed_add(ours, pod)
        with _computing():
            time.sleep(PAUSE_SECONDS)
            loaded = _timed_add(ours, pod)
        if isinstance(quiet, str) or isinstance(loaded, str):
            faults += [f"busy round {number}: {t}" for t in (quiet, loaded) if isinstance(t, str)]
            continue
        pairs.append(Pair(ours_ms=loaded, peer_ms=quiet))
    made_row = row(
        pairs,
        kind="busy", verb="ADD", launcher="c", pods=FEW_PODS, mode=FEW.mode, peer="ours, not busy",
    )  # fmt: skip
    return Result(rows=(made_row,), faults=tuple(faults))


CHILD_NICENESS = 5  # of ipamd's cloud child, which `busy` stands for


def _timed_add(side: Ours, pod: Pod) -> float | str:
    """Milliseconds of an ADD whose pod is deleted again; or why it does not count."""
    side.wait_ready(1, READY_SECONDS)
    time.sleep(PAUSE_SECONDS)
    added = side.add(pod)
    time.sleep(PAUSE_SECONDS)
    deleted = side.delete(pod)
    return added.fault or deleted.fault or added.milliseconds


@contextmanager
def _computing() -> Iterator[None]:
    command = ["nice", "-n", str(CHILD_NICENESS), sys.executable, "-IS", "-c", "while True: pass"]
    with subprocess.Popen(command) as process:
        try:
            yield
        finally:
            process.kill()


def memory(options: Options, made: Ground) -> Result:
    """The daemons of one node at rest, and after its pods came."""
    del options
    node = made.node("memory", _with_room(MEMORY_PODS, MODES[0]))
    time.sleep(REST_SECONDS)
    at_rest = _footprints(node, 0)
    faults = stand(made.ours(node, "c"), MEMORY_PODS, made.new_pod)
    time.sleep(REST_SECONDS)
    return Result(memory=at_rest + _footprints(node, MEMORY_PODS), faults=faults)


def _footprints(node: Node, pods: int) -> tuple[Footprint, ...]:
    daemons = (("vpc-cnid", node.cnid), ("ipamd", node.ipamd))
    found = ((name, memory_of(daemon.pid)) for name, daemon in daemons)
    return tuple(
        Footprint(
            process=name,
            pods=pods,
            rss_mb=round(seen.rss_kb * 1024 / 1e6, 1),
            pss_mb=round(seen.pss_kb * 1024 / 1e6, 1),
        )
        for name, seen in found
    )


KINDS: Mapping[str, Callable[[Options, Ground], Result]] = {
    "single": single,
    "scale": scale,
    "burst": burst,
    "throughput": sustained,
    "busy": busy,
    "memory": memory,
}
