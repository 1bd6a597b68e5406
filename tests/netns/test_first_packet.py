"""A pod answers from the moment its ADD is over, whatever came for it meanwhile."""

from __future__ import annotations

import json
import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cni_shim.datapath import messages
from cni_shim.datapath.families import Address
from cni_shim.datapath.messages import VethPair
from cni_shim.datapath.wiring import PairWish, PodWiring, pod_requests

from providers.sim import ping
from tests.netns.datapath_lab import BOTH, PRIMARY, SECONDARY, Lab, Netns, open_lab, run, wiring

pytestmark = pytest.mark.netns
each_eni = pytest.mark.parametrize("mark", [PRIMARY.mark, SECONDARY.mark], ids=["first", "second"])
each_way = pytest.mark.parametrize("is_early", [True, False], ids=["early pair", "late pair"])

ANSWER_SECONDS = 0.8
"""Less than the second after which the kernel asks for a neighbour again (retrans_time_ms)."""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        yield opened


def wire(lab: Lab, pod: Netns, wanted: PodWiring, *, is_early: bool) -> None:
    """With the pair made before the address is known, as an ADD does it, or after."""
    if not is_early:
        lab.pods.wire(pod.fd, wanted)
        return
    wish = PairWish(
        container_id=wanted.container_id,
        ifname=wanted.ifname,
        host_ifname=wanted.host_ifnames()[0],
        mtu=wanted.mtu,
    )
    with lab.pods.begun(pod.fd) as begun:
        begun.make_pair(wish)
        lab.pods.wire(pod.fd, wanted, begun)


def answers_the_node(wanted: PodWiring) -> bool:
    """Whether one echo request from the node's namespace, in which the test's thread is, comes
    back."""
    node = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    return ping.ping(node, None, str(wanted.addresses[0]), ANSWER_SECONDS) is not None


def neighbours(*where: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(run("ip", *where, "-json", "neighbour", "show"))
    return rows


@each_way
@each_eni
def test_a_packet_that_comes_while_a_pod_is_made_does_not_hold_up_the_next(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, mark: int, is_early: bool
) -> None:
    """Somebody may still talk to the address's last pod. At that moment the host end has no
    carrier, so that what the kernel would ask the pod is lost."""

    def send_in_between(
        pair: VethPair, addresses: tuple[Address, ...]
    ) -> tuple[messages.Request, ...]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as late:
            late.sendto(b"late", (str(addresses[0]), 9))
        return pod_requests(pair, addresses)

    monkeypatch.setattr("cni_shim.datapath.pods.pod_requests", send_in_between)
    wanted = wiring(mark=mark)
    wire(lab, lab.make_netns(), wanted, is_early=is_early)
    assert answers_the_node(wanted)


@each_way
def test_nobody_asks_for_a_pod_by_arp(lab: Lab, is_early: bool) -> None:
    """The kernel has room for 1024 neighbours that were asked for, in all namespaces together, and
    drops what is sent to one more: a node of many pods would lose the first packets to new ones."""
    pod, wanted = lab.make_netns(), wiring()
    wire(lab, pod, wanted, is_early=is_early)
    assert answers_the_node(wanted)
    rows = [row for row in neighbours() if row["dst"] == str(wanted.addresses[0])]
    assert [row["state"] for row in rows] == [["PERMANENT"]]
    assert [row["dst"] for row in neighbours("-n", pod.name)] == ["169.254.1.1"]


def test_a_pod_without_its_entry_on_the_host_is_asked_for_and_is_whole(lab: Lab) -> None:
    """As those that an earlier version wired."""
    pod, wanted = lab.make_netns(), wiring()
    wired = lab.pods.wire(pod.fd, wanted)
    run("ip", "neighbour", "delete", str(wanted.addresses[0]), "dev", wired.host_ifname)
    assert lab.pods.check(pod.fd, wanted) == ()
    assert answers_the_node(wanted)
