"""Connections of a pod that went, on a whole node: cleared before its address is used again."""

from __future__ import annotations

import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from providers.sim import netns
from providers.sim.runtime import Pod
from tests.node import careless_cnid
from tests.node.ground import Ground, Site, until

pytestmark = pytest.mark.netns

SERVICE = ("172.20.0.10", 53)
RULES = """
table ip services {
  chain destinations { type nat hook prerouting priority dstnat; }
  chain forward {
    type filter hook forward priority filter;
    ct state established counter
  }
}
"""
"""What kube-proxy keeps while services come and go; the kernel tracks while a rule looks at it."""


def nft(site: Site, script: str) -> None:
    subprocess.run(
        ["nsenter", f"--net={site.node.netns_path}", "nft", script], check=True, timeout=10
    )


def udp(pod: Pod, address: tuple[str, int] | None = None) -> socket.socket:
    made = netns.call_in(pod.netns_path, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    made.settimeout(0.5)
    if address is not None:
        made.bind(address)
    return made


def address_of(site: Site, pod: Pod) -> str:
    return site.ledger().allocations[pod.container_id].address


def next_holder(site: Site, address: str) -> Pod:
    """Pods come until one of them gets the address."""
    until(lambda: address in site.ledger().in_state("available"), what=f"{address} available")
    for number in range(8):
        pod = site.add(f"next-{number}")
        if address_of(site, pod) == address:
            return pod
    raise AssertionError(f"nobody got {address}")


@pytest.mark.parametrize("is_careless", [False, True], ids=["as it is", "without the clearing"])
def test_the_next_holder_hears_nothing_of_an_old_connection(
    ground: Ground, is_careless: bool
) -> None:
    site = ground.site(env={"IP_COOLDOWN_PERIOD": "1"})
    if is_careless:
        site.node.cnid.argv = (sys.executable, str(Path(careless_cnid.__file__)))
    site.start()
    nft(site, RULES)
    client, old = site.add("client"), site.add("old")
    address = address_of(site, old)
    to = f"ip daddr {SERVICE[0]} udp dport {SERVICE[1]} dnat to {address}"
    nft(site, f"add rule ip services destinations {to}")
    with closing(udp(client)) as asking:
        with closing(udp(old, (address, SERVICE[1]))) as server:
            asking.sendto(b"question", SERVICE)
            assert server.recv(100) == b"question"
        site.runtime.stop_pod(old)
        nft(site, "flush chain ip services destinations")
        following = next_holder(site, address)
        with closing(udp(following, (address, SERVICE[1]))) as server:
            asking.sendto(b"question", SERVICE)
            assert hears(server) is is_careless


def hears(server: socket.socket) -> bool:
    try:
        server.recv(100)
    except TimeoutError:
        return False
    return True


def test_while_vpc_cnid_is_away_addresses_cool_on_and_the_status_says_so(ground: Ground) -> None:
    site = ground.started(env={"IP_COOLDOWN_PERIOD": "3"})
    pod = site.add("pod")
    address = address_of(site, pod)
    site.runtime.stop_pod(pod)
    site.node.cnid.kill()
    wait = "1 address waits for vpc-cnid to clear their connection tracking entries"
    until(lambda: wait in site.problems(), what="the sentence")
    assert site.ledger().addresses[address].state == "cooling"
    site.start_cnid()
    until(lambda: site.ledger().addresses[address].state == "available", what="the address")
    until(lambda: wait not in site.problems(), what="no sentence")
