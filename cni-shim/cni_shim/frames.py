"""The frames between the launcher and vpc-cnid: this docstring is the reference of the protocol.

One request and one answer per connection, over a unix stream socket (`<run>/cni.sock`). All numbers
are little endian.

Request, 24 bytes of header, then both blocks:

    magic        4 bytes  "VCNI"
    protocol     u16      1, or later
    flags        u16      bit 0: a netns fd rides on the first byte (SCM_RIGHTS); others are zero
    deadline_ms  u32      what was left of the verb's time when this was sent; never 0
    netns_errno  u32      why there is no fd; 0 if one is attached or none was wanted
    env_len      u32      at most 64 KiB
    stdin_len    u32      at most 4 MiB
    env          NUL-terminated KEY=VALUE strings, as given; the first of a key counts
    stdin        the bytes the runtime wrote

Answer, 16 bytes of header, then both blocks:

    magic        4 bytes  "VCNA"
    protocol     u16      the request's
    exit_status  u16      0 to 255
    stdout_len   u32      at most 4 MiB
    stderr_len   u32      at most 64 KiB
    stdout, stderr        written as they are, once the answer is complete

Both headers stay as they are in every protocol, so that each side can say what it met. vpc-cnid
serves its own protocol and the one before, and answers in the request's. What it does not serve it
refuses with code 11 in its own protocol. A launcher takes answers of its own protocol and of the
one before (1 has none before it), and prints code 11 for any other. Each is half of an upgrade, and
the runtime comes again.

The launcher keeps its sending side open until it has the answer: an end of file before that means
that it died, and its verb with it. An answer that is cut short counts as none; the launcher sends
its request again on a new connection. Frames in the delete queue are requests without an fd.

Called by the server, the delete queue and the tests. The two launchers are the other
implementation; they share no code with this one.
"""

from __future__ import annotations

import array
import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

PROTOCOL = 1
REQUEST_MAGIC = b"VCNI"
ANSWER_MAGIC = b"VCNA"
FLAG_NETNS = 1

ENV_LIMIT = 64 << 10
STDIN_LIMIT = 4 << 20  # libcni caches and passes whole results; the largest seen are some 10 KiB
STDOUT_LIMIT = 4 << 20
STDERR_LIMIT = 64 << 10

_REQUEST = struct.Struct("<4sHHIIII")
_ANSWER = struct.Struct("<4sHHII")
REQUEST_HEADER_BYTES = _REQUEST.size
ANSWER_HEADER_BYTES = _ANSWER.size

_CHUNK_BYTES = 256 << 10
# Room for more fds than allowed, so that a surplus is seen and closed rather than cut off unseen.
_ANCILLARY_BYTES = socket.CMSG_SPACE(8 * array.array("i").itemsize)


class FrameError(Exception):
    """The bytes are no frame of this protocol; the text says what is wrong with them."""


class UnknownProtocol(FrameError):
    """A frame of ours, but of a protocol that this side does not speak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvVar:
    """One environment variable; bytes that are no UTF-8 are kept by surrogateescape."""

    name: str
    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a runtime asked, as the launcher packed it. Nothing in it has been judged yet."""

    has_netns: bool = False
    deadline_ms: int
    netns_errno: int = 0
    env: tuple[EnvVar, ...]
    stdin: bytes
    protocol: int = PROTOCOL

    def value(self, name: str) -> str:
        """The variable's value; empty if it is not there, which CNI treats alike."""
        for var in self.env:  # a generator for each of a dozen questions costs twice as much
            if var.name == name:
                return var.value
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the launcher writes, and the status it exits with (0 to 255)."""

    exit_status: int
    stdout: bytes = b""
    stderr: bytes = b""

    def __post_init__(self) -> None:
        if not 0 <= self.exit_status <= 255:
            raise ValueError(f"exit status {self.exit_status} is not in 0..255")


@dataclass(frozen=True, slots=True, kw_only=True)
class _RequestHeader:
    protocol: int
    has_netns: bool
    deadline_ms: int
    netns_errno: int
    env_bytes: int
    stdin_bytes: int


def pack_request(request: Request) -> bytes:
    """The frame's bytes; `has_netns` only sets the flag, the fd travels beside them."""
    env = b"".join(
        f"{var.name}={var.value}".encode("utf-8", "surrogateescape") + b"\0" for var in request.env
    )
    _check_limit("env", len(env), ENV_LIMIT)
    _check_limit("stdin", len(request.stdin), STDIN_LIMIT)
    header = _REQUEST.pack(
        REQUEST_MAGIC,
        PROTOCOL,
        FLAG_NETNS if request.has_netns else 0,
        request.deadline_ms,
        request.netns_errno,
        len(env),
        len(request.stdin),
    )
    return header + env + request.stdin


