"""The two sides of a benchmark: our plugin, and Debian's `ptp` with `host-local`.

Both run on the same node of the lab, each with subnet and state of its own, and get the same calls
from the same spawn path. A time is worth nothing unless the verb did its work, so every timing
carries a fault: empty only where a probe passed (ADD), or where nothing of the pod was left in the
kernel and the side's own ledger had let go of the address (DEL).

Every call runs on a thread of its own in the side's network namespace; the clock knows nothing of
that.
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from providers.sim import netns
from providers.sim.bench_spawn import Run, timed_run
from providers.sim.lab_node import PATH, Node
from providers.sim.ping import ping
from providers.sim.runtime import Pod

CNI_VERSION = "1.0.0"
MTU = 9001
PEER_PLUGINS = Path("/usr/lib/cni")  # where Debian's containernetworking-plugins puts them
PEER_SUBNET = "10.222.0.0/16"  # not the VPC's, and as large, so that no round finds it full
PEER_NAME = "bench-peer"
STATIC_NETS = 224  # second number of StaticPeer's networks, clear of all others here
HOST_LOCAL, STATIC = "ptp+host-local", "ptp+static"

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
    """One plugin with its config, on one node. `name` says which, in faults."""

    def __init__(
        self, name: str, program: Path, config: Mapping[str, Any], run_dir: str, netns_path: str
    ) -> None:
        self.name = name
        self.netns_path = netns_path
        self._program = str(program)
        self._config = dict(config)
        self._env = {"CNI_PATH": str(program.parent), "PATH": PATH, "VPC_CNI_RUN_DIR": run_dir}
        self._attached: dict[str, Attached] = {}

    @abstractmethod
    def wait_ready(self, addresses: int, timeout_seconds: float) -> None:
        """Return once so many ADDs need not wait for anybody. Raises NotReady."""

    def add(self, pod: Pod) -> Timing:
        """One ADD, and a probe from the pod."""
        run = self.call("ADD", pod)
        return Timing(milliseconds=run.milliseconds, fault=self.add_fault(pod, run))

    def delete(self, pod: Pod) -> Timing:
        """One DEL, and at its exit a look at the kernel and at the ledger."""
        run = self.call("DEL", pod)
        return Timing(milliseconds=run.milliseconds, fault=self.delete_fault(pod, run))

    def address_of(self, pod: Pod) -> str:
        """The address that the pod's ADD gave it. KeyError if that is not known."""
        return self._attached[pod.container_id].address

    def call(self, command: str, pod: Pod) -> Run:
        """The verb alone; a DEL carries the result of the ADD, once `add_fault` has seen it."""
        attached = self._attached.get(pod.container_id)
        previous = {"prevResult": attached.document} if attached and command == "DEL" else {}
        return netns.call_in(
            self.netns_path, lambda: self._call(command, pod, {**self._config, **previous})
        )

    def add_fault(self, pod: Pod, run: Run) -> str:
        """Why an ADD that ended so does not count; empty if the pod works."""
        fault = self.start_fault(pod, run)
        if fault:
            return fault
        attached = self._attached[pod.container_id]
        target = self._probe_target(attached)
        if ping(pod.netns_path, attached.address, target) is None:
            return f"{attached.address} has no answer from {target}"
        return ""

    def start_fault(self, pod: Pod, run: Run) -> str:
        """`add_fault` without a look at the pod: whether the plugin says that it works."""
        if run.exit_code != 0:
            return f"ADD {run}"
        try:
            attached = _attached(run.stdout)
        except (ValueError, LookupError) as e:
            return f"ADD's result lacks {e!r}: {run}"
        self._attached[pod.container_id] = attached
        return ""

    def delete_fault(self, pod: Pod, run: Run) -> str:
        """Why a DEL that ended so does not count; empty if nothing is left of the pod."""
        attached = self._attached.pop(pod.container_id, None)
        if attached is None:
            return "its ADD had failed"
        if run.exit_code != 0:
            return f"DEL {run}"
        left = netns.call_in(self.netns_path, lambda: kernel_fault(attached))
        return left or self._ledger_fault(attached.address)

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
        super().__init__(name, program, config, str(node.run_dir), node.netns_path)
        self._gateway = str(gateway)
        self._enis_socket = enis_socket

    def wait_ready(self, addresses: int, timeout_seconds: float) -> None:
        """With addresses available and nobody else asking, an ADD waits for no cloud call."""
        wait_available(self._enis_socket, addresses, timeout_seconds)

    def _probe_target(self, attached: Attached) -> str:
        """The VPC's router: it answers only if the packet left by the ENI that has the address."""
        del attached
        return self._gateway

    def _ledger_fault(self, address: str) -> str:
        state = address_states(self._enis_socket).get(address, "unknown to the ledger")
        return "" if state == "cooling" else f"{address} is {state}, not cooling"


class Peer(Side):
    """ptp with one of Debian's IPAM plugins, on a node of its own: none of our daemons is there."""

    def __init__(self, name: str, ipam: Mapping[str, Any], netns_path: str) -> None:
        config = {
            "cniVersion": CNI_VERSION,
            "name": PEER_NAME,
            "type": "ptp",
            "mtu": MTU,
            "ipMasq": False,
            "ipam": dict(ipam),
        }
        super().__init__(name, PEER_PLUGINS / "ptp", config, "", netns_path)

    def wait_ready(self, addresses: int, timeout_seconds: float) -> None:
        """At once: it has no daemon, and its subnet is never full."""

    def _probe_target(self, attached: Attached) -> str:
        """Its own host end: the peer's addresses are nobody's outside of the node."""
        return attached.gateway


class HostLocalPeer(Peer):
    """ptp + host-local, which keeps a file for each lease and reads them all."""

    def __init__(self, name: str, data_dir: Path, netns_path: str) -> None:
        ipam = {
            "type": "host-local",
            "ranges": [[{"subnet": PEER_SUBNET}]],
            "routes": [{"dst": "0.0.0.0/0"}],
            "dataDir": str(data_dir),
        }
        super().__init__(name, ipam, netns_path)
        self._leases = data_dir / PEER_NAME

    def _ledger_fault(self, address: str) -> str:
        return f"{address} still has a lease" if (self._leases / address).exists() else ""


class StaticPeer(Peer):
    """ptp + static: the address stands in the config, so no ledger grows with the pods.

    Each pod gets a network of its own, as ptp wants a gateway in it.
    """

    def __init__(self, name: str, netns_path: str) -> None:
        super().__init__(name, {"type": "static"}, netns_path)
        self._numbers: dict[str, int] = {}

    def _call(self, command: str, pod: Pod, config: Mapping[str, Any]) -> Run:
        number = self._numbers.setdefault(pod.container_id, len(self._numbers))
        network = f"10.{STATIC_NETS + number // 200}.{number % 200}"
        ipam = {
            "type": "static",
            "addresses": [{"address": f"{network}.2/24", "gateway": f"{network}.1"}],
            "routes": [{"dst": "0.0.0.0/0"}],
        }
        return super()._call(command, pod, {**config, "ipam": ipam})

    def _ledger_fault(self, address: str) -> str:
        del address
        return ""


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
