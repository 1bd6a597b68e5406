"""What refusals forbid, and for how long."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from ipamd.cloud import Subnet
from ipamd.errors import Busy, CloudError, Denied, LimitReached, NoPrefixFree, SubnetExhausted
from ipamd.model import EniId
from ipamd.pacer import Pacer
from ipamd.pool.ledger import Intent, IntentKind
from tests import builders as b

CHANCE = 0.999999


def intent(kind: IntentKind = IntentKind.ASSIGN, **more: object) -> Intent:
    made = Intent(
        token="t",
        kind=kind,
        eni_id=None if kind is IntentKind.CREATE else b.PRIMARY,
        subnet_id=b.SUBNET,
        addresses=4,
        device_index=1,
        network_card=0,
        began_boottime=0.0,
        reason="",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def seen(pacer: Pacer, free: int, now: float, *, is_refusal: bool = False) -> None:
    subnet = Subnet(subnet_id=b.SUBNET, cidr=IPv4Network("10.0.0.0/24"), free_addresses=free)
    pacer.subnets_seen((subnet,), now, CHANCE, is_refusal=is_refusal)


def refused_often(pacer: Pacer, made: Intent, error: CloudError, times: int) -> None:
    for _ in range(times):
        pacer.refused(made, error, 100.0, CHANCE)


PAUSES = {
    "a creation, a limit": (
        intent(IntentKind.CREATE),
        LimitReached("n"),
        "creation_paused_seconds",
        (2.0, 600.0),
    ),
    "a creation, a policy": (
        intent(IntentKind.CREATE),
        Denied("n"),
        "creation_paused_seconds",
        (30.0, 300.0),
    ),
    "a creation, anything": (
        intent(IntentKind.CREATE),
        CloudError("n"),
        "creation_paused_seconds",
        (0.5, 300.0),
    ),
    "an assign, a policy": (intent(), Denied("n"), "growth_paused_seconds", (30.0, 300.0)),
    "an assign, anything": (intent(), CloudError("n"), "growth_paused_seconds", (0.5, 300.0)),
    "an unassign": (
        intent(IntentKind.UNASSIGN),
        Denied("n"),
        "shrink_paused_seconds",
        (30.0, 1800.0),
    ),
    "a deletion": (
        intent(IntentKind.DELETE),
        CloudError("n"),
        "shrink_paused_seconds",
        (30.0, 1800.0),
    ),
}


@pytest.mark.parametrize("name", PAUSES)
def test_a_refusal_rests_its_own_kind_of_call_ever_longer_until_one_succeeds(name: str) -> None:
    made, error, field, (first, longest) = PAUSES[name]
    pacer = Pacer()
    refused_often(pacer, made, error, 1)
    assert getattr(pacer.pace(100.0), field) == pytest.approx(first, rel=0.01)
    refused_often(pacer, made, error, 15)
    pace = pacer.pace(100.0)
    assert getattr(pace, field) == pytest.approx(longest, rel=0.01)
    others = {f for _, _, f, _ in PAUSES.values()} - {field}
    assert not any(getattr(pace, other) for other in others)
    assert any(t == pytest.approx(100.0 + longest, rel=0.01) for t in pacer.due_times(100.0))
    pacer.succeeded(made, 101.0)
    assert getattr(pacer.pace(101.0), field) == 0.0


def test_a_busy_eni_rests_for_as_long_as_the_cloud_says_and_nothing_else_does() -> None:
    pacer = Pacer()
    pacer.refused(intent(), Busy("n", retry_after_seconds=7.0), 100.0, CHANCE)
    assert pacer.pace(106.9).resting_enis == {EniId(b.PRIMARY)}
    assert 107.0 in pacer.due_times(100.0)
    idle = Pacer().pace(100.0)
    assert replace(pacer.pace(100.0), resting_enis=frozenset()) == idle
    assert pacer.pace(107.0).resting_enis == frozenset()


def test_an_eni_that_stays_busy_rests_longer_until_a_call_succeeds() -> None:
    pacer, rests = Pacer(), []
    for made in (intent(), intent(IntentKind.UNASSIGN), intent(), intent()):
        pacer.refused(made, Busy("n"), 100.0, 0.0)
        rests.append(min(pacer.due_times(100.0)) - 100.0)
    assert rests == [1.0, 2.0, 4.0, 5.0]
    pacer.succeeded(intent(), 100.0)
    assert pacer.pace(100.0).resting_enis == frozenset()


def test_an_eni_that_met_a_limit_is_asked_for_half_for_a_while() -> None:
    pacer = Pacer()
    pacer.refused(intent(), LimitReached("n"), 100.0, 0.0)
    assert pacer.pace(159.9).eni_caps == {EniId(b.PRIMARY): 2}
    assert pacer.pace(160.0).eni_caps == {}


def test_a_full_subnet_is_asked_once_for_its_rest_and_then_left_alone() -> None:
    pacer = Pacer()
    seen(pacer, 3, 100.0, is_refusal=True)
    pacer.refused(intent(), SubnetExhausted("n"), 100.0, CHANCE)
    assert pacer.pace(100.0).subnet_room == {b.SUBNET: 3}
    pacer.refused(intent(addresses=3), SubnetExhausted("n"), 101.0, CHANCE)
    assert pacer.exhausted(101.0)[b.SUBNET] == pytest.approx(2.0, rel=0.01)
    assert pacer.pace(103.0).exhausted_subnets == {}
    assert pacer.exhausted(104.0) == {b.SUBNET: 0.0}


@pytest.mark.parametrize(
    ("free", "now", "is_refusal", "is_over"),
    [
        (100, 200.0, False, True),
        (100, 200.0, True, False),
        (100, 101.0, False, False),
        (3, 200.0, False, False),
        (15, 200.0, False, False),
    ],
    ids=["it shows more", "it refuses now", "its rest is not over", "no more", "still scarce"],
)
def test_a_full_subnet_is_full_until(
    free: int, now: float, *, is_refusal: bool, is_over: bool
) -> None:
    pacer = Pacer()
    seen(pacer, 3, 100.0, is_refusal=True)
    refused_often(pacer, intent(), SubnetExhausted("n"), 2)
    seen(pacer, free, now, is_refusal=is_refusal)
    assert (pacer.exhausted(now) == {}) is is_over
    assert (b.SUBNET not in pacer.pace(now).scarce_subnets) is is_over
    assert (pacer.to_measure(now + 601.0) == ()) is is_over


def test_a_subnet_can_spare_what_is_above_the_end_of_its_scarcity() -> None:
    pacer = Pacer()
    seen(pacer, 20, 100.0)
    assert pacer.pace(100.0).subnet_spare == {b.SUBNET: 4}
    pacer.succeeded(intent(addresses=4), 101.0)
    assert pacer.pace(101.0).subnet_spare == {b.SUBNET: 0}
    assert not pacer.pace(101.0).scarce_subnets


def test_a_subnet_that_stays_scarce_is_counted_ever_less_whatever_it_counts() -> None:
    pacer = Pacer()
    now, waits = 100.0, []
    for free in (7, 6, 7, 5, 7, 6):
        seen(pacer, free, now)
        wait = next(w for w in range(1, 1000) if pacer.to_measure(now + w))
        waits.append(wait)
        now += wait
    assert waits == [60, 120, 240, 480, 600, 600]


def test_several_prefixes_are_asked_for_as_one_before_a_subnet_counts_as_without() -> None:
    pacer = Pacer()
    pacer.refused(intent(addresses=0, prefixes=3), NoPrefixFree("n"), 100.0, 0.0)
    assert pacer.pace(100.0).subnet_room == {b.SUBNET: 16}
    assert pacer.prefixless(100.0) == {}
    pacer.refused(intent(addresses=0, prefixes=1), NoPrefixFree("n"), 100.0, 0.0)
    assert pacer.prefixless(100.0) == {b.SUBNET: 10.0}
    assert pacer.pace(109.9).prefixless_subnets
    assert not pacer.pace(110.0).prefixless_subnets


def asked_until_exhausted(pacer: Pacer, free: int | None, wanted: int, **kind: int) -> list[int]:
    """What is asked of a subnet that refuses everything, one request after the other."""
    unit = 16 if kind else 1
    asked: list[int] = []
    for now in range(100, 130):
        count = min(pacer.pace(now).subnet_room.get(b.SUBNET, wanted * unit) // unit, wanted)
        asked.append(count)
        made = intent(addresses=0, prefixes=count) if kind else intent(addresses=count)
        if free is not None:
            seen(pacer, free, now, is_refusal=True)
        pacer.refused(made, SubnetExhausted("SubnetIsFull"), now, CHANCE)
        if pacer.exhausted(now) or pacer.prefixless(now):
            return asked
    raise AssertionError(f"never exhausted: {asked}")


HALVES = {
    "the count says enough": (200, 12, {}, [12, 6, 3, 1]),
    "it says exactly that much": (12, 12, {}, [12, 6, 3, 1]),
    "it says less": (7, 12, {}, [12, 7, 3, 1]),
    "it says none": (0, 12, {}, [12]),
    "it says nothing": (-1, 12, {}, [12, 6, 3, 1]),
    "the subnet is not known": (None, 12, {}, [12, 6, 3, 1]),
    "one was wanted": (200, 1, {}, [1]),
    "blocks, enough": (200, 6, {"prefixes": 1}, [6, 3, 1]),
    "blocks, less": (40, 6, {"prefixes": 1}, [6, 2, 1]),
    "blocks, unknown": (-1, 6, {"prefixes": 1}, [6, 3, 1]),
    "blocks, less than one": (15, 6, {"prefixes": 1}, [6]),
}


@pytest.mark.parametrize("case", HALVES)
def test_where_counts_are_hints_half_of_what_was_refused_is_asked_for_next(case: str) -> None:
    free, wanted, kind, expected = HALVES[case]
    pacer = Pacer(counts_are_hints=True)
    assert asked_until_exhausted(pacer, free, wanted, **kind) == expected
    assert bool(pacer.prefixless(200.0)) is (bool(kind) and free != 0)


def test_no_free_block_is_asked_for_in_halves_too() -> None:
    pacer = Pacer(counts_are_hints=True)
    for prefixes, room in ((5, 32), (2, 16)):
        pacer.refused(intent(addresses=0, prefixes=prefixes), NoPrefixFree("n"), 100.0, CHANCE)
        assert pacer.pace(100.0).subnet_room == {b.SUBNET: room}
    pacer.refused(intent(addresses=0, prefixes=1), NoPrefixFree("n"), 100.0, CHANCE)
    assert pacer.pace(100.0).subnet_room == {}
    assert b.SUBNET in pacer.pace(100.0).prefixless_subnets


def test_where_a_refusal_is_slow_no_more_is_asked_for_than_is_counted() -> None:
    for hints, room in ((True, {b.SUBNET: 40}), (False, {})):
        pacer = Pacer(counts_are_hints=hints)
        seen(pacer, 40, 100.0)
        assert pacer.pace(100.0).subnet_room == room
        seen(pacer, 0, 101.0)
        assert pacer.pace(101.0).subnet_room == {}, "only a refusal proves that there is nothing"
        assert bool(pacer.pace(101.0).prefixless_subnets) is hints


def test_a_subnet_with_fewer_than_16_addresses_has_no_block_and_is_counted_again() -> None:
    pacer = Pacer(counts_are_hints=True)
    seen(pacer, 20, 100.0)
    assert pacer.pace(100.0).prefixless_subnets == {}
    pacer.succeeded(intent(addresses=5), 101.0)
    assert b.SUBNET in pacer.pace(101.0).prefixless_subnets
    assert pacer.to_measure(101.0) == (b.SUBNET,)
    seen(pacer, 15, 102.0)
    assert pacer.pace(102.0).prefixless_subnets == {b.SUBNET: pytest.approx(60.0, rel=0.01)}
    seen(pacer, 16, 162.0)
    assert pacer.pace(162.0).prefixless_subnets == {}


def test_what_a_refusal_left_to_ask_for_ends_with_a_success_and_not_with_a_count() -> None:
    pacer = Pacer(counts_are_hints=True)
    pacer.refused(intent(addresses=12), SubnetExhausted("n"), 100.0, CHANCE)
    seen(pacer, 200, 101.0)
    assert pacer.pace(101.0).subnet_room == {b.SUBNET: 6}
    pacer.succeeded(intent(addresses=6), 102.0)
    assert pacer.pace(102.0).subnet_room == {b.SUBNET: 194}


def test_a_full_subnet_is_not_tried_again_before_the_next_write_may_come() -> None:
    pacer = Pacer(counts_are_hints=True, write_interval_seconds=15.0)
    pacer.refused(intent(addresses=1), SubnetExhausted("n"), 100.0, CHANCE)
    assert pacer.exhausted(100.0) == {b.SUBNET: 15.0}


def test_a_subnet_that_is_not_counted_is_not_scarce_and_bounds_nothing() -> None:
    pacer = Pacer(counts_are_hints=True)
    seen(pacer, -1, 100.0)
    pacer.succeeded(intent(), 101.0)
    pace = pacer.pace(101.0)
    assert (pace.scarce_subnets, pace.subnet_spare, pace.subnet_room) == (frozenset(), {}, {})
    assert pacer.to_measure(10_000.0) == ()
