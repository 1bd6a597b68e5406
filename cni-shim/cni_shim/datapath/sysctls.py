"""Settings under /proc/sys/net, of the network namespace that the calling thread is in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from cni_shim.datapath.errors import DatapathError

# In a container /proc/sys is mounted read-only; the host's, mounted elsewhere, is named then. It
# shows the settings of the reader's network namespace, whichever way it is reached.
_ROOT = Path(os.environ.get("VPC_IPAMD_PROC_SYS_NET") or "/proc/sys/net")


def has_ipv6() -> bool:
    """Whether the kernel knows the family; with ipv6.disable=1 it refuses to hear of it."""
    return (_ROOT / "ipv6").is_dir()


def read(name: str) -> str:
    """The value of net/<name>, slashes not dots; empty where there is none (gone with its link)."""
    try:
        return (_ROOT / name).read_text().strip()
    except OSError:
        return ""


def write(name: str, value: str) -> None:
    """Set net/<name>. Raises DatapathError."""
    try:
        descriptor = os.open(f"{_ROOT}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as e:
        raise DatapathError(f"write net/{name}", e.errno or errno.EIO) from e
