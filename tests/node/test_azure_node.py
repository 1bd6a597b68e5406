"""Whole nodes on Azure: a virtual machine with two NICs, and an instance of a Uniform scale set.

Their NICs were there at boot, up, with what DHCP says. External SNAT is on, as pods of a flat Azure
network have it, so that every pod leaves with its own address and what answers the node's alone has
to be reached by the rules for just that.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path

import pytest

from providers.sim import demo_arm, demo_dns, netns, ping
from providers.sim.demo_http import http
from providers.sim.lab import Lab
from providers.sim.runtime import CniCall, Pod
from tests.node.ground import CONFIG, Site, code_of, until
from tests.node.kill_audit import audit
from tests.node.kill_driver import Victim, cloud_child_of
from tests.node.readings import ip_json

pytestmark = pytest.mark.netns

SUBNETS = ({"cidr": "10.0.0.0/24", "zone": "1"}, {"cidr": "10.0.1.0/24", "zone": "1"})
ENV = {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true", "IP_COOLDOWN_PERIOD": "2", "WARM_IP_TARGET": "1"}
BLOCKS = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1", "WARM_IP_TARGET": "0"}
WIRE_SERVER = "168.63.129.16"
WRITE_SECONDS = 0.5
"""So slow that pods wait for a NIC, while another NIC can be changed."""

ON_VM, ON_SCALE_SET = 4, 2
MOST_ON_VM = 24  # more than a NIC gets ahead of pods
FIRST_NIC = "az-vm-nic-0"


@dataclass(frozen=True, kw_only=True)
class Running:
    """A pod that runs, with its site and address."""

    site: Site
    pod: Pod
    address: str

    @property
    def eni_id(self) -> str:
        return self.site.ledger().addresses[self.address].eni_id


@pytest.fixture(scope="module")
def azure() -> Iterator[Lab]:
    """The emulated Azure. Its directory has a short path: a socket address holds 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="az-node-"))
    with Lab(directory, cloud="azure", fabric_name="azure") as made:
        made.start(subnets=SUBNETS)
        made.control.call("set_delays", write_seconds=WRITE_SECONDS)
        yield made
    shutil.rmtree(directory)


def site_of(
    azure: Lab, launcher: tuple[str, ...], name: str, env: Mapping[str, str], **machine: object
) -> Site:
    """A machine whose daemons serve. The CNI config names no MTU."""
    node = azure.add_node(name, env={**ENV, **env}, **machine)  # type: ignore[arg-type]
    config = {key: value for key, value in CONFIG.items() if key != "mtu"}
    site = Site(node, launcher, config)
    site.start()
    return site


def start_pods(site: Site, count: int, prefix: str) -> tuple[Running, ...]:
    """So many at once; each must start."""
    with ThreadPoolExecutor(count) as pool:
        pods = list(pool.map(site.add, (f"{prefix}-{number}" for number in range(count))))
    held = site.ledger().allocations
    return tuple(Running(site=site, pod=p, address=held[p.container_id].address) for p in pods)


@pytest.fixture(scope="module")
def pods(azure: Lab, launcher: tuple[str, ...]) -> tuple[Running, ...]:
    """Pods on both machines, and on both NICs of the virtual machine: while somebody else works on
    the first, the other one grows."""
    vm = site_of(azure, launcher, "az-vm", {}, kind="vm", nics=2)
    on_vm = list(start_pods(vm, ON_VM, "vm"))
    azure.control.call(
        "set_fault",
        action=f"PUT */networkInterfaces/{FIRST_NIC}",
        kind="error",
        status=409,
        code="AnotherOperationInProgress",
    )
    while all(one.eni_id.endswith(FIRST_NIC) for one in on_vm):
        assert len(on_vm) < MOST_ON_VM, "the second NIC never grew"
        on_vm += start_pods(vm, 1, f"vm-late-{len(on_vm)}")
    azure.control.call("clear_faults")
    scale_set = site_of(azure, launcher, "az-set", BLOCKS, kind="scale-set", subnet=1)
    return (*on_vm, *start_pods(scale_set, ON_SCALE_SET, "set"))


def test_pods_of_all_nics_reach_each_other_with_their_own_addresses(
    azure: Lab, pods: tuple[Running, ...]
) -> None:
    assert len({one.eni_id for one in pods}) == 3, "a pod on every NIC"
    probes = [
        ping.Probe(netns_path=one.pod.netns_path, source=one.address, target=other.address)
        for one, other in permutations(pods, 2)
    ]
    answers = ping.ping_all(probes, 2.0)
    assert [p for p, answer in zip(probes, answers, strict=True) if answer is None] == []
    assert azure.control.call("dropped") == []


