"""What aws-node left on the host, taken away once, when ours stands and does its work.

Called after each round of the host's network. That aws-node itself has gone is ipamd's to see to:
it does not start beside it, and without ipamd nothing is wanted of the host.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import structlog

from cni_shim.datapath import peer_host
from cni_shim.datapath.desired import NO_POLICY, DesiredHost, EniReadiness, can_serve_pods
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.peer_host import PeerHost

log = structlog.get_logger()

AGAIN_SECONDS = 60.0
"""After a failure. Nothing depends on it: what stands twice works as what stands once."""


class PeerChains(Protocol):
    """The kernel's side; the module `datapath.peer_host`."""

    def look(self) -> PeerHost:
        """See peer_host.look."""

    def remove(self, found: PeerHost) -> None:
        """See peer_host.remove."""


class TakeOver:
    """Takes aws-node's chains away, once in the life of a process."""

    def __init__(
        self,
        chains: PeerChains = peer_host,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._chains = chains
        self._clock = clock
        self._next_try: float | None = clock()

    def step(self, desired: DesiredHost, readiness: tuple[EniReadiness, ...]) -> None:
        """Do it if it is time: the host is wholly as wanted, and ipamd said how traffic leaves."""
        if self._next_try is None or self._clock() < self._next_try:
            return
        ready = {r.eni_id for r in readiness if r.is_ready}
        needed = {eni.eni_id for eni in desired.enis if can_serve_pods(eni)}
        if desired.policy == NO_POLICY or not needed or not needed <= ready:
            return
        try:
            self._take_over()
        except DatapathError as e:
            log.warning("peer_chains_stay", error=str(e))
            self._next_try = self._clock() + AGAIN_SECONDS
        else:
            self._next_try = None

    def _take_over(self) -> None:
        found = self._chains.look()
        if not found.is_empty:
            self._chains.remove(found)
            log.info("peer_chains_removed", what=found.sentences)
        for why in found.unseen:
            log.warning(
                "peer_chains_unseen",
                why=f"{why}. Chains of aws-node may be left there; they would go on with the "
                "networks that aws-node knew last",
            )
