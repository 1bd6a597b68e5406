"""ipamd as a real process for a benchmark: start, first answer, memory, and one caller of its door.

The node's half, which no kernel needs to play here, is a thread that reports every ENI ready as
soon as ipamd names it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from ipam_api.v1 import door, ipam_pb2_grpc
from ipam_api.v1 import ipam_pb2 as pb

CHILD = b"ipamd.cloud_process"
POLL_SECONDS = 0.002
START_SECONDS = 30.0


class AgentError(Exception):
    """ipamd did not do what the benchmark needs; the text holds the end of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """One process's memory in kB, of /proc/PID/smaps_rollup."""

    rss_kb: int
    pss_kb: int

    def __add__(self, other: Memory) -> Memory:
        return Memory(rss_kb=self.rss_kb + other.rss_kb, pss_kb=self.pss_kb + other.pss_kb)


def memory_of(pid: int) -> Memory:
    """What the kernel counts for a process: Rss whole, Pss with shared pages divided."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, value = line.split(":", 1)
        fields[name] = int(value.split()[0])
    return Memory(rss_kb=fields["Rss"], pss_kb=fields["Pss"])


def megabytes(kb: int) -> float:
    """Of a million bytes; the kernel's kB are 1,024."""
    return kb * 1024 / 1e6


class Agent:
    """One ipamd; started and stopped at will, its store kept."""

    def __init__(self, directory: Path, env: Mapping[str, str]) -> None:
        self.run_dir = directory / "run"
        self.log_path = directory / "ipamd.log"
        self._env = {
            "PATH": os.environ.get("PATH", ""),
            "VPC_IPAMD_RUN_DIR": str(self.run_dir),
            "VPC_IPAMD_STORE_DIR": str(self.run_dir),
            **env,
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._reporter: Reporter | None = None

    @property
    def pid(self) -> int:
        """The daemon's pid."""
        if self._process is None:
            raise AgentError("ipamd is not running")
        return self._process.pid

    @property
    def child_pid(self) -> int:
        """The cloud child's pid."""
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
                if parent == self.pid and CHILD in (entry / "cmdline").read_bytes():
                    return int(entry.name)
        raise self.error("ipamd has no cloud child")

    @property
    def door_path(self) -> Path:
        """The verbs' door."""
        return self.run_dir / door.SOCKET_NAME

    def start(self) -> float:
        """Start; returns the moment just before the exec (monotonic seconds)."""
        with self.log_path.open("ab") as log:
            began = time.monotonic()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ipamd"], env=self._env, stdout=log, stderr=log, cwd="/"
            )
        self._reporter = Reporter(self.run_dir / "ipamd.sock")
        self._reporter.start()
        return began

    def stop(self) -> None:
        """SIGTERM, and wait."""
        if self._reporter is not None:
            self._reporter.close()
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(timeout=15)
        self._process = None

    def caller(self) -> Caller:
        """A connection to the door, as soon as it takes one."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            if self._process is None or self._process.poll() is not None:
                raise self.error("ipamd ended")
            with suppress(OSError):
                return Caller(self.door_path)
            if time.monotonic() > deadline:
                raise self.error(f"no door after {START_SECONDS:.0f} s")
            time.sleep(POLL_SECONDS)

    def fill(self, pods: int) -> None:
        """Give so many pods their addresses."""
        caller = self.caller()
        for number in range(pods):
            deadline = time.monotonic() + 60
            while not caller.allocate(f"pod-{number}", wait_seconds=20.0):
                if time.monotonic() > deadline:
                    raise self.error(f"pod {number} got no address")
                time.sleep(0.05)
        caller.close()

    def error(self, what: str) -> AgentError:
        """An error with the end of the log."""
        lines = self.log_path.read_text(errors="replace").splitlines()[-20:]
        return AgentError("\n".join([what, *lines]))


class Caller:
    """Allocate and Release over one connection, as vpc-cnid makes them."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def allocate(self, name: str, *, wait_seconds: float = 0.0) -> bool:
        """Whether the attachment got its address; False where ipamd cannot give one (yet)."""
        request = pb.AllocateRequest(
            key=pb.AttachmentKey(container_id=name, ifname="eth0"),
            network_name="bench",
            attempt_id=uuid.uuid4().hex,
            netns_cookie=1 + sum(name.encode()),
            pod_namespace="bench",
            pod_name=name,
            wait_seconds=wait_seconds,
            began_boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
        )
        return self._call(door.Method.ALLOCATE, request) == door.Status.OK

    def release(self, name: str) -> bool:
        """Whether the release was taken."""
        request = pb.ReleaseRequest(
            key=pb.AttachmentKey(container_id=name, ifname="eth0"), reason="bench"
        )
        return self._call(door.Method.RELEASE, request) == door.Status.OK

    def _call(self, method: door.Method, request: pb.AllocateRequest | pb.ReleaseRequest) -> int:
        self._socket.sendall(door.pack(method, request))
        length, status = door.answer_header(self._read(door.HEADER.size))
        self._read(length)
        return status

    def _read(self, length: int) -> bytes:
        got = b""
        while len(got) < length:
            part = self._socket.recv(length - len(got))
            if not part:
                raise AgentError("ipamd hung up")
            got += part
        return got


class Reporter(threading.Thread):
    """Says of each network that ipamd wants: all of it is ready, and no pod is unknown."""

    def __init__(self, path: Path) -> None:
        super().__init__(name="reporter", daemon=True)
        self._channel = grpc.insecure_channel(f"unix:{path}")
        self._stub = ipam_pb2_grpc.IpamStub(self._channel)
        self._is_closed = False
        self._last = pb.NodeNetwork()

    def run(self) -> None:
        """Until closed, and again after every end of the stream."""
        while not self._is_closed:
            with suppress(grpc.RpcError, ValueError):
                self._last = pb.NodeNetwork()
                for network in self._stub.WatchNode(pb.WatchNodeRequest()):
                    self._report(network)
            time.sleep(0.01)

    def close(self) -> None:
        """End the stream."""
        self._is_closed = True
        self._channel.close()

    def _report(self, network: pb.NodeNetwork) -> None:
        if network.flushes:
            self._stub.ReportFlushed(
                pb.ReportFlushedRequest(epoch=network.epoch, addresses=network.flushes)
            )
        network.ClearField("flushes")
        network.ClearField("sequence")
        if network == self._last:
            return
        self._last = network
        held = self._stub.List(pb.ListRequest()).allocations
        self._stub.ReportNode(
            pb.ReportNodeRequest(
                epoch=network.epoch,
                enis=[
                    pb.EniReport(eni_id=e.eni_id, is_ready=True, link_name=f"eth{e.device_index}")
                    for e in network.enis
                ],
                addresses=[_observed(one) for one in held],
            )
        )


def _observed(held: pb.Allocation) -> pb.ObservedAddress:
    return pb.ObservedAddress(
        address=held.address,
        link_name="eni",
        key=held.key,
        netns_cookie=held.netns_cookie,
        network_name=held.network_name,
        pod_namespace=held.pod_namespace,
        pod_name=held.pod_name,
    )
