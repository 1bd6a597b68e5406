"""What a wired pod consists of: the values, and the messages that build it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv6Address
from itertools import chain

from cni_shim.datapath import messages, names
from cni_shim.datapath.answers import Link
from cni_shim.datapath.branch import Branch, BranchLink, pod_route
from cni_shim.datapath.families import ANYWHERE, Address, host_network, host_on_link
from cni_shim.datapath.identity import Identity
from cni_shim.datapath.messages import Request, Route, VethPair
from cni_shim.datapath.routing import RoutingRules, host_route

_GATEWAY_NETWORK = host_network(names.POD_GATEWAYS[4])


@dataclass(frozen=True, slots=True, kw_only=True)
class PodWiring:
    """What to wire: the attachment, its addresses and its ENI's mark (0 for the primary ENI).

    At most one address of each family, IPv4 first; the first one makes the pod's MAC.
    """

    container_id: str
    ifname: str
    network_name: str
    pod_namespace: str
    pod_name: str
    addresses: tuple[Address, ...]
    mark: int
    mtu: int
    veth_prefix: str
    branch: BranchLink | None = None  # the pod's own ENI, where it has one; then the mark is 0
    egress_version: int = 0  # of the node-local address that `pods` adds to these; 0 for none

    def __post_init__(self) -> None:
        if tuple(address.version for address in self.addresses) not in {(4,), (6,), (4, 6)}:
            raise ValueError(f"{self.addresses}: want at most one of each family, IPv4 first")

    @property
    def has_v6(self) -> bool:
        """Whether the pod gets an IPv6 address."""
        return self.addresses[-1].version == 6

    @property
    def group(self) -> int:
        """The interface group of the host veth."""
        return self.branch.branch.group if self.branch else names.link_group(self.mark)

    def identity(self, netns_cookie: int) -> Identity:
        """What the host veth's alias says, for a pod in the namespace with this cookie."""
        return Identity(
            container_id=self.container_id,
            ifname=self.ifname,
            network_name=self.network_name,
            netns_cookie=netns_cookie,
            pod_namespace=self.pod_namespace,
            pod_name=self.pod_name,
        )

    def host_ifnames(self) -> tuple[str, ...]:
        """The names the host veth may have, the preferred one first."""
        return host_ifnames(
            self.veth_prefix, self.container_id, self.ifname, self.pod_namespace, self.pod_name
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PairWish:
    """What a pair can be made by before its address is known."""

    container_id: str
    ifname: str
    host_ifname: str
    mtu: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Wired:
    """What stands in the kernel for an attachment. MACs are in colon form."""

    host_ifname: str
    host_ifindex: int
    host_mac: str
    pod_mac: str
    netns_cookie: int
    own_table_versions: tuple[int, ...] = ()  # families whose default route is another link's


def host_ifnames(
    prefix: str, container_id: str, ifname: str, pod_namespace: str, pod_name: str
) -> tuple[str, ...]:
    """The preferred and the fallback name, once each."""
    preferred = names.host_ifname(
        prefix,
        container_id=container_id,
        ifname=ifname,
        pod_namespace=pod_namespace,
        pod_name=pod_name,
    )
    fallback = names.fallback_ifname(prefix, container_id=container_id, ifname=ifname)
    return (preferred,) if preferred == fallback else (preferred, fallback)


def is_of(link: Link, container_id: str, ifname: str) -> bool:
    """Whether a link is the host veth of this attachment.

    The alias says so; on a link that was created but not yet given its alias, the group and the
    MAC do, both of which stand in the create message.
    """
    identity = link.identity
    if identity is not None:
        return identity.is_of(container_id, ifname)
    expected_mac = names.mac_text(names.host_mac(container_id, ifname))
    return not link.alias and names.is_our_group(link.group) and link.mac == expected_mac


def veth_pair(
    wiring: PodWiring, *, host_ifname: str, indexes: tuple[int, int], netns_fd: int
) -> VethPair:
    """The pair to create, under one of its names and with (host, pod) ifindexes."""
    return VethPair(
        host_ifname=host_ifname,
        host_ifindex=indexes[0],
        host_mac=names.host_mac(wiring.container_id, wiring.ifname),
        group=wiring.group,
        mtu=wiring.mtu,
        pod_ifname=wiring.ifname,
        pod_ifindex=indexes[1],
        pod_mac=names.pod_mac(wiring.addresses[0]),
        netns_fd=netns_fd,
    )


def pod_routes(version: int, ifindex: int, table: int = names.MAIN_TABLE) -> tuple[Route, ...]:
    """The pod's routes of a family: everything by its gateway, which for IPv4 needs a route itself
    (IPv6 takes a link-local gateway without)."""
    gateway = names.POD_GATEWAYS[version]
    default = Route(table=table, destination=ANYWHERE[version], gateway=gateway, ifindex=ifindex)
    if version == 6:
        return (default,)
    to_gateway = Route(table=table, destination=_GATEWAY_NETWORK, gateway=None, ifindex=ifindex)
    return to_gateway, default


_ADD_POD_ROUTES = {
    version: messages.add_routes_prepared(pod_routes(version, 0)) for version in names.POD_GATEWAYS
}


def host_requests(
    pair: VethPair,
    alias: str,
    addresses: tuple[Address, ...],
    *,
    has_ipv6: bool,
    mode: RoutingRules = RoutingRules.GROUPED,
    branch: Branch | None = None,
) -> tuple[Request, ...]:
    """The batch on the host, after the pair was created. The rules of `per-pod` come after it."""
    index = pair.host_ifindex
    return (
        messages.dress_host_veth(
            index, alias, has_ipv6=has_ipv6, group=pair.group if pair.is_early else None
        ),
        # Before the routes: a packet that came for the pod in between would have it asked for, and
        # with no pod end to answer the kernel asks again a second later. Entries that are learned
        # count against a limit of all namespaces together (net.ipv4.neigh.default.gc_thresh3, 1024
        # by default), past which new pods get no packets; permanent ones do not. And for IPv6 this
        # end has no link-local address to ask from.
        *(messages.add_neighbour(index, address, pair.pod_mac) for address in addresses),
        *(
            messages.add_route(
                pod_route(address, branch, index, mode)
                if branch
                else host_route(address, index, mode)
            )
            for address in addresses
        ),
    )


def pod_requests(pair: VethPair, addresses: tuple[Address, ...]) -> tuple[Request, ...]:
    """The batch in the pod."""
    parts = (_family_requests(pair, address) for address in addresses)
    return (
        messages.set_link(messages.LOOPBACK_IFINDEX),
        *((messages.set_mac(pair.pod_ifindex, pair.pod_mac),) if pair.is_early else ()),
        *chain.from_iterable(parts),
    )


def _family_requests(pair: VethPair, address: Address) -> tuple[Request, ...]:
    """The address, the link up (harmless when repeated), the routes and the neighbour."""
    index = pair.pod_ifindex
    gateway = names.POD_GATEWAYS[address.version]
    local = (messages.add_local_route(index, address),) if isinstance(address, IPv6Address) else ()
    return (
        messages.add_address(index, host_on_link(address)),
        messages.set_link(index),
        *local,
        *_ADD_POD_ROUTES[address.version](index),
        messages.add_neighbour(index, gateway, pair.host_mac),
    )
