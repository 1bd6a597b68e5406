"""The delete queue: DELs that were answered with success while nobody could do them.

`<run>/delete-queue/`, mode 0700, holds one file per attachment, `<container id>,<ifname>`, whose
content is the request frame without an fd. A DEL for a key that is there replaces it. Names with a
leading dot are files that are not whole yet; `damaged/` keeps what could not be read, for a human;
`lock` is the lock.

Writers: the launchers, while vpc-cnid is away, and vpc-cnid itself, while ipamd is away (`put`).
A launcher writes under the shared flock and only after it has knocked once more. vpc-cnid takes the
lock exclusively when it starts, drains, listens, and releases: so every DEL either finds a listener
or is found by the drain.

A crash between any two system calls leaves the old entry, the new one, or a temporary file that the
next `entries()` under the lock removes. Hazard: temporary files of others are live unless the lock
is held exclusively, so nothing is removed without it. All calls block on the disk.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from cni_shim import frames, spec
from cni_shim.errors import CniError

# Far above the pods of any node; it bounds what a daemon that never comes back can cost.
ENTRY_LIMIT = 4096
LOCK_TIMEOUT_SECONDS = 10.0  # launchers hold it for a few milliseconds
_LOCK_PAUSE_SECONDS = 0.01
_FRAME_LIMIT = frames.REQUEST_HEADER_BYTES + frames.ENV_LIMIT + frames.STDIN_LIMIT

log = structlog.get_logger(__name__)


class QueueError(Exception):
    """The queue cannot be used: full, locked for too long, or the disk says no."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedDelete:
    """A DEL that waits to be done. `queued_unix` is the file's time."""

    key: spec.AttachmentKey
    request: frames.Request
    queued_unix: float


