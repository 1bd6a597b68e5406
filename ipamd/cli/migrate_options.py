"""The options of `ipamctl migrate`, apart from its work: every command builds the parser."""

from __future__ import annotations

import argparse
from pathlib import Path

PEER_NETWORK = "aws-cni"
"""The network's name in the conflist that aws-node installs."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of both directions."""
    ways = parser.add_subparsers(dest="way", required=True)
    check = ways.add_parser(
        "check",
        help="what a take-over from aws-node would adopt; no changes",
        description="Lists what a take-over from aws-node would adopt. Changes nothing, and "
        "aws-node may run. docs/migration.md has all the steps.",
        epilog="Exit status: 0 every entry can be adopted, 1 some cannot (their addresses are "
        "only held), 2 the checkpoint cannot be read.",
    )
    back = ways.add_parser(
        "back",
        help="write aws-node's checkpoint from ipamd's store",
        description="Hands the node back: writes aws-node's checkpoint from the store of an ipamd "
        "that is stopped. docs/migration.md has all the steps.",
        epilog="Exit status: 0 handed back, 1 handed back but aws-node will not know all that is "
        "listed with !, 2 nothing was done, or it is half done as the message then says.",
    )
    back.add_argument("--dry-run", action="store_true", help="show it, write nothing")
    back.add_argument(
        "--no-wait", action="store_true", help="do not wait for addresses to cool down"
    )
    back.add_argument(
        "--network-name",
        default=PEER_NETWORK,
        help="network name in aws-node's conflist (default: %(default)s)",
    )
    for way in (check, back):
        way.add_argument(
            "--checkpoint",
            type=Path,
            help="aws-node's checkpoint (default: AWS_VPC_K8S_CNI_BACKING_STORE)",
        )
        way.add_argument(
            "-o",
            "--output",
            choices=("table", "json"),
            default="table",
            help="table for people, json for programs (default: %(default)s)",
        )
