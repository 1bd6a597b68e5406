"""The control socket, and the server as a process of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from providers.sim.control import ControlClient, ControlError, ControlServer
from providers.sim.control_calls import CALLS, ControlCalls
from providers.sim.ec2 import Emulator
from providers.sim.http_door import Call
from providers.sim.imds import Imds, ImdsSettings
from providers.sim.server import Cloud, parsed
from tests.sim.lab import ManualClock, RecordingListener, ec2_client, refused, wait_until

SUBNETS: list[dict[str, Any]] = [{"cidr": "10.0.1.0/24", "zone": "us-west-2a"}]


@dataclass(slots=True)
class FakeFabric(RecordingListener):
    """Records what the emulator asks of its fabric."""

    subnets: list[tuple[IPv4Network, IPv6Network | None]] = field(default_factory=list)
    drops: list[dict[str, Any]] = field(default_factory=list)

    def create(self) -> None: ...

    def destroy(self) -> None: ...

    def add_subnet(self, cidr: IPv4Network, cidr_v6: IPv6Network | None = None) -> None:
        self.subnets.append((cidr, cidr_v6))

    def dropped(self) -> list[dict[str, Any]]:
        return self.drops

    def reset_dropped(self) -> None:
        self.drops = []

    def listening_socket(self, address: str, port: int) -> Any:
        raise AssertionError("not asked for here")


@dataclass(slots=True)
class Controlled:
    client: ControlClient
    fabric: FakeFabric
    emulator: Emulator
    imds: Imds
    clock: ManualClock

    def call(self, name: str, /, **args: Any) -> Any:
        return self.client.call(name, **args)

    def node(self) -> dict[str, Any]:
        vpc = self.call("make_vpc", cidr="10.0.0.0/16", subnets=SUBNETS)
        subnet_id = vpc["subnets"][0]["subnet_id"]
        node: dict[str, Any] = self.call(
            "add_node",
            name="n1",
            instance_type="m5.large",
            subnet_id=subnet_id,
            netns_path="/run/netns/n1",
        )
        return node | {"subnet_id": subnet_id}


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[Controlled]:
    clock, fabric = ManualClock(), FakeFabric()
    emulator = Emulator(seed=1, clock=clock)
    emulator.state.listener = fabric
    imds = Imds(emulator, ImdsSettings(trusts_names=True))
    calls = ControlCalls(emulator, imds, fabric)
    server = ControlServer(tmp_path / "control.sock", {n: getattr(calls, n) for n in CALLS})
    server.open()
    yield Controlled(ControlClient(tmp_path / "control.sock"), fabric, emulator, imds, clock)
    server.close()
    emulator.stop()


def test_a_vpc_brings_up_its_routers(controlled: Controlled) -> None:
    vpc = controlled.call("make_vpc", cidr="10.0.0.0/16", subnets=SUBNETS)
    assert vpc["security_group_id"].startswith("sg-")
    assert controlled.fabric.subnets == [(IPv4Network("10.0.1.0/24"), None)]


def test_a_vpc_can_have_several_blocks_both_families_and_tags(controlled: Controlled) -> None:
    vpc = controlled.call(
        "make_vpc",
        cidr="10.0.0.0/16",
        more_cidrs=["100.64.0.0/16"],
        cidr_v6="2001:db8:0:100::/56",
        tags={"k": "vpc"},
        subnets=[
            {
                "cidr": "100.64.0.0/20",
                "zone": "us-west-2b",
                "tags": {"kubernetes.io/role/cni": "1"},
            },
            {"cidr": "10.0.1.0/24", "zone": "us-west-2a", "cidr_v6": "2001:db8:0:101::/64"},
        ],
    )
    backend = controlled.emulator.backend
    pods, nodes = vpc["subnets"]
    assert controlled.fabric.subnets == [
        (IPv4Network("100.64.0.0/20"), None),
        (IPv4Network("10.0.1.0/24"), IPv6Network("2001:db8:0:101::/64")),
    ]
    assert backend.vpc_cidrs(vpc["vpc_id"]) == ["10.0.0.0/16", "100.64.0.0/16"]
    assert (backend.vpc_cidrs_v6(vpc["vpc_id"]), nodes["cidr_v6"], pods["cidr_v6"]) == (
        ["2001:db8:0:100::/56"],
        "2001:db8:0:101::/64",
        "",
    )
    assert backend.tags_of(pods["subnet_id"]) == {"kubernetes.io/role/cni": "1"}
    assert backend.tags_of(vpc["vpc_id"]) == {"k": "vpc"}


@pytest.mark.parametrize(
    ("subnet", "text"),
    [
        ({"cidr_v6": "2001:db8:9::/64"}, "none of the VPC"),
        ({"assigns_v6": True}, "needs a cidr_v6"),
        ({"colour": "red"}, "no colour"),
    ],
)
def test_a_subnet_that_cannot_be_is_refused(
    controlled: Controlled, subnet: dict[str, Any], text: str
) -> None:
    with pytest.raises(ControlError, match=text):
        controlled.call("make_vpc", cidr="10.0.0.0/16", subnets=[SUBNETS[0] | subnet])


def test_a_node_is_told_its_network_and_plugged(controlled: Controlled) -> None:
    node = controlled.node()
    assert (node["address"], node["gateway"], node["subnet_cidr"]) == (
        "10.0.1.4",
        "10.0.1.1",
        "10.0.1.0/24",
    )
    assert controlled.fabric.events == [("plug", node["eni_id"], "/run/netns/n1")]


def test_a_removed_node_is_unplugged(controlled: Controlled) -> None:
    node = controlled.node()
    controlled.call("remove_node", instance_id=node["instance_id"])
    assert controlled.fabric.events[-1] == ("unplug", node["eni_id"])
    assert controlled.call("state")["machines"] == []


def test_other_tenants_fill_a_subnet_and_give_back(controlled: Controlled) -> None:
    subnet_id = controlled.node()["subnet_id"]

    def free() -> int:
        rows = controlled.call("state")["subnets"]
        return int(next(row["free"] for row in rows if row["subnet_id"] == subnet_id))

    controlled.call("fill_subnet", subnet_id=subnet_id, leave_free=2)
    filled = free()
    given = controlled.call("free_addresses", subnet_id=subnet_id, count=5)
    assert (filled, given, free()) == (2, 5, 7)


def test_a_fragmented_subnet_has_no_whole_block_until_tenants_give_back(
    controlled: Controlled,
) -> None:
    subnet_id = controlled.node()["subnet_id"]

    def row() -> tuple[int, int]:
        rows = controlled.call("state")["subnets"]
        mine = next(one for one in rows if one["subnet_id"] == subnet_id)
        return mine["free"], mine["free_blocks"]

    seen = [row()]
    taken = [controlled.call("fragment_subnet", subnet_id=subnet_id)]
    seen.append(row())
    taken.append(controlled.call("fragment_subnet", subnet_id=subnet_id))
    controlled.call("free_addresses", subnet_id=subnet_id, count=14)
    taken.append(controlled.call("fragment_subnet", subnet_id=subnet_id, leave_free_per_block=4))
    assert (seen, taken, row()) == ([(250, 14), (236, 0)], [14, 0, 168], (82, 0))


def test_a_fault_of_the_control_socket_can_end_by_time(controlled: Controlled) -> None:
    clock = controlled.clock
    controlled.call("set_fault", action="*", kind="throttle", for_seconds=300)
    controlled.call("set_imds_fault", kind="missing_eni", value="eni-1", seconds=60)
    (imds_fault,) = controlled.imds.settings.faults
    seen = []
    for _ in range(2):
        seen.append(len(controlled.emulator.faults.take("DescribeVpcs", (), clock.now)))
        seen.append(imds_fault.strikes(clock.now, "i-1"))
        clock.advance(300)
    assert seen == [1, True, 0, False]


@pytest.mark.parametrize(("given", "has_buckets"), [([], False), (["--buckets", "ec2"], True)])
def test_a_flag_of_the_server_puts_the_buckets_in_force(
    tmp_path: Path, given: list[str], has_buckets: bool
) -> None:
    options = parsed(["--dir", str(tmp_path), *given])
    assert (Cloud(options).emulator.buckets is not None) is has_buckets


def test_buckets_are_switched_and_throttled_calls_told(
    controlled: Controlled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(controlled.emulator, "clock", ManualClock())
    controlled.call("set_buckets", profile="ec2")
    call = Call(
        method="POST",
        path="/",
        headers={},
        body=b"Action=CreateDefaultVpc&Version=2016-11-15",
        peer="127.0.0.1",
    )
    for _ in range(3):
        controlled.emulator.respond(call)
    seen = controlled.call("throttled")
    controlled.call("reset_calls")
    assert (seen, controlled.call("throttled")) == ({"CreateDefaultVpc": 2}, {})


def test_delays_not_named_stay(controlled: Controlled) -> None:
    controlled.call("set_delays", attach_seconds=1.5)
    assert controlled.call("set_delays", imds_lag_seconds=2) == {
        "attach_seconds": 1.5,
        "detach_seconds": 0.0,
        "imds_lag_seconds": 2.0,
        "visibility_seconds": 0.0,
    }


def test_the_state_names_every_eni(controlled: Controlled) -> None:
    node = controlled.node()
    (row,) = controlled.call("state")["enis"]
    assert (row["eni_id"], row["status"], row["instance_id"], row["addresses"]) == (
        node["eni_id"],
        "attached",
        node["instance_id"],
        ["10.0.1.4"],
    )


def test_drops_come_from_the_fabric(controlled: Controlled) -> None:
    controlled.fabric.drops = [
        {"eni_id": "eni-1", "kind": "ip", "source": "10.0.1.9", "packets": 3}
    ]
    seen = controlled.call("dropped")
    controlled.call("reset_dropped")
    assert (seen[0]["packets"], controlled.call("dropped")) == (3, [])


@pytest.mark.parametrize(
    ("name", "args", "text"),
    [
        ("make_tea", {}, "no such call"),
        ("set_fault", {"action": "*", "kind": "whim"}, "whim"),
        ("add_node", {"name": "n", "instance_type": "m5.large", "subnet_id": "subnet-0"}, "subnet"),
        ("add_node", {"name": "n"}, "instance_type"),
        ("set_delays", {"attach_seconds": -1}, "negative"),
        ("set_hop_limit", {"hops": 0}, "hop limit"),
        ("set_buckets", {"profile": "azure"}, "off or ec2"),
        ("set_fault", {"action": "*", "kind": "throttle", "for_seconds": 0}, "more than 0"),
        ("fragment_subnet", {"subnet_id": "s", "leave_free_per_block": 16}, "0 to 15"),
    ],
)
def test_a_call_that_cannot_be_is_refused_with_a_reason(
    controlled: Controlled, name: str, args: dict[str, Any], text: str
) -> None:
    with pytest.raises(ControlError, match=text):
        controlled.call(name, **args)


def test_an_absent_emulator_is_a_control_error(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="nowhere"):
        ControlClient(tmp_path / "nowhere").call("state")


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "providers.sim.server", "--dir", str(tmp_path), "--seed", "5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        yield server
        server.kill()


def test_the_server_serves_and_stops_cleanly(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    path = tmp_path / "control.sock"
    control, client = ControlClient(path), ec2_client(ready["ec2"])
    mode = path.stat().st_mode & 0o777
    vpc = control.call("make_vpc", cidr="10.0.0.0/16", subnets=SUBNETS)
    subnet_id = vpc["subnets"][0]["subnet_id"]
    node = control.call("add_node", name="n1", instance_type="m5.large", subnet_id=subnet_id)
    made = client.create_network_interface(SubnetId=subnet_id)["NetworkInterface"]
    control.call("set_delays", attach_seconds=0.1)
    client.attach_network_interface(
        NetworkInterfaceId=made["NetworkInterfaceId"], InstanceId=node["instance_id"], DeviceIndex=1
    )
    # Nobody calls the API here: the timer alone must bring the ENI to `attached`.
    wait_until(lambda: control.call("state")["enis"][1]["status"] == "attached")
    control.call("set_fault", action="DescribeSubnets", kind="throttle", count=1)
    throttled = refused(client.describe_subnets)
    with pytest.raises(ControlError, match="without a fabric"):
        control.call("dropped")
    counted = control.call("calls")["AttachNetworkInterface"]
    client.close()
    process.send_signal(signal.SIGTERM)
    assert (process.wait(10), mode, throttled, counted, path.exists()) == (
        0,
        0o600,
        "RequestLimitExceeded",
        1,
        False,
    )


def test_the_server_stops_while_a_fault_holds_a_connection(
    process: subprocess.Popen[str], tmp_path: Path
) -> None:
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    control = ControlClient(tmp_path / "control.sock")
    control.call("set_fault", action="*", kind="timeout_before", seconds=60)
    impatient = ec2_client(ready["ec2"], read_seconds=0.2)
    with pytest.raises(Exception, match="Read timeout"):
        impatient.describe_subnets()
    impatient.close()
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(10) == 0
