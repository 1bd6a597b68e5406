"""docs/host-network.md names everything that the code puts on a node."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Network, ip_network
from pathlib import Path

import pytest
from cni_shim.datapath import names
from cni_shim.datapath.chains import wanted_firewall
from cni_shim.datapath.desired import eni_rules, host_rules
from cni_shim.datapath.host_sysctls import wanted_sysctls
from cni_shim.datapath.policy import HostPolicy
from cni_shim.datapath.ruleset import FAMILY, TABLE

from tests.unit.test_datapath_diff import BOTH_V6, LINKS

PAGE = (Path(__file__).parents[2] / "docs" / "host-network.md").read_text(encoding="utf-8")
EVERYTHING = replace(
    BOTH_V6,
    vpc_cidrs=(ip_network("10.0.0.0/16"),),
    policy=HostPolicy(
        has_snat=True,
        has_node_port_support=True,
        external_services=(IPv4Network("203.0.113.0/24"),),
        has_v4_egress=True,
        has_v6_egress=True,
        disables_tcp_early_demux=True,
        has_strict_branches=True,
    ),
)


def test_every_rule_has_a_row() -> None:
    rules = {*host_rules(EVERYTHING), *(r for eni in EVERYTHING.enis for r in eni_rules(eni))}
    said = {int(number) for number in re.findall(r"^\| rule (\d+) ", PAGE, re.MULTILINE)}
    assert said == {rule.priority for rule in rules}


def test_every_chain_has_a_row() -> None:
    firewall = wanted_firewall(LINKS, EVERYTHING)
    assert firewall is not None
    chains = set(re.findall(r"chain (\S+) \{", firewall.script))
    assert set(re.findall(r"^\| `([a-z-]+)`, ", PAGE, re.MULTILINE)) == chains


def test_every_setting_has_a_row() -> None:
    links = {LINKS[0].ifname: "primary", LINKS[1].ifname: "secondary"}
    for wanted in wanted_sysctls(LINKS, EVERYTHING):
        *start, last = wanted.name.split("/")
        path = "/".join(f"<{links[part]}>" if part in links else part for part in start)
        assert re.search(
            rf"`({path}|ipv4/conf/<ENI>)/{last}` = {wanted.value}|`{last}` = {wanted.value}", PAGE
        ), wanted.name


@pytest.mark.parametrize(
    "text",
    [f"table `{FAMILY} {TABLE}`", f"protocol {names.PROTOCOL}", f"table {names.POD_TABLE}"],
)
def test_the_names_to_look_for_are_those_of_the_code(text: str) -> None:
    assert text in PAGE
