"""What calls with a lost answer may have done, so that a look at the cloud can tell it from a
stranger's work (pure). Used by `ipamd.pool.observe`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ipamd.model import EniId, IPNetwork
from ipamd.pool.ledger import IntentKind, Ledger


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the cloud shows an address: on which ENI, and in which prefix if it came with one."""

    eni_id: EniId
    prefix: IPNetwork | None


class Expected:
    """What calls with a lost answer may have assigned, taken off as it is found. A prefix is
    expected as a whole: with its first address, all the others are."""

    def __init__(self, ledger: Ledger) -> None:
        self._left: dict[tuple[EniId, int], int] = {}
        self._granted: set[IPNetwork] = set()
        for intent in ledger.intents.values():
            if intent.kind is IntentKind.ASSIGN and not intent.is_open and intent.eni_id:
                self._add(intent.eni_id, 0, intent.addresses)
                self._add(intent.eni_id, 4, intent.prefixes)
                self._add(intent.eni_id, 6, intent.prefixes_v6)

    def _add(self, eni_id: EniId, kind: int, count: int) -> None:
        self._left[eni_id, kind] = self._left.get((eni_id, kind), 0) + count

    def take(self, place: Place) -> bool:
        """Whether something at this place was asked for."""
        if place.prefix is not None and place.prefix in self._granted:
            return True
        kind = place.prefix.version if place.prefix is not None else 0
        left = self._left.get((place.eni_id, kind), 0)
        if left <= 0:
            return False
        self._left[place.eni_id, kind] = left - 1
        if place.prefix is not None:
            self._granted.add(place.prefix)
        return True
