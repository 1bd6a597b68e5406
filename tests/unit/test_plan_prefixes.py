"""Prefixes, both kinds mixed, excluded ENIs, scarcity, cards: what the planner makes of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.model import IPNetwork, SubnetId
from ipamd.pool.plan import (
    AssignAddresses,
    CreateEni,
    DeleteEni,
    EniView,
    Plan,
    PrefixView,
    UnassignAddresses,
    View,
    plan,
)
from ipamd.pool.targets import Counts, Targets
from tests import builders as b
from tests.pool_model import EniModel, PoolModel
from tests.unit.test_peer_tables import in_enis, in_prefixes, in_targets
from tests.unit.test_plan import eni, view

OTHER = SubnetId("subnet-02")


def prefix(number: int, allocated: int = 0, *, held: int = 0, idle: float = 1000.0) -> PrefixView:
    return PrefixView(
        prefix=IPv4Network(f"10.1.{number}.0/28"),
        allocated=allocated,
        available=16 - allocated - held,
        held=held,
        idle_seconds=idle,
    )


def mixed(*enis: EniView, waiting: int = 0, **more: object) -> View:
    """A view in prefix mode: WARM_PREFIX_TARGET 1 unless said otherwise."""
    made = view(*enis, waiting=waiting, targets=in_prefixes(1, pods=400))
    free = sum(p.available for e in enis for p in e.prefixes)
    singles = sum(len(e.idle) for e in enis)
    counts = Counts(
        allocated=sum(e.pods for e in enis),
        available=free,
        inactive=singles,
        preparing=0,
        cooling=0,
        incoming=0,
        waiting=waiting,
    )
    return replace(replace(made, counts=counts), **more)  # type: ignore[arg-type]


def assigned(made: Plan) -> list[tuple[str, int, int]]:
    found = [a for a in made.actions if isinstance(a, AssignAddresses)]
    return [(a.eni_id, a.addresses, a.prefixes) for a in found]


def given_back(made: Plan) -> list[tuple[str, int, int]]:
    found = [a for a in made.actions if isinstance(a, UnassignAddresses)]
    return [(a.eni_id, len(a.addresses), len(a.prefixes)) for a in found]


def test_a_fresh_node_asks_for_one_prefix() -> None:
    assert assigned(plan(mixed(eni()))) == [("eni-0", 0, 1)]


def test_the_whole_deficit_in_prefixes_is_one_call_per_eni() -> None:
    made = plan(mixed(eni(), waiting=200))
    assert assigned(made) == [("eni-0", 0, 9)]
    assert [(a.prefixes, a.addresses) for a in made.actions if isinstance(a, CreateEni)] == [(5, 0)]


def test_the_cap_is_rounded_up_to_a_whole_prefix() -> None:
    made = plan(mixed(eni(), targets=in_targets(100, 0, prefixes=True, pods=20)))
    assert assigned(made) == [("eni-0", 0, 2)]


def test_a_subnet_without_a_28_is_passed_over_for_one_that_has_some() -> None:
    full = eni(0, prefixes=tuple(prefix(n, 16) for n in range(3)))
    made = plan(
        mixed(full, prefixless_subnets={b.SUBNET: 30.0}, candidate_subnets=(b.SUBNET, OTHER))
    )
    assert [(a.subnet_id, a.prefixes) for a in made.actions if isinstance(a, CreateEni)] == [
        (OTHER, 1)
    ]


def test_without_any_28_pods_get_single_addresses() -> None:
    made = plan(mixed(eni(), waiting=3, prefixless_subnets={b.SUBNET: 30.0}, is_fallback=True))
    assert assigned(made) == [("eni-0", 9, 0)]
    assert "no /28 is free" in made.summary


def test_the_fall_back_keeps_one_eni_of_single_addresses_warm_and_no_more() -> None:
    there = eni(0, idle=9)
    seen = mixed(there, prefixless_subnets={b.SUBNET: 30.0}, is_fallback=True)
    counts = replace(seen.counts, available=9, inactive=0)
    assert plan(replace(seen, counts=counts)).actions == ()


def test_once_a_28_may_be_had_again_it_is_asked_for_beside_the_single_addresses() -> None:
    assert assigned(plan(mixed(eni(0, idle=4)))) == [("eni-0", 0, 1)]


def test_idle_single_addresses_make_room_where_every_slot_is_taken() -> None:
    made = plan(mixed(eni(0, allocated=2, idle=7), max_enis=1))
    assert given_back(made) == [("eni-0", 1, 0)]
    assert made.actions[0].reason.startswith("room for a prefix")


def test_single_addresses_leave_once_the_prefixes_are_there() -> None:
    made = plan(mixed(eni(0, idle=4, prefixes=(prefix(1),))))
    assert given_back(made) == [("eni-0", 4, 0)]


def test_single_addresses_stay_until_the_call_for_prefixes_has_answered() -> None:
    there = mixed(eni(0, idle=4), eni(1, incoming=1, is_busy=True))
    counts = replace(there.counts, incoming=16)
    assert plan(replace(there, counts=counts)).actions == ()


def test_idle_prefixes_leave_after_a_change_to_secondary_mode() -> None:
    there = eni(0, idle=9, prefixes=())
    old = eni(1, allocated=1, idle=8, prefixes=(prefix(1), prefix(2, 3)))
    seen = view(there, old, targets=in_enis(1, pods=100))
    made = plan(seen)
    assert given_back(made) == [("eni-1", 0, 1)]


def test_an_idle_prefix_is_held_for_two_minutes() -> None:
    young = eni(0, prefixes=(prefix(1), prefix(2, idle=119.0)))
    assert given_back(plan(mixed(young))) == [("eni-0", 0, 1)]
    both_young = eni(0, prefixes=(prefix(1, idle=1.0), prefix(2, idle=119.0)))
    assert plan(mixed(both_young)).actions == ()


def test_a_prefix_with_an_address_that_cools_stays() -> None:
    there = eni(0, prefixes=(prefix(1, held=1), prefix(2, held=1), prefix(3)))
    assert given_back(plan(mixed(there))) == []


def test_an_eni_of_idle_prefixes_goes_back_whole() -> None:
    made = plan(mixed(eni(0, prefixes=(prefix(1),)), eni(1, prefixes=(prefix(2), prefix(3)))))
    assert [a.eni_id for a in made.actions if isinstance(a, DeleteEni)] == ["eni-1"]


def test_an_excluded_eni_neither_grows_nor_keeps_idle_addresses() -> None:
    primary = eni(0, idle=3, is_excluded=True)
    seen = view(primary, targets=in_targets(2, 0))
    seen = replace(seen, counts=replace(seen.counts, available=0))
    made = plan(seen)
    assert assigned(made) == []
    assert [(a.device_index, a.addresses) for a in made.actions if isinstance(a, CreateEni)] == [
        (1, 2)
    ]
    settled = view(primary, eni(1, idle=2), targets=in_targets(2, 0))
    settled = replace(settled, counts=replace(settled.counts, available=2))
    assert given_back(plan(settled)) == [("eni-0", 3, 0)]


def test_a_scarce_subnet_gets_its_warm_addresses_back() -> None:
    made = plan(view(eni(0, allocated=2, idle=7), is_scarce=True))
    assert given_back(made) == [("eni-0", 6, 0)]


def test_in_scarcity_only_demand_makes_the_pool_grow() -> None:
    assert assigned(plan(view(eni(0, allocated=5), waiting=2, is_scarce=True))) == [("eni-0", 3, 0)]
    assert plan(view(eni(0, allocated=5, idle=1), is_scarce=True)).actions == ()


def test_a_slot_is_left_for_the_trunk_eni() -> None:
    full = (eni(0, allocated=9), eni(1, allocated=9))
    assert plan(view(*full, targets=in_targets(1, 0), reserved_enis=1)).actions == ()
    assert len(plan(view(*full, targets=in_targets(1, 0))).actions) == 1


def test_with_provisioning_off_nothing_is_called() -> None:
    made = plan(view(eni(0), waiting=3, provisions=False))
    assert made.actions == ()
    assert "provisioning is switched off" in made.summary


def test_the_primary_of_an_ipv6_node_gets_its_80_and_no_ipv4_address() -> None:
    made = plan(view(eni(0, lacks_prefix_v6=True), has_ipv4=False, has_ipv6=True))
    found = [a for a in made.actions if isinstance(a, AssignAddresses)]
    assert [(a.prefixes_v6, a.prefixes, a.addresses) for a in found] == [(1, 0, 0)]
    assert plan(view(eni(0), has_ipv4=False, has_ipv6=True)).actions == ()


def test_a_new_eni_of_a_dual_stack_node_brings_its_80() -> None:
    made = plan(view(eni(0, allocated=9), has_ipv6=True))
    assert [a.prefixes_v6 for a in made.actions if isinstance(a, CreateEni)] == [1]


@pytest.mark.parametrize("left", [1, 2, 3])
def test_a_prefix_request_keeps_within_the_room_that_a_refusal_left(left: int) -> None:
    made = plan(mixed(eni(), waiting=100, subnet_room={b.SUBNET: 16 * left + 3}))
    assert assigned(made) == [("eni-0", 0, left)]


PODS = st.lists(st.tuples(st.booleans(), st.integers(1, 12)), max_size=12)


@given(
    wish=st.one_of(
        st.builds(in_prefixes, st.integers(0, 2), pods=st.just(120)),
        st.builds(
            lambda w, m: in_targets(w, m, prefixes=True, pods=120),
            st.integers(1, 20),
            st.integers(0, 40),
        ),
        st.builds(in_enis, st.integers(0, 2), pods=st.just(27)),
    ),
    steps=PODS,
)
def test_pods_that_come_and_go_always_find_a_pool_that_settles(
    wish: Targets, steps: list[tuple[bool, int]]
) -> None:
    pool = PoolModel(wish, slots=9, max_enis=3)
    pool.settle()
    for is_add, count in steps:
        if is_add:
            pool.add(min(count, wish.max_pods - pool.pods))
        else:
            pool.remove(min(count, pool.pods))
            pool.settle()
        cap = -(-wish.max_pods // wish.unit) * wish.unit
        assert pool.addresses <= cap
        assert plan(pool.view()).actions == ()


@given(
    allocated=st.integers(0, 9),
    idle=st.integers(0, 9),
    used=st.lists(st.integers(0, 16), max_size=5),
    to_prefixes=st.booleans(),
)
def test_after_a_mode_change_only_what_pods_hold_stays_of_the_old_kind(
    allocated: int, idle: int, used: list[int], to_prefixes: bool
) -> None:
    wish = in_prefixes(1, pods=120) if to_prefixes else in_enis(1, pods=27)
    pool = PoolModel(wish, slots=9, max_enis=3)
    used = used[: 9 - min(allocated + idle, 9)]
    blocks: dict[IPNetwork, int] = {
        IPv4Network(f"10.2.{n}.0/28"): count for n, count in enumerate(used)
    }
    pool.enis = [
        EniModel(
            0,
            allocated=min(allocated, 9),
            idle=min(idle, 9 - min(allocated, 9)),
            prefixes=dict(blocks),
        )
    ]
    before = pool.pods
    pool.settle()
    assert pool.pods == before
    if to_prefixes:
        has_free = any(16 * len(e.prefixes) > sum(e.prefixes.values()) for e in pool.enis)
        assert sum(e.idle for e in pool.enis) == 0 or not has_free
    else:
        assert all(count for e in pool.enis for count in e.prefixes.values())


def test_equal_views_give_equal_plans() -> None:
    seen = mixed(eni(0, allocated=2, idle=3, prefixes=(prefix(1, 4),)), waiting=30)
    assert plan(seen) == plan(seen)
    assert isinstance(seen.enis[0].idle[0], IPv4Address)
