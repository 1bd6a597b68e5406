from __future__ import annotations

import itertools

import pytest

from ipamd.model import AddressState
from ipamd.pool import lifecycle
from ipamd.pool.ledger import Change
from ipamd.pool.lifecycle import IllegalTransition
from tests import builders as b

S = AddressState


@pytest.mark.parametrize(("old", "new"), [*itertools.product([None, *S], [None, *S])])
def test_a_step_is_allowed_exactly_if_the_table_holds_it(old: S | None, new: S | None) -> None:
    if old is new:
        expected = True
    elif old is None:
        expected = new in lifecycle.BIRTHS
    elif new is None:
        expected = old in lifecycle.DEATHS
    else:
        expected = new in lifecycle.TRANSITIONS[old]
    if expected:
        lifecycle.check(old, new, "x")
    else:
        with pytest.raises(IllegalTransition):
            lifecycle.check(old, new, "x")


@pytest.mark.parametrize("state", [S.ALLOCATED, S.COOLING])
def test_a_used_or_cooling_address_can_neither_be_given_back_nor_forgotten(state: S) -> None:
    assert S.UNASSIGNING not in lifecycle.TRANSITIONS[state]
    assert state not in lifecycle.DEATHS


def test_an_illegal_change_leaves_the_ledger_as_it_was() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.COOLING))
    with pytest.raises(IllegalTransition):
        ledger.applied(Change(put_addresses=(b.address("10.0.0.5", S.UNASSIGNING),)))
    assert ledger.count(S.COOLING) == 1


def test_an_address_cannot_come_under_a_second_key() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5", S.ALLOCATED), allocations=(b.allocation("10.0.0.5", "c1"),)
    )
    twice = Change(
        put_addresses=(b.address("10.0.0.5", S.ALLOCATED),),
        put_allocations=(b.allocation("10.0.0.5", "c2", generation=2),),
    )
    with pytest.raises(IllegalTransition, match="another attachment"):
        ledger.applied(twice)


def test_an_allocation_needs_its_address_in_the_same_change() -> None:
    with pytest.raises(IllegalTransition, match="not allocated"):
        b.ledger(b.address("10.0.0.5")).applied(Change(put_allocations=(b.allocation("10.0.0.5"),)))
