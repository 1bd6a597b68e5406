"""Every way that packets take, and each of our rules taken away: then its way is closed.

Nobody repairs here: the network is applied once, before the damage.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest
from cni_shim.datapath.families import Address
from cni_shim.datapath.policy import HostPolicy, PortChoice, SnatDestination

from tests.netns.datapath_lab import inside
from tests.netns.routing_lab import (
    A0,
    A1,
    EXCLUDED,
    OUTSIDE,
    SECONDS,
    Node,
    Place,
    RoutingLab,
    make_netns,
    open_routing_lab,
    seen_source,
    seen_source_by_tcp,
    wanted,
)

pytestmark = pytest.mark.netns

POLICY = HostPolicy(has_snat=True, has_node_port_support=True)
FAMILIES = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
SERVICE: dict[int, Address] = {4: ip_address("172.20.0.10"), 6: ip_address("fd12::10")}
NODE_PORT = 30080


@dataclass(frozen=True, kw_only=True)
class World:
    """The lab with the policy applied on both nodes, and a pod on every ENI of node a."""

    lab: RoutingLab
    on_primary: Place
    on_secondary: Place
    elsewhere: Place

    @property
    def node(self) -> Node:
        return self.lab.a

    @property
    def outside(self) -> Place:
        return self.lab.outside


@pytest.fixture
def world() -> Iterator[World]:
    with open_routing_lab() as lab:
        for node in (lab.a, lab.b):
            node.apply_until_ready(POLICY)
        yield World(
            lab=lab,
            on_primary=lab.a.add_pod(0),
            on_secondary=lab.a.add_pod(1),
            elsewhere=lab.b.add_pod(1),
        )


Damage = Callable[[World, int], None]
"""Takes one thing of node a's away; the number is the family's."""


def no_rule(priority: int) -> Damage:
    def damage(world: World, version: int) -> None:
        world.node.run("ip", f"-{version}", "rule", "delete", "pref", str(priority))

    return damage


def no_pod_route(name: str) -> Damage:
    def damage(world: World, version: int) -> None:
        pod: Place = getattr(world, name)
        address = str(pod.addresses[version])
        world.node.run("ip", f"-{version}", "route", "delete", address, "table", "5120")

    return damage


def no_default(world: World, version: int) -> None:
    world.node.run("ip", f"-{version}", "route", "delete", "default", "table", "2")


def no_nft(chain: str, text: str) -> Damage:
    return lambda world, _version: world.node.drop_nft_rules(chain, text)


def strict_reverse_path(world: World, _version: int) -> None:
    world.node.run("sysctl", "-q", "-w", "net.ipv4.conf.eth1.rp_filter=1")


def same_eni(world: World, version: int) -> Address | None:
    return seen_source(world.node.add_pod(1), world.on_secondary, version=version)


def across_enis(world: World, version: int) -> Address | None:
    return seen_source(world.on_secondary, world.on_primary, version=version)


def to_another_node(world: World, version: int) -> Address | None:
    return seen_source(world.on_secondary, world.elsewhere, version=version)


def from_another_node(world: World, version: int) -> Address | None:
    """To the primary of the other node: its subnet is not that of the ENI that it comes in by."""
    return seen_source(world.lab.b.eni(0), world.on_secondary, version=version)


def from_the_secondary_enis_own_address(world: World, version: int) -> Address | None:
    return seen_source(world.node.eni(1), world.lab.b.eni(0), version=version)


def from_the_node_itself(world: World, version: int) -> Address | None:
    return seen_source(world.node.eni(0), world.on_secondary, version=version)


WAYS = [
    pytest.param(same_eni, no_rule(512), id="same ENI, rule 512"),
    pytest.param(same_eni, no_pod_route("on_secondary"), id="same ENI, pod route"),
    pytest.param(across_enis, no_rule(512), id="across ENIs, rule 512"),
    pytest.param(to_another_node, no_rule(512), id="to another node, rule 512"),
    pytest.param(to_another_node, no_rule(1536), id="to another node, rule 1536"),
    pytest.param(to_another_node, no_default, id="to another node, default route"),
    pytest.param(to_another_node, no_nft("mark-pods", "iifgroup"), id="to another node, mark"),
    pytest.param(from_another_node, no_rule(512), id="from another node, rule 512"),
    pytest.param(
        from_the_secondary_enis_own_address, no_rule(32765), id="the ENI's own address, rule 32765"
    ),
    pytest.param(from_the_node_itself, no_rule(512), id="node to pod, rule 512"),
]


@FAMILIES
@pytest.mark.parametrize(("way", "damage"), WAYS)
def test_a_way_inside_the_vpc_needs_its_rule(
    world: World, way: Callable[[World, int], Address | None], damage: Damage, version: int
) -> None:
    assert way(world, version) is not None
    damage(world, version)
    assert way(world, version) is None


@FAMILIES
def test_inside_the_vpc_pods_keep_their_addresses(world: World, version: int) -> None:
    assert to_another_node(world, version) == world.on_secondary.addresses[version]
    assert same_eni(world, version) not in {None, A0.primary_address}
    assert across_enis(world, version) == world.on_secondary.addresses[version]
    assert world.lab.drops() == set()


def test_a_strict_reverse_path_filter_from_before_is_loosened() -> None:
    with open_routing_lab() as lab:
        for link in ("eth0", "eth1"):
            lab.a.run("sysctl", "-q", "-w", f"net.ipv4.conf.{link}.rp_filter=1")
        for node in (lab.a, lab.b):
            node.apply(POLICY)
        pod = lab.a.add_pod(1)
        assert seen_source(lab.b.eni(0), pod) is not None
        lab.a.run("sysctl", "-q", "-w", "net.ipv4.conf.eth1.rp_filter=1")
        assert seen_source(lab.b.eni(0), pod) is None


@pytest.mark.parametrize(
    "address",
    ["10.0.1.1", "169.254.169.254", "2001:db8:0:b::1", "fd00:ec2::254"],
    ids=["router", "IMDS", "router, IPv6", "IMDS, IPv6"],
)
def test_the_router_and_imds_answer_a_pod_by_its_own_eni(world: World, address: str) -> None:
    router = world.lab.router(address)
    (version,) = router.addresses
    seen = seen_source(world.on_secondary, router, version=version)
    assert seen == world.on_secondary.addresses[version]
    assert world.lab.drops() == set()


def add_service(world: World, version: int, to: Address, port: int = 7) -> tuple[Address, int]:
    """A ClusterIP as kube-proxy makes it: DNAT at the usual priority."""
    family, service = ("ip", "ip6")[version == 6], SERVICE[version]
    backend = f"[{to}]:{port}" if version == 6 else f"{to}:{port}"
    world.node.run(
        "nft",
        f"table {family} kube-proxy {{ chain services {{"
        " type nat hook prerouting priority dstnat;"
        f" {family} daddr {service} udp dport 53 dnat to {backend};\n}}\n}}",
    )
    return service, 53


@FAMILIES
def test_a_cluster_ip_reaches_a_pod_on_another_node_unsnated(world: World, version: int) -> None:
    by = add_service(world, version, world.elsewhere.addresses[version])
    seen = seen_source(world.on_secondary, world.elsewhere, version=version, by=by)
    assert seen == world.on_secondary.addresses[version]


@FAMILIES
@pytest.mark.parametrize(
    "damage", [no_rule(1536), no_nft("mark-pods", "iifgroup")], ids=["rule 1536", "mark"]
)
def test_a_cluster_ip_needs_its_rules(world: World, damage: Damage, version: int) -> None:
    by = add_service(world, version, world.elsewhere.addresses[version])
    damage(world, version)
    assert seen_source(world.on_secondary, world.elsewhere, version=version, by=by) is None


@FAMILIES
def test_a_cluster_ip_reaches_a_pod_on_the_same_node(world: World, version: int) -> None:
    by = add_service(world, version, world.on_primary.addresses[version])
    seen = seen_source(world.on_secondary, world.on_primary, version=version, by=by)
    assert seen == world.on_secondary.addresses[version]


def test_a_cluster_ip_for_a_service_outside_the_vpc_is_snated(world: World) -> None:
    """kube-proxy's DNAT comes first, so that where the connection goes is known."""
    by = add_service(world, 4, OUTSIDE[4])
    assert seen_source(world.on_secondary, world.outside, by=by) == A0.primary_address


