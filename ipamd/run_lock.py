"""The lock that one ipamd of a node holds, and whoever works on its store in its place."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from ipamd.errors import SettingsError


@contextlib.contextmanager
def only_one(run_dir: Path) -> Iterator[None]:
    """Hold the lock of this node's ipamd; a second one would hand out the same addresses.

    Raises SettingsError where another process holds it, or the directory cannot be used or is
    another user's, who could put sockets and stores of his own there.
    """
    try:
        run_dir.mkdir(mode=0o750, parents=True, exist_ok=True)
        owner = run_dir.stat().st_uid
        if owner != os.geteuid():
            raise SettingsError(f"VPC_IPAMD_RUN_DIR {run_dir} belongs to uid {owner}, not to us")
        run_dir.chmod(0o750)  # whoever made it: a hostPath volume is born 0755
        descriptor = os.open(run_dir / "ipamd.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise SettingsError(f"cannot use VPC_IPAMD_RUN_DIR {run_dir}: {e}") from e
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise SettingsError(f"another ipamd holds {run_dir / 'ipamd.lock'}") from None
    try:
        yield
    finally:
        os.close(descriptor)
