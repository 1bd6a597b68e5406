"""What looks at the cloud change in the ledger; what the node reports is in `reports`.

One look never takes anything from a pod (I5). What the cloud no longer shows is quarantined on the
first look and forgotten on a second one at least `SECOND_LOOK_SECONDS` later; what it shows
unexpectedly cools before its first use, because an API that lags (EC2 is eventually consistent)
may be showing an address that was just given back.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ipamd.cloud import CloudEni, CloudSnapshot, EniStatus
from ipamd.model import (
    Address,
    AddressState,
    Allocation,
    Eni,
    EniId,
    IPAddress,
    IPNetwork,
    SubnetId,
)
from ipamd.pool import blocks
from ipamd.pool.blocks import MISSING
from ipamd.pool.expected import Expected, Place
from ipamd.pool.ledger import Change, Intent, IntentKind, Ledger

SECOND_LOOK_SECONDS = 30.0
"""Two agreeing looks this far apart outlast the seconds of lag that EC2 users report."""

UNCONFIRMED = "found in the cloud, unasked for: waiting for a second look"

IN_DOUBT = "being given back; an answer was lost"
"""The reason of an unassigning address of which a call may have taken effect: no later refusal
proves that it is still ours, only a look does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Exclusions:
    """Which ENIs carry no new pods, although they are ours."""

    primary: bool = False  # custom networking: pods are in the ENIConfig's subnet
    secondary: bool = False  # IPv6 only: the primary ENI's /80 serves every pod
    subnets: frozenset[SubnetId] = frozenset()  # tagged so
    other_cards: bool = False  # ENABLE_MULTI_NIC is off

    def cover(self, eni: CloudEni) -> bool:
        """Whether they hold for this ENI."""
        return (
            (self.primary and eni.is_primary)
            or (self.secondary and not eni.is_primary)
            or eni.subnet_id in self.subnets
            or (self.other_cards and eni.network_card != 0)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudFindings:
    """The change of one look, and what a person or the planner should know of it."""

    change: Change
    found: tuple[IPAddress, ...]
    missing: tuple[IPAddress, ...]
    missing_allocated: tuple[IPAddress, ...]
    stray_enis: tuple[EniId, ...]  # ours by tag, attached to nothing
    unsettled: int  # calls with a lost answer on which this look has nothing to say
    unconfirmed: int  # addresses whose state another look will settle

    @property
    def wants_second_look(self) -> bool:
        """Whether a second look will change something. What stays as it is (pods on addresses that
        the cloud took, ENIs that hang loose) is news once, and the reconciler knows whether."""
        # After a lost answer, too: the call may have its effect only after this look. And an ENI
        # that the ledger forgets may hang loose, which only a look without it there can say.
        changed = self.change.drop_intents or self.change.drop_enis
        return bool(self.unconfirmed or self.found or changed)


def cloud(
    ledger: Ledger,
    snapshot: CloudSnapshot,
    *,
    exclusions: Exclusions = Exclusions(),
    touched: frozenset[EniId] = frozenset(),
    now: float,
) -> CloudFindings:
    """Compare a snapshot with the ledger.

    ENIs with an open intent are left for the next look, and so are those `touched` by a call since
    this look was asked for: the snapshot may be older than what the call did.
    """
    attached = {
        e.eni_id: e
        for e in snapshot.enis
        if e.status is EniStatus.ATTACHED and not _is_being_created(ledger, e)
    }
    busy = {i.eni_id for i in ledger.intents.values() if i.is_open and i.eni_id is not None}
    busy |= touched
    seen = _seen(ledger, [e for e in attached.values() if e.is_managed])
    found = _found(ledger, seen, busy, now)
    missing, gone, still_used = _missing(ledger, seen, busy, now)
    enis = tuple(known_eni(ledger, e, exclusions, now) for e in attached.values())
    closed = _closed(ledger)
    settled = tuple(i.token for i in closed if i.eni_id not in busy)
    lost_enis = tuple(
        eni_id
        for eni_id in ledger.enis
        if eni_id not in attached
        and eni_id not in busy
        and not ledger.enis[eni_id].is_primary  # it cannot be detached: the look must be wrong
        and all(a.address in gone for a in ledger.on_eni(eni_id))
    )
    change = Change(
        put_enis=tuple(e for e in enis if ledger.enis.get(e.eni_id) != e),
        drop_enis=lost_enis,
        put_addresses=found + missing,
        put_allocations=_followed(ledger, found),
        drop_addresses=tuple(gone),
        drop_intents=settled,
    )
    return CloudFindings(
        change=change,
        found=tuple(a.address for a in found),
        missing=tuple(a.address for a in missing),
        missing_allocated=still_used,
        unsettled=len(closed) - len(settled),
        unconfirmed=sum(_awaits_look(a) for a in ledger.applied(change).addresses.values()),
        stray_enis=tuple(
            e.eni_id
            for e in snapshot.enis
            if e.status is EniStatus.AVAILABLE
            and e.is_managed
            and not e.is_primary
            and e.eni_id not in ledger.enis  # else: detached by hand, its pods may live on
        ),
    )


def known_eni(ledger: Ledger, eni: CloudEni, exclusions: Exclusions, now: float) -> Eni:
    """An attached ENI as the ledger holds it; ready only if the node has reported it so."""
    before = ledger.enis.get(eni.eni_id)
    return Eni(
        eni_id=eni.eni_id,
        mac=eni.mac,
        subnet_id=eni.subnet_id,
        subnet_cidr=eni.subnet_cidr,
        primary_address=eni.primary_address,
        device_index=eni.device_index,
        network_card=eni.network_card,
        is_primary=eni.is_primary,
        is_managed=eni.is_managed,
        is_ready=before.is_ready if before else False,
        attached_boottime=before.attached_boottime if before else now,
        is_excluded=exclusions.cover(eni),
        interface_type=eni.interface_type,
        subnet_cidr_v6=eni.subnet_cidr_v6,
        primary_address_v6=eni.primary_address_v6,
    )


def _seen(ledger: Ledger, enis: Iterable[CloudEni]) -> dict[IPAddress, Place]:
    """Every address that the cloud shows; of a /80 those that are open, or the first ones."""
    seen: dict[IPAddress, Place] = {}
    opened: dict[IPNetwork, list[IPAddress]] = {}
    placeless = []  # taken over from another agent, which did not say of which prefix
    for address in ledger.addresses.values():
        if address.prefix is not None:
            opened.setdefault(address.prefix, []).append(address.address)
        elif address.address.version == 6:
            placeless.append(address.address)
    for eni in enis:
        for single in eni.addresses:
            seen[single] = Place(eni_id=eni.eni_id, prefix=None)
        for prefix in eni.prefixes:
            place = Place(eni_id=eni.eni_id, prefix=prefix)
            is_open = prefix.version == 6 and prefix in opened
            inside = opened[prefix] if is_open else blocks.first_addresses(prefix)
            seen.update(dict.fromkeys(inside, place))
            seen.update({a: place for a in placeless if a in prefix})
    return seen


def _found(
    ledger: Ledger, seen: dict[IPAddress, Place], busy: set[EniId], now: float
) -> tuple[Address, ...]:
    asked_for = Expected(ledger)
    found = []
    for address, place in sorted(seen.items(), key=lambda item: (item[0].version, int(item[0]))):
        held = ledger.addresses.get(address)
        if place.eni_id in busy:
            continue
        if held is None:
            is_expected = asked_for.take(place)
            found.append(_found_address(ledger, address, place, is_expected, now))
        elif _is_back(held, now):
            again = replace(held, state=AddressState.COOLING, since_boottime=now, reason="")
            found.append(replace(again, eni_id=place.eni_id, prefix=place.prefix))
        elif (held.eni_id, held.prefix) != (place.eni_id, place.prefix):  # somebody moved it
            state = held.state
            if state in (AddressState.PREPARING, AddressState.AVAILABLE):
                state = _idle_state(ledger, place.eni_id)
            found.append(replace(held, eni_id=place.eni_id, prefix=place.prefix, state=state))
    return tuple(found)


def _followed(ledger: Ledger, found: tuple[Address, ...]) -> tuple[Allocation, ...]:
    """Allocations whose address is found on another ENI than they say."""
    homes = {a.address: a.eni_id for a in found if a.state is AddressState.ALLOCATED}
    if not homes:
        return ()
    return tuple(
        replace(n, eni_id=homes[n.address])
        for n in ledger.allocations.values()
        if homes.get(n.address, n.eni_id) != n.eni_id
    )


def _found_address(
    ledger: Ledger, address: IPAddress, place: Place, is_expected: bool, now: float
) -> Address:
    """Ours at once if we asked for it; in a ledger that knows its past, only after a second look:
    an API that lags still shows what was given back a moment ago. A new ledger has no past."""
    if is_expected:
        state, reason = _idle_state(ledger, place.eni_id), ""
    elif ledger.has_heard_node:
        state, reason = AddressState.QUARANTINED, UNCONFIRMED
    else:
        state, reason = AddressState.COOLING, ""
    return Address(
        address=address,
        eni_id=place.eni_id,
        state=state,
        since_boottime=now,
        reason=reason,
        prefix=place.prefix,
    )


def _is_back(held: Address, now: float) -> bool:
    """Quarantined for a look, and this look cures it."""
    if held.state is not AddressState.QUARANTINED:
        return False
    if held.reason == MISSING:
        return True
    return held.reason == UNCONFIRMED and now - held.since_boottime >= SECOND_LOOK_SECONDS


def _awaits_look(address: Address) -> bool:
    is_held = address.state is AddressState.QUARANTINED
    return is_held and address.reason in (MISSING, UNCONFIRMED)


def _missing(
    ledger: Ledger, seen: dict[IPAddress, Place], busy: set[EniId], now: float
) -> tuple[tuple[Address, ...], set[IPAddress], tuple[IPAddress, ...]]:
    """(to quarantine now, to forget now, allocated but not in the cloud)."""
    quarantine, gone, still_used = [], set(), []
    for a in ledger.addresses.values():
        if a.address in seen or a.eni_id in busy:
            continue
        match a.state:
            case AddressState.ALLOCATED:
                still_used.append(a.address)
            case AddressState.UNASSIGNING:
                gone.add(a.address)  # we asked for it: one look is enough
            case AddressState.QUARANTINED if a.reason == UNCONFIRMED:
                gone.add(a.address)  # it was a late picture of what we had given back
            case AddressState.QUARANTINED if a.reason == MISSING:
                if now - a.since_boottime >= SECOND_LOOK_SECONDS:
                    gone.add(a.address)
            case AddressState.QUARANTINED:
                quarantine.append(replace(a, since_boottime=now, reason=MISSING))
            case AddressState.PREPARING | AddressState.AVAILABLE | AddressState.COOLING:
                quarantine.append(
                    replace(a, state=AddressState.QUARANTINED, since_boottime=now, reason=MISSING)
                )
    return tuple(quarantine), gone, tuple(still_used)


def _is_being_created(ledger: Ledger, eni: CloudEni) -> bool:
    """An ENI whose creation has not answered yet; its answer will bring the addresses."""
    return eni.eni_id not in ledger.enis and any(
        i.kind is IntentKind.CREATE
        and (i.network_card, i.device_index) == (eni.network_card, eni.device_index)
        for i in ledger.intents.values()
    )


def _closed(ledger: Ledger) -> tuple[Intent, ...]:
    """Intents of assign and unassign that ended without a known outcome."""
    return tuple(
        i
        for i in ledger.intents.values()
        if not i.is_open and i.kind in (IntentKind.ASSIGN, IntentKind.UNASSIGN)
    )


def assigned(
    ledger: Ledger,
    intent: Intent,
    eni_id: EniId,
    added: Iterable[IPAddress],
    added_prefixes: Iterable[IPNetwork] = (),
    *,
    now: float,
) -> Change:
    """The answer of an assign arrived whole: its addresses are ours, ready as their ENI is."""
    state = _idle_state(ledger, eni_id)
    fresh = [
        Address(address=a, eni_id=eni_id, state=state, since_boottime=now)
        for a in added
        if a not in ledger.addresses
    ]
    for prefix in added_prefixes:
        inside = [a for a in blocks.first_addresses(prefix) if a not in ledger.addresses]
        fresh += blocks.born(prefix, inside, eni_id, state, now=now)
    return Change(put_addresses=tuple(fresh), drop_intents=(intent.token,))


def _idle_state(ledger: Ledger, eni_id: EniId) -> AddressState:
    """What an unused, never used address of an ENI is: available if the node has the ENI ready."""
    eni = ledger.enis.get(eni_id)
    is_ready = eni is not None and eni.is_ready
    return AddressState.AVAILABLE if is_ready else AddressState.PREPARING