def add_node_port(world: World, version: int) -> tuple[Address, int]:
    """A NodePort to the pod on the secondary ENI, that keeps its clients' addresses."""
    family, pod = ("ip", "ip6")[version == 6], world.on_secondary.addresses[version]
    backend = f"[{pod}]:7" if version == 6 else f"{pod}:7"
    world.node.run(
        "nft",
        f"table {family} kube-proxy {{ chain nodeports {{"
        " type nat hook prerouting priority dstnat;"
        f" fib daddr type local udp dport {NODE_PORT} dnat to {backend};\n}}\n}}",
    )
    return world.node.eni(0).addresses[version], NODE_PORT


def through_the_node_port(world: World, client: Place, version: int) -> Address | None:
    by = world.node.eni(0).addresses[version], NODE_PORT
    return seen_source(client, world.on_secondary, version=version, by=by)


@FAMILIES
def test_a_node_port_serves_clients_inside_and_outside(world: World, version: int) -> None:
    add_node_port(world, version)
    for client in (world.outside, world.lab.b.eni(0)):
        assert through_the_node_port(world, client, version) == client.addresses[version]
    assert world.lab.drops() == set()


@FAMILIES
@pytest.mark.parametrize(
    "damage",
    [
        no_rule(1024),
        no_nft("mark-pods", "fib daddr"),
        no_nft("mark-pods", "== 0x00000080 meta mark set"),
    ],
    ids=["rule 1024", "connection marked", "packets marked"],
)
def test_a_node_port_needs_its_rules(world: World, damage: Damage, version: int) -> None:
    add_node_port(world, version)
    damage(world, version)
    assert through_the_node_port(world, world.outside, version) is None


