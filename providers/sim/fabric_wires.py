"""The fabric's wires, routes and router: what is asked of the kernel, in the router's namespace.

Called by `fabric`, which keeps the state and says when.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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

from providers.sim import netns
from providers.sim.lab_netlink import LOOPBACK_INDEX, Netlink, Network
from providers.sim.model import WiredEni

METADATA_ADDRESS = IPv4Address("169.254.169.254")
METADATA_ADDRESS_V6 = IPv6Address("fd00:ec2::254")  # EC2 user guide, instance metadata over IPv6
ROUTER_V6 = IPv6Address("fe80:ec2::1")  # amazon-vpc-cni-k8s's IPv6 gateway of every ENI
MTU = 9001  # EC2 user guide, "Network MTU": jumbo frames inside a VPC
# Stand for "the other end of this veth" on every one of them.
_NEXT_HOPS: Mapping[int, IPv4Address | IPv6Address] = {
    4: IPv4Address("169.254.0.1"),
    6: IPv6Address("fe80:ec2::2"),
}
_OUTSIDE = "outside"  # the router's end of the wire that leads out of the VPC
_OUTSIDE_MAC = "02:00:00:00:ff:ff"
# Addresses of the router's own, which it answers for on every wire.
_OUTSIDE_GATEWAYS: Mapping[int, IPv4Address | IPv6Address] = {4: METADATA_ADDRESS, 6: ROUTER_V6}
_NO_LINK_LOCAL = 1  # linux/if_link.h, IN6_ADDR_GEN_MODE_NONE: fe80:ec2::1 is the only one
_GROUP = 1  # of all wires, for destroy(); any number but 0, the default group

Proxy = tuple[str, IPv6Address]  # the router's end of a wire, and an address answered for there


def targets(eni: WiredEni) -> frozenset[Network]:
    """All that the ENI may use, and that is delivered to it."""
    return frozenset(
        (
            *(IPv4Network(address) for address in eni.addresses),
            *(IPv6Network(address) for address in eni.addresses_v6),
            *eni.prefixes,
        )
    )


def set_up_router() -> None:
    """The namespace that the thread is in becomes the router, with no way out."""
    netns.set_sysctl("ipv4/ip_forward", 1)
    # A VPC's router never tells a host of a better way, nor checks anything by its own routes.
    for scope in ("all", "default"):
        netns.set_sysctl(f"ipv4/conf/{scope}/send_redirects", 0)
        netns.set_sysctl(f"ipv4/conf/{scope}/rp_filter", 0)
    with Netlink() as netlink:
        netlink.set_up(LOOPBACK_INDEX)
        netlink.replace_address(LOOPBACK_INDEX, IPv4Interface(METADATA_ADDRESS))
        netlink.replace_blackhole(IPv4Network("0.0.0.0/0"))
        if netns.has_ipv6():
            _set_up_router_v6(netlink)


def _set_up_router_v6(netlink: Netlink) -> None:
    for scope in ("all", "default"):
        netns.set_sysctl(f"ipv6/conf/{scope}/disable_ipv6", 0)
        netns.set_sysctl(f"ipv6/conf/{scope}/forwarding", 1)
    netns.set_sysctl("ipv6/conf/default/accept_dad", 0)
    netlink.replace_address(LOOPBACK_INDEX, IPv6Interface(METADATA_ADDRESS_V6))
    netlink.replace_blackhole(IPv6Network("::/0"))


def make_wire(netlink: Netlink, eni: WiredEni, link: str, netns_path: str) -> None:
    """A veth to a node's namespace, down."""
    with netns.opened(netns_path) as node:
        index = netlink.create_veth(
            link, mtu=MTU, peer_name=f"eth{eni.device_index}", peer_mac=eni.mac, peer_netns=node
        )
    netlink.set_alias(index, eni.eni_id)
    netlink.set_group(index, _GROUP)


def make_outside(
    netlink: Netlink, netns_path: str, addresses: Sequence[IPv4Address | IPv6Address]
) -> None:
    """A veth to a namespace outside the VPC, up here, with routes to its addresses."""
    with netns.opened(netns_path) as outside:
        index = netlink.create_veth(
            _OUTSIDE, mtu=1500, peer_name="eth0", peer_mac=_OUTSIDE_MAC, peer_netns=outside
        )
    _bring_up_link(netlink, _OUTSIDE, _OUTSIDE_MAC)
    for address in addresses:
        _route(netlink, index, ip_network(address))


