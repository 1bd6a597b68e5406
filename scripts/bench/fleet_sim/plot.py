"""The result as an SVG of horizontal bars: p99 wait, calls and idle hours of each load."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from html import escape

from scripts.bench.fleet_sim.meter import Outcome
from scripts.bench.fleet_sim.report import Outcomes

SIDES = (("ours", "#1b6ca8"), ("peer", "#d9822b"), ("oracle", "#8a8f98"))
PANELS: tuple[tuple[str, float, Callable[[Outcome], float]], ...] = (
    ("p99 wait, s", 0.1, lambda o: o.wait_p99_s),
    ("EC2 calls", 1.0, lambda o: float(o.calls)),
    ("idle address-hours", 1.0, lambda o: o.idle_address_hours),
)
LABELS, PANEL, GAP, BAR, HEAD = 190, 230, 40, 8, 60


def as_svg(results: Mapping[str, Outcomes], *, title: str) -> str:
    """One group of three bars a load, three panels, each on a logarithmic axis."""
    rows = list(results)
    each = len(SIDES) * BAR + 8
    height = HEAD + each * len(rows) + 10
    width = LABELS + len(PANELS) * (PANEL + GAP)
    parts = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="11">'
        ),
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="8" y="18" font-size="14">{escape(title)}</text>',
        *_legend(),
    ]
    for number, load in enumerate(rows):
        y = HEAD + each * number + 2 * BAR
        parts.append(f'<text x="8" y="{y}">{escape(load)}</text>')
    for number, (name, floor, value) in enumerate(PANELS):
        x = LABELS + number * (PANEL + GAP)
        parts += _panel(results, x=x, name=name, floor=floor, value=value, each=each)
    return "\n".join([*parts, "</svg>", ""])


def _legend() -> list[str]:
    parts = []
    for number, (side, colour) in enumerate(SIDES):
        x = 8 + 60 * number
        parts.append(f'<rect x="{x}" y="28" width="10" height="10" fill="{colour}"/>')
        parts.append(f'<text x="{x + 14}" y="37">{side}</text>')
    return parts


def _panel(
    results: Mapping[str, Outcomes],
    *,
    x: int,
    name: str,
    floor: float,
    value: Callable[[Outcome], float],
    each: int,
) -> list[str]:
    values = [value(o) for sides in results.values() for o in sides.values()]
    decades = max(math.ceil(math.log10(max(*values, floor * 10) / floor)), 1)
    scale = PANEL / decades
    bottom = HEAD + each * len(results)
    parts = [f'<text x="{x}" y="{HEAD - 18}" font-weight="bold">{escape(name)}</text>']
    for decade in range(decades + 1):
        at = x + decade * scale
        parts.append(
            f'<line x1="{at:.1f}" y1="{HEAD - 4}" x2="{at:.1f}" y2="{bottom}" stroke="#dddddd"/>'
        )
        parts.append(
            f'<text x="{at:.1f}" y="{HEAD - 6}" font-size="9" text-anchor="middle">'
            f"{floor * 10**decade:g}</text>"
        )
    for row, sides in enumerate(results.values()):
        for number, (side, colour) in enumerate(SIDES):
            length = max(math.log10(max(value(sides[side]), floor) / floor) * scale, 1.0)
            y = HEAD + each * row + number * BAR
            parts.append(
                f'<rect x="{x}" y="{y}" width="{length:.1f}" height="{BAR - 1}" fill="{colour}">'
                f"<title>{side}: {value(sides[side]):.2f}</title></rect>"
            )
    return parts
