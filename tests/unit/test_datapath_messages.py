"""Our bytes, judged by pyroute2: it decodes what we encode."""

from __future__ import annotations

from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Any

import pytest
from cni_shim.datapath import answers, messages
from cni_shim.datapath.answers import LinkAddress, Neighbour
from cni_shim.datapath.messages import Request, Route, Rule, VethPair
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

PAIR = VethPair(
    host_ifname="eni0123456789a",
    host_ifindex=20000001,
    host_mac=b"\x02\x01\x02\x03\x04\x05",
    group=0x76630002,
    mtu=9001,
    pod_ifname="eth0",
    pod_ifindex=20000002,
    pod_mac=b"\x0a\x58\x0a\x00\x02\x07",
    netns_fd=17,
)
HOST_ROUTE = Route(
    table=5120, destination=IPv4Network("10.0.2.7/32"), gateway=None, ifindex=20000001
)
DEFAULT_ROUTE = Route(
    table=2, destination=IPv4Network("0.0.0.0/0"), gateway=IPv4Address("10.0.1.1"), ifindex=3
)
HOST_ROUTE_V6 = Route(
    table=5120, destination=ip_network("2001:db8::7/128"), gateway=None, ifindex=20000001
)
DEFAULT_ROUTE_V6 = Route(
    table=2, destination=ip_network("::/0"), gateway=ip_address("fe80:ec2::1"), ifindex=3
)
MARK_RULE_V6 = Rule(priority=1536, table=2, mark=2, mask=0x7F, family=10)
SOURCE_RULE_V6 = Rule(priority=32765, table=2, source=ip_network("2001:db8::a/128"), family=10)
MARK_RULE = Rule(priority=1536, table=2, mark=2, mask=0x7F)
SOURCE_RULE = Rule(priority=32765, table=10101, source=IPv4Network("10.0.1.10/32"))
POD_RULE = Rule(priority=512, table=5120)


def decoded(request: Request, kind: type[Any]) -> Any:
    message = kind(messages.serialise(request, 1, ack=True))
    message.decode()
    return message


def test_the_header_carries_length_kind_flags_and_sequence() -> None:
    message = decoded(messages.delete_link(9), ifinfmsg)["header"]
    assert (message["type"], message["sequence_number"], message["length"]) == (17, 1, 32)
    assert message["flags"] == messages.NLM_F_REQUEST | messages.NLM_F_ACK


def test_a_veth_is_created_with_everything_in_one_message() -> None:
    message = decoded(messages.create_veth(PAIR), ifinfmsg)
    assert message["index"] == PAIR.host_ifindex
    assert message.get_attr("IFLA_IFNAME") == PAIR.host_ifname
    assert message.get_attr("IFLA_ADDRESS") == "02:01:02:03:04:05"
    assert message.get_attr("IFLA_MTU") == 9001
    assert message.get_attr("IFLA_GROUP") == 0x76630002
    assert message.get_attr("IFLA_NUM_TX_QUEUES") == 1
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "veth"


def test_the_peer_is_born_in_the_pods_namespace() -> None:
    message = decoded(messages.create_veth(PAIR), ifinfmsg)
    peer = message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "VETH_INFO_PEER")
    assert peer["index"] == PAIR.pod_ifindex
    assert peer.get_attr("IFLA_IFNAME") == "eth0"
    assert peer.get_attr("IFLA_ADDRESS") == "0a:58:0a:00:02:07"
    assert peer.get_attr("IFLA_MTU") == 9001
    assert peer.get_attr("IFLA_NET_NS_FD") == 17


def test_a_host_veth_is_dressed_and_brought_up() -> None:
    message = decoded(messages.dress_host_veth(7, "an alias", has_ipv6=True), ifinfmsg)
    assert (message["index"], message["flags"], message["change"]) == (7, 1, 1)
    assert message.get_attr("IFLA_IFALIAS") == "an alias"
    family = message.get_nested("IFLA_AF_SPEC", "AF_INET6")
    assert family.get_attr("IFLA_INET6_ADDR_GEN_MODE") == 1


