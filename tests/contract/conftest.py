"""The clouds that the contract suite judges: EC2's provider on the emulator, the memory fake."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any
from unittest import mock

import pytest

from ipamd.api_calls import ApiCall
from ipamd.cloud import CloudProvider, InterfaceRequest, Orphan
from ipamd.model import EniId, InstanceId, SubnetId
from providers.aws import tags as t
from providers.aws.config import AwsConfig
from providers.aws.provider import AwsProvider
from providers.sim.ec2 import Emulator
from providers.sim.ec2_state import Delays
from providers.sim.imds import Imds, ImdsSettings
from tests.memory_cloud import MemoryCloud
from tests.memory_vpc import MemorySubnet
from tests.sim.lab import OTHER_ZONE, Lab, ec2_client, serve

NO_GOOD = EniId("eni-0123456789abcdef0")
ORPHAN_OF = InstanceId("i-0dead00000000dead")
CIDR_V6 = IPv6Network("2001:db8:0:101::/64")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A provider on a node with an m5.large's limits in a /24, and hands on its surroundings."""

    provider: CloudProvider
    leave_free: Callable[[int], None]  # others take the subnet's addresses but so many
    strew: Callable[[], None]  # others take one address of every block
    make_orphan: Callable[[float | None], EniId]  # of another node, made at that time
    tagged_subnet: SubnetId  # role 1: a candidate
    excluded_subnet: SubnetId  # role 0
    other_subnet: SubnetId  # no tag
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


def memory() -> Iterator[Judged]:
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


def ec2() -> Iterator[Judged]:
    for cloud in emulated():
        calls: list[ApiCall] = []
        with mock.patch.dict(os.environ, cloud.environ):
            provider = AwsProvider(AwsConfig(cluster_name="c1"), tell=calls.append)
            yield Judged(
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


CLOUDS = {"memory": memory, "ec2": ec2}


@pytest.fixture(params=list(CLOUDS))
def cloud(request: pytest.FixtureRequest) -> Iterator[Judged]:
    yield from CLOUDS[request.param]()


@pytest.fixture
def on_ec2() -> Iterator[Emulated]:
    """For what only EC2 has."""
    yield from emulated()
