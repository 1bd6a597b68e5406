"""Debian's containerd as a private daemon on a node of the lab.

Everything it has lies in one folder below /run, which is an empty tmpfs in the sandbox: it vanishes
with the mount namespace, and nothing waits for a disk. The `native` snapshotter copies the image
(2 MB) for every container; it costs a few milliseconds and works on any file system. libcni's
cache, whose place is compiled in, gets a tmpfs of its own. Control groups are the host's: all
sandboxes are below one of ours, which `close` removes.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from providers.sim.lab_node import PATH
from providers.sim.lab_process import Daemon, checked_socket_path, is_listening
from tests.runtime import images
from tests.runtime.cri import Cri, Refused

PLUGINS = Path("/usr/lib/cni")
PROGRAMS = {
    "containerd": "containerd",
    "runc": "runc",
    "ctr": "containerd",
    "busybox": "busybox-static",
    "iptables": "iptables",
}
CNI_CACHE = Path("/var/lib/cni")
CGROUPS = Path("/sys/fs/cgroup")
CONFIG = """\
version = 2
root = "{top}/root"
state = "{top}/state"
disabled_plugins = [
  "io.containerd.internal.v1.tracing",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{top}/containerd.sock"

[ttrpc]
  address = "{top}/ttrpc.sock"

[plugins."io.containerd.internal.v1.opt"]
  path = "{top}/opt"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true # else runc ends where CAP_SYS_RESOURCE is missing
  stream_server_address = "127.0.0.1"
  stream_server_port = "0"
  netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "native"

[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{top}/bin"
  conf_dir = "{top}/conf"
"""


def why_no_containerd() -> str:
    """Empty where it can run; else the sentence that says what is missing."""
    missing = {package for name, package in PROGRAMS.items() if not shutil.which(name, path=PATH)}
    if not (PLUGINS / "loopback").exists():
        missing.add("containernetworking-plugins")
    if missing:
        return f"No containerd to drive; on Debian: apt-get install {' '.join(sorted(missing))}"
    try:
        _remove_cgroups(_make_cgroup(f"vpc-ipamd-probe-{os.getpid()}"))
    except OSError as e:
        return f"A container runtime needs control groups, and {e}: real root is needed."
    return ""


class Containerd:
    """One containerd, restarted at will. Its network configuration is whatever `configure` said."""

    def __init__(self, name: str) -> None:
        """Its folder and what lies in it; `live_in` says where it runs."""
        self.top = Path(tempfile.mkdtemp(prefix=f"{name}-", dir="/run"))
        for folder in ("root", "state", "opt", "bin", "conf"):
            (self.top / folder).mkdir()
        self.bin_dir, self.conf_dir = self.top / "bin", self.top / "conf"
        self.socket = checked_socket_path(self.top / "containerd.sock")
        self.netns_dir = self.top / "state" / "io.containerd.grpc.v1.cri" / "netns"
        self._cgroup = f"vpc-ipamd-{self.top.name}"
        shutil.copy(PLUGINS / "loopback", self.bin_dir)  # containerd's own network asks for it
        (self.top / "config.toml").write_text(CONFIG.format(top=self.top, pause=images.PAUSE))
        self.cri = Cri(self.socket, cgroup_parent=self.cgroup)

    def live_in(self, node_netns: str, env: Mapping[str, str]) -> None:
        """It is a process of this network namespace; `env` reaches every plugin, as containerd
        passes its whole environment on."""
        own_cni_cache()
        self.daemon = Daemon(
            "containerd",
            ["containerd", "--config", str(self.top / "config.toml")],
            env={"HOME": str(self.top), "PATH": PATH, **env},
            netns_path=node_netns,
            log_path=self.top / "containerd.log",
        )

    def install(self, *names: str) -> None:
        """Debian's plugins into its folder."""
        for name in names:
            shutil.copy(PLUGINS / name, self.bin_dir)

    def start(self) -> None:
        """Start it and wait until it answers; the images of an earlier start are still there."""
        self.daemon.start()
        self.await_ready()

    def await_ready(self) -> None:
        """Wait until it answers."""
        self.daemon.wait_ready(lambda: is_listening(self.socket))
        _await(self._answers, what="an answer of containerd")

    @property
    def cgroup(self) -> str:
        """The control group above all its containers."""
        return f"/{self._cgroup}"

    def load_images(self, namespace: str = "k8s.io") -> None:
        """Give it the two images; `k8s.io` is where the CRI looks for them."""
        archive = self.top / "images.tar"
        busybox = shutil.which("busybox", path=PATH)
        assert busybox is not None
        images.write_archive(archive, Path(busybox))
        self.ctr("-n", namespace, "images", "import", "--snapshotter", "native", str(archive))

    def ctr(self, *arguments: str) -> str:
        """Run `ctr` against it; its stdout."""
        return subprocess.run(
            ["ctr", "-a", str(self.socket), *arguments],
            env={"PATH": PATH},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout

    def configure(self, conflist: Mapping[str, Any] | str | None) -> None:
        """Its one network configuration, by rename as an installer does it; None: there is none.

        Returns once containerd has read it. A text that it cannot read leaves it without one.
        """
        target, hidden = self.conf_dir / "10-vpc.conflist", self.conf_dir / ".10-vpc.conflist"
        if conflist is None:
            target.unlink(missing_ok=True)
            _await(lambda: not self.cri.network_condition()[0], what="a network that is not ready")
            return
        text = conflist if isinstance(conflist, str) else json.dumps(conflist)
        hidden.write_text(text)
        hidden.rename(target)
        if isinstance(conflist, str):
            _await(lambda: not self.cri.network_condition()[0], what="a network that is not ready")
        else:
            _await(lambda: text in self.cri.loaded_conflists(), what="the new configuration")

    def shims(self) -> tuple[int, ...]:
        """The processes that hold its containers."""
        return tuple(
            pid for pid, words in _processes() if _is_shim(words) and str(self.socket) in words
        )

    def children(self, program: str) -> tuple[int, ...]:
        """Processes that it started itself and whose program has this path."""
        return tuple(
            pid
            for pid, words in _processes()
            if program in words[:3] and _parent_of(pid) == self.daemon.pid
        )

    def clear(self) -> None:
        """Stop and remove every sandbox; ExceptionGroup of what was refused."""
        refused: list[Exception] = []
        for sandbox_id in self.cri.listed():
            try:
                self.cri.end(sandbox_id)
            except Refused as e:
                refused.append(e)
        if refused:
            raise ExceptionGroup("sandboxes that containerd could not end", refused)

    def close(self) -> None:
        """End it and all it left: shims, containers, mounts, control groups, files."""
        self.cri.close()
        self.daemon.close()
        for pid in self.shims():
            _kill(pid)
        _kill_cgroups(self._cgroup)
        _unmount_below(self.top)
        shutil.rmtree(self.top, ignore_errors=True)

    def _answers(self) -> bool:
        try:
            return bool(self.cri.version())
        except Refused:
            return False


def own_cni_cache() -> None:
    """An empty place for libcni's results, whose path containerd 1.6 has compiled in; once."""
    CNI_CACHE.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(CNI_CACHE):
        mount = ["mount", "-t", "tmpfs", "tmpfs", str(CNI_CACHE)]
        subprocess.run(mount, env={"PATH": PATH}, check=True, timeout=10)


def _await(condition: Callable[[], bool], *, what: str, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come in {seconds} s"
        time.sleep(0.01)


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            yield int(entry.name), (entry / "cmdline").read_text().split("\0")


def _parent_of(pid: int) -> int:
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _is_shim(words: list[str]) -> bool:
    return words[0].endswith("containerd-shim-runc-v2")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _cgroup_folders(name: str) -> list[Path]:
    """Our folder in every hierarchy: one of cgroup v2, several of v1."""
    return [path for path in (CGROUPS / name, *CGROUPS.glob(f"*/{name}")) if path.is_dir()]


def _make_cgroup(name: str) -> str:
    """Where runc would make one; OSError where it cannot."""
    tops = [CGROUPS] if (CGROUPS / "cgroup.controllers").exists() else list(CGROUPS.glob("pids"))
    if not tops:
        raise FileNotFoundError(f"no hierarchy is mounted on {CGROUPS}")
    for top in tops:
        (top / name).mkdir()
    return name


def _remove_cgroups(name: str) -> None:
    """The deepest first: rmdir is all that cgroups(7) allows, and the kernel's files go with it."""
    for top in _cgroup_folders(name):
        below = [Path(folder) for folder, _, _ in os.walk(top, topdown=False)]
        for folder in below:
            folder.rmdir()


def _kill_cgroups(name: str) -> None:
    def pids() -> set[int]:
        return {
            int(pid)
            for top in _cgroup_folders(name)
            for procs in top.rglob("cgroup.procs")
            for pid in procs.read_text().split()
        }

    deadline = time.monotonic() + 5.0
    while (left := pids()) and time.monotonic() < deadline:
        for pid in left:
            _kill(pid)
        time.sleep(0.01)
    _remove_cgroups(name)


def _unmount_below(top: Path) -> None:
    mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
    for path in reversed([one for one in mounted if one.startswith(f"{top}/")]):
        unmount(Path(path))


def bind(source: Path, target: Path) -> None:
    """Show a folder in a second place, in this mount namespace."""
    words = ["mount", "--bind", str(source), str(target)]
    subprocess.run(words, env={"PATH": PATH}, check=True, timeout=10)


def unmount(path: Path) -> None:
    """Take a mount away at once, whoever uses it; nothing happens where there is none."""
    subprocess.run(["umount", "-l", str(path)], env={"PATH": PATH}, check=False, timeout=10)
