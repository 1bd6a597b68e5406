"""The demo's world: the lab with two nodes, the launcher, and the pods that run.

Everything lies in one fresh directory and in the sandbox's namespaces; `close` ends it all, in
whatever state it is.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, Protocol, TypeVar

from providers.sim import demo_looks, netns
from providers.sim.demo_modes import Mode, NodePlan
from providers.sim.demo_run import CheckFailed, Seen
from providers.sim.lab import Lab
from providers.sim.lab_node import Node, NodeIdentity
from providers.sim.runtime import CniCall, Pod, Runtime

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER_SOURCES = ROOT / "cni-shim" / "launcher"
CONFLIST = ROOT / "cni-shim" / "10-vpc-ipamd.conflist"

NODE_NAMES = ("node-a", "node-b")
# A pod that waits for the cloud waits 2 or 3 s here; what takes longer than this is broken.
CNI_SECONDS = 20.0
PARALLEL_CALLS = 3  # pods that a kubelet starts at once, per node
_BUILD_SECONDS = 60.0
_FAULTS_SHOWN = 5
_NO_COMPILER = 3  # build.sh

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningPod:
    """A pod whose ADD worked; `node` is the name of its node."""

    node: str
    pod: Pod
    address: str
    add_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A running pod and the ENI that has its address, by cloud, ledger and kernel."""

    running: RunningPod
    eni_id: str
    eni_link: str
    is_primary: bool
    host_link: str

    @property
    def node(self) -> str:
        """The name of its node."""
        return self.running.node

    @property
    def name(self) -> str:
        """The pod's name."""
        return self.running.pod.name

    @property
    def address(self) -> str:
        """The pod's address."""
        return self.running.address

    @property
    def netns_path(self) -> str:
        """The pod's namespace."""
        return self.running.pod.netns_path


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a cloud calls things; put into steps' names and what they say."""

    eni: str
    vpc: str
    a_vpc: str
    api: str
    waited_for: str  # by a pod for which there was no address yet


class CloudSide(Protocol):
    """What of the demo is one cloud's own. See `demo_ec2` and `demo_azure`."""

    name: str  # the lab's
    words: Words
    slow_seconds: float  # a pod that waited for the cloud waited for longer than this

    def begin(self, world: DemoWorld) -> str:
        """Make what the mode needs beside the VPC; what the API said, and how slow it is to be, in
        words."""

    def node_env(self, world: DemoWorld, number: int) -> Mapping[str, str]:
        """What the n-th node's daemons get beside the mode's variables."""

    def before_daemons(self, world: DemoWorld) -> None:
        """The nodes have booted and their daemons not yet started."""

    def own_id(self, node: Node) -> str:
        """What a program on the node learns from its metadata service, as an instance's id."""

    def look(self, gives: str) -> Look | None:
        """The look at what a node gives its pods that only this cloud has."""


Look = Callable[["DemoWorld", demo_looks.Cloud, tuple[Node, ...]], Seen]
"""A look at the addresses of some nodes; CheckFailed if they are not what they should be."""


class DemoWorld:
    """What the steps share. Attributes are filled as the steps go along."""

    def __init__(self, directory: Path, launcher: str | None, mode: Mode, side: CloudSide) -> None:
        """`launcher`: "c", "python", the path of a program, or None: C where a compiler is."""
        self.directory = directory
        self.mode = mode
        self.side = side
        self.words = side.words
        self.wanted_launcher = launcher
        self.plugin: tuple[str, ...] = ()
        self.theirs: frozenset[str] = frozenset()  # addresses on the ENIs that are not ours
        self.lab = Lab(directory, cloud=side.name)
        self.runtimes: dict[str, Runtime] = {}
        self.pods: tuple[RunningPod, ...] = ()
        self.placements: tuple[Placement, ...] = ()
        self.victim: Placement | None = None
        self.free_at_start: dict[str, int] = {}
        self.before = self.surroundings()

    @staticmethod
    def surroundings() -> frozenset[str]:
        """The namespaces and links around us, in words: what the demo must leave as it was."""
        own = demo_looks.node_kernel("/proc/self/ns/net")
        return frozenset(
            [f"namespace {name}" for name in netns.names()]
            + [f"link {name}" for name, _ in own.links]
        )

    def add_nodes(self) -> None:
        """Both nodes, booted, daemons listening; side by side, as machines are."""
        for number, (name, plan) in enumerate(self.plans.items()):
            self.lab.add_node(
                name,
                instance_type=plan.instance_type,
                subnet=number,
                env={**plan.env, **self.side.node_env(self, number)},
                kind=plan.kind,
                nics=plan.nics,
            )
        self.side.before_daemons(self)
        at_once(lambda node: node.start(), self.nodes)
        config = network_config()
        self.runtimes = {
            node.name: node.runtime(self.plugin, config, CNI_SECONDS) for node in self.nodes
        }

    @property
    def plans(self) -> dict[str, NodePlan]:
        """By node what the mode wants of it."""
        return dict(zip(NODE_NAMES, self.mode.nodes, strict=True))

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that there are."""
        return tuple(self.lab.nodes.values())

    def cloud(self) -> demo_looks.Cloud:
        """The emulated cloud's state now."""
        return demo_looks.cloud_of(self.lab.control.call("state"))

    def ledgers(self) -> dict[str, demo_looks.Ledger]:
        """What each node's ipamd says now."""
        answers = at_once(lambda node: demo_looks.ledger(node.ipamd_socket), self.nodes)
        return {node.name: answer for node, answer in zip(self.nodes, answers, strict=True)}

    def kernels(self) -> dict[str, demo_looks.NodeKernel]:
        """What each node's kernel has now."""
        return {node.name: demo_looks.node_kernel(node.netns_path) for node in self.nodes}

    def dropped(self) -> list[dict[str, Any]]:
        """What the VPC dropped since it was last reset."""
        rows = self.lab.control.call("dropped")
        return [{**row, "eni_id": demo_looks.key(row["eni_id"])} for row in rows]

    def start_pods(self, names_by_node: Sequence[tuple[str, str]]) -> None:
        """Start pods ((node, name) each), some at once; CheckFailed names each that failed."""

        def start(one: tuple[str, str]) -> RunningPod | str:
            node, name = one
            started = self.runtimes[node].start_pod(name)
            if not started.add.is_ok:
                return f"{node} {name}: {started.add}"
            address = started.add.addresses[0]
            seconds = started.add.seconds
            return RunningPod(node=node, pod=started.pod, address=address, add_seconds=seconds)

        outcomes = at_once(start, names_by_node, PARALLEL_CALLS * len(NODE_NAMES))
        self.pods += tuple(one for one in outcomes if isinstance(one, RunningPod))
        refuse_any([one for one in outcomes if isinstance(one, str)])

    def stop_pods(self) -> tuple[tuple[CniCall, ...], ...]:
        """Stop every pod as containerd does; the calls made for each."""

        def stop(one: RunningPod) -> tuple[CniCall, ...]:
            return self.runtimes[one.node].stop_pod(one.pod)

        return tuple(at_once(stop, self.pods, PARALLEL_CALLS * len(NODE_NAMES)))

    def close(self) -> None:
        """End every process, remove every namespace and the directory; idempotent."""
        try:
            self.lab.close()
        finally:
            shutil.rmtree(self.directory, ignore_errors=True)


