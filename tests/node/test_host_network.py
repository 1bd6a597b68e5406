"""The host's network on a whole node: ipamd's settings reach the kernel, and vpc-cnid keeps it."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from providers.sim import netns
from tests.node.ground import Ground, Site, until

pytestmark = pytest.mark.netns

LIMIT_SECONDS = 1.0


def listing(site: Site, command: str) -> list[str]:
    """The sorted lines that a program prints on the node."""
    return sorted(netns.run_in(site.node.netns_path, command.split()).splitlines())


def host_network(site: Site) -> Mapping[str, list[str]]:
    """All that another program could have taken away."""
    return {
        command: listing(site, command)
        for command in ("ip rule", "ip route show table 5120", "nft list table inet vpc-ipamd")
    }


@pytest.mark.parametrize(
    ("env", "has_snat", "has_connection_rule"),
    [
        ({}, True, True),
        ({"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"}, False, True),
        (
            {
                "AWS_VPC_K8S_CNI_EXTERNALSNAT": "true",
                "AWS_VPC_CNI_NODE_PORT_SUPPORT": "false",
            },
            False,
            False,
        ),
    ],
    ids=["default", "external SNAT", "neither"],
)
def test_the_settings_of_ipamd_reach_the_kernel(
    ground: Ground, env: Mapping[str, str], has_snat: bool, has_connection_rule: bool
) -> None:
    site = ground.started(env={**env, "AWS_EXTERNAL_SERVICE_CIDRS": "203.0.113.0/24"})
    rules = "\n".join(listing(site, "ip rule"))
    assert ("1024:\tfrom all fwmark 0x80/0x80 lookup main" in rules) == has_connection_rule
    assert "1535:\tfrom all to 203.0.113.0/24 lookup main" in rules
    ruleset = "\n".join(listing(site, "nft list ruleset"))
    assert ("10.0.0.0/16" in ruleset and "snat ip to" in ruleset) == has_snat


def test_a_node_mends_its_network_within_a_second(ground: Ground) -> None:
    site = ground.started()
    site.add("web")
    wanted = host_network(site)
    for damage in ("nft flush ruleset", "ip rule delete pref 512", "ip route flush table 5120"):
        until(lambda: host_network(site) == wanted)
        netns.run_in(site.node.netns_path, damage.split())
        began = time.monotonic()
        until(lambda: "inet vpc-ipamd" in "".join(listing(site, "nft list tables")))
        until(lambda: host_network(site) == wanted, what=f"the end of {damage!r}")
        assert time.monotonic() - began < LIMIT_SECONDS
