"""The kill test's two halves: workers that drive verbs like a runtime, and a killer beside them.

Everything that chance decides is drawn from one seed; what the threads make of it differs from run
to run. The killer waits a drawn part of a verb's usual time, stops launcher and daemons so that
nothing moves, looks how far the verb got, kills its victim and lets the others go on.
"""

from __future__ import annotations

import enum
import os
import queue
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from providers.sim import netns
from providers.sim.lab_process import Daemon, is_listening
from providers.sim.runtime import CniCall, Pod
from tests.node.ground import Site, code_of, details_of
from tests.node.readings import has_default_route, read_kernel

SEED_VARIABLE = "VPC_IPAMD_KILL_SEED"
RETRY_SECONDS = 0.1
"""A runtime waits longer before it sends a failed DEL again; the test has no time for that."""


class Victim(enum.Enum):
    """What is killed."""

    LAUNCHER = "launcher"
    IPAMD = "ipamd"
    CLOUD = "cloud child"
    CNID = "vpc-cnid"


# The launcher least: an ADD without its launcher has failed, and four of five are to succeed.
WEIGHTS = {Victim.LAUNCHER: 15, Victim.IPAMD: 30, Victim.CLOUD: 20, Victim.CNID: 35}


class Stage(enum.Enum):
    """How far a verb was when the victim died, as ledger and kernel show it."""

    NOTHING = "no allocation yet"
    ALLOCATED = "allocated without link"
    LINKED = "link without route"
    ROUTED = "route, pod not finished"
    WIRED = "wired"
    UNROUTED = "link left, route gone"
    UNWIRED = "unwired, not released"
    RELEASED = "released, not answered"
    AWAY = "a daemon was still starting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A verb that was just started, which the killer may choose."""

    verb: str
    pod: Pod
    process: subprocess.Popen[bytes]
    started: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kill:
    """One kill that hit a verb in flight."""

    victim: Victim
    verb: str
    stage: Stage
    after_ms: float
    container_id: str


