"""Doors that speak TLS with a certificate of the test's own authority."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from providers.sim.http_door import Answer
from providers.sim.tls import TlsDoor, TlsFiles, make_authority, server_context


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    return make_authority(tmp_path, now=datetime.now(UTC))


@pytest.fixture
def port(files: TlsFiles) -> Iterator[int]:
    listening = socket.create_server(("127.0.0.1", 0))
    port = int(listening.getsockname()[1])
    door = TlsDoor(
        listening, lambda call: Answer(status=200, body=call.peer.encode()), server_context(files)
    )
    door.open()
    yield port
    door.close()


def get(port: int, host: str, context: ssl.SSLContext) -> bytes:
    connection = http.client.HTTPSConnection(host, port, context=context, timeout=10)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_client_that_trusts_the_authority_is_served(
    files: TlsFiles, port: int, host: str
) -> None:
    context = ssl.create_default_context(cafile=files.ca_path)
    assert get(port, host, context) == b"127.0.0.1"


def test_a_client_that_does_not_trust_it_goes_away_without_a_word(
    port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        get(port, "127.0.0.1", ssl.create_default_context())
    assert capfd.readouterr().err == ""


def test_a_client_that_connects_and_says_nothing_holds_nobody_up(
    files: TlsFiles, port: int
) -> None:
    context = ssl.create_default_context(cafile=files.ca_path)
    with socket.create_connection(("127.0.0.1", port)):
        assert get(port, "127.0.0.1", context) == b"127.0.0.1"


def test_the_key_is_for_its_owner_only(files: TlsFiles) -> None:
    assert files.key_path.stat().st_mode & 0o077 == 0
