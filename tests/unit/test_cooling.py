"""Which cooldowns end, and which vpc-cnid is asked to clear."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.model import AddressState
from ipamd.pool import cooling
from ipamd.pool.cooling import Cooldown
from ipamd.pool.ledger import Ledger
from tests import builders as b

S = AddressState
SECONDS = 30.0


def cools(last: int, since: float) -> Cooldown:
    return ip_address(f"10.0.0.{last}"), since


def ledger(*cooldowns: Cooldown, is_ready: bool = True, has_heard_node: bool = True) -> Ledger:
    rows = (b.address(str(address), S.COOLING, since=since) for address, since in cooldowns)
    return b.ledger(*rows, enis=(b.eni(is_ready=is_ready),), has_heard_node=has_heard_node)


@pytest.mark.parametrize(
    ("since", "is_cleared", "is_ready", "state"),
    [
        (971.0, True, True, S.COOLING),
        (970.0, True, True, S.AVAILABLE),
        (900.0, True, False, S.PREPARING),
        (900.0, False, True, S.COOLING),
    ],
    ids=[
        "29 s: still cooling",
        "30 s and cleared: available",
        "cooled on an ENI that is not ready",
        "100 s, its connections not cleared: still cooling",
    ],
)
def test_a_cooldown_ends_after_its_time_and_its_clearing(
    since: float, is_cleared: bool, is_ready: bool, state: S
) -> None:
    before = ledger(cools(5, since), is_ready=is_ready)
    cleared = {cools(5, since)} if is_cleared else set()
    change = cooling.ended(before, cleared, cooldown_seconds=SECONDS, now=1000.0)
    assert before.applied(change).count(state) == 1


def test_what_was_cleared_in_an_earlier_cooldown_does_not_count() -> None:
    before = ledger(cools(5, 900.0))
    cleared = {cools(5, 800.0)}
    assert not cooling.ended(before, cleared, cooldown_seconds=SECONDS, now=1000.0)
    assert cooling.asked(before, cleared, set(), cooldown_seconds=SECONDS, now=1000.0)


FIRST, SECOND, THIRD = cools(5, 0.0), cools(6, 0.4), cools(7, 0.8)

ASKED = {
    "long before the end nothing": (28.9, set(), set(), set()),
    "one that could still wait does": (29.4, set(), set(), set()),
    "all that are near, once one cannot wait": (29.5, set(), set(), {FIRST, SECOND}),
    "what was asked for stays, and the rest can wait": (
        29.6,
        {FIRST, SECOND},
        set(),
        {FIRST, SECOND},
    ),
    "not what was cleared": (29.6, {FIRST, SECOND}, {FIRST}, {SECOND}),
    "the last on its own": (30.3, {FIRST, SECOND}, {FIRST, SECOND}, {THIRD}),
    "what should have ended long ago": (90.0, set(), set(), {FIRST, SECOND, THIRD}),
}


@pytest.mark.parametrize("name", ASKED)
def test_what_vpc_cnid_is_asked_to_clear(name: str) -> None:
    now, before, cleared, expected = ASKED[name]
    held = ledger(FIRST, SECOND, THIRD)
    assert cooling.asked(held, cleared, before, cooldown_seconds=SECONDS, now=now) == expected


def test_nothing_is_asked_before_the_kernel_was_heard() -> None:
    held = ledger(FIRST, has_heard_node=False)
    assert not cooling.asked(held, set(), set(), cooldown_seconds=SECONDS, now=100.0)
    assert not cooling.due_times(held, set(), set(), cooldown_seconds=SECONDS)


def test_without_a_cooldown_it_is_asked_at_once() -> None:
    held = ledger(cools(5, 100.0))
    assert cooling.asked(held, set(), set(), cooldown_seconds=0.0, now=100.0) == {cools(5, 100.0)}


def test_an_address_that_nobody_clears_does_not_keep_the_loop_awake() -> None:
    held = ledger(cools(5, 0.0))
    assert cooling.due_times(held, set(), {cools(5, 0.0)}, cooldown_seconds=SECONDS) == ()


def test_the_next_end_is_that_of_the_address_released_first() -> None:
    held = ledger(cools(5, 980.0), cools(6, 975.0))
    end = cooling.next_end(held.addresses.values(), cooldown_seconds=SECONDS, now=1000.0)
    assert end == 1005.0


def test_an_address_that_should_have_ended_long_ago_is_not_counted_on() -> None:
    held = ledger(cools(5, 900.0))
    assert cooling.overdue(held, cooldown_seconds=SECONDS, now=1000.0) == 1
    assert cooling.next_end(held.addresses.values(), cooldown_seconds=SECONDS, now=1000.0) is None
    assert cooling.overdue(held, cooldown_seconds=SECONDS, now=934.0) == 0


TIMES = st.integers(0, 400).map(lambda n: n / 10)


@given(st.lists(TIMES, min_size=1, max_size=12), st.lists(TIMES, max_size=12), st.booleans())
def test_with_a_node_that_answers_every_cooldown_ends_on_time(
    releases: list[float], looks: list[float], is_exact: bool
) -> None:
    """Looks at the due times alone are enough; further ones change nothing."""
    held = ledger(*(cools(n, since) for n, since in enumerate(releases, 1)))
    ends = {name: name[1] + SECONDS for name in cooling.running(held)}
    cleared: set[Cooldown] = set()
    asked: frozenset[Cooldown] = frozenset()
    extra = sorted(looks, reverse=True) if not is_exact else []
    now, questions = 0.0, 0
    while cooling.running(held):
        due = cooling.due_times(held, cleared, asked, cooldown_seconds=SECONDS)
        now = max(now, min([*due, *extra[-1:]]))
        if extra and extra[-1] <= now:
            extra.pop()
        change = cooling.ended(held, cleared, cooldown_seconds=SECONDS, now=now)
        for address in change.put_addresses:
            assert now - ends.pop((address.address, address.since_boottime)) < 0.001
        held = held.applied(change)
        asked = cooling.asked(held, cleared, asked, cooldown_seconds=SECONDS, now=now)
        questions += bool(asked)
        assert all(end - 1.0 <= now for end in (t + SECONDS for _, t in asked))
        cleared |= asked
        asked = frozenset()
    assert questions <= (max(releases) - min(releases)) / 0.5 + 1
