"""Orphan ENIs: what may be deleted, and the loop that does it.

The rows are the behaviours of amazon-vpc-cni-k8s's leaked ENI scan (pkg/awsutils): young ones
stay, those without a creation time are tagged and stay, a failed delete does not stop the others.
Its rule on descriptions is part of the cloud's filter. Two rounds and 25 a round are ours.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.cloud import Orphan
from ipamd.errors import CloudError, Throttled, Transient
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.model import EniId, InstanceId
from ipamd.orphan_cleaner import JITTER_SECONDS, ROUND_SECONDS, OrphanCleaner
from ipamd.pool import orphans
from ipamd.pool.ledger import Change
from tests import builders as b
from tests.engine import new_store
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.virtual_time import VirtualLoop, run

OWN, OTHER = InstanceId("i-01"), InstanceId("i-other")
NOW = 100_000.0


def orphan(name: str, *, age: float | None = 3600.0, instance: str = OTHER) -> Orphan:
    return Orphan(
        eni_id=EniId(name),
        instance_id=InstanceId(instance),
        created_unix=None if age is None else NOW - age,
    )


def judge(*found: Orphan, seen: tuple[str, ...] = (), known: tuple[str, ...] = ()) -> orphans.Round:
    return orphans.judged(
        found,
        known={EniId(e) for e in known},
        own=OWN,
        seen_before={EniId(e) for e in seen},
        now_unix=NOW,
    )


@pytest.mark.parametrize(
    ("found", "seen", "known", "expected"),
    [
        pytest.param(orphan("e"), ("e",), (), "delete", id="seen in an earlier round"),
        pytest.param(orphan("e"), (), (), "see", id="seen for the first time"),
        pytest.param(orphan("e", age=300), ("e",), (), "delete", id="just old enough"),
        pytest.param(orphan("e", age=299), ("e",), (), "keep", id="younger than 5 minutes"),
        pytest.param(orphan("e", age=-60), ("e",), (), "keep", id="made in the future"),
        pytest.param(orphan("e", age=None), ("e",), (), "mark", id="without a creation time"),
        pytest.param(orphan("e", instance=OWN), ("e",), (), "keep", id="our own: the reconciler's"),
        pytest.param(orphan("e"), ("e",), ("e",), "keep", id="known to the ledger"),
        pytest.param(orphan("e", age=None), (), ("e",), "keep", id="known, without a time"),
    ],
)
def test_what_a_round_does_with_an_eni(
    found: Orphan, seen: tuple[str, ...], known: tuple[str, ...], expected: str
) -> None:
    made = judge(found, seen=seen, known=known)
    done = {
        "delete": (made.to_delete, ("e",)),
        "mark": (made.to_mark, ("e",)),
        "see": (made.seen, {"e"}),
        "keep": ((*made.to_delete, *made.to_mark, *made.seen), ()),
    }
    got, wanted = done[expected]
    assert got == wanted
    assert (made.to_delete == ("e",)) == (expected == "delete")


def test_a_round_deletes_25_at_most_and_the_oldest_first() -> None:
    found = [orphan(f"e{number:02}", age=3600.0 + number) for number in range(30)]
    made = judge(*found, seen=tuple(o.eni_id for o in found))
    assert made.to_delete == tuple(f"e{number:02}" for number in range(29, 4, -1))
    assert len(made.seen) == 30


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abcdefgh"),
            st.none() | st.floats(-1000, 10_000),
            st.sampled_from([OWN, OTHER]),
        ),
        unique_by=lambda row: row[0],
    ),
    st.frozensets(st.sampled_from("abcdefgh")),
    st.frozensets(st.sampled_from("abcdefgh")),
)
def test_nothing_is_deleted_that_is_young_known_ours_or_new(
    rows: list[tuple[str, float | None, InstanceId]], seen: frozenset[str], known: frozenset[str]
) -> None:
    found = {n: orphan(n, age=age, instance=instance) for n, age, instance in rows}
    made = judge(*found.values(), seen=tuple(seen), known=tuple(known))
    assert len(made.to_delete) <= orphans.DELETES_PER_ROUND
    for eni_id in made.to_delete:
        assert found[eni_id].created_unix is not None
        assert NOW - (found[eni_id].created_unix or NOW) >= orphans.YOUNG_SECONDS
        assert found[eni_id].instance_id != OWN
        assert eni_id in seen
        assert eni_id not in known


class Cleaner:
    """The loop on a memory cloud."""

    def __init__(self, keeper: Keeper) -> None:
        self.cloud = AsyncMemoryCloud(MemoryCloud())
        self.is_cleaner = True
        self.instance_id: InstanceId | None = OWN
        self.cleaner = OrphanCleaner(
            keeper,
            self.cloud,
            Metrics(),
            is_cleaner=lambda: self.is_cleaner,
            instance_id=lambda: self.instance_id,
        )

    def lose(self, name: str, created: float | None = -9999.0) -> None:
        """An ENI that another node left behind."""
        self.cloud.cloud.orphan_enis[EniId(name)] = Orphan(
            eni_id=EniId(name), instance_id=OTHER, created_unix=created
        )

    @property
    def left(self) -> set[str]:
        return set(self.cloud.cloud.orphan_enis)


@pytest.fixture
def keeper(tmp_path: Path) -> Iterator[Keeper]:
    store = new_store(tmp_path)
    yield Keeper(store)
    store.close()


def test_an_orphan_goes_in_its_second_round(keeper: Keeper) -> None:
    made = Cleaner(keeper)
    made.lose("eni-1")

    async def main(loop: VirtualLoop) -> tuple[set[str], set[str]]:
        await made.cleaner.round()
        after_one = made.left
        await made.cleaner.round()
        return after_one, made.left

    assert run(main) == ({"eni-1"}, set())


def test_an_orphan_without_a_creation_time_is_given_one_and_ages(keeper: Keeper) -> None:
    made = Cleaner(keeper)
    made.lose("eni-1", created=None)

    async def main(loop: VirtualLoop) -> list[bool]:
        there = []
        for _ in range(3):
            await made.cleaner.round()
            there.append("eni-1" in made.left)
            await asyncio.sleep(ROUND_SECONDS)
        return there

    assert run(main) == [True, True, False]


def test_a_failed_delete_does_not_stop_the_next_and_is_tried_again(keeper: Keeper) -> None:
    made = Cleaner(keeper)
    for name in ("eni-1", "eni-2"):
        made.lose(name)

    async def main(loop: VirtualLoop) -> tuple[set[str], set[str]]:
        await made.cleaner.round()
        made.cloud.fail("delete_orphan", CloudError("InvalidParameterValue: in use"))
        await made.cleaner.round()
        after_failure = made.left
        await made.cleaner.round()
        return after_failure, made.left

    assert run(main) == ({"eni-1"}, set())


def test_throttling_ends_the_round(keeper: Keeper) -> None:
    made = Cleaner(keeper)
    for number in range(5):
        made.lose(f"eni-{number}")

    async def main(loop: VirtualLoop) -> int:
        await made.cleaner.round()
        made.cloud.fail("delete_orphan", Throttled("RequestLimitExceeded"), times=99)
        await made.cleaner.round()
        return made.cloud.calls["delete_orphan"]

    assert run(main) == 1


@pytest.mark.parametrize("error", [Transient("timeout"), Throttled("slow down")], ids=str)
def test_a_cloud_that_does_not_answer_ends_nothing_but_the_round(
    keeper: Keeper, error: CloudError
) -> None:
    made = Cleaner(keeper)
    made.lose("eni-1")
    made.cloud.fail("orphans", error, times=2)

    async def main(loop: VirtualLoop) -> set[str]:
        for _ in range(4):
            await made.cleaner.round()
        return made.left

    assert run(main) == set()


def test_an_eni_that_came_back_to_life_is_kept(keeper: Keeper) -> None:
    made = Cleaner(keeper)
    made.lose(b.SECONDARY)

    async def main(loop: VirtualLoop) -> set[str]:
        await made.cleaner.round()
        keeper.commit(Change(put_enis=(b.eni(b.SECONDARY, index=1),)))
        await made.cleaner.round()
        return made.left

    assert run(main) == {b.SECONDARY}


@pytest.mark.parametrize("why", ["not the cleaner", "not known who we are"])
def test_whoever_is_no_cleaner_asks_nothing_and_starts_over(keeper: Keeper, why: str) -> None:
    made = Cleaner(keeper)
    made.lose("eni-1")

    async def main(loop: VirtualLoop) -> tuple[int, set[str]]:
        await made.cleaner.round()
        made.is_cleaner, made.instance_id = (
            (False, OWN) if why == "not the cleaner" else (True, None)
        )
        await made.cleaner.round()
        calls = made.cloud.calls["orphans"]
        made.is_cleaner, made.instance_id = True, OWN
        await made.cleaner.round()
        return calls, made.left

    assert run(main) == (1, {"eni-1"})


def test_the_loop_looks_every_hour_with_jitter(keeper: Keeper) -> None:
    made = Cleaner(keeper)
    looks: list[float] = []

    async def main(loop: VirtualLoop) -> None:
        made.cloud.on_call = lambda method: looks.append(loop.time())
        task = asyncio.create_task(made.cleaner.run())
        await asyncio.sleep(4 * (ROUND_SECONDS + JITTER_SECONDS))
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    run(main)
    pauses = [later - earlier for earlier, later in itertools.pairwise(looks)]
    assert len(looks) >= 4
    assert looks[0] - 1000.0 <= JITTER_SECONDS + 1
    assert all(ROUND_SECONDS <= p <= ROUND_SECONDS + JITTER_SECONDS + 1 for p in pauses)
    assert len({round(p, 3) for p in pauses}) > 1
