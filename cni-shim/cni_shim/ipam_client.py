"""ipamd as the verbs see it: blocking calls that outlast its restarts, with errors by reaction.

Over the door of `ipam_api.v1.door`; nothing here is gRPC, which is 10 MB of a process's memory. A
verb's call that fails because ipamd is away is repeated until its deadline: an upgrade restarts it
within a second or two, and Allocate and Release are idempotent by key and attempt.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from google.protobuf.message import DecodeError, Message
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.errors import CniError, from_ipamd
from cni_shim.status import Silence

T = TypeVar("T")

RETRY_SECONDS = 0.05

GRACE_SECONDS = 0.5
"""A caller that gives up has told ipamd so, which then answers at once; one that hangs does not."""


class IpamdError(Exception):
    """ipamd answered with an error, or not at all. `cni` is what it means to a runtime."""

    def __init__(self, status: door.Status, text: str, detail: pb.ErrorDetail | None) -> None:
        super().__init__(f"{status.name}: {text}")
        self.status = status
        self.reason = detail.reason if detail else pb.ErrorDetail.REASON_UNSPECIFIED
        self.cni: CniError = from_ipamd(status.name, text, detail)

    @property
    def is_away(self) -> bool:
        """True when nobody answered, so that the call may be repeated or queued."""
        return self.reason == pb.ErrorDetail.REASON_UNSPECIFIED and self.status in (
            door.Status.UNAVAILABLE,
            door.Status.DEADLINE_EXCEEDED,
            door.Status.CANCELLED,
        )


def _nothing() -> None:
    """For callers that have nothing else to do."""


def _never() -> bool:
    """For callers that do not give up."""
    return False


class VerbDoorClient:
    """Blocking calls over ipamd's door; each thread keeps a connection of its own."""

    def __init__(self, socket_path: Path) -> None:
        self._socket_path = socket_path
        self._local = threading.local()

    def call(
        self,
        method: door.Method,
        request: Message,
        seconds: float,
        meanwhile: Callable[[], None] = _nothing,
        is_over: Callable[[], bool] = _never,
    ) -> Message:
        """One call. Raises IpamdError; UNAVAILABLE or DEADLINE_EXCEEDED where nobody answered.

        `meanwhile` runs once the request is out, and again where it had to be sent again. Once
        `is_over`, an answer is awaited for a moment only.
        """
        kept: socket.socket | None = getattr(self._local, "connection", None)
        try:
            if kept is not None:
                # It may be of an ipamd that has gone since: then a new connection is tried at once.
                with contextlib.suppress(ConnectionError):
                    return self._exchange(kept, method, request, seconds, meanwhile, is_over)
                self.drop()
            made = self._connect(seconds)
            return self._exchange(made, method, request, seconds, meanwhile, is_over)
        except TimeoutError:
            self.drop()
            raise IpamdError(
                door.Status.DEADLINE_EXCEEDED, f"no answer in {seconds:.1f} s", None
            ) from None
        except (OSError, door.DoorError) as e:
            self.drop()
            text = f"{self._socket_path}: {e}"
            raise IpamdError(door.Status.UNAVAILABLE, text, None) from e

    def watch(self) -> Iterator[pb.NodeNetwork]:
        """What ipamd says of the node's network, over a connection that ends with the iterator.
        Raises IpamdError: UNAVAILABLE once ipamd is gone. One that hangs is not seen here."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            try:
                connection.connect(str(self._socket_path))
                connection.sendall(door.pack(door.Method.WATCH_NODE, pb.WatchNodeRequest()))
                while True:
                    network = _answer(connection, door.Method.WATCH_NODE)
                    assert isinstance(network, pb.NodeNetwork)
                    yield network
            except (OSError, door.DoorError) as e:
                text = f"{self._socket_path}: {e}"
                raise IpamdError(door.Status.UNAVAILABLE, text, None) from e

    def _connect(self, seconds: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._local.connection = connection
        connection.settimeout(seconds)
        connection.connect(str(self._socket_path))
        return connection

    def _exchange(
        self,
        connection: socket.socket,
        method: door.Method,
        request: Message,
        seconds: float,
        meanwhile: Callable[[], None],
        is_over: Callable[[], bool],
    ) -> Message:
        connection.settimeout(seconds)
        connection.sendall(door.pack(method, request))
        try:
            meanwhile()
        except BaseException:
            self.drop()  # an answer that nobody reads must not be taken for the next one's
            raise
        _await_answer(connection, seconds, is_over)
        return _answer(connection, method)

    def drop(self) -> None:
        """Close this thread's connection."""
        connection: socket.socket | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            connection.close()


def _await_answer(connection: socket.socket, seconds: float, is_over: Callable[[], bool]) -> None:
    """Wait until there is something to read. Raises TimeoutError, soon where the caller gives up
    meanwhile."""
    if is_over is _never:
        return  # the read itself waits
    deadline = time.monotonic() + seconds
    readable = select.poll()
    readable.register(connection, select.POLLIN)
    was_over, left = False, seconds
    while not readable.poll(min(left, GRACE_SECONDS) * 1000):
        left = deadline - time.monotonic()
        if was_over or left <= 0:
            raise TimeoutError
        was_over = is_over()


