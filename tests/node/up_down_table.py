"""What a verb is answered while parts of the node are down: one table for the test and the docs.

`docs/when-things-are-down.md` holds `render()` between two markers; a test compares them, and
`python -m tests.node.up_down_table` prints it for whoever changes a row.
"""

from __future__ import annotations

import enum
import itertools
from dataclasses import dataclass

BEGIN, END = "<!-- table: tests/node/up_down_table.py -->", "<!-- end of table -->"


class Add(enum.Enum):
    """What an ADD is answered; the pool has a free address."""

    SERVED = "0, served from the pool"
    NO_CNID = "1, code 11 `vpc-cnid is not reachable` after 10 s; nothing is left behind"
    NO_IPAMD = "1, code 11 `ipamd is not reachable` after 29 s; nothing is left behind"


class Del(enum.Enum):
    """What a DEL is answered, and what happens later."""

    DONE = "0, network removed, address cooling"
    RELEASE_QUEUED = (
        "0, network removed, release queued; the address stays allocated and cools "
        "from ipamd's return on"
    )
    WHOLE_QUEUED = (
        "0 after 0.75 s, queued by the launcher; done when vpc-cnid and ipamd are back, "
        "then cooling"
    )


class Version(enum.Enum):
    """What a VERSION is answered."""

    ANSWERED = "0, answered by the launcher"


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One combination of what runs, and the answer of each verb."""

    is_cnid_up: bool
    is_ipamd_up: bool
    is_cloud_up: bool
    add: Add
    delete: Del
    version: Version

    @property
    def name(self) -> str:
        """For the test's id."""
        return "-".join(
            f"{part}_{_word(is_up)}"
            for part, is_up in (
                ("cnid", self.is_cnid_up),
                ("ipamd", self.is_ipamd_up),
                ("cloud", self.is_cloud_up),
            )
        )


def _row(*, is_cnid_up: bool, is_ipamd_up: bool, is_cloud_up: bool) -> Row:
    """The cloud changes no answer: the pool serves, and a release needs no cloud."""
    if not is_cnid_up:
        add, delete = Add.NO_CNID, Del.WHOLE_QUEUED
    elif not is_ipamd_up:
        add, delete = Add.NO_IPAMD, Del.RELEASE_QUEUED
    else:
        add, delete = Add.SERVED, Del.DONE
    return Row(
        is_cnid_up=is_cnid_up,
        is_ipamd_up=is_ipamd_up,
        is_cloud_up=is_cloud_up,
        add=add,
        delete=delete,
        version=Version.ANSWERED,
    )


ROWS = tuple(
    _row(is_cnid_up=cnid, is_ipamd_up=ipamd, is_cloud_up=cloud)
    for cnid, ipamd, cloud in itertools.product((True, False), repeat=3)
)


def render() -> str:
    """The table as Markdown, markers included."""
    lines = ["| vpc-cnid | ipamd | cloud | ADD | DEL | VERSION |", "|---|---|---|---|---|---|"]
    for row in ROWS:
        cells = [
            *map(_word, (row.is_cnid_up, row.is_ipamd_up, row.is_cloud_up)),
            row.add.value,
            row.delete.value,
            row.version.value,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([BEGIN, *lines, END])


def _word(is_up: bool) -> str:
    return "up" if is_up else "down"


if __name__ == "__main__":
    print(render())
