"""`ipamctl max-pods`: how many pods an instance type can carry. Also `scripts/max-pods`.

Exit status: 0 answered; 2 what was asked for excludes itself; 3 unknown instance type; 4 the table,
EC2 or the metadata service could not be read. The answer goes to standard output, what a person
should know besides it to standard error. Only the standard library is imported on the way.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

from ipamd.cli import max_pods_azure, max_pods_cloud, max_pods_text
from ipamd.cli.max_pods_cloud import LookupFailed
from ipamd.cli.max_pods_text import Answer
from ipamd.instance_types import BUNDLED, Table, TableError, UnknownType, load
from ipamd.sizing import (
    CannotSize,
    InstanceType,
    PodNetwork,
    max_pods,
    recommended_cap,
)

OK, REFUSED, UNKNOWN_TYPE, UNREADABLE = 0, 2, 3, 4

DESCRIPTION = "How many pods a node can carry: by its instance type on EC2, by its subnet on Azure."

EPILOG = (
    "Exit status: 0 answered, 2 what was asked for excludes itself, 3 unknown instance type, 4 the "
    "table, EC2 or the metadata service could not be read. docs/max-pods.md explains the numbers."
)

TABLE_VARIABLE = "VPC_IPAMD_INSTANCE_TYPES"

PREFIXES_SINCE = (1, 9)
"""amazon-vpc-cni-k8s gives out prefixes since 1.9.0 (its changelog; the calculator's own rule)."""

VERSION = re.compile(r"v?(\d+)\.(\d+)(\.\d+)?([-+].*)?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options, those of max-pods-calculator.sh under their old names."""
    parser.add_argument(
        "--cloud", choices=("aws", "azure"), default="aws", help="default: %(default)s"
    )
    max_pods_azure.add_arguments(parser.add_argument_group("with --cloud azure"))
    which = parser.add_argument_group("which instance type")
    one = which.add_mutually_exclusive_group()
    one.add_argument("--instance-type", metavar="TYPE", help="such as m5.large")
    one.add_argument(
        "--instance-type-from-imds", action="store_true", help="this instance's own, from IMDSv2"
    )
    one.add_argument("--all", action="store_true", help="every type of the table")
    _add_node_arguments(parser.add_argument_group("how the node is set up"))
    _add_answer_arguments(parser.add_argument_group("what to print"))
    _add_table_arguments(parser.add_argument_group("the table of instance types"))


def _add_node_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--cni-version",
        metavar="X.Y.Z",
        type=_version,
        help="amazon-vpc-cni-k8s only: before 1.9.0 it has no prefixes",
    )
    group.add_argument(
        "--cni-custom-networking-enabled",
        action="store_true",
        help="the primary ENI carries no pods",
    )
    group.add_argument(
        "--cni-prefix-delegation-enabled",
        action="store_true",
        help="a /28 of 16 addresses in each slot",
    )
    group.add_argument(
        "--cni-max-eni", metavar="N", type=_positive, default=0, help="MAX_ENI: ENIs at most"
    )
    group.add_argument(
        "--pod-eni", action="store_true", help="security groups for pods: a slot for the trunk ENI"
    )
    group.add_argument("--ipv6", action="store_true", help="an IPv6 node: one /80")
    group.add_argument(
        "--cards",
        choices=("default", "all"),
        default="default",
        help="count the default network card (default), or all (ENABLE_MULTI_NIC)",
    )
    group.add_argument(
        "--reserved-enis",
        metavar="N",
        type=_natural,
        default=0,
        help="slots of the default card that others hold: unmanaged or EFA-only ENIs",
    )


def _add_answer_arguments(group: argparse._ArgumentGroup) -> None:
    cap = group.add_mutually_exclusive_group()
    cap.add_argument(
        "--vcpu-cap",
        action="store_true",
        help="at most the recommended 110 pods, 250 above 30 vCPUs",
    )
    cap.add_argument(
        "--show-max-allowed",
        action="store_true",
        help="what the addresses allow, without the cap: the default for IPv4",
    )
    group.add_argument("--explain", action="store_true", help="how the number comes about")
    group.add_argument(
        "-o",
        "--output",
        choices=("table", "json", "csv", "kubelet"),
        help="default: the number alone for one type, a table for --all; "
        "kubelet: a KubeletConfiguration",
    )


def _add_table_arguments(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--table",
        metavar="FILE",
        type=Path,
        default=os.environ.get(TABLE_VARIABLE) or None,
        help=f"read this table instead of the bundled one (default: ${TABLE_VARIABLE})",
    )
    group.add_argument(
        "--refresh",
        action="store_true",
        help="ask EC2 first (DescribeInstanceTypes, with your credentials) and write --table",
    )


def run(arguments: argparse.Namespace) -> int:
    """Answer, or say on standard error what is in the way."""
    try:
        if arguments.refresh and arguments.cloud == "aws":
            _say(max_pods_cloud.refresh(_target(arguments)))
            if not _asks_for_types(arguments):
                return OK
        text, notes = respond(arguments)
    except CannotSize as e:
        return _fail(REFUSED, e)
    except UnknownType as e:
        return _fail(UNKNOWN_TYPE, e)
    except (TableError, LookupFailed) as e:
        return _fail(UNREADABLE, e)
    for note in notes:
        _say(f"note: {note}")
    return _write(text)


def respond(arguments: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """The text to print, and the notes that go with it."""
    if arguments.cloud == "azure":
        answered = max_pods_azure.respond(arguments)
        return answered.text, answered.notes
    max_pods_azure.refuse_strangers(arguments, max_pods_azure.OF_AZURE)
    _refuse_what_excludes_itself(arguments)
    network, notes = network_of(arguments)
    table = load(arguments.table or BUNDLED)
    if arguments.table:
        notes += (f"types from {arguments.table}: {table.origin}",)
    if arguments.all:
        answers, more = answer_all(table, network, is_capped=arguments.vcpu_cap)
        return max_pods_text.many(answers, arguments.output, explain=arguments.explain), (
            *notes,
            *more,
        )
    name = arguments.instance_type or max_pods_cloud.own_type()
    kind = table.find(name)
    try:
        answer = answer_one(kind, network, is_capped=arguments.vcpu_cap)
    except CannotSize as e:
        raise CannotSize(f"{kind.name}: {e}") from e
    answer = replace(answer, notes=(*notes, *answer.notes, *_above_cap(answer, arguments)))
    text = max_pods_text.one(answer, arguments.output, explain=arguments.explain)
    return text, answer.notes


def network_of(arguments: argparse.Namespace) -> tuple[PodNetwork, tuple[str, ...]]:
    """How the node is set up; prefixes are off, with a note, for a version without them."""
    version = arguments.cni_version
    prefixes = arguments.cni_prefix_delegation_enabled
    is_too_old = prefixes and version is not None and version < PREFIXES_SINCE
    network = PodNetwork(
        prefixes=prefixes and not is_too_old,
        custom_networking=arguments.cni_custom_networking_enabled,
        pod_eni=arguments.pod_eni,
        ipv6=arguments.ipv6,
        all_cards=arguments.cards == "all",
        max_enis=arguments.cni_max_eni,
        reserved_enis=arguments.reserved_enis,
    )
    note = "before 1.9.0 amazon-vpc-cni-k8s has no prefixes: single addresses are counted"
    return network, (note,) if is_too_old else ()


def answer_one(kind: InstanceType, network: PodNetwork, *, is_capped: bool) -> Answer:
    """One type's size. A type without a trunk ENI keeps its slot, with a note."""
    notes: tuple[str, ...] = ()
    if network.pod_eni and not kind.has_trunk:
        network = replace(network, pod_eni=False)
        notes = ("no security groups for pods on this type: no slot is kept for a trunk ENI",)
    if network.ipv6 and not kind.addresses_v6_per_eni:
        raise CannotSize("EC2 gives this type no IPv6 addresses")
    sizing = max_pods(kind, network, vcpus=kind.vcpus, is_capped=is_capped)
    return Answer(kind=kind, sizing=sizing, notes=(*notes, *sizing.notes))


def answer_all(
    table: Table, network: PodNetwork, *, is_capped: bool
) -> tuple[list[Answer], tuple[str, ...]]:
    """Every type that has the mode, and each note once with the number of types it is about."""
    answers, counted = [], dict[str, int]()
    for kind in table.types.values():
        try:
            answer = answer_one(kind, network, is_capped=is_capped)
        except CannotSize as e:
            counted[f"left out: {e}"] = counted.get(f"left out: {e}", 0) + 1
            continue
        answers.append(answer)
        for note in answer.notes:
            counted[note] = counted.get(note, 0) + 1
    return answers, tuple(f"{count} types: {note}" for note, count in counted.items())


def _asks_for_types(arguments: argparse.Namespace) -> bool:
    return bool(arguments.all or arguments.instance_type or arguments.instance_type_from_imds)


def _refuse_what_excludes_itself(arguments: argparse.Namespace) -> None:
    if not _asks_for_types(arguments):
        raise CannotSize("name a type: --instance-type, --instance-type-from-imds or --all")
    if arguments.output == "kubelet" and arguments.all:
        raise CannotSize("-o kubelet is the configuration of one node: name its --instance-type")
    if arguments.output == "csv" and arguments.explain:
        raise CannotSize("-o csv has no room for --explain: use -o json or -o table")
    if arguments.ipv6 and arguments.show_max_allowed:
        raise CannotSize(
            "a /80 holds 2^48 addresses: they bound nothing that --show-max-allowed could show"
        )


def _target(arguments: argparse.Namespace) -> Path:
    if arguments.table is None:
        raise CannotSize(
            f"--refresh writes only where it is told to: give --table or {TABLE_VARIABLE}"
        )
    return Path(arguments.table)


def _above_cap(answer: Answer, arguments: argparse.Namespace) -> tuple[str, ...]:
    """What the old calculator did without being asked is said, unless either was asked for."""
    cap = recommended_cap(answer.kind.vcpus)
    if arguments.vcpu_cap or arguments.show_max_allowed or answer.sizing.pods <= cap:
        return ()
    return (
        f"{cap} pods are recommended at most for {answer.kind.vcpus} vCPUs; --vcpu-cap applies it",
    )


def _version(text: str) -> tuple[int, int]:
    match = VERSION.fullmatch(text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no version such as 1.19.2")
    return int(match[1]), int(match[2])


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of ENIs above 0")
    return int(text)


def _natural(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of ENIs")
    return int(text)


def _say(text: str) -> None:
    sys.stderr.write(f"max-pods: {text}\n")


def _fail(status: int, error: Exception) -> int:
    _say(str(error))
    return status


def _write(text: str) -> int:
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:  # `| head` has seen enough; Python would complain once more at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return OK


def main() -> int:
    """`python -m ipamd.cli.max_pods`, as scripts/max-pods starts it."""
    parser = argparse.ArgumentParser(
        prog="max-pods",
        description=DESCRIPTION,
        epilog=EPILOG,
        allow_abbrev=False,
    )
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(main())
