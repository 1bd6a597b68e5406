"""ADD and DEL as whole processes, ours against Debian's ptp + host-local (scripts/bench/add_del).

One node of the lab with the emulated cloud and real daemons, ten pods of each side standing on it.
Each round does an ADD and then a DEL by both launchers and by the peer, in random order from a
fixed seed, each in a network namespace made before the clock starts. The pool is filled before the
first round and large enough that no cloud call happens during the rounds, and each ADD of ours
starts only when an address is available, so that none waits. Between two verbs there is a pause:
caches go cold as in life, and what a verb left to do in the background is not charged to the next.

A round counts for a row if both sides' verbs were verified (`bench_sides`); if any was not, it is
told and the exit status is 1. 2: the benchmark cannot run here.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from providers.sim import netns
from providers.sim.bench_sides import (
    PEER_PLUGINS,
    NotReady,
    Ours,
    Peer,
    Side,
    Timing,
    wait_available,
)
from providers.sim.bench_statistics import Pair, Row, document, row, table
from providers.sim.lab import Lab
from providers.sim.lab_node import Node
from providers.sim.lab_process import LabError
from providers.sim.runtime import Pod

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"  # of the Python launcher's first line
LAUNCHERS = ("c", "python")
VERBS = ("ADD", "DEL")
MODE, PEER = "grouped", "ptp+host-local"
GOALS = {("ADD", "c"): 0.45, ("DEL", "c"): 0.20, ("ADD", "python"): 1.30}

STANDING_PODS = 10
ROUNDS, QUICK_ROUNDS = 60, 25
PAUSE_SECONDS = 0.06
"""A DEL's link takes some 20 ms to be freed after its answer (kernel, rcu_barrier), and vpc-cnid
looks at the host for 10-20 ms after the peer's links came and went."""

COOLDOWN_SECONDS = 10
POOL_ADDRESSES = 87
"""Three ENIs' worth on m5.4xlarge (29 secondary addresses each). Each launcher does 2 rounds a
second at most, so at most 40 addresses cool at any time, beside 10 standing."""

