"""`vpc-cnid` with arguments: --help, and the two steps of the way back to aws-node.

Exit status of a step: 0 done, 1 done but something of ours is left, 2 nothing was done, for the
reason that is said.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence

from cni_shim import settings
from cni_shim.datapath import own_host, peer_host
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import Rule
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.settings import Settings, SettingsError


class NotYet(Exception):
    """Something else must come first; the text says what."""


def run(arguments: Sequence[str], *, only_one: Callable[[Settings], int]) -> int:
    """Do what is asked for; the exit status. `only_one` holds the place of the daemon."""
    chosen = _parser().parse_args(arguments)
    try:
        only_one(settings.load(os.environ))  # until the process ends
        netlink = HostNetlink()
        if chosen.restore_peer:
            document = _restore(netlink)
        elif chosen.remove_ours:
            document = _remove(netlink, is_forced=chosen.force)
        else:
            raise NotYet("--force and --output say how; --restore-peer or --remove-ours says what")
    except (SettingsError, DatapathError, NotYet, OSError) as e:
        sys.stderr.write(f"vpc-cnid: {e}\n")
        return 2
    lines = [f"{word.replace('_', ' ')}: {_said(value)}\n" for word, value in document.items()]
    is_json = chosen.output == "json"
    sys.stdout.write(json.dumps(document, indent=2) + "\n" if is_json else "".join(lines))
    return 1 if document.get("left") else 0


def _restore(netlink: HostNetlink) -> dict[str, object]:
    done = own_host.restore(netlink)
    return {
        "pods_with_rules_of_their_own": done.pods,
        "changed_now": done.changed,
        "next": "ipamctl migrate back; start aws-node; vpc-cnid --remove-ours once it is ready",
    }


def _remove(netlink: HostNetlink, *, is_forced: bool) -> dict[str, object]:
    found = own_host.look(netlink)
    if found.pod_routes:
        raise NotYet(
            f"{len(found.pod_routes)} pods have their routes in our table alone: run vpc-cnid"
            " --restore-peer first"
        )
    theirs = peer_host.look()
    if found.has_snat and not theirs.has_snat and not is_forced:
        unseen = "".join(f" ({why})" for why in theirs.unseen)
        raise NotYet(
            f"aws-node's SNAT is not seen{unseen}, and without ours pods would leave the VPC with"
            " addresses that nobody answers: start aws-node and wait until it is ready, or say"
            " --force if it is to SNAT nothing"
        )
    own_host.remove(netlink, found)
    return {
        "firewall_removed": found.has_firewall,
        "rules_removed": [_rule(rule) for rule in found.rules],
        "left": [_rule(rule) for rule in found.kept],
        "peer": list(theirs.sentences),
    }


def _rule(rule: Rule) -> str:
    parts = [f"{rule.priority}:"]
    parts += [f"from {rule.source}"] if rule.source else []
    parts += [f"to {rule.destination}"] if rule.destination else []
    parts += [f"fwmark {rule.mark:#x}/{rule.mask:#x}"] if rule.mask else []
    return " ".join((*parts, f"lookup {rule.table}"))


def _said(value: object) -> str:
    match value:
        case list():
            return "; ".join(value) or "nothing"
        case bool():
            return "yes" if value else "no"
        case _:
            return str(value)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vpc-cnid",
        description="The CNI daemon of one node: serves the vpc-cni launcher, wires pods and ENIs. "
        "With an option of the way back to aws-node (docs/migration.md) it does that and ends.",
        epilog="Settings are environment variables: VPC_IPAMD_RUN_DIR, VPC_IPAMD_LOG_LEVEL, "
        "VPC_IPAMD_CLOUD, AWS_VPC_ENI_MTU, VPC_IPAMD_ROUTING_RULES (grouped, per-pod), "
        "VPC_IPAMD_LOST_DELS (release, log, off); VPC_IPAMD_CRI_SOCKETS, VPC_IPAMD_NETNS_DIRS and "
        "VPC_IPAMD_CNI_CACHE_DIR say where pods are looked for whose DEL may be lost. Exit status: "
        "0 after SIGTERM, 1 when it failed, 2 when a setting, the run directory or the kernel "
        "cannot be used. Of the way back: 0 done, 1 done but something of ours is left, 2 nothing "
        "was done.",
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument(
        "--restore-peer",
        action="store_true",
        help="give running pods the rules and routes that aws-node looks for; vpc-cnid is stopped",
    )
    way.add_argument(
        "--remove-ours",
        action="store_true",
        help="remove our nft table and rules; aws-node runs again",
    )
    parser.add_argument(
        "--force", action="store_true", help="also where aws-node's SNAT does not stand"
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("text", "json"),
        default="text",
        help="text for people, json for programs (default: %(default)s)",
    )
    return parser
