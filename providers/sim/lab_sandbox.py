"""The two processes that make the sandbox: one outside of it, and the first one inside.

Run by path, by scripts/_sandbox, with `python -I -S` and nothing but the standard library: it has
to work before .venv exists. Why not the `unshare` program: while that waits for its child it
ignores INT and TERM and passes neither on (unshare(1), --fork). Why not bash as the first process:
bash starts a background command with INT ignored, and cannot see whether a signal came from the
terminal - which has sent it to the command as well - or from a process, which has not. Passing
both kinds on would interrupt the command twice.

The first process of a pid namespace has duties: it reaps every orphan, and the kernel drops any
signal it has no handler for, so it must wait for signals and pass them on. When it ends, the
kernel kills all that is left inside; it asks to be killed itself when the outer process dies, so
nothing outlives even a `kill -9`.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterable

# linux/sched.h, sys/mount.h, linux/prctl.h, linux/if.h, linux/sockios.h
CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x20000, 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REC, MS_PRIVATE = 2, 4, 8, 0x4000, 0x40000
PR_SET_PDEATHSIG = 1
IFF_UP, SIOCGIFFLAGS, SIOCSIFFLAGS = 1, 0x8913, 0x8914

EXIT_CANNOT = 77  # "skipped", as automake and meson read it
WATCHED = (
    signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP,
    signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
)  # fmt: skip
WHAT_WOULD_HELP = (
    "run it as root, or allow user namespaces (sysctl user.max_user_namespaces above 0 and, where "
    "they exist, kernel.unprivileged_userns_clone=1 and kernel.apparmor_restrict_unprivileged_"
    "userns=0), or give the container more rights (docker run --privileged)"
)

_libc = ctypes.CDLL(None, use_errno=True)


def main(arguments: list[str]) -> int:
    """`--probe`: 0 or 77. Else the command runs inside: its status, 128 + n for signal n."""
    needs_user_namespace = choose()
    if needs_user_namespace is None:
        return EXIT_CANNOT
    if arguments == ["--probe"]:
        return 0
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # inherited SIG_IGN would hide the children
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    is_alive, alive = os.pipe()
    unshare(needs_user_namespace=needs_user_namespace)
    child = os.fork()
    if child == 0:
        os.close(alive)
        os._exit(guarded(lambda: first_process(arguments, is_alive, mask)))
    return supervise(child)


def choose() -> bool | None:
    """Whether a user namespace is needed, by trying; None: neither way works, and said why."""
    reasons = []
    for needs_user_namespace in (False, True):
        reason = attempt(needs_user_namespace)
        if not reason:
            return needs_user_namespace
        reasons.append(reason)
    say(
        f"no sandbox can be made here (directly: {reasons[0]}; in a user namespace: {reasons[1]}); "
        f"{WHAT_WOULD_HELP}."
    )
    return None


def attempt(needs_user_namespace: bool) -> str:
    """Make a throw-away sandbox in child processes; empty when it worked, else the reason."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read_end)
        os._exit(guarded(lambda: trial(write_end, needs_user_namespace=needs_user_namespace)))
    os.close(write_end)
    with os.fdopen(read_end, encoding="utf-8") as reasons:
        reason = reasons.read()
    status = os.waitpid(child, 0)[1]
    return reason or ("" if status == 0 else f"the trial ended with status {status}")


def trial(write_end: int, *, needs_user_namespace: bool) -> int:
    """In a child: unshare, fork the first process, let it set up and end."""
    try:
        unshare(needs_user_namespace=needs_user_namespace)
        child = os.fork()
        if child == 0:
            set_up()
            return 0
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except OSError as error:
        os.write(write_end, f"{error.filename or 'unshare'}: {error.strerror}".encode())
        return 1


def unshare(*, needs_user_namespace: bool) -> None:
    """New net and mount namespaces for this process, a new pid namespace for its children."""
    user, group = os.geteuid(), os.getegid()
    flags = CLONE_NEWNET | CLONE_NEWNS | CLONE_NEWPID
    checked("unshare", _libc.unshare(flags | (CLONE_NEWUSER if needs_user_namespace else 0)))
    if needs_user_namespace:
        write("/proc/self/setgroups", "deny")  # user_namespaces(7): required before gid_map
        write("/proc/self/uid_map", f"0 {user} 1")
        write("/proc/self/gid_map", f"0 {group} 1")


def first_process(arguments: list[str], is_alive: int, mask: Iterable[int]) -> int:
    """Process 1: tie our life to the outer process, set up, run the command, see it through."""
    checked("prctl", _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))
    if select.select([is_alive], [], [], 0)[0]:
        return 128 + signal.SIGKILL  # it died before we asked
    set_up()
    os.environ["VPC_IPAMD_SANDBOX"] = "1"
    try:
        child = os.posix_spawnp(
            arguments[0], arguments, os.environ,
            setsigmask=mask, setsigdef=(signal.SIGPIPE, signal.SIGXFSZ),  # Python ignores these two
        )  # fmt: skip
    except OSError as error:
        say(f"{arguments[0]}: {error.strerror}")
        return 126 if error.errno == errno.EACCES else 127
    return supervise(child)


def set_up() -> None:
    """Own mounts that no other namespace sees, /proc of the new pids, an empty /run, lo up."""
    mount("none", "/", "", MS_REC | MS_PRIVATE)
    mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
    mount("tmpfs", "/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
    os.mkdir("/run/netns", 0o755)  # noqa: PTH102 - pathlib would double the start-up time
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))


def supervise(child: int) -> int:
    """Reap everything, pass on what processes send us; the child's status, as a shell gives it."""
    while True:
        seen = signal.sigwaitinfo(WATCHED)
        if seen.si_signo == signal.SIGCHLD:
            status = reap(child)
            if status is not None:
                return status
        elif seen.si_code <= 0:  # sigaction(2): positive is the kernel's, here the terminal's
            os.kill(child, seen.si_signo)


def reap(child: int) -> int | None:
    """Collect every dead process; the exit status of `child` if it was among them."""
    status = None
    while True:
        try:
            pid, raw = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return status
        if pid == 0:
            return status
        if pid == child:
            code = os.waitstatus_to_exitcode(raw)
            status = code if code >= 0 else 128 - code


def guarded(body: Callable[[], int]) -> int:
    """Run what a forked child does; an exception must not unwind into the parent's code."""
    try:
        return body()
    except BaseException as error:  # noqa: BLE001 - the last frame before os._exit
        say(f"{type(error).__name__}: {error}")
        return 1


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """mount(2); OSError names the target."""
    arguments = (source.encode(), target.encode(), kind.encode(), flags, options.encode())
    checked(f"mount {target}", _libc.mount(*arguments))


def checked(what: str, result: int) -> None:
    """Turn the -1 of a C call into an OSError that names the call."""
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), what)


def write(path: str, text: str) -> None:
    """One write to a file under /proc."""
    with open(path, "w", encoding="ascii") as file:  # noqa: PTH123 - as above
        file.write(text)


def say(text: str) -> None:
    """One line on stderr."""
    sys.stderr.write(f"scripts/_sandbox: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
