"""The engine on a cloud whose writes are slow, rare, refused half way or seen twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from ipamd.cloud import AddressChange, AddressOutcome, Subnet
from ipamd.errors import Busy, Denied, Throttled, Transient
from ipamd.model import AddressState, SubnetId
from ipamd.store import Store
from tests import builders as b
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.unit.test_engine import play, settle
from tests.virtual_time import VirtualLoop, run

S = AddressState


class Watched(MemoryCloud):
    """A memory cloud that keeps the changes it was asked for."""

    def __init__(self, **more: int) -> None:
        super().__init__(**more)  # type: ignore[arg-type]
        self.changes: list[AddressChange] = []

    def apply(self, change: AddressChange) -> AddressOutcome:
        self.changes.append(change)
        return super().apply(change)


@pytest.mark.parametrize(
    ("resync", "looks"), [((300.0, 600.0), range(7, 13)), (None, range(1, 2))], ids=["own", "EC2"]
)
def test_looks_without_a_reason_come_as_often_as_the_cloud_needs_them(
    tmp_path: Path, resync: tuple[float, float] | None, looks: range
) -> None:
    memory = Watched()
    if resync:
        memory.able = replace(memory.able, resync_seconds=resync)

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(3600.0)
        assert engine.cloud.calls["snapshot"] in looks

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="3")


def test_what_is_added_is_named_by_the_token_of_its_intent(tmp_path: Path) -> None:
    memory = Watched()

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        tokens: set[str] = set()
        engine.keeper.listen(
            lambda change, after: tokens.update(i.token for i in change.put_intents)
        )
        await settle()
        assert [c.token in tokens for c in memory.changes] == [True]

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="3")


def test_a_busy_eni_is_asked_again_when_the_cloud_says_and_no_look_is_spent_on_it(
    tmp_path: Path,
) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.cloud.fail("apply", Busy("AnotherOperationInProgress", retry_after_seconds=6.0))
        await settle(5.5)
        assert (engine.count(S.AVAILABLE), engine.cloud.calls["apply"]) == (0, 1)
        await settle(2.0)
        assert (engine.count(S.AVAILABLE), engine.cloud.calls["apply"]) == (3, 2)
        assert engine.cloud.calls["snapshot"] == 1

    play(tmp_path, scenario, WARM_IP_TARGET="3")


def test_an_eni_that_cannot_be_taken_off_gives_back_what_is_idle_and_stays(tmp_path: Path) -> None:
    memory = Watched(max_enis=2)

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        for n in range(15):
            await engine.add(f"c{n}")
        engine.reconciler._know(replace(memory.able, can_create_interfaces=False))
        for n in range(15):
            engine.allocations.release(b.key(f"c{n}"))
        await settle(1800.0)
        assert engine.cloud.calls["delete_interface"] == 0
        assert (len(engine.keeper.ledger.enis), engine.count(S.AVAILABLE)) == (2, 3)
        assert engine.count(S.QUARANTINED) == 0

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="3")


class Named(Watched):
    """A cloud that writes ENIs as a whole, and knows by its token what a change has added."""

    def __init__(self) -> None:
        super().__init__()
        self.able = replace(self.able, replaces_whole_interface=True, write_seconds=5.0)
        self._done: dict[str, AddressOutcome] = {}

    def apply(self, change: AddressChange) -> AddressOutcome:
        if not change.token:
            return super().apply(change)
        if change.token not in self._done:
            self._done[change.token] = super().apply(change)
        return self._done[change.token]


def tokens_of(engine: Engine) -> set[str]:
    """Those of all assigns from now on."""
    seen: set[str] = set()
    engine.keeper.listen(lambda change, after: seen.update(i.token for i in change.put_intents))
    return seen


def test_an_assign_that_a_restart_cut_off_is_waited_for_and_not_made_twice(tmp_path: Path) -> None:
    memory = Named()
    store = new_store(tmp_path)

    async def main(loop: VirtualLoop) -> None:
        cloud = AsyncMemoryCloud(memory, delay_seconds=1.0)
        engine = Engine(store, cloud, WARM_IP_TARGET="3")
        async with running(engine):
            await settle(5.5)
            under_way = [call for call in cloud.in_flight if call[0] == "apply"]
            assert len(under_way) == 1
        store.close()
        again = Store.open(tmp_path / "ipamd.db", boot_id="boot")
        engine = Engine(again, cloud, WARM_IP_TARGET="3")
        asked = tokens_of(engine)
        async with running(engine):
            await settle(10.0)
            cloud.land(under_way)  # it took longer than the look of the start
            await settle(120.0)
            engine.check()
            assert (engine.count(S.AVAILABLE), asked) == (3, set())
        again.close()

    run(main)


FAILURES = {
    "no answer": ("before", Transient("no answer"), 1, 3),
    "no answer, then throttled": ("after", Throttled("slow down"), 1, 3),
    "never an answer, so that a look has to tell": ("after", Transient("no answer"), 30, 3),
    "nothing done, then refused": ("before", Denied("no right to join the subnet"), 1, 0),
}


@pytest.mark.parametrize("case", FAILURES)
def test_an_assign_without_an_answer_is_asked_for_again_by_its_token(
    tmp_path: Path, case: str
) -> None:
    when, error, times, available = FAILURES[case]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.cloud.fail("apply", Transient("no answer"), when=when)
        engine.cloud.fail("apply", error, times=times)
        asked = tokens_of(engine)
        await settle(8.0)
        assert (engine.count(S.AVAILABLE), len(asked)) == (available, 1)

    play(tmp_path, scenario, cloud=Named(), WARM_IP_TARGET="3")


@pytest.mark.parametrize("has_landed", [True, False])
def test_an_unassign_that_a_restart_cut_off_is_repeated_and_in_doubt_until_its_answer(
    tmp_path: Path, *, has_landed: bool
) -> None:
    memory = Named()
    store = new_store(tmp_path)

    async def main(loop: VirtualLoop) -> None:
        cloud = AsyncMemoryCloud(memory, delay_seconds=1.0)
        engine = Engine(store, cloud, MINIMUM_IP_TARGET="6")
        async with running(engine):
            await settle(60.0)
        engine = Engine(store, cloud, WARM_IP_TARGET="3")
        async with running(engine):
            await settle(5.5)
            under_way = [call for call in cloud.in_flight if call[0] == "apply"]
            assert (len(under_way), engine.count(S.UNASSIGNING)) == (1, 3)
        cloud.land(under_way if has_landed else [])
        cloud.fail("apply", Busy("AnotherOperationInProgress"))
        engine = Engine(store, cloud, WARM_IP_TARGET="3")
        engine.keeper.listen(lambda change, after: engine.check())
        async with running(engine):
            await settle(7.0)
            assert engine.count(S.AVAILABLE) == 3, (
                "a refusal now does not give back what may be gone"
            )
            await settle(300.0)
            assert (engine.count(S.AVAILABLE), len(memory.assigned())) == (3, 3)
        store.close()

    run(main)


class Boastful(Watched):
    """A cloud that counts more free addresses than it gives, and is slow to refuse."""

    def __init__(self, free: int = 20) -> None:
        super().__init__(max_enis=1, addresses_per_eni=256)
        self.able = replace(
            self.able, can_create_interfaces=False, replaces_whole_interface=True, write_seconds=5.0
        )
        del self.free[free:]

    def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        return tuple(replace(s, free_addresses=200) for s in super().subnets(subnet_ids))


def test_after_a_refusal_pods_that_wait_are_asked_for_and_nothing_ahead_of_others(
    tmp_path: Path,
) -> None:
    memory = Boastful()

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await asyncio.gather(*(engine.add(f"c{n}") for n in range(15)))
        assert [change.add for change in memory.changes] == [184, 16]

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="250", VPC_IPAMD_MAX_PODS="250")


def test_a_full_subnet_is_tried_seldom_while_nobody_waits_and_soon_for_a_pod(
    tmp_path: Path,
) -> None:
    memory = Boastful(free=0)

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(3600.0)
        assert len(memory.changes) < 25, "each is a write from the budget of all nodes"
        engine.cloud.cloud.free.extend(list(b.CIDR)[20:30])
        granted = await engine.add("c1", wait=35.0)
        assert granted.allocation.address in b.CIDR

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="16")
