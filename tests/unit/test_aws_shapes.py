from __future__ import annotations

import copy
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.cloud import AddressOutcome, CloudEni, EniStatus, NodeLimits
from ipamd.errors import Transient
from ipamd.model import EniId, SubnetId
from providers.aws import shapes
from providers.aws.client import understood

FACTS = shapes.SubnetFacts(
    subnet_id=SubnetId("subnet-1"),
    cidr=IPv4Network("10.0.0.0/24"),
    cidr_v6=IPv6Network("2001:db8::/64"),
    free_addresses=7,
    tags={},
)

RAW: dict[str, Any] = {
    "NetworkInterfaceId": "eni-1",
    "MacAddress": "02:AB:00:00:00:01",
    "SubnetId": "subnet-1",
    "PrivateIpAddress": "10.0.0.5",
    "PrivateIpAddresses": [
        {"PrivateIpAddress": "10.0.0.5", "Primary": True},
        {"PrivateIpAddress": "10.0.0.6", "Primary": False},
    ],
    "Ipv4Prefixes": [{"Ipv4Prefix": "10.0.0.16/28"}],
    "Ipv6Prefixes": [{"Ipv6Prefix": "2001:db8:0:0:1::/80"}],
    "Ipv6Addresses": [
        {"Ipv6Address": "2001:db8::5"},
        {"Ipv6Address": "2001:db8::6", "IsPrimaryIpv6": True},
    ],
    "Attachment": {"Status": "attached", "DeviceIndex": 1, "NetworkCardIndex": 0},
    "InterfaceType": "interface",
    "TagSet": [{"Key": "a", "Value": "b"}],
    "Status": "in-use",
}


def eni(**changes: Any) -> CloudEni:
    raw = {**copy.deepcopy(RAW), **changes}
    return shapes.eni(raw, FACTS, instance_id="i-1", manages_untagged=True)


def attached(index: int, card: int) -> dict[str, Any]:
    return {"Status": "attached", "DeviceIndex": index, "NetworkCardIndex": card}


def test_an_eni_with_everything() -> None:
    assert eni() == CloudEni(
        eni_id=EniId("eni-1"),
        mac="02:ab:00:00:00:01",
        status=EniStatus.ATTACHED,
        subnet_id=SubnetId("subnet-1"),
        subnet_cidr=FACTS.cidr,
        primary_address=IPv4Address("10.0.0.5"),
        addresses=(IPv4Address("10.0.0.6"),),
        device_index=1,
        network_card=0,
        is_primary=False,
        is_managed=True,
        prefixes=(IPv4Network("10.0.0.16/28"), IPv6Network("2001:db8:0:0:1::/80")),
        subnet_cidr_v6=FACTS.cidr_v6,
        primary_address_v6=IPv6Address("2001:db8::6"),
    )


@pytest.mark.parametrize(
    ("index", "card", "is_primary"), [(0, 0, True), (1, 0, False), (0, 1, False)]
)
def test_the_primary_is_index_0_of_card_0(index: int, card: int, is_primary: bool) -> None:
    assert eni(Attachment=attached(index, card)).is_primary is is_primary


def test_an_unattached_eni_has_no_index() -> None:
    shown = eni(Attachment=None)
    assert (shown.status, shown.device_index, shown.is_primary) == (EniStatus.AVAILABLE, -1, False)


def test_the_first_v6_address_counts_where_none_is_marked() -> None:
    assert eni(Ipv6Addresses=[{"Ipv6Address": "2001:db8::5"}]).primary_address_v6 == IPv6Address(
        "2001:db8::5"
    )
    assert eni(Ipv6Addresses=[]).primary_address_v6 is None


@pytest.mark.parametrize("kind", ["trunk", "efa", "efa-only", "branch"])
def test_special_interfaces_are_shown_and_not_managed(kind: str) -> None:
    shown = eni(InterfaceType=kind)
    assert (shown.interface_type, shown.is_managed) == (kind, False)


def test_an_eni_without_ipv4_is_shown_and_not_managed() -> None:
    shown = eni(PrivateIpAddress=None, PrivateIpAddresses=[], InterfaceType="interface")
    assert (shown.is_managed, shown.addresses) == (False, ())
    assert shown.primary_address == shapes.NO_ADDRESS


CARDS = [
    {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 8},
    {"NetworkCardIndex": 1, "MaximumNetworkInterfaces": 7},
]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(
            {
                "Hypervisor": "nitro",
                "NetworkInfo": {"MaximumNetworkInterfaces": 3, "Ipv4AddressesPerInterface": 10},
            },
            NodeLimits(max_enis=3, addresses_per_eni=10, has_prefixes=True),
            id="no cards named",
        ),
        pytest.param(
            {
                "Hypervisor": "xen",
                "NetworkInfo": {
                    "MaximumNetworkInterfaces": 2,
                    "Ipv4AddressesPerInterface": 2,
                    "NetworkCards": [{"NetworkCardIndex": 0, "MaximumNetworkInterfaces": 2}],
                },
            },
            NodeLimits(max_enis=2, addresses_per_eni=2),
            id="xen has no prefixes",
        ),
        pytest.param(
            {
                "BareMetal": True,
                "NetworkInfo": {
                    "MaximumNetworkInterfaces": 15,
                    "Ipv4AddressesPerInterface": 50,
                    "DefaultNetworkCardIndex": 1,
                    "NetworkCards": CARDS,
                },
            },
            NodeLimits(
                max_enis=7,
                addresses_per_eni=50,
                has_prefixes=True,
                default_card=1,
                card_enis=(8, 7),
            ),
            id="bare metal, two cards, the second is the default",
        ),
    ],
)
def test_the_limits_of_a_type(raw: dict[str, Any], expected: NodeLimits) -> None:
    assert shapes.limits(raw) == expected


