"""The `ipamctl` program.

Exit status of `status`: 0 well, 1 the daemon reports problems, 2 it cannot be asked. The other
commands' are in their own modules.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ipamd.cli import max_pods, migrate_options


def main(argv: list[str] | None = None) -> int:
    """Parse the command line and run one command."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == ["demo"]:  # argparse would take the demo's own options for ipamctl's
        return _demo(words[1:])
    arguments = _parser().parse_args(words)
    if arguments.command == "max-pods":
        return max_pods.run(arguments)
    if arguments.command == "migrate":
        from ipamd.cli import migrate  # loads grpc, too

        return migrate.run(arguments)
    from ipamd.cli import status  # loads grpc, which takes longer than all of max-pods

    return status.run(arguments.socket, arguments.output)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ipamctl", description="Ask this node's ipamd, and more.")
    run_dir = os.environ.get("VPC_IPAMD_RUN_DIR") or "/run/vpc-ipamd"
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser(
        "status",
        help="one screen: pool, ENIs, subnets, last plan",
        description="The pool by state, the ENIs, the subnets, the last plan and why, problems.",
        epilog="Exit status: 0 all is well, 1 ipamd names problems, 2 it cannot be asked.",
    )
    shown.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="table for people, json for programs (default: %(default)s)",
    )
    shown.add_argument(
        "--socket",
        type=Path,
        default=Path(run_dir) / "ipamd.sock",
        help="ipamd's gRPC socket (default: %(default)s)",
    )
    sized = commands.add_parser(
        "max-pods",
        help="how many pods an instance type can carry",
        description=max_pods.DESCRIPTION,
        epilog=max_pods.EPILOG,
        allow_abbrev=False,
    )
    max_pods.add_arguments(sized)
    moved = commands.add_parser("migrate", help="take a node over from aws-node, or hand it back")
    migrate_options.add_arguments(moved)
    commands.add_parser("demo", help="run the main job on an emulated cloud (as ./scripts/demo)")
    return parser


def _demo(rest: list[str]) -> int:
    """The demo lives with the emulated cloud, which ipamctl itself must not load."""
    program = [sys.executable, "-m", "providers.sim.demo", *rest]
    os.execv(program[0], program)  # noqa: S606 - no shell wanted


def entry() -> None:
    """The console script."""
    raise SystemExit(main())


if __name__ == "__main__":
    entry()
