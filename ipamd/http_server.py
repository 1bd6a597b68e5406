"""/metrics and /healthz for Prometheus and probes, /v1/enis for people.

Runs in threads of its own on the standard library's server; it only reads values that the loop has
finished making (the ledger is immutable), so it can neither block nor tear anything.
"""

from __future__ import annotations

import json
import socketserver
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from ipamd.errors import SettingsError
from ipamd.pool.ledger import Ledger

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


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


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
                self._server = ThreadingHTTPServer((host, int(port)), handler)
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
