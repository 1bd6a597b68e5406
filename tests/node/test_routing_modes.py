"""vpc-cnid starts anew with the other kind of routing rules, and no running pod notices."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from itertools import permutations

import pytest

from providers.sim.runtime import Pod
from tests.netns.streams import Flow, Streams
from tests.node.ground import Ground, Site, until
from tests.node.readings import ip_json

pytestmark = pytest.mark.netns

FULL_ENI = 9
"""Addresses for pods on an ENI of an m5.large: 10 less its own."""


def kinds(site: Site) -> Mapping[str, set[str]]:
    """Of each pod address the priorities of the rules and the tables of the routes with it."""
    path = site.node.netns_path
    found: dict[str, set[str]] = {row.address: set() for row in site.ledger().allocations.values()}
    for rule in ip_json(path, "rule"):
        for address in (rule["src"], rule.get("dst", "")):
            if address in found:
                found[address].add(str(rule["priority"]))
    for route in ip_json(path, "route", "show", "table", "all"):
        if route["dst"] in found:
            found[route["dst"]].add(str(route.get("table", "main")))
    return found


def start_with(site: Site, mode: str) -> None:
    """End vpc-cnid and start it with this setting."""
    assert site.node.cnid.stop() == 0
    site.node.cnid.env["VPC_IPAMD_ROUTING_RULES"] = mode
    site.start_cnid()


def between(pods: Mapping[str, Pod]) -> list[Flow]:
    """Every pod asks every other."""
    return [
        Flow(
            name=f"{one} -> {other}",
            client_netns=pods[one].netns_path,
            client=ip_address(one),
            server_netns=pods[other].netns_path,
            server=ip_address(other),
        )
        for one, other in permutations(pods, 2)
    ]


def test_running_pods_change_their_rules_with_the_setting_and_lose_no_packet(
    ground: Ground,
) -> None:
    site = ground.started(env={"MINIMUM_IP_TARGET": str(2 * FULL_ENI)})
    site.settle(available=FULL_ENI + 1)
    pods = [site.add(f"pod-{number}") for number in range(FULL_ENI + 2)]
    held = site.ledger().allocations
    of = {held[pod.container_id].address: pod for pod in (*pods[:2], *pods[-2:])}
    enis = {site.ledger().addresses[address].eni_id for address in of}
    assert len(enis) == 2
    with Streams(between(of)) as streams:
        start_with(site, "per-pod")
        until(
            lambda: all(kind >= {"main", "512"} for kind in kinds(site).values()),
            what="rules for every pod",
        )
        assert sum("1536" in kind for kind in kinds(site).values()) == 2
        assert not any("5120" in kind for kind in kinds(site).values())
        late = site.add("late")
        assert kinds(site)[site.ledger().allocations[late.container_id].address] > {"512"}
        assert all(call.is_ok for call in site.runtime.stop_pod(late))
        start_with(site, "grouped")
        until(
            lambda: all(kind == {"5120"} for kind in kinds(site).values()),
            what="the end of every pod's own rules",
        )
    assert streams.lost == {}
    for pod in pods:
        assert all(call.is_ok for call in site.runtime.stop_pod(pod))
        assert site.traces(pod) == []
