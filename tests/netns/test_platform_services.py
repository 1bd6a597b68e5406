"""Azure's DNS and metadata service, from pods: they answer the node's own address alone.

The policy is ipamd's own for Azure, by the way that it takes to vpc-cnid. The judge is a service
that says which source it saw.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from cni_shim.datapath.families import Address
from cni_shim.datapath.policy import HostPolicy
from cni_shim.datapath.routing import RoutingRules
from cni_shim.node_network import desired_host
from ipam_api.v1 import ipam_pb2 as pb

from ipamd.host_policy import host_policy
from tests import builders as b
from tests.netns.routing_lab import (
    A0,
    Place,
    RoutingLab,
    open_routing_lab,
    seen_source,
    seen_source_by_tcp,
)

pytestmark = pytest.mark.netns

WIRE_SERVER = ip_address("168.63.129.16")
METADATA = ip_address("169.254.169.254")
CLUSTER_DNS = ip_address("172.20.0.10")
NODE_PORT = 30080

Ask = Callable[["World", Place], Address | None]
"""The source that a service saw, if its answer came back."""


def azure_policy(*, has_external_snat: bool) -> HostPolicy:
    """What ipamd asks for on Azure, as vpc-cnid reads it."""
    settings = replace(
        b.settings(), cloud="azure", has_external_snat=has_external_snat, run_dir=Path("/run")
    )
    network = pb.NodeNetwork(vpc_cidrs=["10.0.0.0/16"], policy=host_policy(settings))
    return desired_host(network, eni_mtu=None).policy


@dataclass(frozen=True, kw_only=True)
class World:
    """A node with a pod on every ENI, and the platform outside."""

    lab: RoutingLab
    on_primary: Place
    on_secondary: Place

    @property
    def wire_server(self) -> Place:
        return Place(netns=self.lab.outside.netns, addresses={4: WIRE_SERVER})

    @property
    def metadata(self) -> Place:
        return self.lab.router(str(METADATA))


@pytest.fixture(params=RoutingRules, ids=lambda mode: mode.value)
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with open_routing_lab(mode=request.param, further_outside=(WIRE_SERVER,)) as lab:
        lab.a.apply_until_ready(azure_policy(has_external_snat=True))
        yield World(lab=lab, on_primary=lab.a.add_pod(0), on_secondary=lab.a.add_pod(1))


def dns(world: World, pod: Place) -> Address | None:
    return seen_source(pod, world.wire_server, port=53)


def dns_by_tcp(world: World, pod: Place) -> Address | None:
    return seen_source_by_tcp(pod, world.wire_server, by=(WIRE_SERVER, 53), port=53)


def metadata(world: World, pod: Place) -> Address | None:
    return seen_source_by_tcp(pod, world.metadata, by=(METADATA, 80), port=80)


def cluster_dns(world: World, pod: Place) -> Address | None:
    """By a Service that kube-proxy leads to the wire server."""
    return seen_source(pod, world.wire_server, port=53, by=(CLUSTER_DNS, 53))


def add_service(world: World) -> None:
    world.lab.a.run(
        "nft",
        "table ip kube-proxy { chain services { type nat hook prerouting priority dstnat;"
        f" ip daddr {CLUSTER_DNS} udp dport 53 dnat to {WIRE_SERVER}:53;\n"
        f" fib daddr type local udp dport {NODE_PORT} dnat to"
        f" {world.on_secondary.addresses[4]}:7;\n}}\n}}",
    )


def test_pods_of_every_eni_ask_with_the_nodes_own_address_even_with_external_snat(
    world: World,
) -> None:
    add_service(world)
    asked = {
        (ask.__name__, pod is world.on_primary): ask(world, pod)
        for ask in (dns, dns_by_tcp, metadata, cluster_dns)
        for pod in (world.on_primary, world.on_secondary)
    }
    assert set(asked.values()) == {A0.primary_address}, asked
    assert world.lab.drops() == set()


def test_whatever_else_is_there_sees_the_pods_own_address(world: World) -> None:
    """Port 80 of the wire server is the host's control plane, and no pod's business."""
    pod, own = world.on_secondary, world.on_secondary.addresses[4]
    by_tcp = seen_source_by_tcp(pod, world.wire_server, by=(WIRE_SERVER, 80), port=80)
    assert by_tcp == own
    assert seen_source(pod, world.metadata, port=53) == own
    assert seen_source(pod, world.lab.outside) == own


@pytest.mark.parametrize(
    ("ask", "chain"),
    [(dns, "mark-snat"), (dns, "snat-pods"), (metadata, "mark-snat")],
    ids=["DNS, mark", "DNS, SNAT", "metadata, mark"],
)
def test_each_service_needs_its_rules(world: World, ask: Ask, chain: str) -> None:
    assert ask(world, world.on_secondary) == A0.primary_address
    address = METADATA if ask is metadata else WIRE_SERVER
    world.lab.a.drop_nft_rules(chain, str(address))
    assert ask(world, world.on_secondary) != A0.primary_address


def test_with_snat_the_same_holds(world: World) -> None:
    world.lab.a.apply_until_ready(azure_policy(has_external_snat=False))
    for ask in (dns, dns_by_tcp, metadata):
        assert ask(world, world.on_secondary) == A0.primary_address


def test_a_load_balancers_probe_of_a_node_port_is_answered(world: World) -> None:
    """It comes from the wire server's address, in by the primary ENI, to a pod of another."""
    add_service(world)
    node_port = world.lab.a.eni(0).addresses[4], NODE_PORT
    assert seen_source(world.wire_server, world.on_secondary, by=node_port) == WIRE_SERVER
    assert dns(world, world.on_secondary) == A0.primary_address
    assert world.lab.drops() == set()
