"""The demo on EC2: what is this cloud's own."""

from __future__ import annotations

import urllib.parse
from collections import Counter
from collections.abc import Mapping
from functools import partial
from ipaddress import ip_address
from xml.etree import ElementTree as ET

from providers.sim import netns
from providers.sim.demo_http import http
from providers.sim.demo_kinds import enis_of, prefix_table
from providers.sim.demo_looks import Cloud, CloudEni
from providers.sim.demo_run import CheckFailed, Seen, Table
from providers.sim.demo_steps import placed_on
from providers.sim.demo_world import (
    NODE_NAMES,
    DemoWorld,
    Look,
    Words,
    identity_of,
    refuse_any,
)
from providers.sim.lab_cloud import EC2_ENDPOINT
from providers.sim.lab_node import Node

METADATA = "http://169.254.169.254/latest"
# To make and attach an ENI takes EC2 up to 10 s (amazon-vpc-cni-k8s, docs/eni-and-ip-target.md);
# one is enough to see who waits.
ATTACH_SECONDS = 1.0
_PREFIX_LENGTH_V6 = 80  # EC2 user guide, "Prefix delegation"
_API_VERSION = "2016-11-15"  # EC2 API Reference, "Common query parameters"


class Ec2Side:
    """See `demo_world.CloudSide`."""

    name = "aws"
    words = Words(eni="ENI", vpc="VPC", a_vpc="a VPC", api="EC2", waited_for="a new ENI")
    slow_seconds = ATTACH_SECONDS / 2

    def __init__(self) -> None:
        self._pod_security_group = ""

    def begin(self, world: DemoWorld) -> str:
        """A pod's security group where the mode has one."""
        world.lab.control.call("set_delays", attach_seconds=ATTACH_SECONDS)
        fabric = str(netns.NETNS_DIR / world.lab.fabric_name)
        answer = netns.call_in(fabric, lambda: ec2("DescribeVpcs")).tag
        if world.mode.has_pod_subnets:
            assert world.lab.vpc is not None
            vpc_id = world.lab.vpc.vpc_id
            self._pod_security_group = netns.call_in(
                fabric, lambda: make_security_group(vpc_id, "pods")
            )
        return f"the EC2 API answers with a {answer}; attaching an ENI takes {ATTACH_SECONDS:g} s"

    def node_env(self, world: DemoWorld, number: int) -> Mapping[str, str]:
        """The n-th node's ENIConfig in a file, and the variable that names it."""
        if not world.mode.has_pod_subnets:
            return {}
        path = world.directory / f"eniconfig-{NODE_NAMES[number]}.yaml"
        path.write_text(
            "apiVersion: crd.k8s.amazonaws.com/v1alpha1\n"
            "kind: ENIConfig\n"
            "metadata:\n  name: default\n"
            f"spec:\n  subnet: {_pod_subnet_id(world, number)}\n"
            f"  securityGroups: [{self._pod_security_group}]\n",
            encoding="ascii",
        )
        return {"VPC_IPAMD_ENICONFIG_FILE": str(path)}

    def before_daemons(self, world: DemoWorld) -> None:
        """Nothing."""

    def own_id(self, node: Node) -> str:
        """By the metadata service, version 2."""
        return netns.call_in(node.netns_path, own_instance_id)

    def look(self, gives: str) -> Look | None:
        """Custom networking and IPv6."""
        return {"custom": self._custom, "ipv6": _ipv6}.get(gives)

    def _custom(self, world: DemoWorld, cloud: Cloud, nodes: tuple[Node, ...]) -> Seen:
        rows = []
        for node in nodes:
            primary, *others = cloud.of_instance(identity_of(node).instance_id)
            if len(primary.addresses) > 1 or primary.prefixes:
                raise CheckFailed(f"{primary.eni_id} is {node.name}'s primary and has addresses")
            refuse_any(self._misplaced(world, node, others))
            counts = Counter(one.eni_id for one in placed_on(world, node))
            rows += [
                (node.name, eni.eni_id, cloud.cidrs[eni.subnet_id], str(counts[eni.eni_id]))
                for eni in (primary, *others)
            ]
        return Seen(
            text=f"all {len(world.pods)} pods are on ENIs in the ENIConfig's subnet with its"
            f" security group {self._pod_security_group}; the primary ENIs have no address but"
            " their own",
            table=Table(head=("node", "ENI", "subnet", "pods"), rows=tuple(rows)),
        )

    def _misplaced(self, world: DemoWorld, node: Node, enis: list[CloudEni]) -> list[str]:
        """ENIs of the node that are not where its ENIConfig says."""
        subnet_id = _pod_subnet_id(world, NODE_NAMES.index(node.name))
        wanted = subnet_id, frozenset({self._pod_security_group})
        fabric = str(netns.NETNS_DIR / world.lab.fabric_name)
        faults = []
        for eni in enis:
            groups = netns.call_in(fabric, partial(security_groups, eni.eni_id))
            if (eni.subnet_id, groups) != wanted:
                faults.append(f"{eni.eni_id} is in {eni.subnet_id} with {sorted(groups)}")
        return faults


def _pod_subnet_id(world: DemoWorld, number: int) -> str:
    """The subnet of the n-th node's pods, in a mode where that is another than the node's."""
    assert world.lab.vpc is not None
    return world.lab.vpc.subnet_ids[len(NODE_NAMES) + number]


def _ipv6(world: DemoWorld, cloud: Cloud, nodes: tuple[Node, ...]) -> Seen:
    for node in nodes:
        own = cloud.of_instance(identity_of(node).instance_id)
        if len(own) != 1 or len(own[0].prefixes) != 1 or len(own[0].addresses) != 1:
            seen = [(eni.eni_id, eni.addresses, eni.prefixes) for eni in own]
            raise CheckFailed(f"{node.name} has {seen}, not one ENI with an address and one prefix")
    table = prefix_table(world, nodes, enis_of(cloud, nodes), _PREFIX_LENGTH_V6)
    pods = sum(ip_address(one.address).version == 6 for one in world.pods)
    return Seen(
        text=f"{pods} pods with an IPv6 address and no IPv4 one; each node has one ENI"
        " with its own IPv4 address and one /80",
        table=table,
    )


def ec2(action: str, **parameters: str) -> ET.Element:
    """One unsigned call to the EC2 API; the answer, its tags without their XML namespace."""
    query = {"Action": action, "Version": _API_VERSION, **parameters}
    answer = http("GET", f"{EC2_ENDPOINT}/?{urllib.parse.urlencode(query)}")
    root = ET.fromstring(answer)  # noqa: S314 - our own emulator's
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
    return root


def make_security_group(vpc_id: str, name: str) -> str:
    """A security group of that name; its id."""
    asked = {"GroupName": name, "GroupDescription": name, "VpcId": vpc_id}
    return ec2("CreateSecurityGroup", **asked).findtext("groupId", "")


def security_groups(eni_id: str) -> frozenset[str]:
    """The ids of an ENI's security groups."""
    answer = ec2("DescribeNetworkInterfaces", **{"NetworkInterfaceId.1": eni_id})
    return frozenset(element.text or "" for element in answer.iterfind(".//groupSet/item/groupId"))


def own_instance_id() -> str:
    """What a program on the node learns from the metadata service, version 2."""
    lifetime = {"X-aws-ec2-metadata-token-ttl-seconds": "60"}
    token = http("PUT", f"{METADATA}/api/token", lifetime)
    return http("GET", f"{METADATA}/meta-data/instance-id", {"X-aws-ec2-metadata-token": token})