class DeleteQueue:
    """The queue of one node. One daemon at a time owns it; launchers only add."""

    def __init__(self, run_dir: Path) -> None:
        """Make the directory. `QueueError` where that is impossible."""
        self._home = run_dir / "delete-queue"
        self._lock_fd: int | None = None
        try:
            self._home.mkdir(mode=0o700, exist_ok=True)
        except OSError as e:
            raise QueueError(f"{self._home} cannot be made: {e.strerror}") from e

    def take_lock(self, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> None:
        """Take the lock exclusively; launchers then wait. `QueueError` after the timeout."""
        fd = os.open(self._home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline_monotonic = time.monotonic() + timeout_seconds
        while not _try_lock(fd):
            if time.monotonic() >= deadline_monotonic:
                os.close(fd)
                raise QueueError(
                    f"{self._home}/lock was held for {timeout_seconds:g} s; is another vpc-cnid "
                    "starting with the same run directory?"
                )
            time.sleep(_LOCK_PAUSE_SECONDS)
        self._lock_fd = fd

    def release(self) -> None:
        """Let the launchers go on; call it once the socket listens. Harmless when not held."""
        if self._lock_fd is not None:
            os.close(self._lock_fd)
            self._lock_fd = None

    def entries(self) -> tuple[QueuedDelete, ...]:
        """All readable entries, oldest first.

        Damaged ones are moved to `damaged/` and logged. Under the exclusive lock, temporary files
        are removed: whoever wrote them died.
        """
        found = []
        for name in self._names():
            if name.startswith("."):
                self._remove_stale(name)
            elif "," in name and (entry := self._read(name)) is not None:
                found.append(entry)
        return tuple(sorted(found, key=lambda entry: (entry.queued_unix, entry.key)))

    def remove(self, key: spec.AttachmentKey) -> None:
        """Forget an entry that was done; one that is not there is no error."""
        try:
            (self._home / _entry_name(key)).unlink(missing_ok=True)
            self._sync()
        except OSError as e:
            raise QueueError(f"{key} cannot be removed from {self._home}: {e.strerror}") from e

    def set_aside(self, key: spec.AttachmentKey, reason: str) -> None:
        """Move an entry that cannot be done to `damaged/`, for a human."""
        self._set_aside(_entry_name(key), reason)

    def put(self, frame: bytes) -> spec.AttachmentKey:
        """Add a DEL durably, or replace the one of the same key; returns the key.

        `QueueError` if the queue is full or the disk fails, with no new entry made. `FrameError`
        and `CniError` if the frame is no DEL with usable names.
        """
        request = frames.without_netns(frames.parse_request(frame))
        key = _key_of(request)
        try:
            self._check_room(_entry_name(key))
            self._write(_entry_name(key), frames.pack_request(request))
        except OSError as e:
            raise QueueError(f"{key} cannot be written to {self._home}: {e.strerror}") from e
        return key

    def _names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._home.iterdir())
        except OSError as e:
            raise QueueError(f"{self._home} cannot be listed: {e.strerror}") from e

    def _remove_stale(self, name: str) -> None:
        if self._lock_fd is not None:
            with contextlib.suppress(OSError):  # it is retried at the next start and harms nobody
                (self._home / name).unlink()

    def _read(self, name: str) -> QueuedDelete | None:
        try:
            content, queued_unix = _read_file(self._home / name)
            request = _request_in(content, name)
            key = _key_of(request)
            _check_is(_entry_name(key), name)
        except FileNotFoundError:
            return None  # replaced or removed since the listing
        except (OSError, frames.FrameError, CniError) as e:
            self._set_aside(name, str(e))
            return None
        return QueuedDelete(key=key, request=request, queued_unix=queued_unix)

    def _set_aside(self, name: str, reason: str) -> None:
        log.warning("queued_delete_damaged", entry=name, reason=reason)
        try:
            (self._home / "damaged").mkdir(mode=0o700, exist_ok=True)
            (self._home / name).rename(self._home / "damaged" / name)
            self._sync()
        except OSError as e:
            # It stays where it is, is skipped again at the next start, and counts for the limit.
            log.warning("queued_delete_not_set_aside", entry=name, reason=str(e))

    def _check_room(self, name: str) -> None:
        names = self._names()
        entries = sum("," in each and not each.startswith(".") for each in names)
        if entries >= ENTRY_LIMIT and name not in names:
            raise QueueError(f"{self._home} is full: {entries} DELs wait")

    def _write(self, name: str, content: bytes) -> None:
        """Write aside, sync, rename, sync: a crash leaves the old entry or the new one, whole."""
        temp = self._home / f".{name}.daemon.{os.getpid()}.{time.monotonic_ns() // 1000000}"
        try:
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temp.rename(self._home / name)
            self._sync()
        except OSError:
            with contextlib.suppress(OSError):
                temp.unlink(missing_ok=True)
            raise

    def _sync(self) -> None:
        fd = os.open(self._home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _entry_name(key: spec.AttachmentKey) -> str:
    return f"{key.container_id},{key.ifname}"


def _key_of(request: frames.Request) -> spec.AttachmentKey:
    """The key of a DEL. Only the names are judged: a DEL must not depend on its stdin."""
    if request.value("CNI_COMMAND") != "DEL":
        raise frames.FrameError(f"a {request.value('CNI_COMMAND')!r} is not queued, only a DEL")
    container_id, ifname = request.value("CNI_CONTAINERID"), request.value("CNI_IFNAME")
    spec.check_container_id(container_id)
    spec.check_ifname(ifname)
    return spec.AttachmentKey(container_id=container_id, ifname=ifname)


def _request_in(content: bytes, name: str) -> frames.Request:
    """The DEL of an entry. Where a launcher of another version wrote it, its name says enough: the
    ledger knows what the key holds, and the host veth bears the key in its alias."""
    try:
        return frames.parse_request(content)
    except frames.UnknownProtocol:
        container_id, _, ifname = name.partition(",")
        pairs = (
            ("CNI_COMMAND", "DEL"),
            ("CNI_CONTAINERID", container_id),
            ("CNI_IFNAME", ifname),
        )
        env = tuple(frames.EnvVar(name=each, value=value) for each, value in pairs)
        return frames.Request(deadline_ms=1, env=env, stdin=b"")


def _check_is(expected: str, name: str) -> None:
    if expected != name:
        raise frames.FrameError(f"the content is the DEL of {expected}")


def _read_file(path: Path) -> tuple[bytes, float]:
    """Content and time of a plain file; a link, a FIFO or a directory would be none of ours."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a plain file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(_FRAME_LIMIT + 1), status.st_mtime
    finally:
        os.close(fd)
