"""From the ledger to the planner's view: counting, nothing else (pure)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network, IPv6Network

from ipamd.cloud import Subnet
from ipamd.model import Address, AddressState, Eni, EniId, IPNetwork, SubnetId
from ipamd.node import NodeFacts
from ipamd.pool import ahead, cooling
from ipamd.pool.ahead import INSTANT, NOBODY, Arrivals, Writes
from ipamd.pool.ledger import Intent, IntentKind, Ledger
from ipamd.pool.targets import SOON_SECONDS, Counts, Targets
from ipamd.pool.view import EniView, PrefixView, View
from ipamd.settings import Settings
from ipamd.sizing import PREFIX_ADDRESSES

QUIET_SECONDS = 240.0
"""Targets hold to the letter once no pod has come or gone for this long; before, they have a band
(`Targets.slack`). Eight cooldowns; with half of that, nodes whose pods live for minutes made and
deleted ENIs for targets that did not stay met (churn/m5.large/default in docs/fleet.md)."""


UNREADY_SECONDS = 30.0
"""An ENI that the node did not get ready within this time is no supply any more: pods are served
from others. vpc-cnid needs a second or two."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """What the outcomes of earlier calls forbid for now, in seconds from now."""

    paused_seconds: float
    awaited_paused_seconds: float  # the same while pods wait
    exhausted_subnets: dict[SubnetId, float]
    resting_subnets: dict[SubnetId, float]  # not to be tried either while nobody waits
    prefixless_subnets: dict[SubnetId, float]
    scarce_subnets: frozenset[SubnetId]
    seconds_since_change: float
    subnet_spare: dict[SubnetId, int]  # free addresses that may be bought ahead of demand
    subnet_room: dict[SubnetId, int]  # free addresses of subnets that refused a larger request
    eni_caps: dict[EniId, int]  # what to ask of ENIs at most that met a limit
    doubted_subnets: frozenset[SubnetId]  # they refused what their free count says that they have
    resting_enis: frozenset[EniId]  # somebody else is changing them
    growth_paused_seconds: float
    creation_paused_seconds: float
    shrink_paused_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What a view needs beside the ledger, the node and the settings."""

    pace: Pace
    waiting: int  # attachments that wait for any ENI, or pods bound to the node without an address
    stray_enis: tuple[EniId, ...]
    candidate_subnets: tuple[SubnetId, ...]
    can_create_interfaces: bool
    network_card: int = 0
    pinned: Mapping[EniId, int] = field(default_factory=dict)  # that wait for one ENI's addresses
    arrivals: Arrivals = NOBODY
    writes: Writes = INSTANT
    gives_enis_back: bool = True


