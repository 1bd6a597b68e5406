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
import hashlib
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import Any

from providers.sim import fabric_rules, fabric_wires, netns
from providers.sim.fabric_rules import Port
from providers.sim.fabric_wires import Proxy
from providers.sim.lab_netlink import LOOPBACK_INDEX, Netlink
from providers.sim.model import WiredEni

_IFNAME_MAX = 15  # linux/if.h, IFNAMSIZ less the final NUL


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
        netns.call_in(self.netns_path, fabric_wires.set_up_router)
        self._nft(fabric_rules.BASE)

    def destroy(self) -> None:
        """Remove every link (they vanish from the nodes) and the namespace; idempotent."""
        if self.name not in netns.names():
            return
        with self._lock:
            if self._wired:
                self._netlink(fabric_wires.remove_all_wires)
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
            self._netlink(lambda netlink: fabric_wires.make_outside(netlink, path, addresses))
            netns.call_in(path, lambda: fabric_wires.set_up_outside(addresses))

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
            self._netlink(lambda netlink: fabric_wires.make_wire(netlink, eni, port.link, path))
            self._wired[eni.eni_id] = eni
            self._eni_of_link[port.link] = eni.eni_id
            try:
                self._nft(fabric_rules.plugged(port))  # before the link is up: no unchecked frame
                self._netlink(lambda netlink: fabric_wires.bring_up(netlink, eni, port.link))
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
            self._netlink(lambda netlink: fabric_wires.change_routes(netlink, link, old, eni))
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
            sources=fabric_wires.targets(eni),
            has_source_check=eni.has_source_check,
        )

    def _unplug(self, eni: WiredEni) -> None:
        port = self._port(eni)
        self._netlink(
            lambda netlink: fabric_wires.silence(netlink, port.link)
        )  # no frame between the two steps
        self._nft(fabric_rules.unplugged(port))
        self._netlink(lambda netlink: fabric_wires.remove_wire(netlink, port.link))
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
            self._netlink(
                lambda netlink: fabric_wires.replace_proxies(netlink, old - new, new - old)
            )
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
    """The router's end of an ENI's wire: "eni-0123456789abcdef0" -> "e-456789abcdef0".

    Of an id that is a path, as Azure's are, a digest: it is longer than a link's name, and may end
    as another's does.
    """
    if "/" in eni_id:
        return "e-" + hashlib.sha256(eni_id.encode()).hexdigest()[: _IFNAME_MAX - 2]
    return "e-" + eni_id.removeprefix("eni-")[-(_IFNAME_MAX - 2) :]
