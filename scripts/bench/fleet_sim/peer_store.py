"""aws-node's datastore: ENIs, their /32s or /28s, and which pod holds which address.

Walks meet ENIs and CIDRs in random order, as Go maps do; the order is the run's own chance.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import TypeVar

from scripts.bench.fleet_sim.peer_policy import COOLDOWN_SECONDS, EniCounts, Snapshot

T = TypeVar("T")

Cidr = IPv4Address | IPv4Network


@dataclass(slots=True, kw_only=True)
class _Used:
    """An address that was handed out at least once."""

    pod: str = ""
    unassigned_at: float = 0.0


@dataclass(slots=True, kw_only=True)
class _Item:
    """One /32 or /28."""

    cidr: Cidr
    used: dict[IPv4Address, _Used] = field(default_factory=dict)
    assigned: int = 0

    @property
    def size(self) -> int:
        return self.cidr.num_addresses if isinstance(self.cidr, IPv4Network) else 1

    def free_address(self, now: float) -> IPv4Address | None:
        """One used before that has cooled, else the lowest never used."""
        if self.assigned == self.size:
            return None
        for address, used in self.used.items():
            if not used.pod and now - used.unassigned_at > COOLDOWN_SECONDS:
                return address
        if isinstance(self.cidr, IPv4Address):
            return None if self.used else self.cidr
        return next((a for a in self.cidr if a not in self.used), None)

    def is_cooling(self, now: float) -> bool:
        """Whether any of its addresses was given up a moment ago."""
        return any(
            not u.pod and now - u.unassigned_at <= COOLDOWN_SECONDS for u in self.used.values()
        )


@dataclass(slots=True, kw_only=True)
class _Eni:
    eni_id: str
    is_primary: bool
    created_at: float
    items: dict[Cidr, _Item] = field(default_factory=dict)
    total: int = 0
    assigned: int = 0
    free_items: int = 0  # those without a pod, counted as they change: each tick asks for them


class PeerStore:
    """The pool of one node."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._enis: dict[str, _Eni] = {}
        self._pods: dict[str, tuple[_Eni, _Item, IPv4Address]] = {}
        self.total = 0
        self.assigned = 0

    def add_eni(self, eni_id: str, *, is_primary: bool, now: float) -> None:
        """Know an ENI from now on."""
        self._enis[eni_id] = _Eni(eni_id=eni_id, is_primary=is_primary, created_at=now)

    def remove_eni(self, eni_id: str) -> None:
        """Forget an ENI without pods."""
        eni = self._enis.pop(eni_id)
        self.total -= eni.total

    def add(self, eni_id: str, cidrs: Iterable[Cidr]) -> None:
        """Know more /32s or /28s; what is known already stays as it is."""
        eni = self._enis[eni_id]
        for cidr in cidrs:
            if cidr not in eni.items:
                item = eni.items[cidr] = _Item(cidr=cidr)
                eni.free_items += 1
                eni.total += item.size
                self.total += item.size

    def remove_free(self, eni_id: str, most: int) -> tuple[Cidr, ...]:
        """Forget up to `most` items that no pod uses; cooling ones are not spared."""
        eni = self._enis[eni_id]
        free = [i for i in self._walk(eni.items.values()) if i.assigned == 0][:most]
        for item in free:
            del eni.items[item.cidr]
            eni.free_items -= 1
            eni.total -= item.size
            self.total -= item.size
        return tuple(i.cidr for i in free)

    def remove(self, eni_id: str, cidr: Cidr) -> None:
        """Forget one item that the cloud no longer shows; its pods lose their address here."""
        eni = self._enis[eni_id]
        item = eni.items.pop(cidr)
        for used in item.used.values():
            self._pods.pop(used.pod, None)
        eni.free_items -= item.assigned == 0
        eni.assigned -= item.assigned
        self.assigned -= item.assigned
        eni.total -= item.size
        self.total -= item.size

    def cidrs(self, eni_id: str) -> set[Cidr]:
        """What is known of one ENI."""
        return set(self._enis[eni_id].items)

    def eni_ids(self) -> list[str]:
        """The ENIs in walking order."""
        return [e.eni_id for e in self._walk(self._enis.values())]

    def assign_pod(self, pod: str, now: float) -> bool:
        """An address for a pod, or none right now (AssignPodIPv4Address)."""
        if pod in self._pods:
            return True
        if self.assigned == self.total:
            return False
        for eni in self._walk(self._enis.values()):
            if eni.assigned == eni.total:
                continue
            for item in self._walk(eni.items.values()):
                address = item.free_address(now)
                if address is not None:
                    self._hand_out(pod, eni, item, address)
                    return True
        return False

    def unassign_pod(self, pod: str, now: float) -> bool:
        """Take a pod's address back; it cools from now on. False for an unknown pod."""
        held = self._pods.pop(pod, None)
        if held is None:
            return False
        eni, item, address = held
        item.used[address] = _Used(unassigned_at=now)
        item.assigned -= 1
        eni.free_items += item.assigned == 0
        eni.assigned -= 1
        self.assigned -= 1
        return True

    def snapshot(self, now: float) -> Snapshot:
        """The pool as the policy sees it, in a fresh walking order."""
        enis = tuple(self._counts(e, now) for e in self._walk(self._enis.values()))
        return Snapshot(total=self.total, assigned=self.assigned, enis=enis)

    def _counts(self, eni: _Eni, now: float) -> EniCounts:
        is_empty = eni.assigned == 0 and not eni.is_primary
        return EniCounts(
            eni_id=eni.eni_id,
            items=len(eni.items),
            assigned=eni.assigned,
            free_items=eni.free_items,
            is_primary=eni.is_primary,
            # Only asked of ENIs that could go.
            is_cooling=is_empty and any(i.is_cooling(now) for i in eni.items.values()),
            age_seconds=now - eni.created_at,
        )

    def _hand_out(self, pod: str, eni: _Eni, item: _Item, address: IPv4Address) -> None:
        item.used[address] = _Used(pod=pod)
        eni.free_items -= item.assigned == 0
        item.assigned += 1
        eni.assigned += 1
        self.assigned += 1
        self._pods[pod] = (eni, item, address)

    def _walk(self, things: Iterable[T]) -> list[T]:
        order = list(things)
        self._chance.shuffle(order)
        return order