def build_view(
    ledger: Ledger, facts: NodeFacts, settings: Settings, situation: Situation, *, now: float
) -> View:
    """Everything `plan` depends on, for one network card."""
    pace, card = situation.pace, situation.network_card
    enis = [e for e in ledger.enis.values() if e.network_card == card]
    on_card = {e.eni_id for e in enis}
    intents = _intents(ledger, on_card, card)
    creations = [i for i in intents if i.kind is IntentKind.CREATE]
    targets = _targets(ledger, facts, settings, situation, now)
    is_fallback = _is_fallback(targets, enis, situation)
    slots = facts.limits.slots_per_eni
    in_flight = {i.eni_id: i for i in intents}
    busy = {i.eni_id for i in ledger.intents.values()}  # those of ENIs that hang loose, too
    by_eni: dict[EniId, list[Address]] = defaultdict(list)
    for address in ledger.addresses.values():
        by_eni[address.eni_id].append(address)
    views = tuple(
        _eni_view(eni, by_eni[eni.eni_id], in_flight.get(eni.eni_id), settings, pace, now)
        for eni in sorted(enis, key=lambda e: e.device_index)
    )
    waiting, pinned = _demand(situation, on_card, by_eni, in_flight)
    return View(
        targets=targets,
        counts=replace(
            _counts(views, by_eni, intents, targets, is_fallback, waiting),
            late=_late(views, by_eni, settings, now),
        ),
        enis=views,
        slots_per_eni=slots,
        max_enis=facts.max_enis(settings, network_card=card),
        creating=tuple(i.device_index for i in creations),
        creating_room=sum(slots - i.addresses - i.prefixes for i in creations),
        candidate_subnets=situation.candidate_subnets,
        exhausted_subnets=_exhausted(pace, has_waiting=bool(waiting or pinned)),
        prefixless_subnets=pace.prefixless_subnets,
        is_fallback=is_fallback,
        is_scarce=_is_scarce(enis, situation),
        subnet_spare=_spare(pace, has_waiting=waiting > 0),
        subnet_room=pace.subnet_room,
        eni_caps=pace.eni_caps,
        paused_seconds=pace.awaited_paused_seconds if waiting or pinned else pace.paused_seconds,
        growth_paused_seconds=pace.growth_paused_seconds,
        creation_paused_seconds=pace.creation_paused_seconds,
        shrink_paused_seconds=pace.shrink_paused_seconds,
        stray_enis=tuple(e for e in situation.stray_enis if e not in busy),
        # In an IPv6 cluster one ENI serves every pod, with its /80.
        can_create_interfaces=situation.can_create_interfaces and settings.has_ipv4,
        seconds_since_change=pace.seconds_since_change,
        network_card=card,
        reserved_enis=_reserved(enis, settings, card),
        provisions=settings.provisions,
        has_ipv4=settings.has_ipv4,
        has_ipv6=settings.has_ipv6,
        pinned=pinned,
        writes=situation.writes,
        gives_enis_back=situation.gives_enis_back,
    )


def _targets(
    ledger: Ledger, facts: NodeFacts, settings: Settings, situation: Situation, now: float
) -> Targets:
    """The targets in force at this moment."""
    return replace(
        build_targets(facts, settings, network_card=situation.network_card),
        is_exact=now - last_activity(ledger) >= QUIET_SECONDS,
        ahead=ahead.expected(situation.arrivals, situation.writes),
        reserve=ahead.reserve(situation.arrivals, situation.writes),
    )


def _intents(ledger: Ledger, on_card: set[EniId], card: int) -> tuple[Intent, ...]:
    """The calls in flight that concern one card."""
    return tuple(
        i
        for i in ledger.intents.values()
        if (i.eni_id in on_card or (i.kind is IntentKind.CREATE and i.network_card == card))
    )


def _exhausted(pace: Pace, *, has_waiting: bool) -> dict[SubnetId, float]:
    """Subnets that are not to be asked: for longer while no pod waits for it."""
    return pace.exhausted_subnets | ({} if has_waiting else pace.resting_subnets)


def _spare(pace: Pace, *, has_waiting: bool) -> dict[SubnetId, int]:
    """What may be bought ahead of demand. Where a subnet has just refused, waiting pods come first:
    one that is slow to refuse would else be asked for half again and again until they fit in."""
    doubted = pace.doubted_subnets if has_waiting else ()
    return pace.subnet_spare | dict.fromkeys(doubted, 0)


def _demand(
    situation: Situation,
    on_card: set[EniId],
    by_eni: Mapping[EniId, list[Address]],
    in_flight: Mapping[EniId | None, Intent],
) -> tuple[int, dict[EniId, int]]:
    """Attachments that wait, and what those that insist on an ENI want beyond what it has or will
    have. The first counts those that their ENI will serve; what the others lack is that ENI's."""
    wanted = {e: n for e, n in situation.pinned.items() if e in on_card}
    lacking = {e: n - _supply(by_eni[e], in_flight.get(e)) for e, n in wanted.items()}
    pinned = {e: n for e, n in lacking.items() if n > 0}
    return situation.waiting + sum(wanted.values()) - sum(pinned.values()), pinned


def _supply(addresses: list[Address], in_flight: Intent | None) -> int:
    """IPv4 addresses of one ENI that are free or soon will be."""
    soon = (AddressState.AVAILABLE, AddressState.PREPARING)
    free = sum(a.state in soon and a.address.version == 4 for a in addresses)
    return free + (incoming(in_flight) if in_flight else 0)


