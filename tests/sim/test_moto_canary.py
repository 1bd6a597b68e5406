"""What the emulator relies on in moto: its internals, its data, and its own answers.

The answers are those of moto behind our door, asked by boto3. When a test fails, moto has changed.

What to do then: pin moto back (pyproject.toml, requirements/), or read the named part of the new
moto, adapt providers/sim/ec2_moto.py, ec2_records.py and ec2_*actions.py, run tests/sim, and raise
`PINNED` here.
"""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable
from ipaddress import IPv6Network
from typing import Any

import pytest
from moto.core.responses import ActionResult
from moto.ec2.models import EC2Backend
from moto.ec2.models.instance_types import INSTANCE_TYPES
from moto.ec2.models.instances import Instance
from moto.ec2.models.subnets import Subnet
from moto.ec2.models.vpcs import VPC
from moto.ec2.responses import EC2Response

from providers.sim.ec2_actions import InterfaceActions
from providers.sim.ec2_addresses import UNATTACHED_ADDRESS_LIMIT
from providers.sim.ec2_instance_actions import SimResponse
from providers.sim.ec2_moto import SimBackend
from providers.sim.ec2_subnet_actions import SubnetActions
from tests.sim.lab import ZONE, Lab, refused

PINNED = "5.2.5"
WHAT_TO_DO = "moto has changed: read the top of tests/sim/test_moto_canary.py"


def test_moto_is_the_version_the_emulator_was_written_for() -> None:
    assert importlib.metadata.version("moto") == PINNED, WHAT_TO_DO


def _ours() -> list[str]:
    methods = vars(InterfaceActions) | vars(SubnetActions) | vars(SimResponse)
    return [name for name, value in methods.items() if inspect.isfunction(value)]


@pytest.mark.parametrize("name", _ours())
def test_every_action_we_override_exists_in_moto(name: str) -> None:
    if name.startswith("_") or name in ("launch", "direct"):
        assert not hasattr(EC2Response, name) or name == "__init__", WHAT_TO_DO
    else:
        assert inspect.isfunction(getattr(EC2Response, name, None)), WHAT_TO_DO


def test_every_question_we_answer_for_moto_is_still_asked() -> None:
    for name in ("get_network_interface", "describe_network_interfaces"):
        assert inspect.isfunction(getattr(EC2Backend, name, None)), WHAT_TO_DO
    assert "get_network_interface" in inspect.getsource(Instance.prep_nics), WHAT_TO_DO
    assert "describe_network_interfaces" in inspect.getsource(EC2Backend.do_resources_exist)


def test_moto_starts_without_images() -> None:
    assert SimBackend(seed=0).amis == {}, WHAT_TO_DO
    assert inspect.isfunction(getattr(EC2Backend, "_load_amis", None)), WHAT_TO_DO


def test_the_parts_of_moto_we_use_are_there() -> None:
    for owner, names in {
        Subnet: ("del_subnet_ip", "cidr_block", "availability_zone"),
        VPC: ("get_cidr_block_association_set", "associate_vpc_cidr_block"),
        EC2Response: ("setup_class", "call_action", "error_on_dryrun", "get_current_account"),
        EC2Backend: (
            "get_subnet",
            "get_vpc",
            "get_default_security_group",
            "create_tags",
            "associate_vpc_cidr_block",
            "describe_availability_zones",
            "get_multi_instances_by_id",
        ),
    }.items():
        for name in names:
            assert hasattr(owner, name) or name == "cidr_block", f"{name}: {WHAT_TO_DO}"
    assert isinstance(ActionResult({"a": 1}).result, dict), WHAT_TO_DO


def test_no_name_of_ours_hides_one_of_motos() -> None:
    """An attribute set on moto's backend by both sides breaks one of them, far from here."""
    plain = EC2Backend("us-west-2", "123456789012")
    ours = {"state", "cidr_reservations"}
    assert ours.isdisjoint(vars(plain)), WHAT_TO_DO
    assert ours <= set(vars(SimBackend(seed=0)))


def test_the_ipv6_blocks_of_a_subnet_and_a_vpc_are_where_we_look() -> None:
    backend = SimBackend(seed=0)
    vpc = backend.create_vpc("10.0.0.0/16")
    backend.add_vpc_cidr_v6(vpc.id, IPv6Network("2001:db8::/56"))
    made = backend.create_subnet(
        vpc.id, "10.0.1.0/24", ipv6_cidr_block="2001:db8::/64", availability_zone=ZONE
    )
    made.assign_ipv6_address_on_creation = True
    found = backend.find_subnet(made.id)
    assert (str(found.cidr_v6), found.assigns_v6, backend.vpc_cidrs_v6(vpc.id)) == (
        "2001:db8::/64",
        True,
        ["2001:db8::/56"],
    ), WHAT_TO_DO


