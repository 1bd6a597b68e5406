"""Properties of a subnet's address book."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sim.allocator import (
    NoFreeBlock,
    Refusal,
    ReservationType,
    SubnetFull,
    SubnetPool,
    SubnetPoolV6,
)

CIDR = IPv4Network("10.0.0.0/27")
CAPACITY = 27
WIDE = IPv4Network("10.0.0.0/25")
WIDE_CAPACITY = 123


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


@given(st.lists(st.tuples(st.sampled_from(["take", "prefix", "give"]), st.integers(1, 9))))
def test_addresses_and_prefixes_never_overlap_and_the_count_is_exact(
    steps: list[tuple[str, int]],
) -> None:
    pool = SubnetPool(WIDE)
    held: list[IPv4Address] = []
    blocks: list[IPv4Network] = []
    for step, count in steps:
        try:
            if step == "take":
                held += pool.take(count)
            elif step == "prefix":
                blocks += pool.take_prefixes(1 + count % 3)
            else:
                pool.release(held[:count])
                pool.release_prefixes(blocks[: count % 2])
                held, blocks = held[count:], blocks[count % 2 :]
        except (SubnetFull, NoFreeBlock):
            pass
        given_out = held + [address for block in blocks for address in block]
        assert len(set(given_out)) == len(given_out)
        assert not {WIDE[0], WIDE[1], WIDE[2], WIDE[3], WIDE[-1]} & set(given_out)
        assert pool.free_count == WIDE_CAPACITY - len(given_out)


@given(st.sets(st.integers(4, 126)), st.integers(1, 8))
def test_a_prefix_is_refused_by_what_is_short(taken: set[int], count: int) -> None:
    pool = SubnetPool(WIDE)
    pool.take_named(WIDE[offset] for offset in taken)
    whole = [
        block
        for block in WIDE.subnets(new_prefix=28)
        if WIDE[0] not in block
        and WIDE[-1] not in block
        and not any(WIDE[offset] in block for offset in taken)
    ]
    assert (list(pool.whole_blocks()), pool.free_blocks()) == (whole, len(whole))
    if count <= len(whole):
        assert list(pool.take_prefixes(count)) == whole[:count]
        return
    before = pool.free_count
    with pytest.raises(SubnetFull if count * 16 > before else NoFreeBlock):
        pool.take_prefixes(count)
    assert pool.free_count == before


@given(
    st.sets(st.sampled_from(list(WIDE.subnets(new_prefix=29))), max_size=6),
    st.sampled_from(ReservationType),
    st.sets(st.integers(4, 126), max_size=20),
)
def test_automatic_addresses_stay_out_of_every_reservation(
    reserved: set[IPv4Network], kind: ReservationType, taken: set[int]
) -> None:
    pool = SubnetPool(WIDE)
    pool.take_named(WIDE[offset] for offset in taken)
    for cidr in reserved:
        pool.reserve(cidr, kind)
    free = [
        WIDE[offset]
        for offset in range(4, 127)
        if offset not in taken and not any(WIDE[offset] in cidr for cidr in reserved)
    ]
    assert list(pool.take(len(free))) == free
    with pytest.raises(SubnetFull):
        pool.take(1)


def test_a_mixed_wish_is_given_all_or_none() -> None:
    pool = SubnetPool(WIDE)
    with pytest.raises(NoFreeBlock):
        pool.take_all(named=(WIDE[20], WIDE[40]), count=3, prefix_count=5)
    with pytest.raises(SubnetFull):
        pool.take_all(count=100, prefix_count=2)
    with pytest.raises(ValueError, match="in_use"):
        pool.take_all(named=(WIDE[20],), prefixes=(IPv4Network("10.0.0.16/28"),))
    assert pool.free_count == WIDE_CAPACITY


def test_an_ipv6_subnet_gives_single_addresses_and_blocks_apart() -> None:
    pool = SubnetPoolV6(IPv6Network("2001:db8::/64"))
    addresses, blocks = pool.take(2), pool.take_prefixes(2)
    assert [str(one) for one in (*addresses, *blocks)] == [
        "2001:db8::4",
        "2001:db8::5",
        "2001:db8:0:0:1::/80",
        "2001:db8:0:0:2::/80",
    ]
