"""The emulated cloud as a process: EC2, metadata service and control socket.

    python -m providers.sim.server --dir DIR [--fabric NETNS_NAME] [--seed N] [--buckets ec2]

Prints {"ready": true, "ec2": url, "imds": url} when it serves, and stops on SIGTERM or SIGINT.
With a fabric it makes the fabric's namespace, serves inside it at the addresses nodes expect, and
removes it at the end; without one it serves on loopback ports.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from moto.moto_api._internal import mock_random

from providers.sim import served
from providers.sim.control_calls import CALLS, ControlCalls
from providers.sim.ec2 import BUCKETS, Emulator
from providers.sim.imds import Imds, ImdsSettings
from providers.sim.served import IMDS_ADDRESS, Options, ServedCloud

# 192.0.2.0/24 is for documentation (RFC 5737): it can be nobody's VPC.
EC2_ADDRESS = "192.0.2.10"


class Cloud(ServedCloud):
    """The emulated EC2, its metadata service and its control socket."""

    def __init__(self, options: Options) -> None:
        super().__init__(options)
        self.emulator = Emulator(seed=options.seed)
        self.emulator.set_buckets(options.buckets)

    def open(self) -> None:
        """See `ServedCloud`."""
        self.make_fabric()
        self.emulator.state.listener = self.fabric
        imds = Imds(self.emulator, ImdsSettings(trusts_names=self.fabric is None))
        self.ready = {
            "ready": True,
            "ec2": f"http://{self.serve_http(EC2_ADDRESS, self.emulator.respond)}",
            "imds": f"http://{self.serve_http(IMDS_ADDRESS, imds.respond)}",
        }
        self.serve_control(ControlCalls(self.emulator, imds, self.fabric), CALLS)
        self.emulator.start_timer()
        # Last in, first out: faults that hold a connection end before the doors wait for them.
        self.callback(self.emulator.stop)


def parsed(arguments: Sequence[str]) -> Options:
    """The command line, read."""
    return served.parsed(
        arguments, program="providers.sim.server", about=__doc__ or "", buckets=BUCKETS
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until a signal says stop."""
    options = parsed(sys.argv[1:] if arguments is None else arguments)
    mock_random.seed(options.seed)
    return served.serve(options, Cloud)


if __name__ == "__main__":
    sys.exit(main())
