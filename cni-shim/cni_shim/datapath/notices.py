"""One thread that hears about links, and about rules, routes and addresses that others changed.

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

from cni_shim.datapath import answers, messages, notice_filter
from cni_shim.datapath.answers import Link, Message
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import Route, Rule

# linux/rtnetlink.h, RTMGRP_LINK to RTMGRP_IPV6_ROUTE, and RTNLGRP_IPV6_RULE.
_GROUPS = 1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << (19 - 1)
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
    """Somebody else deleted a routing rule; None for one of a kind that is never ours."""

    rule: Rule | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteChanged:
    """Somebody else deleted, added or replaced a route where ours stand; None as with rules."""

    route: Route | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressChanged:
    """An address was added to a link of the host, or taken from it, by somebody else."""

    ifindex: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallChanged:
    """Our nft table was changed or deleted, by whomever; see `firewall_notices`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticesLost:
    """The kernel dropped notices (ENOBUFS): whoever relies on them must look for itself."""


Notice = (
    LinkChanged
    | LinkVanished
    | RuleVanished
    | RouteChanged
    | AddressChanged
    | FirewallChanged
    | NoticesLost
)
Callback = Callable[[Notice], None]


class LinkNotices:
    """Listens in the network namespace of the thread that makes it, from `start` to `close`.

    Callbacks run on the listening thread: they must be short, block nothing and raise nothing.
    """

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_NETLINK, kind, socket.NETLINK_ROUTE)
        enlarge_buffer(self._socket)
        _attach_filter(self._socket)
        self._socket.bind((0, _GROUPS))
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
                try:
                    self._hear(message)
                except DatapathError as e:
                    # This thread is every DEL's: it goes on, and who relies on notices looks.
                    _log.warning("link_notice_unreadable: %s", e)
                    self._tell(NoticesLost())

    def _hear(self, message: Message) -> None:
        if message.kind == messages.RTM_DELLINK:
            link = answers.link_of(message.body)
            with self._lock:
                for outcome in self._waiting.get(link.ifindex, ()):
                    outcome.put(VANISHED)
            if self._callbacks:
                self._tell(LinkVanished(link=link))
        elif message.kind == messages.RTM_NEWLINK and self._callbacks:
            self._tell(LinkChanged(link=answers.link_of(message.body)))
        elif message.kind == messages.RTM_DELRULE:
            self._tell(RuleVanished(rule=answers.rule_of(message.body)))
        elif message.kind in {messages.RTM_NEWROUTE, messages.RTM_DELROUTE}:
            self._tell(RouteChanged(route=answers.route_of(message.body)))
        elif message.kind in {messages.RTM_NEWADDR, messages.RTM_DELADDR}:
            self._tell(AddressChanged(ifindex=answers.ifindex_of_address(message.body)))

    def _tell(self, notice: Notice) -> None:
        for callback in self._callbacks:
            callback(notice)


def enlarge_buffer(sock: socket.socket) -> None:
    """Ask for room for a burst. In a user namespace net.core.rmem_max is the limit.

    Notices lost for want of room are survived (NoticesLost, and the acknowledgement of a removal).
    """
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _attach_filter(sock: socket.socket) -> None:
    """Have the kernel drop what concerns nobody here: see `notice_filter`."""
    code = notice_filter.program()
    buffer = ctypes.create_string_buffer(code, len(code))
    program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))  # of 8 bytes each
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
