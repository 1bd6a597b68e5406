"""Whether aws-node's agent runs on this node: two agents would hand out the same addresses.

Asked once, before ipamd serves. A socket file without a process behind it is no obstacle.
"""

from __future__ import annotations

import socket
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ipamd.errors import SettingsError

CONNECT_SECONDS = 2.0
"""A local connect takes microseconds; one that hangs has a process behind it all the same."""

TCP_PORT = 50051
"""Where the agent listened, on 127.0.0.1, before amazon-vpc-cni-k8s v1.23.0."""

HEALTH_SERVICE = "grpc.health.v1.aws-node"
"""The health service's name in the agent. Others use port 50051 as well; none answers to this."""


def refuse_beside_peer(path: Path | None, *, tcp_port: int = TCP_PORT) -> None:
    """Raise SettingsError while aws-node's agent answers; None as path means not to look."""
    if path is None:
        return
    place = str(path) if answers(path) else _tcp_place(tcp_port)
    if place:
        raise SettingsError(
            f"aws-node answers on {place}: two agents on one node would give the same addresses "
            "to different pods. Remove aws-node from this node first (docs/migration.md); only if "
            "that is not aws-node, set VPC_IPAMD_PEER_SOCKET to an empty value"
        )


def answers(path: Path) -> bool:
    """Whether a process listens on a unix socket. SettingsError where that cannot be told."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except TimeoutError:
            return True
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except OSError as e:
            raise SettingsError(
                f"cannot tell whether aws-node is running: connecting to {path}: {e}"
            ) from e
    return True


def _tcp_place(port: int) -> str:
    """The address of an agent older than v1.23.0, or an empty string."""
    place = f"127.0.0.1:{port}"
    try:
        socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS).close()
    except OSError:
        return ""
    with grpc.insecure_channel(place) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            stub.Check(
                health_pb2.HealthCheckRequest(service=HEALTH_SERVICE), timeout=CONNECT_SECONDS
            )
        except grpc.RpcError:
            return ""  # another program's port
    return place
