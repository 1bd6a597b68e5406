"""The clouds that the contract suite judges, each by what its row says that it can.

They are the memory fake, EC2's provider on its emulator, and Azure's on its own with both kinds of
machine. A test for some of them says for which (`creating`, `not_creating`, `with_ipv6`,
`without_ipv6`); what a row says is itself judged in test_provider.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Network
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ipamd.api_calls import ApiCall
from ipamd.cloud import CloudProvider, InterfaceRequest, Orphan
from ipamd.model import EniId, InstanceId, SubnetId
from providers.aws import tags as t
from providers.aws.config import AwsConfig
from providers.aws.provider import AwsProvider
from providers.sim.arm_nics import replace_nic
from providers.sim.azure_world_documents import GROUP, nic_document
from providers.sim.ec2 import Emulator
from providers.sim.ec2_state import Delays
from providers.sim.imds import Imds, ImdsSettings
from tests.contract.azure_node import AzureNode, azure_node
from tests.memory_cloud import MemoryCloud
from tests.memory_vpc import MemorySubnet
from tests.sim.lab import OTHER_ZONE, Lab, ec2_client, serve

NO_GOOD = EniId("eni-0123456789abcdef0")
NO_SUBNET = SubnetId("subnet-0123456789abcdef0")
ORPHAN_OF = InstanceId("i-0dead00000000dead")
CIDR_V6 = IPv6Network("2001:db8:0:101::/64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What a cloud can do, as far as the contract depends on it.

    `counted_per_prefix`: how many addresses of a subnet's free count a /28 takes.
    """

    can_create_interfaces: bool
    replaces_whole_interface: bool
    cidr_v6: IPv6Network | None = None  # of the node's subnet
    max_enis: int = 3  # an m5.large's
    addresses_per_eni: int = 10
    counted_per_prefix: int = 16


