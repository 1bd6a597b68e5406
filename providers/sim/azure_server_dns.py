"""DNS over UDP and TCP for the wireserver: sockets made elsewhere, one thread for both."""

from __future__ import annotations

import contextlib
import selectors
import socket
import struct
import threading
from collections.abc import Callable

# The answer to one DNS message from this address; None: none is given.
Resolve = Callable[[bytes, str], bytes | None]

_LENGTH = struct.Struct(">H")  # RFC 1035, 4.2.2: what precedes a message on TCP
_LONGEST_UDP = 4096  # RFC 6891, 6.2.5: what most clients offer
# A client that opens a connection and does not ask is hung up on; it holds up the next one.
_PATIENCE_SECONDS = 2.0


class DnsServer:
    """Answers on both sockets until `close`."""

    def __init__(
        self, datagrams: socket.socket, listening: socket.socket, resolve: Resolve
    ) -> None:
        self._datagrams = datagrams
        self._listening = listening
        self._resolve = resolve
        self._stop, self._stopped = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, name="dns", daemon=True)

    def open(self) -> None:
        """Begin to serve."""
        self._thread.start()

    def close(self) -> None:
        """Stop, and close the sockets."""
        self._stop.send(b"x")
        self._thread.join()
        for one in (self._datagrams, self._listening, self._stop, self._stopped):
            one.close()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            for one in (self._datagrams, self._listening, self._stopped):
                selector.register(one, selectors.EVENT_READ)
            while True:
                ready = [key.fileobj for key, _ in selector.select()]
                if self._stopped in ready:
                    return
                # A client that has gone is none of our errors.
                with contextlib.suppress(OSError):
                    if self._datagrams in ready:
                        self._answer_datagram()
                    if self._listening in ready:
                        self._answer_connection()

    def _answer_datagram(self) -> None:
        message, peer = self._datagrams.recvfrom(_LONGEST_UDP)
        if answer := self._resolve(message, peer[0]):
            self._datagrams.sendto(answer, peer)

    def _answer_connection(self) -> None:
        connection, peer = self._listening.accept()
        with connection:
            connection.settimeout(_PATIENCE_SECONDS)
            with connection.makefile("rb") as asked:
                head = asked.read(_LENGTH.size)
                if len(head) < _LENGTH.size:
                    return
                message = asked.read(_LENGTH.unpack(head)[0])
            if answer := self._resolve(message, peer[0]):
                connection.sendall(_LENGTH.pack(len(answer)) + answer)
