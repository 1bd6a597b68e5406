"""Which network namespaces there are, by cookie: the mounted ones and those of processes.

Called by `witnesses`. The cookie (SO_NETNS_COOKIE) is never used again within a boot, unlike the
inode, which may be by the next namespace: inodes are compared within one reading only, to read each
namespace once.

Hazard: a cookie is read by a socket that is made inside the namespace, so a file that is none must
be told apart first; FIFOs and devices are opened without blocking.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cni_shim.datapath.errors import DatapathError
from cni_shim.signs import Namespaces

_INITIAL_PID_NAMESPACE = 0xEFFFFFFC  # linux/proc_ns.h, PROC_PID_INIT_INO
_NS_GET_NSTYPE, _CLONE_NEWNET = 0xB703, 0x40000000  # linux/nsfs.h, linux/sched.h
_VANISHED = frozenset({errno.ENOENT, errno.ESRCH})

Inode = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Directory:
    path: Path
    names: tuple[str, ...]


class NamespaceReading:
    """One reading: first `mounted`, then `of_processes`. `gaps` says why one is not whole."""

    def __init__(self, cookie_of: Callable[[int], int]) -> None:
        """`cookie_of` gives the cookie behind a descriptor, and raises DatapathError."""
        self._cookie_of = cookie_of
        self._cookies: dict[Inode, int] = {}
        self.gaps: list[str] = []

    def mounted(self, directories: Iterable[Path]) -> Namespaces:
        """The namespaces that are mounted on files of these directories.

        Whole where at least one directory is there and every entry of them is a namespace. A name
        whose mount is not seen (no mount propagation into our container) is a plain file.
        """
        self.gaps = []
        cookies: set[int] = set()
        listed = [found for path in _distinct(directories) if (found := self._listed(path))]
        for found in listed:
            for name in found.names:
                cookie = self._mounted_at(found.path / name)
                if cookie is not None:
                    cookies.add(cookie)
        if not listed and not self.gaps:
            self.gaps.append("none of the directories is there")
        return Namespaces(cookies=frozenset(cookies), is_whole=not self.gaps)

    def of_processes(self, proc: Path) -> Namespaces:
        """The namespaces of the processes under `proc`; of threads only the first of each counts.

        Whole where /proc shows the host's processes and every one of them could be asked.
        """
        self.gaps = [gap for gap in (_narrowness(proc),) if gap]
        found = self._listed(proc)
        inodes: dict[Inode, Path] = {}
        for pid in found.names if found else ():
            if not pid.isdecimal():
                continue
            path = proc / pid / "ns" / "net"
            try:
                status = path.stat()
            except OSError as e:
                self._gap(path, e)
            else:
                inodes.setdefault((status.st_dev, status.st_ino), path)
        for inode, path in inodes.items():
            if inode not in self._cookies:
                self._mounted_at(path)
        cookies = frozenset(self._cookies[inode] for inode in inodes if inode in self._cookies)
        return Namespaces(cookies=cookies, is_whole=not self.gaps)

    def _listed(self, directory: Path) -> _Directory | None:
        try:
            return _Directory(path=directory, names=tuple(p.name for p in directory.iterdir()))
        except FileNotFoundError:
            return None
        except OSError as e:
            self.gaps.append(f"{directory}: {e.strerror}")
            return None

    def _mounted_at(self, path: Path) -> int | None:
        """The cookie of the namespace behind a file; None, and a gap, where it is none."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as e:
            self._gap(path, e)
            return None
        try:
            return self._cookie(path, descriptor)
        finally:
            os.close(descriptor)

    def _cookie(self, path: Path, descriptor: int) -> int | None:
        status = os.fstat(descriptor)
        inode = (status.st_dev, status.st_ino)
        known = self._cookies.get(inode)
        if known is not None:
            return known
        try:
            if fcntl.ioctl(descriptor, _NS_GET_NSTYPE) != _CLONE_NEWNET:
                self.gaps.append(f"{path}: a namespace of another kind")
                return None
            cookie = self._cookie_of(descriptor)
        except OSError:
            self.gaps.append(f"{path}: no namespace; a leftover, or mounts are not propagated")
            return None
        except DatapathError as e:
            self.gaps.append(f"{path}: {e}")
            return None
        self._cookies[inode] = cookie
        return cookie

    def _gap(self, path: Path, error: OSError) -> None:
        """Whatever has ended or was unmounted since the listing is no gap."""
        if error.errno not in _VANISHED:
            self.gaps.append(f"{path}: {error.strerror}")


def _distinct(directories: Iterable[Path]) -> list[Path]:
    """One of each, as /var/run is usually /run."""
    return list(dict.fromkeys(path.resolve() for path in directories))


def _narrowness(proc: Path) -> str:
    """Why `proc` may not show every process of the host; empty where it does."""
    try:
        own = (proc / "self" / "ns" / "pid").stat().st_ino
        mounts = (proc / "self" / "mountinfo").read_text()
    except OSError as e:
        return f"{proc}: {e.strerror}"
    if own != _INITIAL_PID_NAMESPACE:
        return "only the processes of our own container are seen (no hostPID)"
    if any(_hides_processes(line, str(proc)) for line in mounts.splitlines()):
        return f"{proc} is mounted with hidepid"
    return ""


def _hides_processes(line: str, proc: str) -> bool:
    """proc(5): field 5 of a line is the mount point, the last one the file system's options."""
    fields = line.split(" ")
    options = fields[-1].split(",")
    hidden = [o.partition("=")[2] for o in options if o.startswith("hidepid=")]
    return len(fields) > 4 and fields[4] == proc and any(h not in {"0", "off"} for h in hidden)
