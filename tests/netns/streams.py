"""Datagrams there and back all the time, so that a gap of a few milliseconds shows as a loss."""

from __future__ import annotations

import os
import select
import socket
import struct
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
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
    client sends to, where that is not the server's own address."""

    name: str
    client_netns: str
    client: Address
    server_netns: str
    server: Address
    target: tuple[Address, int] | None = None


class _Running:
    """The sockets of a flow and what has come back."""

    def __init__(self, flow: Flow, stack: ExitStack) -> None:
        self.flow = flow
        self.server = stack.enter_context(_socket(flow.server_netns, flow.server))
        self.client = stack.enter_context(_socket(flow.client_netns, flow.client))
        port = self.server.getsockname()[1]
        address, target_port = flow.target or (flow.server, port)
        self._target = (str(address), target_port)
        self.sent: dict[int, bool] = {}
        self.refused: list[str] = []

    def send(self) -> None:
        """Send the next number."""
        number = len(self.sent)
        self.sent[number] = False
        try:
            self.client.sendto(_NUMBER.pack(number), self._target)
        except OSError as e:
            self.refused.append(str(e))

    def echo(self) -> None:
        """Send back what came to the server."""
        data, sender = self.server.recvfrom(64)
        self.server.sendto(data, sender)

    def take(self) -> None:
        """Note an answer."""
        (number,) = _NUMBER.unpack(self.client.recv(64))
        self.sent[number] = True

    @property
    def unanswered(self) -> list[int]:
        """The numbers that have not come back."""
        return [number for number, is_back in self.sent.items() if not is_back]


class Streams:
    """Runs flows on a thread for the length of a `with` block; `lost` is known after it."""

    def __init__(self, flows: Sequence[Flow]) -> None:
        self._stack = ExitStack()
        self._flows = [_Running(flow, self._stack) for flow in flows]
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="streams")
        self.lost: dict[str, list[int]] = {}
        self.sent: dict[str, int] = {}

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
        self._stack.close()

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
        handlers = {r.server: r.echo for r in self._flows} | {r.client: r.take for r in self._flows}
        while (left := until - time.monotonic()) > 0:
            for ready in select.select(list(handlers), [], [], left)[0]:
                handlers[ready]()


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