def test_without_ipv6_in_the_kernel_the_family_is_not_spoken_of() -> None:
    message = decoded(messages.dress_host_veth(7, "an alias", has_ipv6=False), ifinfmsg)
    assert message.get_attr("IFLA_AF_SPEC") is None


def test_an_address_brings_no_connected_route() -> None:
    request = messages.add_address(7, IPv4Interface("10.0.2.7/32"))
    message = decoded(request, ifaddrmsg)
    assert (message["index"], message["prefixlen"]) == (7, 32)
    assert message.get_attr("IFA_LOCAL") == message.get_attr("IFA_ADDRESS") == "10.0.2.7"
    assert (message["family"], message.get_attr("IFA_FLAGS")) == (2, 0x200)


def test_an_ipv6_address_is_not_looked_for_elsewhere_first() -> None:
    request = messages.add_address(7, ip_interface("2001:db8::7/128"))
    message = decoded(request, ifaddrmsg)
    assert (message["family"], message["index"], message["prefixlen"]) == (10, 7, 128)
    assert message.get_attr("IFA_LOCAL") == message.get_attr("IFA_ADDRESS") == "2001:db8::7"
    assert message.get_attr("IFA_FLAGS") == 0x202  # IFA_F_NODAD besides


@pytest.mark.parametrize(
    ("route", "family", "scope", "gateway", "destination"),
    [
        (HOST_ROUTE, 2, 253, None, "10.0.2.7"),
        (DEFAULT_ROUTE, 2, 0, "10.0.1.1", None),
        (HOST_ROUTE_V6, 10, 253, None, "2001:db8::7"),
        (DEFAULT_ROUTE_V6, 10, 0, "fe80:ec2::1", None),
    ],
    ids=["host", "default", "host-v6", "default-v6"],
)
def test_a_route_reads_as_written(
    route: Route, family: int, scope: int, gateway: str | None, destination: str | None
) -> None:
    message = decoded(messages.add_route(route), rtmsg)
    assert message["family"] == family
    assert (message["scope"], message["proto"], message["type"]) == (scope, 119, 1)
    assert message["dst_len"] == route.destination.prefixlen
    assert message.get_attr("RTA_TABLE") == route.table
    assert message.get_attr("RTA_OIF") == route.ifindex
    assert message.get_attr("RTA_GATEWAY") == gateway
    assert message.get_attr("RTA_DST") == destination


def test_a_local_route_says_that_the_address_is_our_own() -> None:
    message = decoded(messages.add_local_route(7, IPv6Address("2001:db8::7")), rtmsg)
    assert (message["family"], message["type"], message["dst_len"]) == (10, 2, 128)
    assert (message.get_attr("RTA_TABLE"), message.get_attr("RTA_OIF")) == (255, 7)
    assert message.get_attr("RTA_DST") == "2001:db8::7"


@pytest.mark.parametrize(("flags", "is_tentative"), [(0x280, False), (0x2C0, True)])
def test_a_tentative_address_is_told_apart(flags: int, is_tentative: bool) -> None:
    body = messages.IFADDR.pack(10, 64, 0, 253, 7)
    body += messages.attribute(messages.IFA_ADDRESS, IPv6Address("fe80::1").packed)
    body += messages.u32(messages.IFA_FLAGS, flags)
    found = answers.address_of(body)
    assert found is not None
    assert (found.is_link_local_v6, found.is_tentative) == (True, is_tentative)


def test_a_route_is_exclusive_unless_it_replaces() -> None:
    assert messages.add_route(HOST_ROUTE).flags == 0x600
    assert messages.add_route(HOST_ROUTE, replaces=True).flags == 0x500


