"""Changing addresses: `apply` for any number of threads, one PUT at a time for each write target.

Read, merge the wants into one body, note it in the journal, PUT with If-Match, wait for the end,
tell each caller what became of its change. A refusal means that nothing was done; whenever that is
not certain the error is Transient, and the caller reads back. Hazards: never a second write while
one of ours is under way, never a PUT of a body that was not read a moment ago, never a word about
an address before traffic of it passes.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ipamd.budget import BUDGET_SPENT
from ipamd.cloud import AddressChange, AddressOutcome
from ipamd.errors import Busy, CloudError, Denied, NotFound, Throttled, Transient
from ipamd.model import EniId
from providers.azure import ids
from providers.azure.attempt import LEAST_SECONDS, Attempt, no_time
from providers.azure.journal import Journal, Note, Write, silent
from providers.azure.lanes import Lane, Want
from providers.azure.names import Kind, names_of
from providers.azure.settle import Awaited, Clock
from providers.azure.targets import Door, Target, target_by_id, target_of

MERGE_SECONDS = 0.1
"""How long a write waits for company: pods of one deployment come within it, and a NIC's write
takes seconds anyway."""

DEADLINE_SECONDS = 480.0
"""From the call to the last look. Scale set updates have been reported to take minutes; ipamd ends
a child that has not answered within 600 s."""

TRIES = 3
"""Refusals in a row because of somebody else's change, before the caller is told."""

TRY_PAUSES_SECONDS = (0.2, 2.0)
"""Between these tries, up to twice as long by chance. A stale etag is cured by reading again; a
lock is held for 1 to 10 s, and says for how long."""

LONGEST_TRY_PAUSE_SECONDS = 10.0

LONGEST_BUDGET_SECONDS = 20.0
"""Waited for within a call when this node's budget of writes is spent (4 a minute for an instance):
wants that come meanwhile join the write."""

RESUME_SECONDS = 5.0
"""A look has 30 s (the core's api_timeout_seconds); a call that hangs takes ten of them."""

FINAL = frozenset({"NoTimeLeft", "JournalFailed"})
"""Codes of a Busy that the next second does not cure."""

FOR_ALL = (Busy, Denied, NotFound, Throttled, Transient)
"""Refusals that do not depend on what a write asks for."""


