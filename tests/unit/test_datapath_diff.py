from __future__ import annotations

from dataclasses import replace
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_interface,
    ip_network,
)

import pytest
from cni_shim.datapath import names
from cni_shim.datapath.actions import (
    Action,
    AddAddress,
    AddRoute,
    AddRule,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    ReplaceFirewall,
    SetLink,
    WriteSysctl,
)
from cni_shim.datapath.answers import Link, LinkAddress
from cni_shim.datapath.chains import wanted_firewall
from cni_shim.datapath.desired import (
    DesiredEni,
    DesiredHost,
    eni_addresses,
    eni_routes,
    eni_rules,
    host_rules,
)
from cni_shim.datapath.diff import ObservedHost, diff
from cni_shim.datapath.host_sysctls import wanted_sysctls
from cni_shim.datapath.links import link_of_eni
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.ruleset import comments_in

PRIMARY = DesiredEni(
    eni_id="eni-0",
    mac="02:00:00:00:00:10",
    primary_address=IPv4Address("10.0.0.10"),
    subnet_cidr=IPv4Network("10.0.0.0/24"),
    gateway=IPv4Address("10.0.0.1"),
    device_index=0,
    route_table_id=254,
    is_primary=True,
)
SECONDARY = DesiredEni(
    eni_id="eni-1",
    mac="02:00:00:00:00:11",
    primary_address=IPv4Address("10.0.1.10"),
    subnet_cidr=IPv4Network("10.0.1.0/24"),
    gateway=IPv4Address("10.0.1.1"),
    device_index=1,
    route_table_id=2,
    is_primary=False,
)
BOTH = DesiredHost(enis=(PRIMARY, SECONDARY))


PRIMARY_V6 = replace(
    PRIMARY,
    subnet_cidr_v6=IPv6Network("2001:db8:0:a::/64"),
    primary_address_v6=IPv6Address("2001:db8:0:a::a"),
    gateway_v6=IPv6Address("fe80:ec2::1"),
)
SECONDARY_V6 = replace(
    SECONDARY,
    subnet_cidr_v6=IPv6Network("2001:db8:0:b::/64"),
    primary_address_v6=IPv6Address("2001:db8:0:b::a"),
    gateway_v6=IPv6Address("fe80:ec2::1"),
)
BOTH_V6 = DesiredHost(enis=(PRIMARY_V6, SECONDARY_V6))


def link(ifindex: int, eni: DesiredEni, **changed: object) -> Link:
    values: dict[str, object] = {
        "ifindex": ifindex,
        "ifname": f"ens{ifindex}",
        "kind": "",
        "mac": eni.mac,
        "mtu": 9001,
        "is_up": True,
        "group": 0,
        "alias": "",
        "peer_ifindex": 0,
    }
    return Link(**(values | changed))  # type: ignore[arg-type]


LINKS = (link(5, PRIMARY), link(6, SECONDARY))


def bare(links: tuple[Link, ...] = LINKS) -> ObservedHost:
    return ObservedHost(
        links=links, addresses=(), routes=(), rules=(), sysctls=(), firewall_comments=None
    )


def whole(desired: DesiredHost = BOTH) -> ObservedHost:
    """A host on which everything stands."""
    primary, secondary = desired.enis
    firewall = wanted_firewall(LINKS, desired)
    assert firewall is not None
    return ObservedHost(
        links=LINKS,
        addresses=tuple(
            LinkAddress(ifindex=6, address=address, protocol=names.PROTOCOL)
            for address in eni_addresses(secondary)
        ),
        routes=eni_routes(secondary, 6),
        rules=(*host_rules(desired), *eni_rules(primary), *eni_rules(secondary)),
        sysctls=tuple((wanted.name, wanted.value) for wanted in wanted_sysctls(LINKS, desired)),
        firewall_comments=firewall.comments,
    )


def test_a_host_as_wanted_needs_nothing() -> None:
    assert diff(whole(), BOTH) == ()


def test_a_bare_host_gets_everything() -> None:
    kinds = {type(action) for action in diff(bare(), BOTH)}
    assert kinds == {WriteSysctl, AddAddress, AddRoute, AddRule, ReplaceFirewall}


def test_the_gateway_is_reachable_before_the_default_route_is_added() -> None:
    added = [action.route for action in diff(bare(), BOTH) if isinstance(action, AddRoute)]
    assert [route.gateway for route in added] == [None, SECONDARY.gateway]


