"""Network namespaces by name: make, remove, enter for one call, start a process in one.

Names are bind mounts under /run/netns, as iproute2 keeps them (ip-netns(8)), so that `ip netns` and
`nsenter --net=` find them too.

The hazard: a network namespace belongs to a *thread*. setns(2) in the caller's thread would send
every later socket of that thread astray, and a pool's thread would carry it to whoever borrows it
next. So every visit here happens in a fresh thread that ends with it. A socket stays in the
namespace it was opened in, whoever uses it later; files under /proc/sys/net do not, they follow the
thread that opens them. pyroute2's own `netns=` is not used: it forks a child to open the socket.
"""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

Result = TypeVar("Result")

NETNS_DIR = Path("/run/netns")

# linux/sched.h, sys/mount.h, asm-generic/socket.h. Python 3.11 has no os.setns.
CLONE_NEWNET = 0x40000000
MS_BIND = 4096
MNT_DETACH = 2
SO_NETNS_COOKIE = 71

_libc = ctypes.CDLL(None, use_errno=True)


def create(name: str) -> str:
    """Make an empty namespace (lo down) and return its path; FileExistsError if there is one."""
    NETNS_DIR.mkdir(parents=True, exist_ok=True)
    path = str(NETNS_DIR / name)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o444))

    def make() -> None:
        _checked("unshare", _libc.unshare(CLONE_NEWNET))
        _checked(f"mount {path}", _bind("/proc/thread-self/ns/net", path))

    try:
        in_thread(make)
    except OSError:
        Path(path).unlink()
        raise
    return path


def delete(name: str) -> None:
    """Remove the name; nothing happens if there is none.

    The namespace itself lives until the last process, thread, socket or open fd in it is gone.
    """
    path = NETNS_DIR / name
    _libc.umount2(str(path).encode(), MNT_DETACH)  # not mounted is fine: unlink is what counts
    path.unlink(missing_ok=True)


def names() -> tuple[str, ...]:
    """Every name under /run/netns, sorted."""
    return tuple(sorted(entry.name for entry in NETNS_DIR.iterdir())) if NETNS_DIR.is_dir() else ()


def call_in(path: str, body: Callable[[], Result]) -> Result:
    """Run `body` in a fresh thread inside the namespace; its result, or its exception.

    Processes that `body` starts are born in the namespace (fork copies the calling thread's).
    """

    def visit() -> Result:
        enter(path)
        return body()

    return in_thread(visit)


def enter(path: str) -> None:
    """Move the *calling thread* into the namespace, for good. Only for threads that end soon."""
    with opened(path) as descriptor:
        _checked(f"setns {path}", _libc.setns(descriptor, CLONE_NEWNET))


@contextmanager
def opened(path: str) -> Iterator[int]:
    """An open descriptor of the namespace, which keeps it alive meanwhile."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def popen_in(
    path: str,
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stdout: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.DEVNULL,
    cwd: str | None = None,
    is_session_leader: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process in the namespace; the Popen is of the program itself, nothing in between.

    No `nsenter`: the thread that forks is already there, which saves an exec (1 ms) and works the
    same in a user namespace. No parent-death signal either: the kernel ties that to the forking
    *thread*, which ends at once. Who needs the process to die with him uses scripts/_sandbox.
    """

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            argv, env=dict(env), stdin=stdin, stdout=stdout, stderr=stderr, cwd=cwd,
            start_new_session=is_session_leader,
        )  # fmt: skip

    return call_in(path, start)


def run_in(path: str, argv: Sequence[str], *, stdin: str = "") -> str:
    """Run a short program in the namespace; its stdout. CalledProcessError carries its stderr."""

    def run() -> str:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=30
        )
        if done.returncode != 0:
            raise ProgramFailed(argv, done.returncode, done.stdout, done.stderr)
        return done.stdout

    return call_in(path, run)


class ProgramFailed(subprocess.CalledProcessError):
    """A program ended with an error; unlike its base class, the text says what it printed."""

    def __init__(self, argv: Sequence[str], code: int, stdout: str, stderr: str) -> None:
        super().__init__(code, list(argv), stdout, stderr)

    def __str__(self) -> str:
        return f"{' '.join(self.cmd)} ended with {self.returncode}: {self.stderr.strip()}"


def cookie(path: str) -> int:
    """The kernel's number for the namespace, never reused within a boot (inodes are, at once)."""

    def ask() -> int:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            raw = probe.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        return int.from_bytes(raw, "little")

    return call_in(path, ask)


def set_sysctl(key: str, value: int) -> None:
    """Write net.<key> (slashes, not dots) in the calling thread's namespace."""
    Path("/proc/sys/net", key).write_text(f"{value}\n", encoding="ascii")


def has_ipv6() -> bool:
    """Whether the kernel knows the family at all (ipv6.disable=1 takes it away)."""
    return Path("/proc/sys/net/ipv6").is_dir()


def in_thread(body: Callable[[], Result]) -> Result:
    """Run `body` in a fresh thread that ends with it; inside, `enter` is allowed."""
    outcome: Future[Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(body())
        except BaseException as error:  # noqa: BLE001 - the caller's thread raises it
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="netns-visit")
    thread.start()
    thread.join()
    return outcome.result()


def _bind(source: str, target: str) -> int:
    result: int = _libc.mount(source.encode(), target.encode(), b"none", MS_BIND, None)
    return result


def _checked(what: str, result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)
