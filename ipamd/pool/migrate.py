"""aws-node's allocations into the ledger and back (pure).

Forward: every address of the checkpoint is kept from other pods, whatever the cloud shows and even
where its entry cannot become an attachment. Back: whatever a pod may use is in the checkpoint, so
that aws-node's agent meets nothing that it does not know.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace

from ipamd.migration_format import Entry
from ipamd.model import (
    Address,
    AddressState,
    Allocation,
    AttachmentKey,
    AttemptId,
    EniId,
    IPAddress,
    WiredBy,
    attachment_key,
)
from ipamd.pool import peer
from ipamd.pool.ledger import Change, Ledger, sort_key
from ipamd.pool.reports import ObservedPod, is_foreign

IMPORTED = AttemptId("peer-checkpoint")
"""The attempt of an allocation that came from the checkpoint: no ADD of ours made it."""

UNKNOWN_ENI = EniId("")
"""The checkpoint names no ENIs; the first look at the cloud tells where an address is."""

OLD_NETWORK, OLD_IFNAME = "_migrated-from-cri", "unknown"
"""Names of entries that aws-node before 1.6 took over from the runtime's own records: pods of one
interface, whose name it did not know. It looks for them under these names on a delete."""

DEFAULT_IFNAME = "eth0"
"""What kubelet and its runtimes call a pod's interface."""

