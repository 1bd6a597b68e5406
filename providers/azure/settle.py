"""Waiting until a write has come about: looks at the resource itself, further and further apart.

The resource's state needs nothing but the resource, so a process that starts can wait for what an
earlier one has sent, and NICs and instances are waited for alike. Only the reason of a failure
stands elsewhere: at the operation URL, which is asked when the state does not explain what is seen.
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
from providers.azure.merge import Goal, Picture, is_reached, is_written
from providers.azure.targets import Door, Target

FIRST_PAUSE_SECONDS = 0.5
"""A NIC's change takes a second or more. The Retry-After of a PUT's answer (10 s, azure-powershell
issue 14460) paces the operation's URL and not these looks; that of a refused look is honoured."""

LAG_SECONDS = 30.0
"""How long what has ended may take to show in the NICs of an instance, before the looks end."""

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
    """What is waited for, and until when (monotonic)."""

    target: Target
    goals: Sequence[Goal]
    operation_url: str
    deadline: float


def settle(door: Door, clock: Clock, awaited: Awaited, first: Picture | None = None) -> Settled:
    """Wait for the end of a write; `first` is what its answer showed.

    Raises Transient (code UnderWay) at the deadline, NotFound when the resource is gone. Other
    failures to look are waited out, as the write goes on without us.
    """
    over_since: float | None = None
    picture = first
    for pause in _pauses(awaited.target.longest_pause_seconds, clock.chance):
        asked, verdict = 0.0, _MOVING
        if picture is None:
            picture, asked = _look(awaited.target)
        if picture is not None and not picture.is_moving:
            if all(is_reached(goal, picture) for goal in awaited.goals):
                return Settled(picture=picture)
            verdict = _verdict(door, awaited, picture)
        now = clock.monotonic()
        if verdict.failure is not None:
            return _failed(awaited, picture, verdict.failure)
        if verdict.has_ended:
            over_since = now if over_since is None else over_since
            if now - over_since >= LAG_SECONDS:
                return _failed(awaited, picture, _not_shown(awaited.target))
        left = awaited.deadline - now
        if left <= 0:
            raise _still_under_way(awaited.target)
        clock.sleep(min(max(pause, asked, verdict.retry_after_seconds), left))
        picture = None
    raise AssertionError("the pauses never end")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Verdict:
    """What is known of an operation: not yet ended, ended well, or failed."""

    has_ended: bool = False
    failure: CloudError | None = None
    retry_after_seconds: float = 0.0


_MOVING = _Verdict()


def _pauses(longest: float, chance: Callable[[], float]) -> Iterator[float]:
    """0.5, 1, 2 ... seconds, each up to a quarter longer, so that nodes do not look in step."""
    for doublings in itertools.count():
        plain = min(FIRST_PAUSE_SECONDS * 2 ** min(doublings, 16), longest)
        yield plain * (1.0 + chance() / 4)


def _look(target: Target) -> tuple[Picture | None, float]:
    """The picture, or how long to wait for it at least."""
    try:
        return target.read(), 0.0
    except NotFound:
        raise
    except CloudError as e:
        return None, e.retry_after_seconds


def _verdict(door: Door, awaited: Awaited, picture: Picture) -> _Verdict:
    """Why a resource that does not move is not what was wanted."""
    if awaited.operation_url:
        try:
            operation = door.operation(awaited.operation_url)
        except (Busy, Throttled, Transient) as e:
            return _Verdict(retry_after_seconds=e.retry_after_seconds)
        except CloudError:
            pass  # ARM keeps operations for some days at most, and may not let us see them
        else:
            if not operation.has_ended:
                return _Verdict(retry_after_seconds=operation.retry_after_seconds)
            if operation.status.lower() == "succeeded":
                return _Verdict(has_ended=True)
            what = errors.Said(code=operation.code, message=operation.message)
            return _Verdict(failure=errors.refusal("write", 0, what))
    return _by_state(awaited, picture)


def _by_state(awaited: Awaited, picture: Picture) -> _Verdict:
    """Without an operation to ask, the resource has to do."""
    if picture.state == "failed":
        said = f"{awaited.target.target_id} is Failed, and no operation says why"
        return _Verdict(failure=Transient(said, operation="write", code="Failed"))
    if all(is_written(goal, picture) for goal in awaited.goals):
        return _Verdict(has_ended=True)
    said = f"the write of {awaited.target.target_id} was not taken"
    return _Verdict(failure=Transient(said, operation="write", code=NOT_TAKEN))


def _failed(awaited: Awaited, seen: Picture | None, failure: CloudError) -> Settled:
    """Read anew: what the operation did is certain only after its end."""
    picture, _ = _look(awaited.target)
    picture = picture or seen
    assert picture is not None  # a verdict needs a picture
    return Settled(picture=picture, failure=failure)


def _not_shown(target: Target) -> Transient:
    return Transient(
        f"the write of {target.target_id} ended well, and its NICs do not show it",
        operation="write",
        code=NOT_SHOWN,
    )


def _still_under_way(target: Target) -> Transient:
    return Transient(
        f"a write of {target.target_id} is still under way", operation="write", code=UNDER_WAY
    )
