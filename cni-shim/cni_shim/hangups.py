"""Notices that a launcher died while its verb runs: the end of its connection.

One thread and one epoll for all connections. A launcher keeps its sending side open until it has
its answer, so a hang-up means that the runtime killed it, and whatever it asked for must be undone.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import structlog

log = structlog.get_logger()

_EVENTS = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR | select.EPOLLONESHOT


class Hangups:
    """Watches connections; callbacks run on the watching thread and must be short."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._callbacks: dict[int, Callable[[], None]] = {}
        self._lock = threading.Lock()
        threading.Thread(target=self._watch, name="hangups", daemon=True).start()

    @contextmanager
    def watched(self, connection: socket.socket, callback: Callable[[], None]) -> Iterator[None]:
        """Call `callback` once if the peer goes away within the block."""
        descriptor = connection.fileno()
        with self._lock:
            self._callbacks[descriptor] = callback
        self._epoll.register(descriptor, _EVENTS)
        try:
            yield
        finally:
            with suppress(OSError):
                self._epoll.unregister(descriptor)
            with self._lock:
                del self._callbacks[descriptor]

    def _watch(self) -> None:
        while True:
            for descriptor, _ in self._epoll.poll():
                with self._lock:
                    callback = self._callbacks.get(descriptor)
                    # The event may be of an earlier connection with the same number.
                    is_gone = callback is not None and _is_hung_up(descriptor)
                if callback is not None and is_gone:
                    _call(callback)


def _call(callback: Callable[[], None]) -> None:
    try:
        callback()
    except Exception:  # this thread is every launcher's, and one verb must not end it
        log.exception("hangup_not_handled")


def _is_hung_up(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)  # POLLHUP and POLLERR come unasked
    return bool(poll.poll(0))
