"""From ipamd's policy to rules, chains and settings of the host."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Any

import pytest
from cni_shim.datapath import names
from cni_shim.datapath.actions import AddRule, RemoveRule
from cni_shim.datapath.chains import wanted_firewall
from cni_shim.datapath.desired import DesiredHost, host_rules
from cni_shim.datapath.diff import ObservedHost, diff
from cni_shim.datapath.families import AF_INET, AF_INET6
from cni_shim.datapath.host_sysctls import wanted_sysctls
from cni_shim.datapath.messages import Rule
from cni_shim.datapath.policy import HostPolicy, PortChoice, SnatDestination
from cni_shim.node_network import desired_host
from ipam_api.v1 import ipam_pb2 as pb

from tests.unit.test_datapath_diff import BOTH, BOTH_V6, LINKS, PRIMARY, SECONDARY

VPC = (ip_network("10.0.0.0/16"), ip_network("100.64.0.0/16"), ip_network("2001:db8::/56"))


def host(desired: DesiredHost = BOTH, **policy: Any) -> DesiredHost:
    return replace(desired, vpc_cidrs=VPC, policy=HostPolicy(**policy))


def chain(name: str, desired: DesiredHost) -> list[str]:
    """The rules of one of our chains, without their comments."""
    firewall = wanted_firewall(LINKS, desired)
    script = firewall.script if firewall else ""
    _, _, rest = script.partition(f"chain {name} {{\n")
    body, _, _ = rest.partition("\t}")
    return [line.strip().partition(" comment ")[0] for line in body.splitlines()[1:]]


@pytest.mark.parametrize(
    ("policy", "priorities"),
    [
        ({}, [512]),
        ({"has_node_port_support": True}, [512, 1024]),
        ({"has_snat": True}, [512, 1024]),
        ({"has_v4_egress": True}, [512, 1024]),
        ({"always_snat": (SnatDestination(network=IPv4Network("168.63.129.16")),)}, [512, 1024]),
        (
            {"external_services": tuple(map(IPv4Network, ("203.0.113.0/24", "192.0.2.0/24")))},
            [512, 1535, 1535],
        ),
    ],
    ids=["nothing", "NodePort", "SNAT", "egress", "always SNAT", "external services"],
)
def test_which_rules_a_policy_needs(policy: dict[str, Any], priorities: list[int]) -> None:
    assert [rule.priority for rule in host_rules(host(**policy))] == priorities


def test_the_connection_rule_stands_for_both_families_where_pods_have_both() -> None:
    rules = [r for r in host_rules(host(BOTH_V6, has_node_port_support=True)) if r.mask]
    assert [(r.family, r.mark, r.mask, r.table) for r in rules] == [
        (AF_INET, 0x80, 0x80, names.MAIN_TABLE),
        (AF_INET6, 0x80, 0x80, names.MAIN_TABLE),
    ]


def test_another_connection_mark_is_mark_and_mask_everywhere() -> None:
    desired = host(has_snat=True, has_node_port_support=True, connmark=0x10000)
    firewall = wanted_firewall(LINKS, desired)
    assert firewall is not None
    assert "0x80 " not in firewall.script.replace("0xffffff80", "")
    assert host_rules(desired)[-1].mark == 0x10000


@pytest.mark.parametrize("mark", [0, 1, 0x40, 0x81, 1 << 32], ids=hex)
def test_a_connection_mark_that_would_be_taken_for_an_enis_is_refused(mark: int) -> None:
    with pytest.raises(ValueError, match=f"connection mark {mark:#x}"):
        HostPolicy(connmark=mark)


def test_what_pods_send_out_of_the_vpc_is_marked_and_snated() -> None:
    """Neither the VPC's networks of IPv4, nor what is excluded, link-local, multicast, ours."""
    inside = (
        "{ 10.0.0.0/16, 100.64.0.0/16, 169.254.0.0/16, 192.0.2.0/24, 224.0.0.0/4,"
        " 255.255.255.255/32 }"
    )
    leaving = f"ip saddr {{ 10.0.0.0/23 }} ip daddr != {inside}"
    desired = host(has_snat=True, excluded_from_snat=(IPv4Network("192.0.2.0/24"),))
    marked = "ct mark set ct mark | 0x80 meta mark set meta mark | 0x80"
    assert chain("mark-snat", desired) == [
        f"ct state new ct status & confirmed == 0 {leaving} fib daddr type != local {marked}"
    ]
    assert chain("snat-pods", desired) == [
        f'oifname "ens5" ct mark & 0x80 == 0x80 {leaving} snat ip to 10.0.0.10 fully-random'
    ]


