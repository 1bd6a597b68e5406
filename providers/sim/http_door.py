"""A small threaded HTTP server for the emulators: one callable answers every request.

The standard library's server and not werkzeug's, because faults need the connection itself: held
open and closed without an answer, or answered with a low IP TTL. HTTP/1.1 with keep-alive.
"""

from __future__ import annotations

import contextlib
import http.server
import socket
import struct
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Linux' default; what a socket goes back to after an answer with a limit of its own.
DEFAULT_TTL = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request. `headers` has lower-case names; `path` includes the query."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer. `ttl` limits how many hops its packets survive; 0 means no limit."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    ttl: int = 0


Responder = Callable[[Call], Answer | None]

# Told by identity: the connection is reset, and not closed in good order as after None.
RESET = Answer(status=0)
# socket(7), SO_LINGER: on, for 0 seconds; close() then sends RST.
_LINGERS_NOT = struct.pack("ii", 1, 0)


class Door(http.server.ThreadingHTTPServer):
    """Serves a listening socket made elsewhere until `close`. An answer of None hangs up.

    One of `RESET` resets the connection.
    """

    daemon_threads = False  # close() waits for them, so that no test leaves a thread behind

    def __init__(self, listening: socket.socket, respond: Responder) -> None:
        super().__init__(listening.getsockname()[:2], _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.respond = respond
        self._open: set[socket.socket] = set()
        self._open_lock = threading.Lock()
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="door", daemon=True
        )

    def open(self) -> None:
        """Begin to serve, in threads."""
        self._thread.start()

    def close(self) -> None:
        """Stop, hang up on every connection and wait for their threads."""
        self.shutdown()
        with self._open_lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept one connection, and remember it."""
        connection, peer = super().get_request()
        with self._open_lock:
            self._open.add(connection)
        return connection, peer

    def shutdown_request(self, request: Any) -> None:
        """Forget the connection before it is closed."""
        with self._open_lock:
            self._open.discard(request)
        if _is_resetting(request):
            self.close_request(request)  # without the FIN of an orderly shutdown before it
        else:
            super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is none of our errors; anything else is shown."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def _is_resetting(connection: socket.socket) -> bool:
    lingers = connection.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, len(_LINGERS_NOT))
    return lingers == _LINGERS_NOT


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Door

    def _serve(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        call = Call(
            method=self.command,
            path=self.path,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self.rfile.read(length),
            peer=str(self.client_address[0]),
        )
        answer = self.server.respond(call)
        if answer is None or answer is RESET:
            self.close_connection = True
            if answer is RESET:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGERS_NOT)
            return
        self._limit_hops(answer.ttl or DEFAULT_TTL)
        self.wfile.write(self._head(answer) + (b"" if call.method == "HEAD" else answer.body))

    # The names are the base class's.
    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = _serve  # noqa: N815

    def _limit_hops(self, ttl: int) -> None:
        if self.connection.family == socket.AF_INET:
            self.connection.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)

    def _head(self, answer: Answer) -> bytes:
        reason = http.server.BaseHTTPRequestHandler.responses.get(answer.status, ("",))[0]
        headers = {"Date": self.date_time_string(), **answer.headers}
        headers["Content-Length"] = str(len(answer.body))
        lines = [f"HTTP/1.1 {answer.status} {reason}", *(f"{k}: {v}" for k, v in headers.items())]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing: the callers count and log."""
