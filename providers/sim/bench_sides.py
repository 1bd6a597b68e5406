"""The two sides of a benchmark: our plugin, and Debian's `ptp` with `host-local`.

Both run on the same node of the lab, each with subnet and state of its own, and get the same calls
from the same spawn path. A time is worth nothing unless the verb did its work, so every timing
carries a fault: empty only where a probe passed (ADD), or where nothing of the pod was left in the
kernel and the side's own ledger had let go of the address (DEL).

All of it runs in a thread that is in the node's network namespace.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from providers.sim.bench_spawn import Run, timed_run
from providers.sim.lab_node import PATH, Node
from providers.sim.ping import ping
from providers.sim.runtime import Pod

CNI_VERSION = "1.0.0"
MTU = 9001
PEER_PLUGINS = Path("/usr/lib/cni")  # where Debian's containernetworking-plugins puts them
PEER_SUBNET = "10.222.0.0/16"  # not the VPC's, and as large, so that no round finds it full
PEER_NAME = "bench-peer"

_POLL_SECONDS = 0.02
_KERNEL_QUESTIONS = "link show\nroute show table all\nrule show\n"


class NotReady(Exception):
    """The side cannot be measured now: its pool has no free address and got none in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """One verb as a whole process. `fault` says why it does not count; empty if it does."""

    milliseconds: float
    fault: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """What an ADD's result says about the pod."""

    address: str
    gateway: str
    host_link: str
    document: Mapping[str, Any]


class Side(ABC):
    """One plugin with its config. `name` is "peer", or which launcher of ours it is."""

    def __init__(self, name: str, program: Path, config: Mapping[str, Any], run_dir: str) -> None:
        self.name = name
        self._program = str(program)
        self._config = dict(config)
        self._env = {"CNI_PATH": str(program.parent), "PATH": PATH, "VPC_CNI_RUN_DIR": run_dir}
        self._attached: dict[str, Attached] = {}

    @abstractmethod
    def wait_ready(self, timeout_seconds: float) -> None:
        """Return once an ADD need not wait for anybody. Raises NotReady."""

    def add(self, pod: Pod) -> Timing:
        """One ADD, and a probe from the pod."""
        run = self._call("ADD", pod, self._config)
        if run.exit_code != 0:
            return Timing(milliseconds=run.milliseconds, fault=f"ADD {run}")
        try:
            attached = _attached(run.stdout)
        except (ValueError, LookupError) as e:
            return Timing(milliseconds=run.milliseconds, fault=f"ADD's result lacks {e!r}: {run}")
        self._attached[pod.container_id] = attached
        target = self._probe_target(attached)
        fault = ""
        if ping(pod.netns_path, attached.address, target) is None:
            fault = f"{attached.address} has no answer from {target}"
        return Timing(milliseconds=run.milliseconds, fault=fault)

    def delete(self, pod: Pod) -> Timing:
        """One DEL, and at its exit a look at the kernel and at the ledger."""
        attached = self._attached.pop(pod.container_id, None)
        if attached is None:
            run = self._call("DEL", pod, self._config)
            return Timing(milliseconds=run.milliseconds, fault="its ADD had failed")
        run = self._call("DEL", pod, {**self._config, "prevResult": attached.document})
        fault = f"DEL {run}" if run.exit_code != 0 else ""
        fault = fault or kernel_fault(attached) or self._ledger_fault(attached.address)
        return Timing(milliseconds=run.milliseconds, fault=fault)

    @abstractmethod
    def _probe_target(self, attached: Attached) -> str:
        """Who answers a pod only if it is wired as the side means it."""

    @abstractmethod
    def _ledger_fault(self, address: str) -> str:
        """Why the side's own book still holds a deleted pod's address; empty if it does not."""

    def _call(self, command: str, pod: Pod, config: Mapping[str, Any]) -> Run:
        env = {
            **self._env,
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": pod.container_id,
            "CNI_NETNS": pod.netns_path,
            "CNI_IFNAME": pod.ifname,
            "CNI_ARGS": pod.cni_args,
        }
        return timed_run([self._program], env, json.dumps(config).encode())