INSTANCE_TYPE = "m5.4xlarge"
READY_SECONDS = 60.0
# A directory of /run, in the sandbox an empty tmpfs: where the daemons' state lives by default. The
# peer's leases are there too, though by its own default they would be on the disk.
SCRATCH = "/run"


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    rounds: int
    seed: int
    is_json: bool
    pause_seconds: float = PAUSE_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Every row, and a sentence for each verb that could not be verified."""

    rows: tuple[Row, ...]
    faults: tuple[str, ...]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    options = _options(arguments)
    try:
        require_bytecode()
        with tempfile.TemporaryDirectory(prefix="add-del-", dir=SCRATCH) as scratch:
            result = _run(options, Path(scratch))
    except (LabError, NotReady, OSError, subprocess.CalledProcessError) as e:
        say(f"scripts/bench/add_del: {e}")
        return 2
    for fault in result.faults:
        say(f"not verified: {fault}")
    print(json.dumps(document(result.rows)) if options.is_json else table(result.rows, GOALS))
    return 1 if result.faults else 0


def say(text: str) -> None:
    """Progress and complaints; stdout is for the result."""
    print(text, file=sys.stderr, flush=True)


def require_bytecode() -> None:
    """Raise LabError unless what the daemons import is compiled: else they start 3 times slower."""
    if os.environ.get("PYTHONDONTWRITEBYTECODE"):
        raise LabError("PYTHONDONTWRITEBYTECODE is set; unset it, it makes every import a compile")
    for package in ("ipamd", "cni-shim/cni_shim", "proto/ipam_api", "providers"):
        for source in sorted((ROOT / package).rglob("*.py")):
            if not is_compiled(source):
                raise LabError(f"{source} has no current bytecode: start scripts/bench/add_del")


def is_compiled(source: Path) -> bool:
    """Whether the cache file is of this source (PEP 552: flags 0, then its time and its size)."""
    cached = Path(importlib.util.cache_from_source(str(source)))
    if not cached.exists():
        return False
    status = source.stat()
    facts = (0, int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
    return cached.read_bytes()[4:16] == b"".join(fact.to_bytes(4, "little") for fact in facts)


def _options(arguments: Sequence[str] | None) -> Options:
    parser = argparse.ArgumentParser(
        prog="scripts/bench/add_del",
        description="ADD and DEL as whole processes, side by side with ptp + host-local.",
    )
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds, under 40 s")
    parser.add_argument("--json", action="store_true", help='print {"rows": [...]}')
    parser.add_argument("--rounds", type=int, help=f"by default {ROUNDS}")
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds")
    parsed = parser.parse_args(arguments)
    rounds = parsed.rounds or (QUICK_ROUNDS if parsed.quick else ROUNDS)
    if rounds < 1:
        parser.error("--rounds must be at least 1")
    return Options(rounds=rounds, seed=parsed.seed, is_json=parsed.json)


def _run(options: Options, scratch: Path) -> Result:
    if not (PEER_PLUGINS / "ptp").exists():
        raise LabError("ptp is missing; on Debian: apt-get install containernetworking-plugins")
    say("starting the emulated cloud and a node")
    with Lab(scratch / "lab") as lab:
        lab.start()
        enis_socket = scratch / "enis.sock"
        node = lab.add_node("bench", instance_type=INSTANCE_TYPE, env=_environment(enis_socket))
        node.start()
        say(f"filling the pool with {POOL_ADDRESSES} addresses")
        wait_available(enis_socket, POOL_ADDRESSES, READY_SECONDS)
        sides = _sides(node, enis_socket, scratch)
        namespaces = node.runtime(["/nonexistent"], {})  # for its pods alone; the sides make calls
        return netns.call_in(node.netns_path, lambda: measure(options, sides, namespaces.new_pod))


def _environment(enis_socket: Path) -> dict[str, str]:
    """A pool that neither grows nor shrinks: the minimum holds it, and 1 warm is always there."""
    return {
        "IP_COOLDOWN_PERIOD": str(COOLDOWN_SECONDS),
        "MINIMUM_IP_TARGET": str(POOL_ADDRESSES),
        "WARM_IP_TARGET": "1",
        "INTROSPECTION_BIND_ADDRESS": f"unix:{enis_socket}",
    }


def _sides(node: Node, enis_socket: Path, scratch: Path) -> tuple[Side, ...]:
    """Both launchers of ours and the peer, in the order of the names in LAUNCHERS."""
    assert node.identity is not None
    programs = (build_launcher(scratch / "bin"), pack_launcher(scratch / "bin"))
    ours = (
        Ours(name, program, node=node, gateway=node.identity.gateway, enis_socket=enis_socket)
        for name, program in zip(LAUNCHERS, programs, strict=True)
    )
    return (*ours, Peer(scratch / "leases", node))


def build_launcher(directory: Path) -> Path:
    """The C launcher, built; CalledProcessError where no compiler can."""
    build = ROOT / "cni-shim" / "launcher" / "build.sh"
    done = subprocess.run(["sh", str(build), str(directory)], check=True, stdout=subprocess.PIPE)
    return Path(done.stdout.decode().strip())


def pack_launcher(directory: Path) -> Path:
    """The Python launcher as it is installed: one file with its bytecode, run by its first line."""
    packed = directory / "vpc-cni-python"
    source = ROOT / "cni-shim" / "launcher" / "pack.py"
    subprocess.run([SYSTEM_PYTHON, str(source), str(packed)], check=True)
    return packed


def measure(options: Options, sides: Sequence[Side], new_pod: Callable[[str], Pod]) -> Result:
    """The standing pods, then the rounds; in the node's namespace, as the sides want it.

    `sides` are named as in LAUNCHERS and "peer", each once.
    """
    say(f"starting {STANDING_PODS} pods of each side")
    faults = list(_stand(sides, new_pod))
    pods = {
        (number, side.name): new_pod(f"bench-{side.name}-{number}")
        for number in range(options.rounds)
        for side in sides
    }
    chance = random.Random(options.seed)  # noqa: S311 - an order that can be repeated
    pairs: defaultdict[tuple[str, str], list[Pair]] = defaultdict(list)
    for number in range(options.rounds):
        if number % 10 == 0:
            say(f"round {number} of {options.rounds}")
        for verb in VERBS:
            order = chance.sample(sides, len(sides))
            timings = {
                side.name: _verb(verb, side, pods[number, side.name], options.pause_seconds)
                for side in order
            }
            faults += _faults(f"round {number}, {verb}", timings)
            for launcher, pair in _pairs(timings):
                pairs[verb, launcher].append(pair)
    return Result(rows=_rows(pairs), faults=tuple(faults))


def _stand(sides: Iterable[Side], new_pod: Callable[[str], Pod]) -> Iterable[str]:
    """Pods that stay; ours come from the first launcher, since the kernel cannot tell."""
    launched = {side.name: side for side in sides}
    for name in (LAUNCHERS[0], "peer"):
        for number in range(STANDING_PODS):
            timing = launched[name].add(new_pod(f"standing-{name}-{number}"))
            yield from _faults(f"standing pod {number}, ADD", {name: timing})


def _verb(verb: str, side: Side, pod: Pod, pause_seconds: float) -> Timing:
    if verb == "ADD":
        side.wait_ready(READY_SECONDS)
    time.sleep(pause_seconds)
    return side.add(pod) if verb == "ADD" else side.delete(pod)


def _faults(where: str, timings: dict[str, Timing]) -> list[str]:
    return [f"{where} by {name}: {t.fault}" for name, t in timings.items() if t.fault]


def _pairs(timings: dict[str, Timing]) -> Iterable[tuple[str, Pair]]:
    """What of one verb in one round counts: both sides verified."""
    peer = timings["peer"]
    for launcher in LAUNCHERS:
        ours = timings[launcher]
        if not ours.fault and not peer.fault:
            yield launcher, Pair(ours_ms=ours.milliseconds, peer_ms=peer.milliseconds)


def _rows(pairs: dict[tuple[str, str], list[Pair]]) -> tuple[Row, ...]:
    return tuple(
        row(
            pairs[verb, launcher],
            verb=verb, launcher=launcher, pods=STANDING_PODS, mode=MODE, peer=PEER,
        )
        for verb in VERBS
        for launcher in LAUNCHERS
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
