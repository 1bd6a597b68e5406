"""Two nodes with two ENIs each, wired by hand: what the VPC lets through, drops and names."""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from providers.sim import netns
from providers.sim.fabric import Fabric
from providers.sim.lab_netlink import Netlink
from providers.sim.model import WiredEni
from providers.sim.ping import Probe, ping, ping_all

pytestmark = pytest.mark.netns

SUBNET_A = IPv4Network("10.0.0.0/24")
SUBNET_B = IPv4Network("10.0.1.0/24")
ETH_P_ARP, ETH_P_IPV6 = 0x0806, 0x86DD


def eni(name: str, index: int, subnet: IPv4Network, *hosts: int) -> WiredEni:
    addresses = tuple(subnet.network_address + host for host in hosts)
    return WiredEni(
        eni_id=f"eni-{name}",
        mac=f"02:00:00:00:{hosts[0]:02x}:{index:02x}",
        instance_id=f"i-{name}",
        device_index=index,
        subnet_cidr=subnet,
        primary_address=addresses[0],
        addresses=addresses,
        has_source_check=True,
    )


# Node 1 has both ENIs in subnet A, node 2 one in each: same-subnet and cross-subnet pairs exist.
N1_ETH0 = eni("n1a", 0, SUBNET_A, 10, 11)
N1_ETH1 = eni("n1b", 1, SUBNET_A, 20, 21)
N2_ETH0 = eni("n2a", 0, SUBNET_A, 30, 31)
N2_ETH1 = eni("n2b", 1, SUBNET_B, 40, 41)
WRONG_ADDRESS = str(N1_ETH1.addresses[1])  # real, but another ENI's of the same node


def bring_up(path: str, wired: WiredEni) -> None:
    """Addresses on the link, and a table per ENI chosen by source: a node with right routing."""

    def work() -> None:
        with Netlink() as netlink:
            index = netlink.index(f"eth{wired.device_index}")
            assert index is not None
            netlink.set_up(index)
            for address in wired.addresses:
                netlink.replace_address(index, IPv4Interface((address, 24)))
        link, table = f"eth{wired.device_index}", 100 + wired.device_index
        gateway = wired.subnet_cidr.network_address + 1
        commands = [f"route replace default via {gateway} dev {link} table {table}"]
        commands += [f"rule add from {address} lookup {table}" for address in wired.addresses]
        netns.run_in(path, ["ip", "-batch", "-"], stdin="\n".join(commands))

    netns.call_in(path, work)


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
        fabric.add_subnet(SUBNET_A)
        fabric.add_subnet(SUBNET_B)
        lab = Lab(fabric, make_netns("node1"), make_netns("node2"))
        for wired, path in lab.ends.items():
            fabric.plug(wired, path)
            bring_up(path, wired)
        yield lab
    finally:
        fabric.destroy()


