"""rtnetlink answers as values. Pure; the counterpart of `messages`.

What is cut short or not as it should be raises DatapathError with EBADMSG, and nothing else.
"""

from __future__ import annotations

import errno
import functools
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from typing import TypeVar

from cni_shim.datapath import messages as m
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import AF_INET, AF_INET6, Address, AddressOnLink, Network
from cni_shim.datapath.identity import Identity, decode_alias
from cni_shim.datapath.messages import Route, Rule

T = TypeVar("T")

_ATTRIBUTE = struct.Struct("=HH")
_U32 = struct.Struct("=I")
# The upper two bits of an attribute's type are flags (nested, byte order).
_TYPE_MASK = 0x3FFF
_SIZES = {AF_INET: 4, AF_INET6: 16}  # bytes in an address of the families that are read


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One netlink message as received; `body` starts after the netlink header."""

    kind: int
    flags: int
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A network interface. `peer_ifindex` is IFLA_LINK: the other end of a veth, 0 if none.

    `master_ifindex` is the link that it is a part of, 0 if none; `is_slave` that the kernel keeps
    it for its master alone (IFF_SLAVE: of a bond, or the VF below a Hyper-V NIC; no bridge's port).
    """

    ifindex: int
    ifname: str
    kind: str
    mac: str
    mtu: int
    is_up: bool
    group: int
    alias: str
    peer_ifindex: int
    vlan_id: int = 0  # of a link of kind vlan; its peer_ifindex is the link below
    master_ifindex: int = 0
    is_slave: bool = False

    @property
    def identity(self) -> Identity | None:
        """Whose link this is, where it carries an alias of ours."""
        return decode_alias(self.alias)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAddress:
    """An address on a link. `protocol` is 0 on kernels before 5.18.

    A tentative one cannot be used yet: the kernel still looks for a duplicate (IPv6).
    """

    ifindex: int
    address: AddressOnLink
    protocol: int
    is_tentative: bool = False

    @property
    def is_link_local_v6(self) -> bool:
        """Whether it is one of those by which a link asks for its neighbours."""
        return self.address.version == 6 and self.address.is_link_local


@dataclass(frozen=True, slots=True, kw_only=True)
class Neighbour:
    """A neighbour entry."""

    ifindex: int
    address: Address
    mac: bytes
    is_permanent: bool


