"""Datagrams there and back all the time, so that a gap of a few milliseconds shows as a loss."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cni_shim.datapath.families import AF_INET6, FAMILIES, Address

from tests.netns.datapath_lab import inside

PAUSE_SECONDS = 0.01
# How long the last answers may take to come in, once nothing is sent any more.
_LAST_ANSWERS_SECONDS = 1.0
_NUMBER = struct.Struct("=I")


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """One client that asks one server, in the namespaces at these paths. `target` is where the
    client sends to, where that is not the server's own address. A fresh flow opens a connection
    for every datagram: what decides about new ones is asked each time."""

    name: str
    client_netns: str
    client: Address
    server_netns: str
    server: Address
    target: tuple[Address, int] | None = None
    is_fresh: bool = False


class _Running:
    """The sockets of a flow and what has come back."""

    def __init__(self, flow: Flow) -> None:
        self.flow = flow
        self.server = _socket(flow.server_netns, flow.server)
        port = self.server.getsockname()[1]
        address, target_port = flow.target or (flow.server, port)
        self._target = (str(address), target_port)
        self.clients: dict[socket.socket, int] = {}
        self._last: socket.socket | None = None
        self.sent: dict[int, bool] = {}
        self.sources: set[str] = set()

    def send(self) -> None:
        """Send the next number."""
        number = len(self.sent)
        self.sent[number] = False
        if self._last is None or self.flow.is_fresh:
            self._last = _socket(self.flow.client_netns, self.flow.client)
        self.clients[self._last] = number
        # No way at all is a loss like any other.
        with suppress(OSError):
            self._last.sendto(_NUMBER.pack(number), self._target)

    def hear(self, ready: socket.socket) -> None:
        """Send back what came to the server, or note what came back to a client."""
        if ready is self.server:
            data, sender = self.server.recvfrom(64)
            self.sources.add(sender[0])
            self.server.sendto(data, sender)
            return
        (number,) = _NUMBER.unpack(ready.recv(64))
        self.sent[number] = True
        if self.flow.is_fresh:
            del self.clients[ready]
            ready.close()

    def close(self) -> None:
        """Close every socket."""
        for opened in (self.server, *self.clients):
            opened.close()

    @property
    def unanswered(self) -> list[int]:
        """The numbers that have not come back."""
        return [number for number, is_back in self.sent.items() if not is_back]


class Streams:
    """Runs flows on a thread for the length of a `with` block; `lost` is known after it."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._flows = [_Running(flow) for flow in flows]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streams")
        self.lost: dict[str, list[int]] = {}
        self.sent: dict[str, int] = {}
        self.sources: dict[str, set[str]] = {}
        """Of each flow the addresses that its server was asked from."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._is_over.set()
        self._thread.join()
        self.sent = {r.flow.name: len(r.sent) for r in self._flows}
        self.lost = {r.flow.name: r.unanswered for r in self._flows if r.unanswered}
        self.sources = {r.flow.name: r.sources for r in self._flows}
        for running in self._flows:
            running.close()

    def pass_time(self, seconds: float = 0.3) -> None:
        """Let datagrams flow with nothing else going on."""
        assert not self._is_over.wait(seconds)

    def _run(self) -> None:
        while not self._is_over.is_set():
            for running in self._flows:
                running.send()
            self._pump(time.monotonic() + PAUSE_SECONDS)
        end = time.monotonic() + _LAST_ANSWERS_SECONDS
        while any(r.unanswered for r in self._flows) and time.monotonic() < end:
            self._pump(time.monotonic() + PAUSE_SECONDS)

    def _pump(self, until: float) -> None:
        while (left := until - time.monotonic()) > 0:
            poll = select.poll()
            owners: dict[int, tuple[_Running, socket.socket]] = {}
            for running in self._flows:
                for opened in (running.server, *running.clients):
                    owners[opened.fileno()] = (running, opened)
                    poll.register(opened, select.POLLIN)
            for descriptor, _ in poll.poll(max(1, int(left * 1000))):
                owner, ready = owners[descriptor]
                owner.hear(ready)


def _socket(netns_path: str, address: Address) -> socket.socket:
    descriptor = os.open(netns_path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(descriptor):
            made = socket.socket(FAMILIES[address.version], socket.SOCK_DGRAM)
            if FAMILIES[address.version] == AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((str(address), 0))
    finally:
        os.close(descriptor)
    return made
