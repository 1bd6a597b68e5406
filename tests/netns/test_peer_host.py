"""A host goes from aws-node to us and back with pods running, and no packet is lost on the way.

Pods of both agents on both ENIs talk to each other, to another node and out of the VPC all the
time; what leaves the VPC opens a connection for every datagram.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address
from itertools import permutations

import pytest
from cni_shim.datapath import own_host, peer_host
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.policy import HostPolicy

from tests.netns.peer_agent import PeerAgent
from tests.netns.routing_lab import (
    OUTSIDE,
    Node,
    Place,
    RoutingLab,
    make_netns,
    open_routing_lab,
)
from tests.netns.streams import Flow, Streams
from tests.netns.vpc_lab import pod_addresses

pytestmark = pytest.mark.netns

POLICY = HostPolicy(has_snat=True, has_node_port_support=True)
KINDS = pytest.mark.parametrize("kind", ["legacy", "nft"])


@dataclass(kw_only=True)
class World:
    """A node that aws-node has set up, a node of ours, and somebody outside."""

    lab: RoutingLab
    agent: PeerAgent
    pods: dict[str, Place] = field(default_factory=dict)

    @property
    def node(self) -> Node:
        return self.lab.a

    @property
    def primary(self) -> str:
        return str(self.node.enis[0].primary_address)

    def add_theirs(self, device_index: int, number: int) -> None:
        """A pod that aws-node's plugin wires."""
        eni = self.node.enis[device_index]
        (address,) = pod_addresses(eni, number, "4")
        assert isinstance(address, IPv4Address)
        name = f"theirs-{device_index}-{number}"
        pod = make_netns(self.lab.stack, f"peer-{name}")
        self.node.call(lambda: self.agent.wire(pod, eni, address, name))
        self.pods[name] = Place(netns=pod, addresses={4: address})

    def add_ours(self, device_index: int) -> None:
        """A pod that we wire."""
        self.pods[f"ours-{device_index}-{len(self.pods)}"] = self.node.add_pod(device_index)

    def streams(self) -> Streams:
        """All of them talk."""
        places = {**self.pods, "far": self.lab.b.add_pod(1)}
        inside = [
            self.flow(one, places[one], other, places[other])
            for one, other in permutations(places, 2)
        ]
        outside = Place(netns=self.lab.outside.netns, addresses={4: OUTSIDE[4]})
        leaving = [
            replace(self.flow(one, self.pods[one], f"outside {how}", outside), is_fresh=is_fresh)
            for one in self.pods
            for how, is_fresh in (("again", False), ("anew", True))
        ]
        return Streams([*inside, *leaving])

    def flow(self, one: str, client: Place, other: str, server: Place) -> Flow:
        return Flow(
            name=f"{one} -> {other}",
            client_netns=f"/run/netns/{client.netns.name}",
            client=client.addresses[4],
            server_netns=f"/run/netns/{server.netns.name}",
            server=server.addresses[4],
        )


@pytest.fixture
def world(kind: str) -> Iterator[World]:
    with open_routing_lab() as lab:
        made = World(lab=lab, agent=PeerAgent(kind, lab.a.enis))
        lab.a.call(made.agent.set_up)
        lab.b.apply_until_ready(POLICY)
        for device_index in (0, 0, 1, 1):
            made.add_theirs(device_index, 20 + len(made.pods))
        yield made


def take_over(world: World) -> None:
    """As vpc-cnid does it after its start."""
    world.node.apply_until_ready(POLICY)
    world.node.call(lambda: peer_host.remove(peer_host.look()))


def hand_back(world: World) -> None:
    """As the commands do it, with aws-node's start between them."""
    node = world.node
    node.call(lambda: own_host.restore(node.netlink))
    node.call(world.agent.set_up)
    node.call(lambda: own_host.remove(node.netlink, own_host.look(node.netlink)))


