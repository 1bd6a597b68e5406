"""What a demo is made of: steps that look at the world, and checks that say what was seen.

A step returns what it saw or raises; either becomes one `Check`. A step whose ground is missing
(a step it needs has failed) is not tried and counts as failed. Nothing here prints.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

World = TypeVar("World")


class CheckFailed(Exception):
    """A look at the world found something else than it should be; the text says what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Rows for people; every row has as many cells as the head."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What a step saw: one sentence, and what one would rather look at."""

    text: str
    table: Table | None = None
    screen: str = ""  # another program's output, as it was


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(Generic[World]):
    """One check to come. `needs` names the steps without which it makes no sense.

    Names may have {words} that differ between clouds, see `worded`.
    """

    name: str
    act: Callable[[World], Seen]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One finished check. `seconds` is 0 where it was not tried."""

    name: str
    is_ok: bool
    seconds: float
    seen: Seen


def worded(step: Step[World], words: Mapping[str, str]) -> Step[World]:
    """The step with {words} in its name, and in those of the steps it needs, put in."""
    needs = tuple(name.format_map(words) for name in step.needs)
    return replace(step, name=step.name.format_map(words), needs=needs)


def run_steps(
    steps: Sequence[Step[World]], world: World, earlier: Sequence[Check] = ()
) -> Iterator[tuple[Step[World], Check | None]]:
    """Each step twice: with None as it begins, with its check when it is done."""
    failed = {check.name for check in earlier if not check.is_ok}
    for step in steps:
        yield step, None
        missing = [name for name in step.needs if name in failed]
        check = (
            skipped(step, f"not tried: {missing[0]!r} failed") if missing else tried(step, world)
        )
        if not check.is_ok:
            failed.add(step.name)
        yield step, check


def skipped(step: Step[World], why: str) -> Check:
    """The check of a step that was not tried."""
    return Check(name=step.name, is_ok=False, seconds=0.0, seen=Seen(text=why))


def tried(step: Step[World], world: World) -> Check:
    """Do the step; never raises but for what ends the whole run (KeyboardInterrupt)."""
    began = time.monotonic()
    try:
        is_ok, seen = True, step.act(world)
    except CheckFailed as e:
        is_ok, seen = False, Seen(text=str(e))
    except Exception as e:  # noqa: BLE001 - the report must come, whatever broke on the way
        is_ok, seen = False, Seen(text=f"{type(e).__name__}: {e}")
    return Check(name=step.name, is_ok=is_ok, seconds=time.monotonic() - began, seen=seen)
