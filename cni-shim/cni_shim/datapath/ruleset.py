"""An nftables table as text, with the comments that prove that it stands. Pure.

nft lists expressions otherwise than they were written (`& 0xffffff80 | 2` comes back as
`& 0xffffff82 | 2`), so texts cannot be compared. Instead every rule carries a comment made of the
checksum of the whole and its own number: the table stands exactly as wanted when its comments do.
A flushed chain, a deleted rule and an older version all show.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

TABLE = "vpc-ipamd"
FAMILY = "inet"  # the marks are the same for IPv4 and IPv6
_COMMENT = re.compile(r'comment "(vpc-ipamd/[0-9a-f]+/[0-9]+)"')


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
    table = f"table {FAMILY} {TABLE}"
    body = "\n".join(lines)
    # Declared before it is deleted, so that the deletion cannot fail; all in one transaction.
    script = f"{table} {{ }}\ndelete {table}\n{table} {{\n{body}\n}}\n"
    return Firewall(script=script, comments=tuple(comments))


def comments_in(listing: str) -> tuple[str, ...]:
    """Our comments in a listing, in its order."""
    return tuple(_COMMENT.findall(listing))
