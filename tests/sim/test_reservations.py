"""Subnet CIDR reservations."""

from __future__ import annotations

from typing import Any

import pytest

from tests.sim.lab import Lab, refused


def _reserve(lab: Lab, cidr: str, kind: str = "prefix", **params: Any) -> dict[str, Any]:
    answer = lab.ec2.create_subnet_cidr_reservation(
        SubnetId=lab.subnet_id, Cidr=cidr, ReservationType=kind, **params
    )
    made: dict[str, Any] = answer["SubnetCidrReservation"]
    return made


def _listed(lab: Lab, **params: Any) -> list[str]:
    found = lab.ec2.get_subnet_cidr_reservations(SubnetId=lab.subnet_id, **params)
    both = found["SubnetIpv4CidrReservations"] + found["SubnetIpv6CidrReservations"]
    return sorted(one["Cidr"] for one in both)


def test_a_reservation_can_be_made_listed_and_deleted(lab: Lab) -> None:
    tags = [{"ResourceType": "subnet-cidr-reservation", "Tags": [{"Key": "k", "Value": "v"}]}]
    made = _reserve(lab, "10.0.1.64/26", Description="pods", TagSpecifications=tags)
    shown = lab.ec2.get_subnet_cidr_reservations(SubnetId=lab.subnet_id)
    gone = lab.ec2.delete_subnet_cidr_reservation(
        SubnetCidrReservationId=made["SubnetCidrReservationId"]
    )
    assert shown["SubnetIpv4CidrReservations"] == [made]
    assert {name: made[name] for name in ("Cidr", "ReservationType", "Description", "Tags")} == {
        "Cidr": "10.0.1.64/26",
        "ReservationType": "prefix",
        "Description": "pods",
        "Tags": [{"Key": "k", "Value": "v"}],
    }
    assert (gone["DeletedSubnetCidrReservation"]["Cidr"], _listed(lab)) == ("10.0.1.64/26", [])


@pytest.mark.parametrize("kind", ["prefix", "explicit"])
def test_automatic_addresses_step_around_a_reservation(lab: Lab, kind: str) -> None:
    _reserve(lab, "10.0.1.0/29", kind)
    assert lab.addresses(lab.eni(secondaries=1)) == ["10.0.1.8", "10.0.1.9"]


def test_prefixes_come_from_prefix_reservations_first(lab: Lab) -> None:
    _reserve(lab, "10.0.1.128/27")
    assert lab.prefixes(lab.eni(Ipv4PrefixCount=3)) == [
        "10.0.1.128/28",
        "10.0.1.144/28",
        "10.0.1.16/28",
    ]


def test_no_automatic_prefix_comes_from_an_explicit_reservation(lab: Lab) -> None:
    _reserve(lab, "10.0.1.0/25", "explicit")
    assert lab.prefixes(lab.eni(Ipv4PrefixCount=1)) == ["10.0.1.128/28"]


def test_named_addresses_and_prefixes_may_lie_in_an_explicit_reservation(lab: Lab) -> None:
    _reserve(lab, "10.0.1.64/26", "explicit")
    eni = lab.eni(PrivateIpAddress="10.0.1.70", Ipv4Prefixes=[{"Ipv4Prefix": "10.0.1.80/28"}])
    assert (lab.addresses(eni), lab.prefixes(eni)) == (["10.0.1.70"], ["10.0.1.80/28"])


def test_a_prefix_reservation_leaves_the_free_count_at_once(lab: Lab) -> None:
    made = _reserve(lab, "10.0.1.64/26")
    reserved = lab.free()
    lab.eni(Ipv4PrefixCount=1)
    used = lab.free()
    lab.ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=made["SubnetCidrReservationId"])
    assert (reserved, used, lab.free()) == (251 - 64, 251 - 64 - 1, 251 - 17)


def test_an_explicit_reservation_does_not_change_the_free_count(lab: Lab) -> None:
    _reserve(lab, "10.0.1.64/26", "explicit")
    assert lab.free() == 251


def test_a_reservation_may_hold_addresses_in_use_and_they_stay(lab: Lab) -> None:
    eni = lab.eni(PrivateIpAddress="10.0.1.65", Ipv4Prefixes=[{"Ipv4Prefix": "10.0.1.80/28"}])
    _reserve(lab, "10.0.1.64/26")
    assert lab.prefixes(lab.eni(Ipv4PrefixCount=1)) == ["10.0.1.96/28"]
    assert (lab.addresses(eni), lab.prefixes(eni)) == (["10.0.1.65"], ["10.0.1.80/28"])


def test_what_a_deleted_reservation_held_is_given_again(lab: Lab) -> None:
    made = _reserve(lab, "10.0.1.0/29", "explicit")
    lab.eni()
    lab.ec2.delete_subnet_cidr_reservation(SubnetCidrReservationId=made["SubnetCidrReservationId"])
    assert lab.addresses(lab.eni()) == ["10.0.1.4"]


def test_a_subnet_whose_rest_is_reserved_is_full_for_single_addresses(lab: Lab) -> None:
    _reserve(lab, "10.0.1.0/24", "explicit")
    assert refused(lab.eni) == "InsufficientFreeAddressesInSubnet"


def test_an_ipv6_reservation_serves_prefixes(lab: Lab) -> None:
    lab.give_v6()
    _reserve(lab, "2001:db8:0:101:a::/80")
    _reserve(lab, "2001:db8:0:101:1::/80", "explicit")
    assert _listed(lab) == ["2001:db8:0:101:1::/80", "2001:db8:0:101:a::/80"]
    assert lab.prefixes_v6(lab.eni(Ipv6PrefixCount=1)) == ["2001:db8:0:101:a::/80"]
    assert lab.prefixes_v6(lab.eni(Ipv6PrefixCount=1)) == ["2001:db8:0:101:2::/80"]


def test_reservations_can_be_filtered(lab: Lab) -> None:
    _reserve(lab, "10.0.1.64/26")
    _reserve(lab, "10.0.1.128/26", "explicit")
    explicit = [{"Name": "reservationType", "Values": ["explicit"]}]
    assert _listed(lab, Filters=explicit) == ["10.0.1.128/26"]
    strange = [{"Name": "colour", "Values": ["red"]}]
    assert refused(lambda: _listed(lab, Filters=strange)) == "InvalidParameterValue"


@pytest.mark.parametrize(
    ("cidr", "kind"),
    [
        ("10.0.1.64/26", "prefix"),
        ("10.0.1.96/27", "explicit"),
        ("10.0.2.0/28", "prefix"),
        ("2001:db8::/80", "prefix"),
        ("10.0.1.1/28", "prefix"),
        ("ten", "prefix"),
        ("10.0.1.128/28", "loose"),
    ],
    ids=["twice", "overlap", "outside", "no IPv6 block", "not aligned", "no block", "no type"],
)
def test_a_reservation_that_cannot_be_is_refused(lab: Lab, cidr: str, kind: str) -> None:
    _reserve(lab, "10.0.1.64/26")
    assert refused(lambda: _reserve(lab, cidr, kind)) == "InvalidParameterValue"
    assert _listed(lab) == ["10.0.1.64/26"]


def test_an_absent_reservation_has_a_code_of_its_own(lab: Lab) -> None:
    delete = lab.ec2.delete_subnet_cidr_reservation
    code = refused(lambda: delete(SubnetCidrReservationId="scr-0"))
    assert code == "InvalidSubnetCidrReservationID.NotFound"
