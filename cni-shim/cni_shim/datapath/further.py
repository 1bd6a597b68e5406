"""Further attachments of one pod: net1 beside eth0, as Multus asks for.

The pod's own default route stays that of its first attachment, whoever made it. A further one has
its routes in a table of its own, numbered as its link is, and a rule that leads there what comes
from its address; so it answers and, bound to its address, asks by its own ENI, where the VPC takes
that source, and moves nothing else of the pod's traffic. Each family is judged by itself.

Called by `pods` once the kernel refused a route because another has that destination, and by
`standing`. The common pod, with one attachment, costs nothing for it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import IPv6Address

from cni_shim.datapath import answers, messages, names
from cni_shim.datapath.answers import Link
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import FAMILIES, Address, host_network, host_on_link
from cni_shim.datapath.messages import Request, Route, Rule, VethPair
from cni_shim.datapath.netlink import NetlinkSocket, find_link_by_index
from cni_shim.datapath.wiring import pod_routes


def own_rule(address: Address, ifindex: int) -> Rule:
    """The rule in the pod that leads what comes from an address to its link's table."""
    return Rule(
        priority=names.POD_RULE_PRIORITY,
        table=ifindex,
        source=host_network(address),
        family=FAMILIES[address.version],
    )


def dress(pod: NetlinkSocket, pair: VethPair, addresses: tuple[Address, ...]) -> tuple[int, ...]:
    """Give a pod end all it needs where the main table has no place for its routes; the families
    (4, 6) that got a table of their own. What stands already stays. Raises DatapathError."""
    index = pair.pod_ifindex
    _remove_stale_rules(pod)
    for address in addresses:
        _execute(pod, _base(pair, address), errno.EEXIST)
    standing = _comparable(pod.dump(messages.dump_routes(), answers.route_of))
    moved = []
    for address in addresses:
        in_main = pod_routes(address.version, index)
        if standing.issuperset(in_main):
            continue
        moved.append(address.version)
        stray = [messages.delete_route(r) for r in reversed(in_main) if r in standing]
        _execute(pod, stray, errno.ESRCH)
        routes = pod_routes(address.version, index, table=index)
        _execute(pod, [messages.add_route(r) for r in routes], errno.EEXIST)
        _execute(pod, [messages.add_rule(own_rule(address, index))], errno.EEXIST)
    return tuple(moved)


def _base(pair: VethPair, address: Address) -> list[Request]:
    index, gateway = pair.pod_ifindex, names.POD_GATEWAYS[address.version]
    local = [messages.add_local_route(index, address)] if isinstance(address, IPv6Address) else []
    return [
        messages.add_address(index, host_on_link(address)),
        messages.set_link(index),
        *local,
        messages.add_neighbour(index, gateway, pair.host_mac),
    ]


def _remove_stale_rules(pod: NetlinkSocket) -> None:
    """Rules of ours whose link is gone: a DEL cannot count on the namespace to remove them in."""
    for rule in pod.dump(messages.dump_rules(), answers.rule_of):
        if rule.protocol == names.PROTOCOL and find_link_by_index(pod, rule.table) is None:
            _execute(pod, [messages.delete_rule(rule)], errno.ENOENT)


def own_table_versions(routes: Iterable[Route], ifindex: int) -> tuple[int, ...]:
    """The families of a link that have a table of their own."""
    return tuple(sorted({r.destination.version for r in routes if r.table == ifindex}))


def missing_routes(
    pod: NetlinkSocket, routes: frozenset[Route], inside: Link, address: Address
) -> Iterator[str]:
    """A sentence for each route, and the rule, that does not stand. Compared by where they lead: a
    plugin that set a route anew has its own protocol number, and sbr moves it to another table."""
    has_own = address.version in own_table_versions(routes, inside.ifindex)
    present = {replace(r, protocol=names.PROTOCOL, table=names.MAIN_TABLE) for r in routes}
    for route in pod_routes(address.version, inside.ifindex):
        if route not in present:
            by = f" by {route.gateway}" if route.gateway else ""
            yield f"the pod has no route to {route.destination}{by} on {inside.ifname}"
    if has_own and own_rule(address, inside.ifindex) not in _rules(pod):
        yield f"the pod has no rule from {address} to the table of {inside.ifname}"


def _rules(pod: NetlinkSocket) -> tuple[Rule, ...]:
    return pod.dump(messages.dump_rules(), answers.rule_of)


def _comparable(routes: Iterable[Route]) -> frozenset[Route]:
    return frozenset(replace(route, protocol=names.PROTOCOL) for route in routes)


def _execute(pod: NetlinkSocket, requests: Iterable[Request], harmless: int) -> None:
    for request in requests:
        try:
            pod.execute((request,))
        except DatapathError as e:
            if e.errno != harmless:
                raise
