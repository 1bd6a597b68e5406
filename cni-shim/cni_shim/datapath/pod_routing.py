"""The rules that name single pods, and the way of all pods from one kind of routing to the other.

Called by `pods`: for an ADD and a DEL with that attachment's lock held, and for `settle`, which
takes the locks itself.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from cni_shim.datapath import answers, messages, names
from cni_shim.datapath.answers import Link
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.messages import Request, Route, Rule
from cni_shim.datapath.netlink import HostNetlink, NetlinkSocket, find_link_by_index
from cni_shim.datapath.observe import pod_routes
from cni_shim.datapath.routing import (
    RoutedPod,
    RoutingRules,
    additions,
    names_pod,
    removals,
    rules_of,
)

Locked = Callable[[str, str], AbstractContextManager[None]]
Held = Mapping[tuple[str, str], tuple[Address, ...]]

# Somebody did it before us, or the pod has gone meanwhile.
_HARMLESS = frozenset({errno.EEXIST, errno.ESRCH, errno.ENOENT, errno.ENODEV})


class PodRouting:
    """Keeps pods' routes and rules to one kind. Thread-safe."""

    def __init__(self, netlink: HostNetlink, mode: RoutingRules) -> None:
        self.mode = mode
        self._netlink = netlink
        # With the other kind an earlier process may have left some; `settle` finds out.
        self._may_have_rules = True
        self._is_settled = False

    @property
    def checked_mode(self) -> RoutingRules:
        """What an attachment must have to stand: until pods of an earlier setting were settled, the
        rules that serve them all are enough."""
        return self.mode if self._is_settled else RoutingRules.GROUPED

    def add_rules(self, addresses: Iterable[Address], mark: int) -> None:
        """Write the rules for a pod. One of ours that stands already is the same rule."""
        for address in addresses:
            for rule in rules_of(address, mark, self.mode):
                _perform(self._netlink.socket(), messages.add_rule(rule))

    def remove_rules(self, address: Address, ifindexes: set[int]) -> bool:
        """Remove rules of ours for a pod with this address, unless its route leads to another link
        than these; True if there were any.

        Nothing is listed, and where no pod has rules nothing is asked: this is on the path of DEL.
        """
        host = self._netlink.socket()
        if not self._may_have_rules or _is_routed_elsewhere(host, address, ifindexes):
            return False
        return _remove_rules_of(host, address)

    def remove_stale_rules(self, address: Address) -> None:
        """Remove rules of ours for a pod with this address, to which no route of ours leads: they
        are of a pod that went without a DEL."""
        _remove_rules_of(self._netlink.socket(), address)

    def settle(self, held: Held, ready_marks: frozenset[int], locked: Locked) -> int:
        """Give every pod of ours the routes and rules of this kind, then take those of the other
        kind away; returns the number of pods for which something was done.

        `held` has the addresses of attachments by key; of a link that it does not name, or names
        with other addresses, those that are routed to it. Rules of its own are taken from a pod
        only if the host's for its ENI stand, as `ready_marks` says.
        Raises DatapathError where the kernel refuses; what was not done is done by the next call.
        """
        host = self._netlink.socket()
        links = [
            link
            for link in host.dump(messages.dump_links(), answers.link_of)
            if link.identity is not None
            and names.is_our_group(link.group)
            and not names.vlan_of_group(link.group)  # those are `branch_links`'
        ]
        routes, rules = _by_link(pod_routes(host)), _pod_rules(host)
        changed = 0
        for link in links:
            its_routes = routes.get(link.ifindex, ())
            pod = _routed(link, its_routes, held)
            its_rules = [rule for a in pod.addresses for rule in rules.get(a, ())]
            requests = [*additions(pod, self.mode, its_routes, its_rules)]
            if self.mode is RoutingRules.PER_POD or pod.mark in ready_marks:
                requests += removals(pod, self.mode, its_routes, its_rules)
            changed += bool(requests) and self._perform(link, requests, locked)
        if self.mode is RoutingRules.GROUPED:
            self._may_have_rules = bool(rules and _pod_rules(host))
        self._is_settled = True
        return changed

    def _perform(self, link: Link, requests: Sequence[Request], locked: Locked) -> bool:
        """Under the attachment's lock, and only if its link is still the one that was seen."""
        assert link.identity is not None
        host = self._netlink.socket()
        with locked(link.identity.container_id, link.identity.ifname):
            now = find_link_by_index(host, link.ifindex)
            if now is None or now.alias != link.alias:
                return False  # a DEL was faster
            for request in requests:
                _perform(host, request)
        return True


def _by_link(routes: Iterable[Route]) -> dict[int, list[Route]]:
    found: dict[int, list[Route]] = {}
    for route in routes:
        found.setdefault(route.ifindex, []).append(route)
    return found


def _pod_rules(host: NetlinkSocket) -> dict[Address, list[Rule]]:
    """Our rules for single pods, by address."""
    found: dict[Address, list[Rule]] = {}
    for rule in host.dump(messages.dump_rules(), answers.rule_of):
        address = names_pod(rule)
        if address is not None and rule.protocol == names.PROTOCOL:
            found.setdefault(address, []).append(rule)
    return found


def _routed(link: Link, routes: Iterable[Route], held: Held) -> RoutedPod:
    """The pod behind a link, to which these routes lead. Where `held` says otherwise it is older
    or newer than the link, and nobody's addresses are moved on its word."""
    identity = link.identity
    assert identity is not None
    over = tuple({r.destination.network_address: None for r in routes})
    known = held.get((identity.container_id, identity.ifname), ())
    return RoutedPod(
        ifindex=link.ifindex,
        mark=names.mark_of_group(link.group),
        addresses=known if set(over) <= set(known) else over,
    )


def _is_routed_elsewhere(host: NetlinkSocket, address: Address, ifindexes: set[int]) -> bool:
    (answer,) = host.get((messages.match_route(address),))
    if isinstance(answer, DatapathError) or (
        answers.matched_length(answer) != address.max_prefixlen
    ):
        return False
    route = answers.route_of(answer)
    return route is None or route.ifindex not in ifindexes


def _remove_rules_of(host: NetlinkSocket, address: Address) -> bool:
    to_pod, from_pod = messages.pod_rule_selectors(address)
    had_to = _remove_all(host, to_pod)
    return _remove_all(host, from_pod) or had_to


def _remove_all(host: NetlinkSocket, selector: Request) -> bool:
    """Remove every rule that the selector finds; each request removes one."""
    has_any = False
    while True:
        try:
            host.execute((selector,))
        except DatapathError as e:
            if e.errno != errno.ENOENT:
                raise
            return has_any
        has_any = True


def _perform(host: NetlinkSocket, request: Request) -> None:
    try:
        host.execute((request,))
    except DatapathError as e:
        if e.errno not in _HARMLESS:
            raise
