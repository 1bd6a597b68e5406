"""The kernel fabric that plays the VPC: a namespace that is the router, a veth per attached ENI.

The router namespace owns each subnet's gateway (base + 1) and the well-known addresses of the
platform; the far end of an ENI's veth stands in its node's namespace with the ENI's MAC, named
eth<device index>, down, as a hot-plugged NIC would. There is no bridge: as in a VPC, delivery goes
by the mapping from address to ENI, not by what a frame claims. So the router never asks a node by
ARP (a node does not answer for pod addresses it only routes): every assigned address is a /32 route
via a permanent neighbour with the ENI's MAC, and what is not assigned falls into a blackhole. Nodes
may ask the router by ARP, and get its MAC for every address of the VPC (proxy_arp).

IPv6 is the same: an address is a /128 and a prefix a route via a permanent neighbour with the ENI's
MAC, so that the router never asks a node for a pod. On every wire the router is fe80:ec2::1, as on
every subnet of a VPC; it sends no router advertisements. Neighbours' own addresses are answered for
with its MAC (proxy_ndp, which knows single addresses only: not those inside a prefix).

Whatever comes off an ENI with another source than that ENI's own is dropped and counted; see
`fabric_rules`. TTL: a VPC does not touch it, a Linux router takes one off.

Called by the emulated EC2 on attach, detach and address changes, from any thread; one lock makes
the changes one after the other, because the state kept here has to match what the kernel holds.
Several Fabrics may exist side by side, each in its own namespace.
"""

from __future__ import annotations

import errno
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from typing import Any

from providers.sim import fabric_rules, netns
from providers.sim.fabric_rules import Port
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
_IFNAME_MAX = 15  # linux/if.h, IFNAMSIZ less the final NUL


Proxy = tuple[str, IPv6Address]  # the router's end of a wire, and an address answered for there


