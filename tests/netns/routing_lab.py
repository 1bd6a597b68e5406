"""Two nodes with two ENIs each on the emulated VPC's fabric, and a host outside the VPC, of both
families, to see how packets travel.

Each node has its own datapath, made and used with the calling thread inside that node's namespace
(`Node.inside`), as if it were the node's vpc-cnid.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeVar

from cni_shim.datapath.desired import DesiredHost, EniReadiness
from cni_shim.datapath.families import Address
from cni_shim.datapath.host import HostDatapath
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import LinkNotices
from cni_shim.datapath.pods import PodDatapath
from cni_shim.datapath.policy import HostPolicy
from cni_shim.datapath.routing import RoutingRules

from providers.sim import netns
from providers.sim.fabric import Fabric
from providers.sim.model import WiredEni
from tests.netns.datapath_lab import Netns, inside, run
from tests.netns.vpc_lab import SUBNETS, desired_eni, set_up_primary, wired_eni, wiring

T = TypeVar("T")

OUTSIDE: dict[int, Address] = {
    4: IPv4Address("198.51.100.9"),
    6: IPv6Address("2001:db8:ffff::9"),
}
EXCLUDED = IPv4Address("203.0.113.9")
VPC_CIDRS = (IPv4Network("10.0.0.0/16"), IPv6Network("2001:db8::/56"))
SECONDS = 0.4  # a round trip on veths takes well under a millisecond

A0, A1 = wired_eni("a0", 0, 0, 2), wired_eni("a1", 1, 1, 3)
B0, B1 = wired_eni("b0", 0, 0, 4), wired_eni("b1", 1, 1, 5)


def wanted(policy: HostPolicy, *enis: WiredEni) -> DesiredHost:
    """What ipamd asks of a node with these ENIs."""
    return DesiredHost(enis=tuple(map(desired_eni, enis)), vpc_cidrs=VPC_CIDRS, policy=policy)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Somewhere that sends and hears: a namespace, and its address of each family."""

    netns: Netns
    addresses: dict[int, Address]


@dataclass(kw_only=True)
class Node:
    """A node and the code under test on it."""

    name: str
    netns: Netns
    enis: tuple[WiredEni, ...]
    netlink: HostNetlink
    notices: LinkNotices
    pods: PodDatapath
    host: HostDatapath
    stack: ExitStack
    made: int = 0

    def call(self, body: Callable[[], T]) -> T:
        """Run it with this thread in the node's namespace."""
        with inside(self.netns.fd):
            return body()

    def apply(self, policy: HostPolicy) -> tuple[EniReadiness, ...]:
        """Bring the node's network about."""
        return self.call(lambda: self.host.apply(wanted(policy, *self.enis)))

    def apply_until_ready(self, policy: HostPolicy) -> None:
        """The same, as often as it takes: a link's IPv6 link-local address comes a moment late."""
        deadline = time.monotonic() + 5.0
        said = self.apply(policy)
        while not all(eni.is_ready for eni in said):
            assert time.monotonic() < deadline, said
            said = self.apply(policy)

    def run(self, *command: str) -> str:
        """Run a program on the node."""
        return self.call(lambda: run(*command))

    def add_pod(self, device_index: int) -> Place:
        """A pod on one of the ENIs, with an address of each family."""
        self.made += 1
        pod = make_netns(self.stack, f"{self.name}-pod-{self.made}")
        wired = wiring(self.made, self.enis[device_index])
        self.call(lambda: self.pods.wire(pod.fd, wired))
        return Place(netns=pod, addresses={a.version: a for a in wired.addresses})

    def eni(self, device_index: int) -> Place:
        """The node itself, by the ENI's own addresses."""
        eni = self.enis[device_index]
        addresses: dict[int, Address] = {4: eni.primary_address, 6: eni.addresses_v6[0]}
        return Place(netns=self.netns, addresses=addresses)

    def drop_nft_rules(self, chain: str, text: str) -> None:
        """Take the rules with this text away from a chain of ours, and nothing else."""
        listing = self.run("nft", "-a", "list", "chain", "inet", "vpc-ipamd", chain)
        handles = [line.split()[-1] for line in listing.splitlines() if text in line]
        assert handles, f"{chain} has no rule with {text!r}:\n{listing}"
        for handle in handles:
            self.run("nft", "delete", "rule", "inet", "vpc-ipamd", chain, "handle", handle)


@dataclass(kw_only=True)
class RoutingLab:
    """The VPC, two nodes, and the host outside."""

    stack: ExitStack
    fabric: Fabric
    a: Node
    b: Node
    outside: Place

    def router(self, address: str) -> Place:
        """The VPC's router by one of its addresses."""
        path = self.fabric.netns_path
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.stack.callback(os.close, fd)
        parsed = ip_address(address)
        return Place(netns=Netns(name=self.fabric.name, fd=fd), addresses={parsed.version: parsed})

    def drops(self) -> set[tuple[str, str]]:
        """What the VPC dropped: ENI and source."""
        return {(row["eni_id"], row["source"]) for row in self.fabric.dropped()}


