"""What the emulator's tests build with: a clock to turn, a listener that records, a small VPC."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from providers.sim.ec2 import Emulator
from providers.sim.http_door import Door, Responder
from providers.sim.model import WiredEni

ZONE = "us-west-2a"
OTHER_ZONE = "us-west-2b"
START_UNIX = 1_800_000_000.0
_SESSION = Session()


@dataclass(slots=True)
class ManualClock:
    now: float = START_UNIX

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


@dataclass(slots=True)
class RecordingListener:
    events: list[tuple[Any, ...]] = field(default_factory=list)

    def plug(self, eni: WiredEni, netns_path: str) -> None:
        self.events.append(("plug", eni.eni_id, netns_path))

    def unplug(self, eni_id: str) -> None:
        self.events.append(("unplug", eni_id))

    def readdress(self, eni: WiredEni) -> None:
        given = (*eni.addresses, *eni.prefixes, *eni.addresses_v6)
        self.events.append(("readdress", eni.eni_id, tuple(map(str, given))))


def serve(responder: Responder) -> tuple[Door, str]:
    listening = socket.create_server(("127.0.0.1", 0))
    door = Door(listening, responder)
    door.open()
    return door, f"http://127.0.0.1:{listening.getsockname()[1]}"


def ec2_client(url: str, *, attempts: int = 1, read_seconds: float = 20.0) -> Any:
    """boto3's own EC2 client; one attempt, so that a test sees the first answer."""
    return _SESSION.create_client(
        "ec2",
        region_name="us-west-2",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(
            retries={"mode": "standard", "total_max_attempts": attempts},
            read_timeout=read_seconds,
        ),
    )


@dataclass(slots=True)
class Lab:
    """An emulator behind HTTP on loopback, with a VPC of one /24 and one /28 in zone a."""

    emulator: Emulator
    clock: ManualClock
    url: str
    ec2: Any
    vpc_id: str = ""
    subnet_id: str = ""
    small_subnet_id: str = ""

    def build(self) -> Lab:
        self.vpc_id = self.ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"]
        self.subnet_id = self.subnet("10.0.1.0/24")
        self.small_subnet_id = self.subnet("10.0.2.0/28")
        return self

    def subnet(self, cidr: str, zone: str = ZONE, vpc_id: str = "") -> str:
        made = self.ec2.create_subnet(
            VpcId=vpc_id or self.vpc_id, CidrBlock=cidr, AvailabilityZone=zone
        )
        return str(made["Subnet"]["SubnetId"])

    def node(self, instance_type: str = "m5.large", **params: Any) -> str:
        """A running instance; its id."""
        if "NetworkInterfaces" not in params:
            params.setdefault("SubnetId", self.subnet_id)
        started = self.ec2.run_instances(
            ImageId="ami-1", InstanceType=instance_type, MinCount=1, MaxCount=1, **params
        )
        return str(started["Instances"][0]["InstanceId"])

    def wired(self) -> tuple[str, RecordingListener]:
        """The primary ENI of a new m5.large that has a wire, and who hears of it."""
        listener = RecordingListener()
        asked: dict[str, Any] = {"InstanceType": "m5.large", "SubnetId": self.subnet_id}
        with self.emulator.lock:
            self.emulator.state.listener = listener
            started = self.emulator.prepared(asked).launch(netns_path="/run/netns/n")
        return str(self.primary(started.instances[0].id)["NetworkInterfaceId"]), listener

    def eni(self, secondaries: int = 0, subnet_id: str = "", **params: Any) -> str:
        """A new ENI; its id."""
        if secondaries:
            params["SecondaryPrivateIpAddressCount"] = secondaries
        made = self.ec2.create_network_interface(SubnetId=subnet_id or self.subnet_id, **params)
        return str(made["NetworkInterface"]["NetworkInterfaceId"])

    def attach(self, eni_id: str, node: str, index: int = 1, **params: Any) -> str:
        """Attach; the attachment's id."""
        made = self.ec2.attach_network_interface(
            NetworkInterfaceId=eni_id, InstanceId=node, DeviceIndex=index, **params
        )
        return str(made["AttachmentId"])

    def shown(self, eni_id: str) -> dict[str, Any]:
        """The ENI as DescribeNetworkInterfaces shows it."""
        found = self.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni_id])
        shape: dict[str, Any] = found["NetworkInterfaces"][0]
        return shape

    def addresses(self, eni_id: str) -> list[str]:
        return [one["PrivateIpAddress"] for one in self.shown(eni_id)["PrivateIpAddresses"]]

    def prefixes(self, eni_id: str) -> list[str]:
        return [one["Ipv4Prefix"] for one in self.shown(eni_id).get("Ipv4Prefixes", [])]

    def addresses_v6(self, eni_id: str) -> list[str]:
        return [one["Ipv6Address"] for one in self.shown(eni_id)["Ipv6Addresses"]]

    def prefixes_v6(self, eni_id: str) -> list[str]:
        return [one["Ipv6Prefix"] for one in self.shown(eni_id).get("Ipv6Prefixes", [])]

    def give_v6(self, subnet_id: str = "") -> None:
        """Give the VPC, and then one subnet, the block that IPv6 tests name."""
        self.emulator.backend.add_vpc_cidr_v6(self.vpc_id, IPv6Network("2001:db8:0:100::/56"))
        self.ec2.associate_subnet_cidr_block(
            SubnetId=subnet_id or self.subnet_id, Ipv6CidrBlock="2001:db8:0:101::/64"
        )

    def free(self, subnet_id: str = "") -> int:
        found = self.ec2.describe_subnets(SubnetIds=[subnet_id or self.subnet_id])
        return int(found["Subnets"][0]["AvailableIpAddressCount"])

    def primary(self, node: str) -> dict[str, Any]:
        return self.nics(node)[0]

    def nics(self, node: str) -> list[dict[str, Any]]:
        """The node's ENIs as DescribeInstances shows them."""
        found = self.ec2.describe_instances(InstanceIds=[node])
        nics: list[dict[str, Any]] = found["Reservations"][0]["Instances"][0]["NetworkInterfaces"]
        return nics


def refused(call: Callable[[], Any]) -> str:
    """The error code with which the call is refused."""
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return as soon as the condition holds; fail when it does not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.01)
