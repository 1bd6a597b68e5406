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
    EniId,
    IPAddress,
)
from ipamd.pool.ledger import Change, Ledger, Tombstone

TOMBSTONE_SECONDS = 600.0
"""How long a release refuses older attempts: twice the 5 minutes that CRI-O gives an ADD."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What an ADD asks for. `began_boottime` is when its try began, for tombstones."""

    key: AttachmentKey
    network_name: str
    attempt_id: AttemptId
    netns_cookie: int
    pod_namespace: str
    pod_name: str
    pod_uid: str
    began_boottime: float


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
    ledger: Ledger, request: Request, *, max_pods: int, now: float, now_unix: float
) -> Granted | None:
    """Give the attachment an address, or None when there is none right now.

    Idempotent by (key, netns_cookie). Raises NotReady before the node was heard, AttemptRevoked
    when a tombstone is newer than the attempt, AttachmentConflict when the key holds an allocation
    of another namespace.
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
    if len(ledger.allocations) >= max_pods:
        return None
    address = choose(ledger)
    return None if address is None else _granted(ledger, request, address, now, now_unix)


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
    again = replace(held, attempt_id=request.attempt_id)
    return Granted(allocation=again, change=Change(put_allocations=(again,)), is_repeat=True)


def _granted(
    ledger: Ledger, request: Request, address: Address, now: float, now_unix: float
) -> Granted:
    allocation = Allocation(
        key=request.key,
        address=address.address,
        eni_id=address.eni_id,
        network_name=request.network_name,
        attempt_id=request.attempt_id,
        generation=ledger.next_generation,
        netns_cookie=request.netns_cookie,
        pod_namespace=request.pod_namespace,
        pod_name=request.pod_name,
        pod_uid=request.pod_uid,
        allocated_unix=now_unix,
    )
    change = Change(
        put_addresses=(
            replace(address, state=AddressState.ALLOCATED, since_boottime=now, reason=""),
        ),
        put_allocations=(allocation,),
        drop_tombstones=(request.key,) if request.key in ledger.tombstones else (),
        next_generation=ledger.next_generation + 1,
    )
    return Granted(allocation=allocation, change=change, is_repeat=False)


def choose(ledger: Ledger) -> Address | None:
    """The next address to hand out: on the fullest ready ENI, the longest idle first.

    Fullest first empties the other ENIs, so that whole ENIs can go back; longest idle first keeps
    an address away from its old peers as long as possible. Ties go to the lower device index and
    the lower address, so equal ledgers choose alike.
    """
    used = Counter(a.eni_id for a in ledger.in_state(AddressState.ALLOCATED))
    candidates = (
        a
        for a in ledger.in_state(AddressState.AVAILABLE)
        if (eni := ledger.enis.get(a.eni_id)) is not None and eni.is_ready
    )
    return min(candidates, key=lambda a: _preference(a, used, ledger), default=None)


def _preference(
    address: Address, used: Counter[EniId], ledger: Ledger
) -> tuple[int, int, float, int]:
    eni = ledger.enis[address.eni_id]
    return (-used[eni.eni_id], eni.device_index, address.since_boottime, int(address.address))


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
        return Released(outcome=Outcome.UNKNOWN_KEY, change=Change(put_tombstones=(tombstone,)))
    if generation and held.generation != generation:
        return Released(outcome=Outcome.OTHER_GENERATION, change=Change(), allocation=held)
    if attempt_id and held.attempt_id != attempt_id:
        return Released(
            outcome=Outcome.OTHER_GENERATION,
            change=Change(put_tombstones=(tombstone,)),
            allocation=held,
        )
    state = AddressState.QUARANTINED if is_foreign_use else AddressState.COOLING
    freed = _moved(ledger, held.address, state, now, reason)
    return Released(
        outcome=Outcome.RELEASED,
        change=Change(put_addresses=freed, drop_allocations=(key,), put_tombstones=(tombstone,)),
        allocation=held,
    )


def _moved(
    ledger: Ledger, address: IPAddress, state: AddressState, now: float, reason: str
) -> tuple[Address, ...]:
    held = ledger.addresses.get(address)
    if held is None:  # impossible while I1 holds; a release must not fail on it all the same
        return ()
    return (replace(held, state=state, since_boottime=now, reason=reason),)


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
