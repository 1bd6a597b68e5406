"""Conflists of every version, as this containerd passes them to our plugin."""

from __future__ import annotations

from typing import Any

import pytest

from tests.runtime.world import CONFLIST, World, conflist

pytestmark = pytest.mark.netns

OLD = [None, "", "0.1.0", "0.2.0", "0.3.0", "0.3.1"]
"""Versions without a prevResult on DEL; no `cniVersion` at all is passed on as an empty one."""
NEW = ["0.4.0", "1.0.0"]
NEWEST = "1.1.0"


def _of_version(version: str | None) -> dict[str, Any]:
    if version is not None:
        return conflist(cniVersion=version)
    return {key: value for key, value in conflist().items() if key != "cniVersion"}


@pytest.mark.parametrize("version", [*OLD, *NEW], ids=repr)
def test_a_conflist_of_any_version_that_containerd_knows_works(
    world: World, version: str | None
) -> None:
    wanted = {k: v for k, v in _of_version(version).items() if k != "cniVersions"}
    world.containerd.configure(wanted)
    sandbox = world.cri.run("web")
    assert world.can_reach_router(sandbox)
    assert world.cri.cni_result(sandbox.sandbox_id)["Interfaces"]["eth0"]["IPConfigs"]
    world.cri.end(sandbox.sandbox_id)
    add, delete, _ = world.tap.calls(sandbox.sandbox_id)
    assert add.stdin["cniVersion"] == (version or "")
    assert delete.has_result == (version in NEW)
    assert world.traces(sandbox.sandbox_id) == []


def test_the_shipped_conflist_is_used_in_a_version_that_containerd_knows(world: World) -> None:
    world.cri.run("web")
    assert world.tap.calls()[0].stdin["cniVersion"] == "1.0.0" == CONFLIST["cniVersion"]


def test_a_list_of_versions_beside_the_old_key_is_passed_over(world: World) -> None:
    world.containerd.configure(conflist(cniVersions=["0.4.0", "1.0.0", NEWEST]))
    sandbox = world.cri.run("web")
    assert world.tap.calls()[0].stdin["cniVersion"] == "1.0.0"
    assert world.can_reach_router(sandbox)


def test_a_conflist_of_the_newest_version_alone_fails_here_and_leaves_nothing(
    world: World,
) -> None:
    """Our plugin serves it; the libcni in this containerd cannot read the result."""
    keys = {key: value for key, value in conflist().items() if key != "cniVersions"}
    world.containerd.configure({**keys, "cniVersion": NEWEST})
    assert f'unsupported CNI result version "{NEWEST}"' in world.failed_run("web").text
    assert world.tap.said() == ["ADD netns", "DEL netns"]
    assert world.traces(world.tap.calls()[0].container_id) == []
