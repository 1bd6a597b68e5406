"""scripts/bench/fleet: 500 pool engines against one account, compared with aws-node's algorithm.

Exit status: 0; 2 for arguments that name nothing. A goal that is missed is said, and is no error.
"""

from __future__ import annotations

import argparse
import fnmatch
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

from scripts.bench.fleet_sim import loads, plot, report, sides
from scripts.bench.fleet_sim.meter import Outcome
from scripts.bench.fleet_sim.our_node import quiet

QUICK_NODES = 50
QUICK_SECONDS = 420.0


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    chosen = [n for n in loads.names() if _matches(n, options.only)]
    if not chosen:
        print(
            f"no load matches {options.only!r}; there are:",
            *loads.names(),
            sep="\n  ",
            file=sys.stderr,
        )
        return 2
    results = _results(chosen, options)
    if options.svg:
        title = f"{options.nodes} nodes, seed {options.seed}"
        options.svg.write_text(plot.as_svg(results, title=title))
    if options.json:
        print(report.as_json(results, nodes=options.nodes, seed=options.seed))
    else:
        print(report.as_table(results))
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench/fleet", description=__doc__)
    parser.add_argument("--nodes", type=_positive, help="nodes in the account (500)")
    parser.add_argument("--seed", type=int, default=1, help="of loads, latencies and jitter (1)")
    parser.add_argument(
        "--only",
        default="*",
        metavar="PATTERN",
        help="loads whose name matches, as burst/* or *targets*",
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_NODES} nodes, 7 min of load at most"
    )
    parser.add_argument("--json", action="store_true", help="figures as JSON instead of the table")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the plot there too")
    parser.add_argument(
        "--jobs", type=_positive, default=os.cpu_count() or 1, help="processes at once"
    )
    options = parser.parse_args(arguments)
    options.nodes = options.nodes or (QUICK_NODES if options.quick else 500)
    options.seconds = QUICK_SECONDS if options.quick else None
    return options


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def _matches(name: str, pattern: str) -> bool:
    return fnmatch.fnmatch(name, pattern) or pattern in name


def _results(chosen: list[str], options: argparse.Namespace) -> dict[str, dict[str, Outcome]]:
    """Every side under every load, in as many processes as asked for."""
    began = time.monotonic()
    results: dict[str, dict[str, Outcome]] = {name: {} for name in chosen}
    with ProcessPoolExecutor(options.jobs, initializer=quiet) as pool:
        waiting = {
            pool.submit(
                sides.run,
                name,
                side,
                nodes=options.nodes,
                seed=options.seed,
                seconds=options.seconds,
            ): (name, side)
            for name in reversed(chosen)  # churn takes longest: first come those that end last
            for side in sides.SIDES
        }
        for done, future in enumerate(as_completed(waiting), 1):
            name, side = waiting[future]
            results[name][side] = future.result()
            spent = time.monotonic() - began
            print(f"{spent:6.1f} s  {done}/{len(waiting)}  {name} {side}", file=sys.stderr)
    return results


if __name__ == "__main__":
    sys.exit(main())