HELD_NETWORK = "vpc-ipamd-held"
"""Network name of an allocation that only keeps an address from being given out: something on the
node may use it, and no DEL will name it. An allocation and no quarantine, because no look at the
cloud and no report of the node ends it, and because aws-node's file can hold it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unusable:
    """An entry that became no attachment. Its addresses are kept from other pods all the same."""

    entry: Entry
    network_card: int
    why: str

    def __str__(self) -> str:
        entry = self.entry
        return (
            f"{' '.join(map(str, entry.addresses))} of {entry.container_id!r}/{entry.ifname!r} "
            f"(card {self.network_card}): {self.why}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TakenIn:
    """One change that holds everything of the checkpoint, and what there is to say of it."""

    change: Change
    adopted: tuple[Allocation, ...]
    unusable: tuple[Unusable, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Claim:
    entry: Entry
    network_card: int
    number: int  # which of the pod's interfaces it is


def take_in(ledger: Ledger, files: Mapping[int, tuple[Entry, ...]], *, now: float) -> TakenIn:
    """Adopt the checkpoint of every network card, key (card number) by key.

    Where two entries claim one key or address, the younger one holds. What the ledger holds already
    in the same way is left as it is, so that taking in twice changes nothing.
    """
    adopted: dict[AttachmentKey, Allocation] = {}
    taken: set[IPAddress] = set()
    unusable: list[Unusable] = []
    standing: set[AttachmentKey] = set()
    for claim in _by_age(_claims(files)):
        key, why = _judged(ledger, claim, adopted, standing, taken)
        if key is None:
            entry = claim.entry
            unusable.append(Unusable(entry=entry, network_card=claim.network_card, why=why))
            continue
        taken.update(claim.entry.addresses)
        if key in ledger.allocations:
            standing.add(key)
        else:
            generation = ledger.next_generation + len(adopted)
            adopted[key] = _allocation(ledger, key, claim.entry, generation)
    held = _held(ledger, unusable, taken, ledger.next_generation + len(adopted))
    made = (*adopted.values(), *held)
    return TakenIn(
        change=Change(
            put_addresses=tuple(_row(ledger, a, now) for n in made for a in n.addresses),
            put_allocations=made,
            next_generation=ledger.next_generation + len(made) if made else None,
        ),
        adopted=tuple(adopted.values()),
        unusable=tuple(unusable),
    )


def _claims(files: Mapping[int, tuple[Entry, ...]]) -> Iterable[_Claim]:
    """Entries with the number of their interface: a pod of several cards has its key on each."""
    seen: dict[tuple[str, str, str], int] = {}
    for card in sorted(files):
        here: dict[tuple[str, str, str], int] = {}
        for entry in files[card]:
            name = (entry.network_name, entry.container_id, entry.ifname)
            yield _Claim(entry=entry, network_card=card, number=seen.get(name, 0))
            here[name] = seen.get(name, 0) + 1
        seen |= here


def _by_age(claims: Iterable[_Claim]) -> list[_Claim]:
    return sorted(claims, key=lambda c: -c.entry.allocated_unix_ns)


def _judged(
    ledger: Ledger,
    claim: _Claim,
    adopted: Mapping[AttachmentKey, Allocation],
    standing: set[AttachmentKey],
    taken: set[IPAddress],
) -> tuple[AttachmentKey | None, str]:
    """The key that an entry gets, or why it gets none."""
    entry = claim.entry
    is_old = (entry.network_name, entry.ifname) == (OLD_NETWORK, OLD_IFNAME)
    try:
        base = attachment_key(entry.container_id, DEFAULT_IFNAME if is_old else entry.ifname)
    except ValueError as e:
        return None, str(e)
    key = peer.interface_key(base.container_id, base.ifname, claim.number)
    if key in adopted or key in standing:
        return None, f"a younger entry holds attachment {key}"
    if not taken.isdisjoint(entry.addresses):
        return None, "a younger entry holds its address"
    held = ledger.allocations.get(key)
    if held is not None:
        is_same = held.addresses == entry.addresses
        return (key, "") if is_same else (None, f"{key} has {held.address} in the ledger")
    if any(_is_beyond_reach(ledger, a) for a in entry.addresses):
        return None, "the ledger has given its address to another attachment, or to the cloud"
    return key, ""


def _is_beyond_reach(ledger: Ledger, address: IPAddress) -> bool:
    held = ledger.addresses.get(address)
    return held is not None and held.state in (AddressState.ALLOCATED, AddressState.UNASSIGNING)


def _allocation(ledger: Ledger, key: AttachmentKey, entry: Entry, generation: int) -> Allocation:
    held = ledger.addresses.get(entry.addresses[0])
    return Allocation(
        key=key,
        addresses=entry.addresses,
        eni_id=held.eni_id if held else UNKNOWN_ENI,
        network_name=entry.network_name,
        attempt_id=IMPORTED,
        generation=generation,
        netns_cookie=peer.PEER_COOKIE,
        pod_namespace=entry.pod_namespace,
        pod_name=entry.pod_name,
        pod_uid="",
        allocated_unix=entry.allocated_unix_ns / 1e9,
        wired_by=WiredBy.PEER,
    )


def _row(ledger: Ledger, address: IPAddress, now: float) -> Address:
    held = ledger.addresses.get(address)
    if held is not None:
        return replace(held, state=AddressState.ALLOCATED, since_boottime=now, reason="")
    return Address(
        address=address, eni_id=UNKNOWN_ENI, state=AddressState.ALLOCATED, since_boottime=now
    )


def _held(
    ledger: Ledger, unusable: Iterable[Unusable], taken: set[IPAddress], generation: int
) -> tuple[Allocation, ...]:
    """Allocations that keep the addresses of unusable entries from being given out."""
    addresses = {a for u in unusable for a in u.entry.addresses} - taken
    return tuple(
        _allocation(ledger, _held_key(address), _holder(address), generation + number)
        for number, address in enumerate(sorted(addresses, key=lambda a: (a.version, int(a))))
        if not _is_beyond_reach(ledger, address)
    )


def _held_key(address: IPAddress) -> AttachmentKey:
    holder = _holder(address)
    return attachment_key(holder.container_id, holder.ifname)


def _holder(address: IPAddress) -> Entry:
    """The entry that holds an address for good. Example: in-use-10.0.0.7, in-use-2001-db8--7."""
    return Entry(
        network_name=HELD_NETWORK,
        container_id=f"in-use-{str(address).replace(':', '-')}",
        ifname=OLD_IFNAME,
        addresses=(address,),
    )


def outranked(ledger: Ledger, pods: Iterable[ObservedPod], *, now: float) -> Change:
    """What the first report of a new store takes from the checkpoint's allocations.

    A link of ours that carries the address, or stands under the key, is younger than the file: we
    made it after the file was read once before, by a store that was lost since. Its own name is
    adopted next (`reports.node`).
    """
    pods = tuple(pods)
    addresses = {p.address for p in pods if p.key is not None}
    keys = {p.key for p in pods if p.key is not None}
    stale = [
        n
        for n in ledger.allocations.values()
        if n.attempt_id == IMPORTED and (n.key in keys or not addresses.isdisjoint(n.addresses))
    ]
    freed = (ledger.addresses[a] for n in stale for a in n.addresses)
    return Change(
        put_addresses=tuple(
            replace(a, state=AddressState.COOLING, since_boottime=now) for a in freed
        ),
        drop_allocations=tuple(n.key for n in stale),
    )


def unseen(ledger: Ledger, used: Container[IPAddress]) -> frozenset[AttachmentKey]:
    """Allocations of the checkpoint that the kernel carries nothing of, by a complete report.

    aws-node forgets deletes that its plugin did while the agent was away; such pods are gone.
    """
    return frozenset(
        n.key
        for n in ledger.allocations.values()
        if n.attempt_id == IMPORTED and not any(a in used for a in n.addresses)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class HandBack:
    """The checkpoint of every card, and what aws-node's agent cannot be told by it."""

    files: Mapping[int, tuple[Entry, ...]]
    unplaced: tuple[Allocation, ...]  # the cloud does not show their address: it drops them
    cooling: tuple[Address, ...]  # it knows no cooldown
    foreign: tuple[Address, ...]  # in use by something unknown; entries that never end