def test_a_rule_reads_as_written() -> None:
    message = decoded(messages.add_rule(MARK_RULE), fibmsg)
    assert message.get_attr("FRA_PRIORITY") == 1536
    assert message.get_attr("FRA_TABLE") == 2
    assert (message.get_attr("FRA_FWMARK"), message.get_attr("FRA_FWMASK")) == (2, 0x7F)
    assert message.get_attr("FRA_PROTOCOL") == 119


@pytest.mark.parametrize(("family", "address"), [(2, "169.254.1.1"), (10, "fe80::1")])
def test_a_neighbour_reads_as_written(family: int, address: str) -> None:
    request = messages.add_neighbour(7, ip_address(address), b"\x02\x01\x02\x03\x04\x05")
    message = decoded(request, ndmsg)
    assert (message["family"], message["ifindex"], message["state"]) == (family, 7, 0x80)
    assert message.get_attr("NDA_DST") == address
    assert message.get_attr("NDA_LLADDR") == "02:01:02:03:04:05"


@pytest.mark.parametrize("rule", [MARK_RULE_V6, SOURCE_RULE_V6])
def test_an_ipv6_rule_reads_as_written(rule: Rule) -> None:
    message = decoded(messages.add_rule(rule), fibmsg)
    assert (message["family"], message["src_len"]) == (10, 128 if rule.source else 0)
    assert message.get_attr("FRA_SRC") == (
        str(rule.source.network_address) if rule.source else None
    )


@pytest.mark.parametrize("text", ["10.0.1.7", "2001:db8::7"])
def test_a_pods_rules_are_selected_in_whichever_table_and_only_ours(text: str) -> None:
    address = ip_address(text)
    to_pod, from_pod = (decoded(r, fibmsg) for r in messages.pod_rule_selectors(address))
    for message, priority in ((to_pod, 512), (from_pod, 1536)):
        assert message.get_attr("FRA_PRIORITY") == priority
        assert message.get_attr("FRA_PROTOCOL") == 119
        assert (message["table"], message.get_attr("FRA_TABLE")) == (0, None)
    whole = address.max_prefixlen
    assert (to_pod["dst_len"], to_pod["src_len"], to_pod.get_attr("FRA_DST")) == (whole, 0, text)
    assert (from_pod["dst_len"], from_pod["src_len"]) == (0, whole)
    assert from_pod.get_attr("FRA_SRC") == text


def test_one_neighbour_is_asked_for_by_link_and_address() -> None:
    request = messages.get_neighbour(7, ip_address("2001:db8::7"))
    message = decoded(request, ndmsg)
    assert request.flags & messages.NLM_F_DUMP == 0
    assert (message["family"], message["ifindex"]) == (10, 7)
    assert message.get_attr("NDA_DST") == "2001:db8::7"


@pytest.mark.parametrize("rule", [MARK_RULE, SOURCE_RULE, POD_RULE, MARK_RULE_V6, SOURCE_RULE_V6])
def test_rules_survive_encoding_and_decoding(rule: Rule) -> None:
    assert answers.rule_of(messages.add_rule(rule).body) == rule


@pytest.mark.parametrize("route", [HOST_ROUTE, DEFAULT_ROUTE, HOST_ROUTE_V6, DEFAULT_ROUTE_V6])
def test_routes_survive_encoding_and_decoding(route: Route) -> None:
    assert answers.route_of(messages.add_route(route).body) == route


@pytest.mark.parametrize("text", ["10.0.1.10/32", "2001:db8::a/128"])
def test_addresses_and_neighbours_survive_encoding_and_decoding(text: str) -> None:
    address = ip_interface(text)
    mac = b"\x02\x01\x02\x03\x04\x05"
    assert answers.address_of(messages.add_address(7, address).body) == LinkAddress(
        ifindex=7, address=address, protocol=119
    )
    assert answers.neighbour_of(messages.add_neighbour(7, address.ip, mac).body) == Neighbour(
        ifindex=7, address=address.ip, mac=mac, is_permanent=True
    )


