"""Whole nodes with prefixes and with IPv6: what the other tests show for single IPv4 addresses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from providers.sim import netns
from providers.sim.runtime import Pod
from tests.node.ground import Ground, Site, until
from tests.node.readings import ip_json, read_kernel
from tests.node.test_restarts import deleted, heard

pytestmark = pytest.mark.netns

DUAL_SUBNET = 2  # of the lab's
COOLDOWN = {"IP_COOLDOWN_PERIOD": "300"}  # what cools stays so for the whole test
PROTOCOL = "119"  # of our rules


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """A node's subnet, its settings, and how long the prefixes of its pods are."""

    subnet: int
    env: Mapping[str, str]
    prefix_length: int


PREFIX = Mode(
    subnet=0,
    env={"ENABLE_PREFIX_DELEGATION": "true", "WARM_IP_TARGET": "0", "WARM_PREFIX_TARGET": "1"},
    prefix_length=28,
)
IPV6 = Mode(
    subnet=DUAL_SUBNET,
    env={**PREFIX.env, "ENABLE_IPv4": "false", "ENABLE_IPv6": "true"},
    prefix_length=80,
)

in_both_modes = pytest.mark.parametrize("mode", [PREFIX, IPV6], ids=["prefix", "ipv6"])


def started(ground: Ground, mode: Mode) -> Site:
    return ground.started(subnet=mode.subnet, env={**mode.env, **COOLDOWN})


def addresses_of(site: Site, pods: list[Pod]) -> list[str]:
    held = site.ledger().allocations
    return [held[pod.container_id].address for pod in pods]


def prefixes_of(ground: Ground, site: Site) -> list[str]:
    """The prefixes of the node's ENIs, by the cloud's books."""
    assert site.node.identity is not None
    return [
        prefix
        for eni in ground.lab.control.call("state")["enis"]
        if eni["instance_id"] == site.node.identity.instance_id
        for prefix in (*eni["prefixes"], *eni["prefixes_v6"])
    ]


@in_both_modes
def test_pods_get_addresses_of_the_nodes_prefixes_and_answer(ground: Ground, mode: Mode) -> None:
    site = started(ground, mode)
    pods = [site.add(f"pod-{number}") for number in range(3)]
    prefixes = [ip_network(prefix) for prefix in prefixes_of(ground, site)]
    assert {prefix.prefixlen for prefix in prefixes} == {mode.prefix_length}
    for pod, address in zip(pods, addresses_of(site, pods), strict=True):
        assert any(ip_address(address) in prefix for prefix in prefixes)
        assert site.can_reach_router(pod, address)


@in_both_modes
def test_a_lost_store_adopts_every_pod_and_lets_the_rest_of_a_prefix_cool(
    ground: Ground, mode: Mode
) -> None:
    site = started(ground, mode)
    pods = [site.add(f"pod-{number}") for number in range(3)]
    gone = pods.pop()
    addresses, (freed,) = addresses_of(site, pods), addresses_of(site, [gone])
    site.runtime.stop_pod(gone)
    site.node.cnid.kill()
    site.node.ipamd.kill()
    deleted(site.store)

    site.start_ipamd()
    site.start_cnid()
    until(lambda: heard(site), what="the report of the kernel")

    assert addresses_of(site, pods) == addresses
    new = site.runtime.start_pod("new")
    assert new.add.is_ok, new.add
    assert new.add.addresses[0] not in {*addresses, freed}
    for pod, address in zip(pods, addresses, strict=True):
        assert site.can_reach_router(pod, address)


@in_both_modes
def test_pods_outlive_a_crash_of_both_daemons_and_can_be_deleted_while_ipamd_is_away(
    ground: Ground, mode: Mode
) -> None:
    site = started(ground, mode)
    kept, gone = pods = [site.add("kept"), site.add("gone")]
    address, freed = addresses_of(site, pods)
    site.node.cnid.kill()
    site.node.ipamd.kill()
    site.start_cnid()

    assert site.runtime.delete(gone).is_ok
    kernel = read_kernel(site.node.netns_path)
    assert (freed in kernel.routes, address in kernel.routes) == (False, True)
    site.start_ipamd()

    until(lambda: freed in site.ledger().in_state("cooling"), what=f"{freed} cooling")
    assert site.can_reach_router(kept, address)


def our_rules(site: Site) -> list[int]:
    """Priorities of our IPv6 rules on the node."""
    rules = ip_json(site.node.netns_path, "rule", family=6)
    return [rule["priority"] for rule in rules if str(rule.get("protocol")) == PROTOCOL]


def forwarding(site: Site) -> str:
    path = Path("/proc/sys/net/ipv6/conf/all/forwarding")
    return netns.call_in(site.node.netns_path, lambda: path.read_text().strip())


def test_a_node_whose_pods_have_no_ipv6_keeps_its_own_as_it_was(ground: Ground) -> None:
    site = ground.started(subnet=DUAL_SUBNET)
    pod = site.add("only-ipv4")
    assert site.can_reach_router(pod, addresses_of(site, [pod])[0])
    assert (our_rules(site), forwarding(site)) == ([], "0")


def test_an_ipv6_node_has_the_rules_of_its_pods_and_forwards(ground: Ground) -> None:
    site = started(ground, IPV6)
    site.add("pod")
    assert (our_rules(site), forwarding(site)) == ([512, 1024], "1")