class Writer:
    """See the module. `note` gets what nobody waits for, for the log."""

    def __init__(
        self,
        door: Door,
        journal: Journal,
        *,
        clock: Clock | None = None,
        note: Note = silent,
        new_token: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._door = door
        self._journal = journal
        self._clock = clock or Clock()
        self._note = note
        self._attempt = Attempt(door=door, journal=journal, clock=self._clock, note=note)
        self._new_token = new_token
        self._lock = threading.Lock()
        self._lanes: dict[str, Lane] = {}
        self._known_since: dict[str, float] = {}  # of earlier writes; each by who holds its lane

    def apply(self, change: AddressChange) -> AddressOutcome:
        """See ipamd.cloud.CloudProvider.apply. Takes 480 s at most."""
        target = self._target(change.eni_id)
        eni_id = EniId(ids.canonical(change.eni_id))
        token = change.token or self._new_token()
        want = Want(
            change=replace(change, eni_id=eni_id, token=token),
            deadline=self._clock.monotonic() + DEADLINE_SECONDS,
        )
        lane = self._lane(target)
        lane.ask(want)
        with lane.held(want) as leads:
            if leads:
                self._clock.sleep(MERGE_SECONDS)
            while leads and want.is_open:
                self._serve(lane, target)
        return want.outcome()

    def resume(self) -> None:
        """One look at each write that is noted and that nobody waits for, left in flight by an
        earlier process or at a deadline: what has ended is over. Raises nothing.

        Part of every look: what such a write removes is hidden, and there may be no next write. The
        look waits for it, so that none is begun after RESUME_SECONDS.
        """
        began = self._clock.monotonic()
        for write in self._journal.writes():
            if self._clock.monotonic() - began > RESUME_SECONDS:
                break
            try:
                target = target_by_id(self._door, write.target_id)
            except ValueError:
                self._journal.end(write.target_id)  # no write of this build's
                continue
            with self._lane(target).held_if_free() as is_free:
                try:
                    if is_free:
                        self._finish_earlier(target, ())
                except CloudError as e:
                    self._note("azure_write_awaited", target=target.target_id, error=str(e))

    def hidden(self, eni_id: EniId) -> frozenset[str]:
        """Names, in lower case, to leave out of a snapshot of a NIC: what a write that is under way
        removes, and what a failed one left behind. Nobody may be told to use these."""
        eni_id = EniId(eni_id.lower())
        return self._journal.leaving(eni_id) | self._journal.stuck(eni_id)

    def _target(self, eni_id: EniId) -> Target:
        try:
            return target_of(self._door, eni_id)
        except ValueError as e:
            raise NotFound(str(e), code="NotANic", eni_id=eni_id) from e

    def _lane(self, target: Target) -> Lane:
        with self._lock:
            return self._lanes.setdefault(target.target_id, Lane())

    def _serve(self, lane: Lane, target: Target) -> None:
        wants = lane.take()
        late = [want for want in wants if not self._has_time([want])]
        _fail(late, no_time(target))
        wants = [want for want in wants if want.is_open]
        try:
            self._finish_earlier(target, wants)
        except CloudError as e:
            _fail(wants, e)
        else:
            self._write(lane, target, wants)
        finally:
            lane.tell()

    def _finish_earlier(self, target: Target, wants: Sequence[Want]) -> None:
        """Wait for a write that is still under way: ours must not displace it.

        The reason of its failure is the result of a want with the same token, and for the log
        otherwise. Raises Transient when it does not end in time: at once where nobody waits.
        """
        write = self._journal.write(target.target_id)
        if write is None:
            self._known_since.pop(target.target_id, None)
            return
        known_since = self._known_since.setdefault(target.target_id, self._clock.monotonic())
        settled = self._attempt.settled(
            Awaited(
                target=target,
                goals=write.goals,
                operation_url=write.operation_url,
                etag=write.etag,
                known_since=known_since,
                deadline=min((w.deadline for w in wants), default=self._clock.monotonic()),
            )
        )
        del self._known_since[target.target_id]
        failure = settled.failure
        said = "" if failure is None else str(failure)
        self._note("azure_earlier_write_ended", target=target.target_id, error=said)
        if failure is not None and not isinstance(failure, Transient | Busy):
            _fail((want for want in wants if _repeats(want.change, write)), failure)

    def _write(self, lane: Lane, target: Target, wants: list[Want]) -> None:
        """Until each want has its result, or is given back to be tried apart."""
        refusals, is_apart = 0, any(want.is_apart for want in wants)
        while wants := [want for want in wants if want.is_open]:
            try:
                self._attempt.run(target, wants)
            except CloudError as e:
                refusals += isinstance(e, Busy)
                pause = self._pause_seconds(e, refusals)
                if pause is None or not self._has_time(wants, pause):
                    return self._refused(lane, target, wants, e)
                self._clock.sleep(pause)
                wants += [] if is_apart else lane.company()
        return None

    def _pause_seconds(self, error: CloudError, refusals: int) -> float | None:
        """How long to wait before the next try; None where there is none."""
        if isinstance(error, Throttled):
            waits = error.code == BUDGET_SPENT
            waits = waits and error.retry_after_seconds <= LONGEST_BUDGET_SECONDS
            return error.retry_after_seconds if waits else None
        if not isinstance(error, Busy) or error.code in FINAL or refusals >= TRIES:
            return None
        own = TRY_PAUSES_SECONDS[refusals - 1] * (1.0 + self._clock.chance())
        pause = max(own, error.retry_after_seconds)
        return pause if pause <= LONGEST_TRY_PAUSE_SECONDS else None

    def _has_time(self, wants: Iterable[Want], pause: float = 0.0) -> bool:
        deadline = min(want.deadline for want in wants)
        return self._clock.monotonic() + pause + LEAST_SECONDS <= deadline

    def _refused(
        self, lane: Lane, target: Target, wants: Sequence[Want], error: CloudError
    ) -> None:
        """The end for one want, or for a reason that holds for all of them. Others are tried once
        more, apart: what can be had is not held up by what cannot."""
        still = [want for want in wants if want.is_open]
        if len(still) == 1 or still[0].is_apart or isinstance(error, FOR_ALL):
            _fail(still, _to_caller(error, target))
        else:
            lane.give_back(still)


def _fail(wants: Iterable[Want], error: CloudError) -> None:
    for want in wants:
        want.fail(error)


def _to_caller(error: CloudError, target: Target) -> CloudError:
    """A Busy says when asking again makes sense, where ARM did not."""
    if isinstance(error, Busy) and not error.retry_after_seconds:
        error.retry_after_seconds = target.busy_retry_seconds
    return error


def _repeats(change: AddressChange, write: Write) -> bool:
    """Whether a change asks for what a write was for, by its names."""
    names = {named.name for named in write.adding if named.eni_id == change.eni_id}
    asked = ((Kind.ADDRESS, change.add), (Kind.BLOCK, change.add_prefixes))
    return any(names.intersection(names_of(change.token, kind, n)) for kind, n in asked)