def identity_of(node: Node) -> NodeIdentity:
    """What the cloud said about the node's instance."""
    if node.identity is None:
        raise CheckFailed(f"{node.name} has no instance")
    return node.identity


def router_of(world: DemoWorld, node: Node) -> IPv4Address | IPv6Address:
    """The VPC router's address in the node's subnet, of the pods' family."""
    if not world.mode.is_v6:
        return identity_of(node).gateway
    cidr = world.mode.subnets[NODE_NAMES.index(node.name)]["cidr_v6"]
    return IPv6Network(cidr).network_address + 1


def refuse_any(faults: Iterable[str], head: str = "") -> None:
    """CheckFailed if there is a fault: the head, the first faults and how many more there are."""
    found = tuple(faults)
    if not found:
        return
    more = len(found) - _FAULTS_SHOWN
    lines = [head, *found[:_FAULTS_SHOWN], f"and {more} more" if more > 0 else ""]
    raise CheckFailed("\n".join(line for line in lines if line))


def network_config() -> dict[str, Any]:
    """The plugin's part of the conflist, as a runtime puts it on stdin."""
    conflist = json.loads(CONFLIST.read_text(encoding="utf-8"))
    return {
        **conflist["plugins"][0],
        "cniVersion": conflist["cniVersion"],
        "name": conflist["name"],
    }


def make_launcher(wanted: str | None, directory: Path) -> tuple[tuple[str, ...], str]:
    """The command line of vpc-cni, and what it is, in words. CheckFailed if it cannot be had."""
    if wanted not in {None, "c", "python"}:
        return (str(wanted),), "as given"
    if wanted != "python":
        done = subprocess.run(
            [str(LAUNCHER_SOURCES / "build.sh"), str(directory)],
            capture_output=True,
            text=True,
            check=False,
            timeout=_BUILD_SECONDS,
        )
        if done.returncode == 0:
            return (done.stdout.strip(),), "C"
        if wanted == "c" or done.returncode != _NO_COMPILER:
            raise CheckFailed(f"build.sh ended with {done.returncode}: {done.stderr.strip()}")
    return pack_python_launcher(directory), "Python" + ("" if wanted else ", no C compiler here")


def pack_python_launcher(directory: Path) -> tuple[str, ...]:
    """The Python launcher as it is installed: packed with its bytecode, for this interpreter."""
    packed = directory / "vpc-cni-python"
    program = [sys.executable, str(LAUNCHER_SOURCES / "pack.py"), str(packed)]
    subprocess.run(program, check=True, capture_output=True, timeout=_BUILD_SECONDS)
    return (sys.executable, "-I", "-S", str(packed))


def at_once(
    body: Callable[[Item], Result], items: Sequence[Item], workers: int | None = None
) -> list[Result]:
    """The results in the order of the items; the first exception, once all are done."""
    with ThreadPoolExecutor(max_workers=workers or max(len(items), 1)) as pool:
        return list(pool.map(body, items))


def is_inside_sandbox() -> bool:
    """Whether scripts/_sandbox started us."""
    return os.environ.get("VPC_IPAMD_SANDBOX") == "1"