def test_nics_and_pods_have_the_mtu_that_dhcp_says(pods: tuple[Running, ...]) -> None:
    for one in pods:
        (inside,) = ip_json(one.pod.netns_path, "link", "show", "dev", "eth0")
        assert inside["mtu"] == 1500
    links = {row["ifname"]: row["mtu"] for row in ip_json(pods[0].site.node.netns_path, "link")}
    assert (links["eth0"], links["eth1"]) == (1500, 1500)


def machine_name(netns_path: str) -> str:
    """What the metadata service calls the machine that asks from there."""
    return str(netns.call_in(netns_path, demo_arm.own_machine)["name"])


def test_pods_ask_dns_and_the_metadata_service_in_the_name_of_their_node(
    azure: Lab, pods: tuple[Running, ...]
) -> None:
    machines = {
        one.site.node.name: str(
            netns.call_in(one.site.node.netns_path, demo_arm.own_machine)["name"]
        )
        for one in pods
    }
    asking = {one.eni_id: one for one in pods}.values()  # one on each NIC
    for one in asking:
        for other in {each.site.node.name: each.site.node for each in pods}.values():
            assert other.identity is not None
            found = netns.call_in(
                one.pod.netns_path, partial(demo_dns.resolve, machines[other.name], WIRE_SERVER)
            )
            assert found == other.identity.address
        assert machine_name(one.pod.netns_path) == machines[one.site.node.name]
    assert azure.control.call("dropped") == []


def test_the_node_itself_reaches_the_wire_server(pods: tuple[Running, ...]) -> None:
    for site in {one.site.node.name: one.site for one in pods}.values():
        answer = netns.call_in(
            site.node.netns_path, lambda: http("GET", f"http://{WIRE_SERVER}/?comp=versions")
        )
        assert "<Versions>" in answer


def test_an_address_that_the_system_gives_the_node_is_no_pods(pods: tuple[Running, ...]) -> None:
    """As cloud-init does at boot with all that the metadata service lists."""
    site = pods[0].site
    site.settle()
    taken = min(site.ledger().in_state("available"))
    on_eth0 = (f"{taken}/24", "dev", "eth0")
    netns.run_in(site.node.netns_path, ["ip", "address", "add", *on_eth0])
    until(lambda: taken in site.ledger().in_state("quarantined"), what=f"{taken} in quarantine")
    assert "eth0 of the node has it" in site.problems()
    late = site.add("late")
    assert site.ledger().allocations[late.container_id].address != taken
    netns.run_in(site.node.netns_path, ["ip", "address", "delete", *on_eth0])
    until(lambda: taken in site.ledger().in_state("available"), what=f"{taken} for pods again")


def add_in_the_end(site: Site, name: str) -> Running:
    """As the kubelet: again and again, after the DEL of each ADD that failed."""
    refused: list[CniCall] = []

    def started() -> Pod | None:
        start = site.runtime.start_pod(name)
        if not start.add.is_ok:
            refused.append(start.add)
            assert code_of(start.add) == 11, start.add
        return start.pod if start.add.is_ok else None

    pod = until(started, seconds=40.0, what=f"{name}, refused with {refused}")
    return Running(site=site, pod=pod, address=site.ledger().allocations[pod.container_id].address)


def kill(site: Site, victim: Victim) -> None:
    """SIGKILL, and what a supervisor does then."""
    node = site.node
    match victim:
        case Victim.IPAMD:
            site.restart_ipamd()
        case Victim.CLOUD:
            child = until(lambda: cloud_child_of(node.ipamd.pid), what="the cloud child")
            os.kill(child, signal.SIGKILL)
        case Victim.CNID:
            node.cnid.kill()
            site.start_cnid()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["vm", "scale-set"])
def test_kills_in_the_middle_of_growth_lose_nothing(
    azure: Lab, launcher: tuple[str, ...], kind: str
) -> None:
    pace = {"AZURE_WRITE_SECONDS": "1", "AZURE_WRITE_INTERVAL_SECONDS": "1"}
    site = site_of(azure, launcher, f"az-kill-{kind}", pace, kind=kind)
    running: list[Running] = []
    for victim in (Victim.IPAMD, Victim.CLOUD, Victim.CNID):
        available = len(site.ledger().in_state("available"))
        with ThreadPoolExecutor(available + 2) as pool:
            names = (f"{victim.name.lower()}-{number}" for number in range(available + 2))
            started = [pool.submit(add_in_the_end, site, name) for name in names]
            until(lambda: site.ledger().open_intents, what="a change of a NIC under way")
            kill(site, victim)
            running += [one.result() for one in started]
    live = {one.pod.container_id: (one.pod, one.address) for one in running}
    with suppress(AssertionError):  # what differs is said below
        until(lambda: audit(site, azure, live) == [], what="one and the same story")
    assert audit(site, azure, live) == []
    assert azure.control.call("dropped") == []
