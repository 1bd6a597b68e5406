"""Allocate and release: which address an attachment gets, and what a release may change.

Called by `ipamd.allocations` for each RPC. Every function takes the ledger and `now` (seconds of
CLOCK_BOOTTIME) and returns the change to commit; none waits.
"""

from __future__ import annotations

import enum
from collections import Counter
from dataclasses import dataclass, replace

from ipamd.errors import AttachmentConflict, AttemptRevoked, NotReady
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
    WiredBy,
)
from ipamd.pool.ledger import Change, Ledger, Tombstone
from ipamd.pool.reports import FOREIGN
from ipamd.pool.turns import wanted_eni

TOMBSTONE_SECONDS = 600.0
"""How long a release refuses older attempts: twice the 5 minutes that CRI-O gives an ADD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the settings and the node say about handing out."""

    max_pods: int
    versions: tuple[int, ...] = (4,)  # IP versions of every attachment, 4 before 6
    prefers_prefixes: bool = False  # the kind of IPv4 address that is in use


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
) -> Granted | None:
    """Give the attachment an address, or None when there is none right now.

    `among` are the ENIs that others who wait leave for it; None is all. Idempotent by (key,
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
    if card == 0 and pods_on_default_card(ledger) >= rules.max_pods:
        return None
    chosen = choose(ledger, rules, network_card=card, among=among)
    return _granted(ledger, request, chosen, now, now_unix) if chosen else None


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


def choose(
    ledger: Ledger,
    rules: Rules,
    *,
    network_card: int = 0,
    among: frozenset[EniId] | None = None,
) -> tuple[Address, ...]:
    """The next addresses to hand out, one of each version and all of one ENI; empty for none.

    `among` names the ENIs to choose from, None all.

    In order of preference: the lower card, the kind of address in use, the fullest ENI, the
    fullest prefix, the longest idle. Fullest first empties the others, so that whole prefixes and
    ENIs can go back; longest idle first keeps an address away from its old peers as long as
    possible. Ties go to the lower device index and address, so equal ledgers choose alike.
    """
    usable = {
        eni_id: eni
        for eni_id, eni in _usable_enis(ledger, network_card).items()
        if among is None or eni_id in among
    }
    pods: Counter[EniId | IPNetwork] = Counter()
    candidates: list[Address] = []
    for address in ledger.addresses.values():
        if address.state is AddressState.ALLOCATED:
            pods[address.eni_id] += 1
            if address.prefix is not None:
                pods[address.prefix] += 1
        elif address.state is AddressState.AVAILABLE and address.eni_id in usable:
            candidates.append(address)
    best: dict[tuple[EniId, int], tuple[_Preference, Address]] = {}
    for address in candidates:
        place = (address.eni_id, address.address.version)
        found = (_preference(address, usable[address.eni_id], pods, rules), address)
        if place not in best or found[0] < best[place][0]:
            best[place] = found
    return _whole_set(best, rules)


def free_by_eni(ledger: Ledger, rules: Rules) -> dict[EniId, int]:
    """How many attachments each ENI could serve now; ENIs that could serve none are left out."""
    enis = _usable_enis(ledger, 0)
    free: Counter[tuple[EniId, int]] = Counter(
        (a.eni_id, a.address.version)
        for a in ledger.in_state(AddressState.AVAILABLE)
        if a.eni_id in enis
    )
    counts = {e: min(free[e, version] for version in rules.versions) for e in enis}
    return {eni_id: count for eni_id, count in counts.items() if count}


def _usable_enis(ledger: Ledger, network_card: int) -> dict[EniId, Eni]:
    return {
        e.eni_id: e
        for e in ledger.enis.values()
        if e.is_ready and e.takes_pods and network_card in (0, e.network_card)
    }


_Preference = tuple[int, bool, int, int, int, float, int]


def _preference(
    address: Address, eni: Eni, pods: Counter[EniId | IPNetwork], rules: Rules
) -> _Preference:
    is_other_kind = (
        address.address.version == 4 and (address.prefix is not None) is not rules.prefers_prefixes
    )
    in_prefix = pods[address.prefix] if address.prefix is not None else 0
    return (
        eni.network_card,
        is_other_kind,
        -pods[eni.eni_id],
        eni.device_index,
        -in_prefix,
        address.since_boottime,
        int(address.address),
    )


def _whole_set(
    best: dict[tuple[EniId, int], tuple[_Preference, Address]], rules: Rules
) -> tuple[Address, ...]:
    """The best ENI that has an address of every version."""
    first = rules.versions[0]
    whole = [
        (preference, eni_id)
        for (eni_id, version), (preference, _) in best.items()
        if version == first and all((eni_id, v) in best for v in rules.versions)
    ]
    if not whole:
        return ()
    _, eni_id = min(whole)
    return tuple(best[eni_id, version][1] for version in rules.versions)


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


def expire(ledger: Ledger, *, cooldown_seconds: float, now: float) -> Change:
    """What time alone changes: addresses that have cooled down, tombstones past their use."""
    cooled = tuple(
        replace(a, state=_rest_state(ledger, a.eni_id), reason="")
        for a in ledger.in_state(AddressState.COOLING)
        if now - a.since_boottime >= cooldown_seconds
    )
    stale = tuple(
        t.key for t in ledger.tombstones.values() if now - t.made_boottime >= TOMBSTONE_SECONDS
    )
    return Change(put_addresses=cooled, drop_tombstones=stale)


def _rest_state(ledger: Ledger, eni_id: EniId) -> AddressState:
    eni = ledger.enis.get(eni_id)
    is_ready = eni is not None and eni.is_ready
    return AddressState.AVAILABLE if is_ready else AddressState.PREPARING


def next_expiry(ledger: Ledger, *, cooldown_seconds: float) -> float | None:
    """Boot time at which the earliest cooling address becomes available; None without one."""
    ends = (a.since_boottime + cooldown_seconds for a in ledger.in_state(AddressState.COOLING))
    return min(ends, default=None)
