"""Pods with an ENI of their own: where their packets go, and what is left of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from cni_shim.datapath import messages
from cni_shim.datapath.branch import Branch
from cni_shim.datapath.branch_links import SUSPECT_SECONDS, VlanKind
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.netlink import find_links
from cni_shim.datapath.policy import HostPolicy
from cni_shim.datapath.wiring import PodWiring

from tests.netns.branch_lab import (
    StandIn,
    branch,
    branch_wiring,
    can_talk,
    sender_seen_outside,
)
from tests.netns.datapath_lab import BOTH, PRIMARY, Lab, Netns, open_lab, run, wiring

pytestmark = pytest.mark.netns

STRICT, STANDARD = branch(7), branch(7, is_strict=False)
in_both_modes = pytest.mark.parametrize("wanted", [STRICT, STANDARD], ids=["strict", "standard"])


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        opened.pods.branches.kind = StandIn(opened)
        yield opened


@pytest.fixture
def pod(lab: Lab) -> Netns:
    return lab.make_netns()


@contextmanager
def _knows_nothing(container_id: str, ifname: str) -> Iterator[bool]:
    del container_id, ifname
    yield True


def picture() -> list[str]:
    """All links, rules and routes, but for those that IPv6 makes in its own time."""
    commands = ("rule", "-6 rule", "route show table all", "-6 route show table all")
    lines = [line for each in commands for line in run("ip", *each.split()).splitlines()]
    links = [line.split()[0] for line in run("ip", "-br", "link").splitlines()]
    of_ipv6 = ("fe80::", "local fe80::", "multicast ff00::", "anycast fe80::")
    return sorted(links + [line for line in lines if not line.startswith(of_ipv6)])


def unwire(lab: Lab, wanted: PodWiring) -> bool:
    return lab.pods.unwire(
        wanted.container_id, wanted.ifname, wanted.pod_namespace, wanted.pod_name, "eni", ()
    )


@in_both_modes
def test_a_pod_reaches_the_outside_by_its_own_eni_and_is_reached(
    lab: Lab, pod: Netns, wanted: Branch
) -> None:
    lab.pods.wire(pod.fd, branch_wiring(wanted))
    assert sender_seen_outside(lab, pod) == "10.0.7.107"
    assert can_talk(lab.fabric, pod, wanted.addresses[0])


def test_a_strict_pod_goes_by_its_eni_to_another_pod_of_the_node(lab: Lab, pod: Netns) -> None:
    """Past the host's own routes, so that the security groups of both ends see it."""
    other = lab.make_netns()
    ordinary = wiring(1)
    lab.pods.wire(other.fd, ordinary)
    run("ip", "netns", "exec", lab.fabric.name, "sysctl", "-qw", "net.ipv4.ip_forward=1")
    lab.deliver(PRIMARY, ordinary.addresses[0])
    lab.pods.wire(pod.fd, branch_wiring(STRICT))
    lab.fabric.ip("link", "set", "b7", "down")
    assert not can_talk(pod, other, ordinary.addresses[0])
    lab.fabric.ip("link", "set", "b7", "up")
    run("ip", "link", "show", STRICT.ifname)  # starts the queue of the end that was up before
    lab.fabric.ip("route", "replace", "10.0.7.107", "dev", "b7")
    run("ip", "netns", "exec", lab.fabric.name, "ip", "neighbour", "replace", "10.0.7.107",
        "lladdr", "02:00:00:00:07:07", "dev", "b7")  # fmt: skip
    assert can_talk(pod, other, ordinary.addresses[0])


def test_a_standard_pod_reaches_another_pod_of_the_node_at_once(lab: Lab, pod: Netns) -> None:
    other = lab.make_netns()
    ordinary = wiring(1)
    lab.pods.wire(other.fd, ordinary)
    lab.pods.wire(pod.fd, branch_wiring(STANDARD))
    lab.fabric.ip("link", "set", "b7", "down")
    assert can_talk(pod, other, ordinary.addresses[0])
    assert can_talk(other, pod, STANDARD.addresses[0])


@in_both_modes
def test_it_stands_whole_and_answers_a_repeat(lab: Lab, pod: Netns, wanted: Branch) -> None:
    plan = branch_wiring(wanted)
    wired = lab.pods.wire(pod.fd, plan)
    assert lab.pods.check(pod.fd, plan) == ()
    assert lab.pods.inspect(pod.fd, plan) == wired
    assert (
        lab.pods.find_branch(plan.container_id, "eth0", plan.pod_namespace, plan.pod_name, "eni")
        == wanted
    )
    assert wired.host_ifname.startswith("vlan" if wanted.is_strict else "eni")


@in_both_modes
def test_a_del_needs_nothing_but_the_key_and_leaves_nothing(
    lab: Lab, pod: Netns, wanted: Branch
) -> None:
    before = picture()
    plan = branch_wiring(wanted)
    lab.pods.wire(pod.fd, plan)
    assert picture() != before
    assert unwire(lab, plan)
    assert picture() == before
    assert not unwire(lab, plan)


