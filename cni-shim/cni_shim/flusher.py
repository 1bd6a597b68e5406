"""Clearing connection tracking entries of addresses whose cooldown ends, and telling ipamd.

ipamd names them in NodeNetwork.flushes, each with the time at which it began to cool; it gives an
address out again only after ReportFlushed named that pair. A thread of its own, so that neither the
watch nor the host's network waits for a large table.

The hazard is to clear too late: once ipamd has heard the report, a pod may have the address again.
So a pair is cleared once; when the report fails, the report alone is repeated. Only a new stream,
whose first message is newer than every report before it, has it cleared again. While a report is
under way neither need be newer: what it names is then reported again, and not cleared.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Protocol

import structlog
from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.ipam_client import IpamdError

log = structlog.get_logger()

RETRY_SECONDS = 0.5
IDLE_SECONDS = 60.0
REPORT_TIMEOUT_SECONDS = 5.0

Pair = tuple[str, float]
"""An address as ipamd wrote it, and since when it cools, on the boot clock."""


class Reporter(Protocol):
    """The call of ipamd that this module makes."""

    def report_flushed(
        self, request: pb.ReportFlushedRequest, *, seconds: float
    ) -> pb.ReportFlushedReply:
        """See IpamClient.report_flushed."""


class Table(Protocol):
    """The connection tracking table."""

    def delete_entries_of(self, addresses: Iterable[Address]) -> int:
        """See Conntrack.delete_entries_of."""


class Flusher:
    """What is to be cleared and what was. `take` and `watch_begins` are the watch's, `run` is a
    thread's."""

    def __init__(self, ipam: Reporter, table: Table) -> None:
        self._ipam = ipam
        self._table = table
        self._changed = threading.Condition()
        self._epoch = ""
        self._asked: frozenset[Pair] = frozenset()
        self._cleared: frozenset[Pair] = frozenset()  # of the asked ones, to be reported
        self._reported: frozenset[Pair] = frozenset()  # of the asked ones, and taken
        self._telling: frozenset[Pair] = frozenset()  # in the report that is under way
        self._stream = 0
        self._last = b""
        self._failure = ""

    def watch_begins(self) -> None:
        """A new stream: its first message says anew what is to be cleared, and counts for the host
        whether it differs or not."""
        with self._changed:
            self._stream += 1
            self._asked = self._reported = frozenset()
            self._cleared = self._telling
            self._last = b""

    def take(self, network: pb.NodeNetwork) -> pb.NodeNetwork | None:
        """Keep what is to be cleared; the rest of the message, None where nothing else is new."""
        asked = frozenset((a.address, a.since_boottime) for a in network.flushes)
        rest = pb.NodeNetwork()
        rest.CopyFrom(network)
        rest.ClearField("flushes")
        rest.ClearField("sequence")
        said = rest.SerializeToString(deterministic=True)
        with self._changed:
            self._epoch, self._asked = network.epoch, asked
            self._cleared &= asked
            self._reported &= asked
            self._changed.notify()
            is_news, self._last = said != self._last, said
        return network if is_news else None

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Clear and report for ever."""
        while not is_stopping():
            if self._wait(IDLE_SECONDS) and not self.step():
                time.sleep(RETRY_SECONDS)

    def _wait(self, seconds: float) -> bool:
        """Whether there is something to do, now or within so many seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: bool(self._asked - self._reported), seconds)

    def step(self) -> bool:
        """Clear all that is asked for in one go, then report it; False where one of them failed."""
        with self._changed:
            stream, epoch, asked = self._stream, self._epoch, self._asked
            to_clear = asked - self._cleared - self._reported
            to_report = asked - self._reported
        return self._clear(to_clear, stream) and self._report(to_report, epoch, stream)

    def _clear(self, pairs: frozenset[Pair], stream: int) -> bool:
        if not pairs:
            return True
        try:
            entries = self._table.delete_entries_of({ip_address(a) for a, _ in pairs})
        except (DatapathError, ValueError) as e:
            self._tell_failure(str(e))
            return False
        self._failure = ""
        log.info("connections_cleared", addresses=len(pairs), entries=entries)
        with self._changed:
            if stream == self._stream:
                self._cleared |= pairs & self._asked
        return True

    def _report(self, pairs: frozenset[Pair], epoch: str, stream: int) -> bool:
        with self._changed:
            if not pairs or stream != self._stream:
                return True  # a new stream asks anew
            self._telling = pairs
        request = pb.ReportFlushedRequest(
            epoch=epoch,
            addresses=[pb.CooledAddress(address=a, since_boottime=t) for a, t in sorted(pairs)],
        )
        taken: frozenset[Pair] = frozenset()
        try:
            reply = self._ipam.report_flushed(request, seconds=REPORT_TIMEOUT_SECONDS)
            taken = pairs
        except IpamdError as e:
            self._tell_failure(str(e))
            return False
        finally:
            with self._changed:
                self._telling = frozenset()
                if stream == self._stream:
                    self._reported |= taken & self._asked
        return reply.is_accepted

    def _tell_failure(self, error: str) -> None:
        """On change, not at every try."""
        if error != self._failure:
            log.warning("flush_failed", error=error, addresses=len(self._asked))
        self._failure = error
