"""Whose turn it is while attachments wait, and which ENI an attachment insists on (pure).

Called by `ipamd.allocations`. First come, first served, among those that could take the same
address: an attachment that wants one ENI's neither holds up those that would take any, nor is it
passed by them on its own ENI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ipamd.errors import BadRequest, NotReady
from ipamd.model import Eni, EniId
from ipamd.pool.ledger import Ledger

PRIMARY = "primary"
"""The wish for the instance's primary ENI, whatever its id is."""

SHOWN_CHARACTERS = 320
"""Of a wish that nothing answers: an ARM id with everything in it has about 300."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """What an attachment may be served by: one ENI, one network card, or (0) any."""

    network_card: int = 0
    eni_id: EniId | None = None


def find_eni(ledger: Ledger, wish: str) -> Eni | None:
    """The ENI that "primary", an id or the last part of a path names, if the ledger has it.

    Without case: EC2's ids are in lower case, and so is the core's form of ARM's, which people
    write as the portal shows them. Of two with one name neither is meant.
    """
    if wish == PRIMARY:
        return next((e for e in ledger.enis.values() if e.is_primary), None)
    wish = wish.lower()
    if EniId(wish) in ledger.enis:
        return ledger.enis[EniId(wish)]
    named = [e for e in ledger.enis.values() if e.eni_id.rpartition("/")[2] == wish]
    return named[0] if len(named) == 1 else None


def wanted_eni(ledger: Ledger, wish: str) -> Eni:
    """The ENI that a request insists on. BadRequest for one that gives pods no addresses, NotReady
    while none is known."""
    found = find_eni(ledger, wish)
    if found is not None and found.takes_pods:
        return found
    if not ledger.enis:
        raise NotReady("the cloud has not said yet which ENIs the node has")
    seen = "is not one of this node" if found is None else _why_not(found)
    serving = ", ".join(sorted(e.eni_id for e in ledger.enis.values() if e.takes_pods))
    raise BadRequest(
        f"eni {wish[:SHOWN_CHARACTERS]!a} {seen}; pods can have addresses of {serving or 'no ENI'}"
    )


def _why_not(eni: Eni) -> str:
    why = "is excluded (custom networking or a tag)" if eni.is_managed else "is not managed by us"
    return f"{why}: {eni.eni_id} carries no pods"


def open_enis(
    free: Mapping[EniId, int], cards: Mapping[EniId, int], ahead: Sequence[Claim], own: Claim
) -> frozenset[EniId]:
    """The ENIs of which `own` may take an address without passing those ahead; empty: wait.

    `free` counts what each ENI could give at once, `cards` names the card of each.
    """
    kept = Counter(claim.eni_id for claim in ahead if claim.eni_id is not None)
    left = {eni_id: max(count - kept[eni_id], 0) for eni_id, count in free.items()}
    others = sum(
        claim.eni_id is None and claim.network_card in (0, _card(own, cards)) for claim in ahead
    )
    if own.eni_id is not None:
        elsewhere = sum(count for eni_id, count in left.items() if eni_id != own.eni_id)
        is_open = left.get(own.eni_id, 0) > max(others - elsewhere, 0)
        return frozenset({own.eni_id} if is_open else ())
    fitting = {
        eni_id: count for eni_id, count in left.items() if own.network_card in (0, cards[eni_id])
    }
    if sum(fitting.values()) <= others:
        return frozenset()
    return frozenset(eni_id for eni_id, count in fitting.items() if count)


def _card(claim: Claim, cards: Mapping[EniId, int]) -> int:
    if claim.eni_id is None:
        return claim.network_card
    return cards.get(claim.eni_id, 0)