@dataclass(slots=True)
class Tally:
    """What happened, for the report and the assertions. Written under `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    verbs: int = 0
    adds: int = 0
    adds_ok: int = 0
    dels: int = 0
    dels_sent_again: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"ADD": [], "DEL": []})


def stage_of(site: Site, verb: str, pod: Pod) -> Stage:
    """How far the verb is, while nothing moves."""
    sockets = (site.node.ipamd_socket, site.node.cni_socket)
    if not all(map(is_listening, sockets)):
        return Stage.AWAY
    kernel = read_kernel(site.node.netns_path)
    veth = kernel.veth_of(pod.container_id)
    is_allocated = pod.container_id in site.ledger().allocations
    if veth is None:
        if verb == "ADD":
            return Stage.ALLOCATED if is_allocated else Stage.NOTHING
        return Stage.UNWIRED if is_allocated else Stage.RELEASED
    if veth.name not in kernel.routes.values():
        return Stage.LINKED if verb == "ADD" else Stage.UNROUTED
    return Stage.WIRED if has_default_route(pod.netns_path) else Stage.ROUTED


class Killer:
    """One thread that kills; verbs are offered to it as they start."""

    def __init__(self, site: Site, rng: random.Random, usual_seconds: Mapping[str, float]) -> None:
        self._site = site
        self._rng = rng
        self._usual = usual_seconds
        self._offers: queue.Queue[Offer] = queue.Queue(maxsize=1)
        self._is_free = threading.Event()
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self.kills: list[Kill] = []
        self.missed = 0
        self.error: BaseException | None = None

    def start(self) -> None:
        """Begin to kill."""
        self._is_free.set()
        self._thread.start()

    def stop(self) -> None:
        """Stop killing, leave every daemon running and listening; raises what went wrong."""
        self._is_stopping.set()
        self._thread.join()
        if self.error is not None:
            raise self.error
        self._await_daemons()

    def offer(self, verb: str, pod: Pod) -> Callable[[subprocess.Popen[bytes]], None]:
        """An `on_start` for the runtime's call."""

        def started(process: subprocess.Popen[bytes]) -> None:
            if self._is_free.is_set():
                made = Offer(verb=verb, pod=pod, process=process, started=time.monotonic())
                with suppress(queue.Full):
                    self._offers.put_nowait(made)

        return started

    def _run(self) -> None:
        try:
            while not self._is_stopping.is_set():
                with suppress(queue.Empty):
                    chosen = self._offers.get(timeout=0.05)
                    self._is_free.clear()
                    self._carry_out(chosen)
                    self._is_free.set()
        except BaseException as e:  # noqa: BLE001 - raised again by stop()
            self.error = e

    def _carry_out(self, chosen: Offer) -> None:
        victim = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        self._await_moment(chosen)
        with self._stopped(chosen) as is_in_flight:
            after = time.monotonic() - chosen.started
            if not is_in_flight:
                self.missed += 1
                return
            stage = stage_of(self._site, chosen.verb, chosen.pod)
            if not self._kill(victim, chosen):
                return
        self.kills.append(
            Kill(
                victim=victim,
                verb=chosen.verb,
                stage=stage,
                after_ms=after * 1000,
                container_id=chosen.pod.container_id,
            )
        )
        self._restart_dead()
        # Now and then the next kill may come while the killed one still starts.
        if self._rng.random() > 0.15:
            self._await_daemons()

    def _await_moment(self, chosen: Offer) -> None:
        """Half of the kills come at any time of the verb's usual length. The other half of an ADD's
        come just after its allocation: what follows is over in a millisecond or two, and hardly
        ever hit by chance."""
        if chosen.verb == "ADD" and self._rng.random() < 0.5:
            _await_allocation(self._site.store, chosen, seconds=4 * self._usual["ADD"])
            time.sleep(self._rng.uniform(0.0, 0.002))
        else:
            _sleep_until(chosen.started + self._rng.uniform(0.0, self._usual[chosen.verb]))

    @contextmanager
    def _stopped(self, chosen: Offer) -> Iterator[bool]:
        """Nothing of the verb moves inside; yields whether its launcher still ran.

        The launcher is stopped first: it cannot end any more once it is seen stopped.
        """
        chosen.process.send_signal(signal.SIGSTOP)
        is_in_flight = chosen.process.poll() is None and _is_seen_stopped(chosen.process.pid)
        pids = [d.pid for d in self._daemons() if d.is_running]
        try:
            for pid in pids if is_in_flight else []:
                os.kill(pid, signal.SIGSTOP)
                _is_seen_stopped(pid)
            yield is_in_flight
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)
            chosen.process.send_signal(signal.SIGCONT)

    def _kill(self, victim: Victim, chosen: Offer) -> bool:
        """True if there was something to kill."""
        match victim:
            case Victim.LAUNCHER:
                chosen.process.send_signal(signal.SIGKILL)
            case Victim.IPAMD:
                self._site.node.ipamd.kill()
            case Victim.CNID:
                self._site.node.cnid.kill()
            case Victim.CLOUD:
                child = cloud_child_of(self._site.node.ipamd.pid)
                if child is None:
                    return False
                os.kill(child, signal.SIGKILL)
        return True

    def _daemons(self) -> tuple[Daemon, Daemon]:
        return self._site.node.ipamd, self._site.node.cnid

    def _restart_dead(self) -> None:
        for daemon in self._daemons():
            if not daemon.is_running:
                daemon.start()

    def _await_daemons(self) -> None:
        node = self._site.node
        node.ipamd.wait_ready(lambda: is_listening(node.ipamd_socket))
        node.cnid.wait_ready(lambda: is_listening(node.cni_socket))


def _sleep_until(moment: float) -> None:
    pause = moment - time.monotonic()
    if pause > 0:
        time.sleep(pause)


def _await_allocation(store: Path, chosen: Offer, *, seconds: float) -> None:
    """Until the ledger has the pod's allocation, or the time is up."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True, isolation_level=None)) as db:
        question = "SELECT 1 FROM allocations WHERE container_id = ?"
        while time.monotonic() < chosen.started + seconds:
            if db.execute(question, (chosen.pod.container_id,)).fetchone():
                return


def _is_seen_stopped(pid: int) -> bool:
    """Wait until every thread of a process is stopped; False if the process ends instead.

    A thread in the middle of a system call stops when that returns, so the wait is bounded.
    """
    deadline = time.monotonic() + 0.1
    while True:
        states = _thread_states(pid)
        if not states or "Z" in states or "X" in states:
            return False
        if states == {"T"} or time.monotonic() > deadline:
            return True
        time.sleep(0.0005)


def _thread_states(pid: int) -> set[str]:
    states = set()
    with suppress(OSError):
        for stat in Path(f"/proc/{pid}/task").glob("*/stat"):
            states.add(stat.read_text().rpartition(")")[2].split()[0])
    return states


def cloud_child_of(pid: int) -> int | None:
    """The cloud child of an ipamd; None while it has none."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and b"ipamd.cloud_process" in (entry / "cmdline").read_bytes():
                return int(entry.name)
    return None


