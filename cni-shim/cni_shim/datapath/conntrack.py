"""Deleting connection tracking entries: of addresses that are about to be used again, and of
connections that began while SNAT was away.

An entry outlives its pod: UDP ones for minutes and as long as the other side sends, TCP ones for
days. Where it carries a translation (ClusterIP, NodePort, SNAT), packets of the old connection are
still turned to the address, whoever holds it by then. Called by `cni_shim.flusher` and
`cni_shim.late_snat`, on threads of theirs.

A dump is read in pieces, with rests between, and never kept: a large table holds up no verb (for
figures see docs/pool.md).
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Self

import structlog

from cni_shim.datapath import answers, messages
from cni_shim.datapath import conntrack_messages as ct
from cni_shim.datapath.conntrack_messages import Entry, Matcher
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.messages import Request

log = structlog.get_logger()

NETLINK_NETFILTER = 12
_NLMSG_ERROR, _NLMSG_DONE, _NLM_F_DUMP_INTR = 2, 3, 0x10
_I32 = struct.Struct("=i")
_RECEIVE_BYTES = 65536  # the kernel's own limit for one datagram of a dump is 32 KiB
_ANSWER_TIMEOUT = struct.pack("ll", 10, 0)

FILTER_ABOVE = 20_000
"""From so many entries per address the kernel filters, with four dumps an address; else one whole
dump is cheaper. Measured for one: 13 ms filtered and 4 whole with 1000 entries, 40 and 130 with
100,000 (docs/pool.md)."""

MOST_AT_ONCE = 10_000
"""Entries that are collected before they are deleted; 100,000 take 30 MB."""

REST_SECONDS = 0.0005
"""After each datagram of a dump (32 KiB, some 120 entries, 0.15 ms): verbs find the interpreter
free three quarters of the time."""

BATCH = 128
"""Deletions in one send. Each that fails is answered, and the socket's buffer (208 KiB unless set
otherwise) holds about 270 answers."""

TRIES = 5
"""How often a dump that was torn by changes, or answers that were lost, have it begin anew."""

_COUNT = Path("/proc/sys/net/netfilter/nf_conntrack_count")
_FILTER_REFUSED = {errno.EINVAL, errno.EOPNOTSUPP}


class Conntrack:
    """The connection tracking table of the namespace that the calling thread is in."""

    def __init__(self) -> None:
        self._has_warned = False
        self._filters = True

    def delete_entries_of(self, addresses: Iterable[Address]) -> int:
        """Delete every entry that names one of the addresses in either direction and any zone.

        Returns how many were deleted; entries that are gone already are success. Raises
        DatapathError where they cannot be read or deleted, EPERM without NET_ADMIN. A kernel
        without connection tracking has no entries. One that tracks but cannot be asked (no
        nf_conntrack_netlink) is warned of once and counts as done: an address that waited there
        for ever would end in a node without any.
        """
        wanted = frozenset(addresses)
        return self._delete(lambda sock: self._find(sock, wanted)) if wanted else 0

    def delete_unanswered(self, is_wanted: Callable[[IPv4Address, IPv4Address], bool]) -> int:
        """Delete what `UnansweredMatcher` finds; how many. Else as `delete_entries_of`."""
        matcher = ct.UnansweredMatcher(is_wanted)
        return self._delete(lambda sock: sock.dump([ct.dump_all(4)], matcher))

    def _delete(self, find: Callable[[_Socket], Found]) -> int:
        if not _count():
            return 0
        try:
            return self._delete_found(find)
        except DatapathError as e:
            if e.errno not in (errno.EINVAL, errno.EPROTONOSUPPORT):
                raise
            self._warn_once(e)
            return 0

    def _warn_once(self, error: DatapathError) -> None:
        if not self._has_warned:
            self._has_warned = True
            log.warning(
                "conntrack_unreachable",
                error=str(error),
                message="entries of former pods stay until they time out: load the kernel module "
                "nf_conntrack_netlink",
            )

    def _delete_found(self, find: Callable[[_Socket], Found]) -> int:
        deleted, tries = 0, TRIES
        while tries:
            with _Socket() as sock:
                try:
                    found = find(sock)
                    deleted += sock.delete(found.entries)
                except DatapathError as e:
                    if e.errno != errno.ENOBUFS:
                        raise
                    tries -= 1  # some answers were lost: what is left shows in the next dump
                    continue
            if found.is_whole:
                return deleted
            tries -= found.is_torn
        raise DatapathError("dump connection tracking", errno.EINTR, "torn at every try")

    def _find(self, sock: _Socket, wanted: frozenset[Address]) -> Found:
        matcher = Matcher(wanted)
        if self._filters and _count() >= FILTER_ABOVE * len(wanted):
            try:
                return sock.dump([d for a in wanted for d in ct.dumps_of(a)], matcher)
            except DatapathError as e:
                if e.errno not in _FILTER_REFUSED:
                    raise
                self._filters = False  # the whole dump says whether it was the filter
        return sock.dump([ct.dump_all(v) for v in sorted({a.version for a in wanted})], matcher)


def _count() -> int:
    """How many entries the namespace has; 0 where the kernel tracks nothing."""
    try:
        return int(_COUNT.read_text())
    except FileNotFoundError:
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Entries of a dump. Neither whole nor torn: there are more than MOST_AT_ONCE."""

    entries: tuple[Entry, ...]
    is_whole: bool
    is_torn: bool


