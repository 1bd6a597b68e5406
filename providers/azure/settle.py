"""Waiting until a write has come about: looks at the resource itself, further and further apart.

The resource's state needs nothing but the resource, so a process that starts can wait for what an
earlier one has sent, and NICs and instances are waited for alike. Only the reason of a failure
stands elsewhere: at the operation URL, which is asked when the state does not explain what is seen,
or does not end: somebody else's change may have followed ours, or a NIC be stuck in Updating.
A failed operation may have been applied in spite of it (cilium issue 43598), so that what there is
now is always part of the answer.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from ipamd.errors import Busy, CloudError, NotFound, Throttled, Transient
from providers.azure import errors
from providers.azure.api import Operation
from providers.azure.configs import FAILED
from providers.azure.merge import Goal, Picture, is_reached, is_written
from providers.azure.targets import Door, Target

FIRST_PAUSE_SECONDS = 0.5
"""A NIC's change takes a second or more. The Retry-After of a PUT's answer (10 s, azure-powershell
issue 14460) paces the operation's URL and not these looks; that of a refused look is honoured."""

LAG_SECONDS = 30.0
"""How long what has ended may take to show in the NICs of an instance, and what was sent to arrive,
before the looks end."""

UNDER_WAY = "UnderWay"
"""The code of the error for a write that has not ended in time. It may come about later."""


NOT_SHOWN, NOT_TAKEN = "NotShown", "NotTaken"
NOT_OVER = frozenset({NOT_SHOWN, NOT_TAKEN})
"""Codes of endings that leave nothing behind: what was written may show later, or was never."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """Time and chance, of this process or of a test."""

    monotonic: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    chance: Callable[[], float] = random.random


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """A write has ended: what there is now, and why that is not what was wanted."""

    picture: Picture
    failure: CloudError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Awaited:
    """What is waited for, and until when (monotonic). `etag`: what the write was based on;
    `known_since`: when an earlier write was first waited for, None for one that was just sent."""

    target: Target
    goals: Sequence[Goal]
    operation_url: str
    deadline: float
    etag: str = ""
    known_since: float | None = None


def settle(door: Door, clock: Clock, awaited: Awaited, first: Picture | None = None) -> Settled:
    """Wait for the end of a write; `first` is what its answer showed.

    Raises Transient (code UnderWay) at the deadline, NotFound when the resource is gone. Other
    failures to look are waited out, as the write goes on without us.
    """
    doubted_since = awaited.known_since
    picture, target = first, awaited.target
    operation = _Asked(door=door, clock=clock, awaited=awaited)
    for pause in _pauses(target.longest_pause_seconds, clock.chance):
        asked, verdict = 0.0, _UNKNOWN
        if picture is None:
            picture, asked = _look(target)
        if picture is not None:
            is_late = pause >= target.longest_pause_seconds
            picture, verdict = _judged(operation, awaited, picture, is_late=is_late)
        if picture is not None and all(is_reached(goal, picture) for goal in awaited.goals):
            return Settled(picture=picture)
        now = clock.monotonic()
        if picture is not None and verdict.failure is not None:
            doubted_since = now if doubted_since is None else doubted_since
            if verdict.is_certain or now - doubted_since >= LAG_SECONDS:
                return _failed(target, picture, verdict.failure)
        left = awaited.deadline - now
        if left <= 0:
            raise _still_under_way(target)
        clock.sleep(min(max(pause, asked), left))
        picture = None
    raise AssertionError("the pauses never end")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What is known of a write that is not seen to have come about: `failure`, where it has ended.
    One that is not certain may be undone by a later look."""

    failure: CloudError | None = None
    is_certain: bool = True


_UNKNOWN = _Verdict()


def _pauses(longest: float, chance: Callable[[], float]) -> Iterator[float]:
    """0.5, 1, 2 ... seconds, each up to a quarter longer, so that nodes do not look in step."""
    for doublings in itertools.count():
        plain = min(FIRST_PAUSE_SECONDS * 2 ** min(doublings, 16), longest)
        yield plain * (1.0 + chance() / 4)


def _look(target: Target, *, is_whole: bool = False) -> tuple[Picture | None, float]:
    """The picture, or how long to wait for it at least."""
    try:
        return target.read(is_whole=is_whole), 0.0
    except NotFound:
        raise
    except CloudError as e:
        return None, e.retry_after_seconds