@pytest.mark.parametrize(
    ("choice", "end"),
    [
        (PortChoice.PRNG, "snat ip to 10.0.0.10 fully-random"),
        (PortChoice.HASHRANDOM, "snat ip to 10.0.0.10 random"),
        (PortChoice.NONE, "snat ip to 10.0.0.10"),
    ],
    ids=lambda value: value.value if isinstance(value, PortChoice) else "",
)
def test_how_ports_are_chosen(choice: PortChoice, end: str) -> None:
    (rule,) = chain("snat-pods", host(has_snat=True, port_choice=choice))
    assert rule.endswith(end)


def test_the_enis_networks_are_never_snated_whatever_the_vpc_is_said_to_be() -> None:
    desired = replace(host(has_snat=True), vpc_cidrs=(ip_network("192.168.0.0/16"),))
    (rule,) = chain("mark-snat", desired)
    assert "ip daddr != { 10.0.0.0/23, " in rule


def test_snat_without_a_network_of_the_vpc_is_refused() -> None:
    with pytest.raises(ValueError, match="no IPv4 network of the VPC is named"):
        replace(BOTH, vpc_cidrs=VPC[2:], policy=HostPolicy(has_snat=True))


@pytest.mark.parametrize(
    ("to", "matches"),
    [
        ({"protocol": "tcp", "port": 80}, " meta l4proto tcp th dport 80"),
        ({"port": 53}, " meta l4proto { tcp, udp } th dport 53"),
        ({"protocol": "udp"}, " meta l4proto udp"),
        ({}, ""),
    ],
    ids=["protocol and port", "port", "protocol", "everything"],
)
def test_always_snated_services(to: dict[str, Any], matches: str) -> None:
    service = SnatDestination(network=IPv4Network("169.254.169.254/32"), **to)
    desired = host(always_snat=(service,))
    pods = f"ip saddr {{ 10.0.0.0/23 }} ip daddr 169.254.169.254/32{matches}"
    assert chain("mark-snat", desired)[0].startswith(
        f"ct state new ct status & confirmed == 0 {pods} fib"
    )
    assert f" {pods} snat ip to 10.0.0.10" in chain("snat-pods", desired)[0]


def test_a_service_of_an_unknown_protocol_or_port_is_refused() -> None:
    with pytest.raises(ValueError, match="protocol 'sctp'"):
        SnatDestination(network=IPv4Network("192.0.2.1"), protocol="sctp")
    with pytest.raises(ValueError, match="port 65536"):
        SnatDestination(network=IPv4Network("192.0.2.1"), port=65536)


def test_node_ports_are_known_by_the_primary_enis_link() -> None:
    marked, restored = chain("mark-pods", host(has_node_port_support=True))[1:]
    assert marked == (
        'iifname "ens5" ct direction original ct mark & 0x80 != 0x80'
        " fib daddr . iif type local ct mark set ct mark | 0x80"
    )
    assert restored == "ct mark & 0x80 == 0x80 meta mark set meta mark | 0x80"


def test_while_the_primary_enis_link_is_missing_nothing_names_it() -> None:
    desired = host(has_snat=True, has_node_port_support=True)
    firewall = wanted_firewall(LINKS[1:], desired)
    assert firewall is not None
    assert "ifname" not in firewall.script


def test_egress_of_the_other_family_is_snated_and_closed_to_the_inside() -> None:
    desired = host(BOTH_V6, has_v4_egress=True, has_v6_egress=True)
    assert [rule.partition(" snat ")[2] for rule in chain("snat-pods", desired)] == [
        "ip to 10.0.0.10 fully-random",
        "ip6 to 2001:db8:0:a::a fully-random",
    ]
    assert chain("egress", desired) == [
        "ip daddr 169.254.172.0/22 ct state new drop",
        "ip6 daddr fd00::ac:0/118 ct state new drop",
    ]


def test_ipv6_egress_of_a_node_whose_address_nobody_named_takes_the_links() -> None:
    (rule,) = chain("snat-pods", host(has_v6_egress=True))
    assert rule.endswith(" masquerade fully-random")


@pytest.mark.parametrize(
    ("policy", "name", "is_wanted"),
    [
        ({}, "ipv4/tcp_early_demux", False),
        ({"disables_tcp_early_demux": True}, "ipv4/tcp_early_demux", True),
        ({}, "ipv6/conf/all/forwarding", False),
        ({"has_v6_egress": True}, "ipv6/conf/all/forwarding", True),
        ({"has_v6_egress": True}, "ipv6/conf/ens5/accept_ra", True),
        ({"has_v6_egress": True}, "ipv6/conf/ens6/accept_ra", False),
    ],
)
def test_which_settings_a_policy_needs(policy: dict[str, Any], name: str, is_wanted: bool) -> None:
    found = {wanted.name for wanted in wanted_sysctls(LINKS, host(**policy))}
    assert (name in found) == is_wanted


