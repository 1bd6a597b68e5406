"""The loop that finds allocations whose DEL was lost, and ends them as a DEL would.

No runtime asks for a clean-up at intervals, and the usual ones lose a DEL now and then: containerd
2.x when an ADD and its DEL both failed, CRI-O after any DEL that failed. Every minute, and sooner
while one is suspected, this compares ipamd's ledger with the node (`witnesses`); what it means is
decided in `leaks`. What was confirmed is looked at once more with its key's lock held, where no
verb can be at work on it, and then torn down and released by its generation.

`node_watch` sweeps the opposite, what of ours stands in the kernel without an allocation. Both act
under the key's lock and on the ledger's word of that moment, so neither undoes the other's work.

One thread. Nothing is done while ipamd is away, or before it has accepted a report of this epoch.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from typing import Protocol

import structlog
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import reasons

from cni_shim import leaks
from cni_shim.allocations import addresses_of, key_of
from cni_shim.datapath.identity import Identity
from cni_shim.errors import CniError
from cni_shim.ipam_client import IpamdError
from cni_shim.leaks import Assessment, Memory, Standing, Verdict, Waits
from cni_shim.signs import Held, HeldName, Look, Namespaces, RoutedAddress, Wiring
from cni_shim.spec import AttachmentKey

log = structlog.get_logger()

LIST_SECONDS = 5.0
END_SECONDS = 10.0
"""For one teardown and release; as long as a launcher gives a DEL."""

NOTED = 3
"""Attachments that a note names; the log has every one."""

LOCKED_AT_ONCE = 32
"""Keys that are held during one second look. Their verbs wait for it, some tenths of a second."""


_EVENTS = {
    Standing.UNSURE: "leak_unsure",
    Standing.CANDIDATE: "leak_candidate",
    Standing.CONFIRMED: "leak_confirmed",
}


class Ipam(Protocol):
    """The call of ipamd that this module makes itself."""

    def list(self, *, deadline_monotonic: float) -> pb.ListReply:
        """See IpamClient.list."""


class Locks(Protocol):
    """What is needed of the verbs."""

    def locked(self, key: AttachmentKey, *, timeout_seconds: float) -> AbstractContextManager[None]:
        """See Verbs.locked."""

    def is_busy(self, key: AttachmentKey) -> bool:
        """See Verbs.is_busy."""

    def end_leak(
        self, held: pb.Allocation, *, reason: str, deadline_monotonic: float
    ) -> pb.ReleaseReply:
        """See Verbs.end_leak."""


class Signs(Protocol):
    """The sources; `witnesses.Witnesses` reads them."""

    unseen: dict[str, str]

    def links(self) -> tuple[Identity, ...] | None:
        """See Witnesses.links."""

    def routes(self) -> tuple[RoutedAddress, ...] | None:
        """See Witnesses.routes."""

    def namespaces(self) -> tuple[Namespaces, Namespaces]:
        """See Witnesses.namespaces."""

    def cache(self) -> frozenset[str] | None:
        """See Witnesses.cache."""

    def sandboxes(self) -> dict[str, bool] | None:
        """See Witnesses.sandboxes."""


class LeakWatch:
    """Looks, remembers, and ends what is confirmed."""

    def __init__(
        self,
        ipam: Ipam,
        verbs: Locks,
        signs: Signs,
        *,
        is_reported: Callable[[str], bool],
        is_queued: Callable[[AttachmentKey], bool],
        waits: Waits = leaks.USUAL,
        may_release: bool = True,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """`is_reported` says whether ipamd has accepted a report of an epoch, `is_queued` whether a
        DEL of a key waits in the queue. Without `may_release` leaks are only told."""
        self._ipam = ipam
        self._verbs = verbs
        self._signs = signs
        self._is_reported = is_reported
        self._is_queued = is_queued
        self._waits = waits
        self._may_release = may_release
        self._clock = clock
        self._wall_clock = wall_clock
        self._memory = Memory()
        self._told: frozenset[tuple[HeldName, Standing]] = frozenset()
        self._wake = threading.Event()
        self.notes: tuple[str, ...] = ()
        """For people, by way of `ipamctl status`."""

    def run(self, is_stopping: Callable[[], bool]) -> None:
        """Look for ever."""
        self._wake.wait(timeout=self._waits.first)
        while not is_stopping():
            self._wake.clear()
            self._wake.wait(timeout=self._step_or_log())

    def _step_or_log(self) -> float:
        try:
            return self.step()
        except Exception:  # pods' verbs must not end with a search that they do not need
            log.exception("leak_search_failed")
            return self._waits.between

    def wake(self) -> None:
        """Look now."""
        self._wake.set()

    def step(self) -> float:
        """One look and what follows from it; seconds until the next."""
        try:
            assessment = self._look()
        except IpamdError as e:
            log.info("leaks_not_looked_for", reason=str(e))
            return self._waits.between
        if assessment is None:
            return self._waits.between
        self._memory = assessment.memory
        self._tell(assessment)
        confirmed = assessment.of(Standing.CONFIRMED) if self._may_release else ()
        for start in range(0, len(confirmed), LOCKED_AT_ONCE):
            self._end_confirmed(confirmed[start : start + LOCKED_AT_ONCE])
        if assessment.of(Standing.CANDIDATE):
            return min(self._waits.confirm, self._waits.between)
        return self._waits.between

    def _look(self, ours: frozenset[AttachmentKey] = frozenset()) -> Assessment | None:
        """Compare the ledger with the node; None while ipamd has not accepted a report. Keys that
        we hold ourselves (`ours`) are not busy. Raises IpamdError.

        The ledger first: what is made after its answer is not judged. The dear readings only where
        links and sandboxes leave a question.
        """
        reply = self._list()
        if not self._is_reported(reply.epoch):
            return None
        look = Look(
            epoch=reply.epoch,
            held=tuple(held for a in reply.allocations if (held := _held(a)) is not None),
            links=self._signs.links(),
            sandboxes=self._signs.sandboxes(),
        )
        now_unix = self._wall_clock()
        if not leaks.explains_all(look, now_unix=now_unix, waits=self._waits):
            look = self._looked_closer(look, ours)
        return leaks.assess(
            self._memory, look, now=self._clock(), now_unix=now_unix, waits=self._waits
        )

    def _looked_closer(self, look: Look, ours: frozenset[AttachmentKey]) -> Look:
        mounts, processes = self._signs.namespaces()
        keys = [held.key for held in look.held]
        return replace(
            look,
            routes=self._signs.routes(),
            mounts=mounts,
            processes=processes,
            cache=self._signs.cache(),
            queued=frozenset(key for key in keys if self._is_queued(key)),
            busy=frozenset(key for key in keys if key not in ours and self._verbs.is_busy(key)),
        )

    def _list(self) -> pb.ListReply:
        return self._ipam.list(deadline_monotonic=time.monotonic() + LIST_SECONDS)

    def _end_confirmed(self, confirmed: tuple[Verdict, ...]) -> None:
        """Look once more with the keys' locks held, and end what is confirmed still."""
        with ExitStack() as locks:
            ours = frozenset(v.held.key for v in confirmed if self._try_lock(locks, v.held.key))
            try:
                again = self._look(ours)
                standing = {_name_of(a): a for a in self._list().allocations}
            except IpamdError as e:
                log.info("leaks_not_ended", reason=str(e))
                return
            if again is None:
                return
            self._memory = again.memory
            for verdict in again.of(Standing.CONFIRMED):
                allocation = standing.get(verdict.held.name)
                if verdict.held.key in ours and allocation is not None:
                    self._end(verdict, allocation)

    def _try_lock(self, locks: ExitStack, key: AttachmentKey) -> bool:
        try:
            locks.enter_context(self._verbs.locked(key, timeout_seconds=0.0))
        except TimeoutError:
            return False  # a verb is at work on it: it is no leak
        return True

    def _end(self, verdict: Verdict, allocation: pb.Allocation) -> None:
        assert verdict.rule is not None
        try:
            reply = self._verbs.end_leak(
                allocation,
                reason=f"{reasons.LOST_DEL}, {verdict.rule.value}: {verdict.reason}",
                deadline_monotonic=time.monotonic() + END_SECONDS,
            )
        except (CniError, IpamdError) as e:
            # It stays allocated and confirmed; the next look tries again.
            log.warning("leak_stays", key=str(verdict.held.key), error=str(e))
            return
        log.warning(
            "leak_released",
            key=str(verdict.held.key),
            pod=f"{allocation.pod_namespace}/{allocation.pod_name}",
            address=reply.address,
            outcome=pb.ReleaseReply.Outcome.Name(reply.outcome),
            rule=verdict.rule.value,
            reason=verdict.reason,
        )

    def _tell(self, assessment: Assessment) -> None:
        """Log every verdict but "live" once, for as long as it stands."""
        doubted = [v for v in assessment.verdicts if v.standing is not Standing.LIVE]
        log.debug("leaks_looked_for", allocations=len(assessment.verdicts), doubted=len(doubted))
        for verdict in doubted:
            if (verdict.held.name, verdict.standing) in self._told:
                continue
            log.warning(
                _EVENTS[verdict.standing],
                key=str(verdict.held.key),
                rule=verdict.rule.value if verdict.rule else "",
                reason=verdict.reason,
                unseen=dict(self._signs.unseen),
            )
        self.notes = _notes(assessment.of(Standing.UNSURE), self._signs.unseen)
        self._told = frozenset((v.held.name, v.standing) for v in doubted)