class Ours(Side):
    """vpc-cni by one of its launchers, on a node whose daemons run."""

    def __init__(
        self, name: str, program: Path, *, node: Node, gateway: IPv4Address, enis_socket: Path
    ) -> None:
        """`enis_socket` is where ipamd serves /v1/enis, `gateway` the VPC's router."""
        config = {
            "cniVersion": CNI_VERSION,
            "name": "vpc-ipamd",
            "type": "vpc-cni",
            "vethPrefix": "eni",
            "mtu": str(MTU),
        }
        super().__init__(name, program, config, str(node.run_dir))
        self._gateway = str(gateway)
        self._enis_socket = enis_socket

    def wait_ready(self, timeout_seconds: float) -> None:
        """With an address available and nobody else asking, an ADD waits for no cloud call."""
        wait_available(self._enis_socket, 1, timeout_seconds)

    def _probe_target(self, attached: Attached) -> str:
        """The VPC's router: it answers only if the packet left by the ENI that has the address."""
        del attached
        return self._gateway

    def _ledger_fault(self, address: str) -> str:
        state = address_states(self._enis_socket).get(address, "unknown to the ledger")
        return "" if state == "cooling" else f"{address} is {state}, not cooling"


class Peer(Side):
    """ptp + host-local, with our daemons standing still while it runs.

    They hear of every link on the node and look at it: beside them the peer's ADD took 11.5 ms, not
    8.9, which would be counted as our merit. A node of the peer's has none of them.
    """

    def __init__(self, data_dir: Path, node: Node) -> None:
        config = {
            "cniVersion": CNI_VERSION,
            "name": PEER_NAME,
            "type": "ptp",
            "mtu": MTU,
            "ipMasq": False,
            "ipam": {
                "type": "host-local",
                "ranges": [[{"subnet": PEER_SUBNET}]],
                "routes": [{"dst": "0.0.0.0/0"}],
                "dataDir": str(data_dir),
            },
        }
        super().__init__("peer", PEER_PLUGINS / "ptp", config, "")
        self._leases = data_dir / PEER_NAME
        self._node = node

    def wait_ready(self, timeout_seconds: float) -> None:
        """At once: it has no daemon, and its subnet is never full."""

    def _call(self, command: str, pod: Pod, config: Mapping[str, Any]) -> Run:
        with stopped((self._node.cnid.pid, self._node.ipamd.pid)):
            return super()._call(command, pod, config)

    def _probe_target(self, attached: Attached) -> str:
        """Its own host end: the peer's addresses are nobody's outside of the node."""
        return attached.gateway

    def _ledger_fault(self, address: str) -> str:
        return f"{address} still has a lease" if (self._leases / address).exists() else ""


@contextmanager
def stopped(pids: tuple[int, ...]) -> Iterator[None]:
    """SIGSTOP the processes for the length of the block; they go on whatever happens in it."""
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def address_states(enis_socket: Path) -> dict[str, str]:
    """Address -> state, of all ENIs, from ipamd's /v1/enis."""
    connection = _UnixConnection(enis_socket)
    try:
        connection.request("GET", "/v1/enis")
        body = json.load(connection.getresponse())
    finally:
        connection.close()
    return {address: state for eni in body["enis"] for address, state in eni["addresses"].items()}


def wait_available(enis_socket: Path, addresses: int, timeout_seconds: float) -> None:
    """Return once so many addresses are available. Raises NotReady with the counts of all."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        counts = Counter(address_states(enis_socket).values())
        if counts["available"] >= addresses:
            return
        if time.monotonic() > deadline:
            raise NotReady(
                f"{addresses} available addresses were wanted within {timeout_seconds:g} s, "
                f"the pool is {dict(counts)}"
            )
        time.sleep(_POLL_SECONDS)


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket; the host name is for the Host header alone."""

    def __init__(self, path: Path) -> None:
        super().__init__("ipamd", timeout=5.0)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _attached(result: bytes) -> Attached:
    """From a result of CNI 1.0 (SPEC, "Success"); the host end is the interface in no sandbox.

    ValueError or LookupError if it is none.
    """
    document = json.loads(result)
    entry = document["ips"][0]
    host_links = [str(i["name"]) for i in document["interfaces"] if not i.get("sandbox")]
    return Attached(
        address=str(entry["address"]).partition("/")[0],
        gateway=str(entry["gateway"]),
        host_link=host_links[0],
        document=document,
    )


def kernel_fault(attached: Attached) -> str:
    """What this namespace has of the pod: the first line of `ip` that names it, or empty."""
    done = subprocess.run(
        ["ip", "-o", "-batch", "-"],
        input=_KERNEL_QUESTIONS, capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    left = lines_naming(done.stdout, (attached.host_link, attached.address))
    return f"left in the kernel: {left[0]}" if left else ""


def lines_naming(text: str, words: tuple[str, ...]) -> list[str]:
    """The lines that hold one of the words as a whole: 10.0.0.1 is not in "10.0.0.12 dev x"."""
    whole = re.compile("|".join(rf"(?<![\w.]){re.escape(word)}(?![\w.])" for word in words))
    return [line for line in text.splitlines() if whole.search(line)]
