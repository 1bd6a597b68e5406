"""What ipamd and its cloud child cost a node: memory, time to the first answer, and what reading
1,500 network interfaces in the child does to Allocate.

`scripts/bench/footprint` starts it. Real processes against the emulated EC2 on loopback; no rights
are needed. Exit status: 0 when every goal is met, 1 when one is missed, 2 when it cannot run.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from providers.sim import bench_footprint_azure
from providers.sim.bench_agent import Agent, AgentError, Caller, Memory, megabytes, memory_of
from providers.sim.bench_cloud import emulated_cloud
from providers.sim.bench_front import Front, crowd
from providers.sim.bench_statistics import p95
from providers.sim.http_door import Door, Responder

INSTANCE_TYPE = "c5.4xlarge"  # 8 ENIs of 30 addresses
PODS = 110  # kubelet's default limit
CROWD = 1500
QUIET_SECONDS = 8.0
PAUSE_SECONDS = 0.01

RSS_GOAL_MB = 95.0  # of a million bytes
READY_GOAL_SECONDS = 1.0
RATIO_GOAL = 2.0

SETTINGS = {
    "WARM_IP_TARGET": "10",
    "MINIMUM_IP_TARGET": "200",
    # Attachments come and go faster here than a pool for pods is made for.
    "IP_COOLDOWN_PERIOD": "1",
    "VPC_IPAMD_METRICS_PORT": "0",
    "INTROSPECTION_BIND_ADDRESS": "",
    "VPC_IPAMD_LOG_LEVEL": "info",
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """Allocates in milliseconds."""

    median_ms: float
    p95_ms: float
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that was measured."""

    ipamd: Memory
    child: Memory
    child_after_crowd: Memory
    ready_seconds: tuple[float, ...]
    idle: Latency
    crowded: Latency
    read_seconds: float

    @property
    def together(self) -> Memory:
        """Both processes at steady state."""
        return self.ipamd + self.child

    @property
    def ratio(self) -> float:
        """The median Allocate while the crowd is read, to the idle one."""
        return self.crowded.median_ms / self.idle.median_ms

    def missed(self) -> list[str]:
        """The goals that were not met."""
        goals = (
            (megabytes(self.together.rss_kb) <= RSS_GOAL_MB, "memory"),
            (statistics.median(self.ready_seconds) <= READY_GOAL_SECONDS, "ready"),
            (self.ratio <= RATIO_GOAL, "allocate"),
        )
        return [name for is_met, name in goals if not is_met]


@contextmanager
def served(respond: Responder) -> Iterator[str]:
    """A responder behind HTTP on loopback; its URL."""
    listening = socket.create_server(("127.0.0.1", 0))
    opened = Door(listening, respond)
    opened.open()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        opened.close()


def timed_allocates(
    caller: Caller, is_over: Callable[[], bool], *, name: str, within: float = 60.0
) -> list[tuple[float, float]]:
    """(moment, milliseconds) of Allocates at a steady pace; each is released again, untimed."""
    timings: list[tuple[float, float]] = []
    deadline = time.monotonic() + within
    while not is_over() and time.monotonic() < deadline:
        key = f"{name}-{len(timings)}"
        began = time.perf_counter()
        is_given = caller.allocate(key, wait_seconds=1.0)
        taken = (time.perf_counter() - began) * 1e3
        if not is_given:
            raise AgentError(f"Allocate of {key} was refused")
        timings.append((time.monotonic(), taken))
        caller.release(key)
        time.sleep(PAUSE_SECONDS)
    return timings


def latency(values: Sequence[float]) -> Latency:
    """The figures of some Allocates."""
    if not values:
        raise AgentError("no Allocate fell into the time that was to be measured")
    return Latency(
        median_ms=round(statistics.median(values), 3),
        p95_ms=round(p95(values), 3),
        calls=len(values),
    )


class Bench:
    """The phases, in their order, on one node."""

    def __init__(self, agent: Agent, front: Front, items: list[str], rounds: int) -> None:
        self._agent = agent
        self._front = front
        self._items = items
        self._rounds = rounds

    def run(self) -> Result:
        """All phases."""
        self._agent.start()
        self._agent.fill(PODS)
        time.sleep(QUIET_SECONDS)
        ipamd, child = memory_of(self._agent.pid), memory_of(self._agent.child_pid)
        idle = self._idle()
        self._agent.stop()
        after = child
        ready, crowded, reads = [], list[float](), []
        for number in range(self._rounds):
            took, values, read = self._warm_start(number)
            ready.append(round(took, 3))
            crowded += values
            reads.append(read)
            idle += self._idle()
            after = memory_of(self._agent.child_pid)
            self._agent.stop()
        return Result(
            ipamd=ipamd,
            child=child,
            child_after_crowd=after,
            ready_seconds=tuple(ready),
            idle=latency(idle),
            crowded=latency(crowded),
            read_seconds=round(statistics.median(reads), 2),
        )

    def _idle(self) -> list[float]:
        """Allocates while nothing else happens."""
        time.sleep(QUIET_SECONDS / 4)
        caller = self._agent.caller()
        until = time.monotonic() + 3.0
        timings = timed_allocates(caller, lambda: time.monotonic() > until, name="idle")
        caller.close()
        return [taken for _, taken in timings]

    def _warm_start(self, number: int) -> tuple[float, list[float], float]:
        """Seconds from exec to the first address; then Allocates while the child, at its first
        look, reads the crowd; and how long it read."""
        self._front.show_crowd(self._items)
        began = self._agent.start()
        caller = self._agent.caller()
        while not caller.allocate(f"first-{number}"):
            if time.monotonic() - began > 30:
                raise self._agent.error("no address after a warm start")
            time.sleep(0.002)
        took = time.monotonic() - began
        timings = timed_allocates(caller, lambda: self._front.ended > 0, name=f"c{number}")
        caller.release(f"first-{number}")
        caller.close()
        front = self._front
        inside = [taken for when, taken in timings if front.began <= when <= front.ended]
        return took, inside, front.ended - front.began


