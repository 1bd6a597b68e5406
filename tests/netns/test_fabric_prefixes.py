"""Prefixes and IPv6 in the fabric: two nodes, wired by hand, with a /28 and a /80 on each ENI."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from providers.sim import netns
from providers.sim.fabric import Fabric
from providers.sim.lab_netlink import Netlink
from providers.sim.model import WiredEni
from providers.sim.ping import Probe, ping, ping_all

pytestmark = pytest.mark.netns

SUBNET_A, SUBNET_A6 = IPv4Network("10.0.0.0/24"), IPv6Network("2001:db8:0:a::/64")
SUBNET_B, SUBNET_B6 = IPv4Network("10.0.1.0/24"), IPv6Network("2001:db8:0:b::/64")
ETH_P_ALL, ETH_P_IPV6 = 0x0003, 0x86DD
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136  # RFC 4861


def eni(name: str, index: int, host: int, subnet: IPv4Network, subnet_v6: IPv6Network) -> WiredEni:
    """Primary address .<host>, /28 at .<host * 16>, IPv6 address ::<host>, /80 number <host>."""
    primary = subnet.network_address + host
    return WiredEni(
        eni_id=f"eni-{name}",
        mac=f"02:00:00:00:{host:02x}:{index:02x}",
        instance_id=f"i-{name}",
        device_index=index,
        subnet_cidr=subnet,
        primary_address=primary,
        addresses=(primary,),
        has_source_check=True,
        prefixes=(
            IPv4Network((subnet.network_address + 16 * host, 28)),
            IPv6Network((subnet_v6.network_address + (host << 48), 80)),
        ),
        addresses_v6=(subnet_v6.network_address + host,),
        subnet_cidr_v6=subnet_v6,
    )


N1_ETH0 = eni("n1a", 0, 4, SUBNET_A, SUBNET_A6)
N1_ETH1 = eni("n1b", 1, 5, SUBNET_A, SUBNET_A6)
N2_ETH0 = eni("n2a", 0, 6, SUBNET_A, SUBNET_A6)
N2_ETH1 = eni("n2b", 1, 7, SUBNET_B, SUBNET_B6)


def used(wired: WiredEni) -> tuple[IPv4Address | IPv6Address, ...]:
    """Addresses that stand on the node's link: its own, and the first and last of each prefix."""
    ends = (end for p in wired.prefixes for end in (p.network_address, p.broadcast_address))
    return (*wired.addresses, *wired.addresses_v6, *ends)


def bring_up(path: str, wired: WiredEni) -> None:
    """Addresses on the link, and a table per ENI chosen by source: a node with right routing."""
    link, table = f"eth{wired.device_index}", 100 + wired.device_index
    gateways = {4: wired.subnet_cidr.network_address + 1, 6: IPv6Address("fe80:ec2::1")}
    for version, gateway in gateways.items():
        commands = [
            f"link set {link} up",
            f"route replace {gateway} dev {link} table {table}",
            f"route replace default via {gateway} dev {link} table {table}",
        ]
        for address in used(wired):
            if address.version == version:
                dad = "nodad" if version == 6 else ""
                commands.append(f"address replace {address} dev {link} {dad}")
                commands.append(f"rule add pref 100 from {address} lookup {table}")
        netns.run_in(path, ["ip", f"-{version}", "-batch", "-"], stdin="\n".join(commands))


class Lab:
    """The fabric and two nodes."""

    def __init__(self, fabric: Fabric, node1: str, node2: str) -> None:
        self.fabric, self.node1, self.node2 = fabric, node1, node2
        self.ends = {N1_ETH0: node1, N1_ETH1: node1, N2_ETH0: node2, N2_ETH1: node2}


