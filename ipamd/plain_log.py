"""The log of a process that must stay small: the same JSON lines as `ipamd.log`, without structlog.

The cloud child says a handful of lines in its life; structlog and what it imports would be a fifth
of its memory.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import traceback
from typing import Any, TextIO

LEVELS = ("debug", "info", "warning", "error")


class PlainLog:
    """Writes lines of the given level and above. A line is one write, so threads do not mix."""

    def __init__(self, level: str, *, process: str, file: TextIO | None = None) -> None:
        self._least = LEVELS.index(level)
        self._process = process
        self._file = file or sys.stderr

    def info(self, event: str, /, **facts: Any) -> None:
        """Something happened that is worth a line."""
        self._write("info", event, facts)

    def exception(self, event: str, **facts: Any) -> None:
        """A fault, with the traceback of the exception that is being handled."""
        self._write("error", event, {**facts, "exception": traceback.format_exc().rstrip()})

    def _write(self, level: str, event: str, facts: dict[str, Any]) -> None:
        if LEVELS.index(level) < self._least:
            return
        now = dt.datetime.now(dt.UTC).isoformat().replace("+00:00", "Z")
        line = {**facts, "process": self._process, "event": event, "level": level, "timestamp": now}
        self._file.write(json.dumps(line, default=str) + "\n")
        self._file.flush()