def test_everything_is_added_before_anything_is_removed() -> None:
    moved = DesiredHost(enis=(PRIMARY, replace(SECONDARY, device_index=2, route_table_id=3)))
    is_removal = [
        isinstance(action, RemoveAddress | RemoveRoute | RemoveRule)
        for action in diff(whole(), moved)
    ]
    assert True in is_removal
    assert is_removal == sorted(is_removal)


def test_an_eni_no_longer_wanted_loses_what_was_its_own() -> None:
    actions = diff(whole(), DesiredHost(enis=(PRIMARY,)))
    assert [type(action).__name__ for action in actions] == [
        "ReplaceFirewall",
        "RemoveAddress",
        "RemoveRule",
        "RemoveRule",
        "RemoveRoute",
        "RemoveRoute",
    ]


def test_the_pod_table_is_not_the_hosts_business() -> None:
    pod = Route(
        table=names.POD_TABLE,
        destination=IPv4Network("10.0.0.101/32"),
        gateway=None,
        ifindex=9,
    )
    assert diff(replace(whole(), routes=(*whole().routes, pod)), BOTH) == ()


@pytest.mark.parametrize("protocol", [0, 3, 4])
def test_foreign_rules_and_routes_stay(protocol: int) -> None:
    rule = Rule(priority=100, table=77, protocol=protocol)
    route = Route(
        table=77,
        destination=IPv4Network("10.8.0.0/16"),
        gateway=None,
        ifindex=5,
        protocol=protocol,
    )
    seen = whole()
    crowded = replace(seen, rules=(*seen.rules, rule), routes=(*seen.routes, route))
    assert diff(crowded, BOTH) == ()


def test_what_another_agent_did_just_so_is_taken_as_it_is() -> None:
    theirs = whole()
    theirs = replace(
        theirs,
        rules=tuple(replace(rule, protocol=0) for rule in theirs.rules),
        routes=tuple(replace(route, protocol=3) for route in theirs.routes),
    )
    assert diff(theirs, BOTH) == ()


def test_a_pods_own_rules_are_its_attachments_business() -> None:
    rule = Rule(priority=1536, table=2, source=IPv4Network("10.0.1.101/32"))
    assert diff(replace(whole(), rules=(*whole().rules, rule)), BOTH) == ()


def test_a_foreign_address_on_a_secondary_eni_goes_and_on_the_primary_stays() -> None:
    wide = LinkAddress(ifindex=6, address=IPv4Interface("10.0.1.10/24"), protocol=0)
    own = LinkAddress(ifindex=5, address=IPv4Interface("10.0.0.10/24"), protocol=0)
    seen = replace(whole(), addresses=(*whole().addresses, wide, own))
    assert diff(seen, BOTH) == (
        RemoveAddress(eni_id="eni-1", ifindex=6, address=IPv4Interface("10.0.1.10/24")),
    )


def test_our_own_stale_route_is_replaced_in_place() -> None:
    stale = tuple(replace(route, ifindex=4) for route in whole().routes)
    actions: tuple[Action, ...] = diff(replace(whole(), routes=stale), BOTH)
    assert [action.replaces for action in actions if isinstance(action, AddRoute)] == [True, True]
    assert not any(isinstance(action, RemoveRoute) for action in actions)


def test_a_secondary_link_that_is_down_or_narrow_is_set_and_the_primary_is_not() -> None:
    links = (link(5, PRIMARY, mtu=1500), link(6, SECONDARY, mtu=1500, is_up=False))
    set_links = [a for a in diff(bare(links), BOTH) if isinstance(a, SetLink)]
    assert set_links == [SetLink(eni_id="eni-1", ifindex=6, mtu=9001)]


@pytest.mark.parametrize("is_up", [True, False], ids=["up", "down"])
def test_without_a_chosen_mtu_links_keep_theirs(*, is_up: bool) -> None:
    links = (link(5, PRIMARY, mtu=1500), link(6, SECONDARY, mtu=1500, is_up=is_up))
    set_links = [
        a for a in diff(bare(links), replace(BOTH, eni_mtu=None)) if isinstance(a, SetLink)
    ]
    assert set_links == [] if is_up else [SetLink(eni_id="eni-1", ifindex=6, mtu=None)]


def test_an_eni_without_a_link_keeps_its_rules() -> None:
    seen = replace(whole(), links=LINKS[:1], addresses=(), routes=())
    assert diff(seen, BOTH) == ()


