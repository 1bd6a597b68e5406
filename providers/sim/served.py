"""What the process of an emulated cloud is made of, whichever cloud it is: options, doors, signals.

`server` (EC2) and `azure_server` (Azure) say what answers at which address; what is here makes the
sockets, in the fabric's namespace or on loopback, and ends in good order on SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
from abc import abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from providers.sim.control import ControlServer
from providers.sim.http_door import Door, Responder
from providers.sim.model import Fabric

# Where both clouds have their metadata service.
IMDS_ADDRESS = "169.254.169.254"
LOOPBACK = "127.0.0.1"
HTTP = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    directory: Path
    fabric: str = ""
    seed: int = 0
    buckets: str = "off"


class Server(Protocol):
    """What serves from `open` until `close`."""

    def open(self) -> None:
        """Begin to serve."""

    def close(self) -> None:
        """Stop."""


class ServedCloud(contextlib.ExitStack):
    """Everything that serves; a context manager whose end stops all of it, last opened first.

    `ready`: what the process says when it serves.
    """

    def __init__(self, options: Options) -> None:
        super().__init__()
        self.options = options
        self.fabric: Fabric | None = None
        self.ready: dict[str, str | bool] = {}

    @abstractmethod
    def open(self) -> None:
        """Serve; on an error what was begun is undone by the context's end."""

    def make_fabric(self) -> None:
        """Make the fabric that the options ask for, if they ask for one."""
        if not self.options.fabric:
            return
        # Imported late: netlink is of no use, and not always present, without a fabric.
        from providers.sim import fabric as fabric_module

        fabric: Fabric = fabric_module.Fabric(self.options.fabric)
        fabric.create()
        self.fabric = fabric
        self.callback(fabric.destroy)

    def listening(self, address: str, port: int) -> socket.socket:
        """A listening socket at this place of the fabric; without one at any port of loopback."""
        if self.fabric is None:
            return socket.create_server((LOOPBACK, 0))
        return self.fabric.listening_socket(address, port)

    def keep(self, server: Server) -> None:
        """Let it serve until the end."""
        server.open()
        self.callback(server.close)

    def serve_http(self, address: str, respond: Responder) -> str:
        """Answer HTTP at an address; returns "host:port"."""
        listening = self.listening(address, HTTP)
        self.keep(Door(listening, respond))
        return where(listening)

    def serve_control(self, calls: object, names: Collection[str]) -> None:
        """Answer at DIR/control.sock with the methods of `calls` that are named."""
        path = self.options.directory / "control.sock"
        self.keep(ControlServer(path, {name: getattr(calls, name) for name in names}))


def where(listening: socket.socket) -> str:
    """The "host:port" of a socket."""
    host, port = listening.getsockname()[:2]
    return f"{host}:{port}"


def parsed(
    arguments: Sequence[str], *, program: str, about: str, buckets: Collection[str]
) -> Options:
    """The command line, read; wrong ones end the program as argparse does.

    `about` is its help, `buckets` the profiles of throttling that the cloud knows.
    """
    parser = argparse.ArgumentParser(prog=program, description=about)
    parser.add_argument("--dir", required=True, type=Path, help="where control.sock and keys go")
    parser.add_argument("--fabric", default="", help="the namespace that shall play the network")
    parser.add_argument("--seed", default=0, type=int, help="ids and MACs repeat with it")
    parser.add_argument(
        "--buckets", default="off", choices=buckets, help="throttle by the cloud's request buckets"
    )
    given = parser.parse_args(arguments)
    return Options(directory=given.dir, fabric=given.fabric, seed=given.seed, buckets=given.buckets)


def serve(options: Options, made: Callable[[Options], ServedCloud]) -> int:
    """Serve the cloud that `made` makes until a signal says stop; returns the exit code."""
    options.directory.mkdir(parents=True, exist_ok=True)
    # Blocked before the first thread starts, so that only sigwait below takes them.
    stop_signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    with made(options) as cloud:
        cloud.open()
        print(json.dumps(cloud.ready), flush=True)
        signal.sigwait(stop_signals)
    return 0
