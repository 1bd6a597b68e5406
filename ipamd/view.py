"""From the ledger to the planner's view: counting, nothing else (pure)."""

from __future__ import annotations

from dataclasses import dataclass

from ipamd.model import Address, AddressState, Eni, EniId, SubnetId
from ipamd.node import NodeFacts
from ipamd.pool.ledger import IntentKind, Ledger
from ipamd.pool.plan import EniView, View
from ipamd.pool.targets import Counts, Targets
from ipamd.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the outcomes of earlier calls forbid for now, in seconds from now."""

    paused_seconds: float
    exhausted_subnets: dict[SubnetId, float]
    seconds_since_change: float
    subnet_room: dict[SubnetId, int]  # free addresses of subnets that refused a larger request
    eni_caps: dict[EniId, int]  # what to ask of ENIs at most that met a limit
    growth_paused_seconds: float
    shrink_paused_seconds: float


def build_view(
    ledger: Ledger,
    facts: NodeFacts,
    settings: Settings,
    pace: Pace,
    *,
    waiting: int,
    stray_enis: tuple[EniId, ...],
    can_create_interfaces: bool,
    now: float,
) -> View:
    """Everything `plan` depends on, from one ledger."""
    by_eni: dict[EniId, list[Address]] = {eni_id: [] for eni_id in ledger.enis}
    for address in ledger.addresses.values():
        by_eni.setdefault(address.eni_id, []).append(address)
    intents = tuple(ledger.intents.values())
    creations = [i for i in intents if i.kind is IntentKind.CREATE]
    in_flight = {i.eni_id: i.addresses for i in intents}
    return View(
        targets=Targets(
            warm_enis=settings.warm_enis,
            warm_addresses=settings.warm_addresses,
            minimum_addresses=settings.minimum_addresses,
            max_pods=facts.max_pods(settings),
        ),
        counts=counts(ledger, waiting),
        enis=tuple(
            _eni_view(eni, tuple(by_eni[eni.eni_id]), in_flight.get(eni.eni_id), now)
            for eni in sorted(ledger.enis.values(), key=lambda e: e.device_index)
        ),
        slots_per_eni=facts.limits.slots_per_eni,
        max_enis=facts.max_enis(settings),
        creating=tuple(i.device_index for i in creations),
        creating_room=sum(facts.limits.slots_per_eni - i.addresses for i in creations),
        node_subnet_id=facts.identity.primary_subnet_id,
        exhausted_subnets=pace.exhausted_subnets,
        subnet_room=pace.subnet_room,
        eni_caps=pace.eni_caps,
        paused_seconds=pace.paused_seconds,
        growth_paused_seconds=pace.growth_paused_seconds,
        shrink_paused_seconds=pace.shrink_paused_seconds,
        stray_enis=tuple(e for e in stray_enis if e not in in_flight),
        can_create_interfaces=can_create_interfaces,
        seconds_since_change=pace.seconds_since_change,
    )


def counts(ledger: Ledger, waiting: int) -> Counts:
    """The pool in numbers; calls in flight count as what they will bring."""
    by_state = dict.fromkeys(AddressState, 0)
    for address in ledger.addresses.values():
        by_state[address.state] += 1
    incoming = sum(
        i.addresses
        for i in ledger.intents.values()
        if i.kind in (IntentKind.ASSIGN, IntentKind.CREATE)
    )
    return Counts(
        allocated=by_state[AddressState.ALLOCATED],
        available=by_state[AddressState.AVAILABLE],
        preparing=by_state[AddressState.PREPARING],
        cooling=by_state[AddressState.COOLING],
        incoming=incoming,
        waiting=waiting,
    )


def _eni_view(
    eni: Eni, addresses: tuple[Address, ...], incoming: int | None, now: float
) -> EniView:
    """`incoming` is None while no call for the ENI is in flight."""
    idle = sorted(
        (a for a in addresses if a.state is AddressState.AVAILABLE),
        key=lambda a: (a.since_boottime, int(a.address)),
    )
    allocated = sum(1 for a in addresses if a.state is AddressState.ALLOCATED)
    unassigning = tuple(a.address for a in addresses if a.state is AddressState.UNASSIGNING)
    return EniView(
        eni_id=eni.eni_id,
        subnet_id=eni.subnet_id,
        device_index=eni.device_index,
        is_primary=eni.is_primary,
        is_managed=eni.is_managed,
        is_busy=incoming is not None,
        allocated=allocated,
        idle=tuple(a.address for a in idle),
        held=len(addresses) - allocated - len(idle) - len(unassigning),
        unassigning=unassigning,
        incoming=incoming or 0,
        age_seconds=now - eni.attached_boottime,
    )
