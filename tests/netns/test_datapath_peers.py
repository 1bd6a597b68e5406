"""Pods that aws-node's plugin wired, taken down by vpc-cnid: its links, routes and rules."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from cni_shim.datapath import messages
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address

from tests.netns.datapath_lab import BOTH, PRIMARY, Lab, Netns, open_lab, run, wiring

pytestmark = pytest.mark.netns

A, B = IPv4Address("10.0.0.201"), IPv4Address("10.0.0.202")
A6 = IPv6Address("2001:db8::201")


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        yield opened


def veth_of(subject: str, prefix: str = "eni") -> str:
    """aws-node's name of a host veth."""
    return prefix + hashlib.sha1(subject.encode()).hexdigest()[:11]


def make_link(lab: Lab, link: str) -> Netns:
    pod = lab.make_netns()
    run("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", pod.name)
    run("ip", "link", "set", link, "up")
    return pod


def make_bridge() -> None:
    run("ip", "link", "add", "bridge0", "type", "bridge")
    run("ip", "link", "set", "bridge0", "up")


def name_address(link: str, address: Address, tables: tuple[str, ...] = ()) -> None:
    """The route and the rules by which the host knows a pod; 1536 for each ENI's table."""
    family = f"-{address.version}"
    run("ip", family, "route", "add", str(address), "dev", link)
    run("ip", family, "rule", "add", "pref", "512", "to", str(address), "lookup", "main")
    for table in tables:
        run("ip", family, "rule", "add", "pref", "1536", "from", str(address), "lookup", table)


def wire(
    lab: Lab, *addresses: Address, subject: str = "shop.web", tables: tuple[str, ...] = ()
) -> Netns:
    """A pod as aws-node's plugin leaves it on the host."""
    pod, link = make_link(lab, veth_of(subject)), veth_of(subject)
    for address in addresses:
        name_address(link, address, tables)
    return pod


def unwire(lab: Lab, *addresses: Address, name: str = "web", ifname: str = "eth0") -> bool:
    return lab.pods.unwire_peers("c1", ifname, "shop" if name else "", name, addresses)


def naming(*addresses: Address) -> list[str]:
    """Every rule, and every route of any table, that has one of the addresses in it."""
    lines = [
        line
        for family in ("-4", "-6")
        for what in (("rule",), ("route", "show", "table", "all"))
        for line in run("ip", family, *what).splitlines()
    ]
    return [line for line in lines if any(str(a) in line.split() for a in addresses)]


def links() -> list[str]:
    lines = run("ip", "-o", "link", "show", "type", "veth").splitlines()
    found = [line.split(": ")[1].split("@")[0] for line in lines]
    return [ifname for ifname in found if not ifname.startswith("ens")]


@pytest.mark.parametrize(
    ("addresses", "tables"),
    [((A,), ()), ((A,), ("2", "3", "10101")), ((A6,), ()), ((A, A6), ("2",))],
    ids=["primary", "secondary, stale tables too", "ipv6", "both families"],
)
def test_all_that_names_the_address_goes_with_its_link(
    lab: Lab, addresses: tuple[Address, ...], tables: tuple[str, ...]
) -> None:
    pod = wire(lab, *addresses, tables=tables)
    assert [unwire(lab, *addresses), unwire(lab, *addresses)] == [True, False]
    assert (naming(*addresses), links()) == ([], [])
    assert "eth0" not in pod.ip("link", "show")


def test_the_prefix_of_the_link_is_whatever_aws_node_had(lab: Lab) -> None:
    make_link(lab, veth_of("shop.web", "veth"))
    name_address(veth_of("shop.web", "veth"), A)
    assert unwire(lab, A)
    assert (naming(A), links()) == ([], [])


def test_rules_that_outlived_their_link_go(lab: Lab) -> None:
    wire(lab, A, tables=("2",))
    run("ip", "link", "delete", veth_of("shop.web"))
    assert unwire(lab, A)
    assert naming(A) == []


def test_a_further_interface_has_its_own_link(lab: Lab) -> None:
    wire(lab, A)
    wire(lab, B, subject="shop.web.1", tables=("10101",))
    assert unwire(lab, B, ifname="mNicIf1")
    assert (naming(B), links()) == ([], [veth_of("shop.web")])
    assert unwire(lab, A)
    assert links() == []


def test_a_younger_sandbox_of_the_same_pod_keeps_its_link(lab: Lab) -> None:
    wire(lab, B)  # its plugin removed the older link of this name, and the rules were left
    run("ip", "rule", "add", "pref", "512", "to", str(A), "lookup", "main")
    assert unwire(lab, A)
    assert (naming(A), links(), len(naming(B))) == ([], [veth_of("shop.web")], 2)


def test_a_link_that_carries_another_address_too_stays_with_it(lab: Lab) -> None:
    wire(lab, A, B)
    assert unwire(lab, A)
    assert (naming(A), links(), len(naming(B))) == ([], [veth_of("shop.web")], 2)


