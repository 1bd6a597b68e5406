"""Asking vpc-cnid to clear connections of cooling addresses, and ending the cooldowns it cleared.

Part of the reconciler's cycle. `asked` goes to vpc-cnid in NodeNetwork.flushes; ReportFlushed ends
up in `clear`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import structlog

from ipamd.keeper import Keeper
from ipamd.pool import cooling
from ipamd.pool.cooling import Cooldown

log = structlog.get_logger()


class Cooldowns:
    """What vpc-cnid was asked for and what it did, in memory: see `ipamd.pool.cooling`."""

    def __init__(
        self, keeper: Keeper, *, cooldown_seconds: Callable[[], float], tell: Callable[[], None]
    ) -> None:
        """`tell` is called when `asked` has grown."""
        self._keeper = keeper
        self._cooldown_seconds = cooldown_seconds
        self._tell = tell
        self._cleared: frozenset[Cooldown] = frozenset()
        self.asked: frozenset[Cooldown] = frozenset()

    def step(self, now: float) -> None:
        """End what has ended, ask for what is about to. Raises StoreError."""
        seconds = self._cooldown_seconds()
        self._keeper.commit(
            cooling.ended(self._keeper.ledger, self._cleared, cooldown_seconds=seconds, now=now)
        )
        ledger = self._keeper.ledger
        self._cleared &= cooling.running(ledger).keys()
        before, self.asked = (
            self.asked,
            cooling.asked(ledger, self._cleared, self.asked, cooldown_seconds=seconds, now=now),
        )
        if not self.asked <= before:
            self._tell()

    def clear(self, cooldowns: Iterable[Cooldown]) -> None:
        """vpc-cnid says that no connection of these is left. Only what it was asked for counts, not
        what cools anew since."""
        cleared = self.asked & set(cooldowns)
        self._cleared |= cleared
        self.asked -= cleared

    def due_times(self) -> tuple[float, ...]:
        """Boot times at which `step` has something to do."""
        return cooling.due_times(
            self._keeper.ledger,
            self._cleared,
            self.asked,
            cooldown_seconds=self._cooldown_seconds(),
        )
