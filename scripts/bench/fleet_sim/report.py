"""From outcomes to goals, a text table and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from scripts.bench.fleet_sim.meter import Outcome

WAIT_FACTOR = 1.2
WAIT_SLACK_SECONDS = 0.1
ENI_CALLS_FACTOR = 0.7
CHURN_CALLS_FACTOR = 0.33

Outcomes = Mapping[str, Outcome]  # by side: ours, peer, oracle


@dataclass(frozen=True, slots=True, kw_only=True)
class Goals:
    """What one load was to show, and whether it did. None: no goal for this load."""

    wait: bool
    calls: bool | None
    idle: bool


def goals(load: str, sides: Outcomes) -> Goals:
    """Judge one load.

    Waits: p99 at most 1.2 times the oracle's, and at most the peer's + 0.1 s. Calls: at most 0.33
    of the peer's under churn, 0.7 where even the oracle needs ENIs. Idle: at most the peer's.
    """
    ours, peer, oracle = sides["ours"], sides["peer"], sides["oracle"]
    factor = calls_factor(load, oracle)
    return Goals(
        wait=ours.wait_p99_s <= WAIT_FACTOR * oracle.wait_p99_s
        and ours.wait_p99_s <= peer.wait_p99_s + WAIT_SLACK_SECONDS,
        calls=None if factor is None else ours.calls <= factor * peer.calls,
        idle=ours.idle_address_hours <= peer.idle_address_hours,
    )


def calls_factor(load: str, oracle: Outcome) -> float | None:
    """Our calls over the peer's at most, where that is a goal."""
    if load.startswith("churn/"):
        return CHURN_CALLS_FACTOR
    return ENI_CALLS_FACTOR if "AttachNetworkInterface" in oracle.calls_by_api else None


def as_json(results: Mapping[str, Outcomes], *, nodes: int, seed: int) -> str:
    """The whole result; the figures of a side are those of Outcome."""
    document = {
        "nodes": nodes,
        "seed": seed,
        "loads": {
            load: {side: asdict(outcome) for side, outcome in sides.items()}
            for load, sides in results.items()
        },
        "goals": {load: asdict(goals(load, sides)) for load, sides in results.items()},
    }
    return json.dumps(document, indent=1)


HEADER = (
    "load",
    "p50 s ours/peer/oracle",
    "p99 s ours/peer/oracle",
    "calls ours/peer/oracle",
    "throttled ours/peer",
    "idle h ours/peer/oracle",
    "wait",
    "calls",
    "idle",
)


def as_table(results: Mapping[str, Outcomes]) -> str:
    """One row a load, GitHub's table syntax."""
    rows = [HEADER, *(_row(load, sides) for load, sides in results.items())]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADER))]
    lines = [
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def _row(load: str, sides: Outcomes) -> tuple[str, ...]:
    all_three = [sides[side] for side in ("ours", "peer", "oracle")]
    judged = goals(load, sides)
    return (
        load,
        " / ".join(f"{o.wait_p50_s:.1f}" for o in all_three),
        " / ".join(f"{o.wait_p99_s:.1f}" for o in all_three),
        " / ".join(str(o.calls) for o in all_three),
        " / ".join(str(o.throttled) for o in all_three[:2]),
        " / ".join(f"{o.idle_address_hours:.0f}" for o in all_three),
        *(_word(v) for v in (judged.wait, judged.calls, judged.idle)),
    )


def _word(verdict: bool | None) -> str:
    return {True: "met", False: "MISSED", None: "-"}[verdict]
