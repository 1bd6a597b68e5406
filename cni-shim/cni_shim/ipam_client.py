"""ipamd as the verbs see it: blocking calls that outlast its restarts, with errors by reaction.

One channel for the process. A call that fails because ipamd is away is repeated until its deadline:
an upgrade restarts it within a second or two, and Allocate and Release are idempotent by key and
attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import grpc
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import ipam_pb2_grpc as pb_grpc

from cni_shim.errors import CniError, from_ipamd

T = TypeVar("T")

ERROR_METADATA = "ipam-error-bin"
RETRY_SECONDS = 0.05

# The defaults wait up to 20 s before trying again to connect; a restart of ipamd takes one.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.enable_http_proxy", 0),
)


class IpamdError(Exception):
    """ipamd answered with an error, or not at all. `cni` is what it means to a runtime."""

    def __init__(self, status: grpc.StatusCode, text: str, detail: pb.ErrorDetail | None) -> None:
        super().__init__(f"{status.name}: {text}")
        self.status = status
        self.reason = detail.reason if detail else pb.ErrorDetail.REASON_UNSPECIFIED
        self.cni: CniError = from_ipamd(status.name, text, detail)

    @property
    def is_away(self) -> bool:
        """True when nobody answered, so that the call may be repeated or queued."""
        return self.reason == pb.ErrorDetail.REASON_UNSPECIFIED and self.status in (
            grpc.StatusCode.UNAVAILABLE,
            grpc.StatusCode.DEADLINE_EXCEEDED,
            grpc.StatusCode.CANCELLED,
        )


class IpamClient:
    """Calls to one ipamd. Safe from any thread."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._channel = grpc.insecure_channel(f"unix:{socket_path}", options=_CHANNEL_OPTIONS)
        self._stub = pb_grpc.IpamStub(self._channel)

    def close(self) -> None:
        """End every call in flight."""
        self._channel.close()

    def allocate(
        self, request: pb.AllocateRequest, *, deadline_monotonic: float
    ) -> pb.AllocateReply:
        """An address for the attachment; waits as long as the request and the deadline allow.

        Raises IpamdError.
        """

        def call(seconds: float) -> pb.AllocateReply:
            request.wait_seconds = max(min(request.wait_seconds, seconds - 0.5), 0.0)
            reply: pb.AllocateReply = self._stub.Allocate(request, timeout=seconds)
            return reply

        return self._until(deadline_monotonic, call)

    def release(self, request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        """Release; raises IpamdError."""

        def call(seconds: float) -> pb.ReleaseReply:
            reply: pb.ReleaseReply = self._stub.Release(request, timeout=seconds)
            return reply

        return self._until(deadline_monotonic, call)

    def get(self, key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        """The allocation under a key, None where there is none; raises IpamdError."""

        def call(seconds: float) -> pb.Allocation:
            reply: pb.Allocation = self._stub.Get(pb.GetRequest(key=key), timeout=seconds)
            return reply

        try:
            return self._until(deadline_monotonic, call)
        except IpamdError as e:
            if e.status is grpc.StatusCode.NOT_FOUND:
                return None
            raise

    def list(self, *, deadline_monotonic: float) -> pb.ListReply:
        """Every allocation; raises IpamdError."""

        def call(seconds: float) -> pb.ListReply:
            reply: pb.ListReply = self._stub.List(pb.ListRequest(), timeout=seconds)
            return reply

        return self._until(deadline_monotonic, call)

    def report(self, request: pb.ReportNodeRequest, *, seconds: float) -> pb.ReportNodeReply:
        """One report; raises IpamdError."""
        try:
            reply: pb.ReportNodeReply = self._stub.ReportNode(request, timeout=seconds)
        except grpc.RpcError as e:
            raise _error(e) from e
        return reply

    def watch(self) -> Iterator[pb.NodeNetwork]:
        """The wanted network, now and after each change; raises IpamdError when the stream ends."""
        try:
            yield from self._stub.WatchNode(pb.WatchNodeRequest(), wait_for_ready=True)
        except grpc.RpcError as e:
            raise _error(e) from e

    def _until(self, deadline_monotonic: float, call: Callable[[float], T]) -> T:
        while True:
            left = deadline_monotonic - time.monotonic()
            try:
                return call(max(left, 0.001))
            except grpc.RpcError as e:
                error = _error(e)
                if not error.is_away or left <= RETRY_SECONDS:
                    raise error from e
            time.sleep(RETRY_SECONDS)


def _error(error: grpc.RpcError) -> IpamdError:
    assert isinstance(error, grpc.Call)
    detail = None
    for name, value in error.trailing_metadata() or ():
        if name == ERROR_METADATA and isinstance(value, bytes):
            detail = pb.ErrorDetail.FromString(value)
    return IpamdError(error.code(), error.details() or "", detail)
