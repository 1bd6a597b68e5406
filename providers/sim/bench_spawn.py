"""Run a program once and take its time, at the same small cost for every program.

posix_spawn, because glibc makes it from a vfork: the price does not grow with this process, as that
of fork does. The clock runs from just before the spawn until the program was reaped, its stdout
read to the end, as a container runtime would have it. stdin is filled before the clock starts, and
stderr goes to memory, so that neither costs a thread or a poll loop.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_READ_BYTES = 1 << 16
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)  # a child would inherit that


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One finished program; `exit_code` is negative where a signal ended it (-9: our time-out)."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    milliseconds: float

    def __str__(self) -> str:
        said = (self.stdout + self.stderr).decode(errors="replace").strip()
        return f"ended with {self.exit_code} after {self.milliseconds:.1f} ms: {said}"


def timed_run(
    argv: Sequence[str], env: Mapping[str, str], stdin: bytes, timeout_seconds: float = 60.0
) -> Run:
    """Run the program (an absolute path) in the calling thread's network namespace.

    ValueError if stdin does not fit into a pipe; OSError if the program cannot be started.
    """
    source = _filled_pipe(stdin)
    out, sink = os.pipe2(os.O_CLOEXEC)
    errors = os.memfd_create("stderr", os.MFD_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, fd, to) for to, fd in enumerate((source, sink, errors))]
    try:
        began = time.monotonic_ns()
        pid = os.posix_spawn(
            argv[0], list(argv), env, file_actions=actions, setsigdef=_IGNORED_BY_PYTHON
        )
        os.close(sink)
        sink = -1
        stdout = _read_to_end(out, pid, timeout_seconds)
        status = os.waitpid(pid, 0)[1]
        ended = time.monotonic_ns()
        stderr = os.pread(errors, _READ_BYTES, 0)
    finally:
        for descriptor in (source, out, sink, errors):
            if descriptor >= 0:
                os.close(descriptor)
    return Run(
        exit_code=os.waitstatus_to_exitcode(status),
        stdout=stdout,
        stderr=stderr,
        milliseconds=(ended - began) / 1e6,
    )


def _filled_pipe(content: bytes) -> int:
    """The reading end of a pipe that holds the content and nothing after it."""
    source, sink = os.pipe2(os.O_CLOEXEC)
    room = fcntl.fcntl(sink, fcntl.F_GETPIPE_SZ)
    try:
        if len(content) > room:
            os.close(source)
            raise ValueError(f"stdin of {len(content)} bytes; a pipe holds {room}")
        os.write(sink, content)
    finally:
        os.close(sink)
    return source


def _read_to_end(out: int, pid: int, timeout_seconds: float) -> bytes:
    """All of stdout; a program that keeps it open for too long is killed."""
    deadline = time.monotonic() + timeout_seconds
    parts = []
    while True:
        left = max(deadline - time.monotonic(), 0.0)
        if not select.select([out], [], [], left)[0]:
            os.kill(pid, signal.SIGKILL)
            break
        part = os.read(out, _READ_BYTES)
        if not part:
            break
        parts.append(part)
    return b"".join(parts)
