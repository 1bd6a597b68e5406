"""The emulated cloud as a process: EC2, metadata service and control socket.

    python -m providers.sim.server --dir DIR [--fabric NETNS_NAME] [--seed N] [--buckets ec2]

Prints {"ready": true, "ec2": url, "imds": url} when it serves, and stops on SIGTERM or SIGINT.
With a fabric it makes the fabric's namespace, serves inside it at the addresses nodes expect, and
removes it at the end; without one it serves on loopback ports.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from moto.moto_api._internal import mock_random

from providers.sim.control import CALLS, ControlServer
from providers.sim.control_calls import ControlCalls
from providers.sim.ec2 import BUCKETS, Emulator
from providers.sim.http_door import Door
from providers.sim.imds import Imds, ImdsSettings
from providers.sim.model import Fabric

# 192.0.2.0/24 is for documentation (RFC 5737): it can be nobody's VPC.
EC2_ADDRESS = "192.0.2.10"
IMDS_ADDRESS = "169.254.169.254"
PORT = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    directory: Path
    fabric: str
    seed: int
    buckets: str = "off"


class Cloud(contextlib.ExitStack):
    """Everything that serves; a context manager whose end stops all of it, last opened first."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self.emulator = Emulator(seed=options.seed)
        self.emulator.set_buckets(options.buckets)
        self.fabric: Fabric | None = None
        self.ec2_url = ""
        self.imds_url = ""

    def open(self) -> None:
        """Serve; on an error what was begun is undone by the context's end."""
        if self._options.fabric:
            self.fabric = _make_fabric(self._options.fabric)
            self.callback(self.fabric.destroy)
            self.emulator.state.listener = self.fabric
        settings = ImdsSettings(trusts_names=self.fabric is None)
        imds = Imds(self.emulator, settings)
        self.ec2_url = self._serve(EC2_ADDRESS, self.emulator)
        self.imds_url = self._serve(IMDS_ADDRESS, imds)
        calls = ControlCalls(self.emulator, imds, self.fabric)
        path = self._options.directory / "control.sock"
        control = ControlServer(path, {name: getattr(calls, name) for name in CALLS})
        control.open()
        self.callback(control.close)
        self.emulator.start_timer()
        # Last in, first out: faults that hold a connection end before the doors wait for them.
        self.callback(self.emulator.stop)

    def _serve(self, address: str, responder: Emulator | Imds) -> str:
        if self.fabric is None:
            listening = socket.create_server(("127.0.0.1", 0))
        else:
            listening = self.fabric.listening_socket(address, PORT)
        opened = Door(listening, responder.respond)
        opened.open()
        self.callback(opened.close)
        host, port = listening.getsockname()[:2]
        return f"http://{host}:{port}"


def _make_fabric(name: str) -> Fabric:
    # Imported late: netlink is of no use, and not always present, without a fabric.
    from providers.sim import fabric as fabric_module

    fabric: Fabric = fabric_module.Fabric(name)
    fabric.create()
    return fabric


def parsed(arguments: Sequence[str]) -> Options:
    """The command line, read; wrong ones end the program as argparse does."""
    parser = argparse.ArgumentParser(prog="providers.sim.server", description=__doc__)
    parser.add_argument("--dir", required=True, type=Path, help="where control.sock goes")
    parser.add_argument("--fabric", default="", help="the namespace that shall play the VPC")
    parser.add_argument("--seed", default=0, type=int, help="ids and MACs repeat with it")
    parser.add_argument(
        "--buckets", default="off", choices=BUCKETS, help="throttle by EC2's request buckets"
    )
    given = parser.parse_args(arguments)
    return Options(directory=given.dir, fabric=given.fabric, seed=given.seed, buckets=given.buckets)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal says stop."""
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    options.directory.mkdir(parents=True, exist_ok=True)
    # Blocked before the first thread starts, so that only sigwait below takes them.
    stop_signals = (signal.SIGTERM, signal.SIGINT)
    signal.pthread_sigmask(signal.SIG_BLOCK, stop_signals)
    mock_random.seed(options.seed)
    with Cloud(options) as cloud:
        cloud.open()
        ready = {"ready": True, "ec2": cloud.ec2_url, "imds": cloud.imds_url}
        print(json.dumps(ready), flush=True)
        signal.sigwait(stop_signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