class Fabric:
    """One VPC's network, in a namespace called `name`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.netns_path = str(netns.NETNS_DIR / name)
        self._wired: dict[str, WiredEni] = {}
        self._eni_of_link: dict[str, str] = {}  # also of links that are gone: counters outlive them
        self._routers_v6: set[IPv6Address] = set()
        self._proxied: frozenset[Proxy] = frozenset()
        self._lock = threading.Lock()

    def create(self) -> None:
        """Make the namespace with its router, empty. FileExistsError if the name is taken."""
        netns.create(self.name)
        netns.call_in(self.netns_path, _set_up_router)
        self._nft(fabric_rules.BASE)

    def destroy(self) -> None:
        """Remove every link (they vanish from the nodes) and the namespace; idempotent."""
        if self.name not in netns.names():
            return
        with self._lock:
            if self._wired:
                self._netlink(_remove_all_wires)
            self._wired.clear()
            self._routers_v6.clear()
            self._proxied = frozenset()
            netns.delete(self.name)

    def add_subnet(self, cidr: IPv4Network, cidr_v6: IPv6Network | None = None) -> None:
        """Give the subnet its router: base + 1 answers from now on, of both families."""
        gateway = IPv4Interface(cidr.network_address + 1)
        self._netlink(lambda netlink: netlink.replace_address(LOOPBACK_INDEX, gateway))
        if cidr_v6 is not None:
            self._add_router_v6(cidr_v6.network_address + 1)

    def add_outside(self, netns_path: str, addresses: Sequence[IPv4Address | IPv6Address]) -> None:
        """Put a host outside the VPC behind the router: its namespace (a path or a name) gets eth0
        with these addresses and a default route of each family. Its sources are not checked.

        A VPC's Internet gateway would let private addresses through for public ones alone; this one
        lets all through, so that a host outside can say which source it saw.
        """
        path = _path(netns_path)
        with self._lock:
            self._netlink(lambda netlink: _make_outside(netlink, path, addresses))
            netns.call_in(path, lambda: _set_up_outside(addresses))

    def plug(self, eni: WiredEni, netns_path: str) -> None:
        """Make the ENI appear in the node's namespace (a path, or a name under /run/netns): down.

        FileExistsError if the node has a link of that name or the ENI is plugged already; whatever
        fails, nothing is left behind.
        """
        with self._lock:
            port = self._port(eni)
            if eni.eni_id in self._wired:
                raise FileExistsError(errno.EEXIST, "already plugged", eni.eni_id)
            path = _path(netns_path)
            self._netlink(lambda netlink: _make_wire(netlink, eni, port.link, path))
            self._wired[eni.eni_id] = eni
            self._eni_of_link[port.link] = eni.eni_id
            try:
                self._nft(fabric_rules.plugged(port))  # before the link is up: no unchecked frame
                self._netlink(lambda netlink: _bring_up(netlink, eni, port.link))
                self._renew_proxies()
            except BaseException:
                self._unplug(eni)
                raise

    def unplug(self, eni_id: str) -> None:
        """Remove the ENI's wire with its routes; an ENI that is not plugged is no error."""
        with self._lock:
            eni = self._wired.get(eni_id)
            if eni is not None:
                self._unplug(eni)

    def readdress(self, eni: WiredEni) -> None:
        """Take over the addresses and the source check of a plugged ENI; KeyError if it is not."""
        with self._lock:
            old = self._wired[eni.eni_id]
            link = _link_name(eni.eni_id)
            change = fabric_rules.changed(self._port(old), self._port(eni))
            if change:
                self._nft(change)
            self._netlink(lambda netlink: _change_routes(netlink, link, old, eni))
            self._wired[eni.eni_id] = eni
            self._renew_proxies()

    def dropped(self) -> list[dict[str, Any]]:
        """What came off an ENI with a source that is not its own, since the last reset.

        Dicts of `eni_id`, `kind` (which claim was wrong: "ip", "mac" or "arp"), `source` and
        `packets`; also of ENIs that are unplugged by now.
        """
        listing = netns.run_in(self.netns_path, ["nft", "-j", "list", "table", "netdev", "vpc"])
        return [
            {
                "eni_id": self._eni_of_link[drop.link],
                "kind": drop.kind,
                "source": drop.source,
                "packets": drop.packets,
            }
            for drop in fabric_rules.drops(listing)
        ]

    def reset_dropped(self) -> None:
        """Count from zero."""
        self._nft(fabric_rules.reset())

    def listening_socket(self, address: str, port: int) -> socket.socket:
        """A listening TCP socket inside the VPC, at an address that the router takes on for it."""
        self._netlink(
            lambda netlink: netlink.replace_address(LOOPBACK_INDEX, IPv4Interface(address))
        )
        return netns.call_in(self.netns_path, lambda: socket.create_server((address, port)))

    def _port(self, eni: WiredEni) -> Port:
        link = _link_name(eni.eni_id)
        if self._eni_of_link.get(link, eni.eni_id) != eni.eni_id:
            raise ValueError(f"{eni.eni_id} and {self._eni_of_link[link]} would share link {link}")
        return Port(
            link=link,
            mac=eni.mac,
            sources=_targets(eni),
            has_source_check=eni.has_source_check,
        )

    def _unplug(self, eni: WiredEni) -> None:
        port = self._port(eni)
        self._netlink(
            lambda netlink: _silence(netlink, port.link)
        )  # no frame between the two steps
        self._nft(fabric_rules.unplugged(port))
        self._netlink(lambda netlink: _remove_wire(netlink, port.link))
        del self._wired[eni.eni_id]
        self._renew_proxies()

    def _add_router_v6(self, address: IPv6Address) -> None:
        """On lo, and answered for on every wire: unlike IPv4, IPv6 answers for no other link's."""
        on_loopback = IPv6Interface(address)
        with self._lock:
            self._netlink(lambda netlink: netlink.replace_address(LOOPBACK_INDEX, on_loopback))
            self._routers_v6.add(address)
            self._renew_proxies()

    def _renew_proxies(self) -> None:
        old, new = self._proxied, _proxies(self._wired, self._routers_v6)
        if old != new:
            self._netlink(lambda netlink: _replace_proxies(netlink, old - new, new - old))
            self._proxied = new

    def _netlink(self, body: Callable[[Netlink], None]) -> None:
        def work() -> None:
            with Netlink() as netlink:
                body(netlink)

        netns.call_in(self.netns_path, work)

    def _nft(self, commands: str) -> None:
        netns.run_in(self.netns_path, ["nft", "-f", "-"], stdin=commands)


