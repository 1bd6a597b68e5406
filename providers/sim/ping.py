"""ICMP and ICMPv6 echo from inside network namespaces, many pairs at once, without a ping program.

One short-lived thread visits each namespace in turn and opens a raw socket there (a socket stays
where it was opened); then all requests go out and one poll loop collects the answers. One request
per probe, never repeated, so that a test can count what the fabric dropped.

A round trip runs from before the request is handed to the kernel (on a veth most of the way is
covered inside that call) to the kernel's own time stamp on the answer, which may wait to be read
behind many others.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from ipaddress import ip_address

from providers.sim import netns

_ECHO_REPLY, _ECHO_REQUEST = 0, 8  # RFC 792
_ECHO_REQUEST_V6, _ECHO_REPLY_V6 = 128, 129  # RFC 4443
# linux/icmp.h and icmpv6.h: a set bit hides that type of message.
_SOL_RAW, _ICMP_FILTER = 255, 1
_SOL_ICMPV6, _ICMPV6_FILTER = 58, 1
_IDENTIFIERS = 1 << 16
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the control message has the same number
_TIMESPEC = struct.Struct("@qq")
_NANOSECONDS = 1_000_000_000

Sockets = dict[tuple[str, str | None, bool], socket.socket]


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """One question: does `target` answer from this namespace, asked with this source address?"""

    netns_path: str
    target: str
    source: str | None = None

    @property
    def is_v6(self) -> bool:
        """Whether the target is an IPv6 address."""
        return ip_address(self.target).version == 6


def ping(
    netns_path: str, source: str | None, target: str, timeout_seconds: float = 1.0
) -> float | None:
    """The round trip in seconds, or None: no answer in time, or no route there.

    OSError if the namespace does not exist or `source` is not one of its addresses.
    """
    probe = Probe(netns_path=netns_path, source=source, target=target)
    return ping_all([probe], timeout_seconds)[0]


def ping_all(probes: Sequence[Probe], timeout_seconds: float = 1.0) -> list[float | None]:
    """Round trips in the order of the probes, all asked at once; back when the last is known."""
    if len(probes) > _IDENTIFIERS:
        raise ValueError(f"{len(probes)} probes; an echo request tells {_IDENTIFIERS} apart")
    with ExitStack() as stack:
        sockets = netns.in_thread(lambda: _open_all(probes, stack))
        return _exchange(probes, sockets, timeout_seconds)


def _open_all(probes: Sequence[Probe], stack: ExitStack) -> Sockets:
    sockets: Sockets = {}
    for probe in sorted(probes, key=lambda probe: probe.netns_path):
        key = _key(probe)
        if key not in sockets:
            netns.enter(probe.netns_path)
            sockets[key] = stack.enter_context(_open(probe.source, is_v6=probe.is_v6))
    return sockets


def _key(probe: Probe) -> tuple[str, str | None, bool]:
    return probe.netns_path, probe.source, probe.is_v6


def _open(source: str | None, *, is_v6: bool) -> socket.socket:
    if is_v6:
        opened = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    else:
        opened = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    try:
        if is_v6:
            opened.setsockopt(_SOL_ICMPV6, _ICMPV6_FILTER, _all_but(_ECHO_REPLY_V6, words=8))
        else:
            opened.setsockopt(_SOL_RAW, _ICMP_FILTER, _all_but(_ECHO_REPLY, words=1))
        opened.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        opened.setblocking(False)  # noqa: FBT003 - the only form it has
        if source is not None:
            opened.bind((source, 0))
    except OSError:
        opened.close()
        raise
    return opened


def _all_but(shown: int, *, words: int) -> bytes:
    """A filter of so many 32-bit words in which only one type's bit is clear."""
    filtered = [0xFFFFFFFF] * words
    filtered[shown >> 5] &= ~(1 << (shown & 31))
    return struct.pack(f"={words}I", *filtered)


def _exchange(
    probes: Sequence[Probe], sockets: Sockets, timeout_seconds: float
) -> list[float | None]:
    base = int.from_bytes(os.urandom(2), "big")  # another pinger's answers reach our sockets too
    sent: dict[int, tuple[int, int]] = {}
    for number, probe in enumerate(probes):
        identifier = (base + number) % _IDENTIFIERS
        sent_unix_ns = time.time_ns()
        if _send(sockets[_key(probe)], probe, identifier):
            sent[identifier] = (number, sent_unix_ns)
    return _collect(probes, sockets, sent, time.monotonic() + timeout_seconds)


def _send(opened: socket.socket, probe: Probe, identifier: int) -> bool:
    kind = _ECHO_REQUEST_V6 if probe.is_v6 else _ECHO_REQUEST
    packet = struct.pack("!BBHHH", kind, 0, 0, identifier, 1)
    if not probe.is_v6:  # of ICMPv6, whose sum covers the addresses too, the kernel makes it
        packet = struct.pack("!BBHHH", kind, 0, checksum(packet), identifier, 1)
    try:
        opened.sendto(packet, (probe.target, 0))
    except OSError:  # no route, no link: also a way of not answering
        return False
    return True


def _collect(
    probes: Sequence[Probe],
    sockets: Sockets,
    sent: dict[int, tuple[int, int]],
    deadline: float,
) -> list[float | None]:
    answers: list[float | None] = [None] * len(probes)
    poll = select.poll()
    by_descriptor = {opened.fileno(): opened for opened in sockets.values()}
    for descriptor in by_descriptor:
        poll.register(descriptor, select.POLLIN)
    while sent and (left := deadline - time.monotonic()) > 0:
        for descriptor, _events in poll.poll(left * 1000):
            identifier, source, received_unix_ns = _receive(by_descriptor[descriptor])
            if identifier in sent and probes[sent[identifier][0]].target == source:
                number, sent_unix_ns = sent.pop(identifier)
                answers[number] = (received_unix_ns - sent_unix_ns) / _NANOSECONDS
    return answers


def _receive(opened: socket.socket) -> tuple[int, str, int]:
    """Identifier, sender and arrival of one reply; -1 where only an error was waiting.

    An IPv4 raw socket gives the IP header too, an IPv6 one does not.
    """
    try:
        packet, ancillary, _, sender = opened.recvmsg(2048, 256)
    except OSError:
        return -1, "", 0
    is_v6 = opened.family == socket.AF_INET6
    header = 0 if is_v6 else (packet[0] & 0x0F) * 4  # RFC 791: its length in 32-bit words
    identifier = int.from_bytes(packet[header + 4 : header + 6], "big")
    return identifier, str(sender[0]), _arrival(ancillary)


def _arrival(ancillary: list[tuple[int, int, bytes]]) -> int:
    """The kernel's time stamp in nanoseconds of wall time; now, where it gave none."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPNS:
            seconds, nanoseconds = _TIMESPEC.unpack(data[: _TIMESPEC.size])
            return int(seconds * _NANOSECONDS + nanoseconds)
    return time.time_ns()


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071) of an even number of bytes.

    Example: 08 00 00 00 00 01 00 01 -> 0xf7fd.
    """
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
