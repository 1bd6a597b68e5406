"""A node with two ENIs to a fabric that checks source addresses, for the datapath's own tests.

The test's thread itself stands in the node's namespace while the lab is open, so that sockets,
threads, `nft` and /proc/sys of the code under test are the node's.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network

from cni_shim.datapath.desired import DesiredEni, DesiredHost
from cni_shim.datapath.families import Address
from cni_shim.datapath.host import HostDatapath
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import LinkNotices
from cni_shim.datapath.pods import PodDatapath
from cni_shim.datapath.wiring import PodWiring

OUTSIDE = "198.51.100.1"
_PORT = 7
_LIBC = ctypes.CDLL(None, use_errno=True)

PRIMARY = DesiredEni(
    eni_id="eni-0",
    mac="02:00:00:00:00:10",
    primary_address=IPv4Address("10.0.0.10"),
    subnet_cidr=IPv4Network("10.0.0.0/24"),
    gateway=IPv4Address("10.0.0.1"),
    device_index=0,
    route_table_id=254,
    is_primary=True,
)
SECONDARY = DesiredEni(
    eni_id="eni-1",
    mac="02:00:00:00:00:11",
    primary_address=IPv4Address("10.0.1.10"),
    subnet_cidr=IPv4Network("10.0.1.0/24"),
    gateway=IPv4Address("10.0.1.1"),
    device_index=1,
    route_table_id=2,
    is_primary=False,
)
BOTH = DesiredHost(enis=(PRIMARY, SECONDARY))


def run(*arguments: str) -> str:
    """Run a program; its output. Fails the test with its error text."""
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stderr}"
    return done.stdout


def wiring(number: int = 1, *, mark: int = 0, **changed: object) -> PodWiring:
    """Pod <number> on the primary (mark 0) or the secondary ENI (mark 2)."""
    values: dict[str, object] = {
        "container_id": f"{number:064x}",
        "ifname": "eth0",
        "network_name": "vpc",
        "pod_namespace": "default",
        "pod_name": f"web-{number}",
        "addresses": (IPv4Address(f"10.0.{1 if mark else 0}.{100 + number}"),),
        "mark": mark,
        "mtu": 9001,
        "veth_prefix": "eni",
    }
    return PodWiring(**(values | changed))  # type: ignore[arg-type]


@contextmanager
def inside(netns_fd: int) -> Iterator[None]:
    """Run the block with this thread in another network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert _LIBC.setns(netns_fd, 0) == 0, os.strerror(ctypes.get_errno())
        try:
            yield
        finally:
            assert _LIBC.setns(home, 0) == 0
    finally:
        os.close(home)


def udp_socket(netns_fd: int) -> socket.socket:
    """A UDP socket in the namespace, with a bound on every wait."""
    with inside(netns_fd):
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(2.0)
    return made


@dataclass(kw_only=True)
class Netns:
    """A named network namespace, held open."""

    name: str
    fd: int

    def ip(self, *arguments: str) -> str:
        """Run ip inside it."""
        return run("ip", "-n", self.name, *arguments)


@dataclass(kw_only=True)
class Lab:
    """The node, its fabric and the code under test."""

    stack: ExitStack
    fabric: Netns
    netlink: HostNetlink
    notices: LinkNotices
    pods: PodDatapath
    host: HostDatapath
    namespaces: list[Netns] = field(default_factory=list)

    def make_netns(self) -> Netns:
        """A new namespace, removed with the lab."""
        made = self.stack.enter_context(_netns())
        self.namespaces.append(made)
        return made

    def attach_eni(self, eni: DesiredEni) -> None:
        """Give the node an ENI's link, down and bare, with the fabric's router behind it."""
        end = f"f{eni.device_index}"
        run("ip", "link", "add", f"ens{eni.device_index + 5}", "address", eni.mac, "type", "veth",
            "peer", "name", end, "netns", self.fabric.name)  # fmt: skip
        self.fabric.ip("address", "add", f"{eni.gateway}/{eni.subnet_cidr.prefixlen}", "dev", end)
        self.fabric.ip("link", "set", end, "up")
        run("ip", "netns", "exec", self.fabric.name, "nft", "add", "rule", "ip", "check", "in",
            "iifname", end, "ip", "saddr", "!=", str(eni.subnet_cidr), "drop")  # fmt: skip

    def set_up_primary(self) -> None:
        """What the distribution does at boot: the primary ENI's address and default route."""
        run("ip", "link", "set", "ens5", "up")
        run("ip", "address", "add", "10.0.0.10/24", "dev", "ens5")
        run("ip", "route", "add", "default", "via", "10.0.0.1")

    def deliver(self, eni: DesiredEni, address: Address) -> None:
        """Make the fabric deliver the address to the ENI, as a VPC does after assigning."""
        self.fabric.ip("neighbour", "replace", str(address), "lladdr", eni.mac,
                       "dev", f"f{eni.device_index}")  # fmt: skip

    def can_reach_outside(self, pod: Netns, eni: DesiredEni, address: Address) -> bool:
        """Whether a datagram from the pod gets out, past the source check, and an answer back."""
        self.deliver(eni, address)
        with udp_socket(self.fabric.fd) as server, udp_socket(pod.fd) as client:
            server.bind((OUTSIDE, _PORT))
            client.sendto(b"question", (OUTSIDE, _PORT))
            try:
                _, sender = server.recvfrom(100)
                server.sendto(b"answer", sender)
                return sender[0] == str(address) and client.recv(100) == b"answer"
            except TimeoutError:
                return False


@contextmanager
def _netns() -> Iterator[Netns]:
    name = f"dp-{uuid.uuid4().hex[:10]}"
    run("ip", "netns", "add", name)
    fd = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield Netns(name=name, fd=fd)
    finally:
        os.close(fd)
        # A test may have deleted it already; that it is gone is all that matters.
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


@contextmanager
def own_netns() -> Iterator[Netns]:
    """A namespace with nothing but lo, removed afterwards."""
    with _netns() as made:
        made.ip("link", "set", "lo", "up")
        yield made


@contextmanager
def open_lab() -> Iterator[Lab]:
    """A node with both ENIs attached and the primary set up; everything is removed afterwards."""
    with ExitStack() as stack:
        fabric = stack.enter_context(_netns())
        node = stack.enter_context(_netns())
        stack.enter_context(inside(node.fd))
        _prepare_fabric(fabric)
        netlink = HostNetlink()
        stack.callback(netlink.close)
        notices = LinkNotices()
        notices.start()
        stack.callback(notices.close)
        pods = PodDatapath(netlink, notices)
        stack.callback(pods.close)
        lab = Lab(stack=stack, fabric=fabric, netlink=netlink, notices=notices, pods=pods,
                  host=HostDatapath(netlink))  # fmt: skip
        run("ip", "link", "set", "lo", "up")
        lab.attach_eni(PRIMARY)
        lab.attach_eni(SECONDARY)
        lab.set_up_primary()
        yield lab


def _prepare_fabric(fabric: Netns) -> None:
    fabric.ip("link", "set", "lo", "up")
    fabric.ip("address", "add", f"{OUTSIDE}/32", "dev", "lo")
    script = "table ip check { chain in { type filter hook prerouting priority 0; }\n}\n"
    run("ip", "netns", "exec", fabric.name, "nft", script)
