"""A double of the Kubernetes API server: pods over TLS, with the checks that a real one makes."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

TOKEN = "eyJ.test.token"


@dataclass
class FakeApiServer:
    """Answers GETs of pods to whoever has the token; `trouble` makes it misbehave."""

    service_account: Path
    port: int = 0
    pods: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    token: str = TOKEN
    trouble: str = ""  # redirect, huge, drip, garbage, hang, forbidden
    asked: list[str] = field(default_factory=list)

    def environ(self) -> dict[str, str]:
        return {
            "KUBERNETES_SERVICE_HOST": "127.0.0.1",
            "KUBERNETES_SERVICE_PORT": str(self.port),
            "VPC_IPAMD_SERVICE_ACCOUNT_DIR": str(self.service_account),
        }

    def put(
        self,
        name: str,
        *,
        uid: str = "u",
        annotations: Mapping[str, str] | None = None,
        limits: tuple[Mapping[str, str], ...] = ({"cpu": "1"},),
    ) -> None:
        """A pod of namespace default, a container for each of its limits."""
        self.pods[f"/api/v1/namespaces/default/pods/{name}"] = {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": name, "uid": uid, "annotations": dict(annotations or {})},
            "spec": {"containers": [{"resources": {"limits": dict(each)}} for each in limits]},
        }


def _handler(server: FakeApiServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def handle(self) -> None:
            try:
                super().handle()
            except OSError:
                return  # a client that went away, or does not trust us: what tests are about

        def do_GET(self) -> None:
            server.asked.append(self.path)
            if self.headers.get("Authorization") != f"Bearer {server.token}":
                self._status(401, "Unauthorized")
            elif server.trouble:
                self._misbehave()
            elif self.path in server.pods:
                self._send(200, json.dumps(server.pods[self.path]).encode())
            else:
                self._status(404, f'pods "{self.path.rpartition("/")[2]}" not found')

        def _misbehave(self) -> None:
            match server.trouble:
                case "redirect":
                    self.send_response(302)
                    self.send_header("Location", f"https://127.0.0.1:{server.port}/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                case "huge":
                    self._send(200, b'{"kind": "Pod", "x": "' + b"x" * (5 << 20) + b'"}')
                case "drip":
                    self.send_response(200)
                    self.send_header("Content-Length", "1000")
                    self.end_headers()
                    for _ in range(100):
                        self.wfile.write(b" ")
                        time.sleep(0.1)
                case "garbage":
                    self._send(200, b"<html>")
                case "hang":
                    time.sleep(3)
                case "forbidden":
                    self._status(403, "pods is forbidden: vpc-ipamd cannot get resource pods")

        def _status(self, code: int, message: str) -> None:
            document = {"kind": "Status", "status": "Failure", "message": message, "code": code}
            self._send(code, json.dumps(document).encode())

        def _send(self, code: int, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    return Handler


class _Server(ThreadingHTTPServer):
    """The handshake is its handler's, so that a client that fails it stops nobody else."""

    daemon_threads = True
    tls: ssl.SSLContext

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        wrapped = self.tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return wrapped, address

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that goes away, or does not trust us, is what tests are about."""


@contextmanager
def serving(directory: Path, *, host: str = "127.0.0.1") -> Iterator[FakeApiServer]:
    """One that listens on 127.0.0.1, with a certificate for `host`, and its service account."""
    key, certificate = _certificate(host)
    (directory / "key.pem").write_bytes(key)
    (directory / "ca.crt").write_bytes(certificate)
    (directory / "token").write_text(TOKEN + "\n")
    made = FakeApiServer(service_account=directory)
    server = _Server(("127.0.0.1", 0), _handler(made))
    server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.tls.load_cert_chain(directory / "ca.crt", directory / "key.pem")
    made.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


def _certificate(host: str) -> tuple[bytes, bytes]:
    """A key and a certificate that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kube-apiserver")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)