def test_a_subnet_shows_its_associated_v6_block_only() -> None:
    blocks = [
        {"Ipv6CidrBlock": "2001:db8:1::/64", "Ipv6CidrBlockState": {"State": "disassociated"}},
        {"Ipv6CidrBlock": "2001:db8:2::/64", "Ipv6CidrBlockState": {"State": "associated"}},
    ]
    facts = shapes.subnet_facts(
        {
            "SubnetId": "s",
            "CidrBlock": "10.0.0.0/24",
            "AvailableIpAddressCount": 3,
            "Ipv6CidrBlockAssociationSet": blocks,
        }
    )
    assert facts.cidr_v6 == IPv6Network("2001:db8:2::/64")


def test_a_subnet_without_ipv4_is_never_a_candidate() -> None:
    facts = shapes.subnet_facts({"SubnetId": "s", "AvailableIpAddressCount": 0})
    seen = shapes.subnet(facts, cluster_name="", primary_subnet_id=SubnetId("s"), discovers=True)
    assert not seen.is_candidate


def test_a_description_of_somebody_else_is_no_orphan() -> None:
    tags = [{"Key": "node.k8s.amazonaws.com/instance_id", "Value": "i-2"}]
    raw = {"NetworkInterfaceId": "eni-1", "TagSet": tags}
    assert shapes.orphan({**raw, "Description": "aws-K8S-i-2"}) is not None
    assert shapes.orphan({**raw, "Description": "a database"}) is None
    assert shapes.orphan(raw) is None


def paths(node: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a nest of dicts and lists."""
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    found = []
    for key, value in inner:
        found.append((*path, key))
        if isinstance(value, dict | list):
            found += paths(value, (*path, key))
    return found


# botocore makes texts, lists and dicts of XML; a number only where the model says so.
JUNK: st.SearchStrategy[Any] = st.text(max_size=8) | st.sampled_from(
    [None, [], {}, "10.0.0.0/33", "fe80::1", "999.0.0.1", [None], [{}], {"Status": "lost"}]
)


SUBNET_RAW: dict[str, Any] = {
    "SubnetId": "subnet-1",
    "CidrBlock": "10.0.0.0/24",
    "AvailableIpAddressCount": 3,
    "Tags": [{"Key": "a", "Value": "b"}],
    "Ipv6CidrBlockAssociationSet": [
        {"Ipv6CidrBlock": "2001:db8::/64", "Ipv6CidrBlockState": {"State": "associated"}}
    ],
}
TYPE_RAW: dict[str, Any] = {
    "Hypervisor": "nitro",
    "NetworkInfo": {
        "MaximumNetworkInterfaces": 8,
        "Ipv4AddressesPerInterface": 50,
        "DefaultNetworkCardIndex": 0,
        "NetworkCards": CARDS,
    },
}
ORPHAN_RAW: dict[str, Any] = {
    "NetworkInterfaceId": "eni-1",
    "Description": "aws-K8S-i-2",
    "TagSet": [
        {"Key": "node.k8s.amazonaws.com/instance_id", "Value": "i-2"},
        {"Key": "node.k8s.amazonaws.com/createdAt", "Value": "2026-01-01T00:00:00Z"},
    ],
}


def read_eni(raw: dict[str, Any]) -> CloudEni:
    return shapes.eni(raw, FACTS, instance_id="i-1", manages_untagged=True)


def read_assigned(raw: dict[str, Any]) -> AddressOutcome:
    return shapes.outcome(EniId("eni-1"), [raw])


ANSWERS: list[tuple[Callable[[dict[str, Any]], object], dict[str, Any]]] = [
    (read_eni, RAW),
    (shapes.subnet_facts, SUBNET_RAW),
    (shapes.limits, TYPE_RAW),
    (shapes.orphan, ORPHAN_RAW),
    (read_assigned, {"AssignedPrivateIpAddresses": [{"PrivateIpAddress": "10.0.0.9"}]}),
    (read_assigned, {"AssignedIpv4Prefixes": [{"Ipv4Prefix": "10.0.0.16/28"}]}),
    (read_assigned, {"AssignedIpv6Prefixes": ["2001:db8:0:0:1::/80"]}),
]
PLACES = [(read, whole, path) for read, whole in ANSWERS for path in paths(whole)]


@given(st.sampled_from(PLACES), st.one_of(st.just("remove"), JUNK))
def test_whatever_is_odd_in_an_answer_is_understood_or_transient(
    where: tuple[Callable[[dict[str, Any]], object], dict[str, Any], tuple[Any, ...]], junk: Any
) -> None:
    read, whole, path = where
    raw = copy.deepcopy(whole)
    place: Any = raw
    for key in path[:-1]:
        place = place[key]
    if junk == "remove":
        del place[path[-1]]
    else:
        place[path[-1]] = junk
    try:
        understood("Api", read, raw)
    except Transient as e:
        said = str(e)
    else:
        said = ""
    assert said == "" or said.startswith("Api gave an answer that cannot be read")


@pytest.mark.parametrize(("read", "whole"), ANSWERS)
def test_a_whole_answer_is_understood(
    read: Callable[[dict[str, Any]], object], whole: dict[str, Any]
) -> None:
    assert understood("Api", read, whole) is not None


def test_an_odd_answer_says_what_was_seen() -> None:
    raw = {**RAW, "PrivateIpAddress": "10.0.0.999"}
    with pytest.raises(Transient, match=r"DescribeNetworkInterfaces gave .*10\.0\.0\.999"):
        understood("DescribeNetworkInterfaces", read_eni, raw)