def sources_outside(streams: Streams) -> set[str]:
    """Whom the outside saw."""
    return {s for name, seen in streams.sources.items() if " -> outside" in name for s in seen}


@KINDS
def test_taking_over_loses_no_packet_and_nobody_leaves_with_another_address(world: World) -> None:
    with world.streams() as streams:
        streams.pass_time()
        take_over(world)
        streams.pass_time()
        assert world.node.call(world.agent.chains) == []
    assert streams.lost == {}
    assert sources_outside(streams) == {world.primary}
    assert world.lab.drops() == set()


@KINDS
def test_the_way_back_loses_no_packet_of_either_agents_pods(world: World) -> None:
    take_over(world)
    for device_index in (0, 1):
        world.add_ours(device_index)
    node = world.node
    with world.streams() as streams:
        streams.pass_time()
        hand_back(world)
        streams.pass_time()
        left = node.call(lambda: own_host.look(node.netlink))
        assert (left.has_firewall, left.rules, left.pod_routes) == (False, (), ())
    assert streams.lost == {}
    assert sources_outside(streams) == {world.primary}
    assert world.lab.drops() == set()


@KINDS
def test_there_and_back_again_and_there(world: World) -> None:
    take_over(world)
    world.add_ours(0)
    world.add_ours(1)
    with world.streams() as streams:
        for _ in range(2):
            hand_back(world)
            take_over(world)
            world.node.call(lambda: world.node.pods.settle({}, frozenset({0, 2})))
    assert streams.lost == {}
    assert sources_outside(streams) == {world.primary}


@KINDS
def test_after_aws_nodes_start_no_rule_of_ours_is_left_where_it_has_its_own(world: World) -> None:
    take_over(world)
    world.agent.is_gentle = False
    hand_back(world)
    assert " 119" not in world.node.run("ip", "-4", "rule")
    # It has nothing of IPv6 on a node of IPv4, so what we had there stays.
    left = world.node.call(lambda: own_host.look(world.node.netlink))
    assert [(rule.family, rule.priority) for rule in left.kept] == [(10, 1024), (10, 32765)]


@KINDS
def test_after_the_way_back_aws_nodes_plugin_finds_all_of_a_pod_of_ours(world: World) -> None:
    take_over(world)
    world.add_ours(1)
    (ours,) = (pod for name, pod in world.pods.items() if name.startswith("ours"))
    hand_back(world)
    address = ours.addresses[4]
    assert isinstance(address, IPv4Address)
    world.node.call(lambda: world.agent.unwire(address))
    listed = world.node.run("ip", "rule") + world.node.run("ip", "route", "show", "table", "all")
    assert str(address) not in listed


@KINDS
def test_what_others_keep_in_iptables_stays(world: World, kind: str) -> None:
    program = f"iptables-{kind}"
    others = (
        ("nat", "-N", "KUBE-SERVICES"),
        ("nat", "-A", "PREROUTING", "-m", "comment", "--comment", "AWS, of somebody else",
         "-j", "KUBE-SERVICES"),
        ("nat", "-A", "POSTROUTING", "-s", "192.0.2.0/24", "-j", "MASQUERADE"),
        ("mangle", "-A", "PREROUTING", "-i", "lo", "-j", "CONNMARK", "--save-mark"),
        ("filter", "-A", "FORWARD", "-m", "comment", "--comment", "AWS-SNAT-CHAIN-0", "-j",
         "ACCEPT"),
    )  # fmt: skip
    for table, *words in others:
        world.node.run(program, "-t", table, *words)
    before = rules_of_others(world, kind)
    take_over(world)
    assert rules_of_others(world, kind) == before
    assert len(before) == 5


def rules_of_others(world: World, kind: str) -> list[str]:
    saved = world.node.run(f"iptables-{kind}-save").splitlines()
    marks = ("KUBE", "192.0.2", "save-mark", "FORWARD -m comment")
    return [line for line in saved if any(mark in line for mark in marks)]


