from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.model import EniId, SubnetId
from ipamd.pool.plan import (
    AssignAddresses,
    CreateEni,
    DeleteEni,
    EniView,
    Plan,
    UnassignAddresses,
    View,
    plan,
)
from ipamd.pool.targets import Counts, Targets
from tests import builders as b
from tests import views

SLOTS = 9


def eni(
    index: int = 0, allocated: int = 0, idle: int = 0, held: int = 0, **more: object
) -> EniView:
    addresses = tuple(IPv4Address(f"10.0.{index}.{n + 1}") for n in range(idle))
    return views.eni(index, allocated=allocated, idle=addresses, held=held, **more)


def view(*enis: EniView, waiting: int = 0, cooling: int = 0, **more: object) -> View:
    made = views.view(
        *enis,
        targets=Targets(warm_enis=1, warm_addresses=0, minimum_addresses=0, max_pods=27),
        counts=Counts(
            allocated=sum(e.allocated for e in enis),
            available=sum(len(e.idle) for e in enis),
            preparing=0,
            cooling=cooling,
            incoming=sum(e.incoming for e in enis),
            waiting=waiting,
        ),
        slots_per_eni=SLOTS,
        max_enis=3,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def warm(count: int, minimum: int = 0, pods: int = 27) -> Targets:
    return Targets(warm_enis=1, warm_addresses=count, minimum_addresses=minimum, max_pods=pods)


def assigns(made: Plan) -> dict[str, int]:
    return {a.eni_id: a.addresses for a in made.actions if isinstance(a, AssignAddresses)}


def creates(made: Plan) -> list[tuple[int, int]]:
    return [(a.device_index, a.addresses) for a in made.actions if isinstance(a, CreateEni)]


def test_a_fresh_node_fills_its_primary_eni_in_one_call() -> None:
    made = plan(view(eni()))
    assert assigns(made) == {"eni-0": 9}
    assert creates(made) == []


def test_the_whole_deficit_is_asked_for_at_once() -> None:
    made = plan(view(eni(idle=0), waiting=20, targets=warm(2)))
    assert assigns(made) == {"eni-0": 9}
    assert creates(made) == [(1, 9), (2, 4)]


def test_a_full_primary_asks_for_a_whole_new_eni() -> None:
    assert creates(plan(view(eni(allocated=1, idle=8)))) == [(1, 9)]


def test_in_target_mode_only_what_is_missing_is_asked_for() -> None:
    made = plan(view(eni(allocated=9), targets=warm(3)))
    assert creates(made) == [(1, 3)]


def test_the_fullest_eni_with_room_grows_first() -> None:
    made = plan(view(eni(0, allocated=2), eni(1, allocated=5), targets=warm(3)))
    assert assigns(made) == {"eni-1": 3}


def test_a_busy_eni_with_room_is_waited_for() -> None:
    made = plan(view(eni(allocated=4, is_busy=True, incoming=1), targets=warm(3)))
    assert made.actions == ()
    assert "wait for calls in flight" in made.summary


def test_room_that_calls_in_flight_will_use_is_not_asked_for_again() -> None:
    made = plan(view(eni(allocated=5, incoming=4, is_busy=True), targets=warm(6)))
    assert creates(made) == [(1, 2)]


def test_taken_device_indexes_are_passed_over() -> None:
    made = plan(view(eni(0, 9), eni(2, 9), targets=warm(1)))
    assert creates(made) == [(1, 1)]


def test_creations_in_flight_count_against_the_limit() -> None:
    made = plan(view(eni(0, 9), eni(1, 9), targets=warm(1), creating=(2,)))
    assert made.actions == ()


def test_an_eni_on_its_way_with_room_is_waited_for() -> None:
    made = plan(view(eni(0, 9), targets=warm(3), creating=(1,), creating_room=7))
    assert made.actions == ()
    assert "wait for calls in flight" in made.summary


def test_unmanaged_enis_count_but_are_left_alone() -> None:
    others = eni(1, idle=3, is_managed=False)
    made = plan(view(eni(0, 9), others, targets=warm(4)))
    assert assigns(made) == {}
    assert creates(made) == [(2, 1)]


def test_an_exhausted_subnet_is_named_and_not_asked() -> None:
    made = plan(view(eni(allocated=2), targets=warm(3), exhausted_subnets={b.SUBNET: 12.0}))
    assert made.actions == ()
    assert f"subnet {b.SUBNET} is exhausted, next try in 12 s" in made.summary


def test_another_subnets_exhaustion_stops_only_that_subnet() -> None:
    other = eni(1, allocated=1, subnet_id=SubnetId("subnet-02"))
    made = plan(view(eni(allocated=9), other, targets=warm(3), exhausted_subnets={b.SUBNET: 9.0}))
    assert assigns(made) == {"eni-1": 3}


def test_a_refused_request_is_repeated_for_what_the_subnet_has() -> None:
    made = plan(view(eni(), targets=warm(8), subnet_room={b.SUBNET: 3}))
    assert assigns(made) == {"eni-0": 3}


def test_a_new_enis_own_address_comes_out_of_the_same_room() -> None:
    made = plan(view(eni(allocated=9), targets=warm(8), subnet_room={b.SUBNET: 3}))
    assert creates(made) == [(1, 2)]


def test_throttling_stops_every_call() -> None:
    made = plan(view(eni(), paused_seconds=3.0, stray_enis=(EniId("eni-9"),)))
    assert made.actions == ()


def test_a_stray_eni_is_deleted() -> None:
    made = plan(view(eni(idle=9), stray_enis=(EniId("eni-9"),)))
    assert [a.eni_id for a in made.actions if isinstance(a, DeleteEni)] == ["eni-9"]


def test_no_stray_is_judged_while_an_eni_is_being_created() -> None:
    made = plan(view(eni(idle=9), stray_enis=(EniId("eni-9"),), creating=(1,)))
    assert made.actions == ()


def test_an_interrupted_unassign_is_finished() -> None:
    left = (IPv4Address("10.0.0.77"),)
    made = plan(view(eni(idle=9, unassigning=left)))
    assert [a.addresses for a in made.actions if isinstance(a, UnassignAddresses)] == [left]


def test_excess_leaves_from_the_emptiest_eni_and_the_longest_idle_first() -> None:
    full, empty = eni(0, allocated=5, idle=3), eni(1, allocated=1, idle=4)
    made = plan(view(full, empty, targets=warm(4)))
    assert [a.addresses for a in made.actions if isinstance(a, UnassignAddresses)] == [
        empty.idle[:3]
    ]


def test_an_idle_eni_goes_back_whole() -> None:
    made = plan(view(eni(0, allocated=4, idle=5), eni(1, idle=9), targets=warm(2)))
    assert [a.eni_id for a in made.actions if isinstance(a, DeleteEni)] == ["eni-1"]


@pytest.mark.parametrize(
    "more",
    [
        {"held": 1},
        {"allocated": 1},
        {"age_seconds": 59.0},
        {"is_busy": True},
        {"is_managed": False},
    ],
    ids=["an address cools", "a pod uses it", "too young", "busy", "not ours"],
)
def test_an_eni_stays_when(more: dict[str, object]) -> None:
    made = plan(view(eni(0, idle=9), eni(1, idle=8, **more)))  # type: ignore[arg-type]
    assert [a for a in made.actions if isinstance(a, DeleteEni)] == []


def test_nothing_shrinks_within_the_hold_time() -> None:
    made = plan(view(eni(idle=9), targets=warm(2), seconds_since_change=29.0))
    assert made.actions == ()


ENIS = st.lists(
    st.builds(
        lambda allocated, idle, held, busy: (
            min(allocated, SLOTS),
            min(idle, max(SLOTS - allocated, 0)),
            min(held, max(SLOTS - allocated - idle, 0)),
            busy,
        ),
        st.integers(0, 9),
        st.integers(0, 9),
        st.integers(0, 9),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)


@given(
    shape=ENIS,
    waiting=st.integers(0, 30),
    wish=st.one_of(
        st.builds(warm, st.integers(1, 12), st.integers(0, 20), st.integers(1, 40)),
        st.builds(
            lambda enis, pods: Targets(
                warm_enis=enis, warm_addresses=0, minimum_addresses=0, max_pods=pods
            ),
            st.integers(0, 3),
            st.integers(1, 40),
        ),
    ),
)
def test_a_plan_keeps_within_every_limit_and_takes_nothing_used(
    shape: list[tuple[int, int, int, bool]], waiting: int, wish: Targets
) -> None:
    enis = [
        eni(index, allocated, idle, held, is_busy=busy)
        for index, (allocated, idle, held, busy) in enumerate(shape)
    ]
    before = view(*enis, waiting=waiting, targets=wish)
    made = plan(before)
    by_id = {e.eni_id: e for e in enis}
    grown = 0
    for action in made.actions:
        match action:
            case AssignAddresses():
                assert 0 < action.addresses <= by_id[action.eni_id].room(SLOTS)
                assert not by_id[action.eni_id].is_busy
                grown += action.addresses
            case CreateEni():
                assert 0 < action.addresses <= SLOTS
                assert action.device_index not in {e.device_index for e in enis}
                grown += action.addresses
            case UnassignAddresses():
                assert set(action.addresses) <= set(by_id[action.eni_id].idle)
            case DeleteEni():
                gone = by_id[action.eni_id]
                assert gone.allocated == gone.held == 0
                assert not gone.is_primary
    assert len(enis) + len(creates(made)) <= before.max_enis
    assert grown == 0 or before.counts.committed + grown <= wish.max_pods
    assert made == plan(before)


def test_applying_any_first_part_of_a_plan_converges_to_the_same_pool() -> None:
    start = view(eni(0, allocated=2), waiting=20, targets=warm(2))
    whole = plan(start)
    assert len(whole.actions) == 3
    for done in range(len(whole.actions) + 1):
        enis = {e.eni_id: e for e in start.enis}
        for action in whole.actions[:done]:
            if isinstance(action, AssignAddresses):
                old = enis[action.eni_id]
                enis[old.eni_id] = eni(old.device_index, old.allocated, action.addresses)
            elif isinstance(action, CreateEni):
                new = eni(action.device_index, 0, action.addresses)
                enis[new.eni_id] = new
        rest = plan(view(*enis.values(), waiting=20, targets=warm(2)))
        total = sum(len(e.idle) for e in enis.values())
        total += sum(
            a.addresses for a in rest.actions if isinstance(a, AssignAddresses | CreateEni)
        )
        assert total == 22, f"after {done} actions"


def test_what_pods_wait_for_is_asked_of_every_eni_though_the_subnet_can_spare_none() -> None:
    both = (eni(0, allocated=8), eni(1, allocated=7))
    low = view(*both, waiting=2, targets=warm(5), subnet_spare={b.SUBNET: 0}, max_enis=2)
    actions = plan(low).actions
    assert [(a.eni_id, a.addresses) for a in actions if isinstance(a, AssignAddresses)] == [
        ("eni-0", 1),
        ("eni-1", 2),
    ]


def test_ahead_of_demand_a_subnet_is_asked_for_what_it_can_spare_and_no_more() -> None:
    low = view(eni(0, allocated=3, idle=1), targets=warm(5), subnet_spare={b.SUBNET: 2})
    (action,) = plan(low).actions
    assert isinstance(action, AssignAddresses)
    assert action.addresses == 2
    none = replace(low, subnet_spare={b.SUBNET: 0})
    assert not plan(none).actions
    assert "subnet-01 can spare 0" in plan(none).summary


def test_an_eni_with_nothing_idle_is_not_asked_to_give_back() -> None:
    (action,) = plan(
        view(eni(0, allocated=3, idle=4), eni(1, allocated=2), targets=warm(1))
    ).actions
    assert isinstance(action, UnassignAddresses)
    assert (action.eni_id, len(action.addresses)) == ("eni-0", 3)


@pytest.mark.parametrize(("cap", "expected"), [(0, 0), (1, 1)], ids=["met a limit", "may try"])
def test_an_eni_that_met_a_limit_is_not_asked_for_a_80(cap: int, expected: int) -> None:
    lacking = view(eni(0, idle=9, lacks_prefix_v6=True), has_ipv6=True)
    lacking = replace(lacking, eni_caps={lacking.enis[0].eni_id: cap})
    assert len(plan(lacking).actions) == expected


@pytest.mark.parametrize(
    "more",
    [{"creating": (2,)}, {"shrink_paused_seconds": 5.0}, {"seconds_since_change": 29.0}],
    ids=["an ENI is being made", "giving back was refused", "the pool changed just now"],
)
def test_nothing_goes_back_while(more: dict[str, object]) -> None:
    rich = view(eni(0, allocated=1, idle=8), eni(1, idle=9), targets=warm(1), max_enis=2)
    assert plan(rich).actions
    assert not plan(replace(rich, **more)).actions  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "more",
    [{"creating": (2,)}, {"shrink_paused_seconds": 5.0}],
    ids=["an ENI is being made", "giving back was refused"],
)
def test_what_no_pod_may_get_stays_while(more: dict[str, object]) -> None:
    short = view(
        eni(0, idle=9, is_excluded=True),
        counts=Counts(allocated=0, available=0, preparing=0, cooling=0, incoming=0, waiting=1),
        candidate_subnets=(),
    )
    assert plan(short).actions
    assert not plan(replace(short, **more)).actions  # type: ignore[arg-type]


def test_growth_that_meets_the_deficit_says_nothing_of_what_cannot_be_had() -> None:
    made = plan(view(eni(0, allocated=3, idle=1), targets=warm(5)))
    assert len(made.actions) == 1
    assert made.summary.endswith("0 waiting")


@pytest.mark.parametrize(
    ("room", "expected"),
    [
        pytest.param(
            {b.SUBNET: 1},
            "are not asked for yet: subnet subnet-01 has room for 1",
            id="the subnet has less",
        ),
        pytest.param({}, "have no room, and none can be added", id="all ENIs are full"),
    ],
)
def test_where_no_eni_can_be_added_a_plan_does_not_speak_of_new_ones(
    room: dict[SubnetId, int], expected: str
) -> None:
    one = eni(idle=8 if room else 9)
    full = view(one, targets=warm(13), can_create_interfaces=False, subnet_room=room)
    full = replace(full, candidate_subnets=())
    assert expected in plan(full).summary


def test_what_is_bought_for_pods_to_come_is_told_apart_from_the_target() -> None:
    made = plan(view(eni(), targets=replace(warm(2), ahead=5)))
    assert made.summary.startswith(
        "7 short of WARM_IP_TARGET 2, MINIMUM_IP_TARGET 0 and 5 for pods"
    )