@pytest.mark.parametrize("name", ["other", ""], ids=["another pod's", "nameless attachment"])
def test_a_link_of_another_name_stays_and_its_route_to_the_address_goes(
    lab: Lab, name: str
) -> None:
    wire(lab, A)
    assert unwire(lab, A, name=name)
    assert (naming(A), links()) == ([], [veth_of("shop.web")])


@pytest.mark.parametrize(
    "words",
    [
        f"rule add pref 100 to {A} lookup main",
        f"rule add pref 512 to {A}/24 lookup main",
        f"rule add pref 1536 from {B} lookup 2",
        f"route add {A} dev ens5 table 77",
        f"route add {A} dev bridge0",
    ],
    ids=["other priority", "wider", "other address", "other table", "no veth"],
)
def test_what_is_not_of_the_plugins_making_is_left(lab: Lab, words: str) -> None:
    make_bridge()
    run("ip", *words.split())
    before = run("ip", "-4", "rule"), run("ip", "-4", "route", "show", "table", "all")
    assert not unwire(lab, A)
    assert (run("ip", "-4", "rule"), run("ip", "-4", "route", "show", "table", "all")) == before


def test_a_pod_of_ours_is_left_alone(lab: Lab) -> None:
    pod, ours = lab.make_netns(), wiring(1, pod_namespace="shop", pod_name="web")
    lab.pods.wire(pod.fd, ours)
    run("ip", "route", "add", str(A), "dev", veth_of("shop.web"))
    assert not unwire(lab, A)
    assert lab.pods.inspect(pod.fd, ours) is not None


@pytest.mark.parametrize(
    ("step", "name"),
    [("delete link", "web"), ("delete rule", "web"), ("delete route", "other")],
    ids=["link", "rule", "route"],
)
def test_a_refused_step_is_told_and_a_repeat_ends_it(
    lab: Lab, step: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    serialise = messages.serialise

    def refuse(request: messages.Request, sequence: int, *, ack: bool) -> bytes:
        if request.op.startswith(step):
            raise DatapathError(request.op, errno.EPERM)
        return serialise(request, sequence, ack=ack)

    wire(lab, A, tables=("2",))
    with monkeypatch.context() as patch:
        patch.setattr(messages, "serialise", refuse)
        with pytest.raises(DatapathError, match="EPERM"):
            unwire(lab, A, name=name)
    assert unwire(lab, A, name=name)
    assert (naming(A), links()) == ([], [] if name == "web" else [veth_of("shop.web")])


def test_what_the_kernel_did_not_remove_is_told(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    wire(lab, A, tables=("2",))
    monkeypatch.setattr("cni_shim.datapath.peer_pods._delete", lambda *_, **__: None)
    with pytest.raises(DatapathError, match=r"EBUSY.*2 rules and 0 routes are left"):
        unwire(lab, A)


def test_a_pod_can_be_wired_with_the_address_afterwards(lab: Lab) -> None:
    wire(lab, A, tables=("2",))
    unwire(lab, A)
    pod, wanted = lab.make_netns(), wiring(1, addresses=(A,))
    lab.pods.wire(pod.fd, wanted)
    assert lab.can_reach_outside(pod, PRIMARY, A)


def observed(lab: Lab) -> list[tuple[Address | None, str, bool]]:
    return [(seen.address, seen.link_name, seen.is_ours) for seen in lab.pods.observe()]


@pytest.mark.parametrize("text", [str(A), str(A6)], ids=["ipv4", "ipv6"])
def test_an_address_in_use_is_observed_by_its_route_alone(lab: Lab, text: str) -> None:
    link = veth_of("shop.web")
    make_link(lab, link)
    run("ip", f"-{ip_address(text).version}", "route", "add", text, "dev", link)
    assert observed(lab) == [(ip_address(text), link, False)]


def test_an_address_with_route_and_rules_is_observed_once(lab: Lab) -> None:
    wire(lab, A, tables=("2",))
    assert observed(lab) == [(A, veth_of("shop.web"), False)]


@pytest.mark.parametrize(
    "words",
    [
        f"route add {A} dev ens5 table 77",
        f"route add {B}/31 dev eni0",
        f"route add {A} via 10.0.0.1 dev ens5",
        f"route add {A} dev bridge0",
        f"route add {A} dev eni0 proto kernel",
    ],
    ids=["other table", "wider", "by a gateway", "no veth", "of an address on the link"],
)
def test_routes_that_lead_to_no_pod_are_not_observed(lab: Lab, words: str) -> None:
    make_link(lab, "eni0")
    make_bridge()
    run("ip", *words.split())
    assert observed(lab) == []


def test_a_foreign_route_to_a_link_of_ours_makes_it_no_leftover(lab: Lab) -> None:
    pod, ours = lab.make_netns(), wiring(1)
    wired = lab.pods.wire(pod.fd, ours)
    run("ip", "route", "add", str(A), "dev", wired.host_ifname)
    assert observed(lab) == [(ours.addresses[0], wired.host_ifname, True)]
