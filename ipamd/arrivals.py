"""Which pods asked for an address lately: the pace that growth looks ahead by, and who comes back.

Kept in memory alone: after a restart the pace builds up again within seconds. A pod that is sent
away with code 11 comes again as another sandbox, so pods are told apart by their names.
"""

from __future__ import annotations

from collections import deque

from ipamd.pool.ahead import Arrivals, Writes

BACK_SECONDS = 20.0
"""A pod that was sent away is back within this time: kubelet waits 10 s, half more or less, before
it makes the next sandbox (pkg/kubelet/pod_workers.go), which takes a second or two on a busy node.
One that is not was deleted."""

REMEMBER_SECONDS = 600.0
"""A pod that comes again within this is no new arrival; none waits longer between two tries
(kubelet's longest back-off is 5 min)."""

ARRIVALS_MAX = 1024
"""Arrivals that are remembered: four times the pods of a node."""


class ArrivalLog:
    """Notes who comes, is served, and is sent away. All times are boot times."""

    def __init__(self) -> None:
        self._times: deque[float] = deque(maxlen=ARRIVALS_MAX)
        self._unserved: dict[str, float | None] = {}  # -> when it was sent away; None: it waits

    def came(self, pod: str, now: float) -> None:
        """A pod has to wait for its address."""
        if pod not in self._unserved:
            self._times.append(now)
        self._unserved[pod] = None

    def served(self, pod: str, now: float) -> None:
        """A pod got an address, at once or after a wait."""
        if pod in self._unserved:
            del self._unserved[pod]
        else:
            self._times.append(now)

    def sent_away(self, pod: str, now: float) -> None:
        """A pod waited in vain. Forgets those that never came again."""
        self._unserved[pod] = now
        gone = [
            p for p, t in self._unserved.items() if t is not None and now - t > REMEMBER_SECONDS
        ]
        for lost in gone:
            del self._unserved[lost]

    def forget(self, pod: str) -> None:
        """A pod waits no more, and not because it had waited for long."""
        self._unserved.pop(pod, None)

    def away(self, now: float) -> int:
        """Pods that were sent away and will be back."""
        times = (t for t in self._unserved.values() if t is not None)
        return sum(now - t <= BACK_SECONDS for t in times)

    def seen(self, now: float, writes: Writes) -> Arrivals:
        """The pods of the last moments, for `ipamd.pool.ahead`."""
        return Arrivals(
            lately=sum(now - t <= writes.window_seconds for t in self._times),
            during_write=sum(now - t <= writes.seconds for t in self._times),
        )
