"""In a container /proc/sys is read-only: the host's, mounted elsewhere, serves every namespace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.netns

CONTAINER = """
set -eu
mount --bind /proc/sys/net "$1"
mount -o bind,ro /proc/sys /proc/sys
shift
exec "$@"
"""

# Writes in its own network namespace and in another one that it enters for it, as ADD does.
PROGRAM = """
import ctypes, os, threading
from cni_shim.datapath import sysctls
from cni_shim.datapath.errors import DatapathError

def read():
    return sysctls.read("ipv4/conf/lo/rp_filter")

sysctls.write("ipv4/conf/lo/rp_filter", "2")

def elsewhere():
    assert ctypes.CDLL(None, use_errno=True).unshare(0x40000000) == 0
    before = read()
    sysctls.write("ipv4/conf/lo/rp_filter", "1")
    print(before, read())

thread = threading.Thread(target=elsewhere)
thread.start()
thread.join()
print(read())
"""


def ran(tmp_path: Path, root: str) -> subprocess.CompletedProcess[str]:
    mounted = tmp_path / "net"
    mounted.mkdir(exist_ok=True)
    command: list[str | Path] = [
        "unshare",
        "--mount",
        "--net",
        "sh",
        "-c",
        CONTAINER,
        "sh",
        mounted,
    ]
    environ = {
        "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
        "PYTHONPATH": f"{ROOT / 'cni-shim'}:{ROOT / 'proto'}",
        "VPC_IPAMD_PROC_SYS_NET": root,
    }
    return subprocess.run(
        [*command, sys.executable, "-c", PROGRAM],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_hosts_settings_mounted_elsewhere_are_those_of_the_thread(tmp_path: Path) -> None:
    done = ran(tmp_path, str(tmp_path / "net"))
    assert done.returncode == 0, done.stderr
    elsewhere, own = done.stdout.splitlines()
    assert own == "2"
    assert elsewhere.split()[1] == "1"


def test_without_the_mount_the_error_names_the_setting_and_the_reason(tmp_path: Path) -> None:
    done = ran(tmp_path, "")
    assert done.returncode != 0
    assert "write net/ipv4/conf/lo/rp_filter: EROFS" in done.stderr
