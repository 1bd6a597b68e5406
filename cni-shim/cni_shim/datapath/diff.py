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
from cni_shim.datapath.answers import Link, LinkAddress
from cni_shim.datapath.desired import (
    LOOSE_RP_FILTER,
    DesiredEni,
    DesiredHost,
    can_serve_pods,
    eni_addresses,
    eni_routes,
    eni_rules,
    pod_rules,
)
from cni_shim.datapath.families import AddressOnLink
from cni_shim.datapath.firewall import Firewall, mark_chain, render
from cni_shim.datapath.messages import Route, Rule

# Routes that the kernel made for an address, and from a router advertisement (linux/rtnetlink.h).
_RTPROT_KERNEL, _RTPROT_RA = 2, 9

IP_FORWARD = "ipv4/ip_forward"
IP6_FORWARD = "ipv6/conf/all/forwarding"

# Links that borrow the MAC of the link below them; an ENI's own link is none of these.
_STACKED_KINDS = frozenset(
    {"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "bridge", "bond", "team"}
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSysctl:
    """Write /proc/sys/net/<name>, unless it is `value` or one of `also_right` already."""

    eni_id: str
    name: str
    value: str
    also_right: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink:
    """Give an ENI's link its MTU and bring it up."""

    eni_id: str
    ifindex: int
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    """Add an address to an ENI's link."""

    eni_id: str
    ifindex: int
    address: AddressOnLink


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    """Remove an address from a link."""

    eni_id: str
    ifindex: int
    address: AddressOnLink


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRoute:
    """Add a route; `replaces`: one of ours to the same destination stands in its place."""

    eni_id: str
    route: Route
    replaces: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRoute:
    """Remove a route of ours."""

    eni_id: str
    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRule:
    """Add a rule."""

    eni_id: str
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRule:
    """Remove a rule of ours."""

    eni_id: str
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceFirewall:
    """Put our nft table in place, or (None) take it away. Concerns every secondary ENI."""

    eni_id: str
    firewall: Firewall | None


# `eni_id` is the ENI that is not ready without the action; empty: the whole node, or nobody's.
Action = (
    WriteSysctl
    | SetLink
    | AddAddress
    | RemoveAddress
    | AddRoute
    | RemoveRoute
    | AddRule
    | RemoveRule
    | ReplaceFirewall
)


def diff(observed: ObservedHost, desired: DesiredHost) -> tuple[Action, ...]:
    """The actions that turn the one into the other; empty when nothing is to be done."""
    enis = _enis_with_links(observed, desired)
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
            _route_removals(observed, desired),
            _connected_route_removals(observed, enis),
        )
    )


def link_of_eni(links: tuple[Link, ...], eni: DesiredEni) -> Link | None:
    """The link with the ENI's MAC; of several the one made first, never a stacked or pod link."""
    mac = eni.mac.lower()
    found = (
        link
        for link in links
        if link.mac == mac
        and link.kind not in _STACKED_KINDS
        and not names.is_our_group(link.group)
    )
    return min(found, key=lambda link: link.ifindex, default=None)


def wanted_sysctls(links: tuple[Link, ...], desired: DesiredHost) -> Iterator[WriteSysctl]:
    """Every setting under /proc/sys/net that the host needs, in the order to write them."""
    yield WriteSysctl(eni_id="", name=IP_FORWARD, value="1")
    for eni in desired.enis:
        link = link_of_eni(links, eni)
        if link is not None:
            name = f"ipv4/conf/{link.ifname}/rp_filter"
            yield WriteSysctl(eni_id=eni.eni_id, name=name, value=LOOSE_RP_FILTER)
            if eni.has_v6:
                yield from _link_sysctls_v6(eni, link)
    if desired.has_v6:
        # Last: where an ENI's accept_ra is still 1, the kernel forgets what a router advertised.
        yield WriteSysctl(eni_id="", name=IP6_FORWARD, value="1")


def _link_sysctls_v6(eni: DesiredEni, link: Link) -> Iterator[WriteSysctl]:
    """The primary ENI goes on believing its router although the node forwards (2; 0 is left: then
    a program of the distribution does it). A secondary's routes are ours alone, and it does not
    look for duplicates of addresses that the cloud gave out, which would take a second."""
    conf = f"ipv6/conf/{link.ifname}"
    if eni.is_primary:
        name = f"{conf}/accept_ra"
        yield WriteSysctl(eni_id=eni.eni_id, name=name, value="2", also_right=("0",))
        return
    yield WriteSysctl(eni_id=eni.eni_id, name=f"{conf}/accept_ra", value="0")
    yield WriteSysctl(eni_id=eni.eni_id, name=f"{conf}/accept_dad", value="0")


def wanted_firewall(desired: DesiredHost) -> Firewall | None:
    """Our nft table for these ENIs; None while every pod is on the primary ENI."""
    marks = [eni.mark for eni in desired.enis if not eni.is_primary and can_serve_pods(eni)]
    return render((mark_chain(marks),))


def _enis_with_links(
    observed: ObservedHost, desired: DesiredHost
) -> tuple[tuple[DesiredEni, Link], ...]:
    pairs = ((eni, link_of_eni(observed.links, eni)) for eni in desired.enis)
    return tuple((eni, link) for eni, link in pairs if link is not None and can_serve_pods(eni))


def _sysctl_actions(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    values = dict(observed.sysctls)
    for wanted in wanted_sysctls(observed.links, desired):
        if values.get(wanted.name) not in {wanted.value, *wanted.also_right}:
            yield wanted


def _link_actions(
    enis: tuple[tuple[DesiredEni, Link], ...], desired: DesiredHost
) -> Iterator[Action]:
    for eni, link in enis:
        if not eni.is_primary and (not link.is_up or link.mtu != desired.eni_mtu):
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
    present = {_anyones(route) for route in observed.routes}
    ours = {
        (route.table, route.destination)
        for route in observed.routes
        if route.protocol == names.PROTOCOL
    }
    for eni, link in enis:
        for route in eni_routes(eni, link.ifindex):
            if _anyones(route) not in present:
                replaces = (route.table, route.destination) in ours
                yield AddRoute(eni_id=eni.eni_id, route=route, replaces=replaces)


def _route_removals(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    """Routes of ours that no ENI wants; the pod table is the pods' own.

    A destination that a wanted route also has was replaced by it, and is not removed after it.
    """
    wanted = {
        (route.table, route.destination)
        for eni in desired.enis
        for route in eni_routes(eni, ifindex=0)
    }
    for route in observed.routes:
        is_stale = (route.table, route.destination) not in wanted
        if route.protocol == names.PROTOCOL and route.table != names.POD_TABLE and is_stale:
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
    for rule in pod_rules(desired):
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
        if rule.protocol == names.PROTOCOL and rule not in wanted and not _is_of_pod(rule):
            yield RemoveRule(eni_id="", rule=rule)


def _firewall_actions(observed: ObservedHost, desired: DesiredHost) -> Iterator[Action]:
    wanted = wanted_firewall(desired)
    if observed.firewall_comments != (wanted.comments if wanted else None):
        yield ReplaceFirewall(eni_id="", firewall=wanted)


def _is_of_pod(rule: Rule) -> bool:
    is_addressed = rule.source is not None or rule.destination is not None
    return is_addressed and rule.priority in {names.POD_RULE_PRIORITY, names.MARK_RULE_PRIORITY}


def _anyones(route: Route) -> Route:
    return replace(route, protocol=0)
