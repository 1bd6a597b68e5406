"""Whether one attachment stands: asked by CHECK, and by an ADD that comes again.

Changes nothing. On the host only single questions are asked, so that the cost does not grow with
the number of pods, but for the rules of `per-pod`; in the pod's namespace, which is small, one dump
of a kind.

Plugins that come after us in the chain add addresses, routes and queueing disciplines, lower the
pod's MTU, or change its MAC (tuning): none of that is missing from what we made.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cni_shim.datapath import answers, messages, names
from cni_shim.datapath.answers import Link, LinkAddress, Neighbour
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address, host_on_link
from cni_shim.datapath.further import missing_routes, own_table_versions
from cni_shim.datapath.identity import encode_alias
from cni_shim.datapath.messages import Route
from cni_shim.datapath.netlink import NetlinkSocket, find_link_by_index, find_links
from cni_shim.datapath.observe import rules_naming
from cni_shim.datapath.routing import RoutingRules, rules_of
from cni_shim.datapath.wiring import PodWiring, Wired, is_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Both ends of an attachment, and a sentence for each thing that is not as it should be."""

    host: Link | None
    pod: Link | None
    missing: tuple[str, ...]
    own_table_versions: tuple[int, ...] = ()  # families whose default route is another link's


def look(
    host: NetlinkSocket,
    pod: NetlinkSocket,
    wiring: PodWiring,
    mode: RoutingRules,
    *,
    pod_mac: str = "",
) -> Standing:
    """What stands. `pod_mac` is what a later plugin made of the pod's MAC; "" is ours."""
    (inside,) = find_links(pod, (wiring.ifname,))
    outside = _host_end(host, inside, wiring, pod.netns_cookie())
    missing = [f"there is no interface {wiring.ifname} in the pod"] if inside is None else []
    if outside is None:
        what = "there is no host veth of the attachment"
        missing.append(f"{what} that leads to {wiring.ifname} in this namespace")
    else:
        missing += _missing_on_host(host, outside, inside, wiring)
    if wiring.branch is None:
        missing += _missing_rules(host, wiring, mode)
    if inside is None:
        return Standing(host=outside, pod=None, missing=tuple(missing))
    routes = frozenset(pod.dump(messages.dump_routes(), answers.route_of))
    missing += _missing_in_pod(pod, outside, inside, wiring, pod_mac, routes)
    return Standing(
        host=outside,
        pod=inside,
        missing=tuple(missing),
        own_table_versions=own_table_versions(routes, inside.ifindex),
    )


def find_wired(
    host: NetlinkSocket, pod: NetlinkSocket, wiring: PodWiring, mode: RoutingRules
) -> Wired | None:
    """What stands for an attachment if all of it stands exactly as wanted, else None."""
    found = look(host, pod, wiring, mode)
    if found.missing or found.host is None or found.pod is None:
        return None
    cookie = pod.netns_cookie()
    is_exact = (
        found.host.alias == encode_alias(wiring.identity(cookie))
        and found.host.ifname in wiring.host_ifnames()
        and {found.host.mtu, found.pod.mtu} == {wiring.mtu}
    )
    if not is_exact:
        return None
    return Wired(
        host_ifname=found.host.ifname,
        host_ifindex=found.host.ifindex,
        host_mac=found.host.mac,
        pod_mac=found.pod.mac,
        netns_cookie=cookie,
        own_table_versions=found.own_table_versions,
    )


def _host_end(
    host: NetlinkSocket, inside: Link | None, wiring: PodWiring, cookie: int
) -> Link | None:
    """The host end of this attachment for the namespace with this cookie.

    By the pod end's index where there is one, so that it is found under any name. The indexes must
    agree both ways: by one alone it could be a link of some third namespace.
    """
    if inside is not None and inside.peer_ifindex:
        by_index = find_link_by_index(host, inside.peer_ifindex)
        found = [by_index] if by_index and by_index.peer_ifindex == inside.ifindex else []
    else:
        found = [link for link in find_links(host, wiring.host_ifnames()) if link is not None]
    return next(
        (
            link
            for link in found
            if is_of(link, wiring.container_id, wiring.ifname)
            and link.identity is not None
            and link.identity.netns_cookie == cookie
        ),
        None,
    )


