"""The engine on a cloud whose writes are slow, rare, refused half way or seen twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ipamd.cloud import AddressChange, AddressOutcome
from ipamd.errors import Busy
from ipamd.model import AddressState
from tests import builders as b
from tests.engine import Engine
from tests.memory_cloud import MemoryCloud
from tests.unit.test_engine import play, settle
from tests.virtual_time import VirtualLoop

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
