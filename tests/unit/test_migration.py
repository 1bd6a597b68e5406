"""A node changes from aws-node to us and back: every allocation stays, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from ipamd import clock, migration
from ipamd.errors import StoreError
from ipamd.migration import UnreadableCheckpoint
from ipamd.migration_format import Entry
from ipamd.model import AddressState, Allocation, AttachmentKey, IPAddress, WiredBy
from ipamd.pool import migrate
from ipamd.store import Store
from tests import builders as b
from tests.peer_node import (
    MODES,
    Crash,
    OnNode,
    PeerNode,
    Story,
    Writes,
    entry,
    peer_node,
)
from tests.virtual_time import VirtualLoop, run

MODE = pytest.mark.parametrize("mode", MODES)


def live(node: PeerNode, story: Story, writes: Writes | None = None) -> bool:
    """One process in virtual time, to its end or its death."""

    async def main(loop: VirtualLoop) -> bool:
        loop.now = max(loop.now, node.now)  # boot time goes on from life to life
        try:
            return await node.life(story, writes)
        finally:
            node.now = loop.now + 1.0

    return run(main)


async def wait_for(engine: OnNode, seconds: float = 10.0) -> None:
    """Until the node was heard, and what that began has ended."""
    await asyncio.sleep(seconds)
    assert engine.keeper.ledger.has_heard_node


async def nothing_happens(node: PeerNode, engine: OnNode) -> None:
    """A story of ten seconds."""
    await wait_for(engine)


def keys_of(entries: tuple[Entry, ...]) -> dict[AttachmentKey, IPAddress]:
    return {b.key(e.container_id, e.ifname): e.addresses[0] for e in entries}


def peers(allocations: Mapping[AttachmentKey, Allocation]) -> dict[AttachmentKey, IPAddress]:
    return {k: a.address for k, a in allocations.items() if a.wired_by is WiredBy.PEER}


def loaded(node: PeerNode) -> Mapping[AttachmentKey, Allocation]:
    store = Store.open(node.directory / "ipamd.db", boot_id=clock.boot_id())
    try:
        return store.load().allocations
    finally:
        store.close()


@MODE
def test_every_allocation_of_the_peer_is_ours_after_the_start(tmp_path: Path, mode: str) -> None:
    node, entries = peer_node(tmp_path, mode)

    async def story(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine)
        ledger = engine.keeper.ledger
        assert peers(ledger.allocations) == keys_of(entries)
        for held in ledger.allocations.values():
            row = ledger.addresses[held.address]
            assert row.state is AddressState.ALLOCATED
            assert row.eni_id == held.eni_id in ledger.enis
            assert (row.prefix is not None) is (mode == "prefixes")

    assert live(node, story)


@MODE
def test_every_free_address_cools_before_its_first_use(tmp_path: Path, mode: str) -> None:
    node, entries = peer_node(tmp_path, mode)
    free = node.cloud.assigned() - set(node.kernel)

    async def story(node: PeerNode, engine: OnNode) -> None:
        await asyncio.sleep(15.0)
        assert {engine.keeper.ledger.addresses[a].state for a in free} == {AddressState.COOLING}
        await asyncio.sleep(30.0)
        given = {await node.add(engine, f"new-{number}") for number in range(3)}
        assert given.isdisjoint(e.addresses[0] for e in entries)

    assert live(node, story)


def test_the_peer_s_pods_need_no_name_in_the_kernel_and_no_second_look(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")

    async def story(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine, 5.0)
        assert engine.count(AddressState.QUARANTINED) == 0
        assert engine.count(AddressState.ALLOCATED) == len(entries)

    assert live(node, story)


def test_an_address_that_the_cloud_does_not_show_is_kept_and_never_given_out(
    tmp_path: Path,
) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    hidden = entries[0].addresses[0]
    whole = node.cloud.enis[b.PRIMARY]
    node.cloud.enis[b.PRIMARY] = replace(
        whole, addresses=tuple(a for a in whole.addresses if a != hidden)
    )

    async def story(node: PeerNode, engine: OnNode) -> None:
        await asyncio.sleep(120.0)  # several looks
        key = b.key("peer-0")
        assert engine.keeper.ledger.allocations[key].address == hidden
        assert engine.keeper.ledger.allocations[key].eni_id == migrate.UNKNOWN_ENI
        assert str(hidden) in engine.reconciler.missing_allocated
        now = node.cloud.enis[b.PRIMARY]
        node.cloud.enis[b.PRIMARY] = replace(now, addresses=(hidden, *now.addresses))
        engine.reconciler.look_soon()
        await asyncio.sleep(5.0)
        assert engine.keeper.ledger.allocations[key].eni_id == b.PRIMARY

    assert live(node, story)


def test_a_pod_that_the_checkpoint_does_not_name_is_quarantined(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    node.save(entries[1:])

    async def story(node: PeerNode, engine: OnNode) -> None:
        await asyncio.sleep(100.0)
        unnamed = engine.keeper.ledger.addresses[entries[0].addresses[0]]
        assert unnamed.state is AddressState.QUARANTINED
        assert engine.count(AddressState.ALLOCATED) == len(entries) - 1

    assert live(node, story)


def test_an_entry_whose_pod_is_gone_is_freed_on_the_second_look_at_the_kernel(
    tmp_path: Path,
) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    gone = entries[0].addresses[0]
    del node.kernel[gone]

    async def story(node: PeerNode, engine: OnNode) -> None:
        await asyncio.sleep(25.0)
        assert b.key("peer-0") in engine.keeper.ledger.allocations
        await asyncio.sleep(15.0)
        assert b.key("peer-0") not in engine.keeper.ledger.allocations
        assert engine.keeper.ledger.addresses[gone].state is AddressState.COOLING

    assert live(node, story)


def test_a_pod_that_one_report_misses_keeps_its_address(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    address = entries[0].addresses[0]

    async def story(node: PeerNode, engine: OnNode) -> None:
        for _ in range(4):
            del node.kernel[address]
            await asyncio.sleep(20.0)
            node.kernel[address] = None
            await asyncio.sleep(20.0)
        assert peers(engine.keeper.ledger.allocations) == keys_of(entries)

    assert live(node, story)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "it is not JSON"),
        ('{"version": "vpc-cni-ipam/9", "allocations": []}', "its version is 'vpc-cni-ipam/9'"),
        ('{"version": "vpc-cni-ipam/1", "allocations": [{"ipv4": 7}]}', "ipv4 is 7"),
        (b"\xff\xfe", "can't decode"),
    ],
)
def test_a_checkpoint_that_cannot_be_read_ends_the_start_and_hands_nothing_out(
    tmp_path: Path, content: str | bytes, said: str
) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    node.checkpoint.write_bytes(content.encode() if isinstance(content, str) else content)
    for _ in range(2):  # a restart meets the same
        with pytest.raises(UnreadableCheckpoint, match=said) as caught:
            node.open_store()
        assert str(node.checkpoint) in str(caught.value)
    node.checkpoint.unlink()  # what the message says

    async def story(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine)
        assert engine.count(AddressState.QUARANTINED) == len(entries)

    assert live(node, story)


def test_a_directory_that_is_not_there_is_an_empty_checkpoint(tmp_path: Path) -> None:
    assert migration.read(tmp_path / "none" / "ipam.json") == migration.Checkpoint(
        files={}, fingerprint="none"
    )


def test_the_files_of_further_cards_are_read_and_nothing_else(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    node.save(entries[:1], card=2)
    for other in ("ipam-nic-x.json", "ipam-nic-1.json.tmp", "npa.json"):
        (node.checkpoint.parent / other).write_text("?")
    assert migration.read(node.checkpoint).files == {0: entries, 2: entries[:1]}


async def a_while(node: PeerNode, engine: OnNode) -> None:
    """Pods come and go, of both kinds."""
    await asyncio.sleep(5.0)
    for number in range(4):
        await node.add(engine, f"new-{number}")
    for name in ("peer-0", "new-0"):
        if b.key(name) in engine.keeper.ledger.allocations:
            node.delete(engine, b.key(name))
    await node.add(engine, "new-4")
    await asyncio.sleep(40.0)


@MODE
def test_a_crash_at_any_write_of_the_take_over_loses_and_doubles_nothing(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    points = 0
    for when in ("before", "after"):
        for crash_at in range(1, 200):
            directory = tmp_path / f"{when}-{crash_at}"
            directory.mkdir()
            node, entries = peer_node(directory, mode)
            writes = Writes(crash_at, when)
            if live(node, a_while, writes):
                break
            points += 1
            assert live(node, a_while)
            _check_settled(node, entries)
        else:
            raise AssertionError("the story has no end")
    with capsys.disabled():
        print(f"\n{mode}: {points} crash points of a take-over visited")
    assert points > 30


def _check_settled(node: PeerNode, entries: tuple[Entry, ...]) -> None:
    """Every pod of the kernel has its allocation, and every allocation its pod."""
    allocations = loaded(node)
    assert {a.address for a in allocations.values()} == set(node.kernel)
    expected = keys_of(entries)
    for key, address in peers(allocations).items():
        assert expected[key] == address
    for address, ours in node.kernel.items():
        if ours is not None:
            assert allocations[ours].address == address


def test_a_restart_reads_nothing_anew(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")

    async def first(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine)
        node.delete(engine, b.key("peer-0"))

    async def second(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine)
        assert peers(engine.keeper.ledger.allocations) == keys_of(entries[1:])

    assert live(node, first)
    assert live(node, second)


@pytest.mark.parametrize("how", ["the file is gone", "the file was never there"])
def test_a_store_goes_on_without_a_checkpoint(tmp_path: Path, how: str) -> None:
    node, _ = peer_node(tmp_path, "secondary")
    if how == "the file was never there":
        node.checkpoint.unlink()
    assert live(node, nothing_happens)
    epoch = _epoch(node)
    node.checkpoint.unlink(missing_ok=True)
    assert live(node, nothing_happens)
    assert _epoch(node) == epoch


def _epoch(node: PeerNode) -> str:
    store = Store.open(node.directory / "ipamd.db", boot_id=clock.boot_id())
    try:
        return store.load().epoch
    finally:
        store.close()


def test_a_lost_store_is_not_fooled_by_a_file_that_has_grown_old(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")

    async def first(node: PeerNode, engine: OnNode) -> None:
        await asyncio.sleep(40.0)
        for old in entries[:4]:
            node.delete(engine, b.key(old.container_id))
        await asyncio.sleep(40.0)
        for number in range(6):  # more than were idle: some get addresses that the file names
            await node.add(engine, f"new-{number}")

    async def second(node: PeerNode, engine: OnNode) -> None:
        await asyncio.sleep(100.0)
        held = engine.keeper.ledger.allocations
        assert {a.address for a in held.values()} == set(node.kernel)
        for address, key in node.kernel.items():
            if key is not None:
                assert held[key].address == address
                assert held[key].wired_by is WiredBy.US

    assert live(node, first)
    reused = {a for a, key in node.kernel.items() if key} & {e.addresses[0] for e in entries}
    assert reused, "the story gave no address of the file to a new pod"
    for suffix in ("", "-wal", "-shm"):
        (tmp_path / f"ipamd.db{suffix}").unlink(missing_ok=True)
    assert live(node, second)


def test_a_store_that_missed_a_run_of_the_peer_is_set_aside(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    assert live(node, nothing_happens)
    epoch = _epoch(node)
    free = min(set(node.cloud.assigned()) - set(node.kernel), key=int)
    later = (*entries[1:], entry(free, "later"))
    del node.kernel[entries[0].addresses[0]]
    node.kernel[free] = None
    node.save(later)

    async def second(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine)
        assert peers(engine.keeper.ledger.allocations) == keys_of(later)

    assert live(node, second)
    assert _epoch(node) != epoch
    assert list(tmp_path.glob("ipamd.db.unusable-*"))


def back(node: PeerNode) -> migrate.HandBack:
    """As `ipamctl migrate back` does."""
    store = Store.open(node.directory / "ipamd.db", boot_id=clock.boot_id())
    try:
        made = migrate.hand_back(store.load(), network_name="aws-cni")
        migration.give_back(store, made, node.checkpoint)
        return made
    finally:
        store.close()


def known_to_peer(node: PeerNode) -> dict[IPAddress, str]:
    """What aws-node's agent restores: address -> container."""
    files = migration.read(node.checkpoint).files
    return {a: e.container_id for entries in files.values() for e in entries for a in e.addresses}


