"""Two files whose ages tell what vpc-cnid cannot be asked; `node_watch` touches them each round.

`heartbeat` says that the node works: vpc-cnid went round while ipamd answered it. The launchers
answer STATUS by it while vpc-cnid is away, and a vpc-cnid that starts goes on from it; so neither a
restart nor an upgrade makes a minute of ipamd's silence longer or shorter. `alive` says only that
vpc-cnid goes round. It is the liveness probe's: a restart for ipamd's silence would help nobody.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import structlog

log = structlog.get_logger()

HEARTBEAT_NAME, ALIVE_NAME = "heartbeat", "alive"


class Heartbeat:
    """Touches both files of one run directory."""

    def __init__(self, run_dir: Path, *, is_answered: Callable[[], bool]) -> None:
        """`is_answered`: whether ipamd answered when it was last called."""
        self._heartbeat, self._alive = run_dir / HEARTBEAT_NAME, run_dir / ALIVE_NAME
        self._is_answered = is_answered

    def beat(self) -> None:
        """Once a round; a directory that cannot be written is told and survived."""
        try:
            self._alive.touch()
            if self._is_answered():
                self._heartbeat.touch()
        except OSError as e:
            log.warning("heartbeat_failed", path=str(self._alive.parent), error=str(e))


def seen_at(run_dir: Path) -> float | None:
    """When, on the monotonic clock, the node last worked; None without a trace of that."""
    try:
        age = time.time() - (run_dir / HEARTBEAT_NAME).stat().st_mtime
    except OSError:
        return None
    return time.monotonic() - max(age, 0.0)
