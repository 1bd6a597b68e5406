"""Netlink sockets, here and in a pod's namespace.

One socket belongs to one thread at a time. `HostNetlink.socket` keeps one per thread; `pod_socket`
opens one inside another network namespace and closes it at the end of the block.

Hazard: setns changes the calling thread only, and must be undone whatever happens. A thread that
stayed in a pod would from then on wire "host" links into that pod, so a failure to come back ends
the process: a restart is the normal path, a wrong namespace is not.
"""

from __future__ import annotations

import ctypes
import errno
import os
import random
import socket
import struct
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from cni_shim.datapath import answers, messages, names
from cni_shim.datapath.answers import Link, Message
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import Request

T = TypeVar("T")

_SO_NETNS_COOKIE = 71  # asm-generic/socket.h, kernel >= 5.14
_SOL_NETLINK, _NETLINK_EXT_ACK, _NETLINK_CAP_ACK = 270, 11, 10
_CLONE_NEWNET = 0x40000000
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_NLM_F_DUMP_INTR, _NLM_F_ACK_TLVS = 0x10, 0x200
_NLMSGERR_ATTR_MSG = 1
_I32 = struct.Struct("=i")
_RECEIVE_BYTES = 65536  # the kernel's own limit for one datagram of a dump is 32 KiB
# The kernel answers inside the send call, so that an answer is late only if it was lost.
_ANSWER_TIMEOUT = struct.pack("ll", 10, 0)
_DUMP_SECONDS = 1.0

# PyDLL keeps the GIL over the call: setns takes about 2 us, while giving the GIL away and waiting
# for it again can take a whole switch interval. Python 3.11 has no os.setns.
_libc = ctypes.PyDLL(None, use_errno=True)


class NetlinkSocket:
    """A NETLINK_ROUTE socket of the namespace that the calling thread is in."""

    def __init__(self, *, is_recognised: bool = False) -> None:
        """`is_recognised`: with a port of ours, so that `notices` is silent about what it does."""
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
            if is_recognised:
                _bind_to_a_port_of_ours(self._socket)
        except OSError as e:
            raise DatapathError("open a netlink socket", e.errno or errno.EIO) from e
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _ANSWER_TIMEOUT)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
        self._sequence = 0
        # A thread's socket goes with its thread, which nobody tells us about.
        self._finalizer = weakref.finalize(self, self._socket.close)

    def close(self) -> None:
        """Close; idempotent."""
        self._finalizer()

    def netns_cookie(self) -> int:
        """The identity of the namespace; unlike its inode it is never used again in this boot."""
        try:
            value = self._socket.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError as e:
            raise DatapathError("read netns cookie", e.errno or errno.EIO) from e
        return int.from_bytes(value, "little" if _I32.pack(1)[0] else "big")

    def execute(self, requests: Sequence[Request]) -> None:
        """Send a batch and wait for the acknowledgement of its last message.

        The kernel works on after a failed message and reports each failure, asked or not; the
        first one is raised as DatapathError with the `op` of its message. Whoever sends a batch
        must therefore be content with later messages having run, or undo the whole.
        """
        first = self._send(requests)
        last = first + len(requests) - 1
        failure: DatapathError | None = None
        for message in self._receive():
            if message.kind != _NLMSG_ERROR or not first <= message.sequence <= last:
                continue
            error = _error_of(message, requests[message.sequence - first].op)
            failure = failure or error
            if message.sequence == last:
                break
        if failure is not None:
            raise failure

    def get(self, requests: Sequence[Request]) -> tuple[bytes | DatapathError, ...]:
        """Send questions with one answer each; the answers' bodies, or the errors, in order."""
        first = self._send(requests, ack=False)
        found: dict[int, bytes | DatapathError] = {}
        for message in self._receive():
            position = message.sequence - first
            if not 0 <= position < len(requests):
                continue
            if message.kind != _NLMSG_ERROR:
                found[position] = message.body
            elif position not in found:
                found[position] = _error_of(message, requests[position].op) or DatapathError(
                    requests[position].op, errno.ENODATA
                )
            if len(found) == len(requests):
                break
        return tuple(found[position] for position in range(len(requests)))

    def dump(self, request: Request, parse: Callable[[bytes], T | None]) -> tuple[T, ...]:
        """Every answer that `parse` makes something of."""
        return tuple(value for body in self.dump_raw(request) if (value := parse(body)) is not None)

    def dump_raw(self, request: Request) -> list[bytes]:
        """The bodies of a dump. A table that changed meanwhile (NLM_F_DUMP_INTR) is read again."""
        deadline = time.monotonic() + _DUMP_SECONDS
        pause = 0.0
        while True:
            bodies = self._dump_once(request)
            if bodies is not None:
                return bodies
            if time.monotonic() >= deadline:
                break
            # Under churn each try is torn by the next pod: let some of them pass.
            time.sleep(pause * random.random())  # noqa: S311 - spreading, not a secret
            pause = min(pause * 2 + 0.001, 0.02)
        raise DatapathError(request.op, errno.EINTR, "the table changed during every try")

    def _dump_once(self, request: Request) -> list[bytes] | None:
        wanted = self._send((request,), ack=False)
        bodies: list[bytes] = []
        is_torn = False
        while True:
            data = self._datagram()
            for kind, flags, sequence, start, end in answers.spans(data):
                if sequence != wanted:
                    continue
                is_torn = is_torn or bool(flags & _NLM_F_DUMP_INTR)
                body = data[start:end]
                if kind == _NLMSG_DONE:
                    _check_end(body, request.op)
                    return None if is_torn else bodies
                if kind == _NLMSG_ERROR:
                    message = Message(kind=kind, flags=flags, sequence=sequence, body=body)
                    error = _error_of(message, request.op)
                    raise error or DatapathError(request.op, errno.ENODATA)
                bodies.append(body)

    def _send(self, requests: Sequence[Request], *, ack: bool = True) -> int:
        first = self._sequence + 1
        self._sequence += len(requests)
        last = self._sequence
        parts = []
        for sequence, request in enumerate(requests, first):
            data = messages.serialise(request, sequence, ack=ack and sequence == last)
            # Messages of a batch start on multiples of four; bodies need not end on one.
            parts.append(data + b"\0" * (-len(data) & 3))
        try:
            self._socket.send(b"".join(parts))
        except OSError as e:
            raise DatapathError(requests[0].op, e.errno or errno.EIO, "send failed") from e
        return first

    def _receive(self) -> Iterator[Message]:
        while True:
            yield from answers.split(self._datagram())

    def _datagram(self) -> bytes:
        try:
            return self._socket.recv(_RECEIVE_BYTES)
        except OSError as e:
            raise DatapathError("receive", e.errno or errno.EIO, "no answer") from e