@MODE
def test_back_and_forth_keeps_every_allocation(tmp_path: Path, mode: str) -> None:
    node, _ = peer_node(tmp_path, mode)

    async def mixed(node: PeerNode, engine: OnNode) -> None:
        await a_while(node, engine)

    assert live(node, mixed)
    before = {a.address: k.container_id for k, a in loaded(node).items()}
    made = back(node)
    assert made.unplaced == ()
    assert known_to_peer(node) == before
    assert set(node.kernel) == set(before)

    async def again(node: PeerNode, engine: OnNode) -> None:
        await asyncio.sleep(60.0)
        held = engine.keeper.ledger.allocations
        assert {a.address: k.container_id for k, a in held.items()} == before
        for address, key in node.kernel.items():  # our links are ours again, theirs theirs
            by = next(a.wired_by for a in held.values() if a.address == address)
            assert by is (WiredBy.US if key is not None else WiredBy.PEER)
        for key in tuple(held):
            node.delete(engine, key)
        assert node.kernel == {}

    assert live(node, again)


@MODE
def test_a_crash_at_any_write_of_the_way_back_leaves_no_allocation_unknown(
    tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    points = 0
    for when in ("before", "after"):
        for crash_at in range(1, 20):
            directory = tmp_path / f"{when}-{crash_at}"
            directory.mkdir()
            node, _ = peer_node(directory, mode)
            assert live(node, a_while)
            writes = Writes(crash_at, when)
            with writes.patched():
                try:
                    back(node)
                except Crash:
                    points += 1
                else:
                    break
            _check_handover(node)
    with capsys.disabled():
        print(f"\n{mode}: {points} crash points of a way back visited")
    assert points >= 6


def _check_handover(node: PeerNode) -> None:
    """Either ipamd goes on as if nothing had been, or it refuses until the command has ended."""

    async def goes_on(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine, 60.0)
        assert {a.address for a in engine.keeper.ledger.allocations.values()} == set(node.kernel)

    try:
        node.open_store().close()
    except StoreError as e:
        said = str(e)
        back(node)
        assert "run it again" in said
    if known_to_peer(node).keys() != set(node.kernel):
        assert live(node, goes_on)
        back(node)
    assert set(known_to_peer(node)) == set(node.kernel)


def test_ipamd_does_not_start_on_a_way_back_that_was_cut_off(tmp_path: Path) -> None:
    node, _ = peer_node(tmp_path, "secondary")
    assert live(node, nothing_happens)
    with Writes(3, "before").patched(), pytest.raises(Crash):
        back(node)  # the file is written, the last note is not
    with pytest.raises(StoreError, match="has not ended: run it again"):
        node.open_store()
    back(node)
    node.open_store().close()


def test_ipamd_that_starts_after_the_way_back_begins_from_the_file(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    assert live(node, nothing_happens)
    epoch = _epoch(node)
    back(node)

    async def again(node: PeerNode, engine: OnNode) -> None:
        await wait_for(engine)
        assert engine.keeper.ledger.epoch != epoch
        assert peers(engine.keeper.ledger.allocations) == keys_of(entries)

    assert live(node, again)


def test_a_file_of_a_card_that_is_gone_is_emptied_on_the_way_back(tmp_path: Path) -> None:
    node, _ = peer_node(tmp_path, "secondary")
    assert live(node, nothing_happens)
    node.save((entry(ip_address("10.0.9.9"), "old"),), card=3)
    back(node)
    assert migration.read(node.checkpoint).files[3] == ()


def test_an_address_in_use_by_something_unknown_is_held_for_the_peer(tmp_path: Path) -> None:
    node, entries = peer_node(tmp_path, "secondary")
    node.save(entries[1:])
    assert live(node, nothing_happens)
    made = back(node)
    assert [a.address for a in made.foreign] == [entries[0].addresses[0]]
    assert set(known_to_peer(node)) == set(node.kernel)
