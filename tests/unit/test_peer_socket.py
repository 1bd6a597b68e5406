"""Whether aws-node's agent is noticed, and nothing else taken for it."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from ipamd.errors import SettingsError
from ipamd.peer_socket import refuse_beside_peer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ipamd.sock"


@contextmanager
def listening(path: Path) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        yield


@contextmanager
def health_server(*services: str) -> Iterator[int]:
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=1))
    checks = health.HealthServicer()
    for service in services:
        checks.set(service, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield port
    finally:
        server.stop(0).wait()


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def test_an_agent_that_listens_refuses_the_start_and_says_what_to_do(
    path: Path, free_port: int
) -> None:
    with listening(path), pytest.raises(SettingsError) as caught:
        refuse_beside_peer(path, tcp_port=free_port)
    assert str(path) in str(caught.value)
    assert "Remove aws-node from this node first" in str(caught.value)


def test_a_socket_that_nobody_serves_is_no_obstacle(path: Path, free_port: int) -> None:
    with listening(path):
        pass
    assert path.is_socket()
    refuse_beside_peer(path, tcp_port=free_port)
    assert path.is_socket(), "whether it may go is for whoever binds there"


@pytest.mark.parametrize("what", ["no file", "no directory", "a plain file"])
def test_what_is_no_socket_is_no_obstacle(tmp_path: Path, what: str, free_port: int) -> None:
    plain = tmp_path / "file"
    plain.touch()
    paths = {"no file": tmp_path / "a", "no directory": plain / "b", "a plain file": plain}
    refuse_beside_peer(paths[what], tcp_port=free_port)
    assert plain.exists()


def test_a_socket_that_cannot_be_asked_refuses_the_start(tmp_path: Path, free_port: int) -> None:
    too_long = tmp_path / ("a" * 120)
    with pytest.raises(SettingsError, match="cannot tell whether aws-node is running"):
        refuse_beside_peer(too_long, tcp_port=free_port)


def test_an_agent_older_than_its_socket_is_found_on_its_port(path: Path) -> None:
    with (
        health_server("", "grpc.health.v1.aws-node") as port,
        pytest.raises(SettingsError, match=f"127.0.0.1:{port}"),
    ):
        refuse_beside_peer(path, tcp_port=port)


def test_another_program_on_that_port_is_no_agent(path: Path) -> None:
    with health_server("", "some.other.Service") as port:
        assert refuse_beside_peer(path, tcp_port=port) is None  # type: ignore[func-returns-value]


def test_a_user_who_says_so_is_not_asked_about(path: Path) -> None:
    with health_server("grpc.health.v1.aws-node") as port:
        assert refuse_beside_peer(None, tcp_port=port) is None  # type: ignore[func-returns-value]
