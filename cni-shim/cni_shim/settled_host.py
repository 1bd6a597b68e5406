"""After the host's network its pods': their routes and rules are put right once the host's stand.
And what aws-node left on the host goes.

Stands between `node_watch` and the datapath, so that each round of the one is a round of the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import structlog

from cni_shim.datapath.desired import DesiredHost, EniReadiness, can_serve_pods
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.notices import Notice
from cni_shim.datapath.pod_routing import Held
from cni_shim.relevance import concerns_pods
from cni_shim.take_over import TakeOver

log = structlog.get_logger()

LOOK_SECONDS = 60.0
"""As often as ipamd gets a report: for what went without a notice. A look lists every link."""


class Host(Protocol):
    """The host's side of the datapath."""

    def apply(self, desired: DesiredHost) -> tuple[EniReadiness, ...]:
        """See HostDatapath.apply."""


class Pods(Protocol):
    """The pods' side."""

    def settle(self, held: Held, ready_marks: frozenset[int]) -> int:
        """See PodDatapath.settle."""


class SettledHost:
    """Applies the host's network, then settles the pods', where there is reason to."""

    def __init__(
        self,
        host: Host,
        pods: Pods,
        held: Callable[[], Held],
        take_over: TakeOver,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`held` is what ipamd's ledger, as far as it is known here, says of addresses."""
        self._host = host
        self._pods = pods
        self._held = held
        self._take_over = take_over
        self._clock = clock
        self._next_look = clock()
        self._settled_marks: frozenset[int] = frozenset()

    def on_notice(self, notice: Notice) -> None:
        """A route or rule of a pod may have gone: look at the pods too. On the listening thread."""
        if concerns_pods(notice):
            self._next_look = self._clock()

    def apply(self, desired: DesiredHost) -> tuple[EniReadiness, ...]:
        """See HostDatapath.apply; what fails for pods is logged and tried again next time."""
        readiness = self._host.apply(desired)
        ready = {r.eni_id for r in readiness if r.is_ready}
        marks = frozenset(
            eni.mark for eni in desired.enis if eni.eni_id in ready and can_serve_pods(eni)
        )
        now = self._clock()
        if now >= self._next_look or not marks <= self._settled_marks:
            self._next_look = now + LOOK_SECONDS
            self._settle(marks)
        self._take_over.step(desired, readiness)
        return readiness

    def _settle(self, marks: frozenset[int]) -> None:
        try:
            changed = self._pods.settle(self._held(), marks)
        except DatapathError as e:
            log.warning("pods_not_settled", error=str(e))
            self._next_look = self._clock()
            return
        self._settled_marks = marks
        if changed:
            log.info("pods_settled", pods=changed)
