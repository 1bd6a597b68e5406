"""Connections that began while SNAT was away: forgotten, so that their next packet begins anew.

Somebody flushed the ruleset, or a setting changed: what a pod opened in between left with the pod's
own address and was never answered. The kernel translates a connection at its first packet or not
at all, so it would stay so for as long as the pod repeats it (TCP two minutes, UDP for ever).
Forgetting an answered one would break what works; those stay.

A thread of its own, as a large table takes its time (`conntrack`).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Protocol

import structlog

from cni_shim.datapath.chains import is_snated
from cni_shim.datapath.desired import DesiredHost
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.policy import HostPolicy

log = structlog.get_logger()

IDLE_SECONDS = 60.0


def _snats_ipv4(policy: HostPolicy) -> bool:
    return policy.has_snat or bool(policy.always_snat) or policy.has_v4_egress


class Table(Protocol):
    """The connection tracking table."""

    def delete_unanswered(self, is_wanted: Callable[[IPv4Address, IPv4Address], bool]) -> int:
        """See Conntrack.delete_unanswered."""


class LateSnat:
    """`firewall_changed` is any thread's, `run` a thread's of its own."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._changed = threading.Condition()
        self._desired: DesiredHost | None = None

    def firewall_changed(self, desired: DesiredHost) -> None:
        """Our nft table is as wanted, and was not a moment ago."""
        with self._changed:
            self._desired = desired
            self._changed.notify()

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Forget, whenever there is reason to, for ever."""
        while not is_stopping():
            with self._changed:
                self._changed.wait_for(lambda: self._desired is not None, IDLE_SECONDS)
            self.step()

    def step(self) -> None:
        """Forget what the last change asks for. What fails is not tried again: entries that stay
        are those of connections that fail anyway, and time out once these are given up."""
        with self._changed:
            desired, self._desired = self._desired, None
        if desired is None or not _snats_ipv4(desired.policy):
            return
        try:
            entries = self._table.delete_unanswered(lambda s, d: is_snated(desired, s, d))
        except DatapathError as e:
            log.warning("late_connections_stay", error=str(e))
            return
        if entries:
            log.info("late_connections_forgotten", entries=entries)
