"""The control socket of the emulated cloud: JSON lines, one call and one answer each.

Request: {"call": name, "args": {...}}. Answer: {"value": ...} or {"error": text}. The socket is
0600: whoever can open it owns the cloud. `ControlClient` imports nothing heavy, so that tests and
the demo can use it from any process.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

# What every emulated cloud can be asked; what more EC2's and Azure's can, `control_calls` and
# `azure_control` say.
CALLS = (
    "make_vpc",
    "add_node",
    "remove_node",
    "set_delays",
    "set_fault",
    "set_imds_fault",
    "clear_faults",
    "fill_subnet",
    "free_addresses",
    "fragment_subnet",
    "set_buckets",
    "throttled",
    "calls",
    "reset_calls",
    "dropped",
    "reset_dropped",
    "state",
)
# An add_node makes a veth pair; everything else is far below a second.
CLIENT_TIMEOUT_SECONDS = 30.0


class ControlError(Exception):
    """The emulator refused a control call; the text is the server's."""


class ControlClient:
    """Calls the emulator in another process. One connection per call: nothing to keep or close."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = os.fspath(path)

    def call(self, name: str, /, **args: Any) -> Any:
        """The call's value; `ControlError` when the emulator refuses or is not there."""
        request = json.dumps({"call": name, "args": args}).encode() + b"\n"
        try:
            line = self._exchange(request)
        except OSError as error:
            raise ControlError(f"{self._path}: {error}") from error
        if not line:
            raise ControlError(f"{self._path}: the emulator hung up")
        answer = json.loads(line)
        if "error" in answer:
            raise ControlError(answer["error"])
        return answer["value"]

    def _exchange(self, request: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(CLIENT_TIMEOUT_SECONDS)
            connection.connect(self._path)
            connection.sendall(request)
            with connection.makefile("rb") as answers:
                return answers.readline()


class ControlServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """Serves `calls` (name to function) until `close`."""

    daemon_threads = True

    def __init__(self, path: Path, calls: Mapping[str, Callable[..., Any]]) -> None:
        self._path = path
        self.calls = calls
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            super().__init__(str(path), _ControlHandler)
        finally:
            os.umask(before)
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.05}, name="control", daemon=True
        )

    def open(self) -> None:
        """Begin to serve, in threads."""
        self._thread.start()

    def close(self) -> None:
        """Stop and remove the socket."""
        self.shutdown()
        self.server_close()
        self._thread.join()
        self._path.unlink(missing_ok=True)

    def answer(self, line: bytes) -> dict[str, Any]:
        """What one request line is answered with; never raises."""
        try:
            request = json.loads(line)
            function = self.calls[request["call"]]
            return {"value": function(**request.get("args", {}))}
        except KeyError as error:
            return {"error": f"no such call or key: {error}"}
        except Exception as error:  # noqa: BLE001 - the client must hear what went wrong
            if not isinstance(error, (ValueError, TypeError)) and not hasattr(error, "code"):
                traceback.print_exc()
            return {"error": f"{type(error).__name__}: {error}"}


class _ControlHandler(socketserver.StreamRequestHandler):
    server: ControlServer

    def handle(self) -> None:
        """Answer line by line until the client goes."""
        with contextlib.suppress(ConnectionError):
            for line in self.rfile:
                self.wfile.write(json.dumps(self.server.answer(line)).encode() + b"\n")
