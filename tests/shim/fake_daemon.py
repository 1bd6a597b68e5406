"""A scripted vpc-cnid: a real unix socket, one step of the script per connection."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cni_shim import frames

PATIENCE_SECONDS = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request as it arrived; `netns` is device and inode of the fd that came with it."""

    request: frames.Request
    netns: tuple[int, int] | None


Step = Callable[["FakeDaemon", socket.socket, Call], None]


class FakeDaemon:
    """Listens from the start; the last step answers all further connections."""

    def __init__(self, run_dir: Path, *steps: Step) -> None:
        self.calls: list[Call] = []
        self.path = run_dir / "cni.sock"
        self.ended = threading.Event()
        self.problems: list[BaseException] = []
        self._steps = list(steps)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(self.path))
        self._listener.listen(64)
        self._start(self._accept)

    def wait_for_calls(self, count: int) -> None:
        """Until so many requests have arrived."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.calls) >= count, PATIENCE_SECONDS)

    def vanish(self) -> None:
        """As after SIGKILL, and without a trace of the socket: nobody listens any more."""
        self.path.unlink(missing_ok=True)
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def stop(self) -> None:
        """End everything, and fail if a step did."""
        self.ended.set()
        if self._listener.fileno() >= 0:
            self.vanish()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)
        assert not self.problems, self.problems

    def _start(self, target: Callable[..., None], *args: socket.socket) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection:
                call = self._receive(connection)
                self._next_step()(self, connection, call)
        except BaseException as e:  # noqa: BLE001  # shown by stop(): a thread has no other way
            self.problems.append(e)

    def _receive(self, connection: socket.socket) -> Call:
        request, fd = frames.recv_request(connection, time.monotonic() + PATIENCE_SECONDS)
        netns = None
        if fd is not None:
            status = os.fstat(fd)
            netns = (status.st_dev, status.st_ino)
            os.close(fd)
        call = Call(request=request, netns=netns)
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        return call

    def _next_step(self) -> Step:
        with self._changed:
            return self._steps.pop(0) if len(self._steps) > 1 else self._steps[0]


@contextmanager
def fake_daemon(run_dir: Path, *steps: Step) -> Iterator[FakeDaemon]:
    """A daemon for the length of a with block."""
    daemon = FakeDaemon(run_dir, *steps)
    try:
        yield daemon
    finally:
        daemon.stop()


def answering(stdout: bytes = b"{}\n", *, status: int = 0, stderr: bytes = b"") -> Step:
    """Answer with this."""
    answer = frames.Answer(exit_status=status, stdout=stdout, stderr=stderr)

    def step(daemon: FakeDaemon, connection: socket.socket, call: Call) -> None:
        frames.send_answer(connection, answer, time.monotonic() + PATIENCE_SECONDS)

    return step


def echoing(name: str) -> Step:
    """Answer with the value of a variable of the request."""

    def step(daemon: FakeDaemon, connection: socket.socket, call: Call) -> None:
        answering(call.request.value(name).encode())(daemon, connection, call)

    return step


def sending(data: bytes) -> Step:
    """Send these bytes, whatever they are, and hang up; with none, just hang up."""

    def step(daemon: FakeDaemon, connection: socket.socket, call: Call) -> None:
        connection.sendall(data)

    return step


def dying(data: bytes = b"") -> Step:
    """Send the start of an answer, then be gone as after SIGKILL: socket first, then connection."""

    def step(daemon: FakeDaemon, connection: socket.socket, call: Call) -> None:
        connection.sendall(data)
        daemon.vanish()

    return step


def stalling(daemon: FakeDaemon, connection: socket.socket, call: Call) -> None:
    """Never answer; hold the connection until the launcher or the test ends."""
    connection.settimeout(PATIENCE_SECONDS)
    assert connection.recv(1) == b""


def answer_header(
    magic: bytes = b"VCNA", *, protocol: int = 1, status: int = 0, stdout: int = 0, stderr: int = 0
) -> bytes:
    """The header of an answer with any fields, right or wrong."""
    return struct.pack("<4sHHII", magic, protocol, status, stdout, stderr)
