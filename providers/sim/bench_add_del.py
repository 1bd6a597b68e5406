"""ADD and DEL as whole processes, ours against Debian's ptp (scripts/bench/add_del).

Real daemons on the lab's emulated cloud; the peer on nodes of its own. What is measured comes in
kinds of rows, each of which can be asked for:

  single      both launchers and ptp + host-local, ten pods standing on each node
  scale       nodes with 10, 250 and 1000 pods in both modes of routing rules, ptp + host-local and
              ptp + static with as many; and how our ADD and DEL grow from the first node
  burst       50 pods at once: wall time from the first start to the last end
  throughput  parallel clients that add and delete pods: milliseconds per pod
  busy        ADD while a process beside the daemons computes without a pause, as a cloud child does
              that reads a large answer; the ratio is to the same node without it
  memory      what the daemons hold, at rest and with pods

A round counts for a row if both sides' verbs were verified (`bench_sides`); if any was not, it is
told and the exit status is 1. 2: the benchmark cannot run here. Goals are told, not judged by.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from providers.sim.bench_kinds import KINDS, Options, Result
from providers.sim.bench_nodes import ROOT, ground
from providers.sim.bench_rounds import say
from providers.sim.bench_sides import PEER_PLUGINS, NotReady
from providers.sim.bench_statistics import Goals, document, table
from providers.sim.lab_process import LabError

ROUNDS, QUICK_ROUNDS = 60, 25
PODS = (10, 250, 1000)
G, HOST_LOCAL, US = "grouped", "ptp+host-local", "ours at 10 pods"
GOALS: Goals = {
    ("single", "ADD", "c", 10, G, HOST_LOCAL): 0.35,
    ("single", "DEL", "c", 10, G, HOST_LOCAL): 0.15,
    ("single", "ADD", "python", 10, G, HOST_LOCAL): 1.30,
    ("scale", "ADD", "c", 1000, G, US): 1.25,
    ("burst", "ADD x50", "c", 10, G, HOST_LOCAL): 0.25,
    ("burst", "DEL x50", "c", 10, G, HOST_LOCAL): 0.25,
    ("busy", "ADD", "c", 10, G, "ours, not busy"): 1.30,
}
# A directory of /run, in the sandbox an empty tmpfs: where the daemons' state lives by default. The
# peer's leases are there too, though by its own default they would be on the disk.
SCRATCH = "/run"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    options, is_json = parsed(arguments)
    try:
        require_bytecode()
        with tempfile.TemporaryDirectory(prefix="add-del-", dir=SCRATCH) as scratch:
            result = _run(options, Path(scratch))
    except (LabError, NotReady, OSError, subprocess.CalledProcessError) as e:
        say(f"scripts/bench/add_del: {e}")
        return 2
    for fault in result.faults:
        say(f"not verified: {fault}")
    print(_document(result) if is_json else _text(result))
    return 1 if result.faults else 0


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


def parsed(arguments: Sequence[str] | None) -> tuple[Options, bool]:
    """The command line, and whether the result is for programs."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench/add_del",
        description="ADD and DEL as whole processes, side by side with Debian's ptp.",
    )
    parser.add_argument(
        "--rows", help=f"kinds of rows, with commas, of {','.join(KINDS)}; by default all"
    )
    parser.add_argument(
        "--pods", help=f"standing pods of `scale`, with commas; by default {_comma(PODS)}"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds of `single` alone, under 40 s"
    )
    parser.add_argument("-o", "--output", choices=["text", "json"], default="text")
    parser.add_argument("--rounds", type=int, help=f"by default {ROUNDS}")
    parser.add_argument("--seed", type=int, default=1, help="of the order within the rounds")
    said = parser.parse_args(arguments)
    usual = QUICK_ROUNDS if said.quick else ROUNDS
    rounds = usual if said.rounds is None else said.rounds
    kinds = tuple((said.rows or ("single" if said.quick else ",".join(KINDS))).split(","))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        parser.error(f"--rows has no {', '.join(unknown)}; there are {', '.join(KINDS)}")
    try:
        pods = tuple(int(text) for text in (said.pods or _comma(PODS)).split(","))
    except ValueError:
        parser.error(f"--pods {said.pods}: want numbers with commas between them")
    if rounds < 1 or min(pods) < 1 or max(pods) > max(PODS):
        parser.error(f"--rounds and --pods must be at least 1, --pods at most {max(PODS)}")
    options = Options(rounds=rounds, seed=said.seed, kinds=kinds, pods=pods)
    return options, said.output == "json"


def _comma(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers))


def _run(options: Options, scratch: Path) -> Result:
    if not (PEER_PLUGINS / "ptp").exists():
        raise LabError("ptp is missing; on Debian: apt-get install containernetworking-plugins")
    result = Result()
    with ground(scratch) as made:
        for kind in options.kinds:
            say(f"{kind}:")
            result += KINDS[kind](options, made)
            made.remove_nodes()
    return result


def _document(result: Result) -> str:
    rows: dict[str, object] = {**document(result.rows)}
    return json.dumps(rows | {"memory": [asdict(one) for one in result.memory]})


def _text(result: Result) -> str:
    lines = [table(result.rows, GOALS)] if result.rows else []
    lines += [str(one) for one in result.memory]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
