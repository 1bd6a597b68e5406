"""Views for tests of the planner: nothing is paused, refused or under way unless one says so."""

from __future__ import annotations

from dataclasses import replace

from ipamd.model import EniId
from ipamd.pool.plan import EniView, View
from ipamd.pool.targets import Counts, Targets
from tests import builders as b

LONG_AGO_SECONDS = 10_000.0


def view(
    *enis: EniView,
    targets: Targets,
    counts: Counts,
    slots_per_eni: int,
    max_enis: int,
    **more: object,
) -> View:
    """A pool that has not changed for long."""
    made = View(
        targets=targets,
        counts=counts,
        enis=enis,
        slots_per_eni=slots_per_eni,
        max_enis=max_enis,
        creating=(),
        creating_room=0,
        candidate_subnets=(b.SUBNET,),
        exhausted_subnets={},
        subnet_room={},
        eni_caps={},
        paused_seconds=0.0,
        growth_paused_seconds=0.0,
        creation_paused_seconds=0.0,
        shrink_paused_seconds=0.0,
        stray_enis=(),
        can_create_interfaces=True,
        seconds_since_change=LONG_AGO_SECONDS,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def eni(index: int = 0, **more: object) -> EniView:
    """An ENI of ours that has been there for long, without addresses; 0 is the primary one."""
    made = EniView(
        eni_id=EniId(f"eni-{index}"),
        subnet_id=b.SUBNET,
        device_index=index,
        is_primary=index == 0,
        is_managed=True,
        is_busy=False,
        allocated=0,
        idle=(),
        held=0,
        unassigning=(),
        incoming=0,
        age_seconds=LONG_AGO_SECONDS,
    )
    return replace(made, **more)  # type: ignore[arg-type]
