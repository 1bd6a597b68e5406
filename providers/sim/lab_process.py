"""A daemon of the lab as a real process: start, stop, kill, wait until ready, read its log."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from providers.sim import netns

_POLL_SECONDS = 0.01
_SOCKET_PATH_MAX = 107  # unix(7): sun_path has 108 bytes, the last is NUL


class LabError(Exception):
    """The lab cannot do what was asked; the text holds the end of the log where there is one."""


class Daemon:
    """One program in one namespace, restarted at will. Its output is appended to `log_path`."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        netns_path: str,
        log_path: Path,
        stdout_path: Path | None = None,
    ) -> None:
        """`stdout_path`: where stdout goes, emptied at each start, if not into the log as well."""
        self.name = name
        self.argv = tuple(argv)
        self.env = dict(env)
        self.log_path = log_path
        self._netns_path = netns_path
        self._stdout_path = stdout_path
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """The process id; LabError if it does not run."""
        if self._process is None or not self.is_running:
            raise LabError(f"{self.name} is not running")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it; it need not be ready yet. LabError if it runs already."""
        if self.is_running:
            raise LabError(f"{self.name} is running already")
        with self.log_path.open("ab") as log:
            stdout = log if self._stdout_path is None else self._stdout_path.open("wb")
            with stdout:
                # Its own session: INT from the terminal is for whoever runs the lab.
                self._process = netns.popen_in(
                    self._netns_path, self.argv, env=self.env, stdout=stdout, stderr=log,
                    cwd="/", is_session_leader=True,
                )  # fmt: skip

    def stop(self, timeout_seconds: float = 10.0) -> int | None:
        """SIGTERM and wait; its exit code, None if it did not run. LabError if it does not end."""
        if self._process is None:
            return None
        self._process.terminate()
        try:
            return self._process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise self._error(f"did not end within {timeout_seconds} s of SIGTERM") from None

    def kill(self) -> None:
        """SIGKILL to the process alone, as the out-of-memory killer would, and wait for it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def restart(self) -> None:
        """stop, then start."""
        self.stop()
        self.start()

    def close(self, timeout_seconds: float = 5.0) -> None:
        """End it and all processes it left in its session, politely first. Raises nothing."""
        if self._process is None:
            return
        with suppress(LabError):
            self.stop(timeout_seconds)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def wait_ready(self, is_ready: Callable[[], bool], timeout_seconds: float = 20.0) -> None:
        """Return once `is_ready()` holds; LabError if it dies or takes too long."""
        deadline = time.monotonic() + timeout_seconds
        while not is_ready():
            if not self.is_running:
                code = self._process.returncode if self._process else None
                raise self._error(f"ended with {code} before it was ready")
            if time.monotonic() > deadline:
                raise self._error(f"was not ready within {timeout_seconds} s")
            time.sleep(_POLL_SECONDS)

    def log_tail(self, lines: int = 30) -> str:
        """The last lines of its log."""
        if not self.log_path.exists():
            return ""
        text = self.log_path.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def _error(self, what: str) -> LabError:
        return LabError(f"{self.name} {what}; the end of {self.log_path}:\n{self.log_tail()}")


def is_listening(path: Path) -> bool:
    """Whether somebody accepts connections on the unix socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def checked_socket_path(path: Path) -> Path:
    """The path, or LabError if it is longer than a unix socket's address can be (107 bytes)."""
    length = len(os.fsencode(path))
    if length > _SOCKET_PATH_MAX:
        raise LabError(
            f"{path} has {length} bytes, a unix socket's path at most {_SOCKET_PATH_MAX}: "
            "use a shorter directory, such as one directly under /tmp"
        )
    return path
