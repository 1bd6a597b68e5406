"""Whole nodes for tests: one emulated cloud per run, and nodes with real daemons on request."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.sim.lab import Lab
from tests.netns.conftest import why_no_namespaces
from tests.node.ground import Ground
from tests.node.kill_driver import SEED_VARIABLE
from tests.shim.launchers import CompilerMissing, launcher_command

SUBNETS = (
    {"cidr": "10.0.0.0/24", "zone": "us-west-2a"},
    {"cidr": "10.0.1.0/24", "zone": "us-west-2a"},  # for the test that fills it
    {
        "cidr": "10.0.2.0/24",
        "zone": "us-west-2a",
        "cidr_v6": "2001:db8:0:2::/64",
        "assigns_v6": True,
    },
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("netns")]
    reason = why_no_namespaces() if marked else ""
    for item in marked if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


def launcher_of(kind: str) -> tuple[str, ...]:
    """The launcher's command line; the test is skipped where it cannot be built."""
    try:
        return launcher_command(kind)
    except CompilerMissing as e:
        pytest.skip(str(e))


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The emulated cloud. Its directory has a short path: a socket address holds 107 bytes."""
    directory = Path(tempfile.mkdtemp(prefix="vpc-node-"))
    with Lab(directory) as made:
        made.start(subnets=SUBNETS, cidr_v6="2001:db8::/56")
        yield made
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def launcher() -> tuple[str, ...]:
    """A launcher where it does not matter which: C if there is a compiler, else Python."""
    try:
        return launcher_command("c")
    except CompilerMissing:
        return launcher_command("python")


@pytest.fixture
def ground(lab: Lab, launcher: tuple[str, ...]) -> Iterator[Ground]:
    """Nodes for one test, removed after it; faults of the cloud end with the test, too."""
    made = Ground(lab, launcher)
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def seed() -> int:
    """What the kill test draws from: VPC_IPAMD_KILL_SEED, or a new one every time."""
    given = os.environ.get(SEED_VARIABLE, "")
    return int(given) if given else int.from_bytes(os.urandom(3), "big")