def _notes(unsure: tuple[Verdict, ...], unseen: Mapping[str, str]) -> tuple[str, ...]:
    """One sentence for all of them; none where nothing is unsure. Pure."""
    if not unsure:
        return ()
    some = ", ".join(str(verdict.held.key) for verdict in unsure[:NOTED])
    more = f" and {len(unsure) - NOTED} more" if len(unsure) > NOTED else ""
    why = "; ".join(f"{source}: {reason}" for source, reason in sorted(unseen.items()))
    said = (
        f"whether the pods of {len(unsure)} allocations live cannot be told ({some}{more}); they "
        f"keep their addresses. Not seen: {why or 'any sign of life'}. See docs/leaks.md"
    )
    return (said,)


def _name_of(allocation: pb.Allocation) -> HeldName:
    return key_of(allocation), allocation.generation


def _held(allocation: pb.Allocation) -> Held | None:
    """None for wiring of a kind that this version does not know: not ours to judge."""
    try:
        wiring = Wiring(allocation.wired_by)
    except ValueError:
        return None
    return Held(
        key=key_of(allocation),
        generation=allocation.generation,
        netns_cookie=allocation.netns_cookie,
        network_name=allocation.network_name,
        addresses=frozenset(addresses_of(allocation)),
        wiring=wiring,
        is_pod=bool(allocation.pod_namespace and allocation.pod_name),
        allocated_unix=allocation.allocated_unix,
    )