def test_a_connection_opened_without_the_rule_is_put_right_by_its_next_packet(
    world: World,
) -> None:
    by = add_node_port(world, 4)
    world.node.drop_nft_rules("mark-pods", "fib daddr")
    with inside(world.on_secondary.netns.fd):
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with inside(world.outside.netns.fd):
        client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server, client:
        server.bind((str(world.on_secondary.addresses[4]), 7))
        server.settimeout(SECONDS)
        client.settimeout(SECONDS)
        client.connect((str(by[0]), by[1]))

        def answer() -> bytes:
            client.send(b"question")
            _, sender = server.recvfrom(100)
            server.sendto(b"answer", sender)
            return client.recv(100)

        with pytest.raises(TimeoutError):
            answer()
        world.node.apply(POLICY)
        assert answer() == b"answer"


def test_tcp_takes_the_same_ways(world: World) -> None:
    """A connection through the NodePort from outside, one to the outside, one to a ClusterIP."""
    backend = world.on_secondary.addresses[4]
    world.node.run(
        "nft",
        "table ip kube-proxy { chain services { type nat hook prerouting priority dstnat;"
        f" ip daddr {SERVICE[4]} tcp dport 80 dnat to {world.elsewhere.addresses[4]}:7;"
        f" fib daddr type local tcp dport {NODE_PORT} dnat to {backend}:7;\n}}\n}}",
    )
    pod, outside = world.on_secondary, world.outside
    node_port, service = (world.node.eni(0).addresses[4], NODE_PORT), (SERVICE[4], 80)
    assert seen_source_by_tcp(outside, pod, by=node_port) == outside.addresses[4]
    assert seen_source_by_tcp(pod, outside, by=(OUTSIDE[4], 7)) == A0.primary_address
    assert seen_source_by_tcp(pod, world.elsewhere, by=service) == pod.addresses[4]
    assert world.lab.drops() == set()


def test_pods_leave_the_vpc_with_the_primary_enis_address(world: World) -> None:
    for pod in (world.on_primary, world.on_secondary):
        assert seen_source(pod, world.outside) == A0.primary_address


@pytest.mark.parametrize(
    "damage",
    [
        no_rule(1024),
        no_nft("mark-pods", "== 0x00000080 meta mark set"),
        no_nft("mark-snat", "ct state new"),
        no_nft("snat-pods", "snat ip to"),
    ],
    ids=["rule 1024", "packets marked", "connection marked", "SNAT"],
)
def test_snat_needs_its_rules(world: World, damage: Damage) -> None:
    damage(world, 4)
    assert seen_source(world.on_secondary, world.outside) != A0.primary_address


