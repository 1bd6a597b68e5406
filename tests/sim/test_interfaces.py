"""Creating, changing and naming ENIs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from providers.sim.ec2 import Emulator
from providers.sim.ec2_addresses import create_interface
from providers.sim.ec2_wishes import NewInterface
from tests.sim.lab import Lab, refused

NO_ENI = "eni-00000000000000000"
NO_INSTANCE = "i-00000000000000000"


def test_create_answers_with_the_whole_interface(lab: Lab) -> None:
    made = lab.ec2.create_network_interface(
        SubnetId=lab.subnet_id,
        Description="why",
        TagSpecifications=[
            {"ResourceType": "network-interface", "Tags": [{"Key": "k", "Value": "v"}]}
        ],
    )["NetworkInterface"]
    assert {
        name: made[name] for name in ("Status", "Description", "TagSet", "SourceDestCheck")
    } == {
        "Status": "available",
        "Description": "why",
        "TagSet": [{"Key": "k", "Value": "v"}],
        "SourceDestCheck": True,
    }


def test_create_with_the_same_token_makes_one_interface(lab: Lab) -> None:
    assert lab.eni(ClientToken="t") == lab.eni(ClientToken="t")
    assert lab.free() == 250


def test_the_same_token_with_other_parameters_is_refused(lab: Lab) -> None:
    lab.eni(ClientToken="t")
    code = refused(lambda: lab.eni(secondaries=1, ClientToken="t"))
    assert code == "IdempotentParameterMismatch"


def test_a_token_of_a_refused_call_can_be_used_again(lab: Lab) -> None:
    filler = lab.eni(secondaries=10, subnet_id=lab.small_subnet_id)
    refused(lambda: lab.eni(subnet_id=lab.small_subnet_id, ClientToken="t"))
    lab.ec2.delete_network_interface(NetworkInterfaceId=filler)
    assert lab.eni(subnet_id=lab.small_subnet_id, ClientToken="t").startswith("eni-")


def test_an_unknown_security_group_is_refused(lab: Lab) -> None:
    assert refused(lambda: lab.eni(Groups=["sg-0123456789abcdef0"])) == "InvalidGroup.NotFound"


def test_a_security_group_of_another_vpc_is_refused(lab: Lab) -> None:
    other = lab.ec2.create_vpc(CidrBlock="10.9.0.0/16")["Vpc"]["VpcId"]
    group = lab.ec2.create_security_group(GroupName="g", Description="d", VpcId=other)["GroupId"]
    assert refused(lambda: lab.eni(Groups=[group])) == "InvalidGroup.NotFound"


def test_an_interface_shows_its_own_groups_and_not_its_instances(lab: Lab) -> None:
    group = lab.ec2.create_security_group(GroupName="g", Description="d", VpcId=lab.vpc_id)
    eni = lab.eni(Groups=[group["GroupId"]])
    lab.attach(eni, lab.node())
    assert lab.shown(eni)["Groups"] == [{"GroupId": group["GroupId"], "GroupName": "g"}]


def test_an_interface_without_groups_gets_the_vpcs_default(lab: Lab) -> None:
    assert [group["GroupName"] for group in lab.shown(lab.eni())["Groups"]] == ["default"]


def test_macs_are_unique_and_unicast(lab: Lab) -> None:
    macs = {lab.shown(lab.eni())["MacAddress"] for _ in range(20)}
    assert len(macs) == 20
    assert all(mac.startswith("02:") for mac in macs)


def test_the_same_seed_gives_the_same_ids_and_macs() -> None:
    def first_of(seed: int) -> tuple[str, str]:
        backend = Emulator(seed=seed).backend
        vpc = backend.create_vpc("10.0.0.0/16")
        subnet = backend.create_subnet(vpc.id, "10.0.1.0/24", availability_zone="us-west-2a")
        request = NewInterface(subnet_id=subnet.id, group_ids=())
        made = create_interface(backend.state, request, 0.0)
        return made.eni_id, made.mac

    assert first_of(3) == first_of(3)
    assert first_of(3) != first_of(4)


@pytest.mark.parametrize("kind", ["interface", "efa", "efa-only", "trunk"])
def test_an_interface_type_is_kept_and_described(lab: Lab, kind: str) -> None:
    asked: dict[str, Any] = {} if kind == "interface" else {"InterfaceType": kind}
    eni = lab.eni(**asked)
    node = lab.node("p4d.24xlarge")
    lab.attach(eni, node, index=1, NetworkCardIndex=1)
    by_type = [{"Name": "interface-type", "Values": [kind]}]
    found = lab.ec2.describe_network_interfaces(Filters=by_type)["NetworkInterfaces"]
    assert lab.nics(node)[1]["InterfaceType"] == kind
    assert eni in {one["NetworkInterfaceId"] for one in found}


def test_an_efa_only_interface_has_no_address_and_no_wire(lab: Lab) -> None:
    primary, listener = lab.wired()
    node = lab.shown(primary)["Attachment"]["InstanceId"]
    before = lab.free()
    eni = lab.eni(InterfaceType="efa-only")
    lab.attach(eni, node)
    shown = lab.shown(eni)
    assert (shown["PrivateIpAddresses"], "PrivateIpAddress" in shown, lab.free()) == (
        [],
        False,
        before,
    )
    assert eni not in {event[1] for event in listener.events}


@pytest.mark.parametrize(
    "asked",
    [
        {"SecondaryPrivateIpAddressCount": 1},
        {"PrivateIpAddress": "10.0.1.9"},
        {"Ipv4PrefixCount": 1},
        {"Ipv6AddressCount": 1},
    ],
    ids=lambda asked: next(iter(asked)),
)
def test_an_efa_only_interface_takes_no_address(lab: Lab, asked: dict[str, Any]) -> None:
    codes = [refused(lambda: lab.eni(InterfaceType="efa-only", **asked))]
    eni = lab.eni(InterfaceType="efa-only")
    codes.append(
        refused(
            lambda: lab.ec2.assign_private_ip_addresses(
                NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1
            )
        )
    )
    assert codes == ["InvalidParameterCombination"] * 2


def test_a_launch_cannot_begin_with_an_efa_only_interface(lab: Lab) -> None:
    spec = {"DeviceIndex": 0, "SubnetId": lab.subnet_id, "InterfaceType": "efa-only"}
    code = refused(lambda: lab.node("p4d.24xlarge", NetworkInterfaces=[spec]))
    assert code == "InvalidParameterCombination"


def test_an_interface_type_ec2_does_not_know_is_refused(lab: Lab) -> None:
    assert refused(lambda: lab.eni(InterfaceType="branch")) == "InvalidParameterValue"


def test_modify_changes_one_attribute(lab: Lab) -> None:
    eni = lab.eni()
    modify = lab.ec2.modify_network_interface_attribute
    modify(NetworkInterfaceId=eni, SourceDestCheck={"Value": False})
    modify(NetworkInterfaceId=eni, Description={"Value": "new"})
    shown = lab.shown(eni)
    assert (shown["SourceDestCheck"], shown["Description"]) == (False, "new")


def test_modify_replaces_the_groups(lab: Lab) -> None:
    group = lab.ec2.create_security_group(GroupName="g", Description="d", VpcId=lab.vpc_id)
    eni = lab.eni()
    lab.ec2.modify_network_interface_attribute(NetworkInterfaceId=eni, Groups=[group["GroupId"]])
    assert [one["GroupName"] for one in lab.shown(eni)["Groups"]] == ["g"]


def test_modify_refuses_two_attributes_at_once(lab: Lab) -> None:
    eni = lab.eni()
    code = refused(
        lambda: lab.ec2.modify_network_interface_attribute(
            NetworkInterfaceId=eni, SourceDestCheck={"Value": False}, Description={"Value": "x"}
        )
    )
    assert code == "InvalidParameterCombination"


def test_an_attribute_can_be_described(lab: Lab) -> None:
    eni = lab.eni(Description="why")
    answer = lab.ec2.describe_network_interface_attribute(
        NetworkInterfaceId=eni, Attribute="description"
    )
    assert answer["Description"]["Value"] == "why"


def test_tags_of_a_deleted_interface_are_gone(lab: Lab) -> None:
    eni = lab.eni()
    lab.ec2.create_tags(Resources=[eni], Tags=[{"Key": "k", "Value": "v"}])
    shown = lab.shown(eni)["TagSet"]
    lab.ec2.delete_network_interface(NetworkInterfaceId=eni)
    left = lab.ec2.describe_tags(Filters=[{"Name": "resource-id", "Values": [eni]}])["Tags"]
    assert (shown, left) == ([{"Key": "k", "Value": "v"}], [])


NOT_FOUND: list[tuple[str, Callable[[Lab], object]]] = [
    (
        "InvalidNetworkInterfaceID.NotFound",
        lambda lab: lab.ec2.delete_network_interface(NetworkInterfaceId=NO_ENI),
    ),
    ("InvalidNetworkInterfaceID.NotFound", lambda lab: lab.shown(NO_ENI)),
    (
        "InvalidNetworkInterfaceID.NotFound",
        lambda lab: lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=NO_ENI, SecondaryPrivateIpAddressCount=1
        ),
    ),
    (
        "InvalidNetworkInterfaceID.NotFound",
        lambda lab: lab.ec2.create_tags(Resources=[NO_ENI], Tags=[{"Key": "k", "Value": "v"}]),
    ),
    ("InvalidNetworkInterfaceID.NotFound", lambda lab: lab.attach(NO_ENI, lab.node())),
    ("InvalidInstanceID.NotFound", lambda lab: lab.attach(lab.eni(), NO_INSTANCE)),
    (
        "InvalidInstanceID.NotFound",
        lambda lab: lab.ec2.describe_instances(InstanceIds=[NO_INSTANCE]),
    ),
    (
        "InvalidInstanceID.NotFound",
        lambda lab: lab.ec2.terminate_instances(InstanceIds=[NO_INSTANCE]),
    ),
    (
        "InvalidAttachmentID.NotFound",
        lambda lab: lab.ec2.detach_network_interface(AttachmentId="eni-attach-0"),
    ),
    ("InvalidSubnetID.NotFound", lambda lab: lab.eni(subnet_id="subnet-00000000000000000")),
]


@pytest.mark.parametrize(("code", "call"), NOT_FOUND)
def test_what_does_not_exist_is_refused_by_its_own_code(
    lab: Lab, code: str, call: Callable[[Lab], object]
) -> None:
    assert refused(lambda: call(lab)) == code
