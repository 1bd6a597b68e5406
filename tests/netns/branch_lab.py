"""A node with a trunk ENI whose branches are veths to a router, since test kernels may lack 802.1Q.

The stand-in has the name, MAC, MTU, group and alias of the VLAN link; its other end is where the
VPC delivers the branch ENI's frames. Only the tag on the wire is missing.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from cni_shim.datapath.answers import Link
from cni_shim.datapath.branch import Branch, BranchLink
from cni_shim.datapath.branch_links import VlanKind
from cni_shim.datapath.families import Address
from cni_shim.datapath.netlink import NetlinkSocket
from cni_shim.datapath.wiring import PodWiring

from tests.netns.datapath_lab import OUTSIDE, SECONDARY, Lab, Netns, run, udp_socket, wiring

GATEWAY = IPv4Address("10.0.7.1")
GATEWAY_V6 = IPv6Address("fe80:ec2::1")
TRIES = 3
_PORT = 8


class StandIn(VlanKind):
    """Makes veths in place of VLAN links, and remembers what was asked for."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.made: list[BranchLink] = []

    def create(self, sock: NetlinkSocket, wanted: BranchLink, trunk: Link) -> None:
        self.made.append(wanted)
        assert trunk.mac == wanted.trunk_mac
        vlan_id = wanted.branch.vlan_id
        end = f"b{vlan_id}"
        run("ip", "link", "add", wanted.branch.ifname, "address", wanted.mac, "mtu",
            str(wanted.mtu), "group", str(wanted.branch.group), "type", "veth",
            "peer", "name", end, "mtu", str(wanted.mtu), "netns", self.lab.fabric.name)  # fmt: skip
        fabric = self.lab.fabric
        for gateway, length in ((GATEWAY, 24), (GATEWAY_V6, 64)):
            fabric.ip("address", "add", f"{gateway}/{length}", "dev", end, "nodad")
        run("ip", "link", "set", wanted.branch.ifname, "up")
        fabric.ip("link", "set", end, "up")
        # Starts the queue of the end that came up first, as a VLAN link's is from the first.
        run("ip", "link", "show", wanted.branch.ifname)
        for address in wanted.branch.addresses:
            fabric.ip("neighbour", "replace", str(address), "lladdr", wanted.mac, "dev", end)
            fabric.ip("route", "replace", str(address), "dev", end)
        run("ip", "netns", "exec", fabric.name, "nft", "add", "rule", "ip", "check", "in",
            "iifname", end, "ip", "saddr", "!=", "10.0.7.0/24", "drop")  # fmt: skip

    def is_right(self, link: Link, wanted: BranchLink, trunk: Link) -> bool:
        return link.kind == "veth" and link.mac == wanted.mac and link.mtu == wanted.mtu


def branch(number: int = 7, *, is_strict: bool = True, v6: bool = False) -> Branch:
    """The branch ENI on VLAN <number>."""
    address: Address = IPv4Address(f"10.0.7.{100 + number}")
    gateway: Address = GATEWAY
    if v6:
        address, gateway = IPv6Address(f"2001:db8:7::{number:x}"), GATEWAY_V6
    return Branch(vlan_id=number, is_strict=is_strict, gateways=(gateway,), addresses=(address,))


def branch_wiring(wanted: Branch, *, number: int = 0) -> PodWiring:
    """Pod <number> (the VLAN id if not given) on a branch ENI."""
    link = BranchLink(
        branch=wanted,
        mac=f"02:00:00:00:07:{wanted.vlan_id:02x}",
        trunk_mac=SECONDARY.mac,
        mtu=9001,
    )
    return wiring(
        number or wanted.vlan_id,
        addresses=wanted.addresses,
        veth_prefix="vlan" if wanted.is_strict else "eni",
        branch=link,
    )


def can_talk(source: Netns, target: Netns, address: Address) -> bool:
    """Whether a datagram to an address arrives, and its answer comes back; one may be lost."""
    return any(_can_talk(source, target, address) for _ in range(TRIES))


def _can_talk(source: Netns, target: Netns, address: Address) -> bool:
    with udp_socket(target.fd) as server, udp_socket(source.fd) as client:
        server.settimeout(0.5)
        client.settimeout(0.5)
        server.bind(("0.0.0.0", _PORT))
        client.sendto(b"question", (str(address), _PORT))
        try:
            _, sender = server.recvfrom(100)
            server.sendto(b"answer", sender)
            return client.recv(100) == b"answer"
        except TimeoutError:
            return False


def sender_seen_outside(lab: Lab, pod: Netns) -> str:
    """Which address a host outside sees the pod come from; empty where nothing arrives."""
    seen = (_sender_seen_outside(lab, pod) for _ in range(TRIES))
    return next(filter(None, seen), "")


def _sender_seen_outside(lab: Lab, pod: Netns) -> str:
    with udp_socket(lab.fabric.fd) as server, udp_socket(pod.fd) as client:
        server.settimeout(0.5)
        client.settimeout(0.5)
        server.bind((OUTSIDE, _PORT))
        client.sendto(b"question", (OUTSIDE, _PORT))
        try:
            _, sender = server.recvfrom(100)
            server.sendto(b"answer", sender)
            return str(sender[0]) if client.recv(100) == b"answer" else ""
        except TimeoutError:
            return ""
