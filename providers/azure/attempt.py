"""One write: read, merge, note, PUT, wait, and each want's share of what came of it.

Used by `providers.azure.writer`, which holds the target's lane and decides what follows a refusal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ipamd.errors import (
    Busy,
    CloudError,
    Denied,
    NotFound,
    Throttled,
    Transient,
    Unsupported,
)
from providers.azure import merge
from providers.azure.api import Answered
from providers.azure.journal import Journal, Note, write_of
from providers.azure.lanes import Want
from providers.azure.merge import Goal, Picture
from providers.azure.settle import NOT_OVER, Awaited, Clock, Settled, settle
from providers.azure.targets import Door, Target

LEAST_SECONDS = 30.0
"""With less time left nothing is sent: a PUT and one look, each with its time-out, take 20 s."""


ELSEWHERE = (Busy, Denied, NotFound, Throttled, Transient, Unsupported)
"""Refusals that have nothing to do with what a subnet has to give."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What one write works with."""

    door: Door
    journal: Journal
    clock: Clock
    note: Note

    def run(self, target: Target, wants: Sequence[Want]) -> None:
        """Give each want its result, or raise the refusal that holds for all that have none yet:
        nothing of these was done, unless it is a Transient."""
        deadline = min(want.deadline for want in wants)
        picture = target.read()
        if picture.is_moving and target.waits_while_moving:
            raise _moved_by_others(target)
        stuck = {eni_id: self.journal.stuck(eni_id) for eni_id in picture.nics}
        merged = merge.merge(picture, [want.change for want in wants], stuck)
        pairs = self._unreached(picture, wants, merged.goals)
        if not pairs:
            return
        if deadline - self.clock.monotonic() < LEAST_SECONDS:
            raise no_time(target)
        goals = [goal for _, goal in pairs]
        answered, first = Answered(), None
        if merged.edits or not picture.is_moving:  # else a write that nobody noted brings it about
            answered, first = self._put(target, picture, goals, merged.edits)
        awaited = Awaited(
            target=target,
            goals=goals,
            operation_url=answered.operation_url,
            deadline=deadline,
            etag=picture.etag,
        )
        self._share(pairs, self.settled(awaited, first))

    def settled(self, awaited: Awaited, first: Picture | None = None) -> Settled:
        """Wait for the end of the target's write, and take it out of the journal when it came."""
        target_id = awaited.target.target_id
        try:
            settled = settle(self.door, self.clock, awaited, first)
        except NotFound:
            self.journal.end(target_id)
            raise
        self._keep_stuck(awaited.goals, settled)
        self.journal.end(target_id)
        return settled

    def _unreached(
        self, picture: Picture, wants: Sequence[Want], goals: Sequence[Goal | CloudError]
    ) -> list[tuple[Want, Goal]]:
        """The wants that need a write; those that cannot be or are there already get their
        results."""
        pairs = []
        for want, goal in zip(wants, goals, strict=True):
            if isinstance(goal, CloudError):
                want.fail(goal)
            elif merge.is_reached(goal, picture):
                want.result = merge.outcome(goal, picture)
            else:
                pairs.append((want, goal))
        return pairs

    def _put(
        self, target: Target, picture: Picture, goals: Sequence[Goal], edits: merge.Edits
    ) -> tuple[Answered, Picture | None]:
        """Send it, noted before and after; the answer, and what it shows."""
        self.journal.begin(write_of(target.target_id, goals, picture.etag))
        try:
            answered = target.put(picture, edits)
        except Transient as e:
            return Answered(), self._read_back(target, goals, e)
        except CloudError as e:
            self.journal.end(target.target_id)
            _name_subnet(e, picture, goals)
            raise
        self.journal.answered(target.target_id, answered.operation_url)
        return answered, target.seen(answered)

    def _read_back(self, target: Target, goals: Sequence[Goal], lost: Transient) -> Picture:
        """The answer of a PUT is lost: what is there if it was taken, else the error.

        A target that moves is changed by us, as it is not sent to while others do.
        """
        try:
            picture = target.read()
        except CloudError as e:
            raise lost from e
        if picture.is_moving or all(merge.is_written(goal, picture) for goal in goals):
            self.note("azure_answer_lost", target=target.target_id, error=str(lost))
            return picture
        self.journal.end(target.target_id)
        raise lost

    def _keep_stuck(self, goals: Sequence[Goal], settled: Settled) -> None:
        """Remember what is left behind, until it has gone or is asked for and usable. Only what
        this write itself added can be: whatever else a NIC calls Failed may carry pods."""
        failed = settled.failure is not None and settled.failure.code not in NOT_OVER
        unreached = [goal for goal in goals if not merge.is_reached(goal, settled.picture)]
        useless = merge.left_behind(unreached if failed else (), settled.picture)
        for eni_id, nic in settled.picture.nics.items():
            had = merge.usable_names(goals, nic)
            held = nic.written.keys() | nic.shown.keys()
            kept = (self.journal.stuck(eni_id) - had) & held
            self.journal.set_stuck(eni_id, kept | useless.get(eni_id, frozenset()))

    def _share(self, pairs: Sequence[tuple[Want, Goal]], settled: Settled) -> None:
        """Each want's result. What a failed operation applied counts; what it did in part, without
        giving anything that can be used, is in doubt."""
        picture, failure = settled.picture, settled.failure
        for want, goal in pairs:
            if merge.is_reached(goal, picture):
                want.result = merge.outcome(goal, picture)
            elif merge.is_partly_had(goal, picture):
                want.result = merge.outcome(goal, picture)
                self.note("azure_write_partly_done", eni=goal.eni_id, error=str(failure))
            elif merge.has_effect(goal, picture):
                want.fail(_in_doubt(failure))
        if failure is not None and any(want.is_open for want, _ in pairs):
            _name_subnet(failure, picture, [goal for _, goal in pairs])
            raise failure


def _name_subnet(error: CloudError, picture: Picture, goals: Sequence[Goal]) -> None:
    """ARM names a full subnet in words only, and none for what else it refuses to give of it; the
    wants' NICs know it."""
    nic = picture.nics.get(goals[0].eni_id)
    if nic is not None and not error.subnet_id and not isinstance(error, ELSEWHERE):
        error.subnet_id = nic.subnet_id


def _in_doubt(failure: CloudError | None) -> Transient:
    return Transient(
        f"the write failed and was applied in part: {failure}",
        operation="write",
        code="PartlyDone",
    )


def _moved_by_others(target: Target) -> Busy:
    return Busy(
        f"{target.target_id} is being changed by somebody else", operation="write", code="Updating"
    )


def no_time(target: Target) -> Busy:
    """The refusal of what comes too late for a write."""
    return Busy(
        f"no time is left for a write of {target.target_id}; nothing was sent",
        operation="write",
        code="NoTimeLeft",
    )
