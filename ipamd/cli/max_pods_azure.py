"""`ipamctl max-pods --cloud azure`: pods of a node, and the subnet of a node pool.

Exit status as `ipamd.cli.max_pods`: 0 answered, 2 what was asked for excludes itself.
"""

from __future__ import annotations

import argparse
import re
from dataclasses import dataclass
from typing import Any

from ipamd.azure_sizing import AzureMode, AzureSizing, Question, size
from ipamd.cli import max_pods_text
from ipamd.sizing import CannotSize

OF_AWS = {
    "instance_type": "--instance-type",
    "instance_type_from_imds": "--instance-type-from-imds",
    "all": "--all",
    "cni_version": "--cni-version",
    "cni_custom_networking_enabled": "--cni-custom-networking-enabled",
    "cni_prefix_delegation_enabled": "--cni-prefix-delegation-enabled",
    "cni_max_eni": "--cni-max-eni",
    "pod_eni": "--pod-eni",
    "ipv6": "--ipv6",
    "reserved_enis": "--reserved-enis",
    "vcpu_cap": "--vcpu-cap",
    "show_max_allowed": "--show-max-allowed",
    "refresh": "--refresh",
}
OF_AZURE = {
    "mode": "--mode",
    "max_pods": "--max-pods",
    "nodes": "--nodes",
    "surge": "--surge",
    "subnet": "--subnet",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """The text for standard output, and the notes for standard error."""

    text: str
    notes: tuple[str, ...]


def add_arguments(group: argparse._ArgumentGroup) -> None:
    """Declare the options; all of them default to None, so that AWS can refuse them."""
    group.add_argument(
        "--mode",
        choices=[mode.value for mode in AzureMode],
        help="single addresses of the node's subnet (default), or /28 blocks of it",
    )
    group.add_argument(
        "--max-pods", metavar="N", type=_count, help="for so many pods (default: as many as can be)"
    )
    group.add_argument("--nodes", metavar="N", type=_count, help="nodes of the pool")
    group.add_argument(
        "--surge", metavar="N", type=_count, help="nodes that an upgrade adds (default: 1)"
    )
    group.add_argument(
        "--subnet", metavar="CIDR", type=_length, help="the pool's subnet, 10.0.0.0/24 or /24"
    )


def refuse_strangers(arguments: argparse.Namespace, strangers: dict[str, str]) -> None:
    """CannotSize for an option of the other cloud."""
    given = [option for name, option in strangers.items() if getattr(arguments, name)]
    if given:
        raise CannotSize(f"{', '.join(given)}: not with --cloud {arguments.cloud}")


def respond(arguments: argparse.Namespace) -> Answered:
    """The answer. CannotSize for what excludes itself."""
    refuse_strangers(arguments, OF_AWS)
    if arguments.cards != "default" or arguments.output == "csv":
        raise CannotSize("--cards and -o csv are about EC2's instance types")
    question = Question(
        mode=AzureMode(arguments.mode or AzureMode.NODE_SUBNET.value),
        max_pods=arguments.max_pods or 0,
        nodes=arguments.nodes or 0,
        surge=1 if arguments.surge is None else arguments.surge,
        subnet_length=arguments.subnet or 0,
    )
    sizing = size(question)
    text = _text(sizing, question, arguments.output, explain=arguments.explain)
    return Answered(text=text, notes=sizing.notes)


def document(sizing: AzureSizing, *, explain: bool) -> dict[str, Any]:
    """What a program reads."""
    fields: dict[str, Any] = {
        "cloud": "azure",
        "mode": sizing.mode.value,
        "max_pods": sizing.pods,
        "blocks_per_node": sizing.blocks,
        "spare_addresses_per_node": sizing.spare,
        "addresses_per_node": sizing.addresses,
        "pool_addresses": sizing.pool_addresses,
        "smallest_subnet_length": sizing.subnet_length or None,
        "notes": list(sizing.notes),
    }
    if explain:
        fields["steps"] = max_pods_text.step_documents(sizing.steps)
    return fields


def _text(sizing: AzureSizing, question: Question, output: str | None, *, explain: bool) -> str:
    match output:
        case "json":
            return max_pods_text.json_text(document(sizing, explain=explain))
        case "kubelet":
            how = explanation(sizing, question) if explain else f"azure, {sizing.mode.value}\n"
            return max_pods_text.kubelet_configuration(sizing.pods, how)
        case None if not explain:
            return f"{sizing.pods}\n"
        case _:
            return explanation(sizing, question)


def explanation(sizing: AzureSizing, question: Question) -> str:
    """The steps, a line each, and what that takes of the subnet."""
    head = f"azure, {sizing.mode.value}: {sizing.pods} pods\n"
    lines = []
    whole = f"1 + {sizing.pods}"
    if sizing.mode is AzureMode.BLOCK:
        lines.append(
            f"  blocks of a node: ({sizing.pods} + 1) / 16, rounded up = {sizing.blocks}, "
            f"{sizing.spare} of their addresses to spare"
        )
        whole = f"1 + {sizing.blocks} x 16"
    lines.append(f"  addresses of a node: {whole} = {sizing.addresses}")
    if question.machines:
        fits = f"/{sizing.subnet_length}" if sizing.subnet_length else "none"
        lines.append(
            f"  of the pool: ({question.nodes} + {question.surge}) x {sizing.addresses} = "
            f"{sizing.pool_addresses}; the smallest subnet for them: {fits}"
        )
    return head + max_pods_text.step_lines(sizing.steps) + "\n".join(lines) + "\n"


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _length(text: str) -> int:
    match = re.fullmatch(r"(?:[0-9.]+)?/([0-9]{1,2})", text)
    if not match or int(match[1]) > 32:
        raise argparse.ArgumentTypeError(f"{text!r} is no subnet such as 10.0.0.0/24 or /24")
    return int(match[1])
