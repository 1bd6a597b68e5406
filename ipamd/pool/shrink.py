"""What goes back to the cloud: whole idle ENIs first, then idle prefixes and addresses.

Pure. Nothing that a pod holds or that cools is ever named here (I2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from math import ceil

from ipamd.pool.targets import Targets, can_lose, excess, excess_prefixes
from ipamd.pool.view import Action, DeleteEni, EniView, PrefixView, UnassignAddresses, View
from ipamd.sizing import PREFIX_ADDRESSES

HOLD_SECONDS = 30.0
"""After a growth or shrink, keep what we have this long (aws-node: decreaseIPPoolInterval)."""

MINIMUM_ENI_SECONDS = 60.0
"""A younger ENI is never given back. aws-node: minENILifeTime, 60 s."""

PREFIX_HOLD_SECONDS, PREFIX_BUSY_HOLD_SECONDS = 120.0, 300.0
"""A prefix goes back after it was idle this long; the second while pods come and go. One pod at a
multiple of 16 otherwise gives back and buys a /28 every 30 s, as it does in aws-node."""

ENI_BUSY_HOLD_SECONDS = 600.0
"""While pods come and go, an ENI goes back after it was idle this long: making it anew takes four
calls and seconds that a pod may have to wait."""


SLOW_HOLDS, SLOW_PREFIX_HOLDS = 2, 4
"""Where writes are slow, these many periods of one (`Writes.period_seconds`) at least: after the
last change of the pool, and for an idle prefix. A write that gives back makes pods that come then
wait for its end, and what it gave back has to be bought again: 150 s and 5 min on a scale set."""


def shrink(view: View, targets: Targets) -> tuple[Action, ...]:
    """What is above `targets` (the view's, or those of scarcity); at most one ENI at a time."""
    if view.creating or view.shrink_paused_seconds > 0 or _is_growth_likely(view, targets):
        return ()
    targets = _with_ahead(targets)
    leaving = _drained(view)
    if leaving or view.seconds_since_change < HOLD_SECONDS:
        return leaving
    eni = _spare_eni(view, targets)
    if eni is not None:
        reason = f"idle ENI: its {eni.available} addresses are above the targets"
        return (DeleteEni(eni_id=eni.eni_id, reason=reason),)
    return _spare_prefixes(view, targets) if targets.use_prefixes else _spare(view, targets)


def _is_growth_likely(view: View, targets: Targets) -> bool:
    """Where a write is slow, it is not spent on giving back soon after the pool has changed, nor
    while pods come for whom it may have to grow; but others may be waiting for what is scarce. Pods
    that come and go for hours keep nothing beyond that."""
    if view.is_scarce:
        return False
    is_recent = view.seconds_since_change < SLOW_HOLDS * view.writes.period_seconds
    enough = targets.warm(view.slots_per_eni) + targets.ahead
    return is_recent or (targets.ahead > 0 and view.counts.supply < enough)


def _with_ahead(targets: Targets) -> Targets:
    """The targets with what pods will take until the next write, which is not given back now."""
    if not targets.ahead:
        return targets
    if targets.is_target_mode:
        return replace(targets, warm_addresses=targets.warm_addresses + targets.ahead)
    more = ceil(targets.ahead / PREFIX_ADDRESSES)
    return replace(targets, warm_prefixes=targets.warm_prefixes + more)


def excluded(view: View) -> tuple[Action, ...]:
    """Idle addresses that no pod may get: those on excluded ENIs."""
    if view.creating or view.shrink_paused_seconds > 0:
        return ()
    return _given_back(view, [e for e in view.enis if not e.takes_pods])


def _drained(view: View) -> tuple[Action, ...]:
    """Idle addresses on excluded ENIs, or of the kind not in use."""
    return _given_back(view, view.enis)


def _given_back(view: View, enis: Iterable[EniView]) -> tuple[Action, ...]:
    actions: list[Action] = []
    for eni in enis:
        if eni.is_busy or not eni.is_managed:
            continue
        singles = eni.idle if _drops_singles(view, eni) else ()
        whole = eni.idle_prefixes if _drops_prefixes(view, eni) else ()
        if singles or whole:
            why = "of the mode before" if eni.takes_pods else "on an ENI that carries no new pods"
            actions.append(
                UnassignAddresses(
                    eni_id=eni.eni_id,
                    addresses=singles,
                    prefixes=tuple(p.prefix for p in whole),
                    reason=f"idle and {why}",
                )
            )
    return tuple(actions)


def _drops_singles(view: View, eni: EniView) -> bool:
    # Not before the prefixes that replace them are there: the call may still be refused.
    return not eni.takes_pods or (view.uses_prefixes and view.counts.incoming == 0)


def _drops_prefixes(view: View, eni: EniView) -> bool:
    return not eni.takes_pods or not view.targets.use_prefixes


def _spare_eni(view: View, targets: Targets) -> EniView | None:
    if not view.gives_enis_back:
        return None  # what is idle on it goes back as on any other
    spare = (
        e
        for e in view.enis
        if e.is_managed
        and not e.is_primary
        and not e.is_busy
        and e.is_idle
        and e.age_seconds >= MINIMUM_ENI_SECONDS
        and _has_held(view, e, targets)
        and can_lose(
            targets,
            view.counts,
            available=e.available if e.takes_pods else 0,
            slots_per_eni=view.slots_per_eni,
        )
    )
    return max(spare, key=lambda e: e.device_index, default=None)


def _has_held(view: View, eni: EniView, targets: Targets) -> bool:
    """The hold times of the ENI and of its prefixes are over."""
    is_held = not targets.is_exact and eni.idle_seconds < ENI_BUSY_HOLD_SECONDS
    if is_held and not view.is_scarce and eni.takes_pods:
        return False
    return all(_is_due(view, p, targets) for p in eni.prefixes)


def _is_due(view: View, prefix: PrefixView, targets: Targets) -> bool:
    hold = PREFIX_HOLD_SECONDS if targets.is_exact else PREFIX_BUSY_HOLD_SECONDS
    holds = SLOW_PREFIX_HOLDS if targets.is_exact else 2 * SLOW_PREFIX_HOLDS
    hold = max(hold, holds * view.writes.period_seconds)
    return view.is_scarce or prefix.idle_seconds >= hold


def _spare_prefixes(view: View, targets: Targets) -> tuple[Action, ...]:
    idle = [p for e in view.enis if e.takes_pods for p in e.prefixes if p.is_idle]
    over = excess_prefixes(targets, view.counts, idle=len(idle), slots_per_eni=view.slots_per_eni)
    actions: list[Action] = []
    for eni in sorted(view.enis, key=lambda e: (e.pods, -e.device_index)):
        spare = eni.idle_prefixes[: max(over, 0)]
        due = tuple(p.prefix for p in spare if _is_due(view, p, targets))
        if eni.is_busy or not eni.takes_pods or not due:
            continue
        if view.writes.is_slow and len(due) < len(spare):
            continue  # all of them in one write, once the last is due
        over -= len(due)
        reason = f"{len(idle)} idle prefixes, {len(due)} above the targets"
        actions.append(UnassignAddresses(eni_id=eni.eni_id, prefixes=due, reason=reason))
    return tuple(actions)


def _spare(view: View, targets: Targets) -> tuple[Action, ...]:
    over = excess(targets, view.counts)
    if view.writes.is_slow and over <= targets.slack(view.slots_per_eni):
        return ()  # while pods come and go, the band is one upwards, too
    actions: list[Action] = []
    for eni in sorted(view.enis, key=lambda e: (e.pods, -e.device_index)):
        if over <= 0:
            break
        if eni.is_busy or not eni.takes_pods or not eni.idle:
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