def parse_request(frame: bytes) -> Request:
    """A whole request from its bytes; `FrameError` for anything else, a surplus included."""
    header = _parse_request_header(frame[:REQUEST_HEADER_BYTES])
    body = frame[REQUEST_HEADER_BYTES:]
    expected = header.env_bytes + header.stdin_bytes
    if len(body) != expected:
        raise FrameError(f"the frame has {len(body)} bytes after its header, which says {expected}")
    return Request(
        has_netns=header.has_netns,
        deadline_ms=header.deadline_ms,
        netns_errno=header.netns_errno,
        env=_parse_env(body[: header.env_bytes]),
        stdin=body[header.env_bytes :],
        protocol=header.protocol,
    )


def without_netns(request: Request) -> Request:
    """The same request as it goes into the delete queue, which cannot hold an fd."""
    return replace(request, has_netns=False)


def pack_answer(answer: Answer, protocol: int = PROTOCOL) -> bytes:
    """The frame's bytes; `FrameError` if stdout or stderr is over its limit."""
    _check_limit("stdout", len(answer.stdout), STDOUT_LIMIT)
    _check_limit("stderr", len(answer.stderr), STDERR_LIMIT)
    header = _ANSWER.pack(
        ANSWER_MAGIC, protocol, answer.exit_status, len(answer.stdout), len(answer.stderr)
    )
    return header + answer.stdout + answer.stderr


def parse_answer(frame: bytes) -> Answer:
    """A whole answer from its bytes; `FrameError` for anything else."""
    if len(frame) < ANSWER_HEADER_BYTES:
        raise FrameError(f"the answer has {len(frame)} bytes, its header alone {_ANSWER.size}")
    magic, protocol, status, stdout_bytes, stderr_bytes = _ANSWER.unpack_from(frame)
    _check_kind(magic, ANSWER_MAGIC, protocol)
    _check_limit("stdout", stdout_bytes, STDOUT_LIMIT)
    _check_limit("stderr", stderr_bytes, STDERR_LIMIT)
    body = frame[ANSWER_HEADER_BYTES:]
    if len(body) != stdout_bytes + stderr_bytes or status > 255:
        raise FrameError(f"the answer has {len(body)} bytes and exit status {status}")
    return Answer(exit_status=status, stdout=body[:stdout_bytes], stderr=body[stdout_bytes:])


def recv_request(sock: socket.socket, deadline_monotonic: float) -> tuple[Request, int | None]:
    """Read one request from a connection; returns it with the netns fd, which the caller owns.

    Blocks at most until `deadline_monotonic` (time.monotonic). The fd is close-on-exec. On
    `FrameError` - bad bytes, a connection that ended, the deadline, a wrong number of fds - every
    fd that came along has been closed.
    """
    fds: list[int] = []
    try:
        request = _recv_frame(sock, deadline_monotonic, fds)
        _check_fds(request, fds)
    except BaseException:
        _close_all(fds)
        raise
    return request, fds[0] if fds else None


def send_answer(
    sock: socket.socket, answer: Answer, deadline_monotonic: float, protocol: int = PROTOCOL
) -> None:
    """Write the answer, in the protocol of the request; OSError (TimeoutError too) if the launcher
    is gone or does not read."""
    _limit_wait(sock, deadline_monotonic)
    sock.sendall(pack_answer(answer, protocol))


