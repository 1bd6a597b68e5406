"""From measured pairs to a benchmark's rows: median, p95, ratio, the table and the document. Pure.

A pair is one round: the same verb done by us and by the peer, milliseconds apart on the same
machine. Ratios of such pairs survive a busy machine, single milliseconds do not.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import ceil

Goals = Mapping[tuple[str, str, str, int, str, str], float]
"""Row.key -> the ratio that is not to be passed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """One verified round, in milliseconds."""

    ours_ms: float
    peer_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the result. Without a verified round the figures are None and `rounds` 0.

    `kind` says what was done; `peer` is who the ratio is to, which may be ourselves in other
    circumstances.
    """

    kind: str
    verb: str
    launcher: str
    pods: int
    mode: str
    peer: str
    median_ms: float | None
    p95_ms: float | None
    peer_median_ms: float | None
    ratio: float | None
    rounds: int

    @property
    def key(self) -> tuple[str, str, str, int, str, str]:
        """What no two rows of a result share."""
        return (self.kind, self.verb, self.launcher, self.pods, self.mode, self.peer)


def row(
    pairs: Sequence[Pair],
    *,
    kind: str,
    verb: str,
    launcher: str,
    pods: int,
    mode: str,
    peer: str,
) -> Row:
    """The row of these rounds; `ratio` is median to median, so below 1 we are the faster."""
    ours, theirs = [pair.ours_ms for pair in pairs], [pair.peer_ms for pair in pairs]
    return Row(
        kind=kind,
        verb=verb,
        launcher=launcher,
        pods=pods,
        mode=mode,
        peer=peer,
        median_ms=_rounded(statistics.median(ours)) if ours else None,
        p95_ms=_rounded(p95(ours)) if ours else None,
        peer_median_ms=_rounded(statistics.median(theirs)) if theirs else None,
        ratio=_rounded(ratio(ours, theirs)) if ours else None,
        rounds=len(pairs),
    )


def p95(values: Sequence[float]) -> float:
    """The 95th percentile by nearest rank: a value that was measured, never one between two.

    Examples: of 1..100 it is 95, of 1..10 it is 10. ValueError without values.
    """
    if not values:
        raise ValueError("no values, no percentile")
    return sorted(values)[ceil(len(values) * 95 / 100) - 1]


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median to median. Example: (1, 2, 9) to (8, 8, 2) -> 2 / 8 = 0.25. ValueError without any."""
    if not ours or not theirs:
        raise ValueError("no values, no ratio")
    return statistics.median(ours) / statistics.median(theirs)


def document(rows: Sequence[Row]) -> dict[str, list[dict[str, object]]]:
    """What `-o json` prints: {"rows": [...]}."""
    return {"rows": [asdict(each) for each in rows]}


def table(rows: Sequence[Row], goals: Goals) -> str:
    """The rows for people, each with its goal where there is one."""
    lines = [_HEAD, *(_line(each, goals.get(each.key)) for each in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


_HEAD = (
    "row", "verb", "launcher", "pods", "mode", "peer", "median ms", "p95 ms", "peer ms", "ratio",
    "rounds", "goal",
)  # fmt: skip


def _line(each: Row, goal: float | None) -> tuple[str, ...]:
    figures = (each.median_ms, each.p95_ms, each.peer_median_ms, each.ratio)
    return (
        each.kind,
        each.verb,
        each.launcher,
        str(each.pods),
        each.mode,
        each.peer,
        *("-" if figure is None else f"{figure:.2f}" for figure in figures),
        str(each.rounds),
        _verdict(each.ratio, goal),
    )


def _verdict(seen: float | None, goal: float | None) -> str:
    if goal is None:
        return "-"
    if seen is None:
        return f"<= {goal:.2f}: unknown"
    return f"<= {goal:.2f}: {'met' if seen <= goal else 'missed'}"


def _rounded(value: float) -> float:
    """Microseconds, of which a process start repeats only the hundreds."""
    return round(value, 3)
