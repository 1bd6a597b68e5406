"""The few netlink requests that the fabric and the lab make, typed.

pyroute2 ships no types; everything untyped ends here. A `Netlink` talks to the namespace of the
thread that opened it and must be used in that thread only: call it inside `netns.call_in`.
Opening one costs 1 ms, so nobody keeps one.
"""

from __future__ import annotations

import socket
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_network,
)
from typing import Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

Address = IPv4Address | IPv6Address
AddressOnLink = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

NUD_PERMANENT, NTF_PROXY = 0x80, 0x08  # linux/neighbour.h
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
LOOPBACK_INDEX = 1  # always the first link of a namespace
PROTOCOL_STATIC = 4  # linux/rtnetlink.h, RTPROT_STATIC


class Netlink:
    """One route netlink socket in this thread's namespace, as a context manager.

    Every method raises `OSError` with the kernel's errno and its words.
    """

    def __init__(self) -> None:
        self._route: Any = IPRoute(ext_ack=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self._route.close()

    def index(self, name: str) -> int | None:
        """The ifindex of a link, or None where there is no such link."""
        found: list[int] = list(self._route.link_lookup(ifname=name))
        return found[0] if found else None

    def mac(self, index: int) -> str:
        """The link's own MAC address."""
        link = self._call("link", "get", index=index)[0]
        return str(link.get_attr("IFLA_ADDRESS"))

    def create_veth(
        self, name: str, *, mtu: int, peer_name: str, peer_mac: str, peer_netns: int
    ) -> int:
        """Make a pair, the peer at once in its own namespace (an open descriptor); our ifindex.

        EEXIST if either name is taken, here or there; nothing was made then.
        """
        peer = {
            "ifname": peer_name, "address": peer_mac, "mtu": mtu, "net_ns_fd": peer_netns,
        }  # fmt: skip
        self._call("link", "add", ifname=name, kind="veth", mtu=mtu, peer=peer)
        index = self.index(name)
        if index is None:
            raise OSError(f"link {name} vanished while it was made")
        return index

    def set_up(self, index: int) -> None:
        """Administratively up."""
        self._call("link", "set", index=index, state="up")

    def set_down(self, index: int) -> None:
        """Administratively down; its routes go with it."""
        self._call("link", "set", index=index, state="down")

    def set_mtu(self, index: int, mtu: int) -> None:
        """How long its packets may be."""
        self._call("link", "set", index=index, mtu=mtu)

    def set_alias(self, index: int, alias: str) -> None:
        """The text that `ip link` shows as alias, for people."""
        self._call("link", "set", index=index, IFLA_IFALIAS=alias)

    def delete_link(self, index: int) -> None:
        """Remove the link, and of a veth both ends."""
        self._call("link", "del", index=index)

    def set_group(self, index: int, group: int) -> None:
        """Put the link into a group, so that one request can name them all."""
        self._call("link", "set", index=index, group=group)

    def delete_group(self, group: int) -> None:
        """Remove every link of the group in one go: the kernel waits once (20-40 ms), not per link.

        ENODEV if the group is empty.
        """
        self._call("link", "del", index=0, group=group)

    def replace_address(self, index: int, address: AddressOnLink) -> None:
        """Give the link the address; no error if it has it."""
        self._call(
            "addr", "replace", index=index, address=str(address.ip),
            prefixlen=address.network.prefixlen, family=_FAMILIES[address.version],
        )  # fmt: skip

    def replace_neighbour(self, index: int, address: Address, mac: str) -> None:
        """A permanent neighbour entry: the kernel never asks for it by ARP or ND."""
        self._call(
            "neigh", "replace", dst=str(address), lladdr=mac, ifindex=index, state=NUD_PERMANENT
        )

    def add_proxy(self, index: int, address: IPv6Address) -> None:
        """Answer on this link when a neighbour is asked for by this address (with proxy_ndp on)."""
        self._call(
            "neigh", "replace", dst=str(address), ifindex=index, flags=NTF_PROXY,
            family=socket.AF_INET6,
        )  # fmt: skip

    def delete_proxy(self, index: int, address: IPv6Address) -> None:
        """ENOENT if there is none."""
        self._call(
            "neigh", "del", dst=str(address), ifindex=index, flags=NTF_PROXY,
            family=socket.AF_INET6,
        )  # fmt: skip

    def replace_route(
        self, target: Network, *, gateway: Address, index: int, is_onlink: bool = False
    ) -> None:
        """`is_onlink`: the gateway need not be reachable by another route (ip-route(8))."""
        flags = ["onlink"] if is_onlink else []
        self._call(
            "route", "replace", dst=str(target), gateway=str(gateway), oif=index, flags=flags,
            proto=PROTOCOL_STATIC, family=_FAMILIES[target.version],
        )  # fmt: skip

    def replace_blackhole(self, target: Network) -> None:
        """What goes there vanishes without an answer."""
        self._call(
            "route", "replace", dst=str(target), type="blackhole", proto=PROTOCOL_STATIC,
            family=_FAMILIES[target.version],
        )  # fmt: skip

    def delete_route(self, target: Network, *, index: int) -> None:
        """ESRCH if there is none."""
        self._call("route", "del", dst=str(target), oif=index, family=_FAMILIES[target.version])

    def routes(self, version: int = 4) -> tuple[tuple[Network, int | None], ...]:
        """(target, out ifindex) of every unicast or blackhole route of the main table."""
        rows = self._call("route", "dump", family=_FAMILIES[version], table=254)
        return tuple(
            (_target(row), row.get_attr("RTA_OIF")) for row in rows if row["type"] in (1, 6)
        )

    def _call(self, method: str, *arguments: Any, **fields: Any) -> list[Any]:
        try:
            return list(getattr(self._route, method)(*arguments, **fields))
        except NetlinkError as error:
            what = f"netlink {method} {' '.join(map(str, arguments))} {fields}"
            raise OSError(error.code, str(error.args[-1]), what) from error


def _target(row: Any) -> Network:
    anywhere = "::" if row["family"] == socket.AF_INET6 else "0.0.0.0"  # noqa: S104 - the default
    return ip_network((row.get_attr("RTA_DST") or anywhere, row["dst_len"]))
