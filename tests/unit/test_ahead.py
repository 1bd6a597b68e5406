"""Growth that looks ahead where writes are slow, and giving back that waits for a quiet moment."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipamd.arrivals import ARRIVALS_MAX, BACK_SECONDS, REMEMBER_SECONDS, ArrivalLog
from ipamd.pool import ahead
from ipamd.pool.ahead import INSTANT, Arrivals, Writes
from ipamd.pool.plan import AssignAddresses, PrefixView, UnassignAddresses, View, plan
from ipamd.pool.targets import Targets
from tests import builders as b
from tests.slow_pool import SlowPool
from tests.unit.test_plan import eni, view

NIC = Writes(seconds=5.0, is_whole=True)
SCALE_SET = Writes(seconds=60.0, interval_seconds=15.0, is_whole=True)
MANY = 10_000.0


def prefixes(*pods: int, idle: float = MANY) -> tuple[PrefixView, ...]:
    blocks = IPv4Network("10.1.0.0/16").subnets(new_prefix=28)
    return tuple(
        PrefixView(prefix=next(blocks), allocated=n, available=16 - n, held=0, idle_seconds=idle)
        for n in pods
    )


def slow(
    *pods: int,
    writes: Writes = SCALE_SET,
    ahead: int = 0,
    reserve: int = 0,
    is_exact: bool = False,
    idle: float = MANY,
    waiting: int = 0,
    max_pods: int = 250,
    **more: object,
) -> View:
    """A scale set's instance with so many pods in each of its /28s, two of them wanted warm."""
    made = view(eni(prefixes=prefixes(*pods, idle=idle)), waiting=waiting)
    counts = replace(
        made.counts, allocated=sum(pods), available=sum(16 - n for n in pods), waiting=waiting
    )
    targets = Targets(
        warm_enis=1,
        warm_addresses=0,
        minimum_addresses=0,
        warm_prefixes=2,
        use_prefixes=True,
        is_exact=is_exact,
        max_pods=max_pods,
        ahead=ahead,
        reserve=reserve,
    )
    return replace(
        made,
        targets=targets,
        counts=counts,
        writes=writes,
        slots_per_eni=255,
        can_create_interfaces=False,
        **more,  # type: ignore[arg-type]
    )


def bought(view: View) -> int:
    """/28s that are asked for, in one call at most."""
    assert len(plan(view).actions) <= 1
    return sum(a.prefixes for a in plan(view).actions if isinstance(a, AssignAddresses))


def given_back(view: View) -> int:
    return sum(len(a.prefixes) for a in plan(view).actions if isinstance(a, UnassignAddresses))


@pytest.mark.parametrize(
    ("writes", "lately", "during", "expected", "reserve"),
    [
        pytest.param(SCALE_SET, 9, 9, 23, 9, id="a scale set"),
        pytest.param(SCALE_SET, 0, 40, 0, 40, id="a burst that is over"),
        pytest.param(NIC, 9, 9, 5, 9, id="a NIC"),
        pytest.param(INSTANT, 9, 9, 0, 0, id="EC2"),
        pytest.param(replace(INSTANT, interval_seconds=15.0), 9, 9, 0, 0, id="rare, not slow"),
    ],
)
def test_what_will_be_needed_is_the_pace_times_the_time_of_a_write(
    writes: Writes, lately: int, during: int, expected: int, reserve: int
) -> None:
    seen = Arrivals(lately=lately, during_write=during)
    assert (ahead.expected(seen, writes), ahead.reserve(seen, writes)) == (expected, reserve)


BUYS = {
    "the band is not left": (slow(8, 0, ahead=60), 0),
    "the band is left, nobody comes": (slow(9, 0), 1),
    "the band is left, pods come": (slow(9, 0, ahead=68), 5),
    "pods wait": (slow(16, 16, waiting=12, ahead=75), 7),
    "pods wait, nobody else comes": (slow(16, 16, waiting=12), 3),
    "a write could come too late": (slow(0, 0, 0, 0, 0, ahead=100, reserve=81), 3),
    "it comes in time": (slow(0, 0, 0, 0, 0, ahead=100, reserve=80), 0),
    "max pods": (slow(9, 0, ahead=68, max_pods=60), 2),
    "the subnet can spare little": (slow(9, 0, ahead=68, subnet_spare={b.SUBNET: 40}), 2),
    "it can spare nothing": (slow(9, 0, ahead=68, subnet_spare={b.SUBNET: 0}), 0),
    "it can spare nothing, pods wait": (
        slow(16, 16, waiting=12, ahead=68, subnet_spare={b.SUBNET: 0}),
        1,
    ),
    "it is scarce, pods wait": (slow(16, 16, waiting=12, ahead=68, is_scarce=True), 1),
    "a write is under way": (
        replace(slow(9, 0, ahead=68), enis=(eni(prefixes=prefixes(9, 0), is_busy=True),)),
        0,
    ),
}


