"""The names of the ipConfigurations that this daemon makes: `ipamd-` and eight hexadecimal digits.

A name follows from the token of the change that asks for it, and ipamd's store holds that token
before the call: so a repeat after a lost answer knows what it must not add twice. The prefix alone
says whose a configuration is; one without it is never touched.
"""

from __future__ import annotations

import enum
import hashlib
import itertools
from collections.abc import Container, Iterator

PREFIX = "ipamd-"
DIGITS = 8
"""32 bits: a name of a new token is on a full NIC by chance once in 16 million (256 of 2**32)."""


class Kind(enum.Enum):
    """What a configuration carries: one address, or a /28 block."""

    ADDRESS = "address"
    BLOCK = "block"


def is_ours(name: str) -> bool:
    """Whether a configuration is ours by its name; ARM compares names without regard to case."""
    return name.lower().startswith(PREFIX)


def names_of(
    token: str, kind: Kind, count: int, *, refused: Container[str] = frozenset()
) -> tuple[str, ...]:
    """The first `count` names that a token stands for: the same ones at each call.

    `refused` are names, in lower case, that stand for something else: another change of the same
    write, or a configuration of another kind. They are passed over, as is a name come upon twice.
    """
    fresh = (name for name in _distinct(token, kind) if name not in refused)
    return tuple(itertools.islice(fresh, count))


def _distinct(token: str, kind: Kind) -> Iterator[str]:
    seen: set[str] = set()
    for index in itertools.count():
        digest = hashlib.sha256(f"{token}/{kind.value}/{index}".encode()).hexdigest()
        name = PREFIX + digest[:DIGITS]
        if name not in seen:
            seen.add(name)
            yield name
