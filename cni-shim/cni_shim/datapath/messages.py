"""rtnetlink requests as bytes, built by struct alone. Pure.

pyroute2 spends about 3 ms of Python per pod on the same encoding; this takes about 0.1 ms. Layouts
are those of linux/rtnetlink.h, if_link.h, if_addr.h, neighbour.h and fib_rules.h. The tests decode
every message with pyroute2, so that a second implementation judges these bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

from cni_shim.datapath import names
from cni_shim.datapath.families import (
    AF_INET,
    AF_INET6,
    AF_UNSPEC,
    FAMILIES,
    Address,
    AddressOnLink,
    Network,
)

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_GETNEIGH = 28, 30
RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 32, 33, 34

NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE = 0x100, 0x200, 0x400

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_LINK, IFLA_MASTER = 1, 3, 4, 5, 10
IFLA_LINKINFO, IFLA_IFALIAS, IFLA_AF_SPEC, IFLA_GROUP = 18, 20, 26, 27
IFLA_NET_NS_FD, IFLA_EXT_MASK, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES = 28, 29, 31, 32
IFLA_INFO_KIND, IFLA_INFO_DATA, VETH_INFO_PEER = 1, 2, 1
IFLA_VLAN_ID = 1
IFLA_INET6_ADDR_GEN_MODE, IN6_ADDR_GEN_MODE_NONE = 8, 1
RTEXT_FILTER_SKIP_STATS = 8
IFF_UP, IFF_SLAVE = 1, 0x800

IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS, IFA_PROTO = 1, 2, 8, 11
IFA_F_NODAD, IFA_F_TENTATIVE, IFA_F_NOPREFIXROUTE = 0x02, 0x40, 0x200

RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_TABLE = 1, 4, 5, 15
RTN_UNICAST, RTN_LOCAL = 1, 2
RT_TABLE_COMPAT, RT_TABLE_LOCAL = 252, 255
RT_SCOPE_UNIVERSE, RT_SCOPE_LINK = 0, 253
RTM_F_FIB_MATCH = 0x2000

NDA_DST, NDA_LLADDR = 1, 2
NUD_PERMANENT = 0x80

FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK = 1, 2, 3, 6, 10
FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL, FRA_IP_PROTO = 15, 16, 21, 22
FR_ACT_TO_TBL = 1

LOOPBACK_IFINDEX = 1  # the kernel registers lo first in every network namespace

HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
IFINFO = struct.Struct("=BxHiII")  # family, device type, index, flags, change mask
IFADDR = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
RTMSG = struct.Struct(
    "=BBBBBBBBI"
)  # family, dst/src length, tos, table, protocol, scope, type, flags
NDMSG = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
RULE = struct.Struct("=BBBBBxxBI")  # family, dst/src length, tos, table, action, flags
_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
_PADDING = (b"", b"\0\0\0", b"\0\0", b"\0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One netlink message without its header's length and sequence. `op` names it in errors."""

    op: str
    kind: int
    flags: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A unicast route through one link. Without a gateway its scope is link (IPv6 has none)."""

    table: int
    destination: Network
    gateway: Address | None
    ifindex: int
    protocol: int = names.PROTOCOL

    @property
    def is_to_one_address(self) -> bool:
        """Whether it leads to a single address on its link: a /32 or /128 without a gateway."""
        is_single = self.destination.prefixlen == self.destination.max_prefixlen
        return is_single and self.gateway is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A rule that looks up a table. mask 0: the mark is not looked at; "" and 0: nor are the link
    that it came by, and the protocol above IP."""

    priority: int
    table: int
    mark: int = 0
    mask: int = 0
    source: Network | None = None
    destination: Network | None = None
    protocol: int = names.PROTOCOL
    family: int = AF_INET
    iif: str = ""
    ip_protocol: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class VethPair:
    """A pair to create: the host end here, the pod end in the namespace behind `netns_fd`."""

    host_ifname: str
    host_ifindex: int
    host_mac: bytes
    group: int
    mtu: int
    pod_ifname: str
    pod_ifindex: int
    pod_mac: bytes
    netns_fd: int
    is_early: bool = False  # made before its group and pod MAC were known: they are yet to be set
    has_v6_off: bool = False  # the host end knows no IPv6 any more


