"""What a wired pod consists of: the values, and the messages that build it. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cni_shim.datapath import messages, names
from cni_shim.datapath.answers import Link
from cni_shim.datapath.identity import Identity
from cni_shim.datapath.messages import Request, Route, VethPair

_ANYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True, kw_only=True)
class PodWiring:
    """What to wire: the attachment, its address and its ENI's mark (0 for the primary ENI)."""

    container_id: str
    ifname: str
    network_name: str
    pod_namespace: str
    pod_name: str
    address: IPv4Address
    mark: int
    mtu: int
    veth_prefix: str

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
class Wired:
    """What stands in the kernel for an attachment. MACs are in colon form."""

    host_ifname: str
    host_ifindex: int
    host_mac: str
    pod_mac: str
    netns_cookie: int


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
        group=names.link_group(wiring.mark),
        mtu=wiring.mtu,
        pod_ifname=wiring.ifname,
        pod_ifindex=indexes[1],
        pod_mac=names.pod_mac(wiring.address),
        netns_fd=netns_fd,
    )


def host_route(address: IPv4Address, ifindex: int) -> Route:
    """The pod's /32 in the pod table."""
    return Route(
        table=names.POD_TABLE, destination=IPv4Network(address), gateway=None, ifindex=ifindex
    )


def pod_routes(ifindex: int) -> tuple[Route, Route]:
    """The pod's routes: its gateway on the link, and everything by that gateway."""
    gateway = Route(
        table=names.MAIN_TABLE,
        destination=IPv4Network(names.POD_GATEWAY),
        gateway=None,
        ifindex=ifindex,
    )
    default = Route(
        table=names.MAIN_TABLE,
        destination=_ANYWHERE,
        gateway=names.POD_GATEWAY,
        ifindex=ifindex,
    )
    return gateway, default


def host_requests(
    ifindex: int, alias: str, address: IPv4Address, *, has_ipv6: bool
) -> tuple[Request, ...]:
    """The batch on the host, after the pair was created."""
    return (
        messages.dress_host_veth(ifindex, alias, has_ipv6=has_ipv6),
        messages.add_route(host_route(address, ifindex)),
    )


def pod_requests(pair: VethPair, address: IPv4Address) -> tuple[Request, ...]:
    """The batch in the pod."""
    index = pair.pod_ifindex
    gateway, default = pod_routes(index)
    return (
        messages.set_link(messages.LOOPBACK_IFINDEX),
        messages.add_address(index, IPv4Interface((address, 32))),
        messages.set_link(index),
        messages.add_route(gateway),
        messages.add_route(default),
        messages.add_neighbour(index, names.POD_GATEWAY, pair.host_mac),
    )
