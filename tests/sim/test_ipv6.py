"""IPv6 addresses and /80 prefixes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.lab import Lab, refused

NET = "2001:db8:0:101"


@pytest.fixture
def dual(lab: Lab) -> Lab:
    """The lab whose /24 has an IPv6 block too."""
    lab.give_v6()
    return lab


def _assign(lab: Lab, eni: str, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = lab.ec2.assign_ipv6_addresses(NetworkInterfaceId=eni, **params)
    return answer


def test_a_subnet_and_its_vpc_show_their_blocks(dual: Lab) -> None:
    subnet = dual.ec2.describe_subnets(SubnetIds=[dual.subnet_id])["Subnets"][0]
    vpc = dual.ec2.describe_vpcs(VpcIds=[dual.vpc_id])["Vpcs"][0]
    assert [
        (one["Ipv6CidrBlock"], one["Ipv6CidrBlockState"])
        for one in subnet["Ipv6CidrBlockAssociationSet"]
    ] == [(f"{NET}::/64", {"State": "associated"})]
    assert [one["Ipv6CidrBlock"] for one in vpc["Ipv6CidrBlockAssociationSet"]] == [
        "2001:db8:0:100::/56"
    ]


def test_create_takes_counted_addresses_above_the_reserved_ones(dual: Lab) -> None:
    eni = dual.eni(Ipv6AddressCount=2)
    assert dual.addresses_v6(eni) == [f"{NET}::4", f"{NET}::5"]


def test_create_takes_a_counted_prefix(dual: Lab) -> None:
    assert dual.prefixes_v6(dual.eni(Ipv6PrefixCount=1)) == [f"{NET}:1::/80"]


def test_both_families_can_be_asked_at_once(dual: Lab) -> None:
    eni = dual.eni(Ipv4PrefixCount=1, Ipv6PrefixCount=1)
    assert (dual.prefixes(eni), dual.prefixes_v6(eni)) == (["10.0.1.16/28"], [f"{NET}:1::/80"])


def test_assign_answers_with_what_is_new_only(dual: Lab) -> None:
    eni = dual.eni(Ipv6AddressCount=1)
    addresses = _assign(dual, eni, Ipv6AddressCount=1)
    prefixes = _assign(dual, eni, Ipv6PrefixCount=1)
    assert (addresses["AssignedIpv6Addresses"], addresses["AssignedIpv6Prefixes"]) == (
        [f"{NET}::5"],
        [],
    )
    assert prefixes["AssignedIpv6Prefixes"] == [f"{NET}:1::/80"]


def test_assign_takes_named_ones(dual: Lab) -> None:
    eni = dual.eni()
    _assign(dual, eni, Ipv6Addresses=[f"{NET}::99"])
    _assign(dual, eni, Ipv6Prefixes=[f"{NET}:7::/80"])
    assert (dual.addresses_v6(eni), dual.prefixes_v6(eni)) == ([f"{NET}::99"], [f"{NET}:7::/80"])


def test_an_interface_is_found_by_its_ipv6_address(dual: Lab) -> None:
    eni, _other = dual.eni(Ipv6AddressCount=1), dual.eni(Ipv6AddressCount=1)
    wanted = [{"Name": "ipv6-addresses.ipv6-address", "Values": [f"{NET}::4"]}]
    found = dual.ec2.describe_network_interfaces(Filters=wanted)["NetworkInterfaces"]
    assert [one["NetworkInterfaceId"] for one in found] == [eni]


def test_unassign_gives_back_and_answers_with_what_is_gone(dual: Lab) -> None:
    eni = dual.eni(Ipv6PrefixCount=1)
    gone = dual.ec2.unassign_ipv6_addresses(NetworkInterfaceId=eni, Ipv6Prefixes=[f"{NET}:1::/80"])
    assert (gone["UnassignedIpv6Prefixes"], dual.prefixes_v6(eni)) == ([f"{NET}:1::/80"], [])
    assert dual.prefixes_v6(dual.eni(Ipv6PrefixCount=1)) == [f"{NET}:1::/80"]


def test_unassign_refuses_what_is_absent(dual: Lab) -> None:
    eni = dual.eni(Ipv6AddressCount=1)
    code = refused(
        lambda: dual.ec2.unassign_ipv6_addresses(
            NetworkInterfaceId=eni, Ipv6Addresses=[f"{NET}::4", f"{NET}::5"]
        )
    )
    assert (code, dual.addresses_v6(eni)) == ("InvalidParameterValue", [f"{NET}::4"])


def test_a_deleted_eni_gives_its_ipv6_back(dual: Lab) -> None:
    eni = dual.eni(Ipv6AddressCount=1)
    dual.ec2.delete_network_interface(NetworkInterfaceId=eni)
    assert dual.addresses_v6(dual.eni(Ipv6AddressCount=1)) == [f"{NET}::4"]


@pytest.mark.parametrize(
    "asked",
    [
        {"Ipv6AddressCount": 1, "Ipv6PrefixCount": 1},
        {"Ipv6PrefixCount": 1, "Ipv6Prefixes": [{"Ipv6Prefix": f"{NET}:7::/80"}]},
        {"Ipv6PrefixCount": 1, "Ipv6Addresses": [{"Ipv6Address": f"{NET}::9"}]},
    ],
    ids=["counts", "prefixes", "addresses and prefixes"],
)
def test_only_one_ipv6_wish_can_be_made(dual: Lab, asked: dict[str, Any]) -> None:
    assert refused(lambda: dual.eni(**asked)) == "InvalidParameterValue"


@pytest.mark.parametrize(
    "asked",
    [
        {"Ipv6Prefixes": [{"Ipv6Prefix": f"{NET}:7::/96"}]},
        {"Ipv6Prefixes": [{"Ipv6Prefix": f"{NET}:7::1/80"}]},
        {"Ipv6Prefixes": [{"Ipv6Prefix": f"{NET}::/80"}]},
        {"Ipv6Prefixes": [{"Ipv6Prefix": "2001:db8:0:102:7::/80"}]},
        {"Ipv6Addresses": [{"Ipv6Address": f"{NET}::3"}]},
        {"Ipv6Addresses": [{"Ipv6Address": "10.0.1.9"}]},
    ],
    ids=["not a /80", "not aligned", "with the router", "outside", "reserved", "IPv4"],
)
def test_an_ipv6_wish_that_cannot_be_is_refused(dual: Lab, asked: dict[str, Any]) -> None:
    assert refused(lambda: dual.eni(**asked)) == "InvalidParameterValue"


@pytest.mark.parametrize("asked", [{"Ipv6AddressCount": 1}, {"Ipv6PrefixCount": 1}], ids=str)
def test_a_subnet_without_a_block_has_no_ipv6(lab: Lab, asked: dict[str, Any]) -> None:
    before = lab.free()
    assert refused(lambda: lab.eni(**asked)) == "InvalidParameterValue"
    assert lab.free() == before


def test_a_refused_ipv4_wish_takes_no_ipv6(dual: Lab) -> None:
    dual.eni(secondaries=60)
    for _ in range(3):
        dual.eni(secondaries=60)
    refused(lambda: dual.eni(secondaries=60, Ipv6AddressCount=1))
    assert dual.addresses_v6(dual.eni(Ipv6AddressCount=1)) == [f"{NET}::4"]


def test_ipv6_has_slots_of_its_own(dual: Lab) -> None:
    eni = dual.eni(secondaries=9, Ipv6AddressCount=9)
    dual.attach(eni, dual.node())
    _assign(dual, eni, Ipv6PrefixCount=1)
    code = refused(lambda: _assign(dual, eni, Ipv6PrefixCount=1))
    assert (code, len(dual.addresses_v6(eni)), len(dual.prefixes_v6(eni))) == (
        "PrivateIpAddressLimitExceeded",
        9,
        1,
    )


def test_a_type_without_ipv6_takes_none(dual: Lab) -> None:
    eni, node = dual.eni(Ipv6AddressCount=1), dual.node("m3.medium")
    assert refused(lambda: dual.attach(eni, node)) == "PrivateIpAddressLimitExceeded"


def test_a_subnet_can_give_each_new_eni_an_address(dual: Lab) -> None:
    dual.ec2.modify_subnet_attribute(
        SubnetId=dual.subnet_id, AssignIpv6AddressOnCreation={"Value": True}
    )
    by_default, prefix_only, none = (
        dual.eni(),
        dual.eni(Ipv6PrefixCount=1),
        dual.eni(Ipv6AddressCount=0),
    )
    assert [len(dual.addresses_v6(eni)) for eni in (by_default, prefix_only, none)] == [1, 0, 0]


def test_a_launch_takes_ipv6_for_its_instance_and_by_interface(dual: Lab) -> None:
    first = dual.node(Ipv6AddressCount=1)
    second = dual.node(
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": dual.subnet_id, "Ipv6PrefixCount": 1}]
    )
    assert (dual.primary(first)["Ipv6Addresses"], dual.primary(second)["Ipv6Prefixes"]) == (
        [{"Ipv6Address": f"{NET}::4"}],
        [{"Ipv6Prefix": f"{NET}:1::/80"}],
    )


def test_the_wire_learns_of_ipv6(dual: Lab) -> None:
    eni, listener = dual.wired()
    _assign(dual, eni, Ipv6PrefixCount=1)
    _assign(dual, eni, Ipv6AddressCount=1)
    assert listener.events[-1] == (
        "readdress",
        eni,
        ("10.0.1.4", f"{NET}:1::/80", f"{NET}::4"),
    )