NETWORK = pb.NodeNetwork(
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
        )
        for eni in (PRIMARY, SECONDARY)
    ],
    vpc_cidrs=[str(network) for network in VPC],
    policy=pb.HostPolicy(
        exclude_snat_cidrs=["192.0.2.0/24"],
        randomize_snat="none",
        node_port_support=True,
        connmark=0x100,
        external_service_cidrs=["203.0.113.0/24"],
        always_snat=[pb.SnatDestination(cidr="168.63.129.16/32", protocol="udp", port=53)],
        v6_egress=True,
        disable_tcp_early_demux=True,
    ),
)


def test_every_field_of_ipamds_policy_arrives() -> None:
    assert desired_host(NETWORK, eni_mtu=9001) == DesiredHost(
        enis=(PRIMARY, SECONDARY),
        vpc_cidrs=VPC,
        policy=HostPolicy(
            has_snat=True,
            excluded_from_snat=(IPv4Network("192.0.2.0/24"),),
            port_choice=PortChoice.NONE,
            has_node_port_support=True,
            connmark=0x100,
            external_services=(IPv4Network("203.0.113.0/24"),),
            always_snat=(
                SnatDestination(network=IPv4Network("168.63.129.16/32"), protocol="udp", port=53),
            ),
            has_v6_egress=True,
            disables_tcp_early_demux=True,
        ),
    )


def test_an_ipamd_that_names_no_policy_asks_for_nothing() -> None:
    network = pb.NodeNetwork(enis=NETWORK.enis, vpc_cidrs=NETWORK.vpc_cidrs)
    assert desired_host(network, eni_mtu=9001).policy == HostPolicy()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("exclude_snat_cidrs", ["10.0.0.0/33"]),
        ("external_service_cidrs", ["2001:db8::/32"]),
        ("always_snat", [pb.SnatDestination(cidr="nowhere")]),
        ("randomize_snat", "sometimes"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_field(field: str, value: object) -> None:
    network = pb.NodeNetwork(
        enis=NETWORK.enis,
        vpc_cidrs=NETWORK.vpc_cidrs,
        policy=pb.HostPolicy(**{field: value}),  # type: ignore[arg-type]
    )
    with pytest.raises(ValueError, match=f"as {field}, which cannot be"):
        desired_host(network, eni_mtu=9001)


def test_ipv6_of_an_eni_arrives_whole() -> None:
    network = pb.NodeNetwork()
    network.CopyFrom(NETWORK)
    network.enis[0].subnet_cidr_v6 = "2001:db8:0:a::/64"
    network.enis[0].primary_address_v6 = "2001:db8:0:a::a"
    network.enis[0].gateway_v6 = "fe80:ec2::1"
    eni = desired_host(network, eni_mtu=9001).enis[0]
    assert eni.subnet_cidr_v6 == IPv6Network("2001:db8:0:a::/64")
    assert eni.primary_addresses[1:] == (IPv6Address("2001:db8:0:a::a"),)


KERNELS = Rule(priority=0, table=255, protocol=2)
MOVED = Rule(priority=20, table=255)


def steps(desired: DesiredHost, *rules: Rule) -> list[tuple[str, int]]:
    """What becomes of the rules for the node's own IPv4 addresses, of a host that has these."""
    observed = replace(settled(), rules=rules)
    return [
        (type(action).__name__, action.rule.priority)
        for action in diff(observed, desired)
        if isinstance(action, AddRule | RemoveRule)
        and action.rule.table == 255
        and action.rule.family == AF_INET
    ]


def settled() -> ObservedHost:
    return ObservedHost(
        links=LINKS, addresses=(), routes=(), rules=(), sysctls=(), firewall_comments=None
    )


@pytest.mark.parametrize(
    ("is_strict", "present", "expected"),
    [
        (True, (KERNELS,), [("AddRule", 20)]),
        (True, (KERNELS, MOVED), [("RemoveRule", 0)]),
        (True, (MOVED,), []),
        (False, (MOVED,), [("AddRule", 0)]),
        (False, (KERNELS, MOVED), [("RemoveRule", 20)]),
        (False, (KERNELS,), []),
        (False, (replace(MOVED, protocol=3),), []),
        (True, (), [("AddRule", 20)]),
    ],
    ids=[
        "strict: the other first",
        "strict: then the kernel's goes",
        "strict: done",
        "back: the kernel's first",
        "back: then the other goes",
        "never moved",
        "moved by somebody else",
        "gone altogether",
    ],
)
def test_the_rule_for_the_nodes_own_addresses_never_goes_before_the_other_stands(
    is_strict: bool, present: tuple[Rule, ...], expected: list[tuple[str, int]]
) -> None:
    assert steps(host(has_strict_branches=is_strict), *present) == expected


def test_what_the_router_says_by_icmpv6_comes_before_strict_pods() -> None:
    rules = host_rules(host(BOTH_V6, has_strict_branches=True))
    assert [(r.priority, str(r.source), r.ip_protocol) for r in rules if r.ip_protocol] == [
        (0, "fe80:ec2::1/128", 58)
    ]
    assert [r.family for r in rules if r.priority == 20] == [AF_INET, AF_INET6]
