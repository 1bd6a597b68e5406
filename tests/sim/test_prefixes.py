"""/28 prefixes: slots, whole aligned blocks, and what EC2 says when there is none."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from botocore.exceptions import ClientError

from providers.sim.ec2_state import Delays
from tests.sim.lab import Lab, refused


def _assign(lab: Lab, eni: str, **params: Any) -> dict[str, Any]:
    answer: dict[str, Any] = lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, **params)
    return answer


def _attached(lab: Lab, instance_type: str = "m5.large", **params: Any) -> str:
    eni = lab.eni(**params)
    lab.attach(eni, lab.node(instance_type))
    return eni


def _strew(lab: Lab) -> None:
    """Leave no whole block in the /24: one address of every sixteen is taken."""
    for third in range(16, 240, 16):
        lab.eni(PrivateIpAddress=f"10.0.1.{third}")


def _message(call: Callable[[], Any]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    error = caught.value.response["Error"]
    return f"{error['Code']}: {error['Message']}"


def test_create_takes_as_many_prefixes_as_counted(lab: Lab) -> None:
    eni = lab.eni(Ipv4PrefixCount=2)
    assert (lab.addresses(eni), lab.prefixes(eni)) == (
        ["10.0.1.4"],
        ["10.0.1.16/28", "10.0.1.32/28"],
    )


def test_create_takes_named_prefixes(lab: Lab) -> None:
    eni = lab.eni(Ipv4Prefixes=[{"Ipv4Prefix": "10.0.1.64/28"}])
    assert lab.prefixes(eni) == ["10.0.1.64/28"]


def test_a_named_primary_goes_with_counted_prefixes(lab: Lab) -> None:
    eni = lab.eni(PrivateIpAddress="10.0.1.20", Ipv4PrefixCount=1)
    assert (lab.addresses(eni), lab.prefixes(eni)) == (["10.0.1.20"], ["10.0.1.32/28"])


def test_a_prefix_is_sixteen_addresses_in_the_free_count(lab: Lab) -> None:
    counts = [lab.free()]
    eni = lab.eni(Ipv4PrefixCount=2)
    counts.append(lab.free())
    lab.ec2.unassign_private_ip_addresses(NetworkInterfaceId=eni, Ipv4Prefixes=["10.0.1.16/28"])
    counts.append(lab.free())
    lab.ec2.delete_network_interface(NetworkInterfaceId=eni)
    assert [*counts, lab.free()] == [251, 218, 234, 251]


def test_assign_answers_with_the_new_prefixes_only(lab: Lab) -> None:
    eni = lab.eni(Ipv4PrefixCount=1)
    answer = _assign(lab, eni, Ipv4PrefixCount=2)
    assert answer["AssignedIpv4Prefixes"] == [
        {"Ipv4Prefix": "10.0.1.32/28"},
        {"Ipv4Prefix": "10.0.1.48/28"},
    ]
    assert answer["AssignedPrivateIpAddresses"] == []


def test_assign_takes_a_named_prefix(lab: Lab) -> None:
    eni = lab.eni()
    _assign(lab, eni, Ipv4Prefixes=["10.0.1.96/28"])
    assert lab.prefixes(eni) == ["10.0.1.96/28"]


def test_a_prefix_the_eni_has_already_is_not_assigned_again(lab: Lab) -> None:
    eni = lab.eni(Ipv4PrefixCount=1)
    answer = _assign(lab, eni, Ipv4Prefixes=["10.0.1.16/28"])
    assert (answer["AssignedIpv4Prefixes"], lab.prefixes(eni)) == ([], ["10.0.1.16/28"])


def test_an_instance_shows_its_prefixes(lab: Lab) -> None:
    node = lab.node(
        NetworkInterfaces=[{"DeviceIndex": 0, "SubnetId": lab.subnet_id, "Ipv4PrefixCount": 2}]
    )
    assert lab.primary(node)["Ipv4Prefixes"] == [
        {"Ipv4Prefix": "10.0.1.16/28"},
        {"Ipv4Prefix": "10.0.1.32/28"},
    ]


def test_what_has_no_prefix_shows_no_field(lab: Lab) -> None:
    assert "Ipv4Prefixes" not in lab.shown(lab.eni())


def test_each_prefix_uses_one_slot(lab: Lab) -> None:
    eni = _attached(lab, secondaries=4)
    code = refused(lambda: _assign(lab, eni, Ipv4PrefixCount=6))
    _assign(lab, eni, Ipv4PrefixCount=5)
    full = refused(lambda: _assign(lab, eni, SecondaryPrivateIpAddressCount=1))
    assert (code, full, len(lab.prefixes(eni))) == (
        "PrivateIpAddressLimitExceeded",
        "PrivateIpAddressLimitExceeded",
        5,
    )


def test_prefixes_count_as_slots_at_attach_too(lab: Lab) -> None:
    eni, node = lab.eni(Ipv4PrefixCount=10), lab.node("m5.large")
    assert refused(lambda: lab.attach(eni, node)) == "PrivateIpAddressLimitExceeded"


def test_prefixes_need_a_nitro_instance(lab: Lab) -> None:
    eni = _attached(lab, "m4.large")
    codes = [
        refused(lambda: _assign(lab, eni, Ipv4PrefixCount=1)),
        refused(lambda: lab.attach(lab.eni(Ipv4PrefixCount=1), lab.node("m4.large"))),
        refused(
            lambda: lab.node(
                "m4.large",
                NetworkInterfaces=[
                    {"DeviceIndex": 0, "SubnetId": lab.subnet_id, "Ipv4PrefixCount": 1}
                ],
            )
        ),
    ]
    assert codes == ["InvalidParameterCombination"] * 3


def test_a_bare_metal_instance_takes_prefixes(lab: Lab) -> None:
    eni = _attached(lab, "m5.metal")
    _assign(lab, eni, Ipv4PrefixCount=1)
    assert len(lab.prefixes(eni)) == 1


def test_no_whole_block_left_is_a_code_of_its_own_on_assign(lab: Lab) -> None:
    _strew(lab)
    eni = lab.eni()
    before = lab.free()
    code = refused(lambda: _assign(lab, eni, Ipv4PrefixCount=1))
    assert (code, lab.free(), before > 200) == ("InsufficientCidrBlocks", before, True)


def test_no_whole_block_left_is_a_code_of_its_own_on_create(lab: Lab) -> None:
    _strew(lab)
    before = lab.free()
    assert refused(lambda: lab.eni(Ipv4PrefixCount=1)) == "InsufficientCidrBlocks"
    assert lab.free() == before


def test_single_addresses_are_still_given_when_no_block_is_whole(lab: Lab) -> None:
    _strew(lab)
    eni = lab.eni()
    assert (
        len(_assign(lab, eni, SecondaryPrivateIpAddressCount=5)["AssignedPrivateIpAddresses"]) == 5
    )


def test_too_few_addresses_for_a_prefix_have_no_code_but_a_text(lab: Lab) -> None:
    small = lab.subnet("10.0.3.0/27")
    lab.eni(secondaries=10, subnet_id=small)
    wanted = "InvalidParameterValue: There aren't sufficient free Ipv4 addresses or prefixes"
    assert _message(lambda: lab.eni(subnet_id=small, Ipv4PrefixCount=1)) == wanted
    assert lab.free(small) == 16


def test_prefixes_are_given_all_or_none(lab: Lab) -> None:
    for third in range(32, 240, 16):
        lab.eni(PrivateIpAddress=f"10.0.1.{third}")
    eni = lab.eni()
    before = lab.free()
    assert refused(lambda: _assign(lab, eni, Ipv4PrefixCount=2)) == "InsufficientCidrBlocks"
    _assign(lab, eni, Ipv4PrefixCount=1)
    assert lab.free() == before - 16


@pytest.mark.parametrize(
    ("prefix", "code"),
    [
        ("10.0.1.8/28", "InvalidParameterValue"),
        ("10.0.1.32/27", "InvalidParameterValue"),
        ("10.0.9.16/28", "InvalidParameterValue"),
        ("10.0.1.0/28", "InvalidParameterValue"),
        ("10.0.1.240/28", "InvalidParameterValue"),
        ("10.0.1.16/28", "InvalidIPAddress.InUse"),
    ],
    ids=["not aligned", "not a /28", "outside", "with the router", "with the last", "in use"],
)
def test_a_prefix_that_cannot_be_is_refused(lab: Lab, prefix: str, code: str) -> None:
    lab.eni(PrivateIpAddress="10.0.1.20")
    assert refused(lambda: lab.eni(Ipv4Prefixes=[{"Ipv4Prefix": prefix}])) == code


def test_an_address_inside_a_prefix_is_in_use(lab: Lab) -> None:
    lab.eni(Ipv4PrefixCount=1)
    assert refused(lambda: lab.eni(PrivateIpAddress="10.0.1.20")) == "InvalidIPAddress.InUse"


@pytest.mark.parametrize(
    "more",
    [
        {"SecondaryPrivateIpAddressCount": 1},
        {"Ipv4Prefixes": [{"Ipv4Prefix": "10.0.1.64/28"}]},
        {"PrivateIpAddresses": [{"PrivateIpAddress": "10.0.1.9", "Primary": False}]},
    ],
    ids=lambda more: next(iter(more)),
)
def test_prefixes_and_secondary_addresses_exclude_each_other(
    lab: Lab, more: dict[str, Any]
) -> None:
    assert refused(lambda: lab.eni(Ipv4PrefixCount=1, **more)) == "InvalidParameterCombination"


def test_unassign_refuses_an_absent_prefix_and_keeps_the_others(lab: Lab) -> None:
    eni = lab.eni(Ipv4PrefixCount=1)
    code = refused(
        lambda: lab.ec2.unassign_private_ip_addresses(
            NetworkInterfaceId=eni, Ipv4Prefixes=["10.0.1.16/28", "10.0.1.32/28"]
        )
    )
    assert (code, lab.prefixes(eni)) == ("InvalidParameterValue", ["10.0.1.16/28"])


def test_the_same_token_with_another_prefix_count_is_refused(lab: Lab) -> None:
    first = lab.eni(Ipv4PrefixCount=1, ClientToken="t")
    again = lab.eni(Ipv4PrefixCount=1, ClientToken="t")
    code = refused(lambda: lab.eni(Ipv4PrefixCount=2, ClientToken="t"))
    assert (first, code, lab.free()) == (again, "IdempotentParameterMismatch", 234)


def test_prefixes_are_seen_late_everywhere_but_take_effect_at_once(lab: Lab) -> None:
    node = lab.node()
    eni = lab.primary(node)["NetworkInterfaceId"]
    lab.emulator.state.delays = Delays(visibility_seconds=3)
    _assign(lab, eni, Ipv4PrefixCount=1)
    early = (lab.prefixes(eni), "Ipv4Prefixes" in lab.primary(node), lab.free())
    lab.clock.advance(3.1)
    late = (lab.prefixes(eni), "Ipv4Prefixes" in lab.primary(node), lab.free())
    assert (early, late) == (([], False, 234), (["10.0.1.16/28"], True, 234))


def test_the_wire_learns_of_prefixes(lab: Lab) -> None:
    eni, listener = lab.wired()
    _assign(lab, eni, Ipv4PrefixCount=1)
    assert listener.events[-1] == ("readdress", eni, ("10.0.1.4", "10.0.1.16/28"))


def test_a_packet_from_inside_a_prefix_is_its_machines(lab: Lab) -> None:
    node = lab.node()
    _assign(lab, lab.primary(node)["NetworkInterfaceId"], Ipv4PrefixCount=1)
    sender = lab.emulator.state.machine_at(IPv4Address("10.0.1.25"))
    assert sender is not None
    assert sender.instance_id == node
