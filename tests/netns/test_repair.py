"""What another program takes away is back within a second, under running traffic, and nothing else
is touched."""

from __future__ import annotations

import functools
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import pytest
from cni_shim.datapath.conntrack import Conntrack
from cni_shim.datapath.desired import DesiredHost, EniReadiness
from cni_shim.datapath.diff import diff
from cni_shim.datapath.families import Address
from cni_shim.datapath.firewall_notices import FirewallNotices
from cni_shim.datapath.host import HostDatapath, observe
from cni_shim.datapath.policy import HostPolicy
from cni_shim.datapath.wiring import PodWiring
from cni_shim.late_snat import LateSnat
from cni_shim.node_watch import LEAST_GAP_SECONDS, NodeWatch
from cni_shim.pod_mtu import PodMtu
from cni_shim.settled_host import SettledHost
from cni_shim.take_over import TakeOver
from ipam_api.v1 import ipam_pb2 as pb

from providers.sim.model import WiredEni
from tests.netns.datapath_lab import inside, run
from tests.netns.routing_lab import (
    VPC_CIDRS,
    Node,
    Place,
    RoutingLab,
    make_netns,
    open_routing_lab,
    seen_source,
    wanted,
)
from tests.netns.test_routing import POLICY
from tests.netns.vpc_lab import desired_eni, wiring

pytestmark = pytest.mark.netns

LIMIT_SECONDS = 1.0
UNINTERRUPTED_SECONDS = 0.1
"""Less than this between two answers is a busy machine; one lost question alone takes 25 ms."""


