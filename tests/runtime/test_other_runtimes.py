"""`ctr run --cni` and podman: ids that are not hex, no pod names, other kinds of namespace."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from providers.sim import netns
from providers.sim.lab_node import PATH
from tests.node.ground import until
from tests.runtime import images
from tests.runtime.containerd import bind, unmount
from tests.runtime.podman import Podman, why_no_podman
from tests.runtime.world import CONFLIST, World

pytestmark = pytest.mark.netns

CTR_CONF, CTR_BIN = Path("/etc/cni/net.d"), Path("/opt/cni/bin")
"""Compiled into ctr."""

RUN_DIR = Path("/run/vpc-ipamd")
"""Compiled into the launchers; /run is the sandbox's own."""


def what_a_pod_sees(world: World) -> str:
    """A script that prints the pod's address and fails where the router does not answer."""
    assert world.node.identity is not None
    return f"ip -o address show eth0 && ping -c 1 -W 2 {world.node.identity.gateway}"


def address_in(text: str) -> str:
    found = re.search(r"inet ([0-9.]+)/32", text)
    assert found is not None, text
    return found[1]


@contextmanager
def standing_in(source: Path, target: Path) -> Iterator[None]:
    """`target` shows `source`, in this mount namespace alone; folders that were not there go."""
    missing = [path for path in (target, *target.parents) if not path.exists()]
    target.mkdir(parents=True, exist_ok=True)
    bind(source, target)
    try:
        yield
    finally:
        unmount(target)
        for path in missing:
            path.rmdir()


@pytest.fixture
def ctr_folders(world: World, tmp_path: Path) -> Iterator[None]:
    """ctr's folders with our conflist and the plugins that containerd has."""
    (tmp_path / "10-vpc.conflist").write_text(json.dumps(CONFLIST))
    with standing_in(tmp_path, CTR_CONF), standing_in(world.containerd.bin_dir, CTR_BIN):
        yield


@pytest.mark.usefixtures("ctr_folders")
def test_ctr_gives_its_container_an_address_that_works_and_takes_it_back(world: World) -> None:
    world.containerd.load_images(namespace="default")
    run = [
        "/usr/bin/env", f"PATH={PATH}", f"VPC_CNI_RUN_DIR={world.node.run_dir}",
        "ctr", "-a", str(world.containerd.socket), "run", "--rm", "--cni",
        "--snapshotter", "native", "--cgroup", f"{world.containerd.cgroup}/x1",
        images.BOX, "x1", "/bin/sh", "-c", what_a_pod_sees(world),
    ]  # fmt: skip
    address = address_in(netns.run_in(world.node.netns_path, run))
    add, delete = world.tap.calls()
    assert (add.verb, add.container_id, add.env.get("CNI_ARGS", "")) == ("ADD", "default-x1", "")
    assert re.fullmatch(r"/proc/[0-9]+/ns/net", add.env["CNI_NETNS"])
    assert str(delete) == "DEL no netns prevResult"
    assert world.site.ledger().addresses[address].state == "cooling"
    assert world.traces_on_node("default-x1") == []


@pytest.fixture
def podman(world: World, tmp_path: Path) -> Iterator[Podman]:
    """The run directory stands where launchers look: podman's clean-up, a grandchild of its
    monitor, passes no environment on."""
    reason = why_no_podman()
    if reason:
        pytest.skip(reason)
    RUN_DIR.symlink_to(world.node.run_dir)
    try:
        yield Podman(
            world.containerd.top / f"podman-{tmp_path.name}",
            bin_dir=world.containerd.bin_dir,
            node_netns=world.node.netns_path,
            conflist=CONFLIST,
            cgroup_parent=world.containerd.cgroup,
        )
    finally:
        RUN_DIR.unlink()


def test_podman_asks_our_versions_and_takes_our_network(world: World, podman: Podman) -> None:
    assert re.search(r"\bvpc-ipamd +vpc-cni\b", podman.networks())
    assert [call.verb for call in world.tap.calls()] == ["VERSION"]


def test_podman_gives_its_container_an_address_that_works_and_takes_it_back(
    world: World, podman: Podman
) -> None:
    address = address_in(podman.run("x1", what_a_pod_sees(world)))
    until(lambda: world.site.ledger().allocations == {}, what="podman's clean-up")
    add, delete = (call for call in world.tap.calls() if call.verb != "VERSION")
    assert str(add) == "ADD netns"
    assert add.env["CNI_NETNS"].startswith("/run/netns/netns-")
    assert set(add.env["CNI_ARGS"].split(";")) == {"IgnoreUnknown=1", "K8S_POD_NAME=x1"}
    assert str(delete) == "DEL netns prevResult"
    assert world.site.ledger().addresses[address].state == "cooling"
    assert world.traces_on_node(add.container_id) == []
