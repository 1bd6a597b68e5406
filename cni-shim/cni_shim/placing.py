"""Files that appear whole, and by one writer at a time: what `install` places on a node."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def place(target: Path, content: bytes, mode: int) -> bool:
    """Have the file there, written by rename; True unless it was so already. Raises OSError."""
    if _is_so(target, content, mode):
        return False
    with _alone_in(target.parent):
        if _is_so(target, content, mode):
            return False
        _write(target.with_name(f".{target.name}.new"), target, content, mode)
    return True


def _is_so(target: Path, content: bytes, mode: int) -> bool:
    with suppress(OSError):
        return target.lstat().st_mode == stat.S_IFREG | mode and target.read_bytes() == content
    return False


@contextmanager
def _alone_in(directory: Path) -> Iterator[None]:
    """Hold the directory's lock: in a rollout the old container and the new one write the same
    files, and each may be process 1 of its own, so that no name made of that tells them apart."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _write(made: Path, target: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)  # whatever the umask
            os.fsync(file.fileno())
        made.rename(target)
    except OSError:
        with suppress(OSError):
            made.unlink()
        raise
