"""A certificate authority for one test run, and doors that speak TLS with its certificate.

Unmodified SDK clients refuse to send a bearer token over plain HTTP; with this they talk real TLS
to the emulator, once REQUESTS_CA_BUNDLE (or their `connection_verify`) names `ca_path`. Keys are
made anew for each directory, are of use to nobody else, and the private ones are 0600.
"""

from __future__ import annotations

import os
import socket
import ssl
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from providers.sim.http_door import Door, Responder

# Longer than any test or demo, short enough that a forgotten file is worth nothing.
_VALID_FOR = timedelta(days=7)
_CLOCK_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: what clients trust, and what the server shows and keeps to itself."""

    ca_path: Path
    certificate_path: Path
    key_path: Path


def make_authority(
    directory: Path,
    *,
    now: datetime,
    names: Sequence[str] = ("localhost",),
    addresses: Sequence[IPv4Address] = (IPv4Address("127.0.0.1"),),
) -> TlsFiles:
    """Make a CA, and with it a server certificate for these names and addresses.

    `now` is real time with its zone: clients compare with theirs. Files that exist are replaced.
    """
    files = TlsFiles(
        ca_path=directory / "ca.pem",
        certificate_path=directory / "server.pem",
        key_path=directory / "server.key",
    )
    ca_key, key = _key(), _key()
    issuer = _subject("the emulated cloud's test CA")
    ca = _certificate_authority(issuer, ca_key, now)
    alternatives = [*map(x509.DNSName, names), *map(x509.IPAddress, addresses)]
    certificate = _server_certificate(issuer, ca_key, key, alternatives, now)
    files.ca_path.write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    files.certificate_path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_secret(files.key_path, key)
    return files


def server_context(files: TlsFiles) -> ssl.SSLContext:
    """What a server with these files speaks TLS by."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate_path, files.key_path)
    return context


class TlsDoor(Door):
    """A `Door` behind TLS. The handshake is done by the thread that serves the connection."""

    def __init__(
        self, listening: socket.socket, respond: Responder, context: ssl.SSLContext
    ) -> None:
        wrapped = context.wrap_socket(listening, server_side=True, do_handshake_on_connect=False)
        super().__init__(wrapped, respond)

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that does not trust us, or speaks no TLS, is none of our errors."""
        if not isinstance(sys.exc_info()[1], ssl.SSLError):
            super().handle_error(request, client_address)


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _certificate_authority(
    name: x509.Name, key: ec.EllipticCurvePrivateKey, now: datetime
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=False,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    return (
        _builder(name, name, key, now)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .sign(key, hashes.SHA256())
    )


def _server_certificate(
    issuer: x509.Name,
    ca_key: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    alternatives: Sequence[x509.GeneralName],
    now: datetime,
) -> x509.Certificate:
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return (
        _builder(_subject("the emulated cloud"), issuer, key, now)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(authority, critical=False)
        .sign(ca_key, hashes.SHA256())
    )


def _write_secret(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    text = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(text)
