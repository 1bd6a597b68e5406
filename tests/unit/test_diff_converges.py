"""Whatever a host has, and whatever it had before: after one round nothing is left to do, and what
is not ours is as it was."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network, ip_network
from itertools import product

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
from cni_shim.datapath.answers import LinkAddress
from cni_shim.datapath.chains import wanted_firewall
from cni_shim.datapath.desired import DesiredHost, eni_addresses, eni_routes, eni_rules, host_rules
from cni_shim.datapath.diff import ObservedHost, diff
from cni_shim.datapath.host_sysctls import wanted_sysctls
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.policy import HostPolicy
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.test_datapath_diff import BOTH, BOTH_V6, LINKS, PRIMARY, SECONDARY

VPC = (ip_network("10.0.0.0/16"),)
POLICIES = tuple(
    HostPolicy(
        has_snat=snat,
        has_node_port_support=node_port,
        connmark=connmark,
        external_services=services,
        has_v6_egress=egress,
        disables_tcp_early_demux=egress,
    )
    for snat, node_port, connmark, services, egress in product(
        (False, True), (False, True), (0x80, 0x100),
        ((), (IPv4Network("203.0.113.0/24"),)), (False, True),
    )
)  # fmt: skip
MOVED = DesiredHost(enis=(PRIMARY, replace(SECONDARY, device_index=2, route_table_id=3)))
HOSTS = st.builds(
    lambda host, policy: replace(host, vpc_cidrs=VPC, policy=policy),
    st.sampled_from((BOTH, BOTH_V6, MOVED, DesiredHost(enis=(PRIMARY,)))),
    st.sampled_from(POLICIES),
)
FOREIGN_RULES = (
    Rule(priority=100, table=77, mark=0x200, mask=0xF00, protocol=0),
    Rule(priority=512, table=254, destination=IPv4Network("10.0.0.77/32"), protocol=0),
    Rule(priority=1024, table=77, mark=0x10000, mask=0x10000, protocol=0),
    Rule(priority=1535, table=254, destination=IPv4Network("198.18.0.0/15"), protocol=0),
    Rule(priority=1536, table=2, source=IPv4Network("10.0.1.77/32"), protocol=0),
    Rule(priority=32766, table=254, protocol=2),
)
FOREIGN_ROUTES = (
    Route(table=77, destination=IPv4Network("10.8.0.0/16"), gateway=None, ifindex=5, protocol=4),
    Route(table=254, destination=IPv4Network("10.0.0.77/32"), gateway=None, ifindex=9, protocol=3),
    Route(table=254, destination=IPv4Network("10.0.0.0/24"), gateway=None, ifindex=5, protocol=2),
)
OWN_ADDRESS = LinkAddress(ifindex=5, address=IPv4Interface("10.0.0.10/24"), protocol=0)


def standing(desired: DesiredHost) -> ObservedHost:
    """A host on which all of this stands, beside what others have."""
    firewall = wanted_firewall(LINKS, desired)
    ifindexes = {"eni-0": 5, "eni-1": 6}
    enis = [(eni, ifindexes[eni.eni_id]) for eni in desired.enis]
    return ObservedHost(
        links=LINKS,
        addresses=(
            OWN_ADDRESS,
            *(
                LinkAddress(ifindex=index, address=address, protocol=names.PROTOCOL)
                for eni, index in enis
                for address in eni_addresses(eni)
            ),
        ),
        routes=(*FOREIGN_ROUTES, *(r for eni, index in enis for r in eni_routes(eni, index))),
        rules=(
            *FOREIGN_RULES,
            *host_rules(desired),
            *(rule for eni, _ in enis for rule in eni_rules(eni)),
        ),
        sysctls=tuple((wanted.name, wanted.value) for wanted in wanted_sysctls(LINKS, desired)),
        firewall_comments=firewall.comments if firewall else None,
    )


def after(seen: ObservedHost, actions: Iterable[Action]) -> ObservedHost:
    """The host once all is done, as the kernel would do it."""
    for action in actions:
        seen = _after_one(seen, action)
    return seen


def _after_one(seen: ObservedHost, action: Action) -> ObservedHost:
    match action:
        case WriteSysctl(name=name, value=value):
            return replace(seen, sysctls=tuple((dict(seen.sysctls) | {name: value}).items()))
        case SetLink(ifindex=ifindex, mtu=mtu):
            links = (
                replace(link, mtu=mtu or link.mtu, is_up=True) if link.ifindex == ifindex else link
                for link in seen.links
            )
            return replace(seen, links=tuple(links))
        case AddAddress(ifindex=ifindex, address=address):
            added = LinkAddress(ifindex=ifindex, address=address, protocol=names.PROTOCOL)
            return replace(seen, addresses=(*seen.addresses, added))
        case RemoveAddress(ifindex=ifindex, address=address):
            kept = (a for a in seen.addresses if (a.ifindex, a.address) != (ifindex, address))
            return replace(seen, addresses=tuple(kept))
        case AddRoute(route=route):
            place = (route.table, route.destination)
            others = (r for r in seen.routes if (r.table, r.destination) != place)
            return replace(seen, routes=(*others, route))
        case RemoveRoute(route=route):
            return replace(seen, routes=tuple(r for r in seen.routes if r != route))
        case AddRule(rule=rule):
            assert rule not in seen.rules
            return replace(seen, rules=(*seen.rules, rule))
        case RemoveRule(rule=rule):
            return replace(seen, rules=tuple(r for r in seen.rules if r != rule))
        case ReplaceFirewall(firewall=firewall):
            return replace(seen, firewall_comments=firewall.comments if firewall else None)


@st.composite
def damaged(draw: st.DrawFn, whole: ObservedHost) -> ObservedHost:
    """The host with any part of ours away, changed settings, and the link down or narrow."""

    def some(things: tuple[object, ...]) -> tuple[object, ...]:
        return tuple(thing for thing in things if is_foreign(thing) or draw(st.booleans()))

    down = replace(LINKS[1], is_up=draw(st.booleans()), mtu=draw(st.sampled_from((1500, 9001))))
    return ObservedHost(
        links=(LINKS[0], down),
        addresses=some(whole.addresses),  # type: ignore[arg-type]
        routes=some(whole.routes),  # type: ignore[arg-type]
        rules=some(whole.rules),  # type: ignore[arg-type]
        sysctls=some(whole.sysctls),  # type: ignore[arg-type]
        firewall_comments=draw(st.sampled_from((None, (), whole.firewall_comments))),
    )


def is_foreign(thing: object) -> bool:
    return isinstance(thing, Rule | Route | LinkAddress) and thing.protocol != names.PROTOCOL


def foreign(seen: ObservedHost) -> tuple[set[object], ...]:
    return tuple(
        {thing for thing in things if is_foreign(thing)}
        for things in (seen.rules, seen.routes, seen.addresses)
    )


@given(st.data())
def test_one_round_leaves_nothing_to_do(data: st.DataObject) -> None:
    before, desired = data.draw(HOSTS), data.draw(HOSTS)
    seen = data.draw(damaged(standing(before)))
    assert diff(after(seen, diff(seen, desired)), desired) == ()


@given(st.data())
def test_one_round_leaves_what_is_not_ours(data: st.DataObject) -> None:
    before, desired = data.draw(HOSTS), data.draw(HOSTS)
    seen = data.draw(damaged(standing(before)))
    assert foreign(after(seen, diff(seen, desired))) == foreign(seen)


@given(st.data())
def test_any_part_of_a_round_is_a_way_to_the_same_end(data: st.DataObject) -> None:
    before, desired = data.draw(HOSTS), data.draw(HOSTS)
    seen = data.draw(damaged(standing(before)))
    actions = diff(seen, desired)
    half = after(seen, [action for action in actions if data.draw(st.booleans())])
    assert diff(after(half, diff(half, desired)), desired) == ()
