"""What to do now: a pure function from a view of the pool to a list of cloud calls.

Called by the reconciler after every change, once per network card. A plan depends only on its view
(I7): equal views give equal plans, and applying any part of one and planning again converges.
"""

from __future__ import annotations

from dataclasses import replace

from ipamd.model import EniId
from ipamd.pool.growth import grow, missing_prefix_v6, usable_subnets
from ipamd.pool.pinned import grow_pinned
from ipamd.pool.shrink import (
    HOLD_SECONDS,
    MINIMUM_ENI_SECONDS,
    PREFIX_HOLD_SECONDS,
    excluded,
    shrink,
)
from ipamd.pool.targets import Targets, deficit
from ipamd.pool.view import (
    Action,
    AssignAddresses,
    CreateEni,
    DeleteEni,
    EniView,
    Plan,
    PrefixView,
    UnassignAddresses,
    View,
)

__all__ = [
    "HOLD_SECONDS",
    "MINIMUM_ENI_SECONDS",
    "PREFIX_HOLD_SECONDS",
    "Action",
    "AssignAddresses",
    "CreateEni",
    "DeleteEni",
    "EniView",
    "Plan",
    "PrefixView",
    "UnassignAddresses",
    "View",
    "plan",
]


def plan(view: View) -> Plan:
    """The calls to make now. Repairs first, then growth, else shrinking."""
    made = _plan(view)
    return replace(made, actions=_one_for_each_eni(made.actions)) if view.writes.is_whole else made


def _one_for_each_eni(actions: tuple[Action, ...]) -> tuple[Action, ...]:
    """Where an ENI is written as a whole, its second call would wait for the first one's end, which
    may take a minute: the next plan knows better by then. Growth goes first."""
    first: dict[EniId | int, Action] = {}
    for action in sorted(actions, key=lambda a: not isinstance(a, AssignAddresses)):
        eni = action.device_index if isinstance(action, CreateEni) else action.eni_id
        first.setdefault(eni, action)
    return tuple(first.values())


def _plan(view: View) -> Plan:
    if view.paused_seconds > 0:
        return Plan(
            actions=(),
            summary=f"no cloud calls for {view.paused_seconds:.0f} s: the cloud refused the last",
        )
    if not view.provisions:
        return Plan(actions=(), summary=_at_rest(view) + "; provisioning is switched off")
    repairs = _repairs(view) if view.shrink_paused_seconds <= 0 else ()
    targets = view.targets.in_scarcity() if view.is_scarce else view.targets
    missing = _missing(view)
    if view.growth_paused_seconds > 0 and (missing > 0 or missing_prefix_v6(view) or view.pinned):
        waits = f"; the cloud refused, next try in {view.growth_paused_seconds:.0f} s"
        return Plan(actions=repairs, summary=_growth_reason(view, missing) + waits)
    pinned = grow_pinned(view)
    if pinned.actions:
        view = pinned.view
        missing = _missing(view)
    needed = pinned.actions + missing_prefix_v6(view)
    if missing > 0:
        urgent = min(_urgent(view), missing)
        growth = grow(view, missing, _growth_reason(view, missing), urgent=urgent)
        # What no pod may get goes back even while nothing more can be had.
        idle = () if growth.actions else excluded(view)
        return Plan(
            actions=repairs + needed + growth.actions + idle,
            summary=_growth_summary(view, missing, growth.unmet),
        )
    less = shrink(view, targets) if view.has_ipv4 else ()
    summary = less[0].reason if less else _at_rest(view)
    return Plan(actions=repairs + needed + less, summary=summary)


def _missing(view: View) -> int:
    """The deficit in addresses. While prefixes cannot be had, single ones are kept warm for one
    ENI's worth at most, since each takes a slot that a prefix will need again; and they are bought
    once half of that is gone, since each pod would otherwise cost a call."""
    if not view.has_ipv4:
        return 0
    targets = view.targets.in_scarcity() if view.is_scarce else view.targets
    missing = _deficit(view, targets)
    if view.is_fallback and not targets.is_target_mode:
        warm = min(targets.warm(view.slots_per_eni) + targets.ahead, view.slots_per_eni)
        is_low = 2 * view.counts.supply <= warm
        missing = min(missing, warm - view.counts.supply) if is_low else 0
    return missing


