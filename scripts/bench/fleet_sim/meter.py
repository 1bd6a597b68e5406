"""What is measured in a run: waits, calls, and addresses held idle over time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import ceil


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The figures of one side under one load, as they stand in the report."""

    wait_p50_s: float
    wait_p99_s: float
    wait_max_s: float
    pods: int
    pods_never_served: int
    calls: int
    calls_by_api: dict[str, int]
    throttled: int
    idle_address_hours: float


@dataclass(slots=True)
class Meter:
    """Counts from `start` on. `clock` gives seconds."""

    clock: Callable[[], float]
    calls: Counter[str] = field(default_factory=Counter)
    throttled: int = 0
    waits: list[float] = field(default_factory=list)
    held: int = 0  # addresses assigned to ENIs beside each node's own first address
    in_use: int = 0  # of these, by pods
    _idle_seconds: float = 0.0
    _since: float = 0.0

    def start(self) -> None:
        """Forget what happened so far, except what is held."""
        self.calls.clear()
        self.throttled = 0
        self.waits.clear()
        self._idle_seconds, self._since = 0.0, self.clock()

    def hold(self, change: int) -> None:
        """Addresses came to (or left) an ENI."""
        self._integrate()
        self.held += change

    def use(self, change: int) -> None:
        """Pods got (or gave up) addresses."""
        self._integrate()
        self.in_use += change

    def outcome(self, *, never_served: Sequence[float]) -> Outcome:
        """The figures now. `never_served`: how long each pod without an address has waited."""
        self._integrate()
        waits = sorted([*self.waits, *never_served])
        return Outcome(
            wait_p50_s=percentile(waits, 0.50),
            wait_p99_s=percentile(waits, 0.99),
            wait_max_s=percentile(waits, 1.0),
            pods=len(waits),
            pods_never_served=len(never_served),
            calls=self.calls.total(),
            calls_by_api=dict(sorted(self.calls.items())),
            throttled=self.throttled,
            idle_address_hours=self._idle_seconds / 3600,
        )

    def _integrate(self) -> None:
        now = self.clock()
        self._idle_seconds += (self.held - self.in_use) * (now - self._since)
        self._since = now


def percentile(ordered: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all values do not exceed; 0 of nothing.

    Example: of 1..100, share 0.99 -> 99.
    """
    if not ordered:
        return 0.0
    # A little less before rounding up: 100 x 0.99 is 99.00000000000001 in floating point.
    return ordered[max(ceil(len(ordered) * share - 1e-9), 1) - 1]
