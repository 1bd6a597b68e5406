"""Reads that are asked for together are made once.

A read that began before one of our own changes never answers a question that came after it: the
asker would take the state of before for that of after.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar, cast

T = TypeVar("T")

FRESH_SECONDS = 1.0
"""A finished read answers for this long too: at a start, the look at the ENIs needs their subnets,
and their free counts are asked for right after it."""


@dataclass(slots=True, kw_only=True)
class _Flight:
    """One read: the changes that had begun or ended when it began, and its answer."""

    changes: int
    future: Future[Any]
    ended: float | None = None


class SharedReads:
    """Reads by key. Safe to call from several threads."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._flights: dict[Hashable, _Flight] = {}
        self._changes = 0

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Around every call that changes something, whether it ends well or not."""
        with self._lock:
            self._changes += 1
        try:
            yield
        finally:
            with self._lock:
                self._changes += 1

    def read(self, key: Hashable, make: Callable[[], T], *, fresh_seconds: float = 0.0) -> T:
        """The answer of `make`, or of one like it that is under way, or that ended no longer than
        `fresh_seconds` ago. An error is everybody's who waited for it."""
        with self._lock:
            flight = self._flights.get(key)
            is_ours = flight is None or not self._answers(flight, fresh_seconds)
            if flight is None or is_ours:
                flight = _Flight(changes=self._changes, future=Future())
                self._flights[key] = flight
        if is_ours:
            self._fly(flight, make)
        return cast("T", flight.future.result())

    def _answers(self, flight: _Flight, fresh_seconds: float) -> bool:
        if flight.changes != self._changes:
            return False
        return flight.ended is None or self._monotonic() - flight.ended < fresh_seconds

    def _fly(self, flight: _Flight, make: Callable[[], Any]) -> None:
        try:
            answer = make()
        except BaseException as e:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
            flight.ended = float("-inf")  # a failure answers nobody who asks later
            flight.future.set_exception(e)
        else:
            flight.ended = self._monotonic()
            flight.future.set_result(answer)
