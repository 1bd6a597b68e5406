"""Filters, paging, late visibility, and calls that the emulator does not know."""

from __future__ import annotations

import urllib.error
import urllib.request

import pytest

from providers.sim.ec2_state import Delays
from tests.sim.lab import ZONE, Lab, refused


def _found(lab: Lab, **filters: str) -> set[str]:
    named = [
        {"Name": name.replace("__", ".").replace("_", "-"), "Values": [value]}
        for name, value in filters.items()
    ]
    shown = lab.ec2.describe_network_interfaces(Filters=named)["NetworkInterfaces"]
    return {eni["NetworkInterfaceId"] for eni in shown}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("addresses.private-ip-address", "10.0.1.7"),
        ("attachment.delete-on-termination", "false"),
        ("attachment.device-index", "1"),
        ("attachment.network-card-index", "0"),
        ("attachment.status", "attached"),
        ("availability-zone", ZONE),
        ("description", "wan*"),
        ("private-ip-address", "10.0.1.?"),
        ("status", "in-use"),
        ("tag-key", "k"),
        ("tag:k", "v"),
    ],
)
def test_a_filter_finds_the_interface_and_its_opposite_does_not(
    lab: Lab, name: str, value: str
) -> None:
    node = lab.node()
    eni = lab.eni(
        secondaries=2,
        Description="wanted",
        TagSpecifications=[
            {"ResourceType": "network-interface", "Tags": [{"Key": "k", "Value": "v"}]}
        ],
    )
    lab.attach(eni, node)
    only_it = {"Name": "network-interface-id", "Values": [eni]}
    describe = lab.ec2.describe_network_interfaces
    found = describe(Filters=[only_it, {"Name": name, "Values": [value]}])["NetworkInterfaces"]
    other = describe(Filters=[only_it, {"Name": name, "Values": ["no"]}])["NetworkInterfaces"]
    assert (len(found), len(other)) == (1, 0)


def test_filters_by_instance_and_by_subnet_narrow_each_other(lab: Lab) -> None:
    node, eni = lab.node(), lab.eni(subnet_id=lab.small_subnet_id)
    lab.attach(eni, node)
    lab.node()
    both = _found(lab, attachment__instance_id=node, subnet_id=lab.small_subnet_id)
    assert (both, len(_found(lab, attachment__instance_id=node))) == ({eni}, 2)


def test_brackets_are_no_wildcards(lab: Lab) -> None:
    lab.eni(Description="a")
    assert _found(lab, description="[a]") == set()


def test_an_unknown_filter_is_refused(lab: Lab) -> None:
    assert refused(lambda: _found(lab, colour="red")) == "InvalidParameterValue"


def test_interfaces_come_in_pages_that_miss_none(lab: Lab) -> None:
    made = {lab.eni() for _ in range(12)}
    pages = list(
        lab.ec2.get_paginator("describe_network_interfaces").paginate(
            PaginationConfig={"PageSize": 5}
        )
    )
    shown = [eni["NetworkInterfaceId"] for page in pages for eni in page["NetworkInterfaces"]]
    assert (len(pages), set(shown), len(shown)) == (3, made, 12)


def test_an_interface_deleted_between_pages_hides_no_other(lab: Lab) -> None:
    made = sorted(lab.eni() for _ in range(8))
    first = lab.ec2.describe_network_interfaces(MaxResults=5)
    lab.ec2.delete_network_interface(NetworkInterfaceId=made[4])
    second = lab.ec2.describe_network_interfaces(MaxResults=5, NextToken=first["NextToken"])
    assert [eni["NetworkInterfaceId"] for eni in second["NetworkInterfaces"]] == made[5:]


def test_subnets_come_in_pages(lab: Lab) -> None:
    for third in range(10, 15):
        lab.subnet(f"10.0.{third}.0/24")
    asked = {"Filters": [{"Name": "vpc-id", "Values": [lab.vpc_id]}], "MaxResults": 5}
    first = lab.ec2.describe_subnets(**asked)
    second = lab.ec2.describe_subnets(**asked, NextToken=first["NextToken"])
    assert (len(first["Subnets"]), len(second["Subnets"])) == (5, 2)


