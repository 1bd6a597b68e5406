"""One emulated cloud, one node and one containerd on it for all tests of the runtime."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.sim.lab import Lab
from tests.netns.conftest import why_no_namespaces
from tests.node.kill_driver import SEED_VARIABLE
from tests.runtime.containerd import why_no_containerd
from tests.runtime.world import CONFLIST, World, any_launcher

HERE = Path(__file__).parent
SUBNETS = ({"cidr": "10.0.0.0/23", "zone": "us-west-2a"},)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    ours = [item for item in items if HERE in item.path.parents]
    reason = (why_no_namespaces() or why_no_containerd()) if ours else ""
    for item in ours if reason else []:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def cloud() -> Iterator[Lab]:
    """The emulated cloud, apart from the one of tests/node. Its directory has a short path."""
    directory = Path(tempfile.mkdtemp(prefix="vpc-rt-"))
    with Lab(directory, fabric_name="vpc-rt") as made:
        made.start(subnets=SUBNETS)
        yield made
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def shared_world(cloud: Lab) -> Iterator[World]:
    """A node with all three daemons, started once."""
    made = World(cloud, "rt0", launcher=any_launcher())
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def world(shared_world: World) -> Iterator[World]:
    """The shared node; whatever a test did, afterwards everything is gone and everyone agrees."""
    shared_world.site.settle(available=2)
    shared_world.tap.forget()
    yield shared_world
    shared_world.lab.control.call("clear_faults")
    shared_world.containerd.configure(CONFLIST)
    shared_world.containerd.clear()
    shared_world.agree()


@pytest.fixture
def seed() -> int:
    """What the soak draws from: VPC_IPAMD_KILL_SEED, or a new one every time."""
    given = os.environ.get(SEED_VARIABLE, "")
    return int(given) if given else int.from_bytes(os.urandom(3), "big")