def attribute(kind: int, payload: bytes) -> bytes:
    """One netlink attribute, padded to four bytes."""
    size = len(payload) + 4
    return _ATTRIBUTE.pack(size, kind) + payload + _PADDING[size & 3]


def u32(kind: int, value: int) -> bytes:
    """An attribute that holds a 32-bit number."""
    return _ATTRIBUTE.pack(8, kind) + _U32.pack(value)


def text(kind: int, value: str) -> bytes:
    """An attribute that holds a zero-terminated string."""
    return attribute(kind, value.encode() + b"\0")


def serialise(request: Request, sequence: int, *, ack: bool) -> bytes:
    """The message as sent; NLM_F_REQUEST is added, NLM_F_ACK on demand."""
    flags = request.flags | NLM_F_REQUEST | (NLM_F_ACK if ack else 0)
    size = HEADER.size + len(request.body)
    return HEADER.pack(size, request.kind, flags, sequence, 0) + request.body


# One queue each way: a veth needs more only for XDP, and each costs sysfs entries at creation
# (about a tenth of an ADD on two CPUs; the kernel's default is one queue per CPU).
_ONE_QUEUE = u32(IFLA_NUM_TX_QUEUES, 1) + u32(IFLA_NUM_RX_QUEUES, 1)


def create_veth(pair: VethPair) -> Request:
    """Create both ends, each in its namespace with its final name, MAC, MTU and ifindex.

    A pair moved into the pod afterwards would cost 20 ms, as the move waits for an RCU barrier.
    """
    peer = (
        IFINFO.pack(0, 0, pair.pod_ifindex, 0, 0)
        + text(IFLA_IFNAME, pair.pod_ifname)
        + attribute(IFLA_ADDRESS, pair.pod_mac)
        + u32(IFLA_MTU, pair.mtu)
        + u32(IFLA_NET_NS_FD, pair.netns_fd)
        + _ONE_QUEUE
    )
    info = text(IFLA_INFO_KIND, "veth") + attribute(IFLA_INFO_DATA, attribute(VETH_INFO_PEER, peer))
    body = (
        IFINFO.pack(0, 0, pair.host_ifindex, 0, 0)
        + text(IFLA_IFNAME, pair.host_ifname)
        + attribute(IFLA_ADDRESS, pair.host_mac)
        + u32(IFLA_MTU, pair.mtu)
        + u32(IFLA_GROUP, pair.group)
        + _ONE_QUEUE
        + attribute(IFLA_LINKINFO, info)
    )
    op = f"create veth {pair.host_ifname}"
    return Request(op=op, kind=RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body)


def create_vlan(
    ifname: str, *, parent_ifindex: int, vlan_id: int, mac: str, mtu: int, group: int
) -> Request:
    """Create an 802.1Q link with a MAC of its own."""
    data = attribute(IFLA_VLAN_ID, struct.pack("=H", vlan_id))
    body = (
        IFINFO.pack(0, 0, 0, 0, 0)
        + text(IFLA_IFNAME, ifname)
        + attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        + u32(IFLA_MTU, mtu)
        + u32(IFLA_LINK, parent_ifindex)
        + u32(IFLA_GROUP, group)
        + attribute(IFLA_LINKINFO, text(IFLA_INFO_KIND, "vlan") + attribute(IFLA_INFO_DATA, data))
    )
    op = f"create VLAN link {ifname}"
    return Request(op=op, kind=RTM_NEWLINK, flags=NLM_F_CREATE | NLM_F_EXCL, body=body)


def name_link(ifindex: int, alias: str, group: int) -> Request:
    """Give a link its alias and group, and bring it up."""
    body = IFINFO.pack(0, 0, ifindex, IFF_UP, IFF_UP) + text(IFLA_IFALIAS, alias)
    body += u32(IFLA_GROUP, group)
    return Request(op=f"name link {ifindex}", kind=RTM_SETLINK, flags=0, body=body)


