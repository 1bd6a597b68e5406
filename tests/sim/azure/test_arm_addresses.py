"""Behaviours 5, 7 and 8: which address a configuration gets, and when it gets none."""

from __future__ import annotations

from collections import Counter
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.azure.network_lab import (
    OTHER,
    PODS,
    SMALL,
    VNET,
    Json,
    NetworkLab,
    block,
    config,
    nic_id,
    primary,
    static,
)


def many(count: int) -> list[Json]:
    return [config(f"c{number}") for number in range(count)]


def test_dynamic_gets_the_lowest_free_address_from_the_fourth_on(network: NetworkLab) -> None:
    network.put(primary(), static("s", "10.0.1.6"))
    got = network.put(primary(), static("s", "10.0.1.6"), config("a"), config("b")).addresses
    assert (got["ipconfig1"], got["a"], got["b"]) == ("10.0.1.4", "10.0.1.5", "10.0.1.7")


def test_a_full_subnet_has_given_every_address_but_the_five_reserved(network: NetworkLab) -> None:
    rows = [primary(subnet=SMALL), *(config(f"c{n}", subnet=SMALL) for n in range(10))]
    got = network.put(*rows).addresses
    assert list(got.values()) == [f"10.0.2.{last}" for last in range(4, 15)]


def test_dynamic_configurations_keep_their_addresses(network: NetworkLab) -> None:
    network.put(primary(), config("a"), config("b"), config("c"))
    network.put(primary(), config("c"))
    got = network.put(primary(), config("c"), config("d")).addresses
    assert got == {"ipconfig1": "10.0.1.4", "c": "10.0.1.7", "d": "10.0.1.5"}


def test_dynamic_configurations_sent_without_an_address_may_get_another_one(
    network: NetworkLab,
) -> None:
    network.set(keeps_unsent_addresses=False)
    network.put(primary(), config("a"))
    kept = config("a", privateIPAddress="10.0.1.5")
    assert network.put(primary(), kept).addresses == {"ipconfig1": "10.0.1.6", "a": "10.0.1.5"}


def test_dynamic_pays_no_heed_to_an_address_in_the_body(network: NetworkLab) -> None:
    got = network.put(primary(privateIPAddress="10.0.1.99"))
    assert got.addresses == {"ipconfig1": "10.0.1.4"}


def test_static_gets_the_address_it_names(network: NetworkLab) -> None:
    got = network.put(primary(), static("s", "10.0.1.77")).configs[1]
    assert (got["privateIPAddress"], got["privateIPAllocationMethod"]) == ("10.0.1.77", "Static")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        ("10.0.3.5", "PrivateIPAddressNotInSubnet"),
        ("10.0.1.0", "PrivateIPAddressInReservedRange"),
        ("10.0.1.3", "PrivateIPAddressInReservedRange"),
        ("10.0.1.255", "PrivateIPAddressInReservedRange"),
        ("10.0.1.4", "PrivateIPAddressIsAllocated"),
        ("10.0.1.300", "InvalidIPAddressFormat"),
        ("", "StaticPrivateIPAddressNotSpecified"),
    ],
    ids=["outside", "network", "dns", "last", "taken", "no-address", "unnamed"],
)
def test_static_is_refused_where_no_address_can_be_given(
    network: NetworkLab, address: str, code: str
) -> None:
    network.put(primary(), nic="holder")
    refused = network.put(primary(), config("a"), static("s", address))
    assert refused.refusal == (400, code)
    assert network.usage() == (1, 251)


def test_one_address_cannot_be_named_twice_in_a_body(network: NetworkLab) -> None:
    refused = network.put(primary(), static("s", "10.0.1.9"), static("t", "10.0.1.9"))
    assert refused.refusal == (400, "PrivateIPAddressIsAllocated")


def test_a_full_subnet_refuses_by_name_prefix_and_count_and_gives_nothing(
    network: NetworkLab,
) -> None:
    network.put(primary(subnet=SMALL))
    rows = [config(f"c{number}", subnet=SMALL) for number in range(11)]
    before = network.get().body
    refused = network.put(primary(subnet=SMALL), *rows)
    assert refused.refusal == (400, "SubnetIsFull")
    assert refused.message == (
        "Subnet small with address prefix 10.0.2.0/28 does not have enough capacity for 11 "
        "IP addresses."
    )
    assert network.get().body == before
    assert network.usage(SMALL) == (1, 11)