def _recv_frame(sock: socket.socket, deadline_monotonic: float, fds: list[int]) -> Request:
    start = _recv_exactly(sock, REQUEST_HEADER_BYTES, deadline_monotonic, fds)
    header = _parse_request_header(start)
    body_bytes = header.env_bytes + header.stdin_bytes
    return parse_request(start + _recv_exactly(sock, body_bytes, deadline_monotonic, fds))


def _recv_exactly(
    sock: socket.socket, wanted: int, deadline_monotonic: float, fds: list[int]
) -> bytes:
    received = bytearray()
    while len(received) < wanted:
        chunk = _recv_chunk(sock, wanted - len(received), deadline_monotonic, fds)
        if not chunk:
            raise FrameError(f"the connection ended after {len(received)} of {wanted} bytes")
        received += chunk
    return bytes(received)


def _recv_chunk(
    sock: socket.socket, wanted: int, deadline_monotonic: float, fds: list[int]
) -> bytes:
    """One recvmsg. Even plain data is read with it: fds sent late would else be lost unseen."""
    try:
        _limit_wait(sock, deadline_monotonic)
        data, ancillary, flags, _ = sock.recvmsg(
            min(wanted, _CHUNK_BYTES), _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC
        )
    except TimeoutError as e:
        raise FrameError("the request was not complete at its deadline") from e
    except OSError as e:
        raise FrameError(f"the connection broke: {e}") from e
    fds.extend(_received_fds(ancillary))
    if flags & socket.MSG_CTRUNC:
        raise FrameError("more file descriptors came than the one that is allowed")
    return data


def _received_fds(ancillary: list[tuple[int, int, bytes]]) -> Iterator[int]:
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds = array.array("i")
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
            yield from fds


def _check_fds(request: Request, fds: list[int]) -> None:
    wanted = 1 if request.has_netns else 0
    if len(fds) != wanted:
        raise FrameError(f"the request announces {wanted} file descriptors and carries {len(fds)}")


def _close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)


def _limit_wait(sock: socket.socket, deadline_monotonic: float) -> None:
    left = deadline_monotonic - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    sock.settimeout(left)


def _parse_request_header(header: bytes) -> _RequestHeader:
    if len(header) < REQUEST_HEADER_BYTES:
        raise FrameError(f"the request has {len(header)} bytes, its header alone {_REQUEST.size}")
    magic, protocol, flags, deadline_ms, netns_errno, env_bytes, stdin_bytes = _REQUEST.unpack(
        header
    )
    _check_kind(magic, REQUEST_MAGIC, protocol)
    if flags & ~FLAG_NETNS:
        raise FrameError(f"unknown flags {flags:#x}")
    _check_limit("env", env_bytes, ENV_LIMIT)
    _check_limit("stdin", stdin_bytes, STDIN_LIMIT)
    return _RequestHeader(
        protocol=protocol,
        has_netns=bool(flags & FLAG_NETNS),
        deadline_ms=deadline_ms,
        netns_errno=netns_errno,
        env_bytes=env_bytes,
        stdin_bytes=stdin_bytes,
    )


def _check_kind(magic: bytes, expected: bytes, protocol: int) -> None:
    if magic != expected:
        raise FrameError(f"the frame begins with {magic!r} in place of {expected!r}")
    if protocol not in (PROTOCOL, PROTOCOL - 1) or protocol == 0:
        raise UnknownProtocol(f"protocol {protocol} is unknown; this side speaks {PROTOCOL}")


def _check_limit(block: str, length: int, limit: int) -> None:
    if length > limit:
        raise FrameError(f"{block} of {length} bytes is over the limit of {limit}")


def _parse_env(block: bytes) -> tuple[EnvVar, ...]:
    if not block:
        return ()
    if not block.endswith(b"\0"):
        raise FrameError("the last environment string is not NUL-terminated")
    return tuple(_parse_env_var(entry) for entry in block[:-1].split(b"\0"))


def _parse_env_var(entry: bytes) -> EnvVar:
    name, equals, value = entry.decode("utf-8", "surrogateescape").partition("=")
    if not (name and equals):
        raise FrameError(f"environment string {entry[:80]!r} is not KEY=VALUE")
    return EnvVar(name=name, value=value)