@pytest.fixture
def lab(make_netns: Callable[[str], str]) -> Iterator[Lab]:
    fabric = Fabric("vpc")
    fabric.create()
    try:
        fabric.add_subnet(SUBNET_A, SUBNET_A6)
        fabric.add_subnet(SUBNET_B, SUBNET_B6)
        lab = Lab(fabric, make_netns("node1"), make_netns("node2"))
        for wired, path in lab.ends.items():
            # Addresses of links long up: no second of duplicate detection in every test.
            netns.call_in(path, lambda: netns.set_sysctl("ipv6/conf/default/accept_dad", 0))
            fabric.plug(wired, path)
            bring_up(path, wired)
        yield lab
    finally:
        fabric.destroy()


def dropped(lab: Lab, packets: int = 1) -> list[tuple[str, str, str, int]]:
    """What was counted, once so many packets are (a veth hands over in a soft interrupt)."""
    deadline = time.monotonic() + 2
    while True:
        rows = [(r["eni_id"], r["kind"], r["source"], r["packets"]) for r in lab.fabric.dropped()]
        if sum(row[3] for row in rows) >= packets or time.monotonic() > deadline:
            return rows


def test_every_address_of_both_families_reaches_every_other_node(lab: Lab) -> None:
    probes = [
        Probe(netns_path=path, source=str(source), target=str(target))
        for wired, path in lab.ends.items()
        for source in used(wired)
        for other, other_path in lab.ends.items()
        if other_path != path
        for target in used(other)
        if target.version == source.version
    ]

    answers = ping_all(probes)

    lost = [probe for probe, answer in zip(probes, answers, strict=True) if answer is None]
    assert (len(probes), lost, lab.fabric.dropped()) == (144, [], [])


@pytest.mark.parametrize("target", ["2001:db8:0:a::1", "2001:db8:0:b::1", "fd00:ec2::254"])
def test_the_router_answers_every_eni(lab: Lab, target: str) -> None:
    probes = [
        Probe(netns_path=path, source=str(source), target=target)
        for wired, path in lab.ends.items()
        for source in used(wired)
        if source.version == 6
    ]

    assert (len(probes), None in ping_all(probes)) == (12, False)


def send_by_eth0(lab: Lab, source: object) -> None:
    """The classic mistake in a node: no rule for the source, so it leaves by the primary ENI.

    The router's MAC is asked for first with right senders; Linux would put a wrong one into ARP.
    """
    assert ping(lab.node1, str(N1_ETH0.primary_address), "10.0.0.1") is not None
    assert ping(lab.node1, str(N1_ETH0.addresses_v6[0]), "fd00:ec2::254") is not None
    family = f"-{IPv6Address(source).version}" if ":" in str(source) else "-4"
    rule = ["pref", "1", "from", str(source), "lookup", "100"]
    netns.run_in(lab.node1, ["ip", family, "rule", "add", *rule])


@pytest.mark.parametrize(
    "source",
    [used(N1_ETH1)[1], used(N1_ETH1)[2], used(N1_ETH1)[5]],
    ids=["address-v6", "prefix-v4", "prefix-v6"],
)
def test_a_source_of_the_nodes_other_eni_is_dropped_and_named(
    lab: Lab, source: IPv4Address | IPv6Address
) -> None:
    send_by_eth0(lab, source)
    target = next(a for a in used(N2_ETH0) if a.version == source.version)

    answer = ping(lab.node1, str(source), str(target), 0.3)

    assert (answer, dropped(lab)) == (None, [("eni-n1a", "ip", str(source), 1)])


def test_a_source_just_outside_the_prefix_is_dropped_and_named(lab: Lab) -> None:
    outside = str(N1_ETH0.prefixes[1].broadcast_address + (1 << 48))
    netns.run_in(lab.node1, ["ip", "address", "add", f"{outside}/128", "dev", "eth0", "nodad"])
    send_by_eth0(lab, outside)

    answer = ping(lab.node1, outside, str(N2_ETH1.addresses_v6[0]), 0.3)

    assert (answer, dropped(lab)) == (None, [("eni-n1a", "ip", outside, 1)])


