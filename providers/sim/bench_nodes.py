"""The nodes of the benchmarks: ours with real daemons on the emulated cloud, the peer's without.

Each node has its own network namespace, so that nobody's pods and daemons stand on another's node.
Pools are filled before the first round and large enough that no cloud call happens during them.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from providers.sim import netns
from providers.sim.bench_rounds import READY_SECONDS, say
from providers.sim.bench_sides import (
    HOST_LOCAL,
    STATIC,
    HostLocalPeer,
    Ours,
    StaticPeer,
    wait_available,
)
from providers.sim.lab import Lab
from providers.sim.lab_node import Node
from providers.sim.runtime import Pod, Runtime

ROOT = Path(__file__).resolve().parents[2]
SYSTEM_PYTHON = "/usr/bin/python3"  # of the Python launcher's first line
LAUNCHERS = ("c", "python")
SUBNET = "10.0.0.0/18"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """How a node of ours is set up: room for so many pods, in one mode of routing rules."""

    addresses: int
    mode: str = "grouped"
    instance_type: str = "m5.24xlarge"  # 15 ENIs of 49 slots: two ENIs carry 1,500 pods by prefixes
    uses_prefixes: bool = True
    cooldown_seconds: int = 10

    def environment(self, enis_socket: Path) -> dict[str, str]:
        """A pool that neither grows nor shrinks: the minimum holds it, 1 warm is always there."""
        return {
            "ENABLE_PREFIX_DELEGATION": str(self.uses_prefixes).lower(),
            "IP_COOLDOWN_PERIOD": str(self.cooldown_seconds),
            "MINIMUM_IP_TARGET": str(self.addresses),
            "WARM_IP_TARGET": "1",
            "VPC_IPAMD_MAX_PODS": str(self.addresses),
            "VPC_IPAMD_ROUTING_RULES": self.mode,
            "INTROSPECTION_BIND_ADDRESS": f"unix:{enis_socket}",
        }


class Ground:
    """The lab, and the launchers to be measured on it."""

    def __init__(self, lab: Lab, scratch: Path) -> None:
        self._lab = lab
        self._scratch = scratch
        self._programs = {
            "c": build_launcher(scratch / "bin"),
            "python": pack_launcher(scratch / "bin"),
        }
        self._sockets: dict[str, Path] = {}
        self._runtime: Runtime | None = None
        self._python_path = _without_rich(scratch / "python")

    def node(self, name: str, shape: Shape) -> Node:
        """A node of ours with a full pool."""
        say(f"starting {name}: {shape.addresses} addresses, {shape.mode}")
        enis_socket = self._scratch / f"{name}.sock"
        env = shape.environment(enis_socket) | {"PYTHONPATH": str(self._python_path)}
        node = self._lab.add_node(name, instance_type=shape.instance_type, env=env)
        node.start()
        wait_available(enis_socket, shape.addresses, READY_SECONDS)
        self._sockets[name] = enis_socket
        self._runtime = self._runtime or node.runtime(["/nonexistent"], {})
        return node

    def remove_nodes(self) -> None:
        """End the daemons of all nodes, and remove the pods' namespaces."""
        for name in tuple(self._lab.nodes):
            self._lab.remove_node(name)
        self._runtime = None

    def ours(self, node: Node, launcher: str, name: str = "") -> Ours:
        """Our plugin on a node, by one of the launchers."""
        assert node.identity is not None
        return Ours(
            name or launcher,
            self._programs[launcher],
            node=node,
            gateway=node.identity.gateway,
            enis_socket=self._sockets[node.name],
        )

    def new_pod(self, name: str) -> Pod:
        """A pod's namespace, for any node; there must be a node of ours by then."""
        assert self._runtime is not None
        return self._runtime.new_pod(name)

    def peer_node(self, name: str) -> str:
        """The namespace of a node of the peer's, as a machine has booted."""
        path = netns.create(name)
        netns.run_in(path, ["ip", "link", "set", "lo", "up"])
        return path

    def host_local(self, path: str, name: str = HOST_LOCAL) -> HostLocalPeer:
        """ptp + host-local. Its leases are in memory, as our store is by default."""
        return HostLocalPeer(name, self._scratch / f"leases-{Path(path).name}", path)

    def static(self, path: str, name: str = STATIC) -> StaticPeer:
        """ptp + static."""
        return StaticPeer(name, path)


@contextmanager
def ground(scratch: Path) -> Iterator[Ground]:
    """A started lab without nodes."""
    say("starting the emulated cloud")
    with ExitStack() as stack:
        lab = stack.enter_context(Lab(scratch / "lab"))
        lab.start(subnets=[{"cidr": SUBNET, "zone": "us-west-2a"}])
        yield Ground(lab, scratch)


def _without_rich(directory: Path) -> Path:
    """A PYTHONPATH by which daemons find what they would on a node: structlog loads 6 MB of rich
    where that is, and here it is only because a tool of the development needs it."""
    directory.mkdir()
    (directory / "rich.py").write_text("raise ImportError\n", encoding="ascii")
    return directory


def build_launcher(directory: Path) -> Path:
    """The C launcher, built; CalledProcessError where no compiler can."""
    build = ROOT / "cni-shim" / "launcher" / "build.sh"
    done = subprocess.run(["sh", str(build), str(directory)], check=True, stdout=subprocess.PIPE)
    return Path(done.stdout.decode().strip())


def pack_launcher(directory: Path) -> Path:
    """The Python launcher as it is installed: one file with its bytecode, run by its first line."""
    packed = directory / "vpc-cni-python"
    source = ROOT / "cni-shim" / "launcher" / "pack.py"
    subprocess.run([SYSTEM_PYTHON, str(source), str(packed)], check=True)
    return packed