def _bind_to_a_port_of_ours(sock: socket.socket) -> None:
    """Any free one: another process of ours may have some, and closed ones come free again."""
    while True:
        try:
            sock.bind((names.PORT_BASE | random.getrandbits(16), 0))
        except OSError as e:
            if e.errno != errno.EADDRINUSE:
                raise
        else:
            return


def _error_of(message: Message, op: str) -> DatapathError | None:
    """The error in an NLMSG_ERROR; None for a plain acknowledgement (errno 0)."""
    if len(message.body) < _I32.size:
        return DatapathError(op, errno.EBADMSG, "the kernel's answer is cut short")
    (number,) = _I32.unpack_from(message.body)
    if number == 0:
        return None
    detail = ""
    if message.flags & _NLM_F_ACK_TLVS:
        # struct nlmsgerr: errno and, with CAP_ACK, only the header of the failed message.
        found = answers.attributes(message.body, 4 + messages.HEADER.size)
        detail = found.get(_NLMSGERR_ATTR_MSG, b"").rstrip(b"\0").decode(errors="replace")
    return DatapathError(op, -number, detail)


def _check_end(body: bytes, op: str) -> None:
    """Raise DatapathError where a dump ends early, at what the kernel could not tell. A family that
    the kernel does not know has nothing."""
    error = _error_of(Message(kind=_NLMSG_DONE, flags=0, sequence=0, body=body), op)
    if error is not None and error.errno != errno.EAFNOSUPPORT:
        raise error


class HostNetlink:
    """The sockets of the namespace this object was made in: one per thread, kept.

    A socket that raised anything but a kernel refusal may hold stray answers. Sequence numbers
    skip them, so it stays usable.
    """

    def __init__(self) -> None:
        self._home_fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._local = threading.local()

    def close(self) -> None:
        """Give the namespace's descriptor back; the threads' sockets close with their threads."""
        os.close(self._home_fd)

    def socket(self) -> NetlinkSocket:
        """This thread's socket."""
        found: NetlinkSocket | None = getattr(self._local, "socket", None)
        if found is None:
            found = self._local.socket = NetlinkSocket(is_recognised=True)
        return found

    @contextmanager
    def pod_socket(self, netns_fd: int) -> Iterator[NetlinkSocket]:
        """A socket inside the namespace behind the descriptor, closed at the end of the block.

        The thread is in that namespace only while the socket is made. Raises DatapathError with
        EINVAL where the descriptor is no network namespace.
        """
        with self.inside(netns_fd):
            opened = NetlinkSocket()
        try:
            yield opened
        finally:
            opened.close()

    @contextmanager
    def inside(self, netns_fd: int) -> Iterator[None]:
        """The block runs with its thread in that namespace: short, and no other work in it.

        Raises DatapathError with EINVAL where the descriptor is no network namespace.
        """
        _enter(netns_fd)
        try:
            yield
        finally:
            self._return_home()

    def netns_cookie(self, netns_fd: int) -> int:
        """The cookie of the namespace behind the descriptor."""
        with self.pod_socket(netns_fd) as inside:
            return inside.netns_cookie()

    def _return_home(self) -> None:
        if _libc.setns(self._home_fd, _CLONE_NEWNET) != 0:
            reason = os.strerror(ctypes.get_errno())
            os.write(2, f"vpc-cnid: cannot return from a pod's namespace ({reason})\n".encode())
            os.abort()


def _enter(netns_fd: int) -> None:
    if _libc.setns(netns_fd, _CLONE_NEWNET) != 0:
        raise DatapathError("enter the pod's namespace", ctypes.get_errno())


def find_links(sock: NetlinkSocket, ifnames: Sequence[str]) -> tuple[Link | None, ...]:
    """The links of these names, in order; None where there is none."""
    return tuple(
        _link_or_none(answer)
        for answer in sock.get([messages.get_link(ifname) for ifname in ifnames])
    )


def find_link_by_index(sock: NetlinkSocket, ifindex: int) -> Link | None:
    """The link with this index, or None."""
    return _link_or_none(sock.get([messages.get_link_by_index(ifindex)])[0])


def _link_or_none(answer: bytes | DatapathError) -> Link | None:
    if isinstance(answer, bytes):
        return answers.link_of(answer)
    if answer.errno == errno.ENODEV:
        return None
    raise answer