def last_activity(ledger: Ledger) -> float:
    """Boot time at which an attachment last came or went; 0 where none did."""
    came = (
        a.since_boottime for a in ledger.addresses.values() if a.state is AddressState.ALLOCATED
    )
    went = (t.made_boottime for t in ledger.tombstones.values())
    return max(max(came, default=0.0), max(went, default=0.0))


def build_targets(facts: NodeFacts, settings: Settings, *, network_card: int = 0) -> Targets:
    """The targets in force for one card."""
    targets = Targets(
        warm_enis=settings.warm_enis,
        warm_addresses=settings.warm_addresses,
        minimum_addresses=settings.minimum_addresses,
        warm_prefixes=settings.warm_prefixes,
        use_prefixes=facts.uses_prefixes(settings),
        max_pods=facts.max_pods(settings),
    )
    if network_card == 0:
        return targets
    # Cards other than the default one keep one address, whatever is set (aws-node).
    return replace(targets, warm_enis=0, warm_prefixes=0, warm_addresses=1, minimum_addresses=1)


def candidates(
    subnets: dict[SubnetId, Subnet], facts: NodeFacts, chosen: SubnetId | None
) -> tuple[SubnetId, ...]:
    """Subnets for new ENIs, that with the most free addresses first.

    `chosen` is custom networking's: there is no other then. While no subnet is known (the cloud
    did not answer that question yet), the primary ENI's.
    """
    if chosen is not None:
        return (chosen,)
    if not subnets:
        return (facts.identity.primary_subnet_id,)
    found = [s for s in subnets.values() if s.is_candidate]
    return tuple(s.subnet_id for s in sorted(found, key=lambda s: (-s.free_addresses, s.subnet_id)))


def _is_fallback(targets: Targets, enis: list[Eni], situation: Situation) -> bool:
    """No subnet that could serve growth has a /28."""
    if not targets.use_prefixes:
        return False
    subnets = {e.subnet_id for e in enis if e.takes_pods} | set(situation.candidate_subnets)
    refusing = set(situation.pace.prefixless_subnets) | set(situation.pace.exhausted_subnets)
    return subnets <= refusing and bool(subnets & set(situation.pace.prefixless_subnets))


def _is_scarce(enis: list[Eni], situation: Situation) -> bool:
    subnets = {e.subnet_id for e in enis if e.takes_pods} | set(situation.candidate_subnets)
    return bool(subnets) and subnets <= situation.pace.scarce_subnets


def _reserved(enis: list[Eni], settings: Settings, card: int) -> int:
    """The trunk ENI of security groups for pods is attached by a controller: leave it a slot."""
    wants_trunk = settings.has_pod_eni and card == 0
    return int(wants_trunk and all(not e.is_trunk for e in enis))


def _late(
    enis: tuple[EniView, ...],
    by_eni: dict[EniId, list[Address]],
    settings: Settings,
    now: float,
) -> int:
    """Cooling addresses that are not worth waiting for."""
    cooldown = settings.cooldown_seconds
    return sum(
        a.state is AddressState.COOLING
        and (
            a.since_boottime + cooldown - SOON_SECONDS > now or cooling.is_overdue(a, cooldown, now)
        )
        for e in enis
        for a in by_eni[e.eni_id]
    )


def _counts(
    enis: tuple[EniView, ...],
    by_eni: dict[EniId, list[Address]],
    intents: tuple[Intent, ...],
    targets: Targets,
    is_fallback: bool,
    waiting: int,
) -> Counts:
    """The pool in numbers; calls in flight count as what they will bring."""
    by_state: Counter[AddressState] = Counter()
    inactive = 0
    for eni in enis:
        for address in by_eni[eni.eni_id]:
            if address.state is AddressState.PREPARING and eni.is_stuck:
                continue  # nobody gets it for now
            if address.state is not AddressState.AVAILABLE:
                by_state[address.state] += 1
            elif not eni.takes_pods:
                continue  # nobody gets it
            elif is_fallback or _is_active(address, targets):
                by_state[AddressState.AVAILABLE] += 1
            else:
                inactive += 1
    return Counts(
        allocated=by_state[AddressState.ALLOCATED],
        available=by_state[AddressState.AVAILABLE],
        preparing=by_state[AddressState.PREPARING],
        cooling=by_state[AddressState.COOLING],
        incoming=sum(incoming(i) for i in intents),
        waiting=waiting,
        inactive=inactive,
    )