def seen_source(
    client: Place,
    server: Place,
    *,
    version: int = 4,
    port: int = 7,
    by: tuple[Address, int] | None = None,
    seconds: float = SECONDS,
) -> Address | None:
    """The source that the server saw, if two exchanges of one UDP connection went well, else None.

    The client sends to the server's address, or to another (`by`: of a Service). Two, since a
    connection's first packet is treated otherwise than those after an answer.
    """
    address, target = server.addresses[version], by or (server.addresses[version], port)
    with (
        _socket(server.netns, version, address, port, seconds) as listening,
        _socket(client.netns, version, client.addresses[version], 0, seconds) as asking,
    ):
        asking.connect((str(target[0]), target[1]))
        seen = None
        try:
            for _ in range(2):
                asking.send(b"question")
                _, sender = listening.recvfrom(100)
                listening.sendto(b"answer", sender)
                asking.recv(100)
                seen = ip_address(sender[0])
        except (TimeoutError, OSError):
            return None
        return seen


def seen_source_by_tcp(
    client: Place, server: Place, *, by: tuple[Address, int], port: int = 7
) -> Address | None:
    """The same by TCP and IPv4, with so much each way that it fills many segments."""
    size = 200_000
    with ExitStack() as stack:
        with inside(server.netns.fd):
            listening = stack.enter_context(socket.create_server((str(server.addresses[4]), port)))
        with inside(client.netns.fd):
            asking = stack.enter_context(socket.socket())
        for made in (listening, asking):
            made.settimeout(2.0)
        try:
            asking.connect((str(by[0]), by[1]))
            accepted, sender = listening.accept()
            stack.enter_context(accepted).settimeout(2.0)
            for one, other in ((asking, accepted), (accepted, asking)):
                sending = threading.Thread(target=one.sendall, args=(bytes(size),))
                sending.start()
                received = 0
                while received < size:
                    data = other.recv(65536)
                    if not data:
                        return None
                    received += len(data)
                sending.join()
        except (TimeoutError, OSError):
            return None
        return ip_address(sender[0])


def _socket(
    where: Netns, version: int, address: Address, port: int, seconds: float
) -> socket.socket:
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with inside(where.fd):
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(seconds)
    made.bind((str(address), port))
    return made


def make_netns(stack: ExitStack, name: str) -> Netns:
    """A namespace that is removed with the lab."""
    path = netns.create(name)
    stack.callback(netns.delete, name)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    stack.callback(os.close, fd)
    # A link that has been up for long: no second of duplicate detection in every test.
    netns.call_in(path, lambda: netns.set_sysctl("ipv6/conf/default/accept_dad", 0))
    return Netns(name=name, fd=fd)


@contextmanager
def open_routing_lab(
    *, mode: RoutingRules = RoutingRules.GROUPED, further_outside: tuple[Address, ...] = ()
) -> Iterator[RoutingLab]:
    """Everything in place but the nodes' own network: that is for `Node.apply`.

    `further_outside` are more addresses of the host outside the VPC.
    """
    with ExitStack() as stack:
        fabric = Fabric("routing-vpc")
        fabric.create()
        stack.callback(fabric.destroy)
        for cidr, cidr_v6 in SUBNETS:
            fabric.add_subnet(cidr, cidr_v6)
        outside = make_netns(stack, "routing-outside")
        fabric.add_outside(outside.name, (*OUTSIDE.values(), EXCLUDED, *further_outside))
        a = _node(stack, fabric, "routing-a", (A0, A1), mode)
        b = _node(stack, fabric, "routing-b", (B0, B1), mode)
        yield RoutingLab(
            stack=stack,
            fabric=fabric,
            a=a,
            b=b,
            outside=Place(netns=outside, addresses=OUTSIDE),
        )


def _node(
    stack: ExitStack, fabric: Fabric, name: str, enis: tuple[WiredEni, ...], mode: RoutingRules
) -> Node:
    made = make_netns(stack, name)
    for eni in enis:
        fabric.plug(eni, name)
    netns.call_in(f"/run/netns/{name}", lambda: set_up_primary(enis[0]))
    with inside(made.fd):
        netlink = HostNetlink()
        notices = LinkNotices()
        notices.start()
        pods = PodDatapath(netlink, notices, mode=mode)
        host = HostDatapath(netlink)
        netlink.socket()
    stack.callback(netlink.close)
    stack.callback(notices.close)
    stack.callback(pods.close)
    return Node(name=name, netns=made, enis=enis, netlink=netlink, notices=notices, pods=pods,
                host=host, stack=stack)  # fmt: skip
