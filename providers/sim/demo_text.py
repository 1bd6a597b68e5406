"""The demo for readers: checks as text and as the one JSON document. Values in, text out."""

from __future__ import annotations

import json
from collections.abc import Sequence

from providers.sim.demo_run import Check, Table

_INDENT = " " * 6


def beginning(number: int, total: int, name: str) -> str:
    """What stands there while a step works; `ending` completes the line."""
    return f"{number:2}/{total}  {name} ... "


def ending(check: Check) -> str:
    """The rest of the line, and below it what was seen."""
    word = "ok" if check.is_ok else "FAILED"
    parts = [f"{word}, {check.seconds:.2f} s\n", indented(check.seen.text)]
    if check.seen.table is not None:
        parts.append(indented(table(check.seen.table)))
    if check.seen.screen:
        parts.append(indented(check.seen.screen))
    return "".join(parts)


def closing(checks: Sequence[Check], seconds: float) -> str:
    """The last line."""
    good = sum(check.is_ok for check in checks)
    return f"\n{good} of {len(checks)} checks ok, {seconds:.1f} s\n"


def document(checks: Sequence[Check]) -> str:
    """{"checks": [{"name", "result": "ok"|"failed", "seconds", "seen"}]}."""
    rows = [
        {
            "name": check.name,
            "result": "ok" if check.is_ok else "failed",
            "seconds": round(check.seconds, 3),
            "seen": check.seen.text,
        }
        for check in checks
    ]
    return json.dumps({"checks": rows}, indent=2) + "\n"


def table(shown: Table) -> str:
    """Columns as wide as their widest cell."""
    lines = (shown.head, *shown.rows)
    widths = [max(len(line[column]) for line in lines) for column in range(len(shown.head))]
    return "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        + "\n"
        for line in lines
    )


def indented(text: str) -> str:
    """Every line moved below the name of its step, the last one ended."""
    return "".join(f"{_INDENT}{line}".rstrip() + "\n" for line in text.splitlines())