def _strict(parse: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """The parser, with one error for every way in which an answer can be wrong."""

    @functools.wraps(parse)
    def read(body: bytes) -> T:
        try:
            return parse(body)
        except (struct.error, ValueError, IndexError) as e:
            raise DatapathError(f"read an answer ({parse.__name__})", errno.EBADMSG, str(e)) from e

    return read


def split(data: bytes) -> Iterator[Message]:
    """The netlink messages in one datagram."""
    for kind, flags, sequence, start, end in spans(data):
        yield Message(kind=kind, flags=flags, sequence=sequence, body=data[start:end])


def spans(data: bytes) -> Iterator[tuple[int, int, int, int, int]]:
    """Of each message in a datagram kind, flags, sequence, and where its body starts and ends.

    For dumps: a `Message` for each of 2000 rules costs three times as much as all the rest.
    """
    offset = 0
    while offset + m.HEADER.size <= len(data):
        size, kind, flags, sequence, _ = m.HEADER.unpack_from(data, offset)
        if size < m.HEADER.size:
            return
        yield kind, flags, sequence, offset + m.HEADER.size, offset + size
        offset += (size + 3) & ~3


def attributes(data: bytes, offset: int = 0) -> dict[int, bytes]:
    """The attributes that follow a message's fixed part, by type; the last of a type wins."""
    found: dict[int, bytes] = {}
    while offset + 4 <= len(data):
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4:
            break
        found[kind & _TYPE_MASK] = data[offset + 4 : offset + size]
        offset += (size + 3) & ~3
    return found


@_strict
def link_of(body: bytes) -> Link:
    """The link in an RTM_NEWLINK or RTM_DELLINK."""
    _, _, ifindex, flags, _ = m.IFINFO.unpack_from(body)
    found = attributes(body, m.IFINFO.size)
    info = attributes(found.get(m.IFLA_LINKINFO, b""))
    kind = _text(info.get(m.IFLA_INFO_KIND, b""))
    return Link(
        ifindex=ifindex,
        ifname=_text(found.get(m.IFLA_IFNAME, b"")),
        kind=kind,
        mac=found.get(m.IFLA_ADDRESS, b"").hex(":"),
        mtu=_number(found, m.IFLA_MTU),
        is_up=bool(flags & m.IFF_UP),
        group=_number(found, m.IFLA_GROUP),
        alias=_text(found.get(m.IFLA_IFALIAS, b"")),
        peer_ifindex=_number(found, m.IFLA_LINK),
        vlan_id=_vlan_id(info.get(m.IFLA_INFO_DATA, b"")) if kind == "vlan" else 0,
        master_ifindex=_number(found, m.IFLA_MASTER),
        is_slave=bool(flags & m.IFF_SLAVE),
    )


@_strict
def address_of(body: bytes) -> LinkAddress | None:
    """The address in an RTM_NEWADDR; None for families other than IPv4 and IPv6."""
    family, length, _, _, ifindex = m.IFADDR.unpack_from(body)
    found = attributes(body, m.IFADDR.size)
    local = found.get(m.IFA_LOCAL) or found.get(m.IFA_ADDRESS)
    if family not in _SIZES or local is None:
        return None
    is_v4 = family == AF_INET
    return LinkAddress(
        ifindex=ifindex,
        address=IPv4Interface((local, length)) if is_v4 else IPv6Interface((local, length)),
        protocol=found.get(m.IFA_PROTO, b"\0")[0],
        is_tentative=bool(_number(found, m.IFA_FLAGS) & m.IFA_F_TENTATIVE),
    )


@_strict
def ifindex_of_address(body: bytes) -> int:
    """The link that an RTM_NEWADDR or RTM_DELADDR is about, of whichever family."""
    ifindex: int = m.IFADDR.unpack_from(body)[4]
    return ifindex


@_strict
def route_of(body: bytes) -> Route | None:
    """The route in an RTM_NEWROUTE; None if it is not IP unicast through one link."""
    family, length, _, _, table, protocol, _, kind, _ = m.RTMSG.unpack_from(body)
    if family not in _SIZES or kind != m.RTN_UNICAST:
        return None
    found = attributes(body, m.RTMSG.size)
    if m.RTA_OIF not in found:
        return None
    gateway = found.get(m.RTA_GATEWAY)
    return Route(
        table=_number(found, m.RTA_TABLE) or table,
        destination=_network(family, found.get(m.RTA_DST, bytes(_SIZES[family])), length),
        gateway=_address(family, gateway) if gateway else None,
        ifindex=_number(found, m.RTA_OIF),
        protocol=protocol,
    )


@_strict
def matched_length(body: bytes) -> int:
    """The prefix length of the route in the answer to `messages.match_route`."""
    length: int = m.RTMSG.unpack_from(body)[1]
    return length


@_strict
def rule_of(body: bytes) -> Rule | None:
    """The rule in an RTM_NEWRULE; None if it does not simply look up a table."""
    family, to_length, from_length, _, table, action, _ = m.RULE.unpack_from(body)
    if family not in _SIZES or action != m.FR_ACT_TO_TBL:
        return None
    found = attributes(body, m.RULE.size)
    return Rule(
        priority=_number(found, m.FRA_PRIORITY),
        table=_number(found, m.FRA_TABLE) or table,
        mark=_number(found, m.FRA_FWMARK),
        mask=_number(found, m.FRA_FWMASK),
        source=_network_or_none(family, found.get(m.FRA_SRC), from_length),
        destination=_network_or_none(family, found.get(m.FRA_DST), to_length),
        protocol=found.get(m.FRA_PROTOCOL, b"\0")[0],
        family=family,
        iif=_text(found.get(m.FRA_IIFNAME, b"")),
        ip_protocol=found.get(m.FRA_IP_PROTO, b"\0")[0],
    )


@_strict
def neighbour_of(body: bytes) -> Neighbour | None:
    """The neighbour in an RTM_NEWNEIGH; None for other families or without an address."""
    family, ifindex, state, _, _ = m.NDMSG.unpack_from(body)
    found = attributes(body, m.NDMSG.size)
    if family not in _SIZES or m.NDA_DST not in found:
        return None
    return Neighbour(
        ifindex=ifindex,
        address=_address(family, found[m.NDA_DST]),
        mac=found.get(m.NDA_LLADDR, b""),
        is_permanent=bool(state & m.NUD_PERMANENT),
    )


def _vlan_id(info: bytes) -> int:
    value = attributes(info).get(m.IFLA_VLAN_ID, b"\0\0")
    return int.from_bytes(value[:2], sys.byteorder)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def _number(found: dict[int, bytes], kind: int) -> int:
    value = found.get(kind)
    if value is None:
        return 0
    number: int = _U32.unpack(value)[0]
    return number


def _address(family: int, value: bytes) -> Address:
    return IPv4Address(value) if family == AF_INET else IPv6Address(value)


def _network(family: int, value: bytes, length: int) -> Network:
    """Not strict: the kernel takes rules whose address has bits beyond its length."""
    made = IPv4Network if family == AF_INET else IPv6Network
    return made((value, length), strict=False)


def _network_or_none(family: int, value: bytes | None, length: int) -> Network | None:
    return _network(family, value, length) if value else None