# Address generation off: a host veth needs no IPv6 link-local address (where the pod has IPv6, each
# end has the other as a permanent neighbour), and each one would add three routes to a table that
# the kernel walks on every link change.
_NO_IPV6_ADDRESS = attribute(
    IFLA_AF_SPEC,
    attribute(AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))),
)


def dress_host_veth(
    ifindex: int, alias: str, *, has_ipv6: bool, group: int | None = None
) -> Request:
    """Alias, no IPv6 address, and up, in one message, with a group where one is given.

    `has_ipv6`: the kernel knows the family.
    """
    body = IFINFO.pack(0, 0, ifindex, IFF_UP, IFF_UP) + text(IFLA_IFALIAS, alias)
    if group is not None:
        body += u32(IFLA_GROUP, group)
    if has_ipv6:
        body += _NO_IPV6_ADDRESS
    return Request(op="set host veth alias and up", kind=RTM_SETLINK, flags=0, body=body)


def set_link(ifindex: int, *, mtu: int | None = None) -> Request:
    """Bring a link up, with an MTU where one is given."""
    body = IFINFO.pack(0, 0, ifindex, IFF_UP, IFF_UP)
    if mtu is not None:
        body += u32(IFLA_MTU, mtu)
    return Request(op=f"set link {ifindex} up", kind=RTM_SETLINK, flags=0, body=body)


def set_mac(ifindex: int, mac: bytes) -> Request:
    """Give a link its MAC. The kernel forgets the link's neighbours with the old one."""
    body = IFINFO.pack(0, 0, ifindex, 0, 0) + attribute(IFLA_ADDRESS, mac)
    return Request(op=f"set MAC of link {ifindex}", kind=RTM_SETLINK, flags=0, body=body)


def delete_link(ifindex: int) -> Request:
    """Delete by index: a name could by now be another link's."""
    body = IFINFO.pack(0, 0, ifindex, 0, 0)
    return Request(op=f"delete link {ifindex}", kind=RTM_DELLINK, flags=0, body=body)


_SKIP_STATS = u32(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)


def get_link(ifname: str) -> Request:
    """Ask for one link by name."""
    body = IFINFO.pack(0, 0, 0, 0, 0) + text(IFLA_IFNAME, ifname) + _SKIP_STATS
    return Request(op=f"get link {ifname}", kind=RTM_GETLINK, flags=0, body=body)


def get_link_by_index(ifindex: int) -> Request:
    """Ask for one link by index."""
    body = IFINFO.pack(0, 0, ifindex, 0, 0) + _SKIP_STATS
    return Request(op=f"get link {ifindex}", kind=RTM_GETLINK, flags=0, body=body)


def dump_links() -> Request:
    """Ask for every link, without the statistics (two thirds of each answer)."""
    body = IFINFO.pack(0, 0, 0, 0, 0) + _SKIP_STATS
    return Request(op="list links", kind=RTM_GETLINK, flags=NLM_F_DUMP, body=body)


def _address_body(ifindex: int, address: AddressOnLink) -> bytes:
    packed, family = address.ip.packed, FAMILIES[address.version]
    return (
        IFADDR.pack(family, address.network.prefixlen, 0, RT_SCOPE_UNIVERSE, ifindex)
        + attribute(IFA_LOCAL, packed)
        + attribute(IFA_ADDRESS, packed)
    )


# An IPv6 address would not be usable for a second or two, while the kernel looks for a duplicate
# that the cloud has ruled out.
_ADDRESS_FLAGS = {4: IFA_F_NOPREFIXROUTE, 6: IFA_F_NOPREFIXROUTE | IFA_F_NODAD}


def add_address(ifindex: int, address: AddressOnLink) -> Request:
    """Add an address that brings no connected route with it, marked as ours (kernel >= 5.18)."""
    body = (
        _address_body(ifindex, address)
        + u32(IFA_FLAGS, _ADDRESS_FLAGS[address.version])
        + attribute(IFA_PROTO, bytes([names.PROTOCOL]))
    )
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request(op=f"add address {address}", kind=RTM_NEWADDR, flags=flags, body=body)


def delete_address(ifindex: int, address: AddressOnLink) -> Request:
    """Remove one address from a link."""
    body = _address_body(ifindex, address)
    return Request(op=f"delete address {address}", kind=RTM_DELADDR, flags=0, body=body)