@pytest.mark.parametrize(
    "other",
    [
        link(3, SECONDARY, kind="vlan"),
        link(3, SECONDARY, kind="bridge"),
        link(3, SECONDARY, kind="veth", group=names.link_group(0)),
    ],
    ids=["vlan", "bridge", "pod"],
)
def test_a_link_that_only_borrows_the_mac_is_not_the_eni(other: Link) -> None:
    assert link_of_eni((other, *LINKS), SECONDARY) == LINKS[1]


VF = link(3, SECONDARY, ifname="enP1s1", mtu=1500)


@pytest.mark.parametrize("ifindex", [3, 30], ids=["older than the NIC", "newer"])
@pytest.mark.parametrize(
    "changed",
    [
        {"master_ifindex": 6, "is_slave": True},
        {"is_slave": True},
        {"master_ifindex": 6},
    ],
    ids=["joined", "not joined yet", "no flag"],
)
def test_the_vf_of_accelerated_networking_is_never_the_eni(
    ifindex: int, changed: dict[str, object]
) -> None:
    vf = link(ifindex, SECONDARY, ifname="enP1s1", **changed)
    assert link_of_eni((vf, *LINKS), SECONDARY) == LINKS[1]
    assert link_of_eni((*LINKS, vf), SECONDARY) == LINKS[1]


def test_a_vf_without_its_nic_is_no_eni() -> None:
    vf = replace(VF, master_ifindex=6, is_slave=True)
    assert link_of_eni((LINKS[0], vf), SECONDARY) is None


def test_an_eni_that_somebody_put_on_a_bridge_is_still_found() -> None:
    bridged = replace(LINKS[1], master_ifindex=9)
    assert link_of_eni((LINKS[0], bridged), SECONDARY) == bridged


def test_a_vf_that_comes_and_goes_is_nothing_to_do() -> None:
    seen = whole()
    vf = replace(VF, master_ifindex=6, is_slave=True)
    assert diff(replace(seen, links=(vf, *seen.links)), BOTH) == ()


def test_the_mac_is_compared_without_case() -> None:
    assert link_of_eni(LINKS, replace(SECONDARY, mac=SECONDARY.mac.upper())) == LINKS[1]


def test_the_firewall_marks_by_group_and_keeps_all_other_bits() -> None:
    firewall = wanted_firewall(LINKS, BOTH)
    assert firewall is not None
    assert "iifgroup 0x76630002 meta mark set meta mark & 0xffffff80 | 0x2" in firewall.script


def test_without_secondary_enis_there_is_no_firewall() -> None:
    assert wanted_firewall(LINKS, DesiredHost(enis=(PRIMARY,))) is None


def test_the_comments_change_with_the_content() -> None:
    third = replace(SECONDARY, eni_id="eni-2", device_index=2, route_table_id=3)
    one, two = (
        wanted_firewall(LINKS, BOTH),
        wanted_firewall(LINKS, DesiredHost(enis=(SECONDARY, third))),
    )
    assert one is not None
    assert two is not None
    assert set(one.comments).isdisjoint(two.comments)


def test_the_comments_are_found_in_what_was_rendered() -> None:
    firewall = wanted_firewall(LINKS, BOTH)
    assert firewall is not None
    assert comments_in(firewall.script) == firewall.comments != ()


def test_the_order_in_which_enis_are_named_does_not_matter() -> None:
    third = replace(SECONDARY, eni_id="eni-2", device_index=2, route_table_id=3)
    assert wanted_firewall(LINKS, DesiredHost(enis=(SECONDARY, third))) == wanted_firewall(
        LINKS, DesiredHost(enis=(third, SECONDARY))
    )


def test_a_secondary_eni_cannot_have_the_main_table() -> None:
    with pytest.raises(ValueError, match="table 254"):
        replace(SECONDARY, route_table_id=254)


def test_a_host_with_both_families_as_wanted_needs_nothing() -> None:
    assert diff(whole(BOTH_V6), BOTH_V6) == ()


def test_ipv6_gets_the_same_rules_routes_and_address_as_ipv4() -> None:
    actions = diff(whole(), BOTH_V6)
    rules = [
        (a.rule.priority, a.rule.table, a.rule.family) for a in actions if isinstance(a, AddRule)
    ]
    routes = [
        (str(a.route.destination), str(a.route.gateway)) for a in actions if isinstance(a, AddRoute)
    ]
    assert rules == [(512, 5120, 10), (1536, 2, 10), (32765, 2, 10)]
    assert routes == [("fe80:ec2::1/128", "None"), ("::/0", "fe80:ec2::1")]
    assert [a.address for a in actions if isinstance(a, AddAddress)] == [
        IPv6Interface("2001:db8:0:b::a/128")
    ]


