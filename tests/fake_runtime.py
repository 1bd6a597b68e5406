"""A container runtime's CRI socket with a list of sandboxes that a test sets."""

from __future__ import annotations

import threading
from concurrent import futures
from pathlib import Path

import grpc
from cri_api import runtime_pb2 as cri
from cri_api import runtime_pb2_grpc as cri_grpc


class FakeRuntime(cri_grpc.RuntimeServiceServicer):
    """A CRI server that has these sandboxes."""

    def __init__(self, path: Path, **sandboxes: cri.PodSandboxState) -> None:
        self.path = path
        self.sandboxes = sandboxes
        self.refusal: grpc.StatusCode | None = None
        self.asked = 0
        self.hold = threading.Event()
        self.hold.set()
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        cri_grpc.add_RuntimeServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def ListPodSandbox(  # noqa: N802 - the generated base's name
        self, request: cri.ListPodSandboxRequest, context: grpc.ServicerContext
    ) -> cri.ListPodSandboxResponse:
        self.asked += 1
        self.hold.wait(timeout=10)
        if self.refusal is not None:
            context.abort(self.refusal, "server is not initialized yet")
        return cri.ListPodSandboxResponse(
            items=[cri.PodSandbox(id=i, state=state) for i, state in self.sandboxes.items()]
        )

    def close(self) -> None:
        self.hold.set()
        self._server.stop(grace=None).wait()