@in_both_modes
@pytest.mark.parametrize("step", ["create VLAN", "create veth", "add rule", "add address"])
def test_a_wire_that_fails_leaves_nothing(
    lab: Lab, pod: Netns, wanted: Branch, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = picture()
    real = messages.serialise

    def refuse(request: messages.Request, sequence: int, *, ack: bool) -> bytes:
        if request.op.startswith(step):
            raise DatapathError(request.op, errno.ENOMEM)
        return real(request, sequence, ack=ack)

    if step == "create VLAN":
        lab.pods.branches.kind = VlanKind()  # the real one; the kernel or we refuse it
    monkeypatch.setattr(messages, "serialise", refuse)
    with pytest.raises(DatapathError):
        lab.pods.wire(pod.fd, branch_wiring(wanted))
    monkeypatch.undo()
    assert picture() == before


def veth_name() -> str:
    """The host veth of the one pod."""
    lines = run("ip", "-o", "link").split("\n")
    (line,) = [each for each in lines if "alias vpc-ipamd/1/" in each]
    return line.split(": ")[1].split("@")[0]


@pytest.mark.parametrize(("mac", "made"), [("02:00:00:00:07:07", 1), ("02:00:00:00:07:99", 2)])
def test_a_link_that_was_left_is_used_if_it_is_right(
    lab: Lab, pod: Netns, mac: str, made: int
) -> None:
    kind = lab.pods.branches.kind
    assert isinstance(kind, StandIn)
    plan = branch_wiring(STRICT)
    assert plan.branch is not None
    lab.pods.wire(pod.fd, plan)
    run("ip", "link", "del", veth_name())
    next_pod = replace(plan, container_id="f" * 64, branch=replace(plan.branch, mac=mac))
    lab.pods.wire(lab.make_netns().fd, next_pod)
    assert len(kind.made) == made


def test_one_branch_has_one_pod(lab: Lab, pod: Netns) -> None:
    lab.pods.wire(pod.fd, branch_wiring(STRICT))
    second = lab.make_netns()
    late = replace(branch(7), addresses=(IPv4Address("10.0.7.9"),))
    with pytest.raises(DatapathError, match="of another pod has it"):
        lab.pods.wire(second.fd, branch_wiring(late, number=8))
    assert sender_seen_outside(lab, pod) == "10.0.7.107"


def test_a_node_whose_trunk_is_not_there_says_so(lab: Lab, pod: Netns) -> None:
    plan = branch_wiring(STRICT)
    assert plan.branch is not None
    lost = replace(plan, branch=replace(plan.branch, trunk_mac="02:00:00:00:99:99"))
    with pytest.raises(DatapathError, match="find the trunk ENI's link"):
        lab.pods.wire(pod.fd, lost)


@in_both_modes
def test_the_host_and_the_sweep_leave_it_alone(lab: Lab, pod: Netns, wanted: Branch) -> None:
    plan = branch_wiring(wanted)
    lab.pods.wire(pod.fd, plan)
    before = picture()
    lab.host.apply(BOTH)
    lab.pods.settle({}, frozenset({0, 2}))
    lab.pods.branches.mend(1000.0)
    lab.pods.branches.mend(1000.0 + 10 * SUSPECT_SECONDS)
    assert lab.pods.observe() == ()
    assert picture() == before


@in_both_modes
@pytest.mark.parametrize(
    "damage",
    [
        "ip rule flush table 107",
        "ip route flush table 107",
        "ip rule delete table 107",
    ],
)
def test_what_somebody_takes_away_is_put_back(
    lab: Lab, pod: Netns, wanted: Branch, damage: str
) -> None:
    plan = branch_wiring(wanted)
    lab.pods.wire(pod.fd, plan)
    run(*damage.split())
    assert any("missing: add r" in said for said in lab.pods.check(pod.fd, plan))
    lab.pods.branches.mend(1000.0)
    assert lab.pods.check(pod.fd, plan) == ()
    assert sender_seen_outside(lab, pod) == "10.0.7.107"


@in_both_modes
def test_what_a_pod_without_a_del_left_goes_after_two_looks(
    lab: Lab, pod: Netns, wanted: Branch
) -> None:
    before = picture()
    lab.pods.wire(pod.fd, branch_wiring(wanted))
    run("ip", "link", "del", veth_name())
    lab.pods.branches.mend(1000.0)
    assert find_links(lab.netlink.socket(), (wanted.ifname,)) != (None,)
    lab.pods.branches.mend(1000.0 + SUSPECT_SECONDS)
    assert picture() == before


def test_a_strict_pod_of_ipv6_stands_and_goes(lab: Lab, pod: Netns) -> None:
    before = picture()
    plan = branch_wiring(branch(7, v6=True))
    lab.pods.wire(pod.fd, plan)
    assert lab.pods.check(pod.fd, plan) == ()
    rules = run("ip", "-6", "rule")
    assert rules.count("lookup 107") == 2
    assert unwire(lab, plan)
    assert picture() == before


def test_the_name_of_a_living_pod_on_a_branch_is_not_taken(lab: Lab, pod: Netns) -> None:
    """A pod of the same name comes back before the DEL of its last sandbox."""
    first = branch_wiring(STANDARD)
    lab.pods.ask_ledger(_knows_nothing)
    lab.pods.wire(pod.fd, first)
    second = lab.make_netns()
    lab.pods.wire(second.fd, wiring(7, container_id="f" * 64))
    assert lab.pods.check(pod.fd, first) == ()


def test_the_nodes_own_addresses_come_after_strict_pods_and_first_again_without(lab: Lab) -> None:
    strict = replace(BOTH, policy=HostPolicy(has_strict_branches=True))
    before = run("ip", "rule")
    for _ in range(2):
        lab.host.apply(strict)
        assert "lookup local" in run("ip", "rule")
    assert [line.split(":")[0] for line in run("ip", "rule").splitlines() if "local" in line] == [
        "20"
    ]
    for _ in range(2):
        lab.host.apply(BOTH)
        assert "lookup local" in run("ip", "rule")
    assert run("ip", "rule") == before
