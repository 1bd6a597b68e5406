"""Our nftables table: rendered (pure), read back, and replaced as one transaction.

nft lists expressions otherwise than they were written (`& 0xffffff80 | 2` comes back as
`& 0xffffff82 | 2`), so texts cannot be compared. Instead every rule carries a comment made of the
checksum of the whole and its own number: the table stands exactly as wanted when its comments do.
A flushed chain, a deleted rule and an older version all show.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from cni_shim.datapath import names
from cni_shim.datapath.errors import DatapathError

TABLE = "vpc-ipamd"
_FAMILY = "inet"  # the marks are the same for IPv4 and IPv6
_TIMEOUT_SECONDS = 10.0
_COMMENT = re.compile(r'comment "(vpc-ipamd/[0-9a-f]+/[0-9]+)"')
_KEPT_BITS = 0xFFFFFFFF ^ names.MARK_MASK


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A base chain: its hook line and its rules, without comments."""

    name: str
    hook: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """A rendered table: the nft script that puts it in place, and the comments that prove it."""

    script: str
    comments: tuple[str, ...]


def mark_chain(marks: Sequence[int]) -> Chain:
    """Packets from pods of a secondary ENI get its mark; all other bits stay as they are.

    At mangle priority, so that the routing decision sees it; by interface group, so that the table
    does not change when pods come and go.
    """
    rules = tuple(
        f"iifgroup {names.link_group(mark):#x}"
        f" meta mark set meta mark & {_KEPT_BITS:#x} | {mark:#x}"
        for mark in sorted(marks)
    )
    return Chain(name="mark-pods", hook="type filter hook prerouting priority mangle", rules=rules)


def render(chains: Sequence[Chain]) -> Firewall | None:
    """The table of these chains; None, for no table at all, where none of them has a rule."""
    if not any(chain.rules for chain in chains):
        return None
    checksum = hashlib.sha256(repr(chains).encode()).hexdigest()[:16]
    lines: list[str] = []
    comments: list[str] = []
    for chain in chains:
        lines += [f"\tchain {chain.name} {{", f"\t\t{chain.hook}; policy accept;"]
        for rule in chain.rules:
            comments.append(f"{TABLE}/{checksum}/{len(comments)}")
            lines.append(f'\t\t{rule} comment "{comments[-1]}"')
        lines.append("\t}")
    table = f"table {_FAMILY} {TABLE}"
    body = "\n".join(lines)
    # Declared before it is deleted, so that the deletion cannot fail; all in one transaction.
    script = f"{table} {{ }}\ndelete {table}\n{table} {{\n{body}\n}}\n"
    return Firewall(script=script, comments=tuple(comments))


def comments_in(listing: str) -> tuple[str, ...]:
    """Our comments in a listing, in its order."""
    return tuple(_COMMENT.findall(listing))


def read_comments() -> tuple[str, ...] | None:
    """The comments of the table as the kernel has it; None where there is no table (or no nft)."""
    try:
        done = _nft(["list", "table", _FAMILY, TABLE], script=None)
    except DatapathError as e:
        if e.errno == errno.ENOENT:
            return None
        raise
    if done.returncode == 0:
        return comments_in(done.stdout)
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
    table = f"table {_FAMILY} {TABLE}"
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


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0]