ADDITIVE = Traits(can_create_interfaces=True, replaces_whole_interface=False, cidr_v6=CIDR_V6)
WHOLE = Traits(
    can_create_interfaces=False,
    replaces_whole_interface=True,
    max_enis=1,
    addresses_per_eni=256,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A provider on a node in a subnet of its own, and hands on its surroundings."""

    traits: Traits
    provider: CloudProvider
    leave_free: Callable[[int], None]  # others take the subnet's addresses but so many
    strew: Callable[[], None]  # others take one address of every block
    make_orphan: Callable[[float | None], EniId]  # of another node, made at that time
    tagged_subnet: SubnetId  # role 1: a candidate
    excluded_subnet: SubnetId  # role 0
    other_subnet: SubnetId  # no tag
    no_subnet: SubnetId = NO_SUBNET  # there is none of that name
    no_eni: EniId = NO_GOOD
    calls: list[ApiCall] = field(default_factory=list)

    def request(
        self, token: str, index: int = 1, addresses: int = 3, **more: Any
    ) -> InterfaceRequest:
        node = self.provider.discover_node()
        wanted = {
            "subnet_id": node.primary_subnet_id,
            "secondary_addresses": 0 if more.get("prefixes") else addresses,
            "network_card": 0,
            **more,
        }
        return InterfaceRequest(
            token=token,
            security_group_ids=node.security_group_ids,
            device_index=index,
            reason="contract",
            **wanted,
        )


def memory(traits: Traits, directory: Path) -> Iterator[Judged]:
    del directory  # it keeps nothing on disk
    cloud = MemoryCloud(cidr_v6=CIDR_V6)
    subnet = cloud.vpc.subnets[cloud.node.primary_subnet_id]
    others = [
        cloud.vpc.add(MemorySubnet(SubnetId(name), is_candidate=is_in, is_excluded=is_out))
        for name, is_in, is_out in (
            ("subnet-02", True, False),
            ("subnet-03", False, True),
            ("subnet-04", False, False),
        )
    ]

    def leave_free(count: int) -> None:
        del cloud.free[count:]

    def make_orphan(created_unix: float | None) -> EniId:
        eni_id = EniId("eni-0dead")
        cloud.orphan_enis[eni_id] = Orphan(
            eni_id=eni_id, instance_id=ORPHAN_OF, created_unix=created_unix
        )
        return eni_id

    yield Judged(
        traits=traits,
        provider=cloud,
        leave_free=leave_free,
        strew=subnet.fragment,
        make_orphan=make_orphan,
        tagged_subnet=others[0].subnet_id,
        excluded_subnet=others[1].subnet_id,
        other_subnet=others[2].subnet_id,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulated:
    """The emulator behind HTTP, with a VPC whose zone has subnets of every tag."""

    lab: Lab
    imds_url: str
    subnets: tuple[SubnetId, ...]

    def leave_free(self, count: int) -> None:
        for _ in range(40):
            surplus = self.lab.free() - count
            if surplus <= 0:
                return
            self.lab.eni(secondaries=min(surplus - 1, 20))

    def strew(self) -> None:
        for third in range(16, 240, 16):
            self.lab.eni(PrivateIpAddress=f"10.0.1.{third}")

    def make_orphan(self, created_unix: float | None) -> EniId:
        tags = t.new_eni_tags(
            instance_id=ORPHAN_OF, cluster_name="c1", created_unix=created_unix or 0.0, extra={}
        )
        if created_unix is None:
            del tags[t.TAG_CREATED]
        specification = {"ResourceType": "network-interface", "Tags": t.as_list(tags)}
        made = self.lab.eni(
            Description=f"{t.DESCRIPTION}{ORPHAN_OF}", TagSpecifications=[specification]
        )
        return EniId(made)

    @property
    def environ(self) -> dict[str, str]:
        return {
            "AWS_ENDPOINT_URL_EC2": self.lab.url,
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.imds_url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
        }


def emulated(instance_type: str = "m5.large") -> Iterator[Emulated]:
    emulator = Emulator(seed=7)
    door, url = serve(emulator.respond)
    imds_door, imds_url = serve(Imds(emulator, ImdsSettings(trusts_names=True)).respond)
    client = ec2_client(url)
    lab = Lab(emulator, None, url, client).build()  # type: ignore[arg-type]  # real time
    lab.give_v6()
    subnets = [SubnetId(lab.subnet(f"10.0.{third}.0/24")) for third in (10, 11, 12)]
    lab.subnet("10.0.13.0/24", OTHER_ZONE)
    for subnet_id, role in zip(subnets, ("1", "0"), strict=False):
        client.create_tags(Resources=[subnet_id], Tags=[{"Key": t.TAG_SUBNET_ROLE, "Value": role}])
    emulator.state.delays = Delays(attach_seconds=0.1, detach_seconds=0.1)
    emulator.start_timer()
    lab.node(instance_type)
    yield Emulated(lab=lab, imds_url=imds_url, subnets=tuple(subnets))
    client.close()
    emulator.stop()
    door.close()
    imds_door.close()


def ec2(traits: Traits, directory: Path) -> Iterator[Judged]:
    del directory
    for cloud in emulated():
        calls: list[ApiCall] = []
        with mock.patch.dict(os.environ, cloud.environ):
            provider = AwsProvider(AwsConfig(cluster_name="c1"), tell=calls.append)
            yield Judged(
                traits=traits,
                provider=provider,
                leave_free=cloud.leave_free,
                strew=cloud.strew,
                make_orphan=cloud.make_orphan,
                tagged_subnet=cloud.subnets[0],
                excluded_subnet=cloud.subnets[1],
                other_subnet=cloud.subnets[2],
                calls=calls,
            )
            provider.close()


A_MOMENT = 2.0
"""What others do is seen after it: a subnet's count of a second ago is still an answer."""


def azure_vm(traits: Traits, directory: Path) -> Iterator[Judged]:
    """A NIC of its own, written through Microsoft.Network; a block counts as 16 of its subnet."""
    for node in azure_node("vm", directory):
        node.lab.set(usage_of_block=16)
        yield _azure(traits, node)


def azure_scale_set(traits: Traits, directory: Path) -> Iterator[Judged]:
    """A NIC that follows its instance's model; a block counts as 1."""
    for node in azure_node("scale-set", directory):
        yield _azure(traits, node)


def _azure(traits: Traits, node: AzureNode) -> Judged:
    outsiders, own = node.lab.world.outsiders, node.subnet_ids[0]

    def leave_free(count: int) -> None:
        outsiders.leave_free(own, count)
        node.lab.advance(A_MOMENT)

    def strew() -> None:
        outsiders.strew(own)
        node.lab.advance(A_MOMENT)

    def make_orphan(created_unix: float | None) -> EniId:
        del created_unix  # nothing on a NIC could say so
        nic_id = f"{GROUP}/Microsoft.Network/networkInterfaces/loose"
        made = replace_nic(node.lab.world.state, nic_id, nic_document(own))
        return EniId(made.nic_id.lower())

    return Judged(
        traits=traits,
        provider=node.provider,
        leave_free=leave_free,
        strew=strew,
        make_orphan=make_orphan,
        tagged_subnet=node.subnet(1),
        excluded_subnet=node.subnet(2),
        other_subnet=node.subnet(3),
        no_subnet=SubnetId(f"{node.subnet(0)}-gone"),
        no_eni=EniId(f"{node.eni_id}-gone"),
        calls=node.calls,
    )


CLOUDS: dict[str, tuple[Callable[[Traits, Path], Iterator[Judged]], Traits]] = {
    "memory": (memory, ADDITIVE),
    "ec2": (ec2, ADDITIVE),
    "azure-vm": (azure_vm, WHOLE),
    "azure-scale-set": (azure_scale_set, replace(WHOLE, counted_per_prefix=1)),
}


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Judged]:
    """Every cloud, unless a test names those that it is for."""
    make, traits = CLOUDS[request.param]
    yield from make(traits, tmp_path)


def _those(can: Callable[[Traits], bool]) -> pytest.MarkDecorator:
    names = [name for name, (_, traits) in CLOUDS.items() if can(traits)]
    return pytest.mark.parametrize("cloud", names, indirect=True)


creating = _those(lambda traits: traits.can_create_interfaces)
not_creating = _those(lambda traits: not traits.can_create_interfaces)
with_ipv6 = _those(lambda traits: traits.cidr_v6 is not None)
without_ipv6 = _those(lambda traits: traits.cidr_v6 is None)


@pytest.fixture
def on_ec2() -> Iterator[Emulated]:
    """For what only EC2 has."""
    yield from emulated()