def test_subnets_can_be_filtered_by_their_free_count(lab: Lab) -> None:
    lab.eni()
    asked = [{"Name": "available-ip-address-count", "Values": ["250"]}]
    found = lab.ec2.describe_subnets(Filters=asked)["Subnets"]
    assert [subnet["SubnetId"] for subnet in found] == [lab.subnet_id]


def test_instance_types_come_in_pages_of_at_most_a_hundred(lab: Lab) -> None:
    first = lab.ec2.describe_instance_types()
    named = lab.ec2.describe_instance_types(InstanceTypes=["m5.large"])
    assert (len(first["InstanceTypes"]), "NextToken" in first, len(named["InstanceTypes"])) == (
        100,
        True,
        1,
    )


def test_ids_and_pages_exclude_each_other(lab: Lab) -> None:
    eni = lab.eni()
    code = refused(
        lambda: lab.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni], MaxResults=5)
    )
    assert code == "InvalidParameterCombination"


@pytest.mark.parametrize("asked", [{"NextToken": "?"}, {"MaxResults": 1001}])
def test_a_page_that_cannot_be_is_refused(lab: Lab, asked: dict[str, object]) -> None:
    code = refused(lambda: lab.ec2.describe_network_interfaces(**asked))
    assert code == "InvalidParameterValue"


def test_a_subnet_with_an_interface_cannot_be_deleted(lab: Lab) -> None:
    lab.eni()
    code = refused(lambda: lab.ec2.delete_subnet(SubnetId=lab.subnet_id))
    assert code == "DependencyViolation"


def test_a_new_interface_is_seen_late(lab: Lab) -> None:
    lab.emulator.state.delays = Delays(visibility_seconds=3)
    eni = lab.eni()
    early = refused(lambda: lab.shown(eni))
    lab.clock.advance(3.1)
    assert (early, lab.shown(eni)["Status"]) == ("InvalidNetworkInterfaceID.NotFound", "available")


def test_changed_addresses_are_seen_late_everywhere_but_take_effect_at_once(lab: Lab) -> None:
    node = lab.node()
    eni = lab.primary(node)["NetworkInterfaceId"]
    lab.emulator.state.delays = Delays(visibility_seconds=3)
    lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1)
    early = (len(lab.addresses(eni)), len(lab.primary(node)["PrivateIpAddresses"]), lab.free())
    lab.clock.advance(3.1)
    late = (len(lab.addresses(eni)), len(lab.primary(node)["PrivateIpAddresses"]), lab.free())
    assert (early, late) == ((1, 1, 249), (2, 2, 249))


def test_a_late_view_shows_each_step_in_turn(lab: Lab) -> None:
    eni = lab.eni()
    lab.emulator.state.delays = Delays(visibility_seconds=2.5)
    seen = []
    for _ in range(4):
        lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1
        )
        lab.clock.advance(1)
        seen.append(len(lab.addresses(eni)))
    assert seen == [1, 1, 2, 3]


def test_an_action_without_an_emulation_is_a_400(lab: Lab) -> None:
    code = refused(
        lambda: lab.ec2.associate_trunk_interface(
            BranchInterfaceId="eni-1", TrunkInterfaceId="eni-2"
        )
    )
    assert code == "UnsupportedOperation"


def test_an_action_that_is_none_is_a_400_in_xml(lab: Lab) -> None:
    body = b"Action=MakeCoffee&Version=2016-11-15"
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(lab.url, data=body)
    with caught.value as answer:
        assert (answer.code, b"<Code>InvalidAction</Code>" in answer.read()) == (400, True)


def test_dry_run_changes_nothing(lab: Lab) -> None:
    code = refused(lambda: lab.eni(DryRun=True))
    assert (code, lab.free()) == ("DryRunOperation", 251)


def test_every_answer_has_a_request_id_of_its_own(lab: Lab) -> None:
    ids = {lab.ec2.describe_subnets()["ResponseMetadata"]["RequestId"] for _ in range(2)}
    assert len(ids) == 2
