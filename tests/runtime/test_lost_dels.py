"""Sandboxes that a real containerd forgets, and ones that it only cannot be asked about."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from providers.sim.lab import Lab
from tests.node import hasty_cnid
from tests.node.ground import until
from tests.runtime.containerd import CNI_CACHE, unmount
from tests.runtime.cri import Sandbox
from tests.runtime.world import World, any_launcher

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def hasty_world(cloud: Lab) -> Iterator[World]:
    """A node of its own, whose vpc-cnid looks for lost DELs every 0.15 s."""
    made = World(
        cloud,
        "rt-lost",
        launcher=any_launcher(),
        env={"VPC_IPAMD_LOG_LEVEL": "debug"},
        is_tapped=False,
    )
    made.node.cnid.argv = (sys.executable, str(Path(hasty_cnid.__file__)))
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def world(hasty_world: World) -> Iterator[World]:
    """The node, with an empty log of vpc-cnid; afterwards everybody agrees."""
    os.truncate(hasty_world.node.cnid.log_path, 0)
    yield hasty_world
    hasty_world.containerd.clear()
    hasty_world.agree()


def events(world: World, name: str) -> list[dict[str, object]]:
    lines = world.node.cnid.log_path.read_text().splitlines()
    told = [json.loads(line) for line in lines if line.startswith("{")]
    return [event for event in told if event.get("event") == name]


def looks(world: World, count: int) -> None:
    wanted = len(events(world, "leaks_looked_for")) + count
    until(lambda: len(events(world, "leaks_looked_for")) >= wanted, what=f"{count} looks")


def is_held(world: World, sandbox: Sandbox) -> bool:
    return sandbox.sandbox_id in world.site.ledger().allocations


def forget(world: World, sandbox: Sandbox) -> None:
    """Everything of the sandbox goes behind the runtime's back, its record as well: what a lost
    state directory or an unclean upgrade of containerd leaves. Its cache entry stays."""
    world.containerd.daemon.kill()
    for pid in shims_of(sandbox):
        os.kill(pid, signal.SIGKILL)
    unmount(Path(sandbox.netns_path))
    Path(sandbox.netns_path).unlink()
    world.containerd.start()
    world.containerd.ctr("-n", "k8s.io", "containers", "rm", sandbox.sandbox_id)
    world.containerd.daemon.kill()
    world.containerd.start()


def shims_of(sandbox: Sandbox) -> list[int]:
    """The shim and the pause process: those that name the sandbox, or are in its namespace."""
    inode = Path(sandbox.netns_path).stat().st_ino
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            words = (entry / "cmdline").read_bytes()
            is_inside = (entry / "ns" / "net").stat().st_ino == inode
        except OSError:
            continue
        if is_inside or (b"containerd-shim" in words and sandbox.sandbox_id.encode() in words):
            found.append(int(entry.name))
    return found


def test_a_sandbox_that_containerd_forgot_gives_its_address_back(world: World) -> None:
    lives, lost = world.cri.run("lives"), world.cri.run("lost")
    looks(world, 3)
    forget(world, lost)
    assert lost.sandbox_id not in world.cri.listed(), "the case is a forgotten one"
    until(lambda: not is_held(world, lost), what="the release")
    assert world.site.ledger().addresses[lost.ip].state == "cooling"
    assert world.traces_on_node(lost.sandbox_id) == []
    assert [e["rule"] for e in events(world, "leak_released")] == ["gone"]
    assert any(lost.sandbox_id in path.name for path in (CNI_CACHE / "results").iterdir())
    assert world.can_reach_router(lives)


def test_a_runtime_that_is_down_or_starts_again_costs_no_pod_its_address(world: World) -> None:
    sandboxes = [world.cri.run(f"web-{number}") for number in range(3)]
    looks(world, 12)
    world.containerd.daemon.kill()
    looks(world, 12)
    world.containerd.start()
    looks(world, 12)
    assert events(world, "leak_released") == []
    assert all(world.can_reach_router(sandbox) for sandbox in sandboxes)


def test_a_pause_process_that_died_is_the_runtimes_to_clean(world: World) -> None:
    """The sandbox is listed as not ready and its namespace stands: its DEL will come."""
    lives, dead = world.cri.run("lives"), world.cri.run("dead")
    looks(world, 3)
    for pid in shims_of(dead):
        os.kill(pid, signal.SIGKILL)
    until(lambda: not world.cri.listed()[dead.sandbox_id].is_ready, what="a stopped sandbox")
    looks(world, 20)
    assert is_held(world, dead) and is_held(world, lives)
