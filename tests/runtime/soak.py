"""Many sandboxes come and go while everything that serves them is killed at random.

Workers do what a kubelet does: start a sandbox; where that fails, look what the runtime has of it,
end that and try again under the next attempt; end a sandbox again and again until both calls work.
A killer beside them sends SIGKILL to whatever it draws and starts daemons anew. What chance decides
is drawn from one seed; what the threads make of it differs from run to run.

    scripts/bench/soak --sandboxes 200 --seed 7
"""

from __future__ import annotations

import enum
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from cri_api import runtime_pb2 as pb

from providers.sim.lab_process import Daemon, is_listening
from tests.node.kill_driver import cloud_child_of
from tests.runtime.cri import Refused, Sandbox
from tests.runtime.world import World

T = TypeVar("T")

WAVE = 20
STAYING = 5
"""Sandboxes of each wave that outlive the next one, so that kills also meet pods that just run."""

PAUSE_SECONDS = 0.2
"""Before a failed call is repeated. A kubelet waits for seconds; the soak has no time for that."""

MOST_TRIES = 60
"""Of one call; past that it is not the kills that make it fail."""

CALM_SECONDS = (0.02, 0.25)
"""Between two kills, at least and at most."""

AWAY_SECONDS = (0.0, 0.4)
"""How long a killed daemon stays away."""

HASTE = 0.15
"""How often the next kill does not wait until everybody serves again. Always, and on a busy machine
nothing would come to pass between two kills."""

LAUNCHER_SECONDS = 0.3
"""How long the killer looks for a launcher that runs; one takes 5 to 20 ms."""


class Victim(enum.Enum):
    """What is killed."""

    LAUNCHER = "launcher"
    CNID = "vpc-cnid"
    IPAMD = "ipamd"
    CLOUD = "cloud child"
    CONTAINERD = "containerd"


WEIGHTS = {
    Victim.LAUNCHER: 30,
    Victim.CNID: 20,
    Victim.IPAMD: 20,
    Victim.CLOUD: 15,
    Victim.CONTAINERD: 15,
}