def set_up_outside(addresses: Sequence[IPv4Address | IPv6Address]) -> None:
    """The other end, in the namespace that the thread is in."""
    if netns.has_ipv6():
        netns.set_sysctl("ipv6/conf/eth0/accept_dad", 0)
    with Netlink() as netlink:
        index = _existing(netlink, "eth0")
        netlink.set_up(LOOPBACK_INDEX)
        netlink.set_up(index)
        for address in addresses:
            netlink.replace_address(index, ip_interface(address))
            gateway = _OUTSIDE_GATEWAYS[address.version]
            anywhere = ip_network("0.0.0.0/0" if address.version == 4 else "::/0")
            netlink.replace_route(anywhere, gateway=gateway, index=index, is_onlink=True)


def bring_up(netlink: Netlink, eni: WiredEni, link: str) -> None:
    """The router's end of a wire, with routes to all that is the ENI's."""
    index = _bring_up_link(netlink, link, eni.mac)
    for target in targets(eni):
        _route(netlink, index, target)


def _bring_up_link(netlink: Netlink, link: str, mac: str) -> int:
    netns.set_sysctl(f"ipv4/conf/{link}/proxy_arp", 1)
    # The default delays each proxied answer by up to 0.8 s; neigh/default is not in a child netns.
    netns.set_sysctl(f"ipv4/neigh/{link}/proxy_delay", 0)
    index = _existing(netlink, link)
    if netns.has_ipv6():
        netns.set_sysctl(f"ipv6/conf/{link}/addr_gen_mode", _NO_LINK_LOCAL)
        netns.set_sysctl(f"ipv6/conf/{link}/proxy_ndp", 1)
        netns.set_sysctl(f"ipv6/neigh/{link}/proxy_delay", 0)
    netlink.set_up(index)
    netlink.replace_neighbour(index, _NEXT_HOPS[4], mac)
    if netns.has_ipv6():
        netlink.replace_address(index, IPv6Interface((ROUTER_V6, 64)))
        netlink.replace_neighbour(index, _NEXT_HOPS[6], mac)
    return index


def change_routes(netlink: Netlink, link: str, old: WiredEni, new: WiredEni) -> None:
    """Other addresses of a plugged ENI."""
    index = _existing(netlink, link)
    before, after = targets(old), targets(new)
    for target in before - after:
        netlink.delete_route(target, index=index)
    for target in after - before:
        _route(netlink, index, target)


def _route(netlink: Netlink, index: int, target: Network) -> None:
    next_hop = _NEXT_HOPS[target.version]
    netlink.replace_route(target, gateway=next_hop, index=index, is_onlink=True)


def replace_proxies(netlink: Netlink, gone: frozenset[Proxy], new: frozenset[Proxy]) -> None:
    """Answer by ND for these, and no more for those."""
    links = {link for link, _ in gone | new}
    indexes = {link: index for link in links if (index := netlink.index(link)) is not None}
    for link, address in gone:
        if link in indexes:  # with its link an entry is gone already
            netlink.delete_proxy(indexes[link], address)
    for link, address in new:
        if link in indexes:
            netlink.add_proxy(indexes[link], address)


def silence(netlink: Netlink, link: str) -> None:
    """No frame more."""
    with _gone_is_fine():
        netlink.set_down(_existing(netlink, link))


def remove_wire(netlink: Netlink, link: str) -> None:
    """The wire and its routes go."""
    with _gone_is_fine():
        netlink.delete_link(_existing(netlink, link))


def remove_all_wires(netlink: Netlink) -> None:
    """All of them at once."""
    with _gone_is_fine():
        netlink.delete_group(_GROUP)


@contextmanager
def _gone_is_fine() -> Iterator[None]:
    """A node's namespace takes its end of the wire, and so ours, with it whenever it ends."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise


def _existing(netlink: Netlink, link: str) -> int:
    index = netlink.index(link)
    if index is None:
        raise OSError(errno.ENODEV, "the link is gone (was its node's namespace deleted?)", link)
    return index
