"""A node of the lab in the hands of a test, and the few questions that most tests ask of it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from providers.sim import ping
from providers.sim.lab import Lab
from providers.sim.lab_node import Node
from providers.sim.lab_process import is_listening
from providers.sim.runtime import CniCall, Pod, Runtime
from tests.node.readings import LedgerFile, read_kernel, read_ledger

T = TypeVar("T")

CONFIG: Mapping[str, Any] = {
    "cniVersion": "1.0.0",
    "name": "vpc-ipamd",
    "type": "vpc-cni",
    "vethPrefix": "eni",
    "mtu": "9001",
}


def until(
    condition: Callable[[], T | None], *, seconds: float = 15.0, what: str = "the awaited state"
) -> T:
    """The first true value of `condition`, looked for every 20 ms; AssertionError after a time."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s: {value!r}"
        time.sleep(0.02)


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """How a program ended and what it printed."""

    status: int
    text: str


class Site:
    """One node with its daemons, a runtime on it, and its pods."""

    def __init__(
        self, node: Node, launcher: tuple[str, ...], config: Mapping[str, Any] = CONFIG
    ) -> None:
        self.node = node
        self.launcher = launcher
        self.runtime = self.runtime_with(config=config)
        self.store = Path(node.ipamd.env.get("VPC_IPAMD_STORE_DIR", str(node.run_dir))) / "ipamd.db"

    def runtime_with(
        self,
        *,
        config: Mapping[str, Any] = CONFIG,
        deadline_ms: int | None = None,
        launcher: tuple[str, ...] = (),
    ) -> Runtime:
        """A runtime with another config or launcher, or a launcher with a lower deadline."""
        lower = ("/usr/bin/env", f"VPC_CNI_DEADLINE_MS={deadline_ms}") if deadline_ms else ()
        return self.node.runtime([*lower, *(launcher or self.launcher)], config)

    def start(self) -> None:
        """Start both daemons and wait until an ADD is served without delay."""
        self.node.start()
        self.settle()

    def settle(self, *, available: int = 1) -> None:
        """Wait until so many addresses are available."""
        try:
            until(
                lambda: len(self.ledger().in_state("available")) >= available,
                what=f"{available} available addresses on {self.node.name}",
            )
        except AssertionError as e:
            e.add_note(self.node.ipamd.log_tail())
            raise

    def ledger(self) -> LedgerFile:
        """The store's file."""
        return read_ledger(self.store)

    def add(self, name: str) -> Pod:
        """A pod that must start."""
        started = self.runtime.start_pod(name)
        assert started.add.is_ok, f"{started.add}\n{self.node.cnid.log_tail()}"
        return started.pod

    def restart_ipamd(self) -> None:
        """SIGKILL and start anew, as after a crash; returns when it serves."""
        self.node.ipamd.kill()
        self.start_ipamd()

    def start_ipamd(self) -> None:
        """Start it and wait until it serves."""
        self.node.ipamd.start()
        self.node.ipamd.wait_ready(lambda: is_listening(self.node.ipamd_socket))

    def start_cnid(self) -> None:
        """Start it and wait until it serves."""
        self.node.cnid.start()
        self.node.cnid.wait_ready(lambda: is_listening(self.node.cni_socket))

    def can_reach_router(self, pod: Pod, address: str) -> bool:
        """Whether the VPC router answers the pod; one lost echo is not yet a no."""
        identity = self.node.identity
        assert identity is not None
        router: IPv4Address | IPv6Address = identity.gateway
        if ":" in address:
            assert identity.address_v6 is not None
            router = IPv6Network((identity.address_v6, 64), strict=False).network_address + 1
        return any(
            ping.ping(pod.netns_path, address, str(router), 0.5) is not None for _ in range(3)
        )

    def status(self) -> tuple[int, dict[str, Any]]:
        """`ipamctl status -o json`: its exit status and document."""
        told = self.ipamctl("status", "-o", "json")
        return told.status, json.loads(told.text) if told.status < 2 else {}

    def problems(self) -> str:
        """The sentences of `ipamctl status`, one per line."""
        return "\n".join(self.status()[1].get("problems", ()))

    def ipamctl(self, *arguments: str) -> Told:
        """Run ipamctl against this node."""
        done = subprocess.run(
            [sys.executable, "-m", "ipamd.cli.main", *arguments],
            env={**os.environ, "VPC_IPAMD_RUN_DIR": str(self.node.run_dir)},
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return Told(status=done.returncode, text=done.stdout + done.stderr)

    def traces(self, pod: Pod) -> list[str]:
        """Whatever the kernel or the ledger still has of a pod; empty when all is gone."""
        kernel = read_kernel(self.node.netns_path)
        held = self.ledger().allocations.get(pod.container_id)
        veth = kernel.veth_of(pod.container_id)
        found = [f"link {veth.name}"] if veth else []
        found += [f"allocation of {held.address}"] if held else []
        return found


class Ground:
    """The sites of one test."""

    def __init__(self, lab: Lab, launcher: tuple[str, ...]) -> None:
        self.lab = lab
        self.launcher = launcher
        self._names: list[str] = []

    def site(
        self,
        *,
        env: Mapping[str, str] | None = None,
        subnet: int = 0,
        launcher: tuple[str, ...] = (),
        instance_type: str = "m5.large",
    ) -> Site:
        """A booted node whose daemons are not yet started."""
        name = f"n{len(list(self.lab.directory.glob('n*')))}"
        self._names.append(name)
        node = self.lab.add_node(
            name,
            instance_type=instance_type,
            subnet=subnet,
            env={"WARM_IP_TARGET": "3", "IP_COOLDOWN_PERIOD": "2", **(env or {})},
        )
        return Site(node, launcher or self.launcher)

    def started(
        self,
        *,
        env: Mapping[str, str] | None = None,
        subnet: int = 0,
        launcher: tuple[str, ...] = (),
    ) -> Site:
        """A node that serves ADDs."""
        site = self.site(env=env, subnet=subnet, launcher=launcher)
        site.start()
        return site

    def close(self) -> None:
        """Faults off, nodes away."""
        self.lab.control.call("clear_faults")
        for name in self._names:
            with suppress(KeyError):
                self.lab.remove_node(name)


def code_of(call: CniCall) -> int | None:
    """The CNI code of a failed call; None where the call printed no error document."""
    document = call.document or {}
    return document.get("code") if call.exit_code else None


def details_of(call: CniCall) -> str:
    """Message and details of a failed call."""
    document = call.document or {}
    return f"{document.get('msg', '')}; {document.get('details', '')}"
