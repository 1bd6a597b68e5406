"""An emulated cloud as a process of its own on loopback, for the time of a benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from providers.sim.bench_agent import AgentError
from providers.sim.control import ControlClient


@contextmanager
def emulated_cloud(directory: Path, module: str) -> Iterator[tuple[ControlClient, dict[str, str]]]:
    """Its control socket, and where its doors are, by the names that `module` prints."""
    server = subprocess.Popen(
        [sys.executable, "-m", module, "--dir", str(directory), "--seed", "7"],
        stdout=subprocess.PIPE,
    )
    try:
        assert server.stdout is not None
        ready = json.loads(server.stdout.readline() or b"{}")
        if not ready:
            raise AgentError(f"{module} did not start")
        yield ControlClient(directory / "control.sock"), ready
    finally:
        server.terminate()
        server.wait(timeout=15)