def _missing_on_host(
    host: NetlinkSocket, outside: Link, inside: Link | None, wiring: PodWiring
) -> Iterator[str]:
    name, group = outside.ifname, wiring.group
    if not outside.is_up:
        yield f"host veth {name} is down"
    if outside.group != group:
        yield f"host veth {name} is in group {outside.group:#x}, not {group:#x} of its ENI"
    if inside is not None and outside.mtu < inside.mtu:
        yield f"host veth {name} has MTU {outside.mtu}, less than the pod's {inside.mtu}"
    if wiring.branch is None:  # else the route may stand in that ENI's table: see `branch_links`
        routes = host.get([messages.match_route(address) for address in wiring.addresses])
        for address, answer in zip(wiring.addresses, routes, strict=True):
            if not _leads_to(answer, address, outside):
                yield f"no route of the host leads to {address} over {name}"
    # Without its entry IPv4 asks by ARP, as for pods that an earlier version wired. The MAC is read
    # from the pod, where a later plugin may change it.
    if wiring.has_v6 and inside is not None:
        address = wiring.addresses[-1]
        if not _knows_neighbour(host, outside, address, inside.mac):
            yield f"the host has no permanent neighbour entry for {address} on {name}"


def _missing_rules(host: NetlinkSocket, wiring: PodWiring, mode: RoutingRules) -> Iterator[str]:
    """The one thing that must be listed, and only where each pod has rules of its own: the kernel
    answers no question about a single rule."""
    for address in wiring.addresses:
        wanted = rules_of(address, wiring.mark, mode)
        if not wanted:
            continue
        found = {replace(r, protocol=names.PROTOCOL) for r in rules_naming(host, address)}
        for rule in wanted:
            if rule not in found:
                way = "to" if rule.destination else "from"
                yield f"the host has no rule {rule.priority} {way} {address} for table {rule.table}"


def _leads_to(answer: bytes | DatapathError, address: Address, link: Link) -> bool:
    if isinstance(answer, DatapathError):
        return False
    route = answers.route_of(answer)
    is_whole = answers.matched_length(answer) == address.max_prefixlen
    return is_whole and route is not None and route.ifindex == link.ifindex


def _knows_neighbour(sock: NetlinkSocket, link: Link, address: Address, mac: str) -> bool:
    (answer,) = sock.get((messages.get_neighbour(link.ifindex, address),))
    if isinstance(answer, DatapathError):
        if answer.errno in {errno.ENOENT, errno.ENODEV}:
            return False
        raise answer
    return answers.neighbour_of(answer) == _permanent(link.ifindex, address, mac)


def _missing_in_pod(
    pod: NetlinkSocket,
    outside: Link | None,
    inside: Link,
    wiring: PodWiring,
    pod_mac: str,
    routes: frozenset[Route],
) -> Iterator[str]:
    name = inside.ifname
    mac = (pod_mac or names.mac_text(names.pod_mac(wiring.addresses[0]))).lower()
    if not inside.is_up:
        yield f"{name} in the pod is down"
    if inside.mac != mac:
        yield f"{name} in the pod has MAC {inside.mac}, not {mac}"
    addresses = pod.dump(messages.dump_addresses(), answers.address_of)
    neighbours = pod.dump(messages.dump_neighbours(), answers.neighbour_of)
    on_link = {replace(found, protocol=0, is_tentative=False) for found in addresses}
    for address in wiring.addresses:
        wanted = LinkAddress(ifindex=inside.ifindex, address=host_on_link(address), protocol=0)
        if wanted not in on_link:
            yield f"{name} in the pod does not have address {address}"
        yield from missing_routes(pod, routes, inside, address)
        gateway = names.POD_GATEWAYS[address.version]
        host_mac = outside.mac if outside else ""
        if outside and _permanent(inside.ifindex, gateway, host_mac) not in neighbours:
            yield f"the pod has no permanent neighbour entry for {gateway} with MAC {host_mac}"


def _permanent(ifindex: int, address: Address, mac: str) -> Neighbour:
    return Neighbour(
        ifindex=ifindex,
        address=address,
        mac=bytes.fromhex(mac.replace(":", "")),
        is_permanent=True,
    )
