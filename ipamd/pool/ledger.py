"""The ledger: every address, allocation, ENI, intent and tombstone of this node, as one value.

`Ledger.applied(change)` gives the next ledger; the store writes the same `Change` in one
transaction first. Nobody edits a ledger in any other way, so memory and disk cannot drift apart.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TypeVar

from ipamd.model import (
    Address,
    AddressState,
    Allocation,
    AttachmentKey,
    AttemptId,
    Eni,
    EniId,
    IPAddress,
    IPNetwork,
    SubnetId,
)
from ipamd.pool import lifecycle

T = TypeVar("T")
K = TypeVar("K")
V = TypeVar("V")


class IntentKind(enum.Enum):
    """What the cloud was about to be asked."""

    ASSIGN = "assign"
    UNASSIGN = "unassign"
    CREATE = "create"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """A cloud call that was begun. It stands in the store until its outcome is known (I3, I4)."""

    token: str
    kind: IntentKind
    eni_id: EniId | None
    subnet_id: SubnetId
    addresses: int
    device_index: int
    network_card: int
    began_boottime: float
    reason: str
    prefixes: int = 0
    prefixes_v6: int = 0
    is_open: bool = True  # False: the call ended without a known outcome; a read-back settles it


@dataclass(frozen=True, slots=True, kw_only=True)
class Tombstone:
    """A release that found nothing (or ended a try): attempts older than it are refused.

    `attempt_id` empty refuses every attempt that began before `made_boottime`.
    """

    key: AttachmentKey
    attempt_id: AttemptId
    made_boottime: float
    addresses: tuple[IPAddress, ...] = ()  # what the release freed, for one that is repeated


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One transaction. Puts replace by identity; drops name what goes."""

    put_addresses: tuple[Address, ...] = ()
    drop_addresses: tuple[IPAddress, ...] = ()
    put_allocations: tuple[Allocation, ...] = ()
    drop_allocations: tuple[AttachmentKey, ...] = ()
    put_enis: tuple[Eni, ...] = ()
    drop_enis: tuple[EniId, ...] = ()
    put_intents: tuple[Intent, ...] = ()
    drop_intents: tuple[str, ...] = ()
    put_tombstones: tuple[Tombstone, ...] = ()
    drop_tombstones: tuple[AttachmentKey, ...] = ()
    has_heard_node: bool | None = None
    next_generation: int | None = None

    def __bool__(self) -> bool:
        return self != Change()

    def merged(self, other: Change) -> Change:
        """Both as one transaction; where both put the same thing, `other` wins on apply."""
        return Change(
            put_addresses=self.put_addresses + other.put_addresses,
            drop_addresses=self.drop_addresses + other.drop_addresses,
            put_allocations=self.put_allocations + other.put_allocations,
            drop_allocations=self.drop_allocations + other.drop_allocations,
            put_enis=self.put_enis + other.put_enis,
            drop_enis=self.drop_enis + other.drop_enis,
            put_intents=self.put_intents + other.put_intents,
            drop_intents=self.drop_intents + other.drop_intents,
            put_tombstones=self.put_tombstones + other.put_tombstones,
            drop_tombstones=self.drop_tombstones + other.drop_tombstones,
            has_heard_node=_either(other.has_heard_node, self.has_heard_node),
            next_generation=_either(other.next_generation, self.next_generation),
        )


def _either(first: T | None, second: T | None) -> T | None:
    return second if first is None else first


