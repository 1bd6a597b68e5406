"""One thread that hears about links (appeared, changed, vanished) and about deleted rules.

Callers: the server (re-apply the host network when an ENI's link shows up or a rule goes) and
`removal` (a DEL is done when the kernel says that the link is gone). A shared listener was chosen
over a subscribed socket per DEL: 50 DELs at once took 25 ms against 41, because every such socket
receives every other pod's notices (28 with a kernel filter per socket, whose set-up costs as much
as it saves). A single DEL is 0.1 ms slower for it, the price of one more thread switch.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from cni_shim.datapath import answers, messages, names
from cni_shim.datapath.answers import Link, Message
from cni_shim.datapath.routing import names_pod

_RTMGRP_LINK, _RTMGRP_IPV4_RULE = 1, 0x80
_RTMGRP_IPV6_RULE = 1 << (19 - 1)  # linux/rtnetlink.h, RTNLGRP_IPV6_RULE
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
# About 2500 notices (3 KiB each as the kernel counts them); 64 pods at once make under 500.
_RECEIVE_BUFFER = 8 << 20
_RECEIVE_BYTES = 65536

# What `removal_of` puts on the queue.
VANISHED = "vanished"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkChanged:
    """A link that is no host veth of ours appeared or changed."""

    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkVanished:
    """A link is gone; its name can be used again."""

    link: Link


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleVanished:
    """A routing rule was deleted, but for those that name a pod; if it was one of ours, pods may be
    cut off until it is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticesLost:
    """The kernel dropped notices (ENOBUFS): whoever relies on them must look for itself."""


Notice = LinkChanged | LinkVanished | RuleVanished | NoticesLost
Callback = Callable[[Notice], None]


class LinkNotices:
    """Listens in the network namespace of the thread that makes it, from `start` to `close`.

    Callbacks run on the listening thread: they must be short, block nothing and raise nothing.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        _enlarge_buffer(self._socket)
        _attach_filter(self._socket)
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_RULE | _RTMGRP_IPV6_RULE))
        self._is_closing = False
        self._callbacks: tuple[Callback, ...] = ()
        self._waiting: defaultdict[int, list[SimpleQueue[Any]]] = defaultdict(list)
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._listen, name="link-notices", daemon=True)

    def start(self) -> None:
        """Begin to listen. Notices since the constructor ran are not lost."""
        self._thread.start()

    def close(self) -> None:
        """Stop the thread and close the socket. Idempotent."""
        if self._is_closing:
            return
        self._is_closing = True
        if self._thread.is_alive():
            # Any answer wakes the thread; closing the descriptor under a blocked recv would not.
            question = messages.get_link_by_index(messages.LOOPBACK_IFINDEX)
            self._socket.send(messages.serialise(question, 1, ack=False))
            self._thread.join()
        self._socket.close()

    def subscribe(self, callback: Callback) -> None:
        """Call this with every notice from now on."""
        self._callbacks = (*self._callbacks, callback)

    @contextmanager
    def removal_of(self, ifindex: int, outcome: SimpleQueue[Any]) -> Iterator[None]:
        """Within the block, put "vanished" on `outcome` when the link with this index is gone."""
        with self._lock:
            self._waiting[ifindex].append(outcome)
        try:
            yield
        finally:
            with self._lock:
                waiting = self._waiting[ifindex]
                waiting.remove(outcome)
                if not waiting:
                    del self._waiting[ifindex]

    def _listen(self) -> None:
        while not self._is_closing:
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except OSError as e:
                if e.errno != errno.ENOBUFS:
                    raise
                _log.warning("link_notices_lost")
                self._tell(NoticesLost())
                continue
            for message in answers.split(data):
                self._hear(message)

    def _hear(self, message: Message) -> None:
        if message.kind == messages.RTM_DELLINK:
            _, _, ifindex, _, _ = messages.IFINFO.unpack_from(message.body)
            with self._lock:
                for outcome in self._waiting.get(ifindex, ()):
                    outcome.put(VANISHED)
            if self._callbacks:
                self._tell(LinkVanished(link=answers.link_of(message.body)))
        elif message.kind == messages.RTM_NEWLINK and self._callbacks:
            self._tell(LinkChanged(link=answers.link_of(message.body)))
        elif message.kind == messages.RTM_DELRULE and not _is_of_pod(message):
            self._tell(RuleVanished())

    def _tell(self, notice: Notice) -> None:
        for callback in self._callbacks:
            callback(notice)


def _is_of_pod(message: Message) -> bool:
    """Whether a rule named a single pod, as one goes with every pod where they have such rules."""
    rule = answers.rule_of(message.body)
    return rule is not None and names_pod(rule) is not None


def _enlarge_buffer(sock: socket.socket) -> None:
    """Ask for room for a burst. In a user namespace net.core.rmem_max is the limit.

    Notices lost for want of room are survived (NoticesLost, and the acknowledgement of a removal).
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _attach_filter(sock: socket.socket) -> None:
    """Drop notices about host veths of ours that appear or change, in the kernel.

    An ADD causes four of them, and each would wake the listener in the middle of that ADD's own
    Python (one interpreter lock). Classic BPF; loads are big-endian, netlink is not.
    """
    code = b"".join(_INSTRUCTION.pack(*instruction) for instruction in _filter_program())
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // _INSTRUCTION.size, ctypes.addressof(buffer))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


_INSTRUCTION = struct.Struct("=HBBI")
# linux/filter.h: opcodes, and the extension that looks an attribute up (A: start, X: type).
_LOAD_HALF, _LOAD_HALF_X, _LOAD_WORD, _SET_A, _SET_X = 0x28, 0x48, 0x20, 0x00, 0x01
_JUMP_EQUAL, _A_TO_X, _RETURN = 0x15, 0x07, 0x06
_FIND_ATTRIBUTE = 0xFFFFF000 + 12
_ACCEPT, _DROP = 0xFFFFFFFF, 0


def _filter_program() -> tuple[tuple[int, int, int, int], ...]:
    new_link = int.from_bytes(struct.pack("=H", messages.RTM_NEWLINK), "big")
    group_bytes = struct.pack("=I", names.GROUP_BASE)
    owner_offset = group_bytes.index(struct.pack("=H", names.GROUP_BASE >> 16))
    owner = int.from_bytes(group_bytes[owner_offset : owner_offset + 2], "big")
    attributes_start = messages.HEADER.size + messages.IFINFO.size
    return (
        (_LOAD_HALF, 0, 0, 4),  # nlmsg_type
        (_JUMP_EQUAL, 0, 7, new_link),  # any other kind: accept
        (_SET_X, 0, 0, messages.IFLA_GROUP),
        (_SET_A, 0, 0, attributes_start),
        (_LOAD_WORD, 0, 0, _FIND_ATTRIBUTE),
        (_JUMP_EQUAL, 3, 0, 0),  # no group: accept
        (_A_TO_X, 0, 0, 0),
        (_LOAD_HALF_X, 0, 0, 4 + owner_offset),
        (_JUMP_EQUAL, 1, 0, owner),
        (_RETURN, 0, 0, _ACCEPT),
        (_RETURN, 0, 0, _DROP),
    )
