"""Debian's podman with its CNI backend, as one process tree per run on a node of the lab.

Each sequence of calls has a mount namespace of its own: podman mounts over /run/netns, and the lab
could not remove its namespaces below that any more. Containers sleep and are removed: where one
ended by itself at once, the monitor of podman 4.3 was gone and nobody had called for the clean-up.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from providers.sim import netns
from providers.sim.lab_node import PATH
from tests.runtime import images

# The ulimits and the two "unconfined": what podman sets by itself needs rights that a container in
# continuous integration, or a machine without CAP_SYS_RESOURCE, does not give.
ENGINE = """\
[containers]
apparmor_profile = "unconfined"
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
seccomp_profile = "unconfined"

[network]
network_backend = "cni"
cni_plugin_dirs = ["{bin_dir}"]
network_config_dir = "{top}/networks"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
runtime = "runc"
tmp_dir = "{top}/tmp"
"""
STORAGE = """\
[storage]
driver = "vfs"
graphroot = "{top}/graph"
runroot = "{top}/run"
"""
POLICY = '{"default": [{"type": "insecureAcceptAnything"}]}'  # of signatures: ours has none


def why_no_podman() -> str:
    """Empty where it can run; else the sentence that says what is missing."""
    if shutil.which("podman", path=PATH) is None:
        return "No podman to drive; on Debian: apt-get install podman"
    return ""


class Podman:
    """One store and one network; nothing runs between calls."""

    def __init__(
        self,
        top: Path,
        *,
        bin_dir: Path,
        node_netns: str,
        conflist: Mapping[str, Any],
        cgroup_parent: str,
    ) -> None:
        """`top` is made."""
        self._node_netns = node_netns
        self._network = str(conflist["name"])
        self._cgroup_parent = cgroup_parent
        for folder in ("networks", "graph", "run", "tmp"):
            (top / folder).mkdir(parents=True)
        (top / "engine.conf").write_text(ENGINE.format(top=top, bin_dir=bin_dir))
        (top / "storage.conf").write_text(STORAGE.format(top=top))
        (top / "policy.json").write_text(POLICY)
        (top / "networks" / "10-vpc.conflist").write_text(json.dumps(conflist))
        self._env = {
            "PATH": PATH,
            "HOME": str(top),
            "TMPDIR": str(top / "tmp"),
            "CONTAINERS_CONF": str(top / "engine.conf"),
            "CONTAINERS_STORAGE_CONF": str(top / "storage.conf"),
        }
        self._load(top)

    def networks(self) -> str:
        """`podman network ls`."""
        return self._called("network", "ls")

    def run(self, name: str, script: str) -> str:
        """A container that sleeps, a script run in it, and its removal; what the script printed."""
        box = f"--cgroup-parent {self._cgroup_parent} {images.BOX}"
        return self._shell(
            f"podman run --detach --name {name} --network {self._network} {box} >/dev/null",
            f"podman exec {name} /bin/sh -c '{script}'",
            f"podman rm --force --time 0 {name} >/dev/null",
        )

    def _load(self, top: Path) -> None:
        busybox = shutil.which("busybox", path=PATH)
        assert busybox is not None
        images.write_archive(top / "box.tar", Path(busybox), (images.BOX,))
        policy = str(top / "policy.json")
        self._called("load", "--signature-policy", policy, "-i", str(top / "box.tar"))

    def _called(self, *arguments: str) -> str:
        return self._shell(shlex.join(["podman", *arguments]))

    def _shell(self, *commands: str) -> str:
        """Commands one after the other in one mount namespace, until one fails."""
        shell = ["unshare", "--mount", "/bin/sh", "-e", "-c", "\n".join(commands)]

        def call() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                shell, env=self._env, capture_output=True, text=True, check=False, timeout=60
            )

        done = netns.call_in(self._node_netns, call)
        assert done.returncode == 0, f"{commands}: {done.stdout}{done.stderr}"
        return done.stdout
