"""Where a deficit is met: on ENIs that have room, then on new ones, then by single addresses.

Pure. Calls in flight are part of the view (`Counts.incoming`, `EniView.is_busy`, `creating`), so
nothing is asked for twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil

from ipamd.model import SubnetId
from ipamd.pool.view import Action, AssignAddresses, CreateEni, EniView, UnassignAddresses, View
from ipamd.sizing import PREFIX_ADDRESSES


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """The calls, and how many addresses of the deficit they leave unmet."""

    actions: tuple[Action, ...]
    unmet: int


@dataclass(slots=True, kw_only=True)
class _Need:
    """What is still to be asked for, in units of one slot (an address or a prefix)."""

    units: int
    ceiling: int  # units that max_pods allows
    fill: int  # an ENI is filled to this many at least: the warm unit of WARM_ENI mode
    unit: int  # addresses in one
    urgent: int  # units that are asked for even where the subnet can spare none
    awaited: int  # units that pods wait for
    room: dict[SubnetId, int]  # addresses that a subnet has at most
    spare: dict[SubnetId, int]  # addresses that it may lose ahead of demand
    actions: list[Action] = field(default_factory=list)

    @property
    def is_of_prefixes(self) -> bool:
        return self.unit == PREFIX_ADDRESSES

    def allowed(self, subnet_id: SubnetId, wanted: int, *, own: int = 0) -> int:
        """Units of `wanted` that may be asked of a subnet, beside an ENI's own address."""
        plenty = wanted * self.unit + own
        room = (self.room.get(subnet_id, plenty) - own) // self.unit
        spare = (self.spare.get(subnet_id, plenty) - own) // self.unit
        return min(wanted, self.ceiling, room, max(spare, self.urgent))

    def took(self, subnet_id: SubnetId, units: int, *, own: int = 0) -> None:
        """Units were asked of a subnet."""
        self.units, self.ceiling = self.units - units, self.ceiling - units
        self.urgent = max(self.urgent - units, 0)
        self.awaited = max(self.awaited - units, 0)
        for left in (self.room, self.spare):
            if subnet_id in left:
                left[subnet_id] -= units * self.unit + own


def grow(view: View, missing: int, reason: str, *, urgent: int) -> Growth:
    """Ask for `missing` addresses: the fullest ENI with room first, then new ENIs.

    No subnet is asked for more than it can spare, but for the `urgent` ones of them. With prefixes,
    idle single addresses make room where every slot is taken; what no subnet can give as a /28 is
    asked for as single addresses (`View.is_fallback`).
    """
    need = _need(view, missing, urgent)
    _fill_enis(view, need, reason)
    _create_enis(view, need, reason)
    unmet = max(need.units, 0) * need.unit
    if not unmet:
        return Growth(actions=tuple(need.actions), unmet=0)
    actions = list(need.actions)
    if view.uses_prefixes is view.targets.use_prefixes:  # else: singles are a makeshift
        actions += _make_room(view, need, reason)
    return Growth(actions=tuple(actions), unmet=min(unmet, missing))


def missing_prefix_v6(view: View) -> tuple[Action, ...]:
    """ENIs that carry pods with IPv6 addresses and have no /80 yet."""
    return tuple(
        AssignAddresses(
            eni_id=e.eni_id,
            subnet_id=e.subnet_id,
            prefixes_v6=1,
            reason="pods on it need IPv6 addresses, and it has no /80",
        )
        for e in view.enis
        if e.lacks_prefix_v6
        and not e.is_busy
        and e.subnet_id not in view.exhausted_subnets
        and view.eni_caps.get(e.eni_id, 1) > 0
    )


def _need(view: View, missing: int, urgent: int) -> _Need:
    only_needed = view.targets.is_target_mode or view.is_fallback or view.is_scarce
    unit = PREFIX_ADDRESSES if view.uses_prefixes else 1
    return _Need(
        units=ceil(missing / unit),
        ceiling=ceil((view.targets.max_pods - view.counts.committed) / unit),
        fill=0 if only_needed or view.uses_prefixes else view.slots_per_eni,
        unit=unit,
        urgent=ceil(urgent / unit),
        awaited=ceil(max(-view.counts.supply, 0) / unit),
        room=dict(view.subnet_room),
        spare=dict(view.subnet_spare),
    )


def _fill_enis(view: View, need: _Need, reason: str) -> None:
    for eni in _growable(view, need):
        if need.units <= 0:
            return
        # In WARM_ENI mode an ENI is filled whole: the warm unit is the ENI, and one call is less.
        wanted = max(need.units, need.fill)
        cap = view.eni_caps.get(eni.eni_id, wanted)
        wanted = min(eni.room(view.slots_per_eni), wanted, cap)
        count = need.allowed(eni.subnet_id, wanted)
        if count <= 0:
            continue
        need.actions.append(_assign(eni, need, count, reason))
        need.took(eni.subnet_id, count)