def _is_active(address: Address, targets: Targets) -> bool:
    """Of the kind that the settings ask for; IPv6 has one kind only."""
    return address.address.version == 6 or (address.prefix is not None) is targets.use_prefixes


def incoming(intent: Intent) -> int:
    """IPv4 addresses that a call in flight will bring."""
    if intent.kind not in (IntentKind.ASSIGN, IntentKind.CREATE):
        return 0
    return intent.addresses + intent.prefixes * PREFIX_ADDRESSES


def _eni_view(
    eni: Eni,
    addresses: list[Address],
    in_flight: Intent | None,
    settings: Settings,
    pace: Pace,
    now: float,
) -> EniView:
    v4 = [a for a in addresses if a.address.version == 4]
    singles = [a for a in v4 if a.prefix is None]
    idle = sorted(
        (a for a in singles if a.state is AddressState.AVAILABLE),
        key=lambda a: (a.since_boottime, int(a.address)),
    )
    states = Counter(a.state for a in singles)
    leaving = states[AddressState.UNASSIGNING]
    prefixes: dict[IPv4Network, list[Address]] = defaultdict(list)
    for a in v4:
        if isinstance(a.prefix, IPv4Network):
            prefixes[a.prefix].append(a)
    going = {p for p, held in prefixes.items() if _is_going(held)}
    has_v6 = any(isinstance(a.prefix, IPv6Network) for a in addresses)
    return EniView(
        eni_id=eni.eni_id,
        subnet_id=eni.subnet_id,
        device_index=eni.device_index,
        is_primary=eni.is_primary,
        is_managed=eni.is_managed,
        is_busy=in_flight is not None or eni.eni_id in pace.resting_enis,
        allocated=states[AddressState.ALLOCATED],
        idle=tuple(a.address for a in idle),
        held=len(singles) - states[AddressState.ALLOCATED] - len(idle) - leaving,
        unassigning=tuple(a.address for a in singles if a.state is AddressState.UNASSIGNING),
        incoming=in_flight.addresses + in_flight.prefixes if in_flight else 0,
        age_seconds=now - eni.attached_boottime,
        idle_seconds=now - max((a.since_boottime for a in addresses), default=0.0),
        is_excluded=eni.is_excluded,
        is_stuck=not eni.is_ready and now - _unready_since(eni, addresses) > UNREADY_SECONDS,
        prefixes=tuple(
            _prefix_view(p, held, now) for p, held in sorted(prefixes.items()) if p not in going
        ),
        unassigning_prefixes=_in_order(going),
        lacks_prefix_v6=settings.has_ipv6 and eni.takes_pods and not has_v6,
    )


def _unready_since(eni: Eni, addresses: list[Address]) -> float:
    preparing = (a.since_boottime for a in addresses if a.state is AddressState.PREPARING)
    return max(eni.attached_boottime, min(preparing, default=0.0))


def _in_order(prefixes: set[IPv4Network]) -> tuple[IPNetwork, ...]:
    return tuple(sorted(prefixes))


def _is_going(held: list[Address]) -> bool:
    return any(a.state is AddressState.UNASSIGNING for a in held)


def _prefix_view(prefix: IPv4Network, held: list[Address], now: float) -> PrefixView:
    states = Counter(a.state for a in held)
    allocated, available = states[AddressState.ALLOCATED], states[AddressState.AVAILABLE]
    return PrefixView(
        prefix=prefix,
        allocated=allocated,
        available=available,
        held=len(held) - allocated - available,
        idle_seconds=now - max(a.since_boottime for a in held),
    )
