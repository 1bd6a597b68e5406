"""Attachments that aws-node's plugin wires: their keys, and what ends them (pure).

The plugin releases an address before it removes the pod's rules and route, and asks again when that
fails. So a repeated delete names the same addresses as long as they cool, and each repeat starts
their cooldown anew: until then the kernel may have carried them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ipamd.model import (
    Address,
    AddressState,
    Allocation,
    AttachmentKey,
    AttemptId,
    ContainerId,
    WiredBy,
)
from ipamd.pool import attachments
from ipamd.pool.ledger import Change, Ledger, Tombstone

PEER_COOKIE = 0
"""The netns cookie of these attachments: ipamd has no kernel rights to read one from a path, and
the kernel gives no namespace the number 0. Container id and interface name identify them alone; a
sandbox that is made anew has another container id."""

FURTHER_IFNAME = "mNicIf"
"""The plugin's name for a pod's interface on a further network card, before its number from 1."""


def interface_key(container_id: ContainerId, ifname: str, number: int) -> AttachmentKey:
    """The key of a pod's interface: number 0 is the one that the runtime named.

    Example: ("c1", "eth0", 0) -> c1/eth0; ("c1", "eth0", 2) -> c1/mNicIf2.
    """
    name = ifname if number == 0 else f"{FURTHER_IFNAME}{number}"
    return AttachmentKey(container_id=container_id, ifname=name)


def is_further(key: AttachmentKey) -> bool:
    """Whether it is an interface beside the one that the runtime named."""
    return key.ifname.startswith(FURTHER_IFNAME)


def interfaces(ledger: Ledger, key: AttachmentKey) -> tuple[Allocation, ...]:
    """What stands under a key and the pod's further interfaces, in the plugin's order."""
    base = ledger.allocations.get(key)
    if base is None:
        return ()
    if base.wired_by is not WiredBy.PEER or is_further(key):
        return (base,)
    further = (
        a
        for a in ledger.allocations.values()
        if a.key.container_id == key.container_id
        and is_further(a.key)
        and a.wired_by is WiredBy.PEER
        and a.network_name == base.network_name
    )
    return (base, *sorted(further, key=lambda a: _number(a.key)))


def _number(key: AttachmentKey) -> int:
    digits = key.ifname.removeprefix(FURTHER_IFNAME)
    return int(digits) if digits.isdecimal() else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The end of an attachment: the addresses of each of its interfaces, empty if it is unknown."""

    interfaces: tuple[tuple[Address, ...], ...]
    change: Change
    is_repeat: bool = False


def ended(ledger: Ledger, key: AttachmentKey, *, now: float) -> Ended:
    """Release an attachment of every interface in one change, or repeat what an earlier delete
    answered. Always leaves a tombstone, so that an AddNetwork still under way is refused."""
    held = interfaces(ledger, key)
    if held:
        releases = [attachments.release(ledger, a.key, now=now) for a in held]
        change = Change()
        for release in releases:
            change = change.merged(release.change)
        freed = {a.address: a for a in change.put_addresses}
        return Ended(
            interfaces=tuple(tuple(freed[x] for x in a.addresses if x in freed) for a in held),
            change=change,
        )
    repeated = _repeated(ledger, key)
    if repeated:
        return _ended_again(ledger, repeated, now)
    stone = Tombstone(key=key, attempt_id=AttemptId(""), made_boottime=now)
    return Ended(interfaces=(), change=Change(put_tombstones=(stone,)))


def _repeated(ledger: Ledger, key: AttachmentKey) -> tuple[Tombstone, ...]:
    """Tombstones of the delete that freed addresses which still cool since; () if none does."""
    first = ledger.tombstones.get(key)
    if first is None:
        return ()
    further = (
        t
        for t in ledger.tombstones.values()
        if t.key.container_id == key.container_id
        and t.key != key
        and is_further(t.key)
        and t.made_boottime == first.made_boottime  # of the same delete
    )
    stones = (first, *sorted(further, key=lambda t: _number(t.key)))
    return stones if any(cooling(ledger, t) for t in stones) else ()


def cooling(ledger: Ledger, stone: Tombstone) -> tuple[Address, ...]:
    """What a delete freed and nobody was given since."""
    rows = (ledger.addresses.get(a) for a in stone.addresses)
    return tuple(
        row
        for row in rows
        if row is not None
        and row.state is AddressState.COOLING
        and row.since_boottime <= stone.made_boottime
    )


def _ended_again(ledger: Ledger, stones: Iterable[Tombstone], now: float) -> Ended:
    found = [(t, cooling(ledger, t)) for t in stones]
    rows = [tuple(replace(a, since_boottime=now) for a in held) for _, held in found]
    change = Change(
        put_addresses=tuple(a for held in rows for a in held),
        put_tombstones=tuple(
            replace(t, attempt_id=AttemptId(""), made_boottime=now) for t, _ in found
        ),
    )
    return Ended(interfaces=tuple(r for r in rows if r), change=change, is_repeat=True)