class Driver:
    """Workers that start and stop pods as a runtime does, several at a time."""

    def __init__(self, site: Site, *, workers: int, pods_each: int, seed: int) -> None:
        self._site = site
        self._pods_each = pods_each
        self._rngs = [random.Random(f"{seed}/{n}") for n in range(workers)]
        self._names = iter(range(10**6))
        self.killer: Killer | None = None
        self.tally = Tally()
        self.live: dict[str, tuple[Pod, str]] = {}  # container id -> pod, address

    def usual_seconds(self) -> dict[str, float]:
        """The median time of each verb so far."""
        return {verb: median(taken) for verb, taken in self.tally.seconds.items()}

    def run(self, *, is_enough: Callable[[], bool]) -> None:
        """Drive verbs until it is enough, then return once every worker has finished its own."""
        errors: list[BaseException] = []

        def work(rng: random.Random) -> None:
            try:
                self._work(rng, is_enough)
            except BaseException as e:  # noqa: BLE001 - raised below, in the test's thread
                errors.append(e)

        threads = [threading.Thread(target=work, args=(rng,)) for rng in self._rngs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def stop_all(self) -> None:
        """End every pod that is left."""
        for pod, _ in tuple(self.live.values()):
            self._delete(pod)

    def _work(self, rng: random.Random, is_enough: Callable[[], bool]) -> None:
        mine: list[Pod] = []
        while not is_enough():
            with self.tally.lock:
                self.tally.verbs += 1
            if not mine or (len(mine) < self._pods_each and rng.random() < 0.5):
                mine += self._add()
            else:
                self._delete(mine.pop(rng.randrange(len(mine))))

    def _add(self) -> list[Pod]:
        with self.tally.lock:
            name = f"pod-{next(self._names)}"
            self.tally.adds += 1
        pod = self._site.runtime.new_pod(name)
        call = self._site.runtime.add(pod, on_start=self._on_start("ADD", pod))
        if not call.is_ok:
            self._note_failure(call)
            self._delete_until_done(pod)
            self._site.runtime.remove_namespace(pod)
            return []
        address = call.addresses[0]
        self._note_success(pod, address, call.seconds)
        if not self._site.can_reach_router(pod, address):
            self._violation(f"{pod.name} has {address} but does not reach the router")
        return [pod]

    def _delete(self, pod: Pod) -> None:
        with self.tally.lock:
            self.tally.dels += 1
            del self.live[pod.container_id]  # from here on another pod may get its address
        self._delete_until_done(pod)
        self._site.runtime.remove_namespace(pod)
        for _ in range(2):  # containerd's two DELs without a namespace
            call = self._site.runtime.delete(pod, has_netns=False)
            if not call.is_ok:
                self._violation(f"a repeated DEL of {pod.name} failed: {call}")

    def _delete_until_done(self, pod: Pod) -> None:
        while not (
            call := self._site.runtime.delete(pod, on_start=self._on_start("DEL", pod))
        ).is_ok:
            with self.tally.lock:
                self.tally.dels_sent_again += 1
                self.tally.failures[_reason(call)] += 1
            time.sleep(RETRY_SECONDS)
        with self.tally.lock:
            self.tally.seconds["DEL"].append(call.seconds)

    def _on_start(self, verb: str, pod: Pod) -> Callable[[subprocess.Popen[bytes]], None] | None:
        return self.killer.offer(verb, pod) if self.killer else None

    def _note_success(self, pod: Pod, address: str, seconds: float) -> None:
        with self.tally.lock:
            holders = [p.name for p, held in self.live.values() if held == address]
            self.live[pod.container_id] = (pod, address)
            self.tally.adds_ok += 1
            self.tally.seconds["ADD"].append(seconds)
        if holders:
            self._violation(f"{address} went to {pod.name} while {holders} had it")
        cookie = self._site.ledger().allocations.get(pod.container_id)
        if cookie is None or cookie.netns_cookie != netns.cookie(pod.netns_path):
            self._violation(f"the ledger does not hold {address} for {pod.name}: {cookie}")

    def _note_failure(self, call: CniCall) -> None:
        with self.tally.lock:
            self.tally.failures[_reason(call)] += 1

    def _violation(self, text: str) -> None:
        with self.tally.lock:
            self.tally.violations.append(text)


def _reason(call: CniCall) -> str:
    if call.exit_code == -signal.SIGKILL:
        return f"{call.command}: its launcher was killed"
    return f"{call.command}: code {code_of(call)}, {details_of(call)[:120]}"
