"""Pods that go out by the family that their ENI does not give them: on every ENI, in both kinds of
routing rules, and nobody's address is ever another's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from cni_shim.datapath import names
from cni_shim.datapath.pods import PodDatapath
from cni_shim.datapath.policy import EGRESS_RANGES, HostPolicy, is_egress
from cni_shim.datapath.routing import RoutingRules
from cni_shim.datapath.wiring import PodWiring

from tests.netns.datapath_lab import Netns
from tests.netns.routing_lab import (
    Node,
    Place,
    RoutingLab,
    make_netns,
    open_routing_lab,
    seen_source,
)
from tests.netns.vpc_lab import wiring

pytestmark = pytest.mark.netns

FAMILIES = pytest.mark.parametrize("version", [4, 6], ids=["IPv4", "IPv6"])
MARKS = frozenset({0, 2})


@pytest.fixture
def lab() -> Iterator[RoutingLab]:
    with open_routing_lab() as opened:
        yield opened


def ready(lab: RoutingLab, version: int) -> Node:
    """A node whose pods have the other family of their ENIs."""
    lab.a.apply_until_ready(
        HostPolicy(has_v4_egress=version == 4, has_v6_egress=version == 6, has_snat=False)
    )
    return lab.a


def plan(node: Node, number: int, version: int, device_index: int = 0) -> PodWiring:
    other = "6" if version == 4 else "4"
    made = wiring(number, node.enis[device_index], other)
    return replace(made, egress_version=version)


def wire(node: Node, wanted: PodWiring) -> tuple[Netns, Place]:
    """The pod, and where it is by its node-local address."""
    pod = make_netns(node.stack, f"egress-{wanted.pod_name}")
    node.call(lambda: node.pods.wire(pod.fd, wanted))
    (address,) = node.pods._egress.of(wanted.container_id, "eth0")
    return pod, Place(netns=pod, addresses={address.version: address})


@FAMILIES
@pytest.mark.parametrize("device_index", [0, 1], ids=["primary ENI", "secondary ENI"])
def test_a_pod_goes_out_with_the_nodes_address_and_keeps_its_own(
    lab: RoutingLab, version: int, device_index: int
) -> None:
    node = ready(lab, version)
    wanted = plan(node, 1, version, device_index)
    pod, place = wire(node, wanted)
    own = Place(netns=pod, addresses={a.version: a for a in wanted.addresses})
    assert seen_source(place, lab.outside, version=version) == node.eni(0).addresses[version]
    assert place.addresses[version] in EGRESS_RANGES[version]
    other = 10 - version
    assert seen_source(own, lab.b.eni(0), version=other) == own.addresses[other]


@FAMILIES
@pytest.mark.parametrize("mode", list(RoutingRules), ids=lambda mode: mode.value)
def test_it_stands_is_settled_and_goes_whole(
    lab: RoutingLab, version: int, mode: RoutingRules
) -> None:
    node = ready(lab, version)
    node.pods = node.call(lambda: PodDatapath(node.netlink, node.notices, mode=mode))
    node.stack.callback(node.pods.close)
    before = node.run("ip", "rule"), node.run("ip", "-6", "rule")
    wanted = plan(node, 1, version, 1)
    pod, place = wire(node, wanted)
    held = {(wanted.container_id, "eth0"): wanted.addresses}
    settle = lambda: node.call(lambda: node.pods.settle(held, MARKS))  # noqa: E731
    check = lambda: node.call(lambda: node.pods.check(pod.fd, wanted))  # noqa: E731
    settle()
    assert check() == ()
    assert node.call(lambda: node.pods.inspect(pod.fd, wanted)) is not None
    address = str(place.addresses[version])
    node.run("ip", f"-{version}", "route", "delete", address, "table", str(mode.pod_table))
    assert any(address in said for said in check())
    settle()
    assert check() == ()
    assert seen_source(place, lab.outside, version=version) == node.eni(0).addresses[version]
    args = (wanted.container_id, "eth0", "default", "web-1", "eni", wanted.addresses)
    assert node.call(lambda: node.pods.unwire(*args))
    assert (node.run("ip", "rule"), node.run("ip", "-6", "rule")) == before
    assert node.pods._egress.of(wanted.container_id, "eth0") == ()


@FAMILIES
def test_ipamd_never_hears_of_it(lab: RoutingLab, version: int) -> None:
    node = ready(lab, version)
    wanted = plan(node, 1, version)
    wire(node, wanted)
    assert [p.address for p in node.call(node.pods.observe)] == list(wanted.addresses)


@FAMILIES
def test_a_restart_knows_whose_each_is_and_gives_none_twice(lab: RoutingLab, version: int) -> None:
    node = ready(lab, version)
    places = [wire(node, plan(node, number, version))[1] for number in (1, 2)]
    before = [place.addresses[version] for place in places]
    node.pods = node.call(lambda: PodDatapath(node.netlink, node.notices))
    node.stack.callback(node.pods.close)
    again = [
        node.call(lambda n=n: node.pods._egress.take(version, f"{n:064x}", "eth0"))  # type: ignore[misc]
        for n in (1, 2)
    ]
    third = wire(node, plan(node, 3, version))[1].addresses[version]
    assert again == before
    assert len({*before, third}) == 3


@FAMILIES
def test_an_address_that_another_agent_routes_is_passed_over(lab: RoutingLab, version: int) -> None:
    node = ready(lab, version)
    wanted = plan(node, 1, version)
    first = node.call(lambda: node.pods._egress.take(version, wanted.container_id, "eth0"))
    node.pods._egress.free(wanted.container_id, "eth0")
    node.run("ip", "link", "add", "foreign", "type", "veth", "peer", "name", "foreign1")
    node.run("ip", "link", "set", "foreign", "up")
    node.run("ip", f"-{version}", "route", "add", str(first), "dev", "foreign")
    _, place = wire(node, wanted)
    assert place.addresses[version] != first
    assert all(p.address is None or not is_egress(p.address) for p in node.call(node.pods.observe))


@FAMILIES
def test_what_a_pod_that_vanished_had_can_be_had_again(lab: RoutingLab, version: int) -> None:
    node = ready(lab, version)
    wanted = plan(node, 1, version)
    _, place = wire(node, wanted)
    (link,) = [p.link_name for p in node.call(node.pods.observe)]
    node.run("ip", "link", "delete", link)
    assert node.call(lambda: node.pods._egress._is_free(place.addresses[version]))


@FAMILIES
def test_a_wire_that_fails_gives_it_back(lab: RoutingLab, version: int) -> None:
    node = ready(lab, version)
    wanted = plan(node, 1, version)
    pod = make_netns(node.stack, "taken")
    pod.ip("link", "add", "eth0", "type", "veth", "peer", "name", "x0")
    with pytest.raises(Exception, match="eth0"):
        node.call(lambda: node.pods.wire(pod.fd, wanted))
    assert node.pods._egress.of(wanted.container_id, "eth0") == ()


def test_a_further_family_of_the_same_kind_is_not_added(lab: RoutingLab) -> None:
    node = ready(lab, 4)
    both = replace(wiring(1, node.enis[0], "46"), egress_version=4)
    pod = make_netns(node.stack, "both")
    node.call(lambda: node.pods.wire(pod.fd, both))
    assert node.pods._egress.of(both.container_id, "eth0") == ()
    assert str(names.POD_GATEWAYS[4]) in pod.ip("route")
