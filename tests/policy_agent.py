"""A network policy agent on a real unix socket: it keeps a diary, and says no, hangs or dies."""

from __future__ import annotations

import threading
from concurrent import futures
from pathlib import Path

import grpc
from compat import rpc_pb2 as pb
from compat import rpc_pb2_grpc as pb_grpc


class FakePolicyAgent(pb_grpc.NPBackendServicer):
    """`start` and `stop` any number of times. While `go_on` is not set, no call ends."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.diary: list[str] = []
        self.refuses: set[str] = set()  # names of methods that answer without success
        self.fails: set[str] = set()  # names of methods that end with an error
        self.go_on = threading.Event()
        self.go_on.set()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        self.path.unlink(missing_ok=True)
        self._server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
        pb_grpc.add_NPBackendServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{self.path}")
        self._server.start()

    def stop(self) -> None:
        """Its socket file stays, as after a crash."""
        self.go_on.set()
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None
        self.path.touch()

    def _enter(
        self,
        method: str,
        request: pb.EnforceNpRequest | pb.DeleteNpRequest,
        context: grpc.ServicerContext,
    ) -> bool:
        pod = f"{request.K8S_POD_NAMESPACE}/{request.K8S_POD_NAME}"
        mode = (
            f" {request.NETWORK_POLICY_MODE} {request.InterfaceCount}"
            if isinstance(request, pb.EnforceNpRequest)
            else ""
        )
        self.diary.append(f"{method} {pod}{mode}")
        self.go_on.wait(30)
        if method in self.fails:
            context.abort(grpc.StatusCode.INTERNAL, "no program could be loaded")
        return method not in self.refuses

    def EnforceNpToPod(  # noqa: N802 - the contract's name
        self, request: pb.EnforceNpRequest, context: grpc.ServicerContext
    ) -> pb.EnforceNpReply:
        return pb.EnforceNpReply(Success=self._enter("enforce", request, context))

    def DeletePodNp(  # noqa: N802 - the contract's name
        self, request: pb.DeleteNpRequest, context: grpc.ServicerContext
    ) -> pb.DeleteNpReply:
        return pb.DeleteNpReply(Success=self._enter("delete", request, context))