@pytest.mark.parametrize("case", BUYS)
def test_one_write_brings_what_will_be_needed_until_the_next(case: str) -> None:
    made, expected = BUYS[case]
    assert bought(made) == expected


def test_single_addresses_in_place_of_prefixes_are_bought_ahead_too() -> None:
    # 9 pods came in 10 s, on a subnet without a free /28: 32 warm and 68 more.
    made = slow(16, 16, ahead=68, is_fallback=True, prefixless_subnets={b.SUBNET: 60.0})
    (action,) = plan(made).actions
    assert isinstance(action, AssignAddresses)
    assert action.addresses == 24 + 68


def test_single_addresses_are_bought_ahead_in_target_mode() -> None:
    few = Targets(warm_enis=0, warm_addresses=16, minimum_addresses=0, max_pods=250, ahead=10)
    made = view(eni(allocated=14, idle=2), targets=replace(few, is_exact=False), slots_per_eni=255)
    (action,) = plan(replace(made, writes=NIC)).actions
    assert isinstance(action, AssignAddresses)
    assert action.addresses == 24


HOLDS = {
    "a quiet moment": (slow(0, 0, 0, 0, is_exact=True), 2),
    "pods come": (slow(0, 0, 0, 0, ahead=33), 0),
    "more is there than they will take": (slow(0, 0, 0, 0, ahead=1), 1),
    "even where they are many": (slow(0, 0, 0, 0, 0, 0, 0, ahead=33, reserve=30), 2),
    "the pool has just grown": (slow(0, 0, 0, 0, is_exact=True, seconds_since_change=149.0), 0),
    "it grew a while ago": (slow(0, 0, 0, 0, is_exact=True, seconds_since_change=151.0), 2),
    "on a NIC": (slow(0, 0, 0, 0, writes=NIC, is_exact=True, seconds_since_change=31.0), 2),
    "idle for minutes": (slow(0, 0, 0, 0, is_exact=True, idle=299.0), 0),
    "idle for longer": (slow(0, 0, 0, 0, is_exact=True, idle=301.0), 2),
    "pods come and go": (slow(0, 0, 0, 0, idle=599.0), 0),
    "they do for long": (slow(0, 0, 0, 0, idle=601.0), 2),
    "others wait for it": (slow(0, 0, 0, 0, ahead=5, is_scarce=True, idle=1.0), 3),
}


@pytest.mark.parametrize("case", HOLDS)
def test_a_slow_write_is_not_spent_on_giving_back_while_one_for_growth_is_likely(case: str) -> None:
    made, expected = HOLDS[case]
    assert given_back(made) == expected


def test_what_is_too_much_goes_back_in_one_write_once_the_last_of_it_is_due() -> None:
    old, young = prefixes(0), prefixes(0, 0, 0, 0, idle=200.0)[1:]
    made = slow(0, 0, 0, 0, is_exact=True)
    made = replace(made, enis=(replace(made.enis[0], prefixes=old + young),))
    assert given_back(made) == 0
    assert given_back(replace(made, writes=replace(INSTANT, is_whole=True))) == 2


def test_single_addresses_within_the_band_stay_while_pods_come_and_go() -> None:
    few = Targets(warm_enis=0, warm_addresses=16, minimum_addresses=0, max_pods=250, is_exact=False)
    for idle, expected in ((24, 0), (25, 9)):
        made = plan(view(eni(allocated=3, idle=idle), targets=few, writes=NIC, slots_per_eni=255))
        assert sum(len(getattr(a, "addresses", ())) for a in made.actions) == expected


def test_an_eni_that_is_written_as_a_whole_gets_one_call_and_growth_goes_first() -> None:
    leaving = prefixes(0)[0].prefix
    growing = slow(9, 0, ahead=68)
    growing = replace(growing, enis=(replace(growing.enis[0], unassigning_prefixes=(leaving,)),))
    (action,) = plan(growing).actions
    assert isinstance(action, AssignAddresses)
    assert len(plan(replace(growing, writes=INSTANT)).actions) == 2


@pytest.mark.parametrize(("writes", "asked"), [(SCALE_SET, 0), (INSTANT, 1)], ids=["slow", "EC2"])
def test_no_block_is_bought_of_what_a_subnet_cannot_spare_while_a_single_address_is_there(
    writes: Writes, asked: int
) -> None:
    made = slow(writes=writes, subnet_spare={b.SUBNET: 2})
    (single,) = eni(idle=1).idle
    made = replace(
        made,
        counts=replace(made.counts, inactive=1),
        enis=(replace(made.enis[0], idle=(single,)),),
    )
    assert bought(made) == asked
    assert bought(replace(made, counts=replace(made.counts, waiting=2))) == 1


def came(log: ArrivalLog, pods: int, now: float, name: str = "p") -> None:
    for n in range(pods):
        log.served(f"{name}{n}", now)


