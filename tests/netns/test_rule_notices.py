"""What the listener hears of rules, routes and addresses, and what the kernel keeps from it."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Network
from queue import SimpleQueue

import pytest
from cni_shim.datapath import messages
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import (
    AddressChanged,
    LinkNotices,
    Notice,
    RouteChanged,
    RuleVanished,
)

pytestmark = pytest.mark.netns

LAST = Rule(priority=20000, table=99, protocol=0)
RULE = Rule(priority=1536, table=2, mark=2, mask=0x7F)


@pytest.fixture
def heard() -> Iterator[SimpleQueue[Notice]]:
    """What is heard while a link "dull" stands."""
    run(
        "ip link add dull type veth peer name other",
        "ip link set other up",
        "ip link set dull up",
    )
    told: SimpleQueue[Notice] = SimpleQueue()
    notices = LinkNotices()
    notices.subscribe(told.put)
    notices.start()
    yield told
    notices.close()
    subprocess.run(["ip", "link", "delete", "dull"], check=False, capture_output=True)


def run(*commands: str) -> None:
    for command in commands:
        subprocess.run(command.split(), check=True)


def until_the_last(heard: SimpleQueue[Notice]) -> list[str]:
    """The kinds of notices but links', up to that of a rule that is now deleted."""
    run("ip rule add pref 20000 lookup 99", "ip rule delete pref 20000")
    kinds = []
    while (notice := heard.get(timeout=5)) != RuleVanished(rule=LAST):
        if isinstance(notice, RuleVanished | RouteChanged | AddressChanged):
            kinds.append(type(notice).__name__)
    return kinds


@pytest.mark.parametrize(
    ("commands", "kinds"),
    [
        pytest.param(
            ["ip rule add pref 100 lookup 99", "ip rule delete pref 100"],
            ["RuleVanished"],
            id="rule",
        ),
        pytest.param(
            ["ip route add 10.7.0.1 dev dull table 99", "ip route flush table 99"],
            ["RouteChanged", "RouteChanged"],
            id="route of another table",
        ),
        pytest.param(
            ["ip route add 10.7.0.1 dev dull table 5120 proto 119", "ip route flush table 5120"],
            ["RouteChanged", "RouteChanged"],
            id="pod's route by another program",
        ),
        pytest.param(
            ["ip route add 10.7.0.2 dev dull", "ip route delete 10.7.0.2"],
            [],
            id="another agent's route in main",
        ),
        pytest.param(
            ["ip route add 10.7.0.2 dev dull proto 119", "ip route delete 10.7.0.2"],
            ["RouteChanged", "RouteChanged"],
            id="ours in main",
        ),
        pytest.param(
            ["ip address add 10.7.0.3/32 dev dull", "ip address flush dev dull scope global"],
            ["AddressChanged", "AddressChanged"],
            id="address",
        ),
        pytest.param(
            [
                "ip -6 route add 2001:db8::7 dev dull table 99",
                "ip link delete dull",
            ],
            ["RouteChanged"],
            id="a route that went with its link is told by the link alone",
        ),
    ],
)
def test_what_other_programs_do_is_told(
    heard: SimpleQueue[Notice], commands: list[str], kinds: list[str]
) -> None:
    run(*commands)
    found = until_the_last(heard)
    assert [kind for kind in found if kind != "AddressChanged" or kind in kinds] == kinds


def test_what_our_own_sockets_do_is_not_told(heard: SimpleQueue[Notice]) -> None:
    netlink = HostNetlink()
    sock = netlink.socket()
    route = Route(
        table=2,
        destination=IPv4Network("10.7.0.9"),
        gateway=None,
        ifindex=socket.if_nametoindex("dull"),
    )
    for request in (
        messages.add_rule(RULE),
        messages.add_route(route),
        messages.delete_route(route),
        messages.delete_rule(RULE),
    ):
        sock.execute((request,))
    netlink.close()
    assert "RouteChanged" not in (told := until_the_last(heard))
    assert "RuleVanished" not in told


def test_two_threads_have_sockets_of_their_own_ports() -> None:
    one, other = HostNetlink(), HostNetlink()
    ports = {netlink.socket()._socket.getsockname()[0] for netlink in (one, other)}
    assert len(ports) == 2
    assert all(port >> 16 == 0x7663 for port in ports)