@dataclass(slots=True)
class Tally:
    """What happened, for the report and the assertions. Written under `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    started: int = 0
    adopted: int = 0
    ended: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    kills: Counter[Victim] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def note(self, refusal: Refused, what: str) -> None:
        """A call that failed."""
        with self.lock:
            self.failures[f"{what}: {_reason(refusal)}"] += 1

    def violation(self, text: str) -> None:
        """Something that must never happen."""
        with self.lock:
            self.violations.append(text)


class Killer:
    """One thread that kills; every daemon runs again after `stop`."""

    def __init__(self, world: World, rng: Random, tally: Tally) -> None:
        self._world = world
        self._rng = rng
        self._tally = tally
        self._is_stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="killer", daemon=True)
        self._error: BaseException | None = None

    def start(self) -> None:
        """Begin to kill."""
        self._thread.start()

    def stop(self) -> None:
        """Stop killing and wait until every daemon serves; raises what went wrong."""
        self._is_stopping.set()
        self._thread.join()
        if self._error is not None:
            raise self._error
        self._await_daemons()

    def _run(self) -> None:
        try:
            while not self._is_stopping.wait(self._rng.uniform(*CALM_SECONDS)):
                victim = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
                if self._kill(victim):
                    with self._tally.lock:
                        self._tally.kills[victim] += 1
                if self._rng.random() >= HASTE:
                    self._await_daemons()
        except BaseException as e:  # noqa: BLE001 - raised again by stop()
            self._error = e

    def _kill(self, victim: Victim) -> bool:
        """True if there was something to kill."""
        match victim:
            case Victim.LAUNCHER:
                return self._kill_launcher()
            case Victim.CLOUD:
                child = cloud_child_of(self._world.node.ipamd.pid)
                return child is not None and _killed(child)
            case Victim.CNID:
                self._replace(self._world.node.cnid)
            case Victim.IPAMD:
                self._replace(self._world.node.ipamd)
            case Victim.CONTAINERD:
                self._replace(self._world.containerd.daemon)
        return True

    def _kill_launcher(self) -> bool:
        deadline = time.monotonic() + LAUNCHER_SECONDS
        while time.monotonic() < deadline:
            running = self._world.containerd.children(str(self._world.plugin))
            if running:
                return _killed(self._rng.choice(running))
        return False

    def _await_daemons(self) -> None:
        node = self._world.node
        node.ipamd.wait_ready(lambda: is_listening(node.ipamd_socket))
        node.cnid.wait_ready(lambda: is_listening(node.cni_socket))
        self._world.containerd.await_ready()

    def _replace(self, daemon: Daemon) -> None:
        daemon.kill()
        time.sleep(self._rng.uniform(*AWAY_SECONDS))
        daemon.start()


class Soak:
    """One run: waves of sandboxes on one node."""

    def __init__(self, world: World, *, seed: int, wave: int = WAVE) -> None:
        self.tally = Tally()
        self.live: dict[str, Sandbox] = {}
        self._world = world
        self._wave = wave
        self._rng = Random(f"{seed}/soak")
        self._killer = Killer(world, Random(f"{seed}/kills"), self.tally)
        self._lock = threading.Lock()

    def run(self, count: int) -> None:
        """Start `count` sandboxes wave by wave, ending most of the earlier ones beside them."""
        self._killer.start()
        try:
            with ThreadPoolExecutor(2 * self._wave) as pool:
                for first in range(0, count, self._wave):
                    names = [f"pod-{n}" for n in range(first, min(first + self._wave, count))]
                    leaving = self._leaving()
                    tasks = [pool.submit(self._start, name) for name in names]
                    tasks += [pool.submit(self._end, sandbox) for sandbox in leaving]
                    for task in tasks:
                        task.result()
        finally:
            self._killer.stop()

    def end_all(self) -> None:
        """End every sandbox that is left."""
        with ThreadPoolExecutor(self._wave) as pool:
            for task in [pool.submit(self._end, one) for one in tuple(self.live.values())]:
                task.result()

    def report(self) -> str:
        """What happened, for people."""
        tally = self.tally
        usual = sorted(tally.seconds)[len(tally.seconds) // 2] if tally.seconds else 0.0
        kills = ", ".join(f"{v.value} {tally.kills[v]}" for v in Victim)
        counts = (
            f"{tally.started} started, {tally.ended} ended, {tally.adopted} whose answer was lost"
        )
        lines = [
            f"sandboxes: {counts}; median start {usual * 1000:.0f} ms",
            f"kills: {tally.kills.total()} ({kills})",
            *(f"failed {n:3} x {reason}" for reason, n in tally.failures.most_common()),
            *(f"BROKEN {text}" for text in tally.violations),
        ]
        return "\n".join(lines)

    def _leaving(self) -> list[Sandbox]:
        """Who goes now: all but some of those that live."""
        running = sorted(self.live.values(), key=lambda one: one.name)
        self._rng.shuffle(running)
        return running[STAYING:]

    def _start(self, name: str) -> None:
        began = time.monotonic()
        sandbox = self._started(name)
        with self.tally.lock:
            self.tally.started += 1
            self.tally.seconds.append(time.monotonic() - began)
        with self._lock:
            holders = [one.name for one in self.live.values() if one.ip == sandbox.ip]
            self.live[sandbox.sandbox_id] = sandbox
        if holders:
            self.tally.violation(f"{sandbox.ip} went to {name} while {holders} had it")
        if not self._world.can_reach_router(sandbox):
            self.tally.violation(f"{name} has {sandbox.ip} and does not reach the router")

    def _started(self, name: str) -> Sandbox:
        for attempt in range(MOST_TRIES):
            config = self._world.cri.config(name, attempt=attempt)
            try:
                return self._world.cri.run(config)
            except Refused as refusal:
                self.tally.note(refusal, "start")
            time.sleep(PAUSE_SECONDS)
            found = self._left_of(name)
            if found is not None:
                return found
        raise AssertionError(f"{name} did not start in {MOST_TRIES} tries\n{self.report()}")

    def _left_of(self, name: str) -> Sandbox | None:
        """The sandbox of an answer that was lost; what else the runtime has of the pod is ended."""
        found = None
        for sandbox_id, one in _patient(self._world.cri.listed, self._noted("list")).items():
            if one.name != name:
                continue
            if one.is_ready and found is None:
                found = self._adopted(sandbox_id, self._world.cri.config(name, attempt=one.attempt))
            else:
                self._end_id(sandbox_id)
        return found

    def _adopted(self, sandbox_id: str, config: pb.PodSandboxConfig) -> Sandbox:
        found = _patient(lambda: self._world.cri.look(sandbox_id, config), self._noted("look"))
        with self.tally.lock:
            self.tally.adopted += 1
        return found

    def _end(self, sandbox: Sandbox) -> None:
        with self._lock:
            del self.live[sandbox.sandbox_id]  # from here on another pod may get its address
        self._end_id(sandbox.sandbox_id)
        with self.tally.lock:
            self.tally.ended += 1

    def _end_id(self, sandbox_id: str) -> None:
        _patient(lambda: self._world.cri.stop(sandbox_id), self._noted("stop"))
        _patient(lambda: self._world.cri.remove(sandbox_id), self._noted("remove"))

    def _noted(self, what: str) -> Callable[[Refused], None]:
        return lambda refusal: self.tally.note(refusal, what)


def _patient(call: Callable[[], T], note: Callable[[Refused], None]) -> T:
    """The call's result once it works; AssertionError after too many tries."""
    for left in reversed(range(MOST_TRIES)):
        try:
            return call()
        except Refused as refusal:
            note(refusal)
            if left == 0:
                raise AssertionError(f"refused {MOST_TRIES} times: {refusal}") from refusal
        time.sleep(PAUSE_SECONDS)
    raise AssertionError("unreachable")


def _killed(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
        return True
    return False


def _reason(refusal: Refused) -> str:
    """The failure without what differs each time: ids and addresses of memory."""
    text = refusal.text.partition("; last error")[0]
    words = [word for word in text.split() if len(word.strip('":,/')) < 60]
    return f"{refusal.code.name} {' '.join(words)[:160]}"
