"""How long to wait after a failure: exponential with full jitter, as pure functions.

The random part is an argument in [0, 1), so that tests and the simulator decide it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """`first_seconds`, doubling up to `cap_seconds`; at least half of each step is waited."""

    first_seconds: float
    cap_seconds: float

    def delay(self, failures: int, chance: float) -> float:
        """Seconds to wait after the n-th failure in a row (n >= 1).

        Example: first 2, cap 60, third failure, chance 0.5 -> between 4 and 8, here 6.
        """
        # 2**32 s is far past any cap; the bound keeps a long outage from making huge integers.
        step = min(self.first_seconds * float(1 << min(failures - 1, 32)), self.cap_seconds)
        return step / 2 + step / 2 * chance


THROTTLED = Backoff(first_seconds=2.0, cap_seconds=60.0)
"""EC2 refills its mutating buckets at 5 tokens/s per account; a fleet needs tens of seconds."""

THROTTLED_AWAITED = Backoff(first_seconds=2.0, cap_seconds=8.0)
"""The same while pods wait: the node's budget (`ipamd.budget`) is what slows a throttled fleet down
then, and a longer pause leaves tokens of the account unused (docs/fleet.md)."""

REPEATED = Backoff(first_seconds=1.0, cap_seconds=8.0)
"""A creation that was begun: what it lacks is one step, and pods mostly wait for it."""

EXHAUSTED = Backoff(first_seconds=2.0, cap_seconds=30.0)
"""A full subnet frees one address at a time; the failed assign is itself the probe."""

PREFIXLESS = Backoff(first_seconds=20.0, cap_seconds=600.0)
"""A block of 16 becomes free when 16 neighbours have gone, which takes longer than one; each probe
is one assign call, and pods are served with single addresses meanwhile."""

REMEASURE = Backoff(first_seconds=60.0, cap_seconds=600.0)
"""A scarce or full subnet's free count: one DescribeSubnets, less often while it stays so."""

CAPPED = Backoff(first_seconds=120.0, cap_seconds=600.0)
"""An ENI that met a limit is asked for less. Something else holds its slots, and mostly stays."""

BUSY = Backoff(first_seconds=2.0, cap_seconds=10.0)
"""Somebody else changes the ENI: mostly over within seconds (Azure's RetryableError answers ask
for 1-10 s), and no other ENI is concerned."""

DENIED = Backoff(first_seconds=30.0, cap_seconds=300.0)
"""Only a human changes a policy; IAM needs seconds to minutes to spread."""

REFUSED = Backoff(first_seconds=0.5, cap_seconds=300.0)
"""A refusal that no table names: often over in a moment (a state that changes), else somebody has
to change something, as with a policy."""

NO_SHRINKING = Backoff(first_seconds=30.0, cap_seconds=1800.0)
"""Nobody waits for an address to be given back."""

NO_ENI = Backoff(first_seconds=2.0, cap_seconds=600.0)
"""A creation met a limit. The next may fit (the index was taken); else each try is four calls."""

TRANSIENT = Backoff(first_seconds=0.5, cap_seconds=30.0)
"""Time-outs and connection losses: the child was restarted or the network blinked."""
