from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.aws.placement import TRIES, candidates, open_ranges

CIDR = IPv4Network("10.0.0.0/24")


def blocks(*texts: str) -> tuple[IPv4Network, ...]:
    return tuple(IPv4Network(t) for t in texts)


@pytest.mark.parametrize(
    ("reservations", "expected"),
    [
        pytest.param((), [(4, 254)], id="none"),
        pytest.param(("10.0.0.64/26",), [(4, 63), (128, 254)], id="in the middle"),
        pytest.param(("10.0.0.0/25",), [(128, 254)], id="at the start"),
        pytest.param(("10.0.0.128/25",), [(4, 127)], id="at the end"),
        pytest.param(("10.0.0.0/24",), [], id="all"),
        pytest.param(("10.0.0.64/26", "10.0.0.96/28"), [(4, 63), (128, 254)], id="one in another"),
        pytest.param(("10.0.9.0/28",), [(4, 254)], id="of another subnet"),
    ],
)
def test_what_is_open_for_an_enis_own_address(
    reservations: tuple[str, ...], expected: list[tuple[int, int]]
) -> None:
    base = int(CIDR.network_address)
    open_now = open_ranges(CIDR, blocks(*reservations))
    assert [(first - base, last - base) for first, last in open_now] == expected


def test_the_choice_depends_on_the_token_alone() -> None:
    reserved = blocks("10.0.0.128/25")
    assert candidates("t1", CIDR, reserved) == candidates("t1", CIDR, reserved)
    assert candidates("t1", CIDR, reserved) != candidates("t2", CIDR, reserved)


@given(
    token=st.text(max_size=40),
    length=st.integers(20, 28),
    reserved=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 3)), max_size=6),
)
def test_a_candidate_is_in_the_subnet_and_in_no_reservation(
    token: str, length: int, reserved: list[tuple[int, int]]
) -> None:
    cidr = IPv4Network(f"10.0.0.0/{length}")
    parts = list(cidr.subnets(prefixlen_diff=2)) + list(cidr.subnets(prefixlen_diff=4))
    held = tuple(parts[(a + b) % len(parts)] for a, b in reserved)
    chosen = candidates(token, cidr, held)
    ec2s = {IPv4Address(int(cidr.network_address) + n) for n in range(4)}
    assert len(set(chosen)) == len(chosen) <= TRIES
    for address in chosen:
        assert address in cidr
        assert address not in ec2s | {cidr.broadcast_address}
        assert not any(address in block for block in held)
    room = (
        {
            a
            for a in cidr
            if a not in ec2s | {cidr.broadcast_address} and not any(a in b for b in held)
        }
        if length >= 24
        else {None}
    )
    assert bool(chosen) >= bool(room - {None})
