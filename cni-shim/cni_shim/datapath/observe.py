"""Reading the kernel: every pod address in use, and what names one address.

Called by `pods` on each verb (the short questions) and by the server's reconciler (`observe_pods`,
three dumps). Changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from cni_shim.datapath import answers, delegation, messages, names
from cni_shim.datapath.answers import Link
from cni_shim.datapath.families import AF_UNSPEC, FAMILIES, Address, host_network
from cni_shim.datapath.identity import ALIAS_START
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.netlink import NetlinkSocket, find_link_by_index, find_links
from cni_shim.datapath.policy import is_egress
from cni_shim.datapath.routing import is_pod_route, names_pod
from cni_shim.datapath.wiring import is_of

_ALIAS_BYTES = ALIAS_START.encode()
_POD_TABLE_ATTRIBUTE = messages.u32(messages.RTA_TABLE, names.POD_TABLE)
_MAIN_TABLE_ATTRIBUTE = messages.u32(messages.RTA_TABLE, names.MAIN_TABLE)
_HOST_LENGTHS = frozenset({32, 128})
_PROTOCOL_AT = 5  # in struct rtmsg
# linux/rtnetlink.h, RTPROT_KERNEL and RTPROT_RA: what an address or a router of the node brings.
_NODES_OWN_PROTOCOLS = frozenset({2, 9})


@dataclass(frozen=True, slots=True, kw_only=True)
class ObservedPod:
    """A pod address in the kernel, or a host veth of ours without one (`address` None).

    A pod with addresses of both families is two of these, with one link.

    Without a route `link_name` is empty and `ifindex` 0. The key, cookie and names are from the
    link's alias, and empty where the link is not ours or was left before it got its alias. Where
    only rules name the address, `is_ours` says that one of ours does.
    """

    address: Address | None
    link_name: str = ""
    ifindex: int = 0
    container_id: str = ""
    ifname: str = ""
    netns_cookie: int = 0
    network_name: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    is_ours: bool = False


def observe_pods(sock: NetlinkSocket) -> tuple[ObservedPod, ...]:
    """Every pod address in our pods' routes, in main behind another agent's veth and in pods'
    rules, and our links without one. Pods on branch ENIs are none of the ledger's, and are left
    out."""
    links = {link.ifindex: link for link in sock.dump(messages.dump_links(), answers.link_of)}
    bodies = sock.dump_raw(messages.dump_routes())
    routes = _of_pods(bodies)
    rules = sock.dump(messages.dump_rules(), answers.rule_of)

    on_branches = {link.ifindex for link in links.values() if _is_on_branch(link)}
    branch_addresses = {
        route.destination.network_address
        for body in (bodies if on_branches else ())
        if (route := answers.route_of(body)) is not None and route.ifindex in on_branches
    }
    routes = tuple(route for route in routes if route.ifindex not in on_branches)
    routed = {route.ifindex for route in routes}
    # Node-local addresses, ours and those of aws-node's egress plugin, are nobody's in the ledger.
    routes = tuple(r for r in routes if not is_egress(r.destination.network_address))

    ours = {route.destination.network_address for route in routes}
    theirs = [
        r
        for r in host_routes(bodies)
        if r.destination.network_address not in ours
        and not is_egress(r.destination.network_address)
    ]
    foreign = [r for r in theirs if r.ifindex in links and is_foreign_veth(links[r.ifindex])]
    routed_addresses = ours | {route.destination.network_address for route in foreign}
    ruled = {
        address: rule.protocol == names.PROTOCOL
        for rule in sorted(rules, key=lambda rule: rule.protocol == names.PROTOCOL)
        if (address := names_pod(rule)) is not None
        and address not in routed_addresses
        and address not in branch_addresses
        and not is_egress(address)
    }
    found = (
        *(_observed(_link_of(r, links), r.destination.network_address) for r in routes),
        *(_observed(links[r.ifindex], r.destination.network_address) for r in foreign),
        *(ObservedPod(address=a, is_ours=ruled[a]) for a in _sorted(ruled)),
        *(
            _observed(link, None)
            for link in links.values()
            if _is_host_veth(link) and link.ifindex not in routed | on_branches
        ),
    )
    return tuple(dict.fromkeys(found))  # while a pod's route changes its table it stands in both


def _link_of(route: Route, links: Mapping[int, Link]) -> Link | None:
    """The link that shows whose a route is; none for one over another plugin's bridge, which we
    made and which, as a rule would, outlives the pod."""
    return None if route.protocol == delegation.PROTOCOL else links.get(route.ifindex)


def pod_routes(sock: NetlinkSocket, family: int = AF_UNSPEC) -> tuple[Route, ...]:
    """The routes of the pod table, and those of ours in main."""
    return _of_pods(sock.dump_raw(messages.dump_routes(family)))


def _of_pods(bodies: Iterable[bytes]) -> tuple[Route, ...]:
    """Bytes are compared first: a parse costs 20 times as much."""
    return tuple(
        route
        for body in bodies
        if (_POD_TABLE_ATTRIBUTE in body or may_be_pods_in_main(body))
        and (route := answers.route_of(body)) is not None
        and is_pod_route(route)
    )


def may_be_pods_in_main(body: bytes) -> bool:
    """Whether a dumped route has the looks of a pod's in main; costs no parse."""
    return (
        body[_PROTOCOL_AT] == names.PROTOCOL
        and answers.matched_length(body) in _HOST_LENGTHS
        and _MAIN_TABLE_ATTRIBUTE in body
    )