class _Socket:
    """One netlink socket for one piece of work, so that no stray answer outlives it."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_NETFILTER)
        except OSError as e:
            raise DatapathError("open a netfilter socket", e.errno or errno.EIO) from e
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIMEOUT)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self._socket.close()

    def dump(self, requests: Sequence[Request], matcher: Matcher | ct.UnansweredMatcher) -> Found:
        """The matching entries of some dumps, each once."""
        found: dict[Entry, None] = {}
        is_torn = False
        for request in requests:
            sequence = self._send([request])
            for data in self._datagrams():
                bodies, is_last, was_torn = _bodies(data, sequence, request.op)
                is_torn = is_torn or was_torn
                found |= dict.fromkeys(matcher.entries(data, bodies))
                if is_last:
                    break
                if len(found) >= MOST_AT_ONCE:  # the socket is closed with the rest unread
                    return Found(entries=tuple(found), is_whole=False, is_torn=False)
                time.sleep(REST_SECONDS)
        return Found(entries=tuple(found), is_whole=not is_torn, is_torn=is_torn)

    def delete(self, entries: Sequence[Entry]) -> int:
        """Delete them; how many were there. Raises the first error that is not ENOENT."""
        deleted = 0
        for offset in range(0, len(entries), BATCH):
            deleted += self._delete_batch(entries[offset : offset + BATCH])
        return deleted

    def _delete_batch(self, entries: Sequence[Entry]) -> int:
        requests = [ct.delete(entry) for entry in entries]
        first = self._send(requests, ack=True)
        last = first + len(requests) - 1
        gone = 0
        failure: DatapathError | None = None
        for data in self._datagrams():
            is_last = False
            for kind, _, number, start, _ in answers.spans(data):
                if kind != _NLMSG_ERROR or not first <= number <= last:
                    continue
                is_last = is_last or number == last
                error = _number(data, start)
                gone += error == errno.ENOENT
                if error not in (0, errno.ENOENT):
                    failure = failure or DatapathError(requests[0].op, error)
            if is_last:
                break
        if failure is not None:
            raise failure
        return len(requests) - gone

    def _send(self, requests: Sequence[Request], *, ack: bool = False) -> int:
        """Send a batch whose last message is acknowledged if `ack`; the first one's number."""
        first = self._sequence + 1
        self._sequence += len(requests)
        data = b"".join(
            messages.serialise(request, number, ack=ack and number == self._sequence)
            for number, request in enumerate(requests, first)
        )
        try:
            self._socket.send(data)
        except OSError as e:
            raise DatapathError(requests[0].op, e.errno or errno.EIO, "send failed") from e
        return first

    def _datagrams(self) -> Iterator[bytes]:
        while True:
            try:
                yield self._socket.recv(_RECEIVE_BYTES)
            except OSError as e:
                raise DatapathError("receive", e.errno or errno.EIO, "no answer") from e


def _bodies(data: bytes, sequence: int, op: str) -> tuple[list[tuple[int, int]], bool, bool]:
    """Where the entries of a datagram are, whether it ends the dump, and whether that was torn."""
    bodies: list[tuple[int, int]] = []
    is_last = is_torn = False
    for kind, flags, number, start, end in answers.spans(data):
        if number != sequence:
            continue
        is_torn = is_torn or bool(flags & _NLM_F_DUMP_INTR)
        if kind == _NLMSG_ERROR:
            raise DatapathError(op, _number(data, start) or errno.ENODATA)
        if kind == _NLMSG_DONE:
            if error := _number(data, start):  # it ends early, at what the kernel could not tell
                raise DatapathError(op, error)
            is_last = True
        else:
            bodies.append((start, end))
    return bodies, is_last, is_torn


def _number(data: bytes, start: int) -> int:
    """The error of an NLMSG_ERROR, 0 for an acknowledgement."""
    if len(data) < start + _I32.size:
        return errno.EBADMSG
    (number,) = _I32.unpack_from(data, start)
    return -int(number)
