"""`ipamctl status`: the daemon's state on one screen, or as JSON."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from google.protobuf.json_format import MessageToJson
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import ipam_pb2_grpc as pb_grpc

STATES = ("allocated", "available", "cooling", "preparing", "quarantined", "unassigning")
TIMEOUT_SECONDS = 5.0

_ARM_ID = re.compile(r"/subscriptions/[\w./()-]*\w", re.IGNORECASE)
"""Resource groups may have parentheses in their names; NICs and subnets have none, and no period at
their end."""


def run(socket: Path, output: str) -> int:
    """Ask and print. 0: all is well; 1: the daemon names problems; 2: it does not answer."""
    try:
        answer = ask(socket)
    except grpc.RpcError as e:
        said = e.details()
        sys.stderr.write(
            f"ipamctl: ipamd does not answer on {socket}: {said}\n"
            "Is ipamd running on this node, and may you read its socket (root or its group)?\n"
        )
        return 2
    if output == "json":
        text = MessageToJson(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        sys.stdout.write(text + "\n")
    else:
        sys.stdout.write(screen(answer))
    return 1 if answer.problems else 0


def ask(socket: Path) -> pb.Status:
    """One GetStatus call."""
    with grpc.insecure_channel(f"unix:{socket}") as channel:
        answer: pb.Status = pb_grpc.IpamStub(channel).GetStatus(
            pb.GetStatusRequest(), timeout=TIMEOUT_SECONDS
        )
        return answer


def screen(status: pb.Status) -> str:
    """The screen for people (pure)."""
    parts = [_head(status), _pool(status), _enis(status), _subnets(status), _plan(status)]
    if status.problems:
        parts.append("Problems\n" + "".join(f"  ! {_short(p)}\n" for p in status.problems))
    if status.notes:
        parts.append("Notes\n" + "".join(f"  - {n}\n" for n in status.notes))
    return "\n".join(p for p in parts if p)


def _head(status: pb.Status) -> str:
    targets = " ".join(f"{k}={v}" for k, v in sorted(status.targets.items()))
    cloud = "answers" if status.is_cloud_answering else "FAILS"  # a problem says how
    # It has nothing to report before it is told of a node.
    silent = "DOES NOT REPORT" if status.instance_id else "has not been told of its node yet"
    node = "reports" if status.is_node_reporting else silent
    return (
        f"ipamd {status.version} on {status.instance_id or 'an unknown instance'}"
        f" ({status.instance_type or '?'}, {status.zone or '?'}),"
        f" up {_span(status.uptime_seconds)}\n"
        f"cloud {cloud}, vpc-cnid {node}; mode {status.mode or 'unknown'}, {targets}, "
        f"max pods {status.max_pods}\n"
    )


def _pool(status: pb.Status) -> str:
    total = sum(status.pool.values())
    row = [str(status.pool.get(s, 0)) for s in STATES] + [str(total)]
    waiting = (
        f"  {status.waiting_allocations} attachments wait for an address\n"
        if status.waiting_allocations
        else ""
    )
    return "Pool\n" + table((*STATES, "total"), [row]) + waiting


def _enis(status: pb.Status) -> str:
    rows = [
        (
            _name(e.eni_id) + (" (primary)" if e.is_primary else ""),
            str(e.device_index),
            e.link_name or "-",
            e.excluded or ("ready" if e.is_ready else "NOT READY"),
            e.primary_address,
            str(e.addresses.get("allocated", 0)),
            str(e.addresses.get("available", 0)),
            str(e.addresses.get("cooling", 0)),
            f"{e.slots_used}/{e.slots}",
        )
        for e in status.enis
    ]
    head = (
        "eni",
        "index",
        "link",
        "state",
        "primary",
        "allocated",
        "available",
        "cooling",
        "slots",
    )
    return "ENIs\n" + table(head, rows) + _prefixes(status)


def _prefixes(status: pb.Status) -> str:
    rows = [
        (p.prefix, _name(e.eni_id), *(str(p.addresses.get(s, 0)) for s in STATES[:3]))
        for e in status.enis
        for p in e.prefixes
    ]
    return "Prefixes\n" + table(("prefix", "eni", *STATES[:3]), rows) if rows else ""


def _subnets(status: pb.Status) -> str:
    rows = [
        (
            _name(s.subnet_id),
            s.cidr,
            str(s.free_addresses) if s.free_addresses >= 0 else "?",
            f"{_span(s.seen_seconds_ago)} ago",
            _subnet_state(s),
        )
        for s in status.subnets
    ]
    return "Subnets\n" + table(("subnet", "cidr", "free", "seen", "state"), rows) if rows else ""


def _subnet_state(subnet: pb.SubnetStatus) -> str:
    if subnet.exhausted_for_seconds > 0:
        return f"EXHAUSTED, next try in {subnet.exhausted_for_seconds:.0f} s"
    said = []
    if subnet.prefixless_for_seconds > 0:
        said.append(f"no free /28, next try in {subnet.prefixless_for_seconds:.0f} s")
    if subnet.is_scarce:
        said.append("runs low: one address is kept warm")
    return "; ".join(said) or "ok"


def _plan(status: pb.Status) -> str:
    plan = status.last_plan
    text = f"Last plan, {_span(plan.made_seconds_ago)} ago\n  {_short(plan.summary)}\n"
    if plan.actions:
        rows = [
            (a.verb, _name(a.subject), _state(a), _short(a.error or a.reason)) for a in plan.actions
        ]
        text += table(("action", "on", "state", "why"), rows)
    return text


def _state(action: pb.PlannedAction) -> str:
    word = {"running": "for", "done": "in", "failed": "after"}.get(action.state)
    return f"{action.state} {word} {_span(action.seconds)}" if word else action.state


def _name(resource_id: str) -> str:
    """What people call it: of a path, as ARM's ids are, the last part. JSON has the whole."""
    return resource_id.rpartition("/")[2]


def _short(sentence: str) -> str:
    """A sentence with such names in place of ARM ids."""
    return _ARM_ID.sub(lambda found: _name(found.group()), sentence)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell, indented by two."""
    lines = [head, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "".join(
        "  " + "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in lines
    )


def _span(seconds: float) -> str:
    """Seconds as people read them: 42 s, 5 min, 3 h, 2 d."""
    for limit, unit, size in ((120, "s", 1), (7200, "min", 60), (172800, "h", 3600)):
        if seconds < limit:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.0f} d"
