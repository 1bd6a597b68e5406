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


class Check(enum.Enum):
    """What a CHECK is answered, of a pod that vpc-cnid has served since it started."""

    DONE = "0 if all stands"
    NO_CNID = "1, code 11 `vpc-cnid is not reachable` after 0.75 s"


class Gc(enum.Enum):
    """What a GC is answered."""

    DONE = "0, stale attachments released and cooling"
    NO_IPAMD = "1, code 11 `ipamd is not reachable` after 5 s; nothing released"
    NO_CNID = "1, code 11 `vpc-cnid is not reachable` after 0.75 s; nothing released"


class Status(enum.Enum):
    """What a STATUS is answered, always within 0.1 s."""

    READY = "0"
    NO_IPAMD = (
        "0; once ipamd has been silent for 60 s: 1, code 50, or 51 where the node's network could "
        "not be set up either"
    )
    NO_CNID = "0; once the heartbeat is 60 s old: 1, code 50"


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
    check: Check
    gc: Gc
    status: Status
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
        check, gc, status = Check.NO_CNID, Gc.NO_CNID, Status.NO_CNID
    elif not is_ipamd_up:
        add, delete = Add.NO_IPAMD, Del.RELEASE_QUEUED
        check, gc, status = Check.DONE, Gc.NO_IPAMD, Status.NO_IPAMD
    else:
        add, delete = Add.SERVED, Del.DONE
        check, gc, status = Check.DONE, Gc.DONE, Status.READY
    return Row(
        is_cnid_up=is_cnid_up,
        is_ipamd_up=is_ipamd_up,
        is_cloud_up=is_cloud_up,
        add=add,
        delete=delete,
        check=check,
        gc=gc,
        status=status,
        version=Version.ANSWERED,
    )


ROWS = tuple(
    _row(is_cnid_up=cnid, is_ipamd_up=ipamd, is_cloud_up=cloud)
    for cnid, ipamd, cloud in itertools.product((True, False), repeat=3)
)


def render() -> str:
    """The table as Markdown, markers included."""
    columns = ("vpc-cnid", "ipamd", "cloud", "ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in ROWS:
        cells = [
            *map(_word, (row.is_cnid_up, row.is_ipamd_up, row.is_cloud_up)),
            row.add.value,
            row.delete.value,
            row.check.value,
            row.gc.value,
            row.status.value,
            row.version.value,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([BEGIN, *lines, END])


def _word(is_up: bool) -> str:
    return "up" if is_up else "down"


if __name__ == "__main__":
    print(render())