def dump_addresses(family: int = AF_UNSPEC) -> Request:
    """Ask for every address."""
    body = IFADDR.pack(family, 0, 0, 0, 0)
    return Request(op="list addresses", kind=RTM_GETADDR, flags=NLM_F_DUMP, body=body)


_OIF_BYTES = len(u32(RTA_OIF, 0))


def _route_body(route: Route, kind: int = RTN_UNICAST) -> bytes:
    scope = RT_SCOPE_LINK if route.gateway is None else RT_SCOPE_UNIVERSE
    table = route.table if route.table < 256 else RT_TABLE_COMPAT
    length, family = route.destination.prefixlen, FAMILIES[route.destination.version]
    body = RTMSG.pack(family, length, 0, 0, table, route.protocol, scope, kind, 0) + u32(
        RTA_TABLE, route.table
    )
    if length:
        body += attribute(RTA_DST, route.destination.network_address.packed)
    if route.gateway is not None:
        body += attribute(RTA_GATEWAY, route.gateway.packed)
    return body + u32(RTA_OIF, route.ifindex)  # last, for `add_routes_prepared`


def add_route(route: Route, *, replaces: bool = False) -> Request:
    """Add a route; EEXIST where the table has one to the same destination, unless `replaces`."""
    flags = NLM_F_CREATE | (NLM_F_REPLACE if replaces else NLM_F_EXCL)
    op = f"add route {route.destination} table {route.table}"
    return Request(op=op, kind=RTM_NEWROUTE, flags=flags, body=_route_body(route))


def add_routes_prepared(routes: Iterable[Route]) -> Callable[[int], tuple[Request, ...]]:
    """`add_route` of each, to be called with the ifindex alone; that of the routes does not count.
    For routes that are the same in every pod: to build one takes 8 us."""
    made = [add_route(route) for route in routes]
    heads = [(request.op, request.flags, request.body[:-_OIF_BYTES]) for request in made]

    def through(ifindex: int) -> tuple[Request, ...]:
        link = u32(RTA_OIF, ifindex)
        return tuple(
            Request(op=op, kind=RTM_NEWROUTE, flags=flags, body=head + link)
            for op, flags, head in heads
        )

    return through


def add_local_route(ifindex: int, address: IPv6Address) -> Request:
    """What comes for the address is for this host.

    The kernel makes this route for every address itself, but for IPv6 from a work queue
    (addrconf_dad_work, also without duplicate detection). Until that has run, which takes
    milliseconds on a busy node, packets for the address are taken for somebody else's and dropped.
    """
    route = Route(
        table=RT_TABLE_LOCAL, destination=IPv6Network(address), gateway=None, ifindex=ifindex
    )
    op = f"add local route {address}"
    body = _route_body(route, RTN_LOCAL)
    return Request(op=op, kind=RTM_NEWROUTE, flags=NLM_F_CREATE | NLM_F_EXCL, body=body)


def delete_route(route: Route) -> Request:
    """Remove exactly this route."""
    op = f"delete route {route.destination} table {route.table}"
    return Request(op=op, kind=RTM_DELROUTE, flags=0, body=_route_body(route))


def dump_routes(family: int = AF_UNSPEC) -> Request:
    """Ask for every route of every table."""
    body = RTMSG.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    return Request(op="list routes", kind=RTM_GETROUTE, flags=NLM_F_DUMP, body=body)


