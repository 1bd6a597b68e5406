from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ipamd.errors import Corrupt, ForeignStore, StoreError, UnknownVersion
from ipamd.keeper import Keeper
from ipamd.model import AddressState, AttemptId, WiredBy
from ipamd.pool.ledger import Change, Intent, IntentKind, Tombstone
from ipamd.store import Store
from tests import builders as b

S = AddressState
BOOT = "boot-1"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ipamd.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    made = Store.create(path, boot_id=BOOT)
    yield made
    made.close()


def full_change() -> Change:
    return Change(
        put_enis=(b.eni(),),
        put_addresses=(
            b.address("10.0.0.5", S.ALLOCATED, since=12.5),
            b.address("10.0.0.6", S.COOLING, since=13.25, reason="DEL"),
        ),
        put_allocations=(
            replace(b.allocation("10.0.0.5", cookie=2**64 - 1), wired_by=WiredBy.MAIN_PLUGIN),
        ),
        put_intents=(
            Intent(
                token="t1",
                kind=IntentKind.CREATE,
                eni_id=None,
                subnet_id=b.SUBNET,
                addresses=3,
                device_index=1,
                network_card=0,
                began_boottime=9.5,
                reason="why",
            ),
        ),
        put_tombstones=(Tombstone(key=b.key("c9"), attempt_id=AttemptId("ab"), made_boottime=3.0),),
        has_heard_node=True,
        next_generation=17,
    )


def test_what_was_committed_is_there_after_a_reopen(store: Store, path: Path) -> None:
    before = store.load()
    store.commit(full_change())
    store.close()
    again = Store.open(path, boot_id=BOOT)
    assert again.load() == before.applied(full_change())
    again.close()


def test_drops_are_durable(store: Store) -> None:
    store.commit(full_change())
    store.commit(
        Change(
            drop_allocations=(b.key(),),
            drop_intents=("t1",),
            drop_tombstones=(b.key("c9"),),
            drop_enis=(b.PRIMARY,),
            drop_addresses=(b.address("10.0.0.6").address,),
        )
    )
    ledger = store.load()
    assert [str(a) for a in ledger.addresses] == ["10.0.0.5"]
    assert not (ledger.allocations or ledger.intents or ledger.tombstones or ledger.enis)


def test_a_process_that_is_killed_loses_nothing_committed(store: Store, path: Path) -> None:
    store.commit(full_change())
    other = Store.open(path, boot_id=BOOT)  # as after a kill: the first was never closed
    assert other.load().next_generation == 17
    other.close()


def test_one_address_cannot_stand_under_two_keys(store: Store) -> None:
    store.commit(full_change())
    with pytest.raises(StoreError):
        store.commit(Change(put_allocations=(b.allocation("10.0.0.5", "c2", generation=2),)))
    assert list(store.load().allocations) == [b.key()]


def test_an_allocation_s_eni_follows_and_its_address_never_changes(store: Store) -> None:
    held = b.allocation("10.0.0.10")
    store.commit(Change(put_allocations=(held,)))
    moved = replace(held, eni_id=b.SECONDARY, addresses=b.allocation("10.0.0.11").addresses)
    store.commit(Change(put_allocations=(moved,)))
    assert store.load().allocations[b.key()] == replace(held, eni_id=b.SECONDARY)


def test_a_failed_commit_leaves_nothing_of_it(store: Store) -> None:
    bad = replace(
        full_change(),
        put_allocations=(
            b.allocation("10.0.0.5", "c1"),
            b.allocation("10.0.0.5", "c2", generation=2),
        ),
    )
    with pytest.raises(StoreError):
        store.commit(bad)
    assert not store.load().addresses


def test_a_full_disk_is_a_store_error_that_says_so(store: Store, path: Path) -> None:
    keeper = Keeper(store)
    keeper.commit(Change(put_enis=(b.eni(),)))
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    many = tuple(b.address(f"10.0.{i}.{j}") for i in range(8) for j in range(1, 250))
    before = keeper.ledger
    with pytest.raises(StoreError, match=r"full.*check the free space"):
        keeper.commit(Change(put_addresses=many))
    assert keeper.ledger is before
    assert not store.load().addresses


def test_another_boot_is_refused(store: Store, path: Path) -> None:
    store.close()
    with pytest.raises(ForeignStore):
        Store.open(path, boot_id="boot-2")


def test_another_schema_is_refused(store: Store, path: Path) -> None:
    store._db.execute("UPDATE meta SET value = '99' WHERE name = 'schema_version'")
    store.close()
    with pytest.raises(UnknownVersion, match="99"):
        Store.open(path, boot_id=BOOT)


@pytest.mark.parametrize("content", [b"", b"not a database at all" * 100, b"SQLite format 3\0" * 9])
def test_a_file_that_is_no_store_is_corrupt(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(StoreError):
        Store.open(path, boot_id=BOOT).load()


def test_a_damaged_page_is_found_at_the_start(store: Store, path: Path) -> None:
    store.commit(full_change())
    store.close()
    raw = bytearray(path.read_bytes())
    raw[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    path.write_bytes(raw)
    with pytest.raises(Corrupt):
        Store.open(path, boot_id=BOOT)


def test_a_row_that_cannot_be_is_corrupt(store: Store) -> None:
    store.commit(full_change())
    store._db.execute("UPDATE addresses SET state = 'lost'")
    with pytest.raises(Corrupt, match="lost"):
        store.load()


def test_a_new_store_moves_the_old_one_aside(store: Store, path: Path) -> None:
    store.commit(full_change())
    store.close()
    fresh = Store.create(path, boot_id=BOOT)
    assert not fresh.load().addresses
    fresh.close()
    assert len([p for p in path.parent.iterdir() if ".unusable-" in p.name]) >= 1


def test_two_stores_never_share_an_epoch(store: Store, path: Path) -> None:
    first = store.load().epoch
    store.close()
    second = Store.create(path, boot_id=BOOT)
    assert second.load().epoch != first
    second.close()


def test_the_file_is_for_its_owner_only(store: Store, path: Path) -> None:
    assert path.stat().st_mode & 0o777 == 0o600


def test_notes_are_kept(store: Store) -> None:
    store.note("node", "{}")
    assert store.noted("node") == "{}"
    assert store.noted("nothing") == ""


def test_the_schema_is_what_sqlite_holds(store: Store) -> None:
    tables = store._db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert {name for (name,) in tables} == {
        "meta", "enis", "addresses", "allocations", "intents", "tombstones"
    }  # fmt: skip
    assert sqlite3.sqlite_version_info >= (3, 8, 2), "WITHOUT ROWID"
