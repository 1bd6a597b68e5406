"""Pods coming and going on the nodes, and how long each waited for its address."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

from scripts.bench.fleet_sim.loads import Load, Pod
from scripts.bench.fleet_sim.meter import Meter

RETRY_SECONDS = (1.0, 2.0)
"""Between a failed sandbox and the next try. Event lists in amazon-vpc-cni-k8s issues 281, 668 and
1791 show about one try a second; kubelet's own pause after a failed sync is 10-15 s
(pkg/kubelet/pod_workers.go: 10 s, jitter 0.5). The shorter is taken: it favours an agent that fails
the ADD over one that lets it wait."""


MEMORY_SECONDS = 20.0


class Agent(Protocol):
    """A node's agent as the runtime meets it."""

    async def add(self, pod: str) -> bool:
        """Whether the pod got an address; may take its time."""

    async def hope(self) -> None:
        """Wait while trying again is certain to fail."""

    def delete(self, pod: str) -> None:
        """The pod is gone."""


class Kubelets:
    """All kubelets of a fleet."""

    def __init__(
        self,
        agents: dict[int, Agent],
        meter: Meter,
        *,
        seed: str,
        retry_seconds: tuple[float, float] = RETRY_SECONDS,
    ) -> None:
        self._agents = agents
        self._meter = meter
        self._retry_seconds = retry_seconds
        self._chance = random.Random(f"{seed}/kubelet")
        self._starting: dict[str, tuple[asyncio.Task[None], float]] = {}
        self._running: set[str] = set()
        self.never_served: list[float] = []

    async def play(self, load: Load, began: float) -> None:
        """Start and end the load's pods; `began` is the load's start on the loop's clock."""
        loop = asyncio.get_running_loop()
        for number, pod in enumerate(load.pods):
            await _sleep_until(began + pod.starts_at)
            name = f"pod-{number}"
            self._starting[name] = asyncio.create_task(self._start(name, pod)), loop.time()
            if pod.ends_at < load.seconds:
                loop.call_at(began + pod.ends_at, self._end, name, pod)
        await _sleep_until(began + load.seconds)

    def stop(self) -> None:
        """The run is over: pods that still wait count with the time they waited."""
        for name in list(self._starting):
            self._give_up(name)

    async def _start(self, name: str, pod: Pod) -> None:
        agent, loop = self._agents[pod.node], asyncio.get_running_loop()
        began = loop.time()
        while not await agent.add(name):
            failed = loop.time()
            await agent.hope()
            await asyncio.sleep(self._until_retry(loop.time() - failed))
        self._meter.waits.append(loop.time() - began)
        self._meter.use(1)
        self._running.add(name)
        del self._starting[name]

    def _until_retry(self, passed: float) -> float:
        """Seconds to the next of the tries that go on all the time, of which those in the `passed`
        seconds since a failed one are left out: they failed too, and cost more than all else."""
        # After a dozen tries it does not matter any more when the first one was.
        left = min(passed, MEMORY_SECONDS)
        while (left := left - self._chance.uniform(*self._retry_seconds)) > 0:
            continue
        return -left

    def _end(self, name: str, pod: Pod) -> None:
        if name in self._starting:
            self._give_up(name)
        elif name in self._running:
            self._running.discard(name)
            self._meter.use(-1)
        self._agents[pod.node].delete(name)

    def _give_up(self, name: str) -> None:
        task, began = self._starting.pop(name)
        task.cancel()
        self.never_served.append(asyncio.get_running_loop().time() - began)


async def _sleep_until(when: float) -> None:
    seconds = when - asyncio.get_running_loop().time()
    if seconds > 0:
        await asyncio.sleep(seconds)
