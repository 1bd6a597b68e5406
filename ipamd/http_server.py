"""/metrics and /healthz for Prometheus and probes, /v1/enis for people.

Runs in threads of its own on the standard library's server; it only reads values that the loop has
finished making (the ledger is immutable), so it can neither block nor tear anything.
"""

from __future__ import annotations

import contextlib
import json
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import structlog

from ipamd.errors import SettingsError
from ipamd.pool.ledger import Ledger

log = structlog.get_logger()

MOST_CONNECTIONS = 64
"""At once, on one listener. Those that scrape and probe a node are a handful, for milliseconds."""

Page = Callable[[], tuple[str, bytes]]
"""A page gives its content type and body."""


class _Handler(BaseHTTPRequestHandler):
    pages: Mapping[str, Page] = {}
    timeout = 10  # a client that sends nothing must not hold a thread

    def do_GET(self) -> None:
        page = self.pages.get(self.path.split("?", 1)[0].rstrip("/") or "/")
        if page is None:
            body = ("no such page; there are: " + " ".join(sorted(self.pages)) + "\n").encode()
            return self._answer(404, "text/plain", body)
        kind, body = page()
        return self._answer(200, kind, body)

    def _answer(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Scrapes are not news."""


class _Bounded(socketserver.ThreadingMixIn, socketserver.BaseServer):
    """A thread per connection; of too many the oldest ends, so that the newest is served.

    Every pod of the node may connect to the public port. Connections that dawdle would else take
    all descriptors of the process, and with them the pods' addresses; to turn new ones away would
    let them keep the liveness probe out.
    """

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS  # with the usual 5 a burst waits for TCP's second try

    def __init__(self, address: Any, handler: type[BaseHTTPRequestHandler]) -> None:
        """Bind, as the standard library's servers do."""
        self._lock = threading.Lock()
        self._connections: dict[socket.socket, None] = {}  # in the order of their coming
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Called for each connection, on the listener's thread."""
        with self._lock:
            self._connections[request] = None
            surplus = list(self._connections)[:-MOST_CONNECTIONS]
            for oldest in surplus:
                del self._connections[oldest]
        for oldest in surplus:
            with contextlib.suppress(OSError):
                oldest.shutdown(socket.SHUT_RDWR)  # its own thread meets the end, and closes it
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Called by the connection's thread when it is done."""
        with self._lock:
            self._connections.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news; whatever else it is belongs into our log."""
        del request
        error = sys.exception()
        if not isinstance(error, OSError):
            log.error("http_failed", client=str(client_address), exc_info=error)


class _TcpServer(_Bounded, HTTPServer):
    """As ThreadingHTTPServer, with a bound."""


class _UnixServer(_Bounded, socketserver.UnixStreamServer):
    """The same on a unix socket."""


class HttpServer:
    """One listener with its pages. `address` is host:port, unix:/path, or empty for none."""

    def __init__(self, address: str, pages: Mapping[str, Page]) -> None:
        self.address = address
        handler = type("Handler", (_Handler,), {"pages": pages})
        self._server: socketserver.BaseServer | None = None
        if not address:
            return
        try:
            if address.startswith("unix:"):
                path = Path(address.removeprefix("unix:"))
                path.unlink(missing_ok=True)
                self._server = _UnixServer(str(path), handler)
                path.chmod(0o660)
            else:
                host, _, port = address.rpartition(":")
                self._server = _TcpServer((host, int(port)), handler)
        except OSError as e:
            raise SettingsError(f"cannot listen on {address}: {e}") from e

    def start(self) -> None:
        """Serve in a daemon thread."""
        if self._server is not None:
            threading.Thread(
                target=self._server.serve_forever, name=f"http-{self.address}", daemon=True
            ).start()

    def close(self) -> None:
        """Stop listening."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


def enis_page(ledger: Callable[[], Ledger]) -> Page:
    """/v1/enis: every ENI with its addresses, their states and holders."""

    def page() -> tuple[str, bytes]:
        now = ledger()
        enis = [
            {
                "eni_id": eni.eni_id,
                "device_index": eni.device_index,
                "mac": eni.mac,
                "subnet_id": eni.subnet_id,
                "primary_address": str(eni.primary_address),
                "is_primary": eni.is_primary,
                "is_ready": eni.is_ready,
                "is_excluded": eni.is_excluded,
                "prefixes": sorted(str(p) for p in now.prefixes_on(eni.eni_id)),
                "addresses": {str(a.address): a.state.value for a in now.on_eni(eni.eni_id)},
            }
            for eni in sorted(now.enis.values(), key=lambda e: e.device_index)
        ]
        holders = {
            str(address): {
                "container_id": a.key.container_id,
                "ifname": a.key.ifname,
                "pod": f"{a.pod_namespace}/{a.pod_name}",
                "generation": a.generation,
            }
            for a in now.allocations.values()
            for address in a.addresses
        }
        body = {"epoch": now.epoch, "enis": enis, "allocations": holders}
        return "application/json", json.dumps(body, indent=1).encode() + b"\n"

    return page