def test_pods_count_for_a_while_and_each_once() -> None:
    log = ArrivalLog()
    came(log, 3, 100.0)
    log.came("slow", 105.0)
    log.came("slow", 106.0)
    log.served("slow", 107.0)
    assert log.seen(107.0, SCALE_SET) == Arrivals(lately=4, during_write=4)
    assert log.seen(130.1, SCALE_SET) == Arrivals(lately=1, during_write=4)
    assert log.seen(161.0, SCALE_SET) == Arrivals(lately=0, during_write=1)
    assert log.seen(110.1, NIC) == Arrivals(lately=1, during_write=0)
    assert log.away(107.0) == 0


def test_a_pod_that_was_sent_away_is_still_there_and_comes_back_as_itself() -> None:
    log = ArrivalLog()
    log.came("a", 100.0)
    log.sent_away("a", 125.0)
    assert log.away(125.0) == 1
    log.came("a", 136.0)
    assert log.away(136.0) == 0
    log.served("a", 140.0)
    assert log.seen(140.0, NIC) == Arrivals()


def test_a_pod_that_never_comes_back_is_not_waited_for_and_forgotten() -> None:
    log = ArrivalLog()
    for name in ("a", "b"):
        log.came(name, 100.0)
    log.sent_away("a", 100.0)
    log.forget("b")
    assert log.away(100.0 + BACK_SECONDS) == 1
    assert log.away(100.1 + BACK_SECONDS) == 0
    log.came("c", 100.1 + REMEMBER_SECONDS)
    log.sent_away("c", 100.1 + REMEMBER_SECONDS)
    came(log, 2, 800.0, "")
    log.served("a", 800.0)
    assert log.seen(800.0, NIC).lately == 3, "a is another pod of that name by now"


def test_no_number_of_pods_fills_the_log() -> None:
    log = ArrivalLog()
    came(log, 5 * ARRIVALS_MAX, 100.0)
    assert log.seen(100.0, NIC).lately == ARRIVALS_MAX


def writes_of(writes: Writes, rounds: list[tuple[int, int, int, int]], *, looks: bool) -> int:
    """Writes of a node on which pods come and go: (pods, over, for, and none for) seconds."""
    pool = SlowPool(writes, looks_ahead=looks)
    pool.pass_time(70, 10)
    for pods, over, stay, rest in rounds:
        for second in range(over):
            pool.come(pods * (second + 1) // over - pods * second // over)
            pool.pass_time(1)
        pool.pass_time(stay, 2)
        while pool.waiting:
            pool.pass_time(5, 5)
        pool.go(pool.pods)
        pool.pass_time(rest, 5)
    pool.pass_time(1500, 10)
    assert pool.available == 32, "what was bought ahead is not kept"
    return len(pool.started)


@settings(max_examples=20)
@given(
    st.sampled_from([SCALE_SET, NIC]),
    st.integers(1, 80),
    st.integers(1, 40),
    st.integers(5, 120),
    st.integers(20, 400),
    st.integers(2, 4),
)
def test_back_and_forth_costs_no_more_writes_than_without_looking_ahead(
    writes: Writes, pods: int, over: int, stay: int, rest: int, times: int
) -> None:
    rounds = [(pods, over, stay, rest)] * times
    # One more every other round, where the larger pool goes back in two steps, as pods come and go
    # in between.
    more = times // 2
    assert writes_of(writes, rounds, looks=True) <= writes_of(writes, rounds, looks=False) + more


@pytest.mark.parametrize(("every", "stays"), [(12, 60), (6, 5), (120, 10)])
def test_pods_that_come_and_go_for_hours_keep_nothing_of_an_earlier_burst(
    every: int, stays: int
) -> None:
    pool = SlowPool(SCALE_SET)
    pool.pass_time(70)
    pool.come(40)
    pool.pass_time(300, 5)
    for _ in range(30):
        pool.come(2)
        pool.pass_time(1)
    pool.pass_time(60)
    assert len(pool.blocks) > 9
    pool.go(60)
    leaving, before = list[float](), len(pool.waits)
    for second in range(3600):
        if second % every == 0:
            pool.come(1)
            leaving.append(pool.now + stays)
        pool.pass_time(1)
        gone = sum(when <= pool.now for when in leaving)
        pool.go(gone)
        del leaving[:gone]
    assert len(pool.blocks) <= 6, "40 pods, two /28s warm and one ahead"
    assert len(pool.started) <= 6
    assert max(pool.waits[before:]) <= 1.0


def test_a_burst_is_served_sooner_by_no_more_writes() -> None:
    waits, writes = {}, {}
    for looks in (True, False):
        pool = SlowPool(SCALE_SET, looks_ahead=looks)
        pool.pass_time(70)
        for _ in range(30):
            pool.come(2)
            pool.pass_time(1)
        pool.pass_time(300)
        assert not pool.waiting
        waits[looks], writes[looks] = max(pool.waits), len(pool.started)
    assert waits[True] < 60 < waits[False]
    assert writes[True] <= writes[False]