def test_one_refused_configuration_is_the_refusal_of_all(network: NetworkLab) -> None:
    network.put(primary(), nic="holder")
    network.put(primary())
    refused = network.put(primary(), *many(20), block("b"), static("s", "10.0.1.4"))
    assert refused.status == 400
    assert network.get().addresses == {"ipconfig1": "10.0.1.5"}
    assert network.put(primary(), config("a")).addresses["a"] == "10.0.1.6"


def test_a_nic_has_256_configurations_and_not_one_more(network: NetworkLab) -> None:
    rows = [config(f"c{number}", subnet=OTHER) for number in range(200)]
    blocks = [block(f"b{number}", subnet=OTHER) for number in range(3)]
    network.set(nic_limit=204)
    assert network.put(primary(subnet=OTHER), *rows, *blocks).status == 201
    network.set(nic_limit=203)
    refused = network.put(primary(subnet=OTHER), *rows, *blocks)
    assert refused.refusal == (400, "NetworkInterfaceIpConfigurationLimitExceeded")


def test_257_configurations_are_refused_before_anything_else(network: NetworkLab) -> None:
    refused = network.put(primary(), *many(256))
    assert refused.refusal == (400, "NetworkInterfaceIpConfigurationLimitExceeded")
    assert "257" in refused.message


@pytest.mark.parametrize(
    ("rows", "code"),
    [
        ([config("a"), config("b")], "NetworkInterfaceMustHaveOneOneIPConfigAsPrimary"),
        ([primary("a"), primary("b")], "NetworkInterfaceMustHaveOneOneIPConfigAsPrimary"),
        ([], "NetworkInterfaceMustHaveAtLeastOneIpConfiguration"),
        ([primary("a"), config("A")], "InvalidRequestFormat"),
        ([primary(""), config("a")], "InvalidRequestFormat"),
        (
            [primary("a"), config("b", subnet=OTHER)],
            "IpConfigurationsOnSameNicCannotUseDifferentSubnets",
        ),
        ([primary("a", subnet=f"{VNET}/subnets/none")], "InvalidResourceReference"),
        ([{"name": "a", "properties": {}}], "SubnetReferenceRequired"),
        ([primary("a", privateIPAddressVersion="IPv6")], "NotEmulated"),
    ],
    ids=[
        "no-primary",
        "two-primaries",
        "none",
        "same-name",
        "no-name",
        "two-subnets",
        "no-such-subnet",
        "no-subnet",
        "ipv6",
    ],
)
def test_what_cannot_be_a_nic_is_a_400(network: NetworkLab, rows: list[Json], code: str) -> None:
    assert network.put(*rows).refusal == (400, code)
    assert network.state.nics == {}


@pytest.mark.parametrize(
    "properties",
    [
        [],
        {"ipConfigurations": {}},
        {"ipConfigurations": ["a"]},
        {"ipConfigurations": [{"properties": 1}]},
    ],
    ids=["list", "object", "text", "number"],
)
def test_a_body_of_another_shape_is_a_400(network: NetworkLab, properties: object) -> None:
    reply = network.call("PUT", nic_id(), {"location": "westeurope", "properties": properties})
    assert reply.status == 400
    assert network.state.nics == {}


def test_a_name_that_comes_twice_is_told_in_the_details(network: NetworkLab) -> None:
    (detail,) = network.put(primary("a"), config("A")).body["error"]["details"]
    assert detail["code"] == "DuplicateResourceName"
    assert (
        detail["message"] == f"Resource {nic_id()} has two child resources with the same name (a)."
    )


def test_a_taken_address_is_refused_with_the_name_of_its_holder(network: NetworkLab) -> None:
    network.put(primary(), nic="holder")
    refused = network.put(primary(), static("s", "10.0.1.4"))
    assert refused.message == (
        f"IP configuration {nic_id()}/ipConfigurations/s is using the private IP address 10.0.1.4 "
        f"which is already allocated to resource {nic_id('holder')}/ipConfigurations/ipconfig1."
    )