def _judged(
    operation: _Asked, awaited: Awaited, picture: Picture, *, is_late: bool
) -> tuple[Picture | None, _Verdict]:
    """The picture by which our write can be judged, None while it moves, and the verdict.

    What moves for long may do so because somebody else's change came after ours, or be stuck: the
    operation tells when ours has ended.
    """
    if picture.is_moving:
        verdict = (operation.verdict() if is_late else None) or _UNKNOWN
        return _look(awaited.target, is_whole=True)[0] if verdict.failure else None, verdict
    if all(is_reached(goal, picture) for goal in awaited.goals):
        return picture, _UNKNOWN
    return picture, operation.verdict() or _by_state(awaited, picture)


@dataclass(slots=True, kw_only=True)
class _Asked:
    """The operation, which is asked no sooner than it said. Looks at the resource have a budget of
    their own and do not wait for that."""

    door: Door
    clock: Clock
    awaited: Awaited
    _ask_at: float = float("-inf")
    _mute_since: float | None = None

    def verdict(self) -> _Verdict | None:
        """What it says; None where there is none to ask, or none that answers for long."""
        if not self.awaited.operation_url:
            return None
        if self.clock.monotonic() < self._ask_at:
            return self._unknown()
        try:
            said = self.door.operation(self.awaited.operation_url)
        except (Busy, Throttled, Transient) as e:
            self._mute_since = self._since()
            return self._unknown(e.retry_after_seconds)
        except CloudError:
            return None  # ARM keeps operations for some days at most, and may not let us see them
        self._mute_since = None
        if not said.has_ended:
            return self._unknown(said.retry_after_seconds)
        if said.status.lower() == "succeeded":
            return _not_shown(self.awaited.target)
        return _Verdict(failure=_failure(said))

    def _unknown(self, retry_after_seconds: float = 0.0) -> _Verdict | None:
        """A failed operation that is named by Location may answer like a failed call, for ever."""
        now = self.clock.monotonic()
        self._ask_at = max(self._ask_at, now + retry_after_seconds)
        is_mute = self._mute_since is not None and now - self._mute_since >= LAG_SECONDS
        return None if is_mute else _UNKNOWN

    def _since(self) -> float:
        known = (self._mute_since, self.awaited.known_since, self.clock.monotonic())
        return next(since for since in known if since is not None)


def _failure(operation: Operation) -> CloudError:
    """Why an operation failed. Compute cancels one that a later write displaces, and may not say
    why (kubernetes issue 78989)."""
    if operation.status.lower() == "canceled" and not operation.code:
        return Busy("the write was canceled", operation="write", code="Canceled")
    said = errors.Said(code=operation.code, message=operation.message)
    return errors.refusal("write", 0, said)


def _by_state(awaited: Awaited, picture: Picture) -> _Verdict:
    """Without an operation to ask, the resource has to do. While it is what the write was based
    on, the write may be on its way to it, or this look be an old one."""
    if picture.state == FAILED:
        said = f"{awaited.target.target_id} is Failed, and no operation says why"
        return _Verdict(failure=Transient(said, operation="write", code="Failed"))
    if all(is_written(goal, picture) for goal in awaited.goals):
        return _not_shown(awaited.target)
    said = f"the write of {awaited.target.target_id} was not taken"
    return _Verdict(
        failure=Transient(said, operation="write", code=NOT_TAKEN),
        is_certain=bool(awaited.etag) and picture.etag != awaited.etag,
    )


def _failed(target: Target, seen: Picture, failure: CloudError) -> Settled:
    """Read anew: what the operation did is certain only after its end."""
    picture, _ = _look(target, is_whole=True)
    return Settled(picture=picture or seen, failure=failure)


def _not_shown(target: Target) -> _Verdict:
    said = f"the write of {target.target_id} ended well, and its NICs do not show it"
    failure = Transient(said, operation="write", code=NOT_SHOWN)
    return _Verdict(failure=failure, is_certain=False)


def _still_under_way(target: Target) -> Transient:
    return Transient(
        f"a write of {target.target_id} is still under way", operation="write", code=UNDER_WAY
    )
