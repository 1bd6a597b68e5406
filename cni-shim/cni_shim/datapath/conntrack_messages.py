"""ctnetlink as bytes: asking for connection tracking entries, finding those of some addresses in
the answer, naming them for deletion. Pure.

Layouts are those of linux/netfilter/nfnetlink_conntrack.h. A node can have 100,000 entries, nearly
all of them of pods that live: a datagram is searched for the addresses as a whole, and only what
then may be an entry of one of them is taken apart.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from cni_shim.datapath import answers
from cni_shim.datapath import messages as m
from cni_shim.datapath.families import FAMILIES, Address

_SUBSYSTEM = 1 << 8  # NFNL_SUBSYS_CTNETLINK
IPCTNL_MSG_CT_NEW, IPCTNL_MSG_CT_GET, IPCTNL_MSG_CT_DELETE = 0, 1, 2
CT_GET, CT_DELETE = _SUBSYSTEM | IPCTNL_MSG_CT_GET, _SUBSYSTEM | IPCTNL_MSG_CT_DELETE

CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_ID, CTA_ZONE, CTA_FILTER = 1, 2, 3, 12, 18, 25
IPS_SEEN_REPLY = 1 << 1  # linux/netfilter/nf_conntrack_common.h
CTA_TUPLE_IP = 1
CTA_IP_V4_SRC, CTA_IP_V4_DST, CTA_IP_V6_SRC, CTA_IP_V6_DST = 1, 2, 3, 4
CTA_FILTER_ORIG_FLAGS, CTA_FILTER_REPLY_FLAGS = 1, 2
_FILTER_IP_SRC, _FILTER_IP_DST = 1 << 0, 1 << 1
_NESTED = 0x8000

NFGENMSG = struct.Struct("=BB2s")  # family, version, resource id (big endian)

_TUPLES = {CTA_TUPLE_ORIG: CTA_FILTER_ORIG_FLAGS, CTA_TUPLE_REPLY: CTA_FILTER_REPLY_FLAGS}
_SIDES = {
    4: ((CTA_IP_V4_SRC, _FILTER_IP_SRC), (CTA_IP_V4_DST, _FILTER_IP_DST)),
    6: ((CTA_IP_V6_SRC, _FILTER_IP_SRC), (CTA_IP_V6_DST, _FILTER_IP_DST)),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What names one entry to the kernel, as it was dumped: the tuple of its first direction (which
    may carry a zone of its own), its zone, and the number that no later entry of the tuple has."""

    family: int
    tuple_orig: bytes
    zone: bytes = b""  # empty: the default zone
    number: bytes = b""


def _header(family: int) -> bytes:
    return NFGENMSG.pack(family, 0, b"\0\0")


def dump_all(version: int) -> m.Request:
    """Every entry of one family (by ipaddress's version), in all zones."""
    return m.Request(
        op="dump connection tracking",
        kind=CT_GET,
        flags=m.NLM_F_DUMP,
        body=_header(FAMILIES[version]),
    )


def dumps_of(address: Address) -> tuple[m.Request, ...]:
    """Four dumps that the kernel filters, one for each place where an entry can name the address.

    Kernels before 5.8 take no notice of the filter and answer with everything; callers look at
    each answer themselves.
    """
    return tuple(
        m.Request(
            op=f"dump connection tracking of {address}",
            kind=CT_GET,
            flags=m.NLM_F_DUMP,
            body=_header(FAMILIES[address.version])
            + _nested(which, _nested(CTA_TUPLE_IP, m.attribute(side, address.packed)))
            + _nested(CTA_FILTER, _filter_flags(which, flag)),
        )
        for which in _TUPLES
        for side, flag in _SIDES[address.version]
    )


def _filter_flags(which: int, flag: int) -> bytes:
    return b"".join(m.u32(kind, flag if t == which else 0) for t, kind in _TUPLES.items())


