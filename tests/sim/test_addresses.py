"""Which addresses the emulated EC2 gives, counts and refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.sim.lab import Lab, ec2_client, refused


def test_the_lowest_free_address_goes_first(lab: Lab) -> None:
    assert lab.addresses(lab.eni(secondaries=2)) == ["10.0.1.4", "10.0.1.5", "10.0.1.6"]


def test_a_full_subnet_has_given_every_address_but_the_five_reserved(lab: Lab) -> None:
    eni = lab.eni(secondaries=10, subnet_id=lab.small_subnet_id)
    assert set(lab.addresses(eni)) == {f"10.0.2.{n}" for n in range(4, 15)}


def test_the_free_count_follows_every_change(lab: Lab) -> None:
    counts = [lab.free()]
    eni = lab.eni(secondaries=3)
    counts.append(lab.free())
    lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=2)
    counts.append(lab.free())
    gone = lab.addresses(eni)[1]
    lab.ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=[gone])
    counts.append(lab.free())
    lab.ec2.delete_network_interface(NetworkInterfaceId=eni)
    counts.append(lab.free())
    assert counts == [251, 247, 245, 246, 251]


def test_a_launch_takes_its_address_from_the_same_book(lab: Lab) -> None:
    eni = lab.eni()
    node = lab.node()
    assert [lab.addresses(eni)[0], lab.primary(node)["PrivateIpAddress"], lab.free()] == [
        "10.0.1.4",
        "10.0.1.5",
        249,
    ]


def test_create_refuses_an_address_in_use(lab: Lab) -> None:
    lab.eni(PrivateIpAddress="10.0.1.9")
    assert refused(lambda: lab.eni(PrivateIpAddress="10.0.1.9")) == "InvalidIPAddress.InUse"


@pytest.mark.parametrize("last", [0, 1, 2, 3, 255])
def test_create_refuses_a_reserved_address(lab: Lab, last: int) -> None:
    code = refused(lambda: lab.eni(PrivateIpAddress=f"10.0.1.{last}"))
    assert code == "InvalidParameterValue"


def test_create_refuses_an_address_outside_the_subnet(lab: Lab) -> None:
    assert refused(lambda: lab.eni(PrivateIpAddress="10.0.9.9")) == "InvalidParameterValue"


def test_create_refuses_text_that_is_no_address(lab: Lab) -> None:
    assert refused(lambda: lab.eni(PrivateIpAddress="ten")) == "InvalidParameterValue"


def test_create_takes_named_addresses(lab: Lab) -> None:
    listed = [
        {"PrivateIpAddress": "10.0.1.50", "Primary": True},
        {"PrivateIpAddress": "10.0.1.40", "Primary": False},
    ]
    assert lab.addresses(lab.eni(PrivateIpAddresses=listed)) == ["10.0.1.50", "10.0.1.40"]


def test_counted_addresses_step_aside_for_the_named_primary(lab: Lab) -> None:
    eni = lab.eni(secondaries=1, PrivateIpAddress="10.0.1.4")
    assert lab.addresses(eni) == ["10.0.1.4", "10.0.1.5"]


def test_create_refuses_two_primary_addresses(lab: Lab) -> None:
    listed = [{"PrivateIpAddress": "10.0.1.50", "Primary": True}]
    code = refused(lambda: lab.eni(PrivateIpAddress="10.0.1.51", PrivateIpAddresses=listed))
    assert code == "InvalidParameterCombination"


def test_a_full_subnet_refuses_and_takes_nothing(lab: Lab) -> None:
    eni = lab.eni(secondaries=8, subnet_id=lab.small_subnet_id)
    code = refused(
        lambda: lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=3
        )
    )
    assert (code, lab.free(lab.small_subnet_id)) == ("InsufficientFreeAddressesInSubnet", 2)


def test_create_in_a_full_subnet_is_refused_and_takes_nothing(lab: Lab) -> None:
    code = refused(lambda: lab.eni(secondaries=11, subnet_id=lab.small_subnet_id))
    assert (code, lab.free(lab.small_subnet_id)) == ("InsufficientFreeAddressesInSubnet", 11)


def test_assign_answers_with_the_new_addresses_only(lab: Lab) -> None:
    eni = lab.eni(secondaries=1)
    answer = lab.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=2
    )
    assert [one["PrivateIpAddress"] for one in answer["AssignedPrivateIpAddresses"]] == [
        "10.0.1.6",
        "10.0.1.7",
    ]


def test_assign_takes_a_named_address(lab: Lab) -> None:
    eni = lab.eni()
    lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=["10.0.1.77"])
    assert lab.addresses(eni) == ["10.0.1.4", "10.0.1.77"]


def test_assign_refuses_another_enis_address(lab: Lab) -> None:
    taken = lab.addresses(lab.eni(secondaries=1))[1]
    eni = lab.eni()
    code = refused(
        lambda: lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni, PrivateIpAddresses=[taken]
        )
    )
    assert code == "InvalidParameterValue"


def test_assign_with_allow_reassignment_moves_an_address(lab: Lab) -> None:
    first, second = lab.eni(secondaries=1), lab.eni()
    moved = lab.addresses(first)[1]
    lab.ec2.assign_private_ip_addresses(
        NetworkInterfaceId=second, PrivateIpAddresses=[moved], AllowReassignment=True
    )
    assert (lab.addresses(first), lab.addresses(second)[1:]) == (["10.0.1.4"], [moved])


def test_assign_refuses_both_names_and_a_number(lab: Lab) -> None:
    eni = lab.eni()
    code = refused(
        lambda: lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni,
            PrivateIpAddresses=["10.0.1.77"],
            SecondaryPrivateIpAddressCount=1,
        )
    )
    assert code == "InvalidParameterCombination"


def test_assign_of_nothing_is_refused(lab: Lab) -> None:
    eni = lab.eni()
    code = refused(lambda: lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni))
    assert code == "MissingParameter"


def test_an_eni_holds_no_more_addresses_than_its_machines_type_allows(lab: Lab) -> None:
    eni = lab.eni(secondaries=8)
    lab.attach(eni, lab.node("m5.large"))
    lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1)
    code = refused(
        lambda: lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1
        )
    )
    assert (code, len(lab.addresses(eni))) == ("PrivateIpAddressLimitExceeded", 10)


def test_an_eni_with_more_addresses_than_the_type_allows_cannot_be_attached(lab: Lab) -> None:
    eni, node = lab.eni(secondaries=10), lab.node("m5.large")
    assert refused(lambda: lab.attach(eni, node)) == "PrivateIpAddressLimitExceeded"


def test_an_unattached_eni_has_a_limit_too(lab: Lab) -> None:
    assert refused(lambda: lab.eni(secondaries=64)) == "PrivateIpAddressLimitExceeded"


def test_unassign_refuses_the_primary_address(lab: Lab) -> None:
    eni = lab.eni(secondaries=1)
    code = refused(
        lambda: lab.ec2.unassign_private_ip_addresses(
            NetworkInterfaceId=eni, PrivateIpAddresses=["10.0.1.5", "10.0.1.4"]
        )
    )
    assert (code, len(lab.addresses(eni))) == ("InvalidParameterValue", 2)


def test_unassign_refuses_an_absent_address_and_keeps_the_others(lab: Lab) -> None:
    eni = lab.eni(secondaries=1)
    code = refused(
        lambda: lab.ec2.unassign_private_ip_addresses(
            NetworkInterfaceId=eni, PrivateIpAddresses=["10.0.1.5", "10.0.1.99"]
        )
    )
    assert (code, len(lab.addresses(eni))) == ("InvalidParameterValue", 2)


def test_what_is_not_emulated_is_refused_by_name(lab: Lab) -> None:
    assert refused(lambda: lab.eni(EnablePrimaryIpv6=True)) == "UnsupportedOperation"


def test_clients_at_the_same_time_get_different_addresses(lab: Lab) -> None:
    clients = [ec2_client(lab.url) for _ in range(4)]

    def create_five(client: Any) -> list[str]:
        made = [client.create_network_interface(SubnetId=lab.subnet_id) for _ in range(5)]
        return [one["NetworkInterface"]["PrivateIpAddress"] for one in made]

    with ThreadPoolExecutor(4) as pool:
        given = [address for some in pool.map(create_five, clients) for address in some]
    for client in clients:
        client.close()
    assert (len(set(given)), lab.free()) == (20, 231)
