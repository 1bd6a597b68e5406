"""The emulated Azure as a process: ARM over TLS, metadata service, wireserver, control socket.

    python -m providers.sim.azure_server --dir DIR [--fabric NETNS_NAME] [--seed N] [--buckets real]

Prints one line of JSON when it serves, and stops on SIGTERM or SIGINT:

    {"ready": true, "arm": "https://...", "imds": "http://...", "wireserver": "http://...",
     "dns": "host:port", "ca": "path of the CA's certificate in DIR"}

With a fabric it makes the fabric's namespace, serves inside it at the addresses nodes expect, and
removes it at the end; without one it serves on loopback ports, where machines are named to IMDS and
wireserver as `azure_imds` says. The control socket is DIR/control.sock, its calls `azure_control`.
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
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from providers.sim.azure_control import CALLS, AzureControlCalls
from providers.sim.azure_server_dns import DnsServer
from providers.sim.azure_world import BUCKETS, AzureWorld
from providers.sim.control import ControlServer
from providers.sim.http_door import Door, Responder
from providers.sim.model import Fabric
from providers.sim.tls import TlsDoor, make_authority, server_context

# 192.0.2.0/24 is for documentation (RFC 5737): it can be nobody's VNET. EC2's door is .10.
ARM_ADDRESS = "192.0.2.11"
IMDS_ADDRESS = "169.254.169.254"
WIRESERVER_ADDRESS = "168.63.129.16"
_LOOPBACK = "127.0.0.1"
_HTTP, _HTTPS, _DNS = 80, 443, 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line."""

    directory: Path
    fabric: str = ""
    seed: int = 0
    buckets: str = "off"


class AzureCloud(contextlib.ExitStack):
    """Everything that serves; a context manager whose end stops all of it, last opened first."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        self._options = options
        self.world = AzureWorld(seed=options.seed, trusts_names=not options.fabric)
        self.world.set_buckets(options.buckets)
        self.fabric: Fabric | None = None
        self.ready: dict[str, str | bool] = {}

    def open(self) -> None:
        """Serve; on an error what was begun is undone by the context's end."""
        if self._options.fabric:
            self.fabric = _make_fabric(self._options.fabric)
            self.callback(self.fabric.destroy)
            self.world.state.listener = self.fabric
        self.ready = {"ready": True, **self._open_doors()}
        calls = AzureControlCalls(self.world, self.fabric)
        path = self._options.directory / "control.sock"
        control = ControlServer(path, {name: getattr(calls, name) for name in CALLS})
        control.open()
        self.callback(control.close)
        self.world.start_timer()
        # Last in, first out: faults that hold a connection end before the doors wait for them.
        self.callback(self.world.stop)

    def _open_doors(self) -> dict[str, str]:
        files = make_authority(
            self._options.directory,
            now=datetime.now(UTC),
            names=("localhost", "management.azure.com"),
            addresses=(IPv4Address(_LOOPBACK), IPv4Address(ARM_ADDRESS)),
        )
        listening = self._listening(ARM_ADDRESS, _HTTPS)
        arm = _where(listening)
        arm_url = f"https://{arm.removesuffix(f':{_HTTPS}')}"
        self.world.tokens.issuer.audiences.add(arm_url)
        self._keep(TlsDoor(listening, self.world.respond, server_context(files)))
        return {
            "arm": arm_url,
            "imds": self._serve(IMDS_ADDRESS, self.world.imds.respond),
            "wireserver": self._serve(WIRESERVER_ADDRESS, self.world.wireserver.respond),
            "dns": self._serve_dns(),
            "ca": str(files.ca_path),
        }

    def _serve(self, address: str, respond: Responder) -> str:
        listening = self._listening(address, _HTTP)
        url = f"http://{_where(listening).removesuffix(f':{_HTTP}')}"
        self._keep(Door(listening, respond))
        return url

    def _serve_dns(self) -> str:
        listening = self._listening(WIRESERVER_ADDRESS, _DNS)
        where = _where(listening)
        host, _, port = where.partition(":")
        datagrams = self._datagrams(host, int(port))
        self._keep(DnsServer(datagrams, listening, self.world.wireserver.resolve))
        return where

    def _keep(self, server: Door | DnsServer) -> None:
        server.open()
        self.callback(server.close)

    def _listening(self, address: str, port: int) -> socket.socket:
        if self.fabric is None:
            return socket.create_server((_LOOPBACK, 0))
        return self.fabric.listening_socket(address, port)

    def _datagrams(self, address: str, port: int) -> socket.socket:
        def made() -> socket.socket:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            opened.bind((address, port))
            return opened

        if self.fabric is None:
            return made()
        # Imported late, as the fabric is.
        from providers.sim import netns

        return netns.call_in(str(netns.NETNS_DIR / self._options.fabric), made)


def _where(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"{host}:{port}"


def _make_fabric(name: str) -> Fabric:
    # Imported late: netlink is of no use, and not always present, without a fabric.
    from providers.sim import fabric as fabric_module

    fabric: Fabric = fabric_module.Fabric(name)
    fabric.create()
    return fabric


def parsed(arguments: Sequence[str]) -> Options:
    """The command line, read; wrong ones end the program as argparse does."""
    parser = argparse.ArgumentParser(prog="providers.sim.azure_server", description=__doc__)
    parser.add_argument("--dir", required=True, type=Path, help="where control.sock and keys go")
    parser.add_argument("--fabric", default="", help="the namespace that shall play the VNET")
    parser.add_argument("--seed", default=0, type=int, help="ids and MACs repeat with it")
    parser.add_argument(
        "--buckets", default="off", choices=BUCKETS, help="throttle by ARM's request buckets"
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
    with AzureCloud(options) as cloud:
        cloud.open()
        print(json.dumps(cloud.ready), flush=True)
        signal.sigwait(stop_signals)
    return 0


if __name__ == "__main__":
    sys.exit(main())
