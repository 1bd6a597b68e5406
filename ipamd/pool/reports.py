"""What the node's reports change in the ledger: which ENIs are ready, and who uses which address.

A ledger that has not heard the node yet (new or lost store) is filled by the first report; later
ones only quarantine available addresses that the kernel uses, and let them go when that ends.
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
    EniId,
    IPAddress,
)
from ipamd.pool import blocks
from ipamd.pool.ledger import Change, Ledger

FOREIGN = "in use on the node, unknown to the ledger"


def is_foreign(address: Address) -> bool:
    """Quarantined because something on the node uses it; a report without it ends that."""
    return address.state is AddressState.QUARANTINED and address.reason.startswith(FOREIGN)


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPod:
    """A pod address that the kernel of this node carries; `key` from the link's own alias.

    `is_on_host`: no pod has it, but a link of the node itself.
    """

    address: IPAddress
    link_name: str
    key: AttachmentKey | None
    netns_cookie: int
    network_name: str
    pod_namespace: str
    pod_name: str
    is_on_host: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFindings:
    """The change of one report; `unknown` are addresses that no allocation of ours explains."""

    change: Change
    adopted: tuple[Allocation, ...]
    unknown: tuple[IPAddress, ...]


def node(
    ledger: Ledger, pods: Iterable[ObservedPod], *, now: float, now_unix: float
) -> NodeFindings:
    """Take in a report of the kernel.

    A ledger that has not heard the node yet (new or lost store) adopts every pod that names its
    attachment and quarantines what names none. Later reports only quarantine available addresses
    that the kernel uses, and let those go whose use has ended.
    """
    pods = tuple(pods)
    if not ledger.has_heard_node:
        return _first_report(ledger, pods, now, now_unix)
    used = {p.address: p for p in reversed(pods)}
    unknown = [a for a, pod in used.items() if _is_unexplained(ledger, pod)]
    quarantine = tuple(
        replace(held, state=AddressState.QUARANTINED, since_boottime=now, reason=_why(used[a]))
        for a in unknown
        if (held := ledger.addresses.get(a)) is not None and held.state is AddressState.AVAILABLE
    )
    freed = tuple(
        replace(a, state=AddressState.COOLING, since_boottime=now, reason="")
        for a in ledger.in_state(AddressState.QUARANTINED)
        if is_foreign(a) and a.address not in used
    )
    return NodeFindings(
        change=Change(put_addresses=quarantine + freed),
        adopted=(),
        unknown=tuple(sorted(unknown, key=lambda a: (a.version, int(a)))),
    )


def _is_unexplained(ledger: Ledger, pod: ObservedPod) -> bool:
    """What the node has on its own links and the ledger does not hold is its own affair."""
    held = ledger.addresses.get(pod.address)
    if held is None:
        return not pod.is_on_host
    return held.state is not AddressState.ALLOCATED


def _why(pod: ObservedPod) -> str:
    if not pod.is_on_host:
        return FOREIGN
    return (
        f"{FOREIGN}: {pod.link_name} of the node has it; keep the system from configuring "
        "addresses that are pods'"
    )


def _first_report(
    ledger: Ledger, pods: tuple[ObservedPod, ...], now: float, now_unix: float
) -> NodeFindings:
    """Adopt what names its attachment, quarantine what does not, tell what no ENI explains."""
    adopted: list[Allocation] = []
    addresses: list[Address] = []
    unknown: list[IPAddress] = []
    for key, group in _by_key(pods).items():
        if key is not None and key in ledger.tombstones:
            continue  # deleted since the report was written
        held = {p.address: _held(ledger, p.address, now) for p in group}
        seen = {p.address: p for p in group}
        unknown += [a for a, row in held.items() if row is None and not seen[a].is_on_host]
        rows = [row for row in held.values() if row and row.state is not AddressState.ALLOCATED]
        if not rows:
            continue
        if key is None or not _is_one_set(rows):
            unknown += [row.address for row in rows]
            state, reasons = AddressState.QUARANTINED, {a: _why(pod) for a, pod in seen.items()}
        elif key in ledger.allocations:
            continue
        else:
            generation = ledger.next_generation + len(adopted)
            adopted.append(_adopted(group[0], key, rows, generation, now_unix))
            state, reasons = AddressState.ALLOCATED, {}
        addresses += [
            replace(r, state=state, since_boottime=now, reason=reasons.get(r.address, ""))
            for r in rows
        ]
    change = Change(
        put_addresses=tuple(addresses),
        put_allocations=tuple(adopted),
        has_heard_node=True,
        next_generation=ledger.next_generation + len(adopted),
    )
    return NodeFindings(change=change, adopted=tuple(adopted), unknown=tuple(unknown))


def _by_key(pods: Iterable[ObservedPod]) -> dict[AttachmentKey | None, list[ObservedPod]]:
    """The report by attachment; an address that is named twice belongs to its first name."""
    groups: dict[AttachmentKey | None, list[ObservedPod]] = {}
    named: set[IPAddress] = set()
    for pod in pods:
        if pod.address not in named:
            named.add(pod.address)
            groups.setdefault(pod.key, []).append(pod)
    return groups


def _held(ledger: Ledger, address: IPAddress, now: float) -> Address | None:
    """The ledger's row; for an address of a /80 that is not open yet, the one it would have."""
    held = ledger.addresses.get(address)
    if held is not None:
        return held
    place = blocks.prefix_of(ledger, address)
    if place is None:
        return None
    return blocks.born(place[0], (address,), place[1], AddressState.COOLING, now=now)[0]


def _is_one_set(rows: list[Address]) -> bool:
    """At most one address of each version, all of one ENI: what one attachment can hold."""
    versions = [r.address.version for r in rows]
    return len(set(versions)) == len(versions) and len({r.eni_id for r in rows}) == 1


def _adopted(
    pod: ObservedPod, key: AttachmentKey, rows: list[Address], generation: int, now_unix: float
) -> Allocation:
    ordered = sorted(rows, key=lambda r: r.address.version)
    return Allocation(
        key=key,
        addresses=tuple(r.address for r in ordered),
        eni_id=ordered[0].eni_id,
        network_name=pod.network_name,
        attempt_id=AttemptId("adopted"),
        generation=generation,
        netns_cookie=pod.netns_cookie,
        pod_namespace=pod.pod_namespace,
        pod_name=pod.pod_name,
        pod_uid="",
        allocated_unix=now_unix,
    )


def readiness(ledger: Ledger, ready: dict[EniId, bool], *, now: float) -> Change:
    """ENIs that vpc-cnid reports as ready or not, and what that makes of their idle addresses."""
    enis = tuple(
        replace(eni, is_ready=ready[eni.eni_id])
        for eni in ledger.enis.values()
        if eni.eni_id in ready and eni.is_ready is not ready[eni.eni_id]
    )
    changed = {e.eni_id: e.is_ready for e in enis}
    back = tuple(  # idle as long as before: the longest idle goes first
        replace(a, state=AddressState.AVAILABLE)
        for a in ledger.in_state(AddressState.PREPARING)
        if changed.get(a.eni_id) is True
    )
    lost = tuple(
        replace(a, state=AddressState.PREPARING, since_boottime=now)
        for a in ledger.in_state(AddressState.AVAILABLE)
        if changed.get(a.eni_id) is False
    )
    return Change(put_enis=enis, put_addresses=back + lost)