def _path(netns_path: str) -> str:
    return netns_path if "/" in netns_path else str(netns.NETNS_DIR / netns_path)


def _targets(eni: WiredEni) -> frozenset[Network]:
    """All that the ENI may use, and that is delivered to it."""
    return frozenset(
        (
            *(IPv4Network(address) for address in eni.addresses),
            *(IPv6Network(address) for address in eni.addresses_v6),
            *eni.prefixes,
        )
    )


def _proxies(wired: Mapping[str, WiredEni], routers: set[IPv6Address]) -> frozenset[Proxy]:
    """What is answered for on each wire: the routers, and every ENI's addresses but its own.

    Its own would make the node take its address for a duplicate.
    """
    return frozenset(
        (_link_name(eni_id), address)
        for eni_id in wired
        for address in (
            *routers,
            *(a for other, eni in wired.items() if other != eni_id for a in eni.addresses_v6),
        )
    )


def _link_name(eni_id: str) -> str:
    """The router's end of an ENI's wire: "eni-0123456789abcdef0" -> "e-456789abcdef0"."""
    return "e-" + eni_id.removeprefix("eni-")[-(_IFNAME_MAX - 2) :]


def _set_up_router() -> None:
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


def _make_wire(netlink: Netlink, eni: WiredEni, link: str, netns_path: str) -> None:
    with netns.opened(netns_path) as node:
        index = netlink.create_veth(
            link, mtu=MTU, peer_name=f"eth{eni.device_index}", peer_mac=eni.mac, peer_netns=node
        )
    netlink.set_alias(index, eni.eni_id)
    netlink.set_group(index, _GROUP)


def _make_outside(
    netlink: Netlink, netns_path: str, addresses: Sequence[IPv4Address | IPv6Address]
) -> None:
    with netns.opened(netns_path) as outside:
        index = netlink.create_veth(
            _OUTSIDE, mtu=1500, peer_name="eth0", peer_mac=_OUTSIDE_MAC, peer_netns=outside
        )
    _bring_up_link(netlink, _OUTSIDE, _OUTSIDE_MAC)
    for address in addresses:
        _route(netlink, index, ip_network(address))


def _set_up_outside(addresses: Sequence[IPv4Address | IPv6Address]) -> None:
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


def _bring_up(netlink: Netlink, eni: WiredEni, link: str) -> None:
    index = _bring_up_link(netlink, link, eni.mac)
    for target in _targets(eni):
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


def _change_routes(netlink: Netlink, link: str, old: WiredEni, new: WiredEni) -> None:
    index = _existing(netlink, link)
    before, after = _targets(old), _targets(new)
    for target in before - after:
        netlink.delete_route(target, index=index)
    for target in after - before:
        _route(netlink, index, target)


def _route(netlink: Netlink, index: int, target: Network) -> None:
    next_hop = _NEXT_HOPS[target.version]
    netlink.replace_route(target, gateway=next_hop, index=index, is_onlink=True)


def _replace_proxies(netlink: Netlink, gone: frozenset[Proxy], new: frozenset[Proxy]) -> None:
    links = {link for link, _ in gone | new}
    indexes = {link: index for link in links if (index := netlink.index(link)) is not None}
    for link, address in gone:
        if link in indexes:  # with its link an entry is gone already
            netlink.delete_proxy(indexes[link], address)
    for link, address in new:
        if link in indexes:
            netlink.add_proxy(indexes[link], address)


def _silence(netlink: Netlink, link: str) -> None:
    with _gone_is_fine():
        netlink.set_down(_existing(netlink, link))


def _remove_wire(netlink: Netlink, link: str) -> None:
    with _gone_is_fine():
        netlink.delete_link(_existing(netlink, link))


def _remove_all_wires(netlink: Netlink) -> None:
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
