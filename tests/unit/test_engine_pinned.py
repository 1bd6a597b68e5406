"""Attachments that insist on one ENI, in virtual time: growth there, their turn, a refusal."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from ipamd import clock
from ipamd.errors import AttachmentConflict, BadRequest, NoAddressAvailable
from ipamd.model import AddressState, EniId, WiredBy
from tests import builders as b
from tests.engine import Engine
from tests.unit.test_engine import play, settle
from tests.virtual_time import VirtualLoop

S = AddressState
SLOTS = 9  # of an m5.large's ENI, its own address aside
WARM = {"WARM_IP_TARGET": "1"}


def primary(engine: Engine) -> EniId:
    return next(e.eni_id for e in engine.keeper.ledger.enis.values() if e.is_primary)


async def filled(engine: Engine, count: int = SLOTS) -> None:
    """So many pods, which the fullest ENI gets first: the primary."""
    await settle()
    for number in range(count):
        await engine.add(f"c{number}")
    await settle()


def test_a_pinned_attachment_gets_an_address_of_its_eni_though_another_is_fuller(
    tmp_path: Path,
) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await filled(engine, SLOTS + 1)
        (second,) = (e for e in engine.keeper.ledger.enis.values() if not e.is_primary)
        granted = await engine.add("pinned", eni=second.eni_id)
        assert granted.allocation.eni_id == second.eni_id

    play(tmp_path, scenario, cloud=None, **WARM)


def test_an_eni_with_free_slots_grows_for_whoever_insists_on_it(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await filled(engine, SLOTS + 1)
        (second,) = (e for e in engine.keeper.ledger.enis.values() if not e.is_primary)
        pinned = [engine.add(f"p{number}", eni=second.eni_id) for number in range(4)]
        granted = await asyncio.gather(*pinned)
        assert {g.allocation.eni_id for g in granted} == {second.eni_id}

    play(tmp_path, scenario, cloud=None, **WARM)


def test_with_prefixes_the_eni_grows_by_one(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        pinned = [engine.add(f"p{number}", eni="primary") for number in range(20)]
        granted = await asyncio.gather(*pinned)
        assert {g.allocation.eni_id for g in granted} == {primary(engine)}
        assert len(engine.keeper.ledger.prefixes_on(primary(engine))) == 2

    play(tmp_path, scenario, ENABLE_PREFIX_DELEGATION="true", WARM_IP_TARGET="1")


def test_a_full_eni_is_named_with_what_to_do_and_nothing_is_bought_for_it(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await filled(engine)
        enis, calls = set(engine.keeper.ledger.enis), dict(engine.cloud.calls)
        with pytest.raises(NoAddressAvailable) as caught:
            await engine.add("pinned", eni="primary", wait=5.0)
        assert f"ENI {primary(engine)} is full: 9 pods, 9 of 9 slots taken" in str(caught.value)
        assert '"eni" in its ipam object' in str(caught.value)
        assert caught.value.eni_id == primary(engine)
        assert (set(engine.keeper.ledger.enis), dict(engine.cloud.calls)) == (enis, calls)

    play(tmp_path, scenario, cloud=None, **WARM)


def test_who_waits_for_a_full_eni_holds_up_nobody_and_gets_its_next_address(
    tmp_path: Path,
) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await filled(engine)
        pinned = asyncio.create_task(engine.add("pinned", eni="primary", wait=60.0))
        await settle(1.0)
        began = loop.time()
        others = [await engine.add(f"any-{number}") for number in range(3)]
        assert loop.time() - began < 5.0
        freed = engine.allocations.release(b.key("c0")).allocation
        others += await asyncio.gather(*(engine.add(f"late-{number}") for number in range(3)))
        granted = await pinned
        assert freed is not None
        assert granted.allocation.addresses == freed.addresses
        assert primary(engine) not in {g.allocation.eni_id for g in others}

    play(tmp_path, scenario, cloud=None, **WARM, IP_COOLDOWN_PERIOD="30")


def test_an_eni_that_takes_no_pods_is_refused_at_once(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        began = loop.time()
        with pytest.raises(BadRequest, match="'eni-none' is not one of this node"):
            await engine.add("pinned", eni="eni-none")
        assert loop.time() == began

    play(tmp_path, scenario, cloud=None, **WARM)


def test_an_allocation_keeps_its_mode_and_another_mode_is_a_conflict(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        ours = b.request("c1", cookie=9, began=clock.boottime())
        theirs = replace(ours, wired_by=WiredBy.MAIN_PLUGIN)
        first = await engine.allocations.allocate(theirs, wait_seconds=5.0)
        again = await engine.allocations.allocate(theirs, wait_seconds=5.0)
        assert (first.allocation.wired_by, again.is_repeat) == (WiredBy.MAIN_PLUGIN, True)
        with pytest.raises(AttachmentConflict, match="wired by main-plugin"):
            await engine.allocations.allocate(ours, wait_seconds=5.0)

    play(tmp_path, scenario, cloud=None, **WARM)