def test_without_the_source_check_a_wrong_ipv6_source_passes(lab: Lab) -> None:
    source = used(N1_ETH1)[5]
    send_by_eth0(lab, source)
    lab.fabric.readdress(replace(N1_ETH0, has_source_check=False))

    answer = ping(lab.node1, str(source), str(N2_ETH0.addresses_v6[0]))

    assert (answer is not None, lab.fabric.dropped()) == (True, [])


def test_ipv6_from_a_wrong_mac_is_dropped_and_named(lab: Lab) -> None:
    frame = b"\x33\x33\0\0\0\x01" + bytes.fromhex("02bbbbbbbbbb") + struct.pack("!H", ETH_P_IPV6)

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(frame + b"\x60" + b"\0" * 59)

    netns.call_in(lab.node1, send)

    assert dropped(lab) == [("eni-n1a", "mac", "02:bb:bb:bb:bb:bb", 1)]


@pytest.mark.parametrize(
    "target",
    ["2001:db8:0:a::99", "2001:db8:0:b:99::1", "2001:db8:ffff::1", "10.0.0.200"],
    ids=["same-subnet", "other-subnet", "nowhere", "no-prefix-v4"],
)
def test_an_address_of_nobody_is_silence_and_not_an_error(lab: Lab, target: str) -> None:
    is_v6 = ":" in target
    source = N1_ETH0.addresses_v6[0] if is_v6 else N1_ETH0.primary_address
    family = socket.AF_INET6 if is_v6 else socket.AF_INET
    # IPV6_RECVERR, IP_RECVERR (linux/in6.h, in.h): hear every ICMP error.
    hear = (socket.IPPROTO_IPV6, 25) if is_v6 else (socket.IPPROTO_IP, 11)

    def ask() -> None:
        with socket.socket(family, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(*hear, 1)
            asking.settimeout(0.2)
            asking.bind((str(source), 0))
            asking.connect((target, 9))
            asking.send(b"?")
            asking.recv(1)

    with pytest.raises(TimeoutError):
        netns.call_in(lab.node1, ask)


def frames_seen_while(path: str, body: Callable[[], object]) -> list[bytes]:
    """Every frame that came in at the node's eth0 until shortly after `body`."""

    def listen() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        opened.bind(("eth0", ETH_P_ALL))
        return opened

    frames = []
    with netns.call_in(path, listen) as opened:
        body()
        opened.settimeout(0.1)
        try:
            while True:
                frame, place = opened.recvfrom(2000)
                if place[2] != socket.PACKET_OUTGOING:
                    frames.append(frame)
        except TimeoutError:
            return frames


def test_a_pod_address_is_delivered_to_the_enis_mac_without_asking_for_it(lab: Lab) -> None:
    """Nobody on the node holds the address, so an answer would not come either."""
    pod = str(N2_ETH0.prefixes[1].network_address + 77)

    frames = frames_seen_while(
        lab.node2, lambda: ping(lab.node1, str(N1_ETH0.addresses_v6[0]), pod, 0.1)
    )

    requests = [f for f in frames if f[54] == 128 and f[38:54] == IPv6Address(pod).packed]
    asked = [f for f in frames if f[54] == NEIGHBOUR_SOLICITATION]
    assert ([f[:6].hex(":") for f in requests], asked) == ([N2_ETH0.mac], [])


def solicitation(source: IPv6Address, target: IPv6Address, mac: str) -> bytes:
    """A neighbour solicitation as a node sends it, multicast (RFC 4861, RFC 2464)."""
    group = b"\xff\x02" + b"\0" * 9 + b"\x01\xff" + target.packed[13:]
    own = bytes.fromhex(mac.replace(":", ""))
    option = b"" if source == IPv6Address("::") else b"\x01\x01" + own
    body = struct.pack("!BBHI", NEIGHBOUR_SOLICITATION, 0, 0, 0) + target.packed + option
    pseudo = source.packed + group + struct.pack("!II", len(body), 58) + body
    total = sum(struct.unpack(f"!{len(pseudo) // 2}H", pseudo))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    body = body[:2] + struct.pack("!H", ~total & 0xFFFF) + body[4:]
    header = struct.pack("!IHBB", 6 << 28, len(body), 58, 255) + source.packed + group
    ethernet = b"\x33\x33" + group[12:] + own + struct.pack("!H", ETH_P_IPV6)
    return ethernet + header + body


def advertised(lab: Lab, source: IPv6Address, target: IPv6Address) -> list[str]:
    """MACs in the advertisements that node 1's eth0 gets for a solicitation."""

    def ask() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind(("eth0", 0))
            raw.send(solicitation(source, target, N1_ETH0.mac))

    frames = frames_seen_while(lab.node1, lambda: netns.call_in(lab.node1, ask))
    return [f[80:86].hex(":") for f in frames if f[54] == NEIGHBOUR_ADVERTISEMENT]


def router_mac(lab: Lab) -> str:
    def ask() -> str:
        with Netlink() as netlink:
            index = netlink.index("e-n1a")
            assert index is not None
            return netlink.mac(index)

    return netns.call_in(lab.fabric.netns_path, ask)


@pytest.mark.parametrize(
    "target",
    [IPv6Address("fe80:ec2::1"), SUBNET_A6.network_address + 1, N2_ETH0.addresses_v6[0]],
    ids=["router", "base-plus-one", "neighbour"],
)
def test_only_the_routers_mac_is_told(lab: Lab, target: IPv6Address) -> None:
    assert advertised(lab, N1_ETH0.addresses_v6[0], target) == [router_mac(lab)]


@pytest.mark.parametrize(
    ("source", "target"),
    [
        (N1_ETH0.addresses_v6[0], SUBNET_A6.network_address + 0x99),
        (IPv6Address("::"), N1_ETH0.addresses_v6[0]),
    ],
    ids=["unassigned", "own-address-in-duplicate-detection"],
)
def test_nobody_answers_for_what_is_nobody_elses(
    lab: Lab, source: IPv6Address, target: IPv6Address
) -> None:
    assert advertised(lab, source, target) == []


def test_a_taken_prefix_is_neither_delivered_nor_accepted(lab: Lab) -> None:
    source, kept = used(N1_ETH0)[5], N1_ETH0.addresses_v6[0]
    lab.fabric.readdress(replace(N1_ETH0, prefixes=N1_ETH0.prefixes[:1]))
    target = str(N2_ETH0.addresses_v6[0])

    answers = ping_all(
        [
            Probe(netns_path=lab.node2, source=target, target=str(source)),
            Probe(netns_path=lab.node1, source=str(kept), target=target),
            Probe(netns_path=lab.node1, source=str(source), target=target),
        ],
        0.3,
    )

    seen = [answer is not None for answer in answers]
    assert (seen, dropped(lab)) == ([False, True, False], [("eni-n1a", "ip", str(source), 1)])


def test_an_added_prefix_works(lab: Lab) -> None:
    new = IPv6Network("2001:db8:0:a:9::/80")
    netns.run_in(lab.node1, ["ip", "address", "add", f"{new[0]}/128", "dev", "eth0", "nodad"])
    netns.run_in(lab.node1, ["ip", "-6", "rule", "add", "from", str(new[0]), "lookup", "100"])
    lab.fabric.readdress(replace(N1_ETH0, prefixes=(*N1_ETH0.prefixes, new)))

    answer = ping(lab.node1, str(new[0]), str(N2_ETH1.addresses_v6[0]))

    assert (answer is not None, lab.fabric.dropped()) == (True, [])


def test_unplug_takes_routes_and_answers_away(lab: Lab) -> None:
    lab.fabric.unplug(N2_ETH0.eni_id)

    listed = netns.run_in(lab.fabric.netns_path, ["ip", "-6", "route"])
    proxied = netns.run_in(lab.fabric.netns_path, ["ip", "-6", "neigh", "show", "proxy"])
    target = N2_ETH0.addresses_v6[0]
    assert (str(N2_ETH0.prefixes[1]) in listed, f"{target} " in proxied) == (False, False)