def _assign(eni: EniView, need: _Need, count: int, reason: str) -> AssignAddresses:
    return AssignAddresses(
        eni_id=eni.eni_id,
        subnet_id=eni.subnet_id,
        addresses=0 if need.is_of_prefixes else count,
        prefixes=count if need.is_of_prefixes else 0,
        reason=reason,
    )


def _create_enis(view: View, need: _Need, reason: str) -> None:
    subnets = usable_subnets(view)
    if not subnets or not view.can_create_interfaces or view.creation_paused_seconds > 0:
        return
    # While pods wait, ENIs are made for them and not for the warm pool: each takes a turn at the
    # account's rate of attaching, which other nodes' pods wait for too (docs/fleet.md).
    wanted = need.awaited if view.counts.waiting else need.units
    missing = wanted - _busy_room(view, need)
    for device_index in _new_indexes(view, missing):
        made = _create(view, need, subnets, device_index, reason)
        if made is None:
            return
        need.actions.append(made)
        need.took(made.subnet_id, made.prefixes + made.addresses, own=1)


def _create(
    view: View, need: _Need, subnets: tuple[SubnetId, ...], device_index: int, reason: str
) -> CreateEni | None:
    """One ENI in the first subnet that has room for it; None where none has."""
    wanted = min(max(need.units, need.fill), view.slots_per_eni)
    for subnet_id in subnets:
        # The ENI's own primary address comes out of the same subnet.
        count = need.allowed(subnet_id, wanted, own=1)
        if count > 0:
            return CreateEni(
                subnet_id=subnet_id,
                device_index=device_index,
                network_card=view.network_card,
                addresses=0 if need.is_of_prefixes else count,
                prefixes=count if need.is_of_prefixes else 0,
                prefixes_v6=1 if view.has_ipv6 else 0,
                reason=reason,
            )
    return None


def usable_subnets(view: View) -> tuple[SubnetId, ...]:
    """Candidates for a new ENI that do not refuse what growth asks for."""
    refusing = set(view.exhausted_subnets)
    if view.uses_prefixes:
        refusing |= set(view.prefixless_subnets)
    return tuple(s for s in view.candidate_subnets if s not in refusing)


def is_growable(view: View, eni: EniView, *, with_prefixes: bool) -> bool:
    """Whether the ENI and its subnet may be asked for more; whether it has a free slot is another
    question."""
    if not eni.takes_pods or eni.is_stuck or eni.subnet_id in view.exhausted_subnets:
        return False
    return not with_prefixes or eni.subnet_id not in view.prefixless_subnets


def _growable(view: View, need: _Need) -> list[EniView]:
    usable = (
        e
        for e in view.enis
        if not e.is_busy and is_growable(view, e, with_prefixes=need.is_of_prefixes)
    )
    return sorted(usable, key=lambda e: (-e.pods, e.device_index))


def _busy_room(view: View, need: _Need) -> int:
    """Room on ENIs that are busy or on their way: worth the wait, since one more ENI costs four
    calls and takes no less time."""
    return view.creating_room + sum(
        e.room(view.slots_per_eni)
        for e in view.enis
        if e.is_busy and is_growable(view, e, with_prefixes=need.is_of_prefixes)
    )


def _new_indexes(view: View, units: int) -> list[int]:
    """Device indexes for new ENIs: the lowest free ones, as many as are needed and allowed."""
    room = view.max_enis - len(view.enis) - len(view.creating) - view.reserved_enis
    needed = ceil(units / view.slots_per_eni) if view.slots_per_eni > 0 and units > 0 else 0
    taken = {e.device_index for e in view.enis} | set(view.creating)
    free = (i for i in range(1, 100) if i not in taken)
    return [next(free) for _ in range(max(min(needed, room), 0))]


def _make_room(view: View, need: _Need, reason: str) -> list[Action]:
    """What is idle of the kind not in use holds slots: as many of them go as units are wanted."""
    if view.shrink_paused_seconds > 0:
        return []
    units = need.units
    wanted = "a prefix" if need.is_of_prefixes else "single addresses"
    made: list[Action] = []
    for eni in sorted(view.enis, key=lambda e: (-len(e.idle), e.device_index)):
        is_full = not eni.is_busy and not eni.room(view.slots_per_eni)
        if not is_full or not is_growable(view, eni, with_prefixes=need.is_of_prefixes):
            continue
        singles = eni.idle[:units] if need.is_of_prefixes else ()
        whole = () if need.is_of_prefixes else eni.idle_prefixes[:units]
        given = len(singles) + len(whole)
        if not given:
            continue
        units -= given
        made.append(
            UnassignAddresses(
                eni_id=eni.eni_id,
                addresses=singles,
                prefixes=tuple(p.prefix for p in whole),
                reason=f"room for {wanted}: {reason}",
            )
        )
    return made
