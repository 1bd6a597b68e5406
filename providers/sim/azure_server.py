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

import socket
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from ipaddress import IPv4Address

from providers.sim import served
from providers.sim.azure_control import CALLS, AzureControlCalls
from providers.sim.azure_server_dns import DnsServer
from providers.sim.azure_world import BUCKETS, AzureWorld
from providers.sim.http_door import Responder
from providers.sim.served import HTTP, IMDS_ADDRESS, LOOPBACK, Options, ServedCloud, where
from providers.sim.tls import TlsDoor, make_authority, server_context

# 192.0.2.0/24 is for documentation (RFC 5737): it can be nobody's VNET. EC2's door is .10.
ARM_ADDRESS = "192.0.2.11"
WIRESERVER_ADDRESS = "168.63.129.16"
_HTTPS, _DNS = 443, 53


class AzureCloud(ServedCloud):
    """The emulated ARM, metadata service, wireserver and control socket."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.world = AzureWorld(seed=options.seed, trusts_names=not options.fabric)
        self.world.set_buckets(options.buckets)

    def open(self) -> None:
        """See `ServedCloud`."""
        self.make_fabric()
        self.world.state.listener = self.fabric
        self.ready = {"ready": True, **self._open_doors()}
        self.serve_control(AzureControlCalls(self.world, self.fabric), CALLS)
        self.world.start_timer()
        # Last in, first out: faults that hold a connection end before the doors wait for them.
        self.callback(self.world.stop)

    def _open_doors(self) -> dict[str, str]:
        files = make_authority(
            self.options.directory,
            now=datetime.now(UTC),
            names=("localhost", "management.azure.com"),
            addresses=(IPv4Address(LOOPBACK), IPv4Address(ARM_ADDRESS)),
        )
        listening = self.listening(ARM_ADDRESS, _HTTPS)
        arm_url = f"https://{where(listening).removesuffix(f':{_HTTPS}')}"
        self.world.tokens.issuer.audiences.add(arm_url)
        self.keep(TlsDoor(listening, self.world.respond, server_context(files)))
        return {
            "arm": arm_url,
            "imds": self._serve(IMDS_ADDRESS, self.world.imds.respond),
            "wireserver": self._serve(WIRESERVER_ADDRESS, self.world.wireserver.respond),
            "dns": self._serve_dns(),
            "ca": str(files.ca_path),
        }

    def _serve(self, address: str, respond: Responder) -> str:
        return f"http://{self.serve_http(address, respond).removesuffix(f':{HTTP}')}"

    def _serve_dns(self) -> str:
        listening = self.listening(WIRESERVER_ADDRESS, _DNS)
        host, _, port = where(listening).partition(":")
        datagrams = self._datagrams(host, int(port))
        self.keep(DnsServer(datagrams, listening, self.world.wireserver.resolve))
        return where(listening)

    def _datagrams(self, address: str, port: int) -> socket.socket:
        def made() -> socket.socket:
            opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            opened.bind((address, port))
            return opened

        if self.fabric is None:
            return made()
        # Imported late, as the fabric is.
        from providers.sim import netns

        return netns.call_in(str(netns.NETNS_DIR / self.options.fabric), made)


def parsed(arguments: Sequence[str]) -> Options:
    """The command line, read."""
    return served.parsed(
        arguments, program="providers.sim.azure_server", about=__doc__ or "", buckets=BUCKETS
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal says stop."""
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    return served.serve(options, AzureCloud)


if __name__ == "__main__":
    sys.exit(main())
