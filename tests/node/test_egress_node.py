"""Egress of the other family on a whole node: from ipamd's setting to a host outside the VPC."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest
from cni_shim.datapath.policy import EGRESS_RANGES

from providers.sim import netns, ping
from providers.sim.runtime import Pod
from tests.node.ground import Ground, until
from tests.node.readings import ip_json
from tests.node.test_modes import IPV6

pytestmark = pytest.mark.netns


def egress_addresses(pod: Pod, version: int) -> list[str]:
    """The pod's node-local addresses."""
    rows = ip_json(pod.netns_path, "address", "show", "dev", "eth0", family=version)
    found = [info["local"] for row in rows for info in row["addr_info"]]
    return [each for each in found if ip_address(each) in EGRESS_RANGES[version]]


def default_link(pod: Pod, version: int) -> list[str]:
    rows = ip_json(pod.netns_path, "route", "show", "default", family=version)
    return [row["dev"] for row in rows]


def test_a_pod_of_an_ipv6_node_goes_out_by_ipv4(ground: Ground) -> None:
    """As ENABLE_V4_EGRESS is on by default. The VPC drops a source that is not the ENI's own, so an
    answer of its router means that it saw the node's address."""
    site = ground.started(env=IPV6.env, subnet=IPV6.subnet)
    start = site.runtime.start_pod("web")
    assert start.add.is_ok, start.add
    pod, document = start.pod, start.add.document
    assert document is not None
    (address,) = egress_addresses(pod, 4)
    assert default_link(pod, 4) == ["eth0"]
    assert address not in json.dumps(document), "the result names the cluster's addresses alone"
    assert site.node.identity is not None
    router = str(site.node.identity.gateway)
    assert any(ping.ping(pod.netns_path, address, router, 0.5) is not None for _ in range(3))
    checked = site.runtime.call("CHECK", pod, previous=document)
    assert checked.exit_code == 0, checked
    assert not [a for a in site.ledger().addresses if a.startswith("169.254.172.")]


def test_it_survives_a_restart_and_goes_with_the_pod(ground: Ground) -> None:
    site = ground.started(env=IPV6.env, subnet=IPV6.subnet)
    first = site.add("first")
    before = egress_addresses(first, 4)
    site.node.cnid.restart()
    site.settle()
    second = site.add("second")
    assert egress_addresses(first, 4) == before
    assert set(egress_addresses(second, 4)).isdisjoint(before)
    for pod in (first, second):
        assert site.runtime.call("DEL", pod).exit_code == 0
    route = ["ip", "route", "show", "table", "5120"]
    until(lambda: not netns.run_in(site.node.netns_path, route).strip())


@pytest.mark.parametrize("is_on", [True, False])
def test_a_pod_of_an_ipv4_node_has_ipv6_egress_where_it_is_asked_for(
    ground: Ground, is_on: bool
) -> None:
    site = ground.started(env={"ENABLE_V6_EGRESS": "true" if is_on else "false"})
    pod = site.add("web")
    assert len(egress_addresses(pod, 6)) == int(is_on)
    assert default_link(pod, 6) == (["eth0"] if is_on else [])
    assert default_link(pod, 4) == ["eth0"]


def test_an_ipv6_node_without_it_has_none(ground: Ground) -> None:
    site = ground.started(env={**IPV6.env, "ENABLE_V4_EGRESS": "false"}, subnet=IPV6.subnet)
    pod = site.add("web")
    assert (egress_addresses(pod, 4), default_link(pod, 4)) == ([], [])
