"""Days drawn at random: pods, faults, restarts and other people's hands in any order, any mode.

Every invariant is looked at after every step, and every day has to end settled. A failing day is
shrunk by hypothesis to the few events that matter.
"""

from __future__ import annotations

import asyncio
import tempfile
from ipaddress import IPv6Network
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipamd.errors import CloudError, NoPrefixFree, SubnetExhausted, Throttled, Transient
from ipamd.model import AddressState
from tests import builders as b
from tests import virtual_time
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.sturdy.world import Steps, World, new_store, reopened

MODES: dict[str, dict[str, str]] = {
    "WARM_ENI": {},
    "WARM_IP": {"WARM_IP_TARGET": "3", "MINIMUM_IP_TARGET": "5"},
    "prefixes": {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"},
    "prefixes, WARM_IP": {"ENABLE_PREFIX_DELEGATION": "true", "WARM_IP_TARGET": "4"},
    "ipv6": {
        "ENABLE_IPv6": "true",
        "ENABLE_IPv4": "false",
        "ENABLE_PREFIX_DELEGATION": "true",
        "WARM_PREFIX_TARGET": "1",
    },
}

ERRORS: tuple[CloudError, ...] = (
    Transient("no answer"),
    Throttled("slow down"),
    SubnetExhausted("full", subnet_id=b.SUBNET),
    NoPrefixFree("no block", subnet_id=b.SUBNET),
    CloudError("InvalidParameterValue"),
)

METHODS = ("apply", "create_interface", "delete_interface", "snapshot", "subnets", "*")

EVENT = st.one_of(
    st.tuples(st.just("add"), st.integers(1, 7)),
    st.tuples(st.just("delete"), st.integers(1, 7)),
    st.tuples(st.just("wait"), st.sampled_from((1, 10, 45, 130))),
    st.tuples(
        st.just("fault"),
        st.tuples(
            st.sampled_from(METHODS),
            st.integers(0, len(ERRORS) - 1),
            st.sampled_from(("before", "after")),
            st.integers(1, 4),
        ),
    ),
    st.tuples(st.just("lag"), st.sampled_from((0.0, 10.0, 25.0))),
    st.tuples(st.just("restart"), st.just(0)),
    st.tuples(st.just("mode"), st.sampled_from([m for m in MODES if m != "ipv6"])),
    st.tuples(st.just("steal"), st.just(0)),
    st.tuples(st.just("fragment"), st.just(0)),
    st.tuples(st.just("look"), st.just(0)),
)


class Day:
    """Plays events on one world; pods that wait are left to do so beside the next events."""

    def __init__(self, directory: Path, mode: str) -> None:
        self._directory = directory
        self._mode = mode
        self._memory = MemoryCloud(cidr_v6=IPv6Network("2001:db8:0:1::/64"))
        self._store = new_store(directory, Steps())
        self.world = World(self._store, AsyncMemoryCloud(self._memory), **MODES[mode])
        self._next = 0
        self._adding: set[asyncio.Task[object]] = set()

    async def play(self, events: list[tuple[str, object]]) -> None:
        """The whole day, restarts included; then an hour of quiet."""
        while events:
            async with self.world.running():
                while events and events[0][0] != "restart":
                    await self._event(*events.pop(0))
                if not events:
                    await self._end()
                    return
                events.pop(0)
                await self._stop_adding()
            self._restart()
        async with self.world.running():
            await self._end()

    async def _end(self) -> None:
        self.world.cloud.lag_seconds = 0.0
        self.world.cloud.faults.clear()
        await asyncio.gather(*self._adding)
        await self.world.settle()

    async def _event(self, name: str, value: object) -> None:
        match name, value:
            case "add", int(count):
                self._add(count)
            case "delete", int(count):
                self._delete(count)
            case "wait", int(seconds):
                await asyncio.sleep(seconds)
            case "fault", (str(method), int(error), str(when), int(times)):
                # A definite refusal after the effect does not exist: only an answer can be lost.
                when = when if error == 0 else "before"
                self.world.cloud.fail(method, ERRORS[error], when=when, times=times)
            case "lag", float(seconds):
                self.world.cloud.lag_seconds = seconds
            case "steal", _:
                self._steal()
            case "fragment", _:
                self._memory.vpc.subnets[b.SUBNET].fragment()
            case "mode", str(mode) if self._mode != "ipv6":
                self.world.environ = MODES[mode]  # from the next restart on
            case "look", _:
                self.world.reconciler.look_soon()
        await asyncio.sleep(0.1)

    def _add(self, count: int) -> None:
        for _ in range(min(count, 20 - len(self.world.pods))):
            self._next += 1
            self._adding.add(asyncio.create_task(self.world.add(f"p{self._next}")))

    def _delete(self, count: int) -> None:
        served = [name for name, pod in self.world.pods.items() if pod.addresses]
        for name in served[:count]:
            self.world.delete(name)

    def _steal(self) -> None:
        idle = [
            a.address
            for a in self.world.keeper.ledger.in_state(AddressState.AVAILABLE)
            if a.prefix is None and a.address in self._memory.assigned()
        ]
        if idle:
            self._memory.steal(idle[0])
            self.world.reconciler.look_soon()

    async def _stop_adding(self) -> None:
        for task in self._adding:
            task.cancel()
        await asyncio.gather(*self._adding, return_exceptions=True)
        self._adding.clear()

    def _restart(self) -> None:
        self._store.close()
        self._store = reopened(self._directory, Steps())
        self.world.start_engine(self._store)
        for name in self.world.resume():
            self._adding.add(asyncio.create_task(self.world.add(name)))


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(mode=st.sampled_from(sorted(MODES)), events=st.lists(EVENT, min_size=3, max_size=25))
def test_a_day_of_anything_ends_settled(mode: str, events: list[tuple[str, object]]) -> None:
    async def play(directory: Path) -> None:
        await Day(directory, mode).play(list(events))

    with tempfile.TemporaryDirectory() as directory:
        virtual_time.run(lambda loop: play(Path(directory)))
