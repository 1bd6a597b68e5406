"""The questions of `ipamctl max-pods` that need a cloud, each asked by a process of its own.

ipamctl holds no credentials and loads no SDK: `providers.aws.instance_types` does, is started for
one question, and ends. Nothing here runs unless an option asks for it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from ipamd.errors import IpamError
from ipamd.instance_types import BUNDLED, Changes, TableError, from_row, load, merged, to_text

ASK_SECONDS = 120.0
"""For all pages of DescribeInstanceTypes: 14 pages of 100, each with botocore's own retries."""

NAMES_SHOWN = 10

Ask = Callable[[str], Sequence[str]]


class LookupFailed(IpamError):
    """EC2 or the metadata service did not answer; the text is what they or the SDK said."""


def ask(question: str) -> Sequence[str]:
    """The lines that `python -m providers.aws.instance_types QUESTION` prints."""
    program = [sys.executable, "-m", "providers.aws.instance_types", question]
    try:
        done = subprocess.run(
            program, capture_output=True, text=True, check=False, timeout=ASK_SECONDS
        )
    except subprocess.TimeoutExpired as e:
        raise LookupFailed(f"{question}: no answer within {ASK_SECONDS:.0f} s") from e
    if done.returncode != 0:
        said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise LookupFailed(said[-1])
    return done.stdout.splitlines()


def own_type() -> str:
    """The type of the instance that this runs on."""
    return ask("own-type")[0]


def refresh(path: Path, asked: Ask = ask, now: dt.datetime | None = None) -> str:
    """Write `path` anew from EC2 over what it (or else the bundled table) holds; what changed.

    All pages or nothing: the file is replaced only after the last one.
    """
    old = load(path) if path.exists() else load(BUNDLED)
    region, *rows = asked("describe")
    try:
        fresh = [from_row(row) for row in rows]
    except ValueError as e:
        raise LookupFailed(f"DescribeInstanceTypes: {e}") from e
    if not fresh:
        raise LookupFailed(f"DescribeInstanceTypes: no instance type at all in {region}")
    at = (now or dt.datetime.now(dt.UTC)).strftime("%Y-%m-%dT%H:%MZ")
    origin = f"DescribeInstanceTypes, {len(fresh)} answers of {region} at {at}"
    table, changes = merged(old, fresh, origin=origin)
    _replace(path, to_text(table))
    return summary(path, origin, changes)


def summary(path: Path, origin: str, changes: Changes) -> str:
    """One sentence on a refresh, with the names that a person would look at (pure)."""
    return (
        f"{path} written: {origin}; new: {_named(changes.new)}; changed: "
        f"{_named(changes.changed)}; kept because the region does not offer them: "
        f"{len(changes.kept)}"
    )


def _named(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _replace(path: Path, text: str) -> None:
    """Write beside the file and rename, so that a reader sees the old table or the new one."""
    beside = ""
    try:
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        Path(beside).chmod(0o644)  # mkstemp's 0600 would hide a table that holds no secret
        Path(beside).rename(path)
    except OSError as e:
        if beside:
            with contextlib.suppress(OSError):
                Path(beside).unlink()
        raise TableError(f"the table {path} cannot be written: {e}") from e