def _frozen(items: Mapping[K, V]) -> Mapping[K, V]:
    return MappingProxyType(dict(items))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """The whole truth about addresses at one moment."""

    epoch: str
    has_heard_node: bool  # False: a new or lost store; nothing is given out (see allocate)
    next_generation: int = 1
    addresses: Mapping[IPAddress, Address] = field(default_factory=lambda: _frozen({}))
    allocations: Mapping[AttachmentKey, Allocation] = field(default_factory=lambda: _frozen({}))
    enis: Mapping[EniId, Eni] = field(default_factory=lambda: _frozen({}))
    intents: Mapping[str, Intent] = field(default_factory=lambda: _frozen({}))
    tombstones: Mapping[AttachmentKey, Tombstone] = field(default_factory=lambda: _frozen({}))

    def applied(self, change: Change) -> Ledger:
        """The ledger after `change`. Raises IllegalTransition and leaves this one as it is."""
        self._check_transitions(change)
        self._check_allocations(change)
        return replace(
            self,
            addresses=_patched(
                self.addresses,
                ((a.address, a) for a in change.put_addresses),
                change.drop_addresses,
            ),
            allocations=_patched(
                self.allocations,
                ((a.key, a) for a in change.put_allocations),
                change.drop_allocations,
            ),
            enis=_patched(self.enis, ((e.eni_id, e) for e in change.put_enis), change.drop_enis),
            intents=_patched(
                self.intents, ((i.token, i) for i in change.put_intents), change.drop_intents
            ),
            tombstones=_patched(
                self.tombstones, ((t.key, t) for t in change.put_tombstones), change.drop_tombstones
            ),
            has_heard_node=bool(_either(change.has_heard_node, self.has_heard_node)),
            next_generation=_either(change.next_generation, self.next_generation) or 1,
        )

    def _check_transitions(self, change: Change) -> None:
        for new in change.put_addresses:
            old = self.addresses.get(new.address)
            lifecycle.check(old.state if old else None, new.state, str(new.address))
        for address in change.drop_addresses:
            old = self.addresses.get(address)
            if old is not None:
                lifecycle.check(old.state, None, str(address))

    def _check_allocations(self, change: Change) -> None:
        """I1: an allocation takes an address that nobody holds, in the same transaction."""
        taken = {a.address for a in change.put_addresses if a.state is AddressState.ALLOCATED}
        for allocation in change.put_allocations:
            before = self.allocations.get(allocation.key)
            if before is not None and before.addresses == allocation.addresses:
                continue
            for address in allocation.addresses:
                held = self.addresses.get(address)
                if held is not None and held.state is AddressState.ALLOCATED:
                    raise lifecycle.IllegalTransition(f"{address} is on another attachment")
                if address not in taken:
                    raise lifecycle.IllegalTransition(f"{address} is not allocated")
                taken.discard(address)

    def count(self, state: AddressState, eni_id: EniId | None = None) -> int:
        """How many addresses are in a state, on one ENI or on all."""
        return sum(
            1
            for a in self.addresses.values()
            if a.state is state and (eni_id is None or a.eni_id == eni_id)
        )

    def on_eni(self, eni_id: EniId) -> tuple[Address, ...]:
        """The addresses of one ENI in ascending order."""
        return tuple(
            sorted((a for a in self.addresses.values() if a.eni_id == eni_id), key=sort_key)
        )

    def allocation_of(self, address: IPAddress) -> Allocation | None:
        """Who holds an address."""
        return next((a for a in self.allocations.values() if address in a.addresses), None)

    def prefixes_on(self, eni_id: EniId) -> frozenset[IPNetwork]:
        """The prefixes of one ENI. A prefix is in the ledger while one of its addresses is."""
        return frozenset(
            a.prefix for a in self.addresses.values() if a.eni_id == eni_id and a.prefix is not None
        )

    def in_state(self, *states: AddressState) -> Iterable[Address]:
        """The addresses in any of the states, in no particular order."""
        return (a for a in self.addresses.values() if a.state in states)


def sort_key(address: Address) -> tuple[int, int]:
    """Order by family, then by number."""
    return (address.address.version, int(address.address))


def _patched(
    items: Mapping[K, V], puts: Iterable[tuple[K, V]], drops: Iterable[K]
) -> Mapping[K, V]:
    puts, drops = tuple(puts), tuple(drops)
    if not puts and not drops:
        return items
    # The proxy's own copy keeps the hashes; dict(proxy) computes each anew, 5 times as slow.
    after = items.copy() if isinstance(items, MappingProxyType) else dict(items)
    for key in drops:
        after.pop(key, None)
    after.update(puts)
    return MappingProxyType(after)
