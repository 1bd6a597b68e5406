"""From what the host has to what it should have: an ordered list of actions. Pure.

Only what is ours is ever removed: routes, rules and addresses with our protocol number, our nft
table, and foreign IPv4 addresses on a managed secondary ENI's own link (a distribution that gives
it a /24 puts a connected route into main, which sends other sources out by the wrong ENI). What
somebody else has put in place exactly as we want it is taken as it is.

Everything is added before anything is removed, so that a changed ENI never has a gap.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

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
)
from cni_shim.datapath.answers import Link, LinkAddress
from cni_shim.datapath.chains import wanted_firewall
from cni_shim.datapath.desired import (
    DesiredEni,
    DesiredHost,
    can_serve_pods,
    eni_addresses,
    eni_routes,
    eni_rules,
    host_rules,
    local_rules,
)
from cni_shim.datapath.families import AF_INET, AF_INET6
from cni_shim.datapath.host_sysctls import wanted_sysctls
from cni_shim.datapath.links import enis_with_links
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.routing import is_pod_route

# Routes that the kernel made for an address, and from a router advertisement (linux/rtnetlink.h).
_RTPROT_KERNEL, _RTPROT_RA = 2, 9


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedHost:
    """What `host.observe` read. `sysctls` holds those that `wanted_sysctls` names, by name.

    `firewall_comments` is None where our nft table does not exist.
    """

    links: tuple[Link, ...]
    addresses: tuple[LinkAddress, ...]
    routes: tuple[Route, ...]
    rules: tuple[Rule, ...]
    sysctls: tuple[tuple[str, str], ...]
    firewall_comments: tuple[str, ...] | None


def diff(observed: ObservedHost, desired: DesiredHost) -> tuple[Action, ...]:
    """The actions that turn the one into the other; empty when nothing is to be done."""
    enis = enis_with_links(observed.links, desired)
    return tuple(
        chain(
            _sysctl_actions(observed, desired),
            _link_actions(enis, desired),
            _address_additions(observed, enis),
            _route_additions(observed, enis),
            _rule_additions(observed, desired),
            _firewall_actions(observed, desired),
            _address_removals(observed, enis),
            _rule_removals(observed, desired),
            _local_rule_actions(observed, desired),
            _route_removals(observed, desired),
            _connected_route_removals(observed, enis),
        )
    )


def _sysctl_actions(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    values = dict(observed.sysctls)
    for wanted in wanted_sysctls(observed.links, desired):
        if values.get(wanted.name) not in {wanted.value, *wanted.also_right}:
            yield wanted


def _link_actions(
    enis: tuple[tuple[DesiredEni, Link], ...], desired: DesiredHost
) -> Iterator[Action]:
    for eni, link in enis:
        has_other_mtu = desired.eni_mtu is not None and link.mtu != desired.eni_mtu
        if not eni.is_primary and (not link.is_up or has_other_mtu):
            yield SetLink(eni_id=eni.eni_id, ifindex=link.ifindex, mtu=desired.eni_mtu)


def _address_additions(
    observed: ObservedHost, enis: tuple[tuple[DesiredEni, Link], ...]
) -> Iterator[Action]:
    present = {(a.ifindex, a.address) for a in observed.addresses}
    for eni, link in enis:
        for address in eni_addresses(eni):
            if (link.ifindex, address) not in present:
                yield AddAddress(eni_id=eni.eni_id, ifindex=link.ifindex, address=address)


def _address_removals(
    observed: ObservedHost, enis: tuple[tuple[DesiredEni, Link], ...]
) -> Iterator[Action]:
    wanted = {(link.ifindex, address) for eni, link in enis for address in eni_addresses(eni)}
    managed = {
        (link.ifindex, gateway.version)
        for eni, link in enis
        if not eni.is_primary
        for gateway in eni.gateways
    }
    ids = {link.ifindex: eni.eni_id for eni, link in enis}
    for found in observed.addresses:
        is_managed = (found.ifindex, found.address.version) in managed
        is_stale = (found.ifindex, found.address) not in wanted and not found.is_link_local_v6
        if is_stale and (found.protocol == names.PROTOCOL or is_managed):
            eni_id = ids.get(found.ifindex, "")
            yield RemoveAddress(eni_id=eni_id, ifindex=found.ifindex, address=found.address)


def _route_additions(
    observed: ObservedHost, enis: tuple[tuple[DesiredEni, Link], ...]
) -> Iterator[Action]:
    """An ENI's table is ours, and aws-node's before us: what leads elsewhere there is replaced."""
    present = {_anyones(route) for route in observed.routes}
    taken = {(route.table, route.destination) for route in observed.routes}
    for eni, link in enis:
        for route in eni_routes(eni, link.ifindex):
            if _anyones(route) not in present:
                replaces = (route.table, route.destination) in taken
                yield AddRoute(eni_id=eni.eni_id, route=route, replaces=replaces)


def _route_removals(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    """Routes of ours that no ENI wants; what leads to a pod is its attachment's.

    A destination that a wanted route also has was replaced by it, and is not removed after it.
    """
    wanted = {
        (route.table, route.destination)
        for eni in desired.enis
        for route in eni_routes(eni, ifindex=0)
    }
    for route in observed.routes:
        is_stale = (route.table, route.destination) not in wanted
        is_of_pod = is_pod_route(route) or names.is_branch_table(route.table)
        if route.protocol == names.PROTOCOL and is_stale and not is_of_pod:
            yield RemoveRoute(eni_id="", route=route)


def _connected_route_removals(
    observed: ObservedHost, enis: tuple[tuple[DesiredEni, Link], ...]
) -> Iterator[Action]:
    """Connected and advertised routes in main over a secondary ENI, which would send the sources of
    others out by it; of IPv6 not the link-local one."""
    ids = {
        (link.ifindex, gateway.version): eni.eni_id
        for eni, link in enis
        if not eni.is_primary
        for gateway in eni.gateways
    }
    for route in observed.routes:
        eni_id = ids.get((route.ifindex, route.destination.version))
        if eni_id is not None and route.table == names.MAIN_TABLE and _is_uninvited(route):
            yield RemoveRoute(eni_id=eni_id, route=route)


def _is_uninvited(route: Route) -> bool:
    if route.destination.version == 6 and route.destination.is_link_local:
        return False
    is_connected = route.protocol == _RTPROT_KERNEL and route.gateway is None
    return is_connected or route.protocol == _RTPROT_RA


def _wanted_rules(desired: DesiredHost) -> Iterator[tuple[str, Rule]]:
    for rule in host_rules(desired):
        yield "", rule
    for eni in desired.enis:
        if can_serve_pods(eni):
            for rule in eni_rules(eni):
                yield eni.eni_id, rule


def _rule_additions(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    present = {replace(rule, protocol=0) for rule in observed.rules}
    for eni_id, rule in _wanted_rules(desired):
        if replace(rule, protocol=0) not in present:
            yield AddRule(eni_id=eni_id, rule=rule)


def _rule_removals(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    """Rules of ours that nothing wants; those that name a pod's address are its attachment's."""
    wanted = {rule for _, rule in _wanted_rules(desired)}
    for rule in observed.rules:
        is_kept = _is_of_pod(rule) or _is_moved_local(rule)
        if rule.protocol == names.PROTOCOL and rule not in wanted and not is_kept:
            yield RemoveRule(eni_id="", rule=rule)


def _local_rule_actions(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    """The kernel's rule for the node's own addresses goes, or comes back, only once the other of
    the two was seen: without both the node would be cut off."""
    rules = {replace(rule, protocol=0): rule for rule in observed.rules}
    for family in (AF_INET, AF_INET6):
        first = Rule(
            priority=names.LOCAL_RULE_PRIORITY,
            table=names.LOCAL_TABLE,
            family=family,
            protocol=0,
        )
        moved = rules.get(replace(first, priority=names.MOVED_LOCAL_RULE_PRIORITY))
        if moved is None:
            continue
        is_wanted = moved in local_rules(desired)
        if is_wanted and first in rules:
            yield RemoveRule(eni_id="", rule=rules[first])
        elif not is_wanted and moved.protocol == names.PROTOCOL:
            if first in rules:
                yield RemoveRule(eni_id="", rule=moved)
            else:
                yield AddRule(eni_id="", rule=replace(first, protocol=_RTPROT_KERNEL))


def _is_moved_local(rule: Rule) -> bool:
    is_there = rule.priority == names.MOVED_LOCAL_RULE_PRIORITY
    return is_there and rule.table == names.LOCAL_TABLE


def _firewall_actions(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    wanted = wanted_firewall(observed.links, desired)
    if observed.firewall_comments != (wanted.comments if wanted else None):
        concerns_primary = desired.policy.moves_connections
        yield ReplaceFirewall(eni_id="", firewall=wanted, concerns_primary=concerns_primary)


def _is_of_pod(rule: Rule) -> bool:
    if names.is_branch_table(rule.table) and rule.iif:
        return True
    is_addressed = rule.source is not None or rule.destination is not None
    return is_addressed and rule.priority in {names.POD_RULE_PRIORITY, names.MARK_RULE_PRIORITY}


def _anyones(route: Route) -> Route:
    return replace(route, protocol=0)
