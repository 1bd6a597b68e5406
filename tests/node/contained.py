"""Runs a program as the manifest runs a container: its mounts, its rights, and nothing else.

    python contained.py '{"capabilities": [...], "mounts": [...]}' PROGRAM ...

Own mounts: the interpreter and the sources read-only, an empty /run, a /proc whose sys is read-only
(as runtimes mount it), and the volumes. The capabilities outside of the list leave the bounding
set, and no program regains any. What it does not imitate: the process ids of a namespace of their
own, and seccomp's RuntimeDefault profile.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

# sys/mount.h, linux/sched.h, linux/prctl.h, linux/capability.h
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC = 1, 0x20, 0x1000, 0x4000
MS_PRIVATE, MS_SLAVE = 0x40000, 0x80000
MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
CLONE_NEWNS = 0x20000
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS = 24, 38
CAPABILITY_VERSION_3 = 0x20080522
NUMBERS = {"DAC_OVERRIDE": 1, "NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21}

ROOT = Path(__file__).parents[2]
SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib64", "/etc")

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """A volume of the container. Without a source it is an empty tmpfs."""

    source: str
    target: str
    is_read_only: bool = False
    follows_host: bool = False


def main() -> None:
    """Become the container, then the program."""
    wanted = json.loads(sys.argv[1])
    _checked("unshare", _libc.unshare(CLONE_NEWNS))
    # New mounts of the node come in; ours stay here.
    _mount("none", "/", flags=MS_REC | MS_SLAVE)
    root = _root([Volume(**each) for each in wanted["mounts"]])
    os.chroot(root)
    os.chdir("/")
    _keep_only({NUMBERS[name] for name in wanted["capabilities"]})
    os.execve(sys.argv[2], sys.argv[2:], dict(os.environ))


def _root(volumes: list[Volume]) -> Path:
    root = Path(tempfile.mkdtemp(prefix="contained-"))
    _mount("tmpfs", str(root), "tmpfs")
    _mount("proc", str(_made(root / "proc")), "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    _bind(root / "proc/sys", root / "proc/sys", is_read_only=True)
    _made(root / "dev")
    for device in ("null", "urandom"):
        _bind(Path("/dev", device), root / "dev" / device)
    for volume in volumes:
        target = root / volume.target.lstrip("/")
        if not volume.source:
            _mount("tmpfs", str(_made(target)), "tmpfs")
            continue
        flags = MS_REC | (MS_SLAVE if volume.follows_host else MS_PRIVATE)
        _bind(Path(volume.source), target, flags=flags, is_read_only=volume.is_read_only)
    # After the volumes: the sources may lie below one of them, as in /tmp.
    for name in dict.fromkeys((*SYSTEM, sys.base_prefix, sys.prefix, str(ROOT))):
        source, target = Path(name), root / name.lstrip("/")
        if source.is_symlink():
            target.symlink_to(source.readlink())
        elif source.is_dir():
            _bind(source, target, is_read_only=True)
    _mount("none", str(root), flags=MS_REMOUNT | MS_BIND | MS_RDONLY)
    return root


def _bind(
    source: Path, target: Path, *, flags: int = MS_REC | MS_PRIVATE, is_read_only: bool = False
) -> None:
    if source.is_dir():
        _made(target)
    elif not target.exists():
        _made(target.parent)
        target.touch()
    _mount(str(source), str(target), flags=MS_BIND | MS_REC)
    _mount("none", str(target), flags=flags)
    if is_read_only:
        # In a user namespace the flags that it was mounted with have to stay: statvfs has them.
        kept = os.statvfs(target).f_flag & (MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _mount("none", str(target), flags=MS_REMOUNT | MS_BIND | MS_RDONLY | kept)


def _made(path: Path) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    return path


def _keep_only(capabilities: set[int]) -> None:
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for number in set(range(last + 1)) - capabilities:
        _checked("prctl", _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0))
    kept = sum(1 << number for number in capabilities)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)
    low, high = kept & 0xFFFFFFFF, kept >> 32
    data = (ctypes.c_uint32 * 6)(low, low, 0, high, high, 0)  # effective, permitted, inheritable
    _checked("capset", _libc.capset(ctypes.byref(header), ctypes.byref(data)))
    _checked("prctl", _libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def _mount(source: str, target: str, kind: str = "none", flags: int = 0) -> None:
    status = _libc.mount(source.encode(), target.encode(), kind.encode(), flags, None)
    _checked(f"mount {source} {target}", status)


def _checked(what: str, status: int) -> None:
    if status != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


if __name__ == "__main__":
    main()