def test_every_type_has_the_limits_we_read() -> None:
    backend = SimBackend(seed=0)
    limits = [backend.limits_of(name) for name in INSTANCE_TYPES]
    assert max(one.addresses_per_interface for one in limits) == UNATTACHED_ADDRESS_LIMIT
    assert max(one.addresses_v6_per_interface for one in limits) == UNATTACHED_ADDRESS_LIMIT
    assert all(one.interfaces_per_card for one in limits), WHAT_TO_DO


def test_every_type_names_a_hypervisor_or_is_bare_metal() -> None:
    """Prefixes hang on it: a type that moved from `nitro` to another word would lose them."""
    kinds = {(one.get("Hypervisor"), one["BareMetal"]) for one in INSTANCE_TYPES.values()}
    assert kinds == {("nitro", False), ("xen", False), (None, True)}, WHAT_TO_DO


def test_the_cards_of_a_type_hold_all_its_interfaces() -> None:
    for name, one in INSTANCE_TYPES.items():
        cards = one["NetworkInfo"]["NetworkCards"]
        indexes = sorted(card["NetworkCardIndex"] for card in cards)
        total = sum(card["MaximumNetworkInterfaces"] for card in cards)
        assert indexes == list(range(len(cards))), f"{name}: {WHAT_TO_DO}"
        assert total == one["NetworkInfo"]["MaximumNetworkInterfaces"], f"{name}: {WHAT_TO_DO}"


@pytest.mark.parametrize(
    ("name", "enis", "addresses", "addresses_v6", "takes_prefixes"),
    [
        ("m5.large", (3,), 10, 10, True),
        ("t3.medium", (3,), 6, 6, True),
        ("t2.medium", (3,), 6, 6, False),
        ("m3.medium", (2,), 6, 0, False),
        ("m5.metal", (15,), 50, 50, True),
        ("p4d.24xlarge", (15, 15, 15, 15), 50, 50, True),
    ],
)
def test_known_types_have_their_known_limits(
    name: str, enis: tuple[int, ...], addresses: int, addresses_v6: int, takes_prefixes: bool
) -> None:
    limits = SimBackend(seed=0).limits_of(name)
    assert (
        limits.interfaces_per_card,
        limits.addresses_per_interface,
        limits.addresses_v6_per_interface,
        limits.takes_prefixes,
    ) == (enis, addresses, addresses_v6, takes_prefixes)


def test_any_attribute_of_the_model_comes_out_on_the_wire(lab: Lab) -> None:
    """moto's serializer is driven by botocore's model, so a field needs no code of moto's."""
    lab.give_v6()
    eni = lab.eni(Ipv4PrefixCount=1, Ipv6PrefixCount=1, InterfaceType="efa")
    shown = lab.shown(eni)
    assert {name: shown[name] for name in ("Ipv4Prefixes", "Ipv6Prefixes", "InterfaceType")} == {
        "Ipv4Prefixes": [{"Ipv4Prefix": "10.0.1.16/28"}],
        "Ipv6Prefixes": [{"Ipv6Prefix": "2001:db8:0:101:1::/80"}],
        "InterfaceType": "efa",
    }, WHAT_TO_DO


def _tagged(lab: Lab) -> str:
    eni = lab.eni()
    lab.ec2.create_tags(Resources=[eni], Tags=[{"Key": "k", "Value": "v"}])
    return eni


def _untagged(lab: Lab) -> list[Any]:
    eni = _tagged(lab)
    lab.ec2.delete_tags(Resources=[eni], Tags=[{"Key": "k"}])
    shown: list[Any] = lab.shown(eni)["TagSet"]
    return shown


def _tagged_subnets(lab: Lab) -> list[str]:
    tag = {"Key": "kubernetes.io/role/cni", "Value": "1"}
    lab.ec2.create_tags(Resources=[lab.subnet_id], Tags=[tag])
    by_tag = [
        {"Name": "tag:kubernetes.io/role/cni", "Values": ["1"]},
        {"Name": "vpc-id", "Values": [lab.vpc_id]},
    ]
    found = lab.ec2.describe_subnets(Filters=by_tag)["Subnets"]
    return [one["SubnetId"] for one in found]