def match_route(address: Address) -> Request:
    """Ask which route a packet to the address would take, as the table holds it."""
    family, length = FAMILIES[address.version], address.max_prefixlen
    body = RTMSG.pack(family, length, 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    body += attribute(RTA_DST, address.packed)
    return Request(op=f"find route to {address}", kind=RTM_GETROUTE, flags=0, body=body)


def add_neighbour(ifindex: int, address: Address, mac: bytes) -> Request:
    """A permanent neighbour entry: it is never asked for, by ARP or otherwise."""
    body = (
        NDMSG.pack(FAMILIES[address.version], ifindex, NUD_PERMANENT, 0, 0)
        + attribute(NDA_DST, address.packed)
        + attribute(NDA_LLADDR, mac)
    )
    flags = NLM_F_CREATE | NLM_F_REPLACE
    return Request(op=f"add neighbour {address}", kind=RTM_NEWNEIGH, flags=flags, body=body)


def get_neighbour(ifindex: int, address: Address) -> Request:
    """Ask for one neighbour of a link; ENOENT where there is none (kernel >= 5.0)."""
    body = NDMSG.pack(FAMILIES[address.version], ifindex, 0, 0, 0)
    body += attribute(NDA_DST, address.packed)
    return Request(op=f"get neighbour {address}", kind=RTM_GETNEIGH, flags=0, body=body)


def dump_neighbours(family: int = AF_UNSPEC) -> Request:
    """Ask for every neighbour."""
    body = NDMSG.pack(family, 0, 0, 0, 0)
    return Request(op="list neighbours", kind=RTM_GETNEIGH, flags=NLM_F_DUMP, body=body)


def _prefix_length(network: Network | None) -> int:
    return network.prefixlen if network else 0


def _rule_body(rule: Rule) -> bytes:
    table = rule.table if rule.table < 256 else RT_TABLE_COMPAT
    lengths = _prefix_length(rule.destination), _prefix_length(rule.source)
    body = (
        RULE.pack(rule.family, *lengths, 0, table, FR_ACT_TO_TBL, 0)
        + u32(FRA_PRIORITY, rule.priority)
        + u32(FRA_TABLE, rule.table)
        + attribute(FRA_PROTOCOL, bytes([rule.protocol]))
    )
    if rule.mask:
        body += u32(FRA_FWMARK, rule.mark) + u32(FRA_FWMASK, rule.mask)
    if rule.source is not None:
        body += attribute(FRA_SRC, rule.source.network_address.packed)
    if rule.destination is not None:
        body += attribute(FRA_DST, rule.destination.network_address.packed)
    if rule.iif:
        body += text(FRA_IIFNAME, rule.iif)
    if rule.ip_protocol:
        body += attribute(FRA_IP_PROTO, bytes([rule.ip_protocol]))
    return body


def add_rule(rule: Rule) -> Request:
    """Add a rule; EEXIST where the same stands already."""
    op = f"add rule {rule.priority}"
    flags = NLM_F_CREATE | NLM_F_EXCL
    return Request(op=op, kind=RTM_NEWRULE, flags=flags, body=_rule_body(rule))


def delete_rule(rule: Rule) -> Request:
    """Remove the first rule that has all of these fields."""
    op = f"delete rule {rule.priority}"
    return Request(op=op, kind=RTM_DELRULE, flags=0, body=_rule_body(rule))


def pod_rule_selectors(address: Address) -> tuple[Request, Request]:
    """To remove one rule of ours to exactly this address (512), and one from it (1536), whichever
    table it names; ENOENT where there is none. A field that is left out is not compared."""
    family, length, packed = FAMILIES[address.version], address.max_prefixlen, address.packed
    ours = attribute(FRA_PROTOCOL, bytes([names.PROTOCOL]))
    to_pod = (
        RULE.pack(family, length, 0, 0, 0, FR_ACT_TO_TBL, 0)
        + u32(FRA_PRIORITY, names.POD_RULE_PRIORITY)
        + ours
        + attribute(FRA_DST, packed)
    )
    from_pod = (
        RULE.pack(family, 0, length, 0, 0, FR_ACT_TO_TBL, 0)
        + u32(FRA_PRIORITY, names.MARK_RULE_PRIORITY)
        + ours
        + attribute(FRA_SRC, packed)
    )
    return (
        Request(op=f"delete the rule to {address}", kind=RTM_DELRULE, flags=0, body=to_pod),
        Request(op=f"delete the rule from {address}", kind=RTM_DELRULE, flags=0, body=from_pod),
    )


def dump_rules(family: int = AF_UNSPEC) -> Request:
    """Ask for every rule."""
    body = RULE.pack(family, 0, 0, 0, 0, 0, 0)
    return Request(op="list rules", kind=RTM_GETRULE, flags=NLM_F_DUMP, body=body)
