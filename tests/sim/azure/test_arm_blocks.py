"""Behaviours 6 and 7: blocks of sixteen addresses, and when there is none."""

from __future__ import annotations

import pytest

from tests.sim.azure.network_lab import PODS, NetworkLab, block, config, nic_id, primary, static


def test_static_cannot_name_an_address_inside_a_block(network: NetworkLab) -> None:
    network.put(primary(), block("b"))
    refused = network.put(primary(), block("b"), static("s", "10.0.1.20"))
    assert refused.refusal == (400, "PrivateIPAddressIsAllocated")


def test_a_block_is_an_aligned_28_beside_the_reserved_one_and_shown_with_its_length(
    network: NetworkLab,
) -> None:
    got = network.put(primary(), block("a"), block("b")).configs
    assert [row["privateIPAddress"] for row in got[1:]] == ["10.0.1.16/28", "10.0.1.32/28"]
    assert [row.get("privateIPAddressPrefixLength") for row in got] == [None, 28, 28]


def test_no_block_has_the_last_address_of_its_subnet(network: NetworkLab) -> None:
    blocks = [block(f"b{number}") for number in range(14)]
    got = network.put(primary(), *blocks).addresses
    assert got["b13"] == "10.0.1.224/28"
    refused = network.put(primary(), *blocks, block("one-more"))
    assert refused.refusal == (400, "NoAvailableIPAddressesInSubnet")


def test_a_block_takes_sixteen_addresses_from_the_others(network: NetworkLab) -> None:
    network.put(primary(), block("b"), *(config(f"c{number}") for number in range(12)))
    got = network.get().addresses
    assert [got["c10"], got["c11"]] == ["10.0.1.15", "10.0.1.32"]


@pytest.mark.parametrize("version", ["2018-10-01", "2023-09-01"])
@pytest.mark.parametrize("suffix", [False, True], ids=["bare", "with-suffix"])
def test_old_api_versions_do_not_see_the_length(
    network: NetworkLab, version: str, suffix: bool
) -> None:
    network.put(primary(), block("b"))
    network.set(shows_suffix_to_old=suffix)
    row = network.get(version=version).configs[1]
    assert "privateIPAddressPrefixLength" not in row
    assert row["privateIPAddress"] == ("10.0.1.16/28" if suffix else "10.0.1.16")
    assert network.get(version="2023-11-01").configs[1]["privateIPAddressPrefixLength"] == 28


@pytest.mark.parametrize("suffix", [False, True], ids=["bare", "with-suffix"])
def test_a_client_that_does_not_see_the_length_keeps_its_blocks(
    network: NetworkLab, suffix: bool
) -> None:
    network.put(primary(), block("b"))
    network.set(shows_suffix_to_old=suffix)
    seen = network.get(version="2018-10-01").body
    network.call("PUT", nic_id(), seen, version="2018-10-01")
    assert network.get().addresses["b"] == "10.0.1.16/28"


@pytest.mark.parametrize("text", ["10.0.1.64/28", "10.0.1.64"])
def test_a_block_can_be_named(network: NetworkLab, text: str) -> None:
    got = network.put(primary(), static("b", text, privateIPAddressPrefixLength=28))
    assert got.addresses["b"] == "10.0.1.64/28"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("10.0.1.24/28", "InvalidIPAddressFormat"),
        ("10.0.1.32/27", "InvalidIPAddressFormat"),
        ("10.0.1.0/28", "PrivateIPAddressInReservedRange"),
        ("10.0.1.240/28", "PrivateIPAddressInReservedRange"),
        ("10.0.3.16/28", "PrivateIPAddressNotInSubnet"),
        ("10.0.1.16/28", "PrefixUnavailable"),
    ],
    ids=["unaligned", "27", "reserved-start", "reserved-end", "outside", "taken"],
)
def test_a_named_block_is_refused_where_none_can_be_given(
    network: NetworkLab, text: str, code: str
) -> None:
    network.put(primary(), static("s", "10.0.1.20"), nic="holder")
    refused = network.put(primary(), static("b", text, privateIPAddressPrefixLength=28))
    assert refused.refusal == (400, code)


def test_a_block_is_never_primary(network: NetworkLab) -> None:
    refused = network.put(block("b", primary=True), config("a"))
    assert refused.refusal == (400, "PrimaryIpConfigurationCannotHavePrefixLength")


@pytest.mark.parametrize("length", [24, 27, 29, 32, 0])
def test_a_block_of_any_other_length_is_a_400(network: NetworkLab, length: int) -> None:
    refused = network.put(primary(), config("b", privateIPAddressPrefixLength=length))
    assert refused.refusal == (400, "InvalidPrivateIPAddressPrefixLength")


def test_an_address_may_become_a_block_under_the_same_name(network: NetworkLab) -> None:
    network.put(primary(), config("a"))
    assert network.put(primary(), block("a")).addresses["a"] == "10.0.1.16/28"
    assert network.free() == 251 - 1 - 16


def test_a_block_without_a_subnet_is_in_that_of_the_primary_one(network: NetworkLab) -> None:
    row = {"name": "b", "properties": {"privateIPAddressPrefixLength": 28}}
    assert network.put(primary(), row).addresses["b"] == "10.0.1.16/28"


@pytest.mark.parametrize(
    "code", ["NoAvailableIPAddressesInSubnet", "InsufficientCidrBlocks", "PrefixUnavailable"]
)
def test_enough_free_addresses_but_no_whole_block_is_a_code_of_its_own(
    network: NetworkLab, code: str
) -> None:
    network.set(block_shortage_code=code)
    network.outsiders.strew(PODS)
    refused = network.put(primary(), config("a"), block("b"))
    assert refused.refusal == (400, code)
    assert network.usage()[0] == 14
    assert network.put(primary(), config("a")).status == 201


def test_too_few_free_addresses_for_a_block_are_a_full_subnet(network: NetworkLab) -> None:
    network.outsiders.leave_free(PODS, 16)
    refused = network.put(primary(), block("b"))
    assert refused.refusal == (400, "SubnetIsFull")
    assert "for 17 IP addresses" in refused.message
