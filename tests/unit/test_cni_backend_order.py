"""The plugin's calls in the order that a node makes them, over a real socket and a real store.

250 pods start, and stop in ways that fail on the way: the teardown fails and is asked for again, at
once, later than the cooldown, and after a restart of ipamd; then as many pods start again on the
same addresses. The kernel of the test fails on any address that comes back too early.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from ipamd.model import AddressState
from ipamd.store import Store
from tests.engine import new_store
from tests.memory_cloud import MemoryCloud
from tests.peer_plugin import (
    Backend,
    Kernel,
    ManualClock,
    Plugin,
    PodCall,
    TearDownFailed,
    serving,
)

PODS = 250
WAVE = 10
"""How many pods the runtime starts or stops side by side."""

COOLDOWN_SECONDS = 30.0

MODES = {
    "secondary": {"WARM_IP_TARGET": "5"},
    "prefixes": {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"},
}


class Node:
    """One node whose ipamd may be restarted; its cloud, kernel and store file stay."""

    def __init__(self, directory: Path, **environ: str) -> None:
        self.directory = directory
        self.environ = {**environ, "VPC_IPAMD_MAX_PODS": str(PODS)}
        self.cloud = MemoryCloud(IPv4Network("10.0.0.0/21"), max_enis=15, addresses_per_eni=50)
        self.clock = ManualClock()
        self.kernel = Kernel(self.clock, COOLDOWN_SECONDS)
        new_store(directory).close()

    async def life(self, work: Callable[[Backend], Awaitable[None]]) -> None:
        """One run of ipamd, from its start to its sudden end."""
        store = Store.open(self.directory / "ipamd.db", boot_id="boot")
        socket = self.directory / "plugin.sock"
        try:
            async with serving(store, self.cloud, socket, self.kernel, **self.environ) as backend:
                await work(backend)
        finally:
            store.close()


async def in_waves(
    pods: Sequence[PodCall], step: Callable[[PodCall], Awaitable[object]]
) -> list[object]:
    done: list[object] = []
    for first in range(0, len(pods), WAVE):
        wave = pods[first : first + WAVE]
        done += await asyncio.gather(*map(step, wave), return_exceptions=True)
    return done


async def start_all(backend: Backend, pods: Sequence[PodCall]) -> None:
    """Start them; time passes while some wait for an address that cools."""
    task = asyncio.ensure_future(in_waves(pods, backend.plugin.add))
    while not task.done():
        await asyncio.wait([task], timeout=0.02)
        if backend.engine.allocations.waiting and not task.done():
            await backend.pass_time(0.5)
    assert [error for error in task.result() if isinstance(error, BaseException)] == []


def failing(plugin: Plugin) -> Callable[[PodCall], Awaitable[object]]:
    async def step(pod: PodCall) -> object:
        try:
            await plugin.delete(pod, fails=True)
        except TearDownFailed as e:
            return e.args[0]
        raise AssertionError(f"{pod.container_id} was not known")

    return step


@pytest.mark.parametrize("mode", MODES)
def test_no_address_comes_back_early_in_the_order_that_a_node_calls(
    tmp_path: Path, mode: str
) -> None:
    node = Node(tmp_path, **MODES[mode])
    first = [PodCall(f"first-{number}") for number in range(PODS)]
    second = [PodCall(f"second-{number}") for number in range(PODS)]
    smooth, retried, stuck, over_restart = (first[n::4] for n in range(4))
    answered: dict[str, tuple[str, ...]] = {}

    async def pods_start_and_most_stop(backend: Backend) -> None:
        await start_all(backend, first)
        assert len(node.kernel.wired) == PODS
        await in_waves(smooth, backend.plugin.delete)
        failures = await in_waves(retried, failing(backend.plugin))
        assert await in_waves(retried, backend.plugin.delete) == failures
        for _ in range(5):  # 50 s in all, longer than the cooldown
            await in_waves(stuck, failing(backend.plugin))
            await backend.pass_time(10)
        await in_waves(stuck, backend.plugin.delete)
        for pod, failure in zip(
            over_restart, await in_waves(over_restart, failing(backend.plugin)), strict=True
        ):
            assert isinstance(failure, tuple)
            answered[pod.container_id] = failure
        await start_all(backend, second[: PODS // 2])

    async def the_rest_stops_after_the_restart(backend: Backend) -> None:
        for pod in over_restart:
            assert await backend.plugin.delete(pod) == answered[pod.container_id]
        await in_waves(smooth, backend.plugin.delete)  # a runtime that lost the answers
        await start_all(backend, second[PODS // 2 :])

    async def all_stands(backend: Backend) -> None:
        held = backend.engine.keeper.ledger.allocations
        assert {k.container_id for k in held} == {pod.container_id for pod in second}
        for pod in second:
            await backend.plugin.add(pod)  # asked again, each has what it had
        for pod in second:
            await backend.plugin.delete(pod)
        assert backend.engine.count(AddressState.ALLOCATED) == 0

    async def main() -> None:
        async with asyncio.timeout(60):
            await node.life(pods_start_and_most_stop)
            await node.life(the_rest_stops_after_the_restart)
            await node.life(all_stands)

    asyncio.run(main())
    assert node.kernel.wired == {}
    assert node.kernel.reuses > PODS // 4, "too few addresses came back for the test to mean much"