def send_frame(path: str, link: str, frame: bytes) -> None:
    """Put a frame on the wire as it is."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
            raw.bind((link, 0))
            raw.send(frame)

    netns.call_in(path, send)


def ethernet(source: str, kind: int, payload: bytes) -> bytes:
    return b"\xff" * 6 + bytes.fromhex(source.replace(":", "")) + struct.pack("!H", kind) + payload


def arp_request(frame_mac: str, sender_mac: str, sender: str, target: str) -> bytes:
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    body += bytes.fromhex(sender_mac.replace(":", "")) + socket.inet_aton(sender)
    body += b"\0" * 6 + socket.inet_aton(target)
    return ethernet(frame_mac, ETH_P_ARP, body)


def arp_answers(path: str, link: str, request: bytes, wait_seconds: float) -> list[str]:
    """Sender MACs of the ARP replies that come back within the time, at most one."""

    def ask() -> list[str]:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ARP)) as raw:
            raw.bind((link, ETH_P_ARP))
            raw.settimeout(wait_seconds)
            raw.send(request)
            try:
                return [raw.recv(200)[22:28].hex(":")]
            except TimeoutError:
                return []

    return netns.call_in(path, ask)


def dropped(lab: Lab, packets: int = 1) -> list[tuple[str, str, str, int]]:
    """What was counted, once so many packets are (a veth hands over in a soft interrupt)."""
    deadline = time.monotonic() + 2
    while True:
        rows = [(r["eni_id"], r["kind"], r["source"], r["packets"]) for r in lab.fabric.dropped()]
        if sum(row[3] for row in rows) >= packets or time.monotonic() > deadline:
            return rows


def test_every_address_reaches_every_other_node_in_both_subnets(lab: Lab) -> None:
    probes = [
        Probe(netns_path=path, source=str(source), target=str(target))
        for wired, path in lab.ends.items()
        for source in wired.addresses
        for other, other_path in lab.ends.items()
        if other_path != path
        for target in other.addresses
    ]

    answers = ping_all(probes)

    lost = [probe for probe, answer in zip(probes, answers, strict=True) if answer is None]
    assert (len(probes), lost, lab.fabric.dropped()) == (32, [], [])


def send_by_eth0(lab: Lab, source: str) -> None:
    """The classic mistake in a node: no rule for the source, so it leaves by the primary ENI.

    The router's MAC is asked for first with a right sender; Linux would put the wrong one into ARP.
    """
    assert ping(lab.node1, str(N1_ETH0.primary_address), "10.0.0.1") is not None
    netns.run_in(lab.node1, ["ip", "rule", "add", "pref", "1", "from", source, "lookup", "100"])


def test_an_address_on_the_wrong_eni_is_dropped_and_named(lab: Lab) -> None:
    send_by_eth0(lab, WRONG_ADDRESS)

    answer = ping(lab.node1, WRONG_ADDRESS, str(N2_ETH0.primary_address), 0.3)

    assert (answer, dropped(lab)) == (None, [("eni-n1a", "ip", WRONG_ADDRESS, 1)])


def test_an_address_of_nobody_is_dropped_and_named(lab: Lab) -> None:
    netns.run_in(lab.node1, ["ip", "address", "add", "10.0.0.99/32", "dev", "eth0"])
    send_by_eth0(lab, "10.0.0.99")

    answer = ping(lab.node1, "10.0.0.99", str(N2_ETH0.primary_address), 0.3)

    assert (answer, dropped(lab)) == (None, [("eni-n1a", "ip", "10.0.0.99", 1)])


def test_the_gateway_does_not_answer_a_wrong_source(lab: Lab) -> None:
    send_by_eth0(lab, WRONG_ADDRESS)

    answer = ping(lab.node1, WRONG_ADDRESS, "10.0.1.1", 0.3)

    assert (answer, dropped(lab)) == (None, [("eni-n1a", "ip", WRONG_ADDRESS, 1)])


def test_without_the_source_check_the_wrong_address_passes(lab: Lab) -> None:
    send_by_eth0(lab, WRONG_ADDRESS)
    lab.fabric.readdress(replace(N1_ETH0, has_source_check=False))

    answer = ping(lab.node1, WRONG_ADDRESS, str(N2_ETH0.primary_address))

    assert (answer is not None, lab.fabric.dropped()) == (True, [])


def test_the_source_check_can_be_switched_on_again(lab: Lab) -> None:
    send_by_eth0(lab, WRONG_ADDRESS)
    lab.fabric.readdress(replace(N1_ETH0, has_source_check=False))
    lab.fabric.readdress(N1_ETH0)

    assert ping(lab.node1, WRONG_ADDRESS, str(N2_ETH0.primary_address), 0.3) is None


def test_a_wrong_mac_is_dropped_and_named(lab: Lab) -> None:
    netns.run_in(lab.node1, ["ip", "link", "set", "eth0", "address", "02:aa:aa:aa:aa:aa"])
    netns.run_in(
        lab.node1, ["ip", "neigh", "replace", "10.0.0.1", "lladdr", router_mac(lab), "dev", "eth0"]
    )
    lab.fabric.reset_dropped()

    answer = ping(lab.node1, str(N1_ETH0.primary_address), "10.0.1.1", 0.3)

    assert (answer, {row[:3] for row in dropped(lab)}) == (
        None,
        {("eni-n1a", "mac", "02:aa:aa:aa:aa:aa")},
    )


def router_mac(lab: Lab) -> str:
    def ask() -> str:
        with Netlink() as netlink:
            index = netlink.index("e-n1a")
            assert index is not None
            return netlink.mac(index)

    return netns.call_in(lab.fabric.netns_path, ask)


def test_an_arp_request_with_a_foreign_sender_mac_is_dropped_and_named(lab: Lab) -> None:
    wrong = "02:bb:bb:bb:bb:bb"
    request = arp_request(N1_ETH0.mac, wrong, str(N1_ETH0.primary_address), "10.0.0.1")

    answers = arp_answers(lab.node1, "eth0", request, 0.3)

    assert (answers, dropped(lab)) == ([], [("eni-n1a", "arp", wrong, 1)])


def test_an_arp_request_with_a_foreign_sender_address_is_dropped_and_named(lab: Lab) -> None:
    request = arp_request(N1_ETH0.mac, N1_ETH0.mac, WRONG_ADDRESS, "10.0.0.1")

    answers = arp_answers(lab.node1, "eth0", request, 0.3)

    assert (answers, dropped(lab)) == ([], [("eni-n1a", "arp", WRONG_ADDRESS, 1)])


@pytest.mark.parametrize("target", ["10.0.0.1", str(N2_ETH0.primary_address)])
def test_the_router_answers_arp_for_itself_and_for_neighbours_at_once(
    lab: Lab, target: str
) -> None:
    request = arp_request(N1_ETH0.mac, N1_ETH0.mac, str(N1_ETH0.primary_address), target)

    assert arp_answers(lab.node1, "eth0", request, 0.2) == [router_mac(lab)]


@pytest.mark.parametrize("target", [str(N1_ETH0.addresses[1]), "10.0.0.200"])
def test_nobody_answers_arp_for_the_asker_itself_or_an_unassigned_address(
    lab: Lab, target: str
) -> None:
    request = arp_request(N1_ETH0.mac, N1_ETH0.mac, str(N1_ETH0.primary_address), target)

    assert arp_answers(lab.node1, "eth0", request, 0.2) == []


def test_an_arp_probe_and_ipv6_from_the_right_mac_are_not_counted(lab: Lab) -> None:
    send_frame(lab.node1, "eth0", arp_request(N1_ETH0.mac, N1_ETH0.mac, "0.0.0.0", "10.0.0.10"))
    send_frame(lab.node1, "eth0", ethernet(N1_ETH0.mac, ETH_P_IPV6, b"\x60" + b"\0" * 59))
    sentinel = arp_request(N1_ETH0.mac, N1_ETH0.mac, WRONG_ADDRESS, "10.0.0.1")
    send_frame(lab.node1, "eth0", sentinel)  # counted: what went before it has passed by then

    assert dropped(lab) == [("eni-n1a", "arp", WRONG_ADDRESS, 1)]


@pytest.mark.parametrize("target", ["10.0.1.200", "203.0.113.1"])
def test_an_address_of_nobody_is_silence_and_not_an_error(lab: Lab, target: str) -> None:
    def ask() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR: hear every ICMP error
            asking.settimeout(0.2)
            asking.bind((str(N1_ETH0.primary_address), 0))
            asking.connect((target, 9))
            asking.send(b"?")
            asking.recv(1)

    with pytest.raises(TimeoutError):
        netns.call_in(lab.node1, ask)


@pytest.mark.parametrize("target", ["10.0.0.1", "10.0.1.1", "169.254.169.254"])
def test_the_router_answers_every_eni(lab: Lab, target: str) -> None:
    probes = [
        Probe(netns_path=path, source=str(wired.addresses[1]), target=target)
        for wired, path in lab.ends.items()
    ]

    assert None not in ping_all(probes)


def test_unplug_takes_the_link_and_its_routes_away(lab: Lab) -> None:
    lab.fabric.unplug(N1_ETH1.eni_id)

    def seen() -> tuple[int | None, set[str]]:
        with Netlink() as netlink:
            return netlink.index("e-n1b"), {str(target) for target, _index in netlink.routes()}

    link, routes = netns.call_in(lab.fabric.netns_path, seen)
    in_node = netns.run_in(lab.node1, ["ip", "-brief", "link"])
    assert (link, "eth1" in in_node, routes & {"10.0.0.20/32", "10.0.0.21/32"}) == (
        None,
        False,
        set(),
    )


def test_an_unplugged_eni_can_be_plugged_into_another_node(lab: Lab) -> None:
    moved = replace(N1_ETH1, device_index=2)
    lab.fabric.unplug(N1_ETH1.eni_id)
    lab.fabric.plug(moved, lab.node2)
    bring_up(lab.node2, moved)

    answer = ping(lab.node1, str(N1_ETH0.primary_address), str(moved.primary_address))

    assert (answer is not None, lab.fabric.dropped()) == (True, [])


def test_unplug_after_the_node_is_gone_leaves_no_rules(lab: Lab) -> None:
    netns.delete("node1")
    lab.fabric.unplug(N1_ETH0.eni_id)

    assert "e-n1a" not in netns.run_in(lab.fabric.netns_path, ["nft", "list", "ruleset"])


def test_unplugging_what_is_not_plugged_is_no_error(lab: Lab) -> None:
    lab.fabric.unplug("eni-unknown")
    assert lab.fabric.dropped() == []


def test_a_plug_that_fails_leaves_nothing_behind(lab: Lab) -> None:
    clash = eni("clash", 0, SUBNET_A, 50)
    with pytest.raises(FileExistsError):
        lab.fabric.plug(clash, lab.node1)

    links = netns.run_in(lab.fabric.netns_path, ["ip", "-brief", "link"])
    assert "e-clash" not in links + netns.run_in(lab.fabric.netns_path, ["nft", "list", "ruleset"])


def test_an_assigned_address_works_and_an_unassigned_one_is_dropped(lab: Lab) -> None:
    new = IPv4Address("10.0.0.60")
    changed = replace(N1_ETH0, addresses=(N1_ETH0.primary_address, new))
    bring_up(lab.node1, replace(N1_ETH0, addresses=(new,), primary_address=new))
    lab.fabric.readdress(changed)

    target = str(N2_ETH1.primary_address)
    answers = ping_all(
        [
            Probe(netns_path=lab.node1, source=str(new), target=target),
            Probe(netns_path=lab.node1, source=str(N1_ETH0.addresses[1]), target=target),
        ],
        0.3,
    )

    assert ([answer is not None for answer in answers], dropped(lab)) == (
        [True, False],
        [("eni-n1a", "ip", str(N1_ETH0.addresses[1]), 1)],
    )


def test_an_unassigned_address_is_no_longer_reached(lab: Lab) -> None:
    lab.fabric.readdress(replace(N2_ETH1, addresses=(N2_ETH1.primary_address,)))

    answers = ping_all(
        [
            Probe(netns_path=lab.node1, source=str(N1_ETH0.primary_address), target=str(target))
            for target in N2_ETH1.addresses
        ],
        0.3,
    )

    # Nothing dropped: had the request reached the node, its reply would have been.
    seen = ([answer is not None for answer in answers], lab.fabric.dropped())
    assert seen == ([True, False], [])


def test_counters_start_again_after_a_reset(lab: Lab) -> None:
    send_frame(lab.node1, "eth0", arp_request(N1_ETH0.mac, N1_ETH0.mac, WRONG_ADDRESS, "10.0.0.1"))
    before = dropped(lab)
    lab.fabric.reset_dropped()

    assert (len(before), lab.fabric.dropped()) == (1, [])


def test_a_service_inside_the_vpc_is_reached_and_sees_who_asks(lab: Lab) -> None:
    seen: list[str] = []
    with lab.fabric.listening_socket("192.0.2.10", 80) as server:
        thread = threading.Thread(target=lambda: seen.append(accept_one(server)))
        thread.start()
        netns.call_in(lab.node2, lambda: talk(str(N2_ETH1.addresses[1]), "192.0.2.10", 80))
        thread.join()

    assert seen == [str(N2_ETH1.addresses[1])]


def accept_one(server: socket.socket) -> str:
    connection, peer = server.accept()
    connection.close()
    return str(peer[0])


def talk(source: str, target: str, port: int) -> None:
    socket.create_connection((target, port), timeout=2, source_address=(source, 0)).close()


def test_the_eni_appears_down_with_its_name_mac_and_mtu(
    lab: Lab, make_netns: Callable[[str], str]
) -> None:
    node = make_netns("node3")
    lab.fabric.plug(eni("n3", 3, SUBNET_A, 70), node)

    seen = netns.run_in(node, ["ip", "-oneline", "link", "show", "eth3"])

    assert ("state DOWN" in seen, "02:00:00:00:46:03" in seen, "mtu 9001" in seen) == (
        True,
        True,
        True,
    )


def test_enis_whose_ids_are_paths_that_end_alike_have_wires_and_counts_of_their_own(
    lab: Lab, make_netns: Callable[[str], str]
) -> None:
    machines = "/subscriptions/1/providers/microsoft.compute/virtualmachinescalesets/a/machines"
    ends = {
        replace(
            eni("azure", 0, SUBNET_A, host), eni_id=f"{machines}/{host}/networkinterfaces/nic0"
        ): make_netns(f"vm{host}")
        for host in (80, 90)
    }

    for wired, path in ends.items():
        lab.fabric.plug(wired, path)
        bring_up(path, wired)
    (one, vm80), (_, vm90) = ends.items()

    assert ping(vm90, "10.0.0.90", "10.0.0.80", 2) is not None
    assert ping(vm80, "10.0.0.80", WRONG_ADDRESS, 2) is not None
    netns.run_in(vm80, ["ip", "address", "add", "10.0.0.90/32", "dev", "lo"])
    assert ping(vm80, "10.0.0.90", WRONG_ADDRESS, 0.3) is None
    assert [(row["eni_id"], row["source"]) for row in lab.fabric.dropped()] == [
        (one.eni_id, "10.0.0.90")
    ]


def test_destroy_takes_every_link_out_of_the_nodes(lab: Lab) -> None:
    lab.fabric.destroy()

    links = netns.run_in(lab.node1, ["ip", "-brief", "link"]).splitlines()
    assert ([line.split()[0] for line in links], "vpc" in netns.names()) == (["lo"], False)
