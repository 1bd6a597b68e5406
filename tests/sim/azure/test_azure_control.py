"""The control calls of the emulated Azure: EC2's names and rows, and what is Azure's own."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from providers.sim import control_calls
from providers.sim.azure_control import CALLS, AzureControlCalls
from providers.sim.azure_world import AzureWorld
from providers.sim.control import ControlClient, ControlError, ControlServer
from providers.sim.ec2 import Emulator
from providers.sim.imds import Imds, ImdsSettings
from tests.sim.azure.lab import AzureLab, config
from tests.sim.lab import RecordingListener

SUBNETS = [{"cidr": "10.1.1.0/24", "zone": "1"}, {"cidr": "10.1.2.0/28", "zone": "2"}]
# EC2's metadata service alone limits hops.
ONLY_EC2 = {"set_hop_limit"}


@dataclass(slots=True)
class FakeFabric(RecordingListener):
    """Records what the emulator asks of its fabric."""

    subnets: list[IPv4Network] = field(default_factory=list)
    drops: list[dict[str, Any]] = field(default_factory=list)

    def create(self) -> None: ...

    def destroy(self) -> None: ...

    def add_subnet(self, cidr: IPv4Network, cidr_v6: IPv6Network | None = None) -> None:
        self.subnets.append(cidr)

    def dropped(self) -> list[dict[str, Any]]:
        return self.drops

    def reset_dropped(self) -> None:
        self.drops = []

    def listening_socket(self, address: str, port: int) -> socket.socket:
        raise AssertionError("not asked for here")


@dataclass(slots=True)
class Controlled:
    """A lab with a fabric that records, behind a real control socket."""

    lab: AzureLab
    fabric: FakeFabric
    client: ControlClient

    def call(self, name: str, /, **args: Any) -> Any:
        return self.client.call(name, **args)

    def node(self, name: str = "n1", **more: Any) -> dict[str, Any]:
        more.setdefault("subnet_id", self.lab.subnet_id)
        path = f"/run/netns/{name}"
        made: dict[str, Any] = self.call("add_node", name=name, netns_path=path, **more)
        return made

    def row(self, kind: str, key: str, value: str) -> dict[str, Any]:
        rows: list[dict[str, Any]] = self.call("state")[kind]
        (found,) = (row for row in rows if row[key] == value)
        return found


@pytest.fixture
def controlled(tmp_path: Path) -> Iterator[Controlled]:
    lab, fabric = AzureLab(), FakeFabric()
    lab.world.state.listener = fabric
    calls = AzureControlCalls(lab.world, fabric)
    server = ControlServer(tmp_path / "control.sock", {n: getattr(calls, n) for n in CALLS})
    server.open()
    yield Controlled(lab, fabric, ControlClient(tmp_path / "control.sock"))
    server.close()
    lab.world.stop()


def test_every_call_of_ec2s_control_is_here_too() -> None:
    assert set(control_calls.CALLS) - set(CALLS) == ONLY_EC2


@pytest.mark.parametrize("kind", ["machines", "subnets", "enis"])
def test_the_rows_of_the_state_have_every_key_of_ec2s(controlled: Controlled, kind: str) -> None:
    ec2 = Emulator(seed=1)
    theirs = control_calls.ControlCalls(ec2, Imds(ec2, ImdsSettings(trusts_names=True)), None)
    vpc = theirs.make_vpc("10.0.0.0/16", [{"cidr": "10.0.1.0/24", "zone": "us-west-2a"}])
    made = theirs.add_node("n1", "m5.large", vpc["subnets"][0]["subnet_id"])
    assert made.keys() <= controlled.node().keys()
    assert theirs.state()[kind][0].keys() <= controlled.call("state")[kind][0].keys()
    ec2.stop()


def test_a_vnet_brings_up_its_routers(controlled: Controlled) -> None:
    made = controlled.call("make_vpc", cidr="10.1.0.0/16", subnets=SUBNETS)
    assert controlled.fabric.subnets == [IPv4Network("10.1.1.0/24"), IPv4Network("10.1.2.0/28")]
    assert [one["cidr"] for one in made["subnets"]] == ["10.1.1.0/24", "10.1.2.0/28"]
    assert made["subnets"][0]["subnet_id"].startswith(made["vpc_id"])


def test_ipv6_is_refused_and_not_ignored(controlled: Controlled) -> None:
    with pytest.raises(ControlError, match="IPv4 alone"):
        controlled.call("make_vpc", cidr="10.1.0.0/16", subnets=SUBNETS, cidr_v6="2001:db8::/56")


@pytest.mark.parametrize("kind", ["vm", "scale-set"])
def test_a_node_appears_with_its_nics_and_disappears_again(
    controlled: Controlled, kind: str
) -> None:
    node = controlled.node(kind=kind, nics=2)
    plugged = [event[1:] for event in controlled.fabric.events]
    assert plugged == [(eni["eni_id"].lower(), "/run/netns/n1") for eni in node["enis"]]
    assert (node["address"], node["gateway"]) == ("10.0.1.4", "10.0.1.1")
    assert controlled.row("machines", "instance_id", node["instance_id"])["kind"] == kind
    controlled.call("remove_node", instance_id=node["instance_id"].lower())
    state = controlled.call("state")
    assert (state["enis"], state["machines"]) == ([], [])
    assert [event[0] for event in controlled.fabric.events[2:]] == ["unplug", "unplug"]


def test_machines_alike_are_of_one_scale_set(controlled: Controlled) -> None:
    first, second = (controlled.node(name, kind="scale-set") for name in ("n1", "n2"))
    other = controlled.node("n3", kind="scale-set", instance_type="Standard_D8s_v5")
    sets = [one["instance_id"].split("/")[8] for one in (first, second, other)]
    assert sets[0] == sets[1] != sets[2]
    assert second["instance_id"].endswith("/1")


def test_a_machine_that_cannot_be_is_refused(controlled: Controlled) -> None:
    for wrong in ({"kind": "pod"}, {"instance_type": "m5.large"}, {"nics": 9}):
        with pytest.raises(ControlError):
            controlled.node(**wrong)


def test_the_fabric_hears_of_an_address_when_its_write_is_over(controlled: Controlled) -> None:
    controlled.call("set_delays", write_seconds=10)
    node = controlled.lab.instance(netns_path="/run/netns/n")
    controlled.lab.write_model(node, config("a"))
    assert [event[0] for event in controlled.fabric.events] == ["plug"]
    controlled.lab.advance(10)
    assert controlled.fabric.events[-1][2] == ("10.0.1.4", "10.0.1.5")


def test_delays_are_set_by_name_and_told(controlled: Controlled) -> None:
    controlled.call("set_delays", write_seconds=5, imds_lag_seconds=3)
    told = controlled.call("set_delays", instance_write_seconds=60)
    assert told == {
        "write_seconds": 5,
        "instance_write_seconds": 60,
        "imds_lag_seconds": 3,
        "retry_after_seconds": 10,
    }


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        pytest.param({"action": "*", "kind": "throttle"}, 429, id="throttled"),
        pytest.param({"action": "GET", "kind": "error", "status": 503}, 503, id="an error"),
        pytest.param(
            {"action": "GET */virtualMachines/*", "kind": "error", "code": "X"}, 500, id="by path"
        ),
        pytest.param({"action": "PUT", "kind": "error"}, 200, id="another method"),
        pytest.param({"action": "*", "kind": "error", "nth": 2}, 200, id="the second request"),
    ],
)
def test_a_fault_is_set_in_ec2s_words_or_arms(
    controlled: Controlled, fault: dict[str, Any], status: int
) -> None:
    vm = controlled.lab.vm()
    controlled.call("set_fault", **fault)
    assert controlled.lab.get(vm.vm_id).status == status
    controlled.call("clear_faults")
    assert controlled.lab.get(vm.vm_id).status == 200


def test_a_fault_can_be_one_machines(controlled: Controlled) -> None:
    one, two = controlled.lab.vm("vm1"), controlled.lab.instance()
    nics = [controlled.lab.nics(machine)[0].nic_id for machine in (one.vm_id, two.instance_id)]
    controlled.call("set_fault", action="*", kind="throttle", instance_id=two.instance_id)
    assert [controlled.lab.get(nic).status for nic in nics] == [200, 429]
    controlled.call("clear_faults")
    controlled.call("set_fault", action="*", kind="throttle", instance_id=one.vm_id)
    assert [controlled.lab.get(nic).status for nic in nics] == [429, 200]


def test_a_fault_can_last_for_a_time(controlled: Controlled) -> None:
    vm = controlled.lab.vm()
    controlled.call("set_fault", action="*", kind="throttle", for_seconds=30)
    controlled.lab.advance(29)
    assert controlled.lab.get(vm.vm_id).headers["retry-after"] == "1"
    controlled.lab.advance(1)
    assert controlled.lab.get(vm.vm_id).status == 200
    with pytest.raises(ControlError, match="more than 0 seconds"):
        controlled.call("set_fault", action="*", kind="throttle", for_seconds=0)


def test_a_fault_of_the_metadata_service_is_set_and_cleared(controlled: Controlled) -> None:
    controlled.call("set_imds_fault", kind="wrong_value", path="compute/name", value="x")
    assert len(controlled.lab.world.imds.settings.faults) == 1
    controlled.call("clear_faults")
    assert controlled.lab.world.imds.settings.faults == []


def test_other_tenants_fill_strew_and_free_a_subnet(controlled: Controlled) -> None:
    subnet_id = controlled.lab.subnet_id
    assert controlled.call("fragment_subnet", subnet_id=subnet_id, leave_free_per_block=15) == 14
    assert controlled.row("subnets", "subnet_id", subnet_id)["free_blocks"] == 0
    assert controlled.call("fill_subnet", subnet_id=subnet_id, leave_free=2) == 251 - 14 - 2
    assert controlled.row("subnets", "subnet_id", subnet_id)["free"] == 2
    assert controlled.call("free_addresses", subnet_id=subnet_id, count=3) == 3
    assert controlled.row("subnets", "subnet_id", subnet_id)["free"] == 5


def test_calls_and_throttled_ones_are_counted_by_route(controlled: Controlled) -> None:
    vm = controlled.lab.vm()
    controlled.call("set_buckets", profile="real")
    for _ in range(37):
        controlled.lab.get(vm.vm_id)
    assert controlled.call("calls") == {"virtualMachines.get": 37}
    assert controlled.call("throttled") == {"virtualMachines.get": 1}
    controlled.call("reset_calls")
    assert (controlled.call("calls"), controlled.call("throttled")) == ({}, {})
    with pytest.raises(ControlError, match="off or real"):
        controlled.call("set_buckets", profile="ec2")


def test_what_the_fabric_dropped_is_told_by_the_nics_own_id(controlled: Controlled) -> None:
    node = controlled.node("N1")
    eni_id = node["eni_id"]
    controlled.fabric.drops = [
        {"eni_id": eni_id.lower(), "kind": "ip", "source": "10.0.1.9", "packets": 2}
    ]
    assert controlled.call("dropped")[0]["eni_id"] == eni_id
    controlled.call("reset_dropped")
    assert controlled.call("dropped") == []


def test_options_are_set_by_their_values_and_told(controlled: Controlled) -> None:
    told = controlled.call(
        "options",
        network={"usage_of_block": 16, "busy": "409"},
        compute={"style": "location", "full_at": "put"},
        imds={"lists_blocks": "all"},
    )
    assert (told["network"]["usage_of_block"], told["network"]["busy"]) == (16, "409")
    assert (told["compute"]["style"], told["compute"]["full_at"]) == ("location", "put")
    assert told["imds"]["lists_blocks"] == "all"
    with pytest.raises(ControlError, match="no option colour"):
        controlled.call("options", compute={"colour": "red"})


@pytest.mark.parametrize("make", ["vm", "instance"])
def test_another_client_changes_a_nic(controlled: Controlled, make: str) -> None:
    lab = controlled.lab
    machine = getattr(lab, make)()
    machine_id = machine.vm_id if make == "vm" else machine.instance_id
    (nic,) = lab.nics(machine_id)
    controlled.call("out_of_band", eni_id=nic.nic_id, change="set_nsg", value="/nsg")
    (changed,) = lab.nics(machine_id)
    assert changed.document["properties"]["networkSecurityGroup"] == {"id": "/nsg"}
    assert changed.etag != nic.etag
    controlled.call("out_of_band", eni_id=nic.nic_id, change="delete_nic")
    assert lab.nics(machine_id) == []
    with pytest.raises(ControlError, match="is none of"):
        controlled.call("out_of_band", eni_id=nic.nic_id, change="paint")


def test_an_instance_is_reimaged_and_tokens_are_revoked(controlled: Controlled) -> None:
    lab, node = controlled.lab, controlled.lab.instance()
    controlled.call("reimage", instance_id=node.instance_id)
    assert lab.get(node.instance_id).status == 200
    controlled.call("revoke_tokens")
    assert lab.get(node.instance_id).status == 401


def test_without_a_fabric_nothing_is_known_of_drops() -> None:
    calls = AzureControlCalls(AzureWorld(), None)
    with pytest.raises(ValueError, match="without a fabric"):
        calls.dropped()