def measure(rounds: int) -> Result:
    """Set everything up, run the phases, and take it down."""
    shm = Path("/dev/shm")  # noqa: S108 - the store's default place, /run, is a tmpfs too
    with ExitStack() as stack:
        place = shm if shm.is_dir() else None
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fp-", dir=place)))
        control, doors = stack.enter_context(emulated_cloud(root, "providers.sim.server"))
        made = control.call(
            "make_vpc", cidr="10.0.0.0/16", subnets=[{"cidr": "10.0.0.0/22", "zone": "us-west-2a"}]
        )
        subnet_id = made["subnets"][0]["subnet_id"]
        control.call("add_node", name="n", instance_type=INSTANCE_TYPE, subnet_id=subnet_id)
        front = Front(ec2=doors["ec2"], imds=doors["imds"])
        agent = Agent(
            root,
            {
                **SETTINGS,
                "AWS_ENDPOINT_URL_EC2": stack.enter_context(served(front.as_ec2)),
                "AWS_EC2_METADATA_SERVICE_ENDPOINT": stack.enter_context(served(front.as_imds)),
            },
        )
        stack.callback(agent.stop)
        items = crowd(CROWD, subnet_id=subnet_id, vpc_id=made["vpc_id"])
        return Bench(agent, front, items, rounds).run()


def _shown(memory: Memory) -> tuple[str, str]:
    return f"{megabytes(memory.rss_kb):.1f}", f"{megabytes(memory.pss_kb):.1f}"


def table(result: Result) -> str:
    """The figures for people."""
    together = result.together
    after = f"cloud child, after it read {CROWD} ENIs"
    rows = [
        ("memory, MB", "Rss", "Pss"),
        ("ipamd", *_shown(result.ipamd)),
        ("cloud child", *_shown(result.child)),
        (f"together (goal: Rss <= {RSS_GOAL_MB:.0f})", *_shown(together)),
        (after, *_shown(result.child_after_crowd)),
        ("", "", ""),
        (f"exec to first Allocate, warm store (goal: <= {READY_GOAL_SECONDS:.0f} s)",
         f"{statistics.median(result.ready_seconds):.3f} s",
         f"most {max(result.ready_seconds):.3f} s"),
        ("", "", ""),
        ("Allocate", "median", "p95"),
        (f"idle ({result.idle.calls} calls)",
         f"{result.idle.median_ms:.3f} ms", f"{result.idle.p95_ms:.3f} ms"),
        (f"child reads {CROWD} ENIs for {result.read_seconds:.2f} s ({result.crowded.calls} calls)",
         f"{result.crowded.median_ms:.3f} ms", f"{result.crowded.p95_ms:.3f} ms"),
        (f"median to median (goal: <= {RATIO_GOAL:.0f})", f"{result.ratio:.2f}", ""),
    ]  # fmt: skip
    return "\n".join(f"{a:<58}{b!s:>12}{c!s:>15}".rstrip() for a, b, c in rows)


def document(result: Result) -> str:
    """The figures for programs."""
    figures = asdict(result) | {
        "together": asdict(result.together),
        "ratio": round(result.ratio, 3),
        "missed": result.missed(),
    }
    return json.dumps(figures, indent=2)


def _answer(cloud: str, rounds: int, *, as_json: bool) -> tuple[str, list[str]]:
    """The text to print, and the goals that were missed."""
    if cloud == "azure":
        found = bench_footprint_azure.measure(rounds)
        tell = bench_footprint_azure.document if as_json else bench_footprint_azure.table
        return tell(found), found.missed()
    result = measure(rounds)
    return (document(result) if as_json else table(result)), result.missed()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and tell."""
    parser = argparse.ArgumentParser(prog="scripts/bench/footprint", description=__doc__)
    parser.add_argument(
        "--cloud",
        choices=("aws", "azure"),
        default="aws",
        help="whose child (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="figures for programs")
    parser.add_argument(
        "--rounds", type=int, default=5, help="warm starts, or fresh imports (default 5)"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        text, missed = _answer(options.cloud, options.rounds, as_json=options.json)
    except (AgentError, OSError, subprocess.SubprocessError) as e:
        sys.stderr.write(f"footprint: {e}\n")
        return 2
    sys.stdout.write(text + "\n")
    if missed:
        sys.stderr.write(f"missed: {', '.join(missed)}\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
