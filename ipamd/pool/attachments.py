"""Allocate and release: which address an attachment gets, and what a release may change.

Called by `ipamd.allocations` for each RPC. Every function takes the ledger and `now` (seconds of
CLOCK_BOOTTIME) and returns the change to commit; none waits.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, replace

from ipamd.errors import AttachmentConflict, AttemptRevoked, NotReady
from ipamd.model import (
    Address,
    AddressState,
    Allocation,
    AttachmentKey,
    AttemptId,
    EniId,
    IPAddress,
    WiredBy,
)
from ipamd.pool.choice import Ahead, Rules, choose
from ipamd.pool.ledger import Change, Ledger, Tombstone
from ipamd.pool.reports import FOREIGN
from ipamd.pool.turns import wanted_eni

TOMBSTONE_SECONDS = 600.0
"""How long a release refuses older attempts: twice the 5 minutes that CRI-O gives an ADD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an ADD asks for. `began_boottime` is when its try began, for tombstones.

    `network_card` 0 takes the default card's ENIs first and any other's when those have nothing;
    another number takes that card's only. `eni` is "" for that, or "primary" or an ENI's id: then
    the address is that ENI's, whatever its card.
    """

    key: AttachmentKey
    network_name: str
    attempt_id: AttemptId
    netns_cookie: int
    pod_namespace: str
    pod_name: str
    pod_uid: str
    began_boottime: float
    network_card: int = 0
    wired_by: WiredBy = WiredBy.US
    eni: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Granted:
    """An allocation and the change that makes it true."""

    allocation: Allocation
    change: Change
    is_repeat: bool


class Outcome(enum.Enum):
    """What a release did."""

    RELEASED = "released"
    UNKNOWN_KEY = "unknown_key"
    OTHER_GENERATION = "other_generation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Released:
    """The change of a release, and the allocation it ended."""

    outcome: Outcome
    change: Change
    allocation: Allocation | None = None


def grant(
    ledger: Ledger,
    request: Request,
    *,
    rules: Rules,
    now: float,
    now_unix: float,
    among: frozenset[EniId] | None = None,
    ahead: Ahead | None = None,
) -> Granted | None:
    """Give the attachment an address, or None when there is none right now.

    `among` are the ENIs that others who wait leave for it; None is all. `ahead` is a choice that
    was made before, and counts if it is of this ledger. Idempotent by (key,
    netns_cookie). Raises NotReady before the node was heard, AttemptRevoked when a tombstone is
    newer than the attempt, AttachmentConflict when the key holds an allocation of another
    namespace, BadRequest for an ENI that gives pods no addresses.
    """
    refuse_revoked(ledger, request)
    held = ledger.allocations.get(request.key)
    if held is not None:
        return _repeat(held, request)
    if not ledger.has_heard_node:
        raise NotReady(
            "the store is new or was lost, and vpc-cnid has not yet reported which addresses the "
            "kernel uses; is vpc-cnid running?"
        )
    card = request.network_card
    if request.eni:
        eni = wanted_eni(ledger, request.eni)
        card, among = eni.network_card, frozenset({eni.eni_id}) & (among or {eni.eni_id})
    if card == 0 and is_full(ledger, rules):
        return None
    chosen = choose(ledger, rules, network_card=card, among=among, ahead=ahead)
    return _granted(ledger, request, chosen, now, now_unix) if chosen else None


def is_full(ledger: Ledger, rules: Rules) -> bool:
    """Whether max_pods attachments stand on the default card. Counted only where they could."""
    are_few = len(ledger.allocations) < rules.max_pods
    return not are_few and pods_on_default_card(ledger) >= rules.max_pods


def pods_on_default_card(ledger: Ledger) -> int:
    """Attachments that max_pods limits: further ones of the same pods are on other cards."""
    return sum(
        1
        for a in ledger.allocations.values()
        if (eni := ledger.enis.get(a.eni_id)) is None or eni.network_card == 0
    )


def refuse_revoked(ledger: Ledger, request: Request) -> None:
    """Raise AttemptRevoked if a release came after this attempt began."""
    tombstone = ledger.tombstones.get(request.key)
    if tombstone is None:
        return
    if tombstone.attempt_id:
        is_refused = tombstone.attempt_id == request.attempt_id
    else:
        is_refused = request.began_boottime <= tombstone.made_boottime
    if is_refused:
        raise AttemptRevoked(
            f"attachment {request.key} was released while this ADD was under way; "
            "a new ADD will be served"
        )


def _repeat(held: Allocation, request: Request) -> Granted:
    if held.netns_cookie != request.netns_cookie:
        raise AttachmentConflict(
            f"attachment {request.key} already holds {held.address} in another network namespace"
        )
    if held.wired_by is not request.wired_by:
        # The network config changed its mode: what the other mode made goes first.
        raise AttachmentConflict(
            f"attachment {request.key} already holds {held.address}, wired by {held.wired_by.value}"
        )
    again = replace(held, attempt_id=request.attempt_id)
    return Granted(allocation=again, change=Change(put_allocations=(again,)), is_repeat=True)


def _granted(
    ledger: Ledger, request: Request, chosen: tuple[Address, ...], now: float, now_unix: float
) -> Granted:
    allocation = Allocation(
        key=request.key,
        addresses=tuple(a.address for a in chosen),
        eni_id=chosen[0].eni_id,
        network_name=request.network_name,
        attempt_id=request.attempt_id,
        generation=ledger.next_generation,
        netns_cookie=request.netns_cookie,
        pod_namespace=request.pod_namespace,
        pod_name=request.pod_name,
        pod_uid=request.pod_uid,
        allocated_unix=now_unix,
        wired_by=request.wired_by,
    )
    change = Change(
        put_addresses=tuple(
            replace(a, state=AddressState.ALLOCATED, since_boottime=now, reason="") for a in chosen
        ),
        put_allocations=(allocation,),
        drop_tombstones=(request.key,) if request.key in ledger.tombstones else (),
        next_generation=ledger.next_generation + 1,
    )
    return Granted(allocation=allocation, change=change, is_repeat=False)


def release(
    ledger: Ledger,
    key: AttachmentKey,
    *,
    generation: int = 0,
    attempt_id: AttemptId | None = None,
    is_foreign_use: bool = False,
    reason: str = "",
    now: float,
) -> Released:
    """End what stands under `key`; its address starts cooling (or is quarantined) with the commit.

    With `generation` or `attempt_id`, only an allocation that carries it (I6). Always leaves a
    tombstone, so that an ADD which is still on its way is refused and not resurrected.
    """
    held = ledger.allocations.get(key)
    tombstone = Tombstone(key=key, attempt_id=attempt_id or AttemptId(""), made_boottime=now)
    if held is None:
        before = ledger.tombstones.get(key)
        again = replace(tombstone, addresses=before.addresses if before else ())
        return Released(outcome=Outcome.UNKNOWN_KEY, change=Change(put_tombstones=(again,)))
    if generation and held.generation != generation:
        return Released(outcome=Outcome.OTHER_GENERATION, change=Change(), allocation=held)
    if attempt_id and held.attempt_id != attempt_id:
        return Released(
            outcome=Outcome.OTHER_GENERATION,
            change=Change(put_tombstones=(tombstone,)),
            allocation=held,
        )
    state = AddressState.QUARANTINED if is_foreign_use else AddressState.COOLING
    if is_foreign_use:  # with the words that a report without the address ends it by
        reason = f"{FOREIGN}: {reason}" if reason else FOREIGN
    tombstone = replace(tombstone, addresses=held.addresses)
    freed = _moved(ledger, held.addresses, state, now, reason)
    return Released(
        outcome=Outcome.RELEASED,
        change=Change(put_addresses=freed, drop_allocations=(key,), put_tombstones=(tombstone,)),
        allocation=held,
    )


def _moved(
    ledger: Ledger, addresses: tuple[IPAddress, ...], state: AddressState, now: float, reason: str
) -> tuple[Address, ...]:
    # One that is absent is impossible while I1 holds; a release must not fail on it all the same.
    held = (ledger.addresses[a] for a in addresses if a in ledger.addresses)
    return tuple(replace(a, state=state, since_boottime=now, reason=reason) for a in held)


def expired_tombstones(ledger: Ledger, *, now: float) -> Change:
    """Tombstones past their use go."""
    stale = tuple(
        t.key for t in ledger.tombstones.values() if now - t.made_boottime >= TOMBSTONE_SECONDS
    )
    return Change(drop_tombstones=stale)
