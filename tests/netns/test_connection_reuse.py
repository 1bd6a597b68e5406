"""A connection of a pod that went, and the next pod with its address: nothing of it may arrive.

Each story is told with the entries deleted before the address is used again and without: the
latter shows that the packets would arrive.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace

import pytest
from cni_shim.datapath.conntrack import Conntrack
from cni_shim.datapath.families import Address
from cni_shim.datapath.wiring import PodWiring

from tests.netns.datapath_lab import Netns, inside, run
from tests.netns.vpc_lab import DESIRED, PRIMARY, SECONDARY, VpcLab, open_vpc_lab, wiring

pytestmark = pytest.mark.netns

SERVICE = {4: "172.20.0.10", 6: "fd00:172::10"}
PORT = 53
SECONDS = 0.3

SERVICES = """
table inet services {
  chain destinations { type nat hook prerouting priority dstnat; }
  chain forward {
    type filter hook forward priority filter;
    ct state established counter
  }
}
"""
"""What kube-proxy keeps while services come and go; the kernel tracks while a rule looks at it."""

ZONE = """
table inet zones {
  chain zone-all {
    type filter hook prerouting priority raw;
    ct zone set 7
  }
}
"""

STATEFUL = """
table inet guard {
  chain forward {
    type filter hook forward priority filter;
    ct state established accept
    udp dport 53 drop
  }
}
"""
"""A policy that lets connections live which began before it, as policy engines do."""


@pytest.fixture
def lab() -> Iterator[VpcLab]:
    with open_vpc_lab() as opened:
        deadline = time.monotonic() + 5
        while not all(eni.is_ready for eni in opened.host.apply(DESIRED)):
            assert time.monotonic() < deadline
        nft(SERVICES)
        yield opened


def nft(script: str) -> None:
    run("nft", script)


def add_service(pod: Address) -> None:
    family = "ip" if pod.version == 4 else "ip6"
    to = f"{pod}:{PORT}" if pod.version == 4 else f"[{pod}]:{PORT}"
    nft(
        f"add rule inet services destinations {family} daddr {SERVICE[pod.version]} "
        f"udp dport {PORT} dnat {family} to {to}"
    )


def udp(pod: Netns, address: Address) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with inside(pod.fd):
        made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(SECONDS)
    return made


def bound(pod: Netns, address: Address) -> socket.socket:
    made = udp(pod, address)
    made.bind((str(address), PORT))
    return made


def hears(server: socket.socket) -> bool:
    try:
        server.recvfrom(100)
    except TimeoutError:
        return False
    return True


def only(wired: PodWiring, version: int) -> PodWiring:
    return replace(wired, addresses=tuple(a for a in wired.addresses if a.version == version))


class Story:
    """A client that speaks with a pod; the pod goes, and another comes with its address."""

    def __init__(self, lab: VpcLab, version: int, *, by_service: bool) -> None:
        self.lab = lab
        client, self.old = only(wiring(1, PRIMARY), version), only(wiring(2, SECONDARY), version)
        self.client = udp(self._wire(client), client.addresses[0])
        self.address = self.old.addresses[0]
        self.target = (SERVICE[version] if by_service else str(self.address), PORT)
        server = bound(self._wire(self.old), self.address)
        if by_service:
            add_service(self.address)
        with closing(server):
            self.client.sendto(b"question", self.target)
            _, sender = server.recvfrom(100)
            server.sendto(b"answer", sender)
            assert self.client.recvfrom(100)[1][0] == self.target[0]

    def _wire(self, wired: PodWiring) -> Netns:
        pod = self.lab.make_netns()
        self.lab.pods.wire(pod.fd, wired)
        return pod

    def succeed(self, *, flushes: bool) -> bool:
        """The pod goes, its address is used again; whether the old connection arrives there."""
        old = self.old
        assert self.lab.pods.unwire(
            old.container_id, old.ifname, old.pod_namespace, old.pod_name, old.veth_prefix,
            old.addresses,
        )  # fmt: skip
        nft("flush chain inet services destinations")
        if flushes:
            assert Conntrack().delete_entries_of([self.address]) == 1
        following = replace(old, container_id=f"{3:064x}", pod_name="web-3")
        with closing(bound(self._wire(following), self.address)) as server, closing(self.client):
            self.client.sendto(b"question", self.target)
            return hears(server)


both_ways = pytest.mark.parametrize("flushes", [True, False], ids=["flushed", "not flushed"])
families = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])


@both_ways
@families
def test_a_services_old_connection_does_not_reach_the_next_holder(
    lab: VpcLab, version: int, flushes: bool
) -> None:
    assert Story(lab, version, by_service=True).succeed(flushes=flushes) is not flushes


@both_ways
@families
def test_one_of_another_zone_does_not_either(lab: VpcLab, version: int, flushes: bool) -> None:
    nft(ZONE)
    assert Story(lab, version, by_service=True).succeed(flushes=flushes) is not flushes


@both_ways
@families
def test_a_plain_one_is_a_new_connection_to_the_next_holders_firewall(
    lab: VpcLab, version: int, flushes: bool
) -> None:
    story = Story(lab, version, by_service=False)
    nft(STATEFUL)
    assert story.succeed(flushes=flushes) is not flushes