def test_a_link_is_read_from_its_message() -> None:
    link = answers.link_of(messages.create_veth(PAIR).body)
    assert (link.ifindex, link.ifname, link.kind) == (PAIR.host_ifindex, PAIR.host_ifname, "veth")
    assert (link.mac, link.mtu, link.group) == ("02:01:02:03:04:05", 9001, 0x76630002)


@pytest.mark.parametrize(("flags", "is_slave"), [(0x1043, False), (0x1843, True)])
def test_a_links_master_and_slave_flag_are_read(flags: int, *, is_slave: bool) -> None:
    body = messages.IFINFO.pack(0, 1, 7, flags, 0) + messages.u32(10, 5)  # IFLA_MASTER
    link = answers.link_of(body)
    assert (link.master_ifindex, link.is_slave) == (5, is_slave)


def test_several_messages_in_one_datagram_are_split() -> None:
    requests = [messages.delete_link(7), messages.get_link("eth0"), messages.delete_link(8)]
    data = b""
    for number, request in enumerate(requests):
        data += messages.serialise(request, number, ack=False)
        data += b"\0" * (-len(data) & 3)
    assert [message.sequence for message in answers.split(data)] == [0, 1, 2]


@pytest.mark.parametrize("kind", ["routes", "rules", "addresses", "neighbours"])
def test_a_dump_asks_for_both_families_unless_told_which(kind: str) -> None:
    dump = getattr(messages, f"dump_{kind}")
    assert [dump().body[0], dump(2).body[0], dump(10).body[0]] == [0, 2, 10]


def test_the_route_to_an_ipv6_address_is_asked_for_whole() -> None:
    message = decoded(messages.match_route(ip_address("2001:db8::7")), rtmsg)
    assert (message["family"], message["dst_len"]) == (10, 128)
    assert message.get_attr("RTA_DST") == "2001:db8::7"


def test_a_vlan_link_is_created_with_everything_in_one_message() -> None:
    request = messages.create_vlan(
        "vlan.eth.7",
        parent_ifindex=3,
        vlan_id=7,
        mac="02:00:00:00:07:07",
        mtu=9001,
        group=0x76638007,
    )
    message = decoded(request, ifinfmsg)
    assert message.get_attr("IFLA_IFNAME") == "vlan.eth.7"
    assert message.get_attr("IFLA_ADDRESS") == "02:00:00:00:07:07"
    assert (message.get_attr("IFLA_LINK"), message.get_attr("IFLA_MTU")) == (3, 9001)
    assert message.get_attr("IFLA_GROUP") == 0x76638007
    info = message.get_attr("IFLA_LINKINFO")
    assert info.get_attr("IFLA_INFO_KIND") == "vlan"
    assert info.get_nested("IFLA_INFO_DATA", "IFLA_VLAN_ID") == 7
    assert message["header"]["flags"] & (messages.NLM_F_CREATE | messages.NLM_F_EXCL)


def test_a_vlan_links_id_and_parent_are_read() -> None:
    request = messages.create_vlan(
        "vlan.eth.4094", parent_ifindex=3, vlan_id=4094, mac="02:00:00:00:07:07", mtu=1500, group=9
    )
    link = answers.link_of(request.body)
    assert (link.kind, link.vlan_id, link.peer_ifindex) == ("vlan", 4094, 3)


@pytest.mark.parametrize(
    ("rule", "attribute", "value"),
    [
        (Rule(priority=10, table=107, iif="vlan.eth.7"), "FRA_IIFNAME", "vlan.eth.7"),
        (Rule(priority=0, table=255, ip_protocol=58, family=10), "FRA_IP_PROTO", 58),
    ],
    ids=["by the link it came by", "by the protocol"],
)
def test_a_rule_by_what_a_packet_is(rule: Rule, attribute: str, value: object) -> None:
    request = messages.add_rule(rule)
    assert decoded(request, fibmsg).get_attr(attribute) == value
    assert answers.rule_of(request.body) == rule