class Ledger:
    """ipamd's side: takes every report."""

    def report(self, request: pb.ReportNodeRequest, *, seconds: float) -> pb.ReportNodeReply:
        return pb.ReportNodeReply(is_accepted=True)

    def get(self, key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        return pb.Allocation()


class NoVerbs:
    """Nothing is swept here, so that no verb's lock is asked for."""


class CountedHost:
    """The host's datapath, with its rounds counted."""

    def __init__(self, settled: SettledHost) -> None:
        self._settled = settled
        self.rounds = 0
        self.last_round = time.monotonic()
        self.is_ready = threading.Event()

    def apply(self, desired: DesiredHost) -> tuple[EniReadiness, ...]:
        self.rounds += 1
        self.last_round = time.monotonic()
        readiness = self._settled.apply(desired)
        if all(eni.is_ready for eni in readiness):
            self.is_ready.set()
        return readiness


@dataclass(kw_only=True)
class Flow:
    """A UDP connection that asks all the time, from `start` to `stop`."""

    client: socket.socket
    server: socket.socket
    answered: list[float] = field(default_factory=list)
    is_over: threading.Event = field(default_factory=threading.Event)
    threads: list[threading.Thread] = field(default_factory=list)

    def start(self) -> None:
        for body in (self._serve, self._ask):
            self.threads.append(threading.Thread(target=body))
            self.threads[-1].start()

    def stop(self) -> None:
        self.is_over.set()
        for thread in self.threads:
            thread.join()

    def _serve(self) -> None:
        while not self.is_over.is_set():
            try:
                data, sender = self.server.recvfrom(100)
                self.server.sendto(data, sender)
            except OSError:
                continue

    def _ask(self) -> None:
        while not self.is_over.is_set():
            asked = time.monotonic()
            try:
                self.client.send(b"%f" % asked)
                while self.client.recv(100) != b"%f" % asked:
                    pass
            except OSError:
                self.is_over.wait(0.005)
                continue
            self.answered.append(asked)
            self.is_over.wait(0.005)

    def wait_for_answer(self, asked_after: float) -> None:
        deadline = time.monotonic() + 5.0
        while not (self.answered and self.answered[-1] > asked_after):
            assert time.monotonic() < deadline, "no answer for five seconds"
            self.is_over.wait(0.005)

    def longest_gap(self, since: float) -> float:
        """Between two answered questions, in seconds; from the last one before `since` on."""
        return max(b - a for a, b in pairwise(self.answered) if b > since)


def open_flow(stack: ExitStack, client: Place, server: Place, port: int, version: int) -> Flow:
    made = []
    for place, timeout in ((client, 0.02), (server, 0.1)):
        with inside(place.netns.fd):
            family = socket.AF_INET if version == 4 else socket.AF_INET6
            made.append(stack.enter_context(socket.socket(family, socket.SOCK_DGRAM)))
        made[-1].settimeout(timeout)
    made[0].bind((str(client.addresses[version]), 0))
    made[1].bind((str(server.addresses[version]), port))
    made[0].connect((str(server.addresses[version]), port))
    flow = Flow(client=made[0], server=made[1])
    flow.start()
    stack.callback(flow.stop)
    return flow


@dataclass(kw_only=True)
class World:
    """A node that repairs itself, with a pod on its secondary ENI that talks to another node's pod
    and to the outside."""

    lab: RoutingLab
    host: CountedHost
    watch: NodeWatch
    pod: Place
    held: dict[tuple[str, str], tuple[Address, ...]]
    flows: Mapping[str, Flow]

    @property
    def node(self) -> Node:
        return self.lab.a

    def remaining(self) -> list[str]:
        """What the kernel lacks."""
        desired = wanted(POLICY, *self.node.enis)
        sock = self.node.netlink.socket()
        return self.node.call(
            lambda: [type(action).__name__ for action in diff(observe(sock, desired), desired)]
        )

    def wait_until_quiet(self) -> None:
        """Until nothing of before is still heard: what is repaired then was noticed."""
        self.wait_until(lambda: time.monotonic() > self.host.last_round + 2 * LEAST_GAP_SECONDS)

    def wait_until(self, holds: Callable[[], bool]) -> float:
        """Seconds until it does; at most five."""
        began = time.monotonic()
        while not holds():
            assert time.monotonic() < began + 5.0
            threading.Event().wait(0.01)
        return time.monotonic() - began


def network_of(enis: tuple[WiredEni, ...]) -> pb.NodeNetwork:
    return pb.NodeNetwork(
        epoch="e1",
        enis=[
            pb.NodeEni(
                eni_id=eni.eni_id,
                mac=eni.mac,
                primary_address=str(eni.primary_address),
                subnet_cidr=str(eni.subnet_cidr),
                gateway=str(eni.gateway),
                device_index=eni.device_index,
                route_table_id=eni.route_table_id,
                is_primary=eni.is_primary,
                subnet_cidr_v6=str(eni.subnet_cidr_v6),
                primary_address_v6=str(eni.primary_address_v6),
                gateway_v6=str(eni.gateway_v6),
            )
            for eni in map(desired_eni, enis)
        ],
        vpc_cidrs=[str(network) for network in VPC_CIDRS],
        policy=pb.HostPolicy(node_port_support=True, connmark=0x80),
    )


@contextmanager
def repairing(
    node: Node, held: dict[tuple[str, str], tuple[Address, ...]], directory: Path
) -> Iterator[tuple[CountedHost, NodeWatch]]:
    """vpc-cnid's own threads for the host, on the node."""
    with ExitStack() as stack, inside(node.netns.fd):
        late = LateSnat(Conntrack())
        node.host = HostDatapath(node.netlink, firewall_changed=late.firewall_changed)
        settled = SettledHost(node.host, node.pods, lambda: held, TakeOver())
        host = CountedHost(settled)
        watch = NodeWatch(
            Ledger(),
            host,
            node.pods,
            NoVerbs(),  # type: ignore[arg-type]
            mend=lambda: None,
            beat=lambda: None,
            pod_mtu=PodMtu(9001),
            eni_mtu=9001,
        )
        node.notices.subscribe(settled.on_notice)
        node.notices.subscribe(watch.on_notice)
        firewall = FirewallNotices(watch.on_notice)
        firewall.start()
        stack.callback(firewall.close)
        is_stopping = threading.Event()
        runs = (watch.run, late.run)
        threads = [threading.Thread(target=run, args=(is_stopping.is_set,)) for run in runs]
        watch.wanted(network_of(node.enis))
        for thread in threads:
            thread.start()
        try:
            assert host.is_ready.wait(timeout=5)
            yield host, watch
        finally:
            is_stopping.set()
            watch.wanted(network_of(node.enis))  # wakes it
            late.firewall_changed(wanted(HostPolicy()))
            for thread in threads:
                thread.join()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    held: dict[tuple[str, str], tuple[Address, ...]] = {}
    with open_routing_lab() as lab, ExitStack() as stack:
        lab.b.apply_until_ready(POLICY)
        host, watch = stack.enter_context(repairing(lab.a, held, tmp_path))
        pod, other = lab.a.add_pod(1), lab.b.add_pod(1)
        held[pod_key(1)] = (pod.addresses[4], pod.addresses[6])
        flows = {
            "pod to pod": open_flow(stack, pod, other, 7, 4),
            "pod to pod, IPv6": open_flow(stack, pod, other, 7, 6),
            "pod to the outside": open_flow(stack, pod, lab.outside, 7, 4),
        }
        for flow in flows.values():
            flow.wait_for_answer(0.0)
        made = World(lab=lab, host=host, watch=watch, pod=pod, held=held, flows=flows)
        made.wait_until_quiet()
        yield made


def pod_key(number: int) -> tuple[str, str]:
    """The key of a node's pod <number>, as `vpc_lab.wiring` makes it."""
    return f"{number:064x}", "eth0"


DAMAGES = [
    ["nft flush ruleset"],
    ["nft delete table inet vpc-ipamd"],
    ["nft flush table inet vpc-ipamd"],
    ["nft flush chain inet vpc-ipamd mark-pods"],
    ["ip rule delete pref 512", "ip -6 rule delete pref 512"],
    ["ip rule delete pref 1024"],
    ["ip rule delete pref 1536", "ip -6 rule delete pref 1536"],
    ["ip rule flush", "ip rule add pref 32766 lookup main"],
    ["ip route flush table 2", "ip -6 route flush table 2"],
    ["ip route delete default table 2"],
    ["ip route replace default via 10.0.0.1 dev eth0 table 2"],
    ["ip route flush table 5120", "ip -6 route flush table 5120"],
    ["ip address flush dev eth1"],
    ["ip link set eth1 down"],
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage[0])
def test_traffic_is_back_within_a_second(world: World, damage: list[str]) -> None:
    began = time.monotonic()
    for command in damage:
        world.node.run(*command.split())
    done = time.monotonic()
    world.wait_until(lambda: world.remaining() == [])
    for name, flow in world.flows.items():
        flow.wait_for_answer(done + 0.3)
        assert flow.longest_gap(began) < LIMIT_SECONDS, name


def test_a_pods_route_alone_is_put_back(world: World) -> None:
    address = str(world.pod.addresses[4])
    world.node.run("ip", "route", "delete", address, "table", "5120")
    deleted = time.monotonic()
    flow = world.flows["pod to pod"]
    flow.wait_for_answer(deleted)
    assert flow.longest_gap(deleted) < LIMIT_SECONDS
    assert address in world.node.run("ip", "route", "show", "table", "5120", "proto", "119")


def test_pods_that_come_and_go_cause_no_round(world: World) -> None:
    """Of either family, by IPv6 too, whose routes the kernel takes back with a notice each."""
    before = world.host.rounds
    for number in range(10, 20):
        pod = make_netns(world.lab.stack, f"repair-pod-{number}")
        wired = wiring(number, world.node.enis[1])
        world.node.call(functools.partial(world.node.pods.wire, pod.fd, wired))
        world.node.call(functools.partial(unwire, world.node, wired))
    world.wait_until_quiet()
    assert world.host.rounds == before


def test_a_pod_that_goes_while_its_route_is_restored_leaves_none(world: World) -> None:
    """Its link goes under the lock that the restorer takes, and looks at the link after."""
    for number in range(10, 20):
        pod = make_netns(world.lab.stack, f"repair-pod-{number}")
        wired = wiring(number, world.node.enis[1])
        world.held[pod_key(number)] = wired.addresses
        world.node.call(functools.partial(world.node.pods.wire, pod.fd, wired))
        world.node.run("ip", "route", "flush", "table", "5120")
        world.node.call(functools.partial(unwire, world.node, wired))
    world.wait_until_quiet()
    left = world.node.run("ip", "route", "show", "table", "5120").splitlines()
    assert [line.split()[0] for line in left] == [str(world.pod.addresses[4])]


def test_whoever_deletes_our_rules_all_the_time_costs_a_few_rounds_a_second(world: World) -> None:
    before, began = world.host.rounds, time.monotonic()
    flow = world.flows["pod to pod"]
    while time.monotonic() < began + 2.0:
        with suppress(AssertionError):  # not yet back
            world.node.run("ip", "rule", "delete", "pref", "1536")
    ended = time.monotonic()
    rounds = world.host.rounds - before
    assert 2 <= rounds <= (ended - began) / LEAST_GAP_SECONDS + 1
    flow.wait_for_answer(ended)
    assert flow.answered[-1] - ended < LIMIT_SECONDS


FOREIGN = """
table ip filter { chain cali-FORWARD { ct mark & 0xffff0000 == 0x10000 accept
}
chain FORWARD { type filter hook forward priority filter; jump cali-FORWARD
}
}
table ip nat { chain KUBE-SERVICES { ip daddr 172.20.0.1 tcp dport 443 dnat to 10.0.0.6:443
}
chain PREROUTING { type nat hook prerouting priority dstnat; jump KUBE-SERVICES
}
chain POSTROUTING { type nat hook postrouting priority srcnat;
    meta mark & 0x4000 == 0x4000 masquerade
}
}
table inet kube-proxy { set cluster-ips { type ipv4_addr; elements = { 172.20.0.1 }
}
}
"""
FOREIGN_ROUTING = [
    "ip rule add pref 100 fwmark 0x200/0xf00 lookup 77",
    "ip rule add pref 512 to 10.0.0.77 lookup main",
    "ip rule add pref 1536 from 10.0.1.77 lookup 2",
    "ip rule add pref 1024 fwmark 0x10000/0x10000 lookup 77",
    "ip route add 10.8.0.0/16 via 10.0.0.1 dev eth0 table 77",
    "ip route add 10.0.0.77 dev lo",
    "ip route add 192.168.7.0/24 via 10.0.0.1 dev eth0 proto bird",
]


def foreign_state(node: Node) -> list[str]:
    """All that is not ours of rules, routes and tables, as the tools list it."""
    lines = [
        line.rstrip()
        for command in ("ip rule", "ip -6 rule", "ip route show table all")
        for line in node.run(*command.split()).splitlines()
        if "proto 119" not in line
    ]
    tables = node.run("nft", "list", "tables").splitlines()
    listings = [node.run("nft", "list", *t.split()) for t in tables if "vpc-ipamd" not in t]
    return [*lines, *listings]


def test_what_others_own_is_never_touched(world: World) -> None:
    """Beside kube-proxy, Calico and the rules of aws-node's plugin, through damage, a change of
    policy and the loss of an ENI."""
    node = world.node
    node.call(lambda: run("nft", FOREIGN))
    for command in FOREIGN_ROUTING:
        node.run(*command.split())
    before = foreign_state(node)
    node.run("nft", "delete", "table", "inet", "vpc-ipamd")
    node.run("ip", "rule", "delete", "pref", "1024", "fwmark", "0x80/0x80")
    node.run("ip", "route", "flush", "table", "5120")
    world.wait_until(lambda: world.remaining() == [])
    node.apply(HostPolicy(connmark=0x100, has_node_port_support=True))
    node.call(lambda: node.host.apply(wanted(POLICY, node.enis[0])))
    node.apply(POLICY)
    assert foreign_state(node) == before


def unwire(node: Node, wired: PodWiring) -> bool:
    return node.pods.unwire(
        wired.container_id,
        wired.ifname,
        wired.pod_namespace,
        wired.pod_name,
        wired.veth_prefix,
        wired.addresses,
    )


def test_a_new_network_of_the_vpc_takes_effect_at_once_and_interrupts_nobody(
    world: World,
) -> None:
    """The next connection there keeps the pod's address; one that runs stays as it was."""
    node, outside = world.node, world.lab.outside
    before = seen_source(world.pod, outside, port=8)
    began = time.monotonic()
    network = network_of(node.enis)
    network.vpc_cidrs.append("198.51.100.0/24")
    world.watch.wanted(network)
    world.wait_until(
        lambda: "198.51.100.0/24" in node.run("nft", "list", "table", "inet", "vpc-ipamd")
    )
    assert before == node.enis[0].primary_address
    assert seen_source(world.pod, outside, port=8) == world.pod.addresses[4]
    for name, flow in world.flows.items():
        flow.wait_for_answer(time.monotonic())
        assert flow.longest_gap(began) < UNINTERRUPTED_SECONDS, name


def test_external_snat_leaves_running_connections_as_they_are(world: World) -> None:
    change(world, node_port_support=True)
    flow, changed = world.flows["pod to the outside"], time.monotonic()
    flow.wait_for_answer(changed)
    assert flow.longest_gap(changed) < UNINTERRUPTED_SECONDS


def test_what_nobody_answered_follows_the_policy_from_its_next_packet(world: World) -> None:
    """As what was opened while the rules were away; a log that is sent without an answer, say."""
    change(world, node_port_support=True)
    outside = world.lab.outside
    with one_way(world.pod, outside, 9) as (sending, hearing):
        sending.send(b"before")
        assert hearing.recvfrom(100)[1][0] == str(world.pod.addresses[4])
        world.watch.wanted(network_of(world.node.enis))

        def source() -> str:
            sending.send(b"after")
            with suppress(TimeoutError):
                return str(hearing.recvfrom(100)[1][0])
            return ""

        world.wait_until(lambda: source() == str(world.node.enis[0].primary_address))


def test_what_began_without_snat_is_not_sent_where_the_vpc_drops_it(world: World) -> None:
    """Until it is forgotten, or where that cannot be: as it went before."""
    change(world, node_port_support=True)
    node, own = world.node, world.pod.addresses[4]
    with one_way(world.pod, world.lab.outside, 9) as (sending, hearing):
        sending.send(b"before")
        hearing.recv(100)
        node.call(lambda: HostDatapath(node.netlink).apply(wanted(POLICY, *node.enis)))
        sending.send(b"after")
        assert hearing.recvfrom(100)[1][0] == str(own)


@contextmanager
def one_way(
    client: Place, server: Place, port: int
) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two UDP sockets; the server's hears for 0.3 s at most."""
    with ExitStack() as stack:
        made = []
        for place in (client, server):
            with inside(place.netns.fd):
                one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            made.append(stack.enter_context(one))
        made[1].bind((str(server.addresses[4]), port))
        made[1].settimeout(0.3)
        made[0].connect((str(server.addresses[4]), port))
        yield made[0], made[1]


def test_without_snat_and_node_ports_connections_that_were_snated_end(world: World) -> None:
    flow = world.flows["pod to the outside"]
    change(world, node_port_support=False)
    changed = time.monotonic()
    world.flows["pod to pod"].wait_for_answer(changed + 0.2)
    assert flow.answered[-1] < changed


def change(world: World, *, node_port_support: bool) -> None:
    """To external SNAT; returns when the next connection has the pod's own address."""
    # As long as anybody has a nat chain, the kernel goes on translating connections of before.
    world.node.call(lambda: run("nft", FOREIGN))
    network = network_of(world.node.enis)
    network.policy.external_snat = True
    network.policy.node_port_support = node_port_support
    world.watch.wanted(network)
    outside, own = world.lab.outside, world.pod.addresses[4]
    world.wait_until(lambda: seen_source(world.pod, outside, port=8) == own)