def _subnet(lab: Lab) -> dict[str, Any]:
    shown: dict[str, Any] = lab.ec2.describe_subnets(SubnetIds=[lab.subnet_id])["Subnets"][0]
    return shown


def _vpc_blocks(lab: Lab) -> list[str]:
    lab.ec2.associate_vpc_cidr_block(VpcId=lab.vpc_id, CidrBlock="100.64.0.0/16")
    vpc = lab.ec2.describe_vpcs(VpcIds=[lab.vpc_id])["Vpcs"][0]
    return [one["CidrBlock"] for one in vpc["CidrBlockAssociationSet"]]


def _group_names(lab: Lab) -> list[str]:
    by_vpc = [{"Name": "vpc-id", "Values": [lab.vpc_id]}]
    found = lab.ec2.describe_security_groups(Filters=by_vpc)["SecurityGroups"]
    return [group["GroupName"] for group in found]


def _instance(lab: Lab, node: str) -> dict[str, Any]:
    found = lab.ec2.describe_instances(InstanceIds=[node])
    shown: dict[str, Any] = found["Reservations"][0]["Instances"][0]
    return shown


def _terminated(lab: Lab) -> str:
    node = lab.node()
    lab.ec2.terminate_instances(InstanceIds=[node])
    return str(_instance(lab, node)["State"]["Name"])


def _type_data(lab: Lab, name: str) -> tuple[str | None, bool, int, int, list[int]]:
    (shown,) = lab.ec2.describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
    network = shown["NetworkInfo"]
    return (
        shown.get("Hypervisor"),
        shown["BareMetal"],
        network["Ipv4AddressesPerInterface"],
        network["Ipv6AddressesPerInterface"],
        [card["MaximumNetworkInterfaces"] for card in network["NetworkCards"]],
    )


# What moto answers with its own code, and the daemons read.
ANSWERS: dict[str, tuple[Callable[[Lab], Any], Any]] = {
    "tags are described by resource and key": (
        lambda lab: [
            (tag["ResourceType"], tag["Key"], tag["Value"])
            for tag in lab.ec2.describe_tags(
                Filters=[{"Name": "resource-id", "Values": [_tagged(lab)]}]
            )["Tags"]
        ],
        [("network-interface", "k", "v")],
    ),
    "a deleted tag is gone": (_untagged, []),
    "a subnet is found by its tag": (
        lambda lab: _tagged_subnets(lab) == [lab.subnet_id],
        True,
    ),
    "a subnet names its zone and VPC": (
        lambda lab: (
            _subnet(lab)["AvailabilityZone"] == ZONE
            and _subnet(lab)["VpcId"] == lab.vpc_id
            and _subnet(lab)["CidrBlock"] == "10.0.1.0/24"
        ),
        True,
    ),
    "a VPC lists its IPv4 blocks": (_vpc_blocks, ["10.0.0.0/16", "100.64.0.0/16"]),
    "a zone has an id": (
        lambda lab: lab.ec2.describe_availability_zones(ZoneNames=[ZONE])["AvailabilityZones"][0][
            "ZoneId"
        ],
        "usw2-az2",
    ),
    "a security group is found by VPC": (_group_names, ["default"]),
    "a running instance says so": (
        lambda lab: _instance(lab, lab.node())["State"]["Name"],
        "running",
    ),
    "a terminated instance says so": (_terminated, "terminated"),
    "an instance type has its network data": (
        lambda lab: _type_data(lab, "p4d.24xlarge"),
        ("nitro", False, 50, 50, [15, 15, 15, 15]),
    ),
    "a bare metal type names no hypervisor": (
        lambda lab: _type_data(lab, "m5.metal"),
        (None, True, 50, 50, [15]),
    ),
    "an unknown type is refused": (
        lambda lab: refused(lambda: lab.ec2.describe_instance_types(InstanceTypes=["m0.tiny"])),
        "InvalidInstanceType",
    ),
    "an overlapping subnet is refused": (
        lambda lab: refused(lambda: lab.subnet("10.0.1.128/25")),
        "InvalidSubnet.Conflict",
    ),
    "an unknown VPC is refused": (
        lambda lab: refused(lambda: lab.ec2.describe_vpcs(VpcIds=["vpc-0"])),
        "InvalidVpcID.NotFound",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_moto_answers_as_it_did(lab: Lab, name: str) -> None:
    ask, expected = ANSWERS[name]
    assert ask(lab) == expected, WHAT_TO_DO
