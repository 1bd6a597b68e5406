"""From a view of the pool to ordered actions, each with its reason (I7).

A plan depends on its arguments alone. Applying any prefix of it and planning again converges:
in-flight calls are part of the view (`Counts.incoming`, `EniView.is_busy`, `creating`), so nothing
is asked for twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ipamd.model import EniId, IPAddress, SubnetId
from ipamd.pool.targets import Counts, Targets, can_lose, deficit, excess

HOLD_SECONDS = 30.0
"""After a growth or shrink, keep what we have this long (aws-node: decreaseIPPoolInterval)."""

MINIMUM_ENI_SECONDS = 60.0
"""A younger ENI is never given back. aws-node: minENILifeTime, 60 s."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EniView:
    """One attached ENI as the planner sees it."""

    eni_id: EniId
    subnet_id: SubnetId
    device_index: int
    is_primary: bool
    is_managed: bool
    is_busy: bool  # a cloud call for it is in flight
    allocated: int
    idle: tuple[IPAddress, ...]  # available, the longest idle first
    held: int  # cooling, quarantined, preparing
    unassigning: tuple[IPAddress, ...]  # to be given back, call not in flight
    incoming: int  # that a call in flight will bring
    age_seconds: float

    def room(self, slots_per_eni: int) -> int:
        """Addresses that the ENI can still take."""
        idle = len(self.idle) + len(self.unassigning)
        used = self.allocated + idle + self.held + self.incoming
        return max(slots_per_eni - used, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """All that a plan depends on. Durations are seconds before or after the moment of planning."""

    targets: Targets
    counts: Counts
    enis: tuple[EniView, ...]
    slots_per_eni: int
    max_enis: int
    creating: tuple[int, ...]  # device indexes that creations in flight will take
    creating_room: int  # addresses those ENIs can take beside what they were asked to bring
    node_subnet_id: SubnetId
    exhausted_subnets: dict[SubnetId, float]  # -> seconds until the next try
    subnet_room: dict[SubnetId, int]  # at most this many, where a larger request was refused
    eni_caps: dict[EniId, int]  # at most this many at once, where EC2 saw a limit; 0: none for now
    paused_seconds: float  # the cloud throttles us: no calls before this
    growth_paused_seconds: float  # it refuses to assign or create
    shrink_paused_seconds: float  # it refuses to unassign or delete
    stray_enis: tuple[EniId, ...]
    can_create_interfaces: bool
    seconds_since_change: float  # since the pool last grew or shrank


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignAddresses:
    """Assign `addresses` more to an ENI that has room."""

    eni_id: EniId
    subnet_id: SubnetId
    addresses: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateEni:
    """Create and attach an ENI with `addresses` beside its primary address."""

    subnet_id: SubnetId
    device_index: int
    network_card: int
    addresses: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UnassignAddresses:
    """Give idle addresses back."""

    eni_id: EniId
    addresses: tuple[IPAddress, ...]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteEni:
    """Detach and delete an ENI on which nothing is used or cooling."""

    eni_id: EniId
    reason: str


Action = AssignAddresses | CreateEni | UnassignAddresses | DeleteEni


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to do now, and one sentence why it is that and not more."""

    actions: tuple[Action, ...]
    summary: str


def plan(view: View) -> Plan:
    """The calls to make now. Repairs first, then growth, else shrinking."""
    if view.paused_seconds > 0:
        return Plan(
            actions=(),
            summary=f"no cloud calls for {view.paused_seconds:.0f} s: the cloud refused the last",
        )
    repairs = _repairs(view) if view.shrink_paused_seconds <= 0 else ()
    missing = deficit(view.targets, view.counts, slots_per_eni=view.slots_per_eni)
    if missing > 0 and view.growth_paused_seconds > 0:
        waits = f"; the cloud refused, next try in {view.growth_paused_seconds:.0f} s"
        return Plan(actions=repairs, summary=_growth_reason(view, missing) + waits)
    if missing > 0:
        growth, unmet = _growth(view, missing)
        return Plan(actions=repairs + growth, summary=_growth_summary(view, missing, unmet))
    shrink = _shrink(view)
    summary = shrink[0].reason if shrink else _at_rest(view)
    return Plan(actions=repairs + shrink, summary=summary)


def _repairs(view: View) -> tuple[Action, ...]:
    """Finish what an earlier process, or a lost answer, left half done."""
    strays = () if view.creating else view.stray_enis
    return tuple(
        DeleteEni(eni_id=e, reason="created by this node but attached to nothing") for e in strays
    ) + tuple(
        UnassignAddresses(
            eni_id=e.eni_id, addresses=e.unassigning, reason="finishing an interrupted unassign"
        )
        for e in view.enis
        if e.unassigning and not e.is_busy
    )


def _growth(view: View, missing: int) -> tuple[tuple[Action, ...], int]:
    """Fill ENIs that have room, the fullest first, then create as many as the rest needs."""
    reason = _growth_reason(view, missing)
    actions: list[Action] = []
    ceiling = view.targets.max_pods - view.counts.committed
    for eni in _growable(view):
        if missing <= 0:
            break
        # In WARM_ENI mode an ENI is filled whole: the warm unit is the ENI, and one call is less.
        wanted = missing if view.targets.is_target_mode else max(missing, view.slots_per_eni)
        room = min(
            view.subnet_room.get(eni.subnet_id, wanted), view.eni_caps.get(eni.eni_id, wanted)
        )
        count = min(eni.room(view.slots_per_eni), wanted, ceiling, room)
        if count <= 0:
            continue
        actions.append(
            AssignAddresses(
                eni_id=eni.eni_id, subnet_id=eni.subnet_id, addresses=count, reason=reason
            )
        )
        missing, ceiling = missing - count, ceiling - count
    for device_index in _new_indexes(view, missing - _busy_room(view)):
        wanted = missing if view.targets.is_target_mode else view.slots_per_eni
        # The ENI's own primary address comes out of the same subnet.
        room = view.subnet_room.get(view.node_subnet_id, wanted + 1) - 1
        count = min(wanted, view.slots_per_eni, ceiling, room)
        if count <= 0:
            break
        actions.append(
            CreateEni(
                subnet_id=view.node_subnet_id,
                device_index=device_index,
                network_card=0,
                addresses=count,
                reason=reason,
            )
        )
        missing, ceiling = missing - count, ceiling - count
    return tuple(actions), max(missing, 0)


def _busy_room(view: View) -> int:
    """Room on ENIs that are busy or on their way: worth the wait, since one more ENI costs four
    calls and takes no less time."""
    return view.creating_room + sum(
        e.room(view.slots_per_eni)
        for e in view.enis
        if e.is_managed and e.is_busy and e.subnet_id not in view.exhausted_subnets
    )


def _growable(view: View) -> list[EniView]:
    usable = (
        e
        for e in view.enis
        if e.is_managed and not e.is_busy and e.subnet_id not in view.exhausted_subnets
    )
    return sorted(usable, key=lambda e: (-e.allocated, e.device_index))


def _new_indexes(view: View, missing: int) -> list[int]:
    """Device indexes for new ENIs: the lowest free ones, as many as are needed and allowed."""
    if not view.can_create_interfaces or view.node_subnet_id in view.exhausted_subnets:
        return []
    room = view.max_enis - len(view.enis) - len(view.creating)
    needed = ceil(missing / view.slots_per_eni) if view.slots_per_eni > 0 and missing > 0 else 0
    taken = {e.device_index for e in view.enis} | set(view.creating)
    free = (i for i in range(1, 100) if i not in taken)
    return [next(free) for _ in range(max(min(needed, room), 0))]


def _growth_reason(view: View, missing: int) -> str:
    counts, targets = view.counts, view.targets
    wish = (
        f"WARM_IP_TARGET {targets.warm_addresses}, MINIMUM_IP_TARGET {targets.minimum_addresses}"
        if targets.is_target_mode
        else f"WARM_ENI_TARGET {targets.warm_enis} x {view.slots_per_eni}"
    )
    return (
        f"{missing} short of {wish}: {counts.allocated} allocated, {counts.available} available, "
        f"{counts.preparing + counts.incoming} on the way, {counts.cooling} cooling, "
        f"{counts.waiting} waiting"
    )


def _growth_summary(view: View, missing: int, unmet: int) -> str:
    text = _growth_reason(view, missing)
    if unmet <= 0:
        return text
    exhausted = "; ".join(
        f"subnet {subnet} is exhausted, next try in {seconds:.0f} s"
        for subnet, seconds in view.exhausted_subnets.items()
    )
    if exhausted:
        return f"{text}; {unmet} cannot be had: {exhausted}"
    if any(e.is_busy for e in view.enis) or view.creating:
        return f"{text}; {unmet} wait for calls in flight"
    return f"{text}; {unmet} cannot be had: all {view.max_enis} ENIs are full"


def _shrink(view: View) -> tuple[Action, ...]:
    """Give back whole idle ENIs first, then single idle addresses from the emptiest ENIs."""
    if view.seconds_since_change < HOLD_SECONDS or view.creating:
        return ()
    if view.shrink_paused_seconds > 0:
        return ()
    eni = _spare_eni(view)
    if eni is not None:
        return (
            DeleteEni(
                eni_id=eni.eni_id,
                reason=f"idle ENI: its {len(eni.idle)} addresses are above the targets",
            ),
        )
    return _spare_addresses(view)


def _spare_eni(view: View) -> EniView | None:
    spare = (
        e
        for e in view.enis
        if e.is_managed
        and not e.is_primary
        and not e.is_busy
        and e.allocated == e.held == len(e.unassigning) == 0
        and e.age_seconds >= MINIMUM_ENI_SECONDS
        and can_lose(
            view.targets, view.counts, available=len(e.idle), slots_per_eni=view.slots_per_eni
        )
    )
    return max(spare, key=lambda e: e.device_index, default=None)


def _spare_addresses(view: View) -> tuple[Action, ...]:
    over = excess(view.targets, view.counts)
    actions: list[Action] = []
    for eni in sorted(view.enis, key=lambda e: (e.allocated, -e.device_index)):
        if over <= 0:
            break
        if eni.is_busy or not eni.is_managed or not eni.idle:
            continue
        given = eni.idle[:over]
        over -= len(given)
        actions.append(
            UnassignAddresses(
                eni_id=eni.eni_id,
                addresses=given,
                reason=f"{view.counts.available} available, {len(given)} above the targets",
            )
        )
    return tuple(actions)


def _at_rest(view: View) -> str:
    counts = view.counts
    return (
        f"targets met: {counts.allocated} allocated, {counts.available} available, "
        f"{counts.preparing + counts.incoming} on the way, {counts.cooling} cooling"
    )
