"""Cooldowns of a running engine whose node clears connections late, never, or after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ipamd.model import AddressState
from ipamd.store import Store
from tests import builders as b
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.unit.test_engine import play, settle
from tests.virtual_time import VirtualLoop, run

S = AddressState


def test_a_waiting_pod_gets_a_cooled_address_the_moment_its_cooldown_ends(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        await engine.add("c0")
        engine.cloud.cloud.free.clear()  # nothing can be bought in its place
        released = loop.time()
        engine.allocations.release(b.key("c0"))
        await settle(20.0)
        granted = await engine.add("c1")
        assert granted is not None
        assert 30.0 <= loop.time() - released < 30.02

    play(tmp_path, scenario, WARM_IP_TARGET="1")


def test_without_a_node_that_clears_them_addresses_cool_on_and_the_status_says_so(
    tmp_path: Path,
) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        engine.can_flush = False
        await engine.add("c0")
        engine.allocations.release(b.key("c0"))
        await settle(34.0)
        assert not engine.reconciler.problems()
        await settle(300.0)
        assert engine.count(S.COOLING) == 1
        (said,) = engine.reconciler.problems()
        assert said.startswith("1 address waits for vpc-cnid to clear")
        engine.flush()
        await settle(0.02)
        assert engine.count(S.COOLING) == 0
        assert not engine.reconciler.problems()

    play(tmp_path, scenario)


def test_addresses_that_are_not_cleared_are_no_supply(tmp_path: Path) -> None:
    """The pool buys others in their place, and gives those back when they are clear."""

    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        for n in range(4):
            await engine.add(f"c{n}")
        await settle(5.0)
        engine.can_flush = False
        for n in range(4):
            engine.allocations.release(b.key(f"c{n}"))
        await settle(600.0)
        assert (engine.count(S.COOLING), engine.count(S.AVAILABLE)) == (4, 2)
        engine.can_flush = True
        engine.flush()
        await settle(600.0)
        assert (engine.count(S.COOLING), engine.count(S.AVAILABLE)) == (0, 2)

    play(tmp_path, scenario, WARM_IP_TARGET="2")


def test_a_burst_of_releases_is_one_question(tmp_path: Path) -> None:
    async def scenario(engine: Engine, loop: VirtualLoop) -> None:
        await settle()
        for n in range(20):
            await engine.add(f"c{n}")
        asked: list[int] = []
        engine.reconciler.listen(lambda: asked.append(len(engine.reconciler.cooldowns.asked)))
        for n in range(20):
            engine.allocations.release(b.key(f"c{n}"))
            await asyncio.sleep(0.02)
        await settle(35.0)
        assert asked == [20]
        assert engine.count(S.COOLING) == 0

    play(tmp_path, scenario, WARM_IP_TARGET="2")


def test_after_a_restart_everything_is_asked_for_again(tmp_path: Path) -> None:
    store = new_store(tmp_path)
    cloud = MemoryCloud()

    async def life(store: Store, seconds: float, *, can_flush: bool) -> tuple[int, int]:
        engine = Engine(store, AsyncMemoryCloud(cloud))
        asked: list[int] = []
        engine.can_flush = can_flush
        engine.reconciler.listen(lambda: asked.append(len(engine.reconciler.cooldowns.asked)))
        async with running(engine):
            await settle()
            if not engine.keeper.ledger.tombstones:
                await engine.add("c0")
                engine.allocations.release(b.key("c0"))
            await asyncio.sleep(seconds)
            return max(asked, default=0), engine.count(S.COOLING)

    async def main(loop: VirtualLoop) -> None:
        assert await life(store, 29.7, can_flush=True) == (1, 1)  # cleared, and not over yet
        store.close()
        again = Store.open(tmp_path / "ipamd.db", boot_id="boot")
        assert await life(again, 60.0, can_flush=False) == (1, 1)
        assert await life(again, 60.0, can_flush=True) == (1, 0)
        again.close()

    run(main)
