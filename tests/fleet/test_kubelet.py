"""Retries of pods without an address, and what is left out of them."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from scripts.bench.fleet_sim import virtual
from scripts.bench.fleet_sim.kubelet import Kubelets
from scripts.bench.fleet_sim.loads import FOREVER, Load, Pod, make
from scripts.bench.fleet_sim.meter import Meter


class Agent:
    """Serves from `opens_at` on; says so in `hope` only where `tells`."""

    def __init__(self, opens_at: float, *, tells: bool) -> None:
        self.opens_at = opens_at
        self.tells = tells
        self.asked = 0
        self.deleted: list[str] = []

    async def add(self, pod: str) -> bool:
        self.asked += 1
        return asyncio.get_running_loop().time() >= self.opens_at

    async def hope(self) -> None:
        left = self.opens_at - asyncio.get_running_loop().time()
        if self.tells and left > 0:
            await asyncio.sleep(left)

    def delete(self, pod: str) -> None:
        self.deleted.append(pod)


def load(*pods: Pod) -> Load:
    return replace(make("burst/m5.large/default", nodes=1, seed=1), pods=pods, seconds=100.0)


def waits(*, opens_after: float, tells: bool, pods: int = 400) -> tuple[list[float], int]:
    """How long pods that start at once waited, and how often the agent was asked."""

    async def main() -> tuple[list[float], int]:
        loop = asyncio.get_running_loop()
        agent, meter = Agent(loop.time() + opens_after, tells=tells), Meter(clock=loop.time)
        kubelets = Kubelets({0: agent}, meter, seed="test")
        starting = (Pod(node=0, starts_at=0.0, ends_at=FOREVER) for _ in range(pods))
        await kubelets.play(load(*starting), loop.time())
        return meter.waits, agent.asked

    return virtual.run(main, seed="test")


@pytest.mark.parametrize("opens_after", [0.3, 1.4, 30.0])
def test_leaving_tries_out_changes_no_wait(opens_after: float) -> None:
    every, asked = waits(opens_after=opens_after, tells=False)
    some, asked_less = waits(opens_after=opens_after, tells=True)
    assert sum(some) / 400 == pytest.approx(sum(every) / 400, abs=0.08)
    assert max(some) <= opens_after + 2.0
    assert asked_less <= asked


def test_a_pod_that_is_served_at_once_waits_for_nothing() -> None:
    assert waits(opens_after=0.0, tells=True, pods=3) == ([0.0, 0.0, 0.0], 3)


def test_a_pod_that_goes_without_an_address_counts_with_its_wait() -> None:
    async def main() -> tuple[list[float], list[str]]:
        loop = asyncio.get_running_loop()
        agent = Agent(FOREVER, tells=False)
        kubelets = Kubelets({0: agent}, Meter(clock=loop.time), seed="test")
        await kubelets.play(load(Pod(node=0, starts_at=1.0, ends_at=41.0)), loop.time())
        return kubelets.never_served, agent.deleted

    waited, deleted = virtual.run(main, seed="test")
    assert waited == [pytest.approx(40.0, abs=0.01)]
    assert deleted == ["pod-0"]


def test_a_pod_that_still_waits_at_the_end_counts_too() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        kubelets = Kubelets({0: Agent(FOREVER, tells=True)}, Meter(clock=loop.time), seed="test")
        await kubelets.play(load(Pod(node=0, starts_at=1.0, ends_at=FOREVER)), loop.time())
        kubelets.stop()
        return kubelets.never_served

    assert virtual.run(main, seed="test") == [pytest.approx(99.0, abs=0.01)]
