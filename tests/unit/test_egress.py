"""Which node-local address an attachment tries, and in which order."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from cni_shim.datapath.egress import candidate, in_order
from cni_shim.datapath.policy import EGRESS_RANGES, is_egress
from hypothesis import given
from hypothesis import strategies as st

VERSIONS = st.sampled_from([4, 6])


@given(VERSIONS, st.text(), st.text(max_size=15), st.integers(0, 5000))
def test_a_candidate_is_of_the_range_and_neither_its_first_nor_its_last(
    version: int, container_id: str, ifname: str, step: int
) -> None:
    network = EGRESS_RANGES[version]
    found = candidate(version, container_id, ifname, step)
    assert is_egress(found)
    assert found not in {network.network_address, network.broadcast_address}


@pytest.mark.parametrize("version", [4, 6])
def test_every_address_of_the_range_is_tried_once(version: int) -> None:
    usable = EGRESS_RANGES[version].num_addresses - 2
    found = {candidate(version, "c1", "eth0", step) for step in range(usable)}
    assert len(found) == usable == 1022


def test_it_follows_from_the_key_alone() -> None:
    assert candidate(4, "c1", "eth0", 0) == candidate(4, "c1", "eth0", 0)
    assert len({candidate(4, f"c{n}", "eth0", 0) for n in range(50)}) > 40


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("169.254.172.0", True),
        ("169.254.175.255", True),
        ("169.254.176.0", False),
        ("169.254.1.1", False),
        ("10.0.0.5", False),
        ("fd00::ac:3ff", True),
        ("fd00::ac:400", False),
        ("2001:db8::1", False),
    ],
)
def test_what_is_node_local(address: str, expected: bool) -> None:
    assert is_egress(ip_address(address)) is expected


def test_ipv4_comes_first() -> None:
    six, four = ip_address("fd00::ac:5"), ip_address("10.0.0.5")
    assert in_order((six, four)) == (four, six)
