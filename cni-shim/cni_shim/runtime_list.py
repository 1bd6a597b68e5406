"""Which pod sandboxes the container runtime has, asked by the CRI.

ListPodSandbox of `runtime.v1`, as containerd 1.6 and later and CRI-O serve it. A node may have more
than one of the sockets; their lists are one only when all that are there answer, since a sandbox
that is missing in one may be another's.
"""

from __future__ import annotations

from pathlib import Path

import grpc
from cri_api import runtime_pb2 as cri
from cri_api import runtime_pb2_grpc as cri_grpc

ANSWER_SECONDS = 2.0
"""A list takes milliseconds. A runtime that is still starting is asked at the next look."""

_CHANNEL_OPTIONS = (
    # What the kubelet allows an answer of a runtime (pkg/kubelet/cri/remote, maxMsgSize).
    ("grpc.max_receive_message_length", 16 << 20),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.enable_http_proxy", 0),
)


class RuntimeUnseen(Exception):
    """No list could be had; the text says of which socket and why."""


class RuntimeList:
    """The sandboxes of this node's runtimes. One thread at a time."""

    def __init__(self, sockets: tuple[Path, ...]) -> None:
        self._sockets = sockets
        self._channels: dict[Path, grpc.Channel] = {}

    def close(self) -> None:
        """Close the connections."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def sandboxes(self) -> dict[str, bool]:
        """Whether each sandbox is ready, by id, whatever their state. Raises RuntimeUnseen."""
        found: dict[str, bool] = {}
        sockets = [path for path in self._sockets if path.is_socket()]
        if not sockets:
            names = ", ".join(map(str, self._sockets)) or "none is set"
            raise RuntimeUnseen(f"no socket of a runtime is there ({names})")
        for path in sockets:
            found |= self._ask(path)
        return found

    def _ask(self, path: Path) -> dict[str, bool]:
        stub = cri_grpc.RuntimeServiceStub(self._channel(path))
        try:
            reply = stub.ListPodSandbox(cri.ListPodSandboxRequest(), timeout=ANSWER_SECONDS)
        except grpc.RpcError as e:
            raise RuntimeUnseen(f"{path}: {_said(e)}") from e
        if any(not sandbox.id for sandbox in reply.items):
            raise RuntimeUnseen(f"{path}: a sandbox without an id; is this a CRI socket?")
        return {s.id: s.state == cri.SANDBOX_READY for s in reply.items}

    def _channel(self, path: Path) -> grpc.Channel:
        if path not in self._channels:
            self._channels[path] = grpc.insecure_channel(f"unix:{path}", options=_CHANNEL_OPTIONS)
        return self._channels[path]


def _said(error: grpc.RpcError) -> str:
    assert isinstance(error, grpc.Call)
    return f"{error.code().name}: {error.details()}"