def test_a_node_that_returns_to_ipv4_loses_our_ipv6_and_keeps_its_settings() -> None:
    actions = diff(whole(BOTH_V6), BOTH)
    assert [type(action).__name__ for action in actions] == [
        "RemoveAddress",
        "RemoveRule",
        "RemoveRule",
        "RemoveRule",
        "RemoveRoute",
        "RemoveRoute",
    ]


def test_router_advertisements_are_secured_before_the_node_forwards() -> None:
    written = [a for a in diff(bare(), BOTH_V6) if isinstance(a, WriteSysctl)]
    assert [(a.name.removeprefix("ipv6/conf/"), a.value) for a in written if "ipv6" in a.name] == [
        ("ens5/accept_ra", "2"),
        ("ens6/accept_ra", "0"),
        ("ens6/accept_dad", "0"),
        ("all/forwarding", "1"),
    ]


@pytest.mark.parametrize(("present", "is_written"), [("0", False), ("1", True), ("2", False)])
def test_a_primary_whose_advertisements_a_program_handles_is_left_so(
    present: str, is_written: bool
) -> None:
    name = "ipv6/conf/ens5/accept_ra"
    seen = whole(BOTH_V6)
    sysctls = tuple((key, present if key == name else value) for key, value in seen.sysctls)
    actions = diff(replace(seen, sysctls=sysctls), BOTH_V6)
    assert (actions != ()) == is_written


def test_without_ipv6_no_setting_of_it_is_touched() -> None:
    assert not any("ipv6" in wanted.name for wanted in wanted_sysctls(LINKS, BOTH))


@pytest.mark.parametrize(
    ("text", "protocol", "goes"),
    [
        ("2001:db8:0:b::99/64", 0, True),
        ("fe80::11ff:fe00:11/64", 3, False),
        ("2001:db8:0:b::a/128", 0, False),
    ],
    ids=["autoconfigured", "link-local", "its own"],
)
def test_foreign_ipv6_addresses_go_from_a_secondary_eni(
    text: str, protocol: int, goes: bool
) -> None:
    found = LinkAddress(ifindex=6, address=ip_interface(text), protocol=protocol)
    seen = replace(whole(BOTH_V6), addresses=(*whole(BOTH_V6).addresses, found))
    wanted = RemoveAddress(eni_id="eni-1", ifindex=6, address=found.address)
    assert diff(seen, BOTH_V6) == ((wanted,) if goes else ())


def test_ipv6_of_an_eni_that_serves_ipv4_only_is_left_alone() -> None:
    address = LinkAddress(ifindex=6, address=ip_interface("2001:db8:0:b::99/64"), protocol=0)
    route = Route(
        table=254, destination=ip_network("2001:db8:0:b::/64"), gateway=None, ifindex=6, protocol=2
    )
    seen = whole()
    crowded = replace(seen, addresses=(*seen.addresses, address), routes=(*seen.routes, route))
    assert diff(crowded, BOTH) == ()


@pytest.mark.parametrize(
    ("destination", "gateway", "protocol", "ifindex", "goes"),
    [
        ("2001:db8:0:b::/64", None, 2, 6, True),
        ("::/0", "fe80::1234", 9, 6, True),
        ("fe80::/64", None, 2, 6, False),
        ("::/0", "fe80::1234", 9, 5, False),
        ("2001:db8:9::/64", "fe80::1234", 4, 6, False),
    ],
    ids=["connected", "advertised", "link-local", "primary", "static"],
)
def test_uninvited_ipv6_routes_go_from_a_secondary_eni(
    destination: str, gateway: str | None, protocol: int, ifindex: int, goes: bool
) -> None:
    route = Route(
        table=254,
        destination=ip_network(destination),
        gateway=IPv6Address(gateway) if gateway else None,
        ifindex=ifindex,
        protocol=protocol,
    )
    seen = replace(whole(BOTH_V6), routes=(*whole(BOTH_V6).routes, route))
    wanted = RemoveRoute(eni_id="eni-1", route=route)
    assert diff(seen, BOTH_V6) == ((wanted,) if goes else ())


def test_an_mtu_below_ipv6s_least_is_refused() -> None:
    with pytest.raises(ValueError, match="1279, but IPv6 needs 1280"):
        replace(BOTH_V6, eni_mtu=1279)
