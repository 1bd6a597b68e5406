"""Scenarios in which an earlier version handed out a wrong address, stuck, or ended."""

from __future__ import annotations

import asyncio
import itertools
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

from ipamd.cloud import AddressChange, AddressOutcome, CloudEni, EniStatus, InterfaceRequest
from ipamd.errors import (
    CloudError,
    Denied,
    LimitReached,
    NoAddressAvailable,
    NotFound,
    StoreError,
    Transient,
)
from ipamd.model import AddressState, EniId, IPAddress
from ipamd.pool import reports
from ipamd.pool.ledger import Change
from ipamd.pool.plan import Plan, UnassignAddresses
from ipamd.store import Store
from tests import builders as b
from tests import virtual_time
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.unit.test_engine import play, settle
from tests.virtual_time import VirtualLoop

S = AddressState


async def fill(engine: Engine, count: int, prefix: str = "c") -> None:
    await asyncio.gather(*(engine.add(f"{prefix}{n}") for n in range(count)))


def test_a_look_older_than_an_unassign_brings_nothing_back(tmp_path: Path) -> None:
    memory = MemoryCloud()

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 6)
        for n in range(6):
            engine.allocations.release(b.key(f"c{n}"))
        plain = engine.cloud.apply

        async def apply(change: AddressChange) -> AddressOutcome:
            if change.remove:
                engine.reconciler.look_soon()  # its snapshot is answered before this is done
                await asyncio.sleep(0.3)
            return await plain(change)

        engine.cloud.apply = apply  # type: ignore[method-assign]
        await settle(200.0)
        assert set(engine.keeper.ledger.addresses) == memory.assigned()
        granted = await asyncio.gather(*(engine.add(f"d{n}") for n in range(6)))
        assert {g.allocation.address for g in granted} <= memory.assigned()

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="1")


def test_an_eni_detached_by_hand_keeps_its_pods_and_ends_nothing(tmp_path: Path) -> None:
    memory = MemoryCloud()

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 10)
        await settle()
        secondary = next(e for e in memory.enis.values() if not e.is_primary)
        memory.enis[secondary.eni_id] = replace(
            secondary, status=EniStatus.AVAILABLE, device_index=-1
        )
        engine.reconciler.look_soon()
        await settle(120.0)
        assert len(engine.keeper.ledger.allocations) == 10
        assert secondary.eni_id in memory.enis, "it was not deleted"
        assert any("not in the cloud any more" in p for p in engine.reconciler.problems())

    play(tmp_path, scenario, cloud=memory)


def test_an_eni_seen_loose_while_it_is_created_is_not_deleted(tmp_path: Path) -> None:
    memory = MemoryCloud()
    plain = memory.create_interface
    made: list[EniId] = []

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()

        async def create(request: InterfaceRequest) -> CloudEni:
            eni = plain(request)
            memory.enis[eni.eni_id] = replace(eni, status=EniStatus.AVAILABLE, device_index=-1)
            engine.reconciler.look_soon()
            await asyncio.sleep(40.0)
            memory.enis[eni.eni_id] = eni
            made.append(eni.eni_id)
            return eni

        engine.cloud.create_interface = create  # type: ignore[method-assign]
        await engine.add("c0")
        await settle(400.0)
        assert made
        assert set(made) <= set(engine.keeper.ledger.enis)
        assert set(made) <= set(memory.enis)

    play(tmp_path, scenario, cloud=memory)


def test_a_subnet_with_one_address_left_is_asked_again_when_it_has_more(tmp_path: Path) -> None:
    memory = MemoryCloud()
    hidden, memory.free[:] = memory.free[10:], memory.free[:10]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 9)
        await settle()
        memory.free.extend(hidden)
        granted = await engine.add("late", wait=60.0)
        assert granted.allocation.address in memory.assigned()

    play(tmp_path, scenario, cloud=memory, WARM_ENI_TARGET="0")


@pytest.mark.parametrize("kind", ["assign", "create"])
def test_a_store_that_refuses_the_outcome_of_a_call_gets_it_later(
    tmp_path: Path, kind: str
) -> None:
    memory = MemoryCloud()
    refusals: list[Change] = []

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        plain = engine.keeper._store.commit

        def commit(change: Change) -> None:
            is_outcome = change.put_addresses and change.drop_intents
            is_wanted = bool(change.put_enis) is (kind == "create")
            if is_outcome and is_wanted and len(refusals) < 3:
                refusals.append(change)
                raise StoreError("database or disk is full")
            plain(change)

        engine.keeper._store.commit = commit  # type: ignore[method-assign]
        await fill(engine, 12)
        await settle(60.0)
        assert len(refusals) == 3
        assert not engine.keeper.ledger.intents
        assert set(engine.keeper.ledger.addresses) == memory.assigned()

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="1")