@KINDS
def test_a_chain_that_leads_to_the_next_is_removed_as_well(world: World, kind: str) -> None:
    """Before v1.12 there was one chain for each network (AWS-SNAT-CHAIN-1, ...)."""
    program = f"iptables-{kind}"
    for words in (
        ("-N", "AWS-SNAT-CHAIN-1"),
        ("-N", "AWS-SNAT-CHAIN-2"),
        ("-I", "AWS-SNAT-CHAIN-0", "-j", "AWS-SNAT-CHAIN-1"),
        ("-A", "AWS-SNAT-CHAIN-1", "!", "-d", "10.0.0.0/16", "-j", "AWS-SNAT-CHAIN-2"),
    ):
        world.node.run(program, "-t", "nat", *words)
    take_over(world)
    assert world.node.call(world.agent.chains) == []


@pytest.mark.parametrize("kind", ["legacy"])
def test_a_host_without_the_program_keeps_the_chains_and_is_told_apart(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_it = subprocess.run

    def without(command: list[str], **options: object) -> object:
        if command[0].startswith("iptables-legacy"):
            raise FileNotFoundError(command[0])
        return run_it(command, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", without)
    found = world.node.call(peer_host.look)
    assert found.is_empty
    assert found.unseen == ("iptables-legacy: iptables-legacy-save is not installed",)
    monkeypatch.undo()
    assert world.node.call(world.agent.chains) != []


@pytest.mark.parametrize("kind", ["nft"])
def test_a_table_in_which_somebody_wrote_by_nft_is_named(world: World) -> None:
    world.node.run("nft", "add set ip nat some { type ipv4_addr; }")
    world.node.run("nft", "add rule ip nat POSTROUTING ip saddr @some masquerade")
    found = world.node.call(peer_host.look)
    assert [why.split(" is incompatible")[0] for why in found.unseen] == [
        "iptables-nft: Table `nat'"
    ]
    world.node.call(lambda: peer_host.remove(found))
    assert not [line for line in world.node.run("nft", "list", "table", "ip", "mangle").splitlines()
                if "ct mark" in line]  # fmt: skip


@KINDS
def test_what_went_between_look_and_removal_is_an_error_and_the_next_look_sees_the_rest(
    world: World, kind: str
) -> None:
    found = world.node.call(peer_host.look)
    world.node.run(f"iptables-{kind}", "-t", "mangle", "-F", "PREROUTING")
    with pytest.raises(DatapathError, match=f"iptables-{kind}-restore"):
        world.node.call(lambda: peer_host.remove(found))
    world.node.call(lambda: peer_host.remove(peer_host.look()))
    assert world.node.call(world.agent.chains) == []


def test_on_a_host_without_iptables_rules_nothing_is_seen_and_no_table_made() -> None:
    with open_routing_lab() as lab:
        found = lab.a.call(peer_host.look)
        assert (found.is_empty, found.backends, found.sentences) == (True, (), ())
        assert lab.a.run("nft", "list", "tables") == ""


def addresses_in(text: str, address: Address) -> list[str]:
    return [line for line in text.splitlines() if str(address) in line]


@KINDS
def test_an_enis_table_of_aws_nodes_is_taken_over_as_it_is(world: World) -> None:
    before = world.node.run("ip", "-4", "route", "show", "table", "2")
    take_over(world)
    assert world.node.run("ip", "-4", "route", "show", "table", "2") == before
    assert len(addresses_in(world.node.run("ip", "rule"), world.node.enis[1].primary_address)) == 1


@KINDS
def test_a_stale_route_in_it_is_replaced(world: World) -> None:
    world.node.run("ip", "route", "replace", "default", "via", "10.0.0.1", "dev", "eth0",
                   "table", "2")  # fmt: skip
    take_over(world)
    assert "default via 10.0.1.1 dev eth1" in world.node.run("ip", "route", "show", "table", "2")