def test_ipv6_leaves_the_vpc_with_the_pods_address(world: World) -> None:
    seen = seen_source(world.on_secondary, world.outside, version=6)
    assert seen == world.on_secondary.addresses[6]


def test_the_nodes_own_traffic_keeps_the_address_it_is_bound_to(world: World) -> None:
    for index, eni in enumerate((A0, A1)):
        assert seen_source(world.node.eni(index), world.outside) == eni.primary_address


def excluded(lab: RoutingLab) -> Place:
    return Place(netns=lab.outside.netns, addresses={4: EXCLUDED})


@pytest.mark.parametrize(
    ("policy", "to_excluded", "to_others"),
    [
        (HostPolicy(has_snat=True), A0.primary_address, A0.primary_address),
        (
            HostPolicy(has_snat=True, excluded_from_snat=(IPv4Network("203.0.113.0/24"),)),
            None,
            A0.primary_address,
        ),
        (HostPolicy(has_node_port_support=True), None, None),
    ],
    ids=["SNAT", "one network excluded", "external SNAT"],
)
def test_what_is_snated_follows_the_policy_at_once(
    world: World,
    policy: HostPolicy,
    to_excluded: IPv4Address | None,
    to_others: IPv4Address | None,
) -> None:
    own = world.on_secondary.addresses[4]
    world.node.apply_until_ready(policy)
    assert seen_source(world.on_secondary, excluded(world.lab)) == (to_excluded or own)
    assert seen_source(world.on_secondary, world.outside) == (to_others or own)


@pytest.mark.parametrize("choice", PortChoice, ids=lambda choice: choice.value)
def test_every_way_to_choose_ports_is_taken_by_the_kernel(world: World, choice: PortChoice) -> None:
    policy = HostPolicy(has_snat=True, port_choice=choice)
    world.node.apply_until_ready(policy)
    assert seen_source(world.on_secondary, world.outside) == A0.primary_address


@pytest.mark.parametrize(
    "to",
    [
        SnatDestination(network=IPv4Network("198.51.100.9/32"), protocol="udp", port=53),
        SnatDestination(network=IPv4Network("198.51.100.0/24"), port=53),
        SnatDestination(network=IPv4Network("198.51.100.9/32"), protocol="udp"),
    ],
    ids=["protocol and port", "port", "protocol"],
)
def test_a_service_that_knows_the_node_alone_is_snated_even_with_external_snat(
    world: World, to: SnatDestination
) -> None:
    world.node.apply_until_ready(HostPolicy(always_snat=(to,)))
    assert seen_source(world.on_secondary, world.outside, port=53) == A0.primary_address
    own = world.on_secondary.addresses[4]
    other = A0.primary_address if to.port == 0 else own
    assert seen_source(world.on_secondary, world.outside, port=54) == other
    world.node.drop_nft_rules("mark-snat", "198.51.100")
    assert seen_source(world.on_secondary, world.outside, port=53) == own


def test_an_external_service_is_routed_by_the_main_table(world: World) -> None:
    """So it leaves by the primary ENI, which a VPC lets through without a source check alone."""
    policy = HostPolicy(external_services=(IPv4Network("198.51.100.0/24"),))
    world.node.apply(policy)
    assert seen_source(world.on_secondary, world.outside) is None
    assert world.lab.drops() == {("eni-a0", str(world.on_secondary.addresses[4]))}
    no_rule(1535)(world, 4)
    assert seen_source(world.on_secondary, world.outside) is not None


EGRESS: dict[int, Address] = {
    4: ip_address("169.254.172.5"),
    6: ip_address("fd00::ac:5"),
}


