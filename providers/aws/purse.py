"""The budget of this process, enforced: a call waits for its token, but never long.

The arithmetic is `ipamd.budget`; here are the lock, the clock, the pause and the chance. Calls of a
class get their places in the order in which they ask.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from ipamd.budget import ALLOWANCES, ApiClass, budget_spent, class_of, full_buckets

LONGEST_WAIT_SECONDS = 5.0
"""Beyond it the reconciler is told, which may have something better to do meanwhile."""

LONGEST_FINISH_SECONDS = 20.0
"""For calls that finish what others began: an ENI that is made and not attached helps nobody."""


class Purse:
    """Buckets by class; safe to call from several threads."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._chance = chance
        self._lock = threading.Lock()
        self._buckets = full_buckets(ALLOWANCES, monotonic())

    def spend(self, api: str, *, finishes: bool = False) -> float:
        """Wait for the call's token; returns the seconds waited.

        Raises Throttled with `retry_after_seconds`, without waiting, when that would take longer
        than the bound; `finishes` allows the longer one.
        """
        kind = class_of(api)
        bound = LONGEST_FINISH_SECONDS if finishes else LONGEST_WAIT_SECONDS
        with self._lock:
            now = self._monotonic()
            wait = self._buckets[kind].wait_seconds(now, self._chance())
            if wait <= bound:
                self._buckets[kind] = self._buckets[kind].spent(now)
        if wait > bound:
            raise budget_spent(api, f"{kind.value} calls", wait)
        if wait > 0:
            self._sleep(wait)
        return wait

    def throttled(self, api: str) -> None:
        """EC2 refused the call for its rate: this class slows down."""
        kind = class_of(api)
        with self._lock:
            self._buckets[kind] = self._buckets[kind].throttled(self._monotonic())

    def per_second(self, kind: ApiClass) -> float:
        """The rate of a class at present, for the log and for tests."""
        with self._lock:
            return self._buckets[kind].at(self._monotonic()).per_second
