"""vpc-cnid's door of ipamd: the short way that all its calls take.

Format and reason: ipam_api.v1.door. The socket is 0600 and the peer's uid is checked, which grpcio
cannot do; everything else about a call is `Handlers`'s and `NodeCalls`'s, as on the gRPC door.

A peer that does not read costs one message: the next of a watch waits until the last is out, and
one that stays there for `UNREAD_SECONDS` ends the connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import structlog
from google.protobuf.message import DecodeError, Message
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from ipamd.errors import BadRequest, IpamError
from ipamd.handlers import Handlers, describe
from ipamd.node_calls import NodeCalls

log = structlog.get_logger()

UNREAD_SECONDS = 30.0
"""vpc-cnid has threads that do nothing but read; one that was stopped for longer starts anew."""

_CREDENTIALS = struct.Struct("3i")


class VerbDoor:
    """The listener and its open connections."""

    def __init__(self, handlers: Handlers, node: NodeCalls) -> None:
        self.handlers = handlers
        self.node = node
        self._server: asyncio.Server | None = None
        self._connections: set[Connection] = set()

    async def start(self, path: Path) -> None:
        """Listen on the socket, 0600 from its first instant, in place of what a dead one left."""
        with contextlib.suppress(FileNotFoundError):
            path.unlink()  # noqa: ASYNC240 - before anything is served
        before = os.umask(0o177)
        try:
            loop = asyncio.get_running_loop()
            self._server = await loop.create_unix_server(lambda: Connection(self), str(path))
        finally:
            os.umask(before)

    def opened(self, connection: Connection) -> None:
        """A peer connected."""
        self._connections.add(connection)

    def closed(self, connection: Connection) -> None:
        """A peer went."""
        self._connections.discard(connection)

    def close(self) -> None:
        """Stop listening and end every connection; calls that wait are cancelled."""
        if self._server is not None:
            self._server.close()
        for connection in tuple(self._connections):
            connection.end()


class Connection(asyncio.Protocol):
    """One peer, one call at a time."""

    def __init__(self, owner: VerbDoor) -> None:
        self._owner = owner
        self._buffer = bytearray()
        self._call: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None
        self._is_read = asyncio.Event()
        self._is_read.set()
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Check who it is: our own uid only."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        raw = transport.get_extra_info("socket").getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
        )
        pid, uid, _ = _CREDENTIALS.unpack(raw)
        if uid != os.geteuid():
            log.warning("peer_refused", pid=pid, uid=uid)
            transport.abort()
            return
        transport.set_write_buffer_limits(high=0)  # told as soon as the kernel takes no more
        self._owner.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel what the peer waited for."""
        del exc
        self._owner.closed(self)
        self.resume_writing()
        if self._call is not None:
            self._call.cancel()

    def pause_writing(self) -> None:
        """The peer does not read as fast as we write, or at all."""
        self._is_read.clear()
        loop = asyncio.get_running_loop()
        self._patience = loop.call_later(UNREAD_SECONDS, self._lose_patience)

    def resume_writing(self) -> None:
        """All is in the kernel's hands."""
        self._is_read.set()
        if self._patience is not None:
            self._patience.cancel()

    def _lose_patience(self) -> None:
        log.warning("answers_unread", seconds=UNREAD_SECONDS)
        self.end()

    def data_received(self, data: bytes) -> None:
        """Start the call once its frame is whole; end the connection on anything else."""
        self._buffer += data
        if len(self._buffer) < door.HEADER.size:
            return
        try:
            length, method = door.request_header(bytes(self._buffer[: door.HEADER.size]))
            self._start(method, door.HEADER.size + length)
        except door.DoorError as e:
            log.warning("bad_frame", error=str(e))
            self.end()

    def _start(self, method: door.Method, end: int) -> None:
        if len(self._buffer) < end:
            return
        if self._call is not None or len(self._buffer) > end:
            raise door.DoorError("a second call before the first was answered")
        if self._transport is not None and self._transport.get_write_buffer_size():
            raise door.DoorError("a call before the answers to those before it were read")
        body, self._buffer = bytes(self._buffer[door.HEADER.size : end]), bytearray()
        with self._errors_answered(method):
            reply = self._answer_now(method, body)
            if reply is None:
                self._call = asyncio.get_running_loop().create_task(self._wait(method, body))
            else:
                self._answer(reply)

    def _answer_now(self, method: door.Method, body: bytes) -> Message | None:
        """The answer to what need not wait, within this turn of the loop: a task would cost it
        another one, in which the processor cools down."""
        handlers = self._owner.handlers
        match _decoded(method, body):
            case pb.AllocateRequest() as request:
                return handlers.allocate_now(request)
            case pb.ReleaseRequest() as request:
                return handlers.release(request)
            case pb.GetRequest() as request:
                return handlers.get(request)
            case pb.ListRequest():
                return handlers.list()
            case pb.ReportNodeRequest() as request:
                return self._owner.node.report(request)
            case pb.ReportFlushedRequest() as request:
                return self._owner.node.report_flushed(request)
            case pb.WatchNodeRequest():
                return None
        raise BadRequest(f"{method.name} is not served")

    async def _wait(self, method: door.Method, body: bytes) -> None:
        with self._errors_answered(method):
            request = _decoded(method, body)
            if isinstance(request, pb.AllocateRequest):
                self._answer(await self._owner.handlers.allocate(request))
            else:
                await self._tell_changes()  # nothing else ever waits

    async def _tell_changes(self) -> None:
        async with contextlib.aclosing(self._owner.node.changes()) as changes:
            async for network in changes:
                if self._transport is not None:
                    self._transport.write(door.pack(door.Status.OK, network))
                await self._is_read.wait()

    def _answer(self, reply: Message) -> None:
        self._write(door.pack(door.Status.OK, reply))

    @contextlib.contextmanager
    def _errors_answered(self, method: door.Method) -> Iterator[None]:
        try:
            yield
        except IpamError as e:
            code, detail = describe(e)
            self._write(door.pack(int(code.value[0]), detail))
        except Exception:  # the peer must not wait for an answer that never comes
            log.exception("call_failed", method=method.name)
            self.end()

    def _write(self, frame: bytes) -> None:
        self._call = None  # before the answer is out, for the next call may follow it at once
        if self._transport is not None:
            self._transport.write(frame)

    def end(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()


def _decoded(method: door.Method, body: bytes) -> Message:
    try:
        return door.REQUESTS[method].FromString(body)
    except DecodeError as e:
        raise BadRequest(f"{method.name}: {e}") from e
