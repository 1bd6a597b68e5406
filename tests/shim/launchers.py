"""The two launchers as programs to start; also for the benchmarks and the tests of whole nodes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "cni-shim" / "launcher"
BUILT = ROOT / "build" / "launcher"
NO_COMPILER = 3  # build.sh


class CompilerMissing(Exception):
    """No C compiler is here; the text says what to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a launcher ended."""

    status: int
    stdout: bytes
    stderr: bytes
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """One launcher, bound to the run directory of a node."""

    command: tuple[str, ...]
    run_dir: Path

    def start(
        self, env: Mapping[str, str], *, stdin: int = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """Start it with nothing in its environment but `env` and the run directory."""
        return subprocess.Popen(
            self.command,
            env={"VPC_CNI_RUN_DIR": str(self.run_dir)} | dict(env),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, env: Mapping[str, str], stdin: bytes = b"{}") -> Finished:
        """Start it, feed it and wait for its end."""
        started = time.monotonic()
        return finish(self.start(env), stdin, started=started)


def finish(process: subprocess.Popen[bytes], stdin: bytes, *, started: float) -> Finished:
    """Feed a started launcher and wait for its end; 40 s is above every deadline it has."""
    try:
        stdout, stderr = process.communicate(stdin, timeout=40)
    finally:
        process.kill()
        process.wait()
    seconds = time.monotonic() - started
    return Finished(status=process.returncode, stdout=stdout, stderr=stderr, seconds=seconds)


def build_launcher(directory: Path = BUILT) -> Path:
    """The C launcher, built when its source is newer. `CompilerMissing` where that cannot be."""
    made = subprocess.run(
        [str(SOURCES / "build.sh"), str(directory)], capture_output=True, text=True, check=False
    )
    if made.returncode == NO_COMPILER:
        raise CompilerMissing(made.stderr.strip().splitlines()[-1])
    if made.returncode != 0:
        raise RuntimeError(f"build.sh failed: {made.stderr}")
    return Path(made.stdout.strip())


def pack_launcher(directory: Path = BUILT) -> Path:
    """The Python launcher with its bytecode, made when a source of it is newer."""
    packed = directory / "vpc-cni-python"
    sources = [SOURCES / "vpc_cni.py", SOURCES / "pack.py"]
    newest = max(source.stat().st_mtime for source in sources)
    if not packed.exists() or packed.stat().st_mtime <= newest:
        directory.mkdir(parents=True, exist_ok=True)
        subprocess.run([interpreter(), str(SOURCES / "pack.py"), str(packed)], check=True)
    return packed


def interpreter() -> str:
    """The Python of the launcher's first line; ours on a system that has none there."""
    system = "/usr/bin/python3"
    return system if os.access(system, os.X_OK) else sys.executable


def launcher_command(kind: str) -> tuple[str, ...]:
    """How to start the launcher of a kind, "c" or "python", as it is installed."""
    if kind == "c":
        return (str(build_launcher()),)
    return (interpreter(), "-IS", str(pack_launcher()))
