"""How many threads wait for connections: one more than were ever busy at once.

An idle thread holds 20 KB (its stack, and the interpreter's for it), so that all that are ever
allowed would hold 4 MB on a node that never needs them. A thread that was needed once stays.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

log = structlog.get_logger()


def _nobody(number: int) -> None:
    raise RuntimeError(f"thread {number} before the start")


class Crew:
    """Counts its threads and has more of them started. Thread-safe."""

    def __init__(self, *, first: int, most: int) -> None:
        """`first` are there from `start` on."""
        self._hire: Callable[[int], None] = _nobody
        self._first = first
        self._most = most
        self._hired = 0
        self._working = 0
        self._changed = threading.Condition()

    def start(self, hire: Callable[[int], None]) -> None:
        """Hire the first; `hire` starts the thread of that number."""
        self._hire = hire
        for _ in range(self._first):
            self._add_one()

    @contextmanager
    def working(self) -> Iterator[None]:
        """The calling thread is at work within the block; where it was the last idle one, another
        is hired before the work begins."""
        with self._changed:
            self._working += 1
            is_short = self._working >= self._hired < self._most
        if is_short:
            self._add_one()
        try:
            yield
        finally:
            with self._changed:
                self._working -= 1
                self._changed.notify_all()

    def wait_until_idle(self, *, timeout_seconds: float) -> bool:
        """Wait until nobody works; False if that takes longer."""
        with self._changed:
            return self._changed.wait_for(lambda: self._working == 0, timeout_seconds)

    def _add_one(self) -> None:
        with self._changed:
            number = self._hired
            self._hired += 1
        try:
            self._hire(number)
        except RuntimeError as e:  # the limit of the process; those that are there go on
            with self._changed:
                self._hired -= 1
            log.warning("no_thread_to_hire", threads=number, error=str(e))