def hand_back(ledger: Ledger, *, network_name: str) -> HandBack:
    """What the ledger holds, as aws-node's agent keeps it.

    Attachments that we wired get `network_name`, under which its plugin will be asked to delete
    them. An address in use on the node by something unknown gets an entry that holds it for good.
    """
    files: dict[int, list[Entry]] = {e.network_card: [] for e in ledger.enis.values()}
    unplaced = tuple(a for a in ledger.allocations.values() if a.eni_id not in ledger.enis)
    for held in sorted(ledger.allocations.values(), key=lambda a: a.generation):
        file = files.setdefault(_card(ledger, held.eni_id), [])
        file.append(_entry(ledger, held, network_name))
    foreign = [a for a in ledger.addresses.values() if is_foreign(a)]
    for address in foreign:
        files.setdefault(_card(ledger, address.eni_id), []).append(_holder(address.address))
    return HandBack(
        files={0: ()} | {card: tuple(entries) for card, entries in files.items()},
        unplaced=unplaced,
        cooling=tuple(sorted(ledger.in_state(AddressState.COOLING), key=sort_key)),
        foreign=tuple(sorted(foreign, key=sort_key)),
    )


def _card(ledger: Ledger, eni_id: EniId) -> int:
    return ledger.enis[eni_id].network_card if eni_id in ledger.enis else 0


def _entry(ledger: Ledger, held: Allocation, network_name: str) -> Entry:
    is_peers = held.wired_by is WiredBy.PEER
    is_veth_named = is_peers or held.wired_by is WiredBy.US
    base = _base(ledger, held)
    ifname = OLD_IFNAME if held.network_name == OLD_NETWORK else base.ifname
    # Its agent drops an entry with a pod's name unless a host veth has the name that its plugin
    # would give it. Ours has for eth0 of a named pod, a main plugin's has not; entries without
    # names are kept unseen.
    is_named = (
        bool(held.pod_name) and is_veth_named and (is_peers or held.key.ifname == DEFAULT_IFNAME)
    )
    return Entry(
        network_name=held.network_name if is_peers else network_name,
        container_id=held.key.container_id,
        ifname=ifname,
        addresses=held.addresses,
        allocated_unix_ns=round(held.allocated_unix * 1e9),
        pod_namespace=held.pod_namespace if is_named else "",
        pod_name=held.pod_name if is_named else "",
        interfaces=len(peer.interfaces(ledger, base)) if is_named else 0,
    )


def _base(ledger: Ledger, held: Allocation) -> AttachmentKey:
    """The key that the runtime named: on further cards the file has the first interface's."""
    if held.wired_by is not WiredBy.PEER or not peer.is_further(held.key):
        return held.key
    return next(
        (
            a.key
            for a in ledger.allocations.values()
            if a.key.container_id == held.key.container_id
            and held in peer.interfaces(ledger, a.key)
            and not peer.is_further(a.key)
        ),
        replace(held.key, ifname=DEFAULT_IFNAME),
    )