def _urgent(view: View) -> int:
    """What is asked for even of a subnet that can spare nothing. Where a write is slow, it is not
    spent on a /28 as long as a single address is there for the next pod: the /28 would make the
    subnet scarce, go back for that, and be bought again."""
    counts = view.counts
    if view.writes.is_slow:
        counts = replace(counts, available=counts.available + counts.inactive, inactive=0)
    return _deficit(replace(view, counts=counts), view.targets.in_scarcity())


def _deficit(view: View, targets: Targets) -> int:
    return deficit(targets, view.counts, slots_per_eni=view.slots_per_eni)


def _repairs(view: View) -> tuple[Action, ...]:
    """Finish what an earlier process, or a lost answer, left half done."""
    strays = () if view.creating else view.stray_enis
    return tuple(
        DeleteEni(eni_id=e, reason="created by this node but attached to nothing") for e in strays
    ) + tuple(
        UnassignAddresses(
            eni_id=e.eni_id,
            addresses=e.unassigning,
            prefixes=e.unassigning_prefixes,
            reason="finishing an interrupted unassign",
        )
        for e in view.enis
        if (e.unassigning or e.unassigning_prefixes) and not e.is_busy
    )


def _wish(view: View) -> str:
    targets = view.targets
    if view.is_scarce:
        return "the least that is kept while the subnet runs low"
    if targets.is_target_mode:
        return (
            f"WARM_IP_TARGET {targets.warm_addresses}, "
            f"MINIMUM_IP_TARGET {targets.minimum_addresses}"
        )
    if targets.use_prefixes:
        return f"WARM_PREFIX_TARGET {targets.warm_prefixes} x 16"
    return f"WARM_ENI_TARGET {targets.warm_enis} x {view.slots_per_eni}"


def _growth_reason(view: View, missing: int) -> str:
    counts = view.counts
    fallback = ", no /28 is free: single addresses" if view.is_fallback else ""
    coming = 0 if view.is_scarce else view.targets.ahead
    ahead = f" and {coming} for pods that come during a write" if coming else ""
    return (
        f"{missing} short of {_wish(view)}{ahead}: {counts.allocated} allocated, "
        f"{counts.available} available, {counts.preparing + counts.incoming} on the way, "
        f"{counts.cooling} cooling, {counts.waiting} waiting{fallback}"
    )


def _growth_summary(view: View, missing: int, unmet: int) -> str:
    text = _growth_reason(view, missing)
    if unmet <= 0:
        return text
    refusing = [
        f"subnet {subnet} is exhausted, next try in {seconds:.0f} s"
        for subnet, seconds in view.exhausted_subnets.items()
    ]
    if view.uses_prefixes:
        refusing += [
            f"subnet {subnet} has no free /28, next try in {seconds:.0f} s"
            for subnet, seconds in view.prefixless_subnets.items()
        ]
    if view.creation_paused_seconds > 0:
        refusing.append(f"new ENIs were refused, next try in {view.creation_paused_seconds:.0f} s")
    if refusing:
        return f"{text}; {unmet} cannot be had: {'; '.join(refusing)}"
    if any(e.is_busy for e in view.enis) or view.creating:
        return f"{text}; {unmet} wait for calls in flight"
    low = [f"{s} can spare {spare}" for s, spare in view.subnet_spare.items() if spare < unmet]
    if low:
        return f"{text}; {unmet} are not bought ahead: subnet {', '.join(low)}"
    room = [f"{s} has room for {n}" for s, n in view.subnet_room.items() if n < missing]
    if room:
        return f"{text}; {unmet} are not asked for yet: subnet {', '.join(room)}"
    if not view.can_create_interfaces:
        return f"{text}; {unmet} cannot be had: the ENIs have no room, and none can be added"
    if not usable_subnets(view):
        return f"{text}; {unmet} cannot be had: no subnet is known in which ENIs may be made"
    return f"{text}; {unmet} cannot be had: all {view.max_enis} ENIs are full"


def _at_rest(view: View) -> str:
    counts = view.counts
    return (
        f"targets met: {counts.allocated} allocated, {counts.available} available, "
        f"{counts.preparing + counts.incoming} on the way, {counts.cooling} cooling"
    )