def test_the_only_address_is_primary_without_saying_so(network: NetworkLab) -> None:
    got = network.put(config("only"), block("b")).configs
    assert [(row["name"], row["primary"]) for row in got] == [("only", True), ("b", False)]


@pytest.mark.parametrize(
    "rows",
    [
        [primary("renamed")],
        [config("other", primary=True)],
        [config("ipconfig1"), config("a", primary=True)],
    ],
    ids=["renamed", "deleted", "another-one-primary"],
)
def test_the_primary_configuration_is_neither_deleted_nor_renamed(
    network: NetworkLab, rows: list[Json]
) -> None:
    network.put(primary(), config("a"))
    assert network.put(*rows).refusal == (400, "IpConfigDeleteNotSupported")


def test_a_secondary_nic_in_use_does_not_change_its_subnet(network: NetworkLab) -> None:
    network.put(primary())
    network.attach(index=1)
    refused = network.put(primary(subnet=OTHER))
    assert refused.refusal == (400, "SecondaryNetworkInterfaceInUseCannotChangeSubnet")


def test_a_free_nic_changes_its_subnet_and_its_addresses(network: NetworkLab) -> None:
    network.put(primary(), block("b"))
    moved = network.put(primary(subnet=OTHER), block("b", subnet=OTHER))
    assert moved.addresses == {"ipconfig1": "10.0.3.4", "b": "10.0.3.16/28"}
    assert network.usage(PODS) == (0, 251)


def test_a_vnet_holds_65536_addresses_and_a_block_counts_one(network: NetworkLab) -> None:
    big = VNET.replace("vnet1", "big")
    network.state.add_vnet(big, ("10.64.0.0/14",), {"pods": "10.64.0.0/14"})
    pods = f"{big}/subnets/pods"
    network.outsiders.take(pods, 65_534)
    assert network.put(primary(subnet=pods), block("b", subnet=pods)).status == 201
    refused = network.put(primary(subnet=pods), block("b", subnet=pods), block("c", subnet=pods))
    assert refused.refusal == (400, "VirtualNetworkPrivateIPAddressLimitExceeded")


def test_a_block_that_is_held_counts_as_set_too(network: NetworkLab) -> None:
    network.set(vnet_limit=18, counts_blocks_once=False)
    assert network.put(primary(), block("b")).status == 201
    refused = network.put(primary(), block("b"), config("c"), config("d"))
    assert refused.refusal == (400, "VirtualNetworkPrivateIPAddressLimitExceeded")
    assert network.put(primary(), block("b"), config("c")).status == 200


def test_a_block_may_count_sixteen_of_the_vnets_limit(network: NetworkLab) -> None:
    network.set(vnet_limit=16, counts_blocks_once=False)
    refused = network.put(primary(), block("b"))
    assert refused.refusal == (400, "VirtualNetworkPrivateIPAddressLimitExceeded")
    network.set(counts_blocks_once=True)
    assert network.put(primary(), block("b")).status == 201


def held(network: NetworkLab) -> Counter[str]:
    """Every address that some NIC has, blocks spelt out."""
    cidrs = (
        IPv4Network(address)
        for nic in ("nic1", "nic2")
        if network.get(nic_id(nic)).status == 200
        for address in network.get(nic_id(nic)).addresses.values()
    )
    return Counter(str(address) for cidr in cidrs for address in cidr)


rows_of_a_body = st.lists(
    st.tuples(st.sampled_from("abcdefgh"), st.booleans()),
    max_size=8,
    unique_by=lambda row: row[0],
)


@given(writes=st.lists(st.tuples(st.sampled_from(["nic1", "nic2"]), rows_of_a_body), max_size=12))
def test_no_address_has_two_owners_and_the_count_is_exact(
    writes: list[tuple[str, list[tuple[str, bool]]]],
) -> None:
    network = NetworkLab()
    network.set(usage_of_block=16)
    network.outsiders.leave_free(PODS, 64)
    others = network.usage()[0]
    for nic, rows in writes:
        given_rows = [block(name) if is_block else config(name) for name, is_block in rows]
        network.put(primary(), *given_rows, nic=nic)
        now = held(network)
        assert set(now.values()) <= {1}
        assert network.usage()[0] == others + now.total()
        assert network.free() == 251 - others - now.total()