def _answer(connection: socket.socket, method: door.Method) -> Message:
    """The next answer. Raises IpamdError for a no; OSError, DoorError where there is none."""
    length, status = door.answer_header(_read(connection, door.HEADER.size))
    body = _read(connection, length)
    try:
        if status is door.Status.OK:
            return door.REPLIES[method].FromString(body)
        detail = pb.ErrorDetail.FromString(body)
    except DecodeError as e:
        raise door.DoorError(f"an answer to {method.name} that is none: {e}") from e
    raise IpamdError(status, detail.message, detail)


def _read(connection: socket.socket, length: int) -> bytes:
    """Exactly so many bytes; ConnectionError where the stream ends before."""
    data = bytearray()
    while len(data) < length:
        chunk = connection.recv(length - len(data))
        if not chunk:
            raise ConnectionResetError("ipamd closed the connection")
        data += chunk
    return bytes(data)


class IpamClient:
    """Calls to one ipamd, over a connection per thread. Safe from any thread."""

    def __init__(self, socket_path: Path, silence: Silence | None = None) -> None:
        """`silence` is told of every call that had an answer, and of every one that had none."""
        self._silence = silence or Silence(seen_at=None)
        self._door = VerbDoorClient(socket_path)

    def close(self) -> None:
        """End this thread's connection."""
        self._door.drop()

    def allocate(
        self,
        request: pb.AllocateRequest,
        *,
        deadline_monotonic: float,
        meanwhile: Callable[[], None] = _nothing,
        is_over: Callable[[], bool] = _never,
    ) -> pb.AllocateReply:
        """An address for the attachment; waits as long as the request and the deadline allow.

        `meanwhile` is what the caller does while ipamd works; it may run more than once. `is_over`
        says that the caller gives up, and has told ipamd so by a release.

        Raises IpamdError.
        """

        def call(seconds: float) -> pb.AllocateReply:
            request.wait_seconds = max(min(request.wait_seconds, seconds - 0.5), 0.0)
            reply = self._door.call(door.Method.ALLOCATE, request, seconds, meanwhile, is_over)
            assert isinstance(reply, pb.AllocateReply)
            return reply

        return self._until(deadline_monotonic, call, is_over)

    def release(self, request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        """Release; raises IpamdError."""

        def call(seconds: float) -> pb.ReleaseReply:
            reply = self._door.call(door.Method.RELEASE, request, seconds)
            assert isinstance(reply, pb.ReleaseReply)
            return reply

        return self._until(deadline_monotonic, call)

    def get(self, key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        """The allocation under a key, None where there is none; raises IpamdError."""

        def call(seconds: float) -> pb.Allocation:
            reply = self._door.call(door.Method.GET, pb.GetRequest(key=key), seconds)
            assert isinstance(reply, pb.Allocation)
            return reply

        try:
            return self._until(deadline_monotonic, call)
        except IpamdError as e:
            if e.status is door.Status.NOT_FOUND:
                return None
            raise

    def list(self, *, deadline_monotonic: float) -> pb.ListReply:
        """Every allocation; raises IpamdError."""

        def call(seconds: float) -> pb.ListReply:
            reply = self._door.call(door.Method.LIST, pb.ListRequest(), seconds)
            assert isinstance(reply, pb.ListReply)
            return reply

        return self._until(deadline_monotonic, call)

    def report(self, request: pb.ReportNodeRequest, *, seconds: float) -> pb.ReportNodeReply:
        """One report; raises IpamdError."""
        try:
            reply = self._door.call(door.Method.REPORT_NODE, request, seconds)
        except IpamdError as e:
            raise self._noted(e) from None
        assert isinstance(reply, pb.ReportNodeReply)
        self._silence.heard()
        return reply

    def report_flushed(
        self, request: pb.ReportFlushedRequest, *, seconds: float
    ) -> pb.ReportFlushedReply:
        """What was cleared; raises IpamdError."""
        reply = self._door.call(door.Method.REPORT_FLUSHED, request, seconds)
        assert isinstance(reply, pb.ReportFlushedReply)
        return reply

    def watch(self) -> Iterator[pb.NodeNetwork]:
        """The wanted network, now and after each change; raises IpamdError when the stream ends."""
        try:
            for network in self._door.watch():
                self._silence.heard()
                yield network
        except IpamdError as e:
            raise self._noted(e) from None

    def _until(
        self,
        deadline_monotonic: float,
        call: Callable[[float], T],
        is_over: Callable[[], bool] = _never,
    ) -> T:
        while True:
            left = deadline_monotonic - time.monotonic()
            try:
                answer = call(max(left, 0.001))
            except IpamdError as e:
                error = self._noted(e)
            else:
                self._silence.heard()
                return answer
            if not error.is_away or left <= RETRY_SECONDS or is_over():
                raise error
            time.sleep(RETRY_SECONDS)

    def _noted(self, error: IpamdError) -> IpamdError:
        if error.is_away:
            self._silence.unheard(time.monotonic())
        else:
            self._silence.heard()
        return error
