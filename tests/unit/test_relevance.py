"""Which of the kernel's notices mean that something of ours may have to be put back."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from cni_shim.datapath import delegation
from cni_shim.datapath.answers import Link
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.notices import (
    AddressChanged,
    FirewallChanged,
    LinkChanged,
    LinkVanished,
    Notice,
    NoticesLost,
    RouteChanged,
    RuleVanished,
)
from cni_shim.datapath.routing import RoutingRules, host_route, rules_of
from cni_shim.relevance import concerns_host, concerns_pods
from ipam_api.v1 import ipam_pb2 as pb

NETWORK = pb.NodeNetwork(
    enis=[
        pb.NodeEni(eni_id="eni-0", mac="02:00:00:00:00:10", route_table_id=254, is_primary=True),
        pb.NodeEni(eni_id="eni-1", mac="02:00:00:00:00:11", route_table_id=2),
    ]
)
ENI_LINK = Link(ifindex=6, ifname="ens6", kind="", mac="02:00:00:00:00:11", mtu=9001, is_up=True,
                group=0, alias="", peer_ifindex=0)  # fmt: skip
VF = replace(ENI_LINK, ifindex=7, ifname="enP1s1", master_ifindex=6, is_slave=True)
POD = IPv4Address("10.0.1.9")
IN_POD_TABLE = host_route(POD, 9, RoutingRules.GROUPED)
IN_MAIN = host_route(POD, 9, RoutingRules.PER_POD)
TO_POD, FROM_POD = rules_of(POD, 2, RoutingRules.PER_POD)
MARK_RULE = Rule(priority=1536, table=2, mark=2, mask=0x7F)
DEFAULT = Route(table=2, destination=IPv4Network("0.0.0.0/0"), gateway=None, ifindex=6)

NOBODY, HOST, PODS, BOTH = (False, False), (True, False), (False, True), (True, True)


@pytest.mark.parametrize(
    ("notice", "concerned"),
    [
        pytest.param(LinkChanged(link=ENI_LINK), HOST, id="ENI appears"),
        pytest.param(LinkVanished(link=ENI_LINK), HOST, id="ENI vanishes"),
        pytest.param(LinkVanished(link=replace(ENI_LINK, mac="")), NOBODY, id="other link"),
        pytest.param(LinkChanged(link=VF), NOBODY, id="an ENI's VF appears"),
        pytest.param(LinkVanished(link=VF), NOBODY, id="an ENI's VF vanishes"),
        pytest.param(RuleVanished(rule=MARK_RULE), HOST, id="our rule"),
        pytest.param(
            RuleVanished(rule=replace(MARK_RULE, protocol=0)), HOST, id="the same by another"
        ),
        pytest.param(
            RuleVanished(rule=Rule(priority=100, table=77, protocol=0)), NOBODY, id="other rule"
        ),
        pytest.param(RuleVanished(), NOBODY, id="rule of another kind"),
        pytest.param(RuleVanished(rule=TO_POD), PODS, id="our rule to a pod"),
        pytest.param(RuleVanished(rule=FROM_POD), PODS, id="our rule from a pod"),
        pytest.param(
            RuleVanished(rule=replace(TO_POD, protocol=0)), NOBODY, id="another agent's pod"
        ),
        pytest.param(
            RuleVanished(rule=replace(TO_POD, protocol=delegation.PROTOCOL)),
            PODS,
            id="our rule to another plugin's pod",
        ),
        pytest.param(RouteChanged(route=DEFAULT), HOST, id="ENI's default route"),
        pytest.param(
            RouteChanged(route=replace(DEFAULT, protocol=3)), HOST, id="route in place of ours"
        ),
        pytest.param(RouteChanged(route=replace(DEFAULT, table=77)), NOBODY, id="other table"),
        pytest.param(RouteChanged(), HOST, id="route of several ways"),
        pytest.param(RouteChanged(route=IN_POD_TABLE), PODS, id="pod's route"),
        pytest.param(RouteChanged(route=IN_MAIN), BOTH, id="pod's route in main"),
        pytest.param(AddressChanged(ifindex=6), HOST, id="ENI's address"),
        pytest.param(AddressChanged(ifindex=7), NOBODY, id="other address"),
        pytest.param(FirewallChanged(), HOST, id="our nft table"),
        pytest.param(NoticesLost(), BOTH, id="lost"),
    ],
)
def test_whom_a_notice_concerns(notice: Notice, concerned: tuple[bool, bool]) -> None:
    assert (concerns_host(notice, NETWORK, {5, 6}), concerns_pods(notice)) == concerned
