"""Properties of a subnet's address book."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sim.allocator import Refusal, SubnetFull, SubnetPool

CIDR = IPv4Network("10.0.0.0/27")
CAPACITY = 27


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 9)), max_size=40))
def test_no_address_is_given_twice_and_the_count_is_exact(steps: list[tuple[bool, int]]) -> None:
    pool = SubnetPool(CIDR)
    held: list[IPv4Address] = []
    for takes, count in steps:
        if takes and count <= pool.free_count:
            held += pool.take(count)
        elif not takes:
            pool.release(held[:count])
            held = held[count:]
        assert len(set(held)) == len(held)
        assert pool.free_count == CAPACITY - len(held)


@given(st.sets(st.integers(4, 30), max_size=CAPACITY))
def test_the_lowest_free_address_comes_next_whatever_is_taken(taken: set[int]) -> None:
    pool = SubnetPool(CIDR)
    pool.take_named(CIDR[offset] for offset in taken)
    free = [CIDR[offset] for offset in range(4, 31) if offset not in taken]
    assert list(pool.take(len(free))) == free


def test_a_pool_that_is_too_small_gives_nothing() -> None:
    pool = SubnetPool(CIDR)
    with pytest.raises(SubnetFull):
        pool.take(CAPACITY + 1)
    assert pool.free_count == CAPACITY


def test_a_freed_address_is_the_next_given() -> None:
    pool = SubnetPool(CIDR)
    given_addresses = pool.take(5)
    pool.release(given_addresses[1:2])
    assert pool.take(1) == given_addresses[1:2]


@pytest.mark.parametrize(
    ("address", "refusal"),
    [
        ("10.0.0.3", Refusal.RESERVED),
        ("10.0.0.31", Refusal.RESERVED),
        ("10.0.0.32", Refusal.OUTSIDE),
        ("10.0.0.4", Refusal.IN_USE),
        ("10.0.0.5", None),
    ],
)
def test_a_refusal_says_why(address: str, refusal: Refusal | None) -> None:
    pool = SubnetPool(CIDR)
    pool.take(1)
    assert pool.refusal(IPv4Address(address)) is refusal


def test_taking_what_is_taken_is_an_error() -> None:
    pool = SubnetPool(CIDR)
    pool.take(1)
    with pytest.raises(ValueError, match="in_use"):
        pool.take_named([IPv4Address("10.0.0.4")])


def test_releasing_what_is_free_is_an_error() -> None:
    with pytest.raises(KeyError):
        SubnetPool(CIDR).release([IPv4Address("10.0.0.4")])
