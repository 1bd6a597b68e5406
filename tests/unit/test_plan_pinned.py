"""Growth of the ENI that attachments insist on, and what the rest of the plan does."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.model import EniId
from ipamd.pool.pinned import grow_pinned
from ipamd.pool.plan import AssignAddresses, View, plan
from ipamd.pool.targets import Targets
from tests import builders as b
from tests.unit.test_plan import SLOTS, eni, view, warm

FIRST, SECOND = EniId("eni-0"), EniId("eni-1")


def pinned(count: int = 2, *, on: EniId = SECOND, **more: object) -> View:
    """A full first ENI, a second one with 7 free slots, so many waiting for the second."""
    made = view(eni(0, allocated=9), eni(1, allocated=1, idle=1), targets=warm(1))
    return replace(made, pinned={on: count}, **more)  # type: ignore[arg-type]


def asked(made: View) -> list[tuple[str, int, int]]:
    actions = [a for a in plan(made).actions if isinstance(a, AssignAddresses)]
    return [(a.eni_id, a.addresses, a.prefixes) for a in actions]


def test_the_eni_is_asked_for_what_is_lacking_though_the_pool_is_warm_enough() -> None:
    assert asked(pinned()) == [(SECOND, 2, 0)]


def test_no_more_than_its_free_slots_is_asked_for() -> None:
    assert asked(pinned(20)) == [(SECOND, 7, 0)]


def test_with_prefixes_a_prefix_serves_sixteen() -> None:
    targets = Targets(
        warm_enis=0, warm_addresses=1, minimum_addresses=0, max_pods=110, use_prefixes=True
    )
    assert asked(pinned(17, targets=targets)) == [(SECOND, 0, 2)]


NOTHING = {
    "the ENI is full": {"on": FIRST},
    "the ENI met a limit": {"eni_caps": {SECOND: 0}},
    "the subnet is exhausted": {"exhausted_subnets": {b.SUBNET: 9.0}},
    "the subnet refused as much": {"subnet_room": {b.SUBNET: 0}},
    "max pods are there": {"targets": warm(1, pods=11)},
    "the cloud refuses growth": {"growth_paused_seconds": 5.0},
    "provisioning is off": {"provisions": False},
    "pods have IPv6 only": {"has_ipv4": False},
}


@pytest.mark.parametrize("case", NOTHING)
def test_nothing_is_asked_for_where(case: str) -> None:
    assert asked(pinned(**NOTHING[case])) == []  # type: ignore[arg-type]


def test_a_busy_eni_is_waited_for() -> None:
    made = pinned()
    busy = tuple(replace(e, is_busy=True) for e in made.enis)
    assert asked(replace(made, enis=busy)) == []


def test_the_pools_own_growth_goes_elsewhere_meanwhile() -> None:
    enis = (eni(0, allocated=5), eni(1, allocated=6))
    made = replace(view(*enis, targets=warm(2)), pinned={SECOND: 1})
    assert asked(made) == [(SECOND, 1, 0), (FIRST, 2, 0)]


def test_for_a_full_eni_no_other_is_made() -> None:
    enis = (eni(0, allocated=SLOTS), eni(1, idle=1))
    made = replace(view(*enis, targets=warm(1)), pinned={FIRST: 3})
    assert plan(made).actions == ()


@given(
    lacking=st.integers(0, 30),
    allocated=st.integers(0, SLOTS),
    idle=st.integers(0, SLOTS),
    cap=st.integers(0, SLOTS),
    pods=st.integers(1, 30),
)
def test_what_was_asked_for_is_not_asked_for_again(
    lacking: int, allocated: int, idle: int, cap: int, pods: int
) -> None:
    idle = min(idle, SLOTS - allocated)
    made = replace(
        view(eni(0, allocated=allocated, idle=idle), targets=warm(0, pods=pods)),
        pinned={FIRST: lacking},
        eni_caps={FIRST: cap},
    )
    once = grow_pinned(made)
    assert grow_pinned(once.view).actions == ()
    room = SLOTS - allocated - idle
    (count,) = [a.addresses for a in once.actions] or [0]
    assert 0 <= count <= max(min(lacking, room, cap, pods - allocated - idle), 0)
