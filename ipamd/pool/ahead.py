"""What pods will need while a slow write is under way (pure).

Where a write takes a minute and the next must wait for it, the pool must be bought for what is
coming and not for what is missing. Two numbers, both 0 where writes take no time:

- `expected`: what one write must bring beyond the target, by the pace at which pods come now;
- `reserve`: below which a write is begun although the target is still met. As many pods as came
  while the last write could have been under way may come during the next. It is counted and not
  extrapolated, so that a burst of a few pods costs no write that the target does not ask for.

Both fade as the pods stop coming: nothing of it is kept warm.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from ipamd.cloud import Capabilities

WINDOW_SECONDS, WINDOW_SHARE = 10.0, 0.5
"""The pace is that of the pods of the last half write, and of 10 s at least. A deployment's pods
reach a node within seconds: over much less than 10 s every pod makes a pace of its own. And how far
one looks ahead bounds how short a look back may be: a new node whose 30 pods come at once buys 75
beside them where a write takes a minute, and not 225, which its neighbours may need."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Writes:
    """How slow changes of addresses are: how long one takes until pods may use what it brought, and
    how far apart two must be in the long run. `is_whole`: one at a time for each ENI."""

    seconds: float = 0.0
    interval_seconds: float = 0.0
    is_whole: bool = False

    @property
    def is_slow(self) -> bool:
        """Whether it is worth planning ahead."""
        return self.seconds > 0

    @property
    def window_seconds(self) -> float:
        """How long pods count for the pace at which they come. Scale set: 30 s, a NIC: 10 s."""
        return max(WINDOW_SECONDS, self.seconds * WINDOW_SHARE)

    @property
    def period_seconds(self) -> float:
        """From the decision for one write until another may begin after it; 0 where both is free.

        Scale set: 60 + 15 s.
        """
        return self.seconds + self.interval_seconds if self.is_slow else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrivals:
    """Pods that asked for their first address within the window of the pace, and within the time
    of a write."""

    lately: int = 0
    during_write: int = 0


INSTANT, NOBODY = Writes(), Arrivals()


def writes_of(able: Capabilities) -> Writes:
    """How slow a cloud's writes are."""
    return Writes(
        seconds=able.write_seconds,
        interval_seconds=able.write_interval_seconds,
        is_whole=able.replaces_whole_interface,
    )


def expected(arrivals: Arrivals, writes: Writes) -> int:
    """Addresses that pods will take until another write can be begun.

    9 pods in half a minute on a scale set: 0.3 x 75 -> 23; in 10 s on a NIC (5 s): 5.
    """
    return ceil(arrivals.lately / writes.window_seconds * writes.period_seconds)


def reserve(arrivals: Arrivals, writes: Writes) -> int:
    """Addresses that pods will take until a write that is begun now has brought any."""
    return arrivals.during_write if writes.is_slow else 0