def test_a_full_disk_is_tried_once_a_second(tmp_path: Path) -> None:
    tries: list[float] = []

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await engine.add("c")
        engine.allocations.release(b.key("c"))
        await settle(20.0)

        def commit(change: Change) -> None:
            tries.append(loop.time())
            raise StoreError("database or disk is full")

        plain, engine.keeper._store.commit = engine.keeper._store.commit, commit  # type: ignore[method-assign]
        await settle(20.0)
        engine.keeper._store.commit = plain  # type: ignore[method-assign]
        assert 0 < len(tries) <= 15
        await settle(5.0)
        assert engine.count(S.COOLING) == 0

    play(tmp_path, scenario)


def test_a_policy_that_forbids_unassigning_keeps_no_pod_from_its_address(tmp_path: Path) -> None:
    memory = MemoryCloud()
    plain = memory.apply

    def apply(change: AddressChange) -> AddressOutcome:
        if change.remove:
            raise Denied("UnauthorizedOperation: UnassignPrivateIpAddresses")
        return plain(change)

    memory.apply = apply  # type: ignore[method-assign]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 7)
        for n in range(7):
            engine.allocations.release(b.key(f"c{n}"))
        await settle(600.0)
        await fill(engine, 9, "d")
        assert engine.count(S.UNASSIGNING) == 0

    play(tmp_path, scenario, cloud=memory, WARM_IP_TARGET="1")


def test_an_eni_with_fewer_slots_than_its_type_is_filled_to_what_it_takes(tmp_path: Path) -> None:
    memory = MemoryCloud()
    plain = memory._take

    def take(eni: CloudEni, count: int) -> tuple[IPAddress, ...]:
        if len(eni.addresses) + count > 5:  # the rest of its slots hold something of others
            raise LimitReached("PrivateIpAddressLimitExceeded", eni_id=eni.eni_id)
        return plain(eni, count)

    memory._take = take  # type: ignore[method-assign]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(120.0)
        assert engine.count(S.AVAILABLE) >= 4
        assert engine.cloud.calls["apply"] < 10
        assert engine.cloud.calls["snapshot"] < 6

    play(tmp_path, scenario, cloud=memory, MAX_ENI="1")


def test_max_pods_holds_when_the_cooldowns_end(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 8)
        for n in range(8):
            engine.allocations.release(b.key(f"c{n}"))
        await settle(120.0)
        assert engine.count(S.AVAILABLE) <= 8

    play(tmp_path, scenario, VPC_IPAMD_MAX_PODS="8")


def test_a_crash_inside_a_call_is_an_unknown_outcome_and_no_end(tmp_path: Path) -> None:
    memory = MemoryCloud()
    plain = memory.apply
    crashes = [ZeroDivisionError("a bug"), OSError("too many open files")]

    def apply(change: AddressChange) -> AddressOutcome:
        if crashes:
            raise crashes.pop()
        return plain(change)

    memory.apply = apply  # type: ignore[method-assign]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(120.0)
        assert not crashes
        granted = await engine.add("c")
        assert granted.allocation.address in memory.assigned()

    play(tmp_path, scenario, cloud=memory)


