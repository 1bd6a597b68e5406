"""Growth of one very ENI, for attachments that insist on it: the network config of a bridge or an
ipvlan names the ENI that its pods leave by (pure).

It comes before the pool's own growth and is bounded by the same: free slots, the ENI's and the
subnet's refusals, max pods. What it brings is demand met, so it changes no warm target. For an ENI
without a free slot nothing is bought: the attachment waits for one of its addresses to cool down,
and is told so.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from ipamd.pool.growth import is_growable
from ipamd.pool.view import AssignAddresses, EniView, View
from ipamd.sizing import PREFIX_ADDRESSES


@dataclass(frozen=True, slots=True, kw_only=True)
class PinnedGrowth:
    """The calls, and the view as if they were under way: what the rest of the plan goes by."""

    actions: tuple[AssignAddresses, ...]
    view: View


def grow_pinned(view: View) -> PinnedGrowth:
    """Ask for what attachments lack on the ENIs that they insist on."""
    actions: list[AssignAddresses] = []
    for eni in view.enis:
        action = _assign(view, eni) if view.has_ipv4 and eni.eni_id in view.pinned else None
        if action is not None:
            actions.append(action)
            view = _with(view, eni, action)
    return PinnedGrowth(actions=tuple(actions), view=view)


def _assign(view: View, eni: EniView) -> AssignAddresses | None:
    lacking = view.pinned[eni.eni_id]
    with_prefixes = view.uses_prefixes and eni.subnet_id not in view.prefixless_subnets
    if lacking <= 0 or eni.is_busy or not is_growable(view, eni, with_prefixes=with_prefixes):
        return None
    unit = PREFIX_ADDRESSES if with_prefixes else 1
    count = min(
        ceil(lacking / unit),
        eni.room(view.slots_per_eni),
        view.eni_caps.get(eni.eni_id, view.slots_per_eni),
        view.subnet_room.get(eni.subnet_id, lacking * unit) // unit,
        ceil((view.targets.max_pods - view.counts.committed) / unit),
    )
    if count <= 0:
        return None
    return AssignAddresses(
        eni_id=eni.eni_id,
        subnet_id=eni.subnet_id,
        addresses=0 if with_prefixes else count,
        prefixes=count if with_prefixes else 0,
        reason=f"{lacking} attachments wait for an address of this very ENI",
    )


def _with(view: View, eni: EniView, action: AssignAddresses) -> View:
    brought = action.addresses + action.prefixes * PREFIX_ADDRESSES
    served = min(view.pinned[eni.eni_id], brought)
    busy = replace(eni, is_busy=True, incoming=eni.incoming + action.addresses + action.prefixes)
    return replace(
        view,
        enis=tuple(busy if e is eni else e for e in view.enis),
        counts=replace(
            view.counts,
            incoming=view.counts.incoming + brought,
            waiting=view.counts.waiting + served,
        ),
    )
