"""The pages over real sockets, and clients that mean no good."""

from __future__ import annotations

import socket
import struct
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ipamd.errors import SettingsError
from ipamd.http_server import MOST_CONNECTIONS, HttpServer, Page


def fail() -> tuple[str, bytes]:
    raise RuntimeError("no page")


PAGES: dict[str, Page] = {"/healthz": lambda: ("text/plain", b"ok\n"), "/broken": fail}


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = int(free.getsockname()[1])
    server = HttpServer(f"127.0.0.1:{number}", PAGES)
    server.start()
    yield number
    server.close()


def get(port: int, path: str = "/healthz") -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        body: bytes = answer.read()
        return body


@pytest.mark.parametrize("path", ["/healthz", "/healthz/", "/healthz?verbose"])
def test_a_page_is_served(port: int, path: str) -> None:
    assert get(port, path) == b"ok\n"


def test_a_page_that_is_none_names_those_that_are(port: int) -> None:
    with pytest.raises(urllib.error.HTTPError, match="404") as caught:
        get(port, "/nothing")
    assert b"/broken /healthz" in caught.value.read()
    caught.value.close()


def test_beside_connections_that_say_nothing_the_next_one_is_served(port: int) -> None:
    """Any pod can open them; the probe must not wait, nor the process run out of descriptors."""
    with ExitStack() as stack:
        idle = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=5))
            for _ in range(MOST_CONNECTIONS * 2)
        ]
        assert get(port) == b"ok\n"
        assert [each.recv(1) for each in idle[:MOST_CONNECTIONS]] == [b""] * MOST_CONNECTIONS
        idle[-1].sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert idle[-1].recv(12) == b"HTTP/1.0 200"


def test_a_client_that_breaks_off_is_no_news(port: int, capfd: pytest.CaptureFixture[str]) -> None:
    with capture_logs() as logs:
        for _ in range(5):
            client = socket.create_connection(("127.0.0.1", port), timeout=5)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.sendall(b"GET /healthz HTTP/1.0\r\n")
            client.close()  # with a reset
        assert get(port) == b"ok\n"
    assert (logs, capfd.readouterr().err) == ([], "")


def test_a_page_that_fails_is_logged(port: int) -> None:
    with capture_logs() as logs:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            client.sendall(b"GET /broken HTTP/1.0\r\n\r\n")
            assert client.recv(1) == b""
        deadline = time.monotonic() + 5
        while not logs and time.monotonic() < deadline:
            time.sleep(0.001)
    assert [line["event"] for line in logs] == ["http_failed"]


def test_a_unix_socket_serves_the_same_to_its_group_alone(tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    server = HttpServer(f"unix:{path}", PAGES)
    server.start()
    assert path.stat().st_mode & 0o777 == 0o660
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert client.recv(12) == b"HTTP/1.0 200"
    server.close()


def test_no_address_is_no_listener() -> None:
    server = HttpServer("", PAGES)
    server.start()
    assert server._server is None
    server.close()


def test_an_address_in_use_is_named(port: int) -> None:
    with pytest.raises(SettingsError, match=f"cannot listen on 127.0.0.1:{port}"):
        HttpServer(f"127.0.0.1:{port}", PAGES)