def test_a_refused_creation_brings_a_look(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        before = engine.cloud.calls["snapshot"]
        engine.cloud.fail("create_interface", CloudError("InvalidParameterValue"))
        await fill(engine, 5)
        await settle(10.0)
        assert engine.cloud.calls["snapshot"] == before + 1

    play(tmp_path, scenario)


def test_a_cloud_that_cannot_add_interfaces_is_not_asked_to(tmp_path: Path) -> None:
    memory = MemoryCloud()
    fixed = replace(memory.capabilities(), can_create_interfaces=False)
    memory.capabilities = lambda: fixed  # type: ignore[method-assign]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 9)
        await settle(60.0)
        assert engine.cloud.calls["create_interface"] == 0

    play(tmp_path, scenario, cloud=memory)


def test_an_unassign_refused_half_way_hands_out_nothing_that_is_gone(tmp_path: Path) -> None:
    """Addresses and prefixes are two calls: the second may be refused when the first was done."""
    memory = MemoryCloud()
    plain = memory.apply
    refused: list[AddressChange] = []

    def apply(change: AddressChange) -> AddressOutcome:
        if change.remove and change.remove_prefixes:
            plain(replace(change, remove_prefixes=()))
            memory.free.clear()  # a neighbour has them now
            refused.append(change)
            raise Denied("UnauthorizedOperation: UnassignPrivateIpAddresses")
        return plain(change)

    memory.apply = apply  # type: ignore[method-assign]

    subnet = memory.vpc.subnets[b.SUBNET]
    single, block = subnet.take(1), subnet.take_prefixes(1)
    memory.enis[b.PRIMARY] = replace(memory.enis[b.PRIMARY], addresses=single, prefixes=block)

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(100.0)
        action = UnassignAddresses(
            eni_id=b.PRIMARY, addresses=single, prefixes=block, reason="test"
        )
        engine.reconciler.actions.start(action, engine.reconciler.facts_needed())
        await settle(45.0)
        assert refused
        idle = engine.keeper.ledger.in_state(S.AVAILABLE, S.COOLING)
        assert {a.address for a in idle} <= memory.assigned()
        await settle(60.0)
        assert engine.count(S.QUARANTINED) == 0

    play(tmp_path, scenario, cloud=memory, DISABLE_NETWORK_RESOURCE_PROVISIONING="true")


def test_an_eni_that_is_detached_and_not_deleted_serves_nobody(tmp_path: Path) -> None:
    memory = MemoryCloud()

    def delete(eni_id: EniId) -> None:
        memory.enis[eni_id] = replace(
            memory.enis[eni_id], status=EniStatus.AVAILABLE, device_index=-1
        )
        raise Denied("UnauthorizedOperation: DeleteNetworkInterface")

    memory.delete_interface = delete  # type: ignore[method-assign]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 14)
        for n in range(14):
            engine.allocations.release(b.key(f"c{n}"))
        await settle(400.0)
        loose = {e.eni_id for e in memory.enis.values() if e.status is EniStatus.AVAILABLE}
        assert loose
        granted = await asyncio.gather(*(engine.add(f"d{n}") for n in range(15)))
        assert not {g.allocation.eni_id for g in granted} & loose

    play(tmp_path, scenario, cloud=memory)


def test_a_stray_whose_deletion_does_not_answer_is_deleted_by_one_task(tmp_path: Path) -> None:
    memory = MemoryCloud()
    stray = memory._new_eni(EniId("eni-0e"), b.SUBNET)
    memory.enis[stray.eni_id] = stray

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.cloud.fail("delete_interface", Transient("no answer"), times=10_000)
        await settle(3600.0)
        assert len(engine.keeper.ledger.intents) == 1
        assert engine.cloud.calls["delete_interface"] < 200
        assert engine.cloud.calls["snapshot"] < 12

    play(tmp_path, scenario, cloud=memory)


DAY = 86_400.0


def test_what_stays_wrong_for_a_day_is_not_looked_at_every_half_minute(tmp_path: Path) -> None:
    """Pods on an ENI that somebody detached, and a stray that no policy lets us delete."""
    memory = MemoryCloud()
    stray = memory._new_eni(EniId("eni-0e"), b.SUBNET)
    memory.enis[stray.eni_id] = stray

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.cloud.fail("delete_interface", Denied("UnauthorizedOperation"), times=10_000)
        await settle()
        await fill(engine, 12)
        lost = max((e for e in memory.enis.values()), key=lambda e: e.device_index)
        memory.enis[lost.eni_id] = replace(lost, status=EniStatus.AVAILABLE, device_index=-1)
        await settle(DAY)
        # A look in 10 to 15 minutes, and another half a minute after each that tries the stray.
        assert engine.cloud.calls["snapshot"] < 350
        assert engine.cloud.calls["delete_interface"] < 150

    play(tmp_path, scenario, cloud=memory)


REFUSALS: dict[str, CloudError] = {
    "another limit than the type's": LimitReached("AttachmentLimitExceeded"),
    "a security group that is gone": NotFound("InvalidGroup.NotFound"),
    "a parameter": CloudError("InvalidParameterValue"),
    "a policy": Denied("UnauthorizedOperation"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_creations_refused_for_a_day_are_tried_ever_less_and_hold_nothing_else_up(
    tmp_path: Path, name: str
) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.cloud.fail("create_interface", REFUSALS[name], times=10_000)
        await engine.add("c0")
        await settle(DAY)
        assert engine.cloud.calls["create_interface"] < 500
        assert engine.cloud.calls["snapshot"] < 800
        began = loop.time()
        await engine.add("c")
        assert loop.time() - began < 1.0
        assert "refused" in engine.reconciler.last_plan.summary

    play(tmp_path, scenario, VPC_IPAMD_TARGETS_FILE=str(tmp_path / "none"))


def test_changes_that_are_never_answered_are_made_ever_less(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await engine.add("c0")
        await settle(300.0)
        began = loop.time()
        engine.cloud.fail("apply", Transient("500"), until=began + 600.0, times=10_000)
        engine.cloud.calls.clear()
        for n in range(30):  # a runtime that comes again and again
            with suppress(NoAddressAvailable):
                await engine.add(f"d{n}")
        assert 10 <= engine.cloud.calls["apply"] <= 60
        assert 600.0 < loop.time() - began < 780.0
        assert engine.count(S.ALLOCATED) > 2  # it is over soon after the cloud answers again

    play(tmp_path, scenario, WARM_IP_TARGET="1")


def test_a_refused_creation_keeps_no_pod_from_an_eni_with_room(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        engine.cloud.fail("create_interface", NotFound("InvalidGroup.NotFound"), times=10_000)
        await fill(engine, 9)
        await settle(1000.0)
        for n in range(9):
            engine.allocations.release(b.key(f"c{n}"))
        await settle(300.0)  # all but one went back
        began = loop.time()
        await fill(engine, 8, "d")
        assert loop.time() - began < 2.0

    play(tmp_path, scenario, WARM_IP_TARGET="1")


def lived_twice(
    tmp_path: Path, memory: MemoryCloud, first: dict[str, str], then: dict[str, str]
) -> None:
    """A quiet life with the settings `first`, and after a restart as long a one with `then`."""

    async def play(loop: VirtualLoop) -> None:
        for environ in (first, then):
            path = tmp_path / "ipamd.db"
            store = Store.open(path, boot_id="boot") if path.exists() else new_store(tmp_path)
            async with running(Engine(store, AsyncMemoryCloud(memory), **environ)):
                await settle(400.0)
            store.close()

    virtual_time.run(play)


def test_what_no_pod_may_get_goes_back_even_while_nothing_can_be_bought(tmp_path: Path) -> None:
    memory = MemoryCloud()
    config = tmp_path / "eniconfig.yaml"
    config.write_text(
        "apiVersion: crd.k8s.amazonaws.com/v1alpha1\nkind: ENIConfig\n"
        "metadata: {name: default}\nspec: {subnet: subnet-01}\n"
    )
    custom = {
        "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
        "VPC_IPAMD_ENICONFIG_FILE": str(config),
        "VPC_IPAMD_MAX_PODS": "20",
    }
    lived_twice(tmp_path, memory, {"MAX_ENI": "1"}, {"MAX_ENI": "1", **custom})
    assert memory.enis[b.PRIMARY].addresses == ()


def test_idle_prefixes_that_hold_every_slot_make_room_for_single_addresses(
    tmp_path: Path,
) -> None:
    memory = MemoryCloud()
    both = {"MAX_ENI": "1", "VPC_IPAMD_MAX_PODS": "250"}
    prefixes = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "9"}
    lived_twice(tmp_path, memory, both | prefixes, both)
    assert memory.enis[b.PRIMARY].prefixes == ()
    assert len(memory.enis[b.PRIMARY].addresses) == 9


def test_an_address_moved_to_an_eni_that_is_ready_can_be_handed_out(tmp_path: Path) -> None:
    memory = MemoryCloud()

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 9)
        await settle(20.0)
        other = max(e for e in memory.enis if e != b.PRIMARY)
        engine.is_node_up = False
        engine.keeper.commit(
            reports.readiness(engine.keeper.ledger, {other: False}, now=loop.time())
        )
        assert engine.count(S.PREPARING)
        moved = memory.enis[other].addresses
        memory.enis[other] = replace(memory.enis[other], addresses=())
        primary = memory.enis[b.PRIMARY]
        memory.enis[b.PRIMARY] = replace(primary, addresses=primary.addresses + moved)
        engine.reconciler.look_soon()
        await settle(5.0)
        assert engine.count(S.PREPARING) == 0
        assert engine.count(S.AVAILABLE) == len(moved)

    play(tmp_path, scenario, cloud=memory, VPC_IPAMD_MAX_PODS="18")


def test_a_request_for_one_card_holds_up_none_for_another(tmp_path: Path) -> None:
    memory = MemoryCloud(card_enis=(3, 1))

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 7)
        engine.cloud.fail("apply", Denied("UnauthorizedOperation"), times=1000)
        engine.cloud.fail("create_interface", Denied("UnauthorizedOperation"), times=1000)
        await engine.add("c7")
        assert engine.count(S.AVAILABLE) == 1
        request = replace(b.request("far", began=loop.time()), network_card=1)
        far = asyncio.create_task(engine.allocations.allocate(request, wait_seconds=25.0))
        await settle(1.0)
        began = loop.time()
        await engine.add("near")
        assert loop.time() - began < 1.0
        assert not far.done()
        far.cancel()

    play(tmp_path, scenario, cloud=memory, VPC_IPAMD_MAX_PODS="9")


@pytest.mark.parametrize(
    "environ",
    [{}, {"WARM_IP_TARGET": "1"}, {"VPC_IPAMD_MAX_PODS": "12"}],
    ids=["defaults", "WARM_IP 1", "max pods that its addresses would use up"],
)
def test_an_eni_that_the_node_never_gets_ready_keeps_no_pod_waiting(
    tmp_path: Path, environ: dict[str, str]
) -> None:
    memory = MemoryCloud()

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await fill(engine, 7)
        engine.is_node_up = False  # no ENI is reported ready from here on
        await fill(engine, 2, "d")
        asked = asyncio.create_task(engine.add("late", wait=150.0))
        await settle(120.0)
        stuck, third = sorted(e for e in memory.enis if e != b.PRIMARY)
        ready = reports.readiness(engine.keeper.ledger, {third: True}, now=loop.time())
        engine.keeper.commit(ready)
        assert (await asked).allocation.eni_id == third
        assert engine.cloud.calls["create_interface"] == 2
        assert stuck in engine.keeper.ledger.enis

    play(tmp_path, scenario, cloud=memory, **environ)


@pytest.mark.parametrize("method", ["snapshot", "subnets", "hint"])
def test_a_look_that_takes_long_holds_no_growth_up(tmp_path: Path, method: str) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle(200.0)
        plain, begun = getattr(engine.cloud, method), asyncio.Event()

        async def slow(*arguments: object) -> object:
            begun.set()
            await asyncio.sleep(40.0)
            return await plain(*arguments)

        setattr(engine.cloud, method, slow)
        if method != "hint":  # which is taken every minute or so
            engine.reconciler.look_soon()
        await begun.wait()
        engine.reconciler.look_soon()  # after the one that is under way
        began, cycles = loop.time(), 0
        await fill(engine, 14)
        assert loop.time() - began < 2.0
        plain_plan = engine.reconciler._plan

        def counted(card: int) -> Plan:
            nonlocal cycles
            cycles += 1
            return plain_plan(card)

        engine.reconciler._plan = counted  # type: ignore[method-assign]
        await settle(30.0)
        assert cycles < 20, "it does not turn in circles meanwhile"

    play(tmp_path, scenario, WARM_IP_TARGET="1")


def test_a_repeated_add_is_answered_though_others_wait(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        first = await engine.add("c0")
        waiting = asyncio.create_task(engine.add("late", wait=5.0))
        await settle(0.1)
        assert engine.allocations.waiting == 1
        again = await engine.add("c0", wait=0.0)
        assert again.allocation.address == first.allocation.address
        waiting.cancel()

    play(tmp_path, scenario, VPC_IPAMD_MAX_PODS="1")


def test_a_refusal_of_one_code_is_logged_once_however_its_words_change(tmp_path: Path) -> None:
    memory = MemoryCloud()
    words = itertools.count()

    def create(request: InterfaceRequest) -> CloudEni:
        said = f"UnauthorizedOperation: encoded message {next(words)}"
        raise Denied(said, code="UnauthorizedOperation")

    memory.create_interface = create  # type: ignore[method-assign]

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        with structlog.testing.capture_logs() as lines:
            await fill(engine, 9)
            await settle(3600.0)
        assert next(words) > 5
        told = [line for line in lines if line["event"] == "cloud_action_failed"]
        assert len(told) == 1
        shown = [line for line in lines if line["log_level"] != "debug"]
        assert len(shown) < 80, "a line or two for each try, none for each tick"

    play(tmp_path, scenario, cloud=memory)


def test_a_look_that_could_not_be_stored_is_made_again_soon(tmp_path: Path) -> None:
    memory = MemoryCloud()

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        store = engine.keeper._store
        plain = store.commit
        taken = memory.vpc.subnets[b.SUBNET].take(1)
        eni = memory.enis[b.PRIMARY]
        memory.enis[b.PRIMARY] = replace(eni, addresses=eni.addresses[:-1] + taken)

        def full(change: Change) -> None:
            raise StoreError("disk is full")

        store.commit = full  # type: ignore[method-assign]
        engine.reconciler.look_soon()
        await settle(5.0)
        store.commit = plain  # type: ignore[method-assign]
        await settle(120.0)
        assert taken[0] in engine.keeper.ledger.addresses

    play(tmp_path, scenario, cloud=memory)
