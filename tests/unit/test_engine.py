"""The pool engine in virtual time: growth, waiting, shortage, faults, restarts."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from ipamd.cloud import EniStatus
from ipamd.errors import (
    AttemptRevoked,
    CloudError,
    Denied,
    ForeignStore,
    LimitReached,
    NoAddressAvailable,
    NotFound,
    NotReady,
    SubnetExhausted,
    Throttled,
    Transient,
)
from ipamd.model import AddressState, AttemptId, EniId, InstanceId
from ipamd.pool.ledger import Change, Intent, IntentKind
from ipamd.store import Store
from tests import builders as b
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.virtual_time import VirtualLoop, run

S = AddressState

Scenario = Callable[[Engine, VirtualLoop], Awaitable[None]]


def play(
    tmp_path: Path, scenario: Scenario, *, cloud: MemoryCloud | None = None, **environ: str
) -> None:
    """Run one scenario on a fresh engine and check the invariants after every commit."""
    store = new_store(tmp_path)

    async def main(loop: VirtualLoop) -> None:
        engine = Engine(store, AsyncMemoryCloud(cloud or MemoryCloud()), **environ)
        engine.keeper.listen(lambda change, after: engine.check())
        async with running(engine):
            await scenario(engine, loop)

    try:
        run(main)
    finally:
        store.close()


async def settle(seconds: float = 5.0) -> None:
    await asyncio.sleep(seconds)


def test_a_node_comes_up_with_its_warm_addresses(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        assert engine.count(S.AVAILABLE) == 3
        assert engine.cloud.calls["apply"] == 1

    play(tmp_path, scenario, WARM_IP_TARGET="3")


def test_an_add_on_an_empty_pool_waits_for_the_growth_it_causes(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        began = loop.time()
        granted = await asyncio.gather(*(engine.add(f"c{n}") for n in range(12)))
        assert len({g.allocation.address for g in granted}) == 12
        assert loop.time() - began < 1.0, "woken by demand, not by a tick"

    play(tmp_path, scenario, WARM_IP_TARGET="1")


def test_a_burst_is_asked_for_in_one_call_for_each_eni(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        before = engine.cloud.calls.copy()
        await asyncio.gather(*(engine.add(f"c{n}") for n in range(20)))
        assert engine.cloud.calls["create_interface"] - before["create_interface"] == 2
        assert engine.cloud.calls["apply"] - before["apply"] <= 2

    play(tmp_path, scenario, WARM_IP_TARGET="1")


def test_those_who_wait_are_served_in_the_order_they_came(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await asyncio.gather(*(engine.add(f"full{n}") for n in range(27)))
        served: list[str] = []

        async def add(name: str) -> None:
            await engine.add(name, wait=300.0)
            served.append(name)

        tasks = []
        for name in ("first", "second", "third"):
            tasks.append(asyncio.create_task(add(name)))
            await settle(0.1)
        for n in range(3):
            engine.allocations.release(b.key(f"full{n}"))
            await settle(40.0)
        await asyncio.gather(*tasks)
        assert served == ["first", "second", "third"]

    play(tmp_path, scenario)


def test_a_released_address_cools_before_it_is_used_again(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await asyncio.gather(*(engine.add(f"c{n}") for n in range(27)))
        engine.allocations.release(b.key("c0"))
        began = loop.time()
        await engine.add("next", wait=60.0)
        assert 30.0 <= loop.time() - began < 31.0

    play(tmp_path, scenario)


def test_a_full_node_says_so_and_when_to_ask_again(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await asyncio.gather(*(engine.add(f"c{n}") for n in range(27)))
        with pytest.raises(NoAddressAvailable, match="the node is full: 27 of max 27 pods"):
            await engine.add("c27", wait=2.0)

    play(tmp_path, scenario)


def test_a_full_subnet_is_named_and_an_address_freed_there_is_found(tmp_path: Path) -> None:
    small = MemoryCloud(IPv4Network("10.0.0.0/28"))  # 11 usable, one of them the primary's

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        taken, small.free[:] = list(small.free), []
        for n in range(engine.count(S.AVAILABLE)):
            await engine.add(f"c{n}")
        with pytest.raises(NoAddressAvailable) as caught:
            await engine.add("late", wait=5.0)
        assert caught.value.subnet_id == b.SUBNET
        assert f"subnet {b.SUBNET} has no free address" in str(caught.value)
        small.free.append(taken[0])
        await engine.add("late", wait=60.0)

    play(tmp_path, scenario, cloud=small, WARM_IP_TARGET="2")


def test_a_request_larger_than_the_subnets_rest_is_repeated_for_the_rest(tmp_path: Path) -> None:
    small = MemoryCloud(IPv4Network("10.0.0.0/28"))
    del small.free[4:]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        asked = [asyncio.create_task(engine.add(f"c{n}")) for n in range(7)]
        await settle()
        assert engine.count(S.ALLOCATED) == 4
        assert engine.cloud.calls["apply"] <= 4
        for task in asked:
            task.cancel()

    play(tmp_path, scenario, cloud=small, WARM_IP_TARGET="8")


FAULTS: list[tuple[str, CloudError, str]] = [
    ("apply", Throttled("RequestLimitExceeded"), "before"),
    ("apply", Transient("time-out"), "before"),
    ("apply", Transient("time-out"), "after"),
    ("apply", LimitReached("PrivateIpAddressLimitExceeded"), "before"),
    ("apply", NotFound("InvalidNetworkInterfaceID.NotFound"), "before"),
    ("apply", Denied("UnauthorizedOperation"), "before"),
    ("apply", SubnetExhausted("InsufficientFreeAddressesInSubnet"), "before"),
    ("apply", CloudError("InvalidParameterValue"), "before"),
    ("snapshot", Transient("time-out"), "before"),
    ("snapshot", Throttled("RequestLimitExceeded"), "before"),
    ("discover_node", Transient("IMDS is down"), "before"),
    ("limits", Throttled("RequestLimitExceeded"), "before"),
    ("subnets", Transient("time-out"), "before"),
    ("create_interface", Throttled("RequestLimitExceeded"), "before"),
    ("create_interface", Transient("time-out"), "before"),
    ("create_interface", Transient("time-out"), "after"),
    ("create_interface", LimitReached("AttachmentLimitExceeded"), "before"),
    ("create_interface", SubnetExhausted("InsufficientFreeAddressesInSubnet"), "before"),
]


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize(
    ("method", "error", "when"),
    FAULTS,
    ids=[f"{m} {type(e).__name__} {w}" for m, e, w in FAULTS],
)
def test_every_fault_passes_and_nothing_is_lost(
    tmp_path: Path, method: str, error: CloudError, when: str, times: int
) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.cloud.fail(method, error, when=when, times=times)
        await settle(900.0)
        granted = await asyncio.gather(*(engine.add(f"c{n}", wait=900.0) for n in range(12)))
        assert len({g.allocation.address for g in granted}) == 12
        await settle(900.0)
        assert not engine.keeper.ledger.intents
        assert set(engine.keeper.ledger.addresses) == engine.cloud.cloud.assigned()
        assert engine.reconciler.problems() == ()

    play(tmp_path, scenario, WARM_IP_TARGET="2")


def test_throttling_for_five_minutes_does_not_touch_pods_the_pool_can_serve(
    tmp_path: Path,
) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        engine.cloud.fail("*", Throttled("RequestLimitExceeded"), times=10**9)
        calls = engine.cloud.calls.total()
        began = loop.time()
        for n in range(9):
            await engine.add(f"c{n}")
        assert loop.time() - began < 0.001
        await settle(300.0)
        assert engine.cloud.calls.total() - calls < 25, "throttling slows us down"

    play(tmp_path, scenario)


def test_a_quiet_node_makes_no_calls(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(60.0)
        before = engine.cloud.calls.copy()
        await settle(3600.0)
        made = engine.cloud.calls - before
        assert set(made) == {"hint"}, "the metadata service is no API call"
        assert 40 <= made["hint"] <= 60

    play(tmp_path, scenario)


def test_excess_goes_back_and_used_or_cooling_addresses_stay(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await asyncio.gather(*(engine.add(f"c{n}") for n in range(20)))
        for n in range(18):
            engine.allocations.release(b.key(f"c{n}"))
        await settle(29.0)
        assert engine.count(S.COOLING) == 18
        await settle(600.0)
        assert engine.count(S.AVAILABLE) == 2
        assert engine.count(S.ALLOCATED) == 2
        assert len(engine.cloud.cloud.enis) <= 2, "the idle ENI went back"
        assert set(engine.keeper.ledger.addresses) == engine.cloud.cloud.assigned()

    play(tmp_path, scenario, WARM_IP_TARGET="2")


def test_nothing_is_given_out_before_the_node_was_heard(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.is_node_up = False
        with pytest.raises(NotReady, match="is vpc-cnid running"):
            await engine.add("c1", wait=10.0)
        engine.is_node_up = True
        engine.report()
        await engine.add("c1")

    play(tmp_path, scenario)


def test_a_release_ends_the_wait_of_its_own_attempt(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.is_node_up = False
        await settle()
        task = asyncio.create_task(engine.add("c1", wait=60.0))
        await settle(1.0)
        engine.allocations.release(b.key("c1"), attempt_id=AttemptId("b" * 16))
        with pytest.raises(AttemptRevoked):
            await task

    play(tmp_path, scenario)


def test_a_cancelled_wait_leaves_the_queue(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.is_node_up = False
        task = asyncio.create_task(engine.add("c1", wait=60.0))
        await settle(1.0)
        assert engine.allocations.waiting == 1
        task.cancel()
        await settle(0.1)
        assert engine.allocations.waiting == 0

    play(tmp_path, scenario)


def restart(store: Store, tmp_path: Path) -> Store:
    store.close()
    return Store.open(store.path, boot_id="boot")


def test_a_restart_keeps_every_allocation_and_serves_without_the_cloud(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    cloud = AsyncMemoryCloud(MemoryCloud())

    async def first(loop: VirtualLoop) -> None:
        async with running(Engine(store, cloud)) as engine:
            await settle()
            for n in range(3):
                await engine.add(f"c{n}")
            engine.allocations.release(b.key("c0"))

    run(first)
    reopened = restart(store, tmp_path)
    cloud.fail("*", Transient("the cloud is gone"), times=10**9)

    async def second(loop: VirtualLoop) -> None:
        engine = Engine(reopened, cloud)
        assert sorted(k.container_id for k in engine.keeper.ledger.allocations) == ["c1", "c2"]
        assert engine.count(S.COOLING) == 1
        async with running(engine):
            await engine.add("c3", wait=0.1)
            await settle(1.0)
            assert "the cloud does not answer" in engine.reconciler.problems()[0]

    run(second)
    reopened.close()


def test_a_store_of_another_instance_ends_the_daemon(tmp_path: Path) -> None:
    """A machine that was replaced under the same name and kept its disk: nothing in the store is
    of this one, and the next start begins anew."""
    store = new_store(tmp_path)

    async def first(loop: VirtualLoop) -> None:
        async with running(Engine(store, AsyncMemoryCloud(MemoryCloud()))):
            await settle()

    run(first)
    reopened = restart(store, tmp_path)
    other = replace(b.identity(), instance_id=InstanceId("i-other"))

    async def second(loop: VirtualLoop) -> None:
        engine = Engine(reopened, AsyncMemoryCloud(MemoryCloud(node=other)))
        async with asyncio.timeout(60.0):
            await engine.reconciler.run()

    with pytest.raises(ExceptionGroup) as caught:
        run(second)
    assert caught.group_contains(ForeignStore, match="this node is i-other")
    reopened.close()


INTENTS = [
    Intent(
        token="5f000000-aa",
        kind=IntentKind.CREATE,
        eni_id=None,
        subnet_id=b.SUBNET,
        addresses=4,
        device_index=1,
        network_card=0,
        began_boottime=999.0,
        reason="interrupted",
    ),
    Intent(
        token="5f000000-bb",
        kind=IntentKind.ASSIGN,
        eni_id=b.PRIMARY,
        subnet_id=b.SUBNET,
        addresses=4,
        device_index=-1,
        network_card=0,
        began_boottime=999.0,
        reason="interrupted",
    ),
]


@pytest.mark.parametrize("was_done", [False, True], ids=["before the cloud did it", "after"])
@pytest.mark.parametrize("intent", INTENTS, ids=lambda i: i.kind.value)
def test_an_interrupted_call_is_settled_by_the_next_process(
    tmp_path: Path, intent: Intent, was_done: bool
) -> None:
    store = new_store(tmp_path)
    memory = MemoryCloud()
    cloud = AsyncMemoryCloud(memory)

    async def first(loop: VirtualLoop) -> None:
        async with running(Engine(store, cloud, WARM_IP_TARGET="2")) as engine:
            await settle()
            engine.keeper.commit(Change(put_intents=(intent,)))

    run(first)
    if was_done:
        _as_the_dead_process_did(memory, intent)
    reopened = restart(store, tmp_path)

    async def second(loop: VirtualLoop) -> None:
        async with running(Engine(reopened, cloud, WARM_IP_TARGET="2")) as engine:
            await settle(300.0)
            engine.check()
            assert not engine.keeper.ledger.intents
            assert set(engine.keeper.ledger.addresses) == memory.assigned()
            assert set(engine.keeper.ledger.enis) == set(memory.enis)

    run(second)
    reopened.close()


def _as_the_dead_process_did(memory: MemoryCloud, intent: Intent) -> None:
    from ipamd.cloud import AddressChange, InterfaceRequest

    if intent.kind is IntentKind.ASSIGN:
        assert intent.eni_id is not None
        memory.apply(AddressChange(eni_id=intent.eni_id, add=intent.addresses))
        return
    memory.create_interface(
        InterfaceRequest(
            token=intent.token,
            subnet_id=intent.subnet_id,
            security_group_ids=(),
            secondary_addresses=intent.addresses,
            device_index=intent.device_index,
            network_card=0,
            reason="",
        )
    )


def test_a_stray_eni_of_this_node_is_deleted(tmp_path: Path) -> None:
    memory = MemoryCloud()
    memory.enis[EniId("eni-99")] = memory._new_eni(EniId("eni-99"), b.SUBNET)

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(20.0)
        assert "eni-99" in memory.enis, "one look proves nothing"
        await settle(60.0)
        assert "eni-99" not in memory.enis

    play(tmp_path, scenario, cloud=memory)


def test_each_network_card_has_a_pool_of_its_own_with_one_warm_address(tmp_path: Path) -> None:
    memory = MemoryCloud(card_enis=(3, 2))

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(60.0)
        cards = sorted((e.network_card, e.device_index) for e in memory.enis.values())
        assert cards == [(0, 0), (1, 1)]
        second = next(e for e in memory.enis.values() if e.network_card == 1)
        assert len(second.addresses) == 1
        request = replace(b.request("c1", began=loop.time()), network_card=1)
        granted = await engine.allocations.allocate(request, wait_seconds=5.0)
        assert granted.allocation.eni_id == second.eni_id
        await settle(30.0)
        assert len(memory.enis[second.eni_id].addresses) == 2

    play(tmp_path, scenario, cloud=memory, ENABLE_MULTI_NIC="true", WARM_IP_TARGET="3")


def test_without_multi_nic_an_eni_on_another_card_carries_no_pods(tmp_path: Path) -> None:
    memory = MemoryCloud(card_enis=(3, 2))
    foreign = memory._new_eni(EniId("eni-c1"), b.SUBNET)
    memory.enis[foreign.eni_id] = replace(
        foreign,
        status=EniStatus.ATTACHED,
        device_index=1,
        network_card=1,
        addresses=memory.vpc.subnets[b.SUBNET].take(1),
    )

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(60.0)
        granted = await asyncio.gather(*(engine.add(f"c{n}") for n in range(20)))
        assert all(g.allocation.eni_id != "eni-c1" for g in granted)

    play(tmp_path, scenario, cloud=memory)


def test_pods_that_are_bound_to_the_node_make_the_pool_grow_before_they_ask(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        engine.reconciler._unserved_pods = lambda: 20
        engine.reconciler.wake()
        await settle(30.0)
        assert engine.count(S.AVAILABLE) >= 20

    play(tmp_path, scenario, WARM_IP_TARGET="1")
