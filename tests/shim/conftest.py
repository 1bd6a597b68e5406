"""Fixtures of the launcher suite: every test that takes `launcher` runs once per launcher."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from cni_shim import serving

from tests.shim.launchers import CompilerMissing, Launcher, launcher_command
from tests.shim.real_server import Node


@pytest.fixture
def run_dir() -> Iterator[Path]:
    """A run directory with a short path: a socket address holds 107 bytes."""
    path = Path(tempfile.mkdtemp(prefix="vpc-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=["c", "python"])
def launcher(request: pytest.FixtureRequest, run_dir: Path) -> Launcher:
    try:
        command = launcher_command(request.param)
    except CompilerMissing as e:
        pytest.skip(str(e))
    return Launcher(command=command, run_dir=run_dir)


@pytest.fixture
def node(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node whose vpc-cnid serves for the length of a test, whoever we are."""
    monkeypatch.setattr(serving, "_is_root", lambda connection: True)
    made = Node(run_dir)
    with made.serving():
        yield made