def host_routes(bodies: Iterable[bytes]) -> tuple[Route, ...]:
    """Of dumped routes those of main to a single address: where other agents have their pods."""
    return tuple(
        route
        for body in bodies
        if _MAIN_TABLE_ATTRIBUTE in body
        and answers.matched_length(body) in _HOST_LENGTHS
        and (route := answers.route_of(body)) is not None
        and route.is_to_one_address
        and route.protocol not in _NODES_OWN_PROTOCOLS
    )


def rules_naming(sock: NetlinkSocket, address: Address) -> tuple[Rule, ...]:
    """The rules whose source or destination is exactly this address, whoever made them."""
    return rules_among(sock.dump_raw(messages.dump_rules(FAMILIES[address.version])), address)


def rules_among(bodies: Iterable[bytes], address: Address) -> tuple[Rule, ...]:
    """Of dumped rules those whose source or destination is exactly this address."""
    packed = address.packed
    return tuple(
        rule
        for body in bodies
        if packed in body
        and (rule := answers.rule_of(body)) is not None
        and host_network(address) in {rule.source, rule.destination}
    )


def links_of(
    sock: NetlinkSocket, container_id: str, ifname: str, candidates: Sequence[str]
) -> tuple[Link, ...]:
    """The host veths of an attachment: by their possible names, else by a look at every link.

    The long look serves a DEL that does not know the pod's name or has another prefix than the ADD
    had, and runs for every DEL that finds nothing. It reads each alias's bytes before it parses.
    """
    named = (link for link in find_links(sock, candidates) if link is not None)
    found = tuple(link for link in named if is_of(link, container_id, ifname))
    if found:
        return found
    bodies = sock.dump_raw(messages.dump_links())
    links = (answers.link_of(body) for body in bodies if _ALIAS_BYTES in body)
    return tuple(link for link in links if is_of(link, container_id, ifname))


def describe_route(sock: NetlinkSocket, body: bytes) -> str:
    """Words for what holds an address, from the answer to `messages.match_route`."""
    route = answers.route_of(body)
    if route is None:
        return "an address or a route of the node itself"
    link = find_link_by_index(sock, route.ifindex)
    name = link.ifname if link else f"link {route.ifindex}"
    return f"a route to {name} in table {route.table}"


def _observed(link: Link | None, address: Address | None) -> ObservedPod:
    if link is None:
        return ObservedPod(address=address)
    identity = link.identity
    if identity is None:
        return ObservedPod(
            address=address,
            link_name=link.ifname,
            ifindex=link.ifindex,
            is_ours=_is_host_veth(link),
        )
    return ObservedPod(
        address=address,
        link_name=link.ifname,
        ifindex=link.ifindex,
        container_id=identity.container_id,
        ifname=identity.ifname,
        netns_cookie=identity.netns_cookie,
        network_name=identity.network_name,
        pod_namespace=identity.pod_namespace,
        pod_name=identity.pod_name,
        is_ours=True,
    )


def _is_on_branch(link: Link) -> bool:
    return link.identity is not None and names.vlan_of_group(link.group) != 0


def is_foreign_veth(link: Link) -> bool:
    """A veth that is not of our making."""
    return link.kind == "veth" and not _is_host_veth(link)


def _is_host_veth(link: Link) -> bool:
    """A link of ours: by its alias, or made by us and left before it got one."""
    return link.identity is not None or (not link.alias and names.is_our_group(link.group))


def _sorted(addresses: Iterable[Address]) -> list[Address]:
    return sorted(addresses, key=lambda address: (address.version, int(address)))