def delete(entry: Entry) -> m.Request:
    """Delete this very entry: ENOENT where it is gone, also if another has its tuple now."""
    body = _header(entry.family) + _nested(CTA_TUPLE_ORIG, entry.tuple_orig)
    if entry.zone:
        body += m.attribute(CTA_ZONE, entry.zone)
    if entry.number:
        body += m.attribute(CTA_ID, entry.number)
    return m.Request(op="delete a connection tracking entry", kind=CT_DELETE, flags=0, body=body)


def _nested(kind: int, payload: bytes) -> bytes:
    return m.attribute(kind | _NESTED, payload)


class Matcher:
    """Finds the entries of some addresses, of one or both families, in dumped messages."""

    def __init__(self, addresses: Iterable[Address]) -> None:
        self._wanted = frozenset(address.packed for address in addresses)
        self._pattern = re.compile(_any_of(self._wanted), re.DOTALL)

    def entries(self, data: bytes, spans: Iterable[tuple[int, int]]) -> Iterator[Entry]:
        """The entries among the message bodies at these places of a datagram, in order."""
        match = self._pattern.search(data)
        for start, end in spans:
            if match is None:
                return
            if match.start() >= end:
                continue
            entry = entry_of(data[start:end], self._wanted)
            if entry is not None:
                yield entry
            match = self._pattern.search(data, end)


def _any_of(wanted: frozenset[bytes]) -> bytes:
    """A pattern that finds any of them. Addresses of a node differ in their last byte mostly, and a
    set of bytes is one step of the matcher, while alternatives are tried one by one."""
    lasts: dict[bytes, list[bytes]] = {}
    for packed in sorted(wanted):
        lasts.setdefault(packed[:-1], []).append(packed[-1:])
    return b"|".join(
        re.escape(first) + b"[" + b"".join(re.escape(last) for last in ends) + b"]"
        for first, ends in lasts.items()
    )


def entry_of(body: bytes, wanted: frozenset[bytes]) -> Entry | None:
    """The entry in a dumped message, if either of its tuples names one of the addresses.

    One without its first tuple cannot be named to the kernel, and is passed over.
    """
    found = answers.attributes(body, NFGENMSG.size)
    if CTA_TUPLE_ORIG not in found or not any(
        _names(found.get(which, b""), wanted) for which in _TUPLES
    ):
        return None
    return _entry(body, found)


def _entry(body: bytes, found: Mapping[int, bytes]) -> Entry:
    return Entry(
        family=body[0],
        tuple_orig=found[CTA_TUPLE_ORIG],
        zone=found.get(CTA_ZONE, b""),
        number=found.get(CTA_ID, b""),
    )


def _names(one_tuple: bytes, wanted: frozenset[bytes]) -> bool:
    return any(packed in wanted for packed in _ends(one_tuple).values())


def _ends(one_tuple: bytes) -> Mapping[int, bytes]:
    return answers.attributes(answers.attributes(one_tuple).get(CTA_TUPLE_IP, b""))


class UnansweredMatcher:
    """Finds the IPv4 entries of connections that nobody has answered and that kept their source,
    where `is_wanted` says so of source and destination. Of a ClusterIP's the destination is what
    it was turned to."""

    def __init__(self, is_wanted: Callable[[IPv4Address, IPv4Address], bool]) -> None:
        self._is_wanted = is_wanted

    def entries(self, data: bytes, spans: Iterable[tuple[int, int]]) -> Iterator[Entry]:
        """See Matcher.entries."""
        for start, end in spans:
            body = data[start:end]
            found = answers.attributes(body, NFGENMSG.size)
            if self._is_meant(found):
                yield _entry(body, found)

    def _is_meant(self, found: Mapping[int, bytes]) -> bool:
        status = int.from_bytes(found.get(CTA_STATUS, b"\xff"), "big")
        if status & IPS_SEEN_REPLY or not found.keys() >= _TUPLES.keys():
            return False
        there, back = _ends(found[CTA_TUPLE_ORIG]), _ends(found[CTA_TUPLE_REPLY])
        source, destination = there.get(CTA_IP_V4_SRC, b""), back.get(CTA_IP_V4_SRC, b"")
        if source != back.get(CTA_IP_V4_DST) or not len(source) == len(destination) == 4:
            return False
        return self._is_wanted(IPv4Address(source), IPv4Address(destination))