def add_egress(world: World, version: int) -> Place:
    """A pod's second link, with a node-local address of the family that its first has not."""
    pod = make_netns(world.lab.stack, "egress-pod")
    address, family = str(EGRESS[version]), f"-{version}"
    gateway = ("169.254.1.1", "fe80::1")[version == 6]
    peer = f"peer name other0 address 02:00:00:00:ee:02 netns {pod.name}"
    for command in (
        f"link add egress5 address 02:00:00:00:ee:01 type veth {peer}",
        "link set egress5 up",
        f"{family} neighbour add {address} lladdr 02:00:00:00:ee:02 dev egress5",
        f"{family} route add {address} dev egress5",
    ):
        world.node.run("ip", *command.split())
    for command in (
        "link set other0 up",
        f"{family} address add {address} dev other0",
        f"{family} neighbour add {gateway} lladdr 02:00:00:00:ee:01 dev other0",
        f"{family} route add default via {gateway} dev other0 onlink",
    ):
        pod.ip(*command.split())
    return Place(netns=pod, addresses={version: EGRESS[version]})


@FAMILIES
def test_a_pods_other_family_leaves_with_the_nodes_address(world: World, version: int) -> None:
    policy = HostPolicy(has_v4_egress=version == 4, has_v6_egress=version == 6)
    world.node.apply_until_ready(policy)
    pod, node = add_egress(world, version), world.node.eni(0).addresses[version]
    assert seen_source(pod, world.outside, version=version) == node
    assert seen_source(pod, world.lab.b.eni(1), version=version) == node


@FAMILIES
@pytest.mark.parametrize("chain", ["mark-snat", "snat-pods"])
def test_egress_needs_its_rules(world: World, chain: str, version: int) -> None:
    policy = HostPolicy(has_v4_egress=version == 4, has_v6_egress=version == 6)
    world.node.apply_until_ready(policy)
    pod = add_egress(world, version)
    world.node.drop_nft_rules(chain, "saddr")
    assert seen_source(pod, world.outside, version=version) is None


@FAMILIES
def test_nobody_opens_a_connection_to_an_egress_address(world: World, version: int) -> None:
    policy = HostPolicy(has_v4_egress=version == 4, has_v6_egress=version == 6)
    world.node.apply_until_ready(policy)
    pod = add_egress(world, version)
    assert seen_source(world.on_primary, pod, version=version) is None
    world.node.drop_nft_rules("egress", "drop")
    assert seen_source(world.on_primary, pod, version=version) is not None


def test_a_pod_that_another_plugin_wired_is_snated_too(world: World) -> None:
    """It has an address of an ENI, and a link and rules of ptp's or aws-node's making."""
    pod = make_netns(world.lab.stack, "ptp-pod")
    address = A1.prefixes[0][9]
    peer = f"peer name eth0 address 02:00:00:00:dd:02 netns {pod.name}"
    for command in (
        f"link add ptp9 address 02:00:00:00:dd:01 type veth {peer}",
        "link set ptp9 up",
        f"neighbour add {address} lladdr 02:00:00:00:dd:02 dev ptp9",
        f"route add {address} dev ptp9",
        f"rule add pref 512 to {address} lookup main",
        f"rule add pref 1536 from {address} lookup 2",
    ):
        world.node.run("ip", *command.split())
    for command in (
        "link set eth0 up",
        f"address add {address} dev eth0",
        "neighbour add 169.254.1.1 lladdr 02:00:00:00:dd:01 dev eth0",
        "route add default via 169.254.1.1 dev eth0 onlink",
    ):
        pod.ip(*command.split())
    place = Place(netns=pod, addresses={4: address})
    assert seen_source(place, world.outside) == A0.primary_address
    assert seen_source(place, world.elsewhere) == address


def test_ipv6_egress_of_a_node_whose_ipv6_address_nobody_named(world: World) -> None:
    """As in a cluster of IPv4: the ENIs' IPv6 is the distribution's, and so is the address."""
    desired = wanted(HostPolicy(has_v6_egress=True), A0, A1)
    enis = tuple(
        replace(eni, subnet_cidr_v6=None, primary_address_v6=None, gateway_v6=None)
        for eni in desired.enis
    )
    said = world.node.call(lambda: world.node.host.apply(replace(desired, enis=enis)))
    assert all(eni.is_ready for eni in said), said
    pod = add_egress(world, 6)
    assert seen_source(pod, world.outside, version=6) == world.node.eni(0).addresses[6]
