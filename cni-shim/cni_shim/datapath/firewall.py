"""Our nftables table in the kernel: read back, replaced as one transaction, removed, by way of nft.

`ruleset` renders it, `chains` says what stands in it.
"""

from __future__ import annotations

import errno
import os
import subprocess

from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.ruleset import FAMILY, TABLE, Firewall, comments_in

_TIMEOUT_SECONDS = 10.0


def read_comments() -> tuple[str, ...] | None:
    """The comments of the table as the kernel has it; None where there is no table (or no nft)."""
    listing = read_table()
    return None if listing is None else comments_in(listing)


def read_table() -> str | None:
    """The table as nft lists it; None where there is no table (or no nft)."""
    try:
        done = _nft(["list", "table", FAMILY, TABLE], script=None)
    except DatapathError as e:
        if e.errno == errno.ENOENT:
            return None
        raise
    if done.returncode == 0:
        return done.stdout
    if "No such file or directory" in done.stderr:
        return None
    raise DatapathError("list the nft table", errno.EIO, _first_line(done.stderr))


def replace(firewall: Firewall) -> None:
    """Put the table in place; packets see the old one or the new one, nothing between."""
    done = _nft(["-f", "-"], script=firewall.script)
    if done.returncode != 0:
        raise DatapathError("replace the nft table", errno.EINVAL, _first_line(done.stderr))


def remove() -> None:
    """Delete the table. One that is gone already is success."""
    table = f"table {FAMILY} {TABLE}"
    done = _nft(["-f", "-"], script=f"{table} {{ }}\ndelete {table}\n")
    if done.returncode != 0:
        raise DatapathError("delete the nft table", errno.EINVAL, _first_line(done.stderr))


def _nft(arguments: list[str], *, script: str | None) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["nft", *arguments],
            input=script or "",
            capture_output=True,
            text=True,
            check=False,
            timeout=_TIMEOUT_SECONDS,
            env={**os.environ, "LC_ALL": "C"},  # its error texts are read
        )
    except FileNotFoundError as e:
        raise DatapathError("run nft", errno.ENOENT, "the program nft is not installed") from e
    except subprocess.TimeoutExpired as e:
        raise DatapathError("run nft", errno.ETIMEDOUT) from e
    except OSError as e:  # no process, no pipe
        raise DatapathError("run nft", e.errno or errno.EIO) from e


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
