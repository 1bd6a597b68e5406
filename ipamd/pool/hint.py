"""The metadata service's picture beside the ledger (pure). Used by `ipamd.hints`."""

from __future__ import annotations

from collections.abc import Iterable

from ipamd.cloud import EniHint
from ipamd.model import EniId
from ipamd.pool.ledger import Ledger


def differs(ledger: Ledger, hints: Iterable[EniHint]) -> bool:
    """Whether the metadata service shows other ENIs, addresses or prefixes than the ledger holds.

    Only what can be told: ENIs of others are compared by their presence alone, and addresses whose
    ENI no look has named yet (taken over from another agent) not at all.
    """
    shown = {h.eni_id: set(h.items) for h in hints}
    if set(shown) != set(ledger.enis):
        return True
    held: dict[EniId, set[str]] = {eni_id: set() for eni_id in ledger.enis}
    for a in ledger.addresses.values():
        if a.eni_id in held:
            held[a.eni_id].add(str(a.prefix or a.address))
    return any(e.is_managed and shown[e.eni_id] != held[e.eni_id] for e in ledger.enis.values())
