"""The way back to aws-node, as the kernel's part: our pods get its kind of rules, ours go last.

Called by `vpc-cnid --restore-peer` and `--remove-ours`, with no vpc-cnid running. Between the two
aws-node starts and writes what is the host's; until then ours works on, though nobody watches it.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace

from cni_shim.datapath import answers, firewall, messages, names
from cni_shim.datapath.chains import SNAT_CHAIN
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.observe import observe_pods, pod_routes
from cni_shim.datapath.pod_routing import PodRouting
from cni_shim.datapath.routing import RoutingRules, names_pod

_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.ENODEV})


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """How many pods of ours stand, and how many of them were changed."""

    pods: int
    changed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftovers:
    """What of ours stands for the whole host: our nft table, and rules that are not one pod's."""

    has_firewall: bool
    has_snat: bool
    rules: tuple[Rule, ...]
    kept: tuple[Rule, ...]
    pod_routes: tuple[Route, ...]


def restore(netlink: HostNetlink) -> Restored:
    """Give every pod of ours rules of its own and its route in main. Idempotent."""
    routing = PodRouting(netlink, RoutingRules.PER_POD)
    changed = routing.settle({}, frozenset(), lambda *_: nullcontext())
    ours = {pod.ifindex for pod in observe_pods(netlink.socket()) if pod.is_ours and pod.address}
    return Restored(pods=len(ours), changed=changed)


def look(netlink: HostNetlink) -> Leftovers:
    """What is still there."""
    sock = netlink.socket()
    rules = sock.dump(messages.dump_rules(), answers.rule_of)
    table = firewall.read_table()
    to_remove = tuple(removable(rules))
    ours = (r for r in rules if r.protocol == names.PROTOCOL and names_pod(r) is None)
    return Leftovers(
        has_firewall=table is not None,
        has_snat=f"chain {SNAT_CHAIN} " in (table or ""),
        rules=to_remove,
        kept=tuple(rule for rule in ours if rule not in to_remove),
        pod_routes=tuple(r for r in pod_routes(sock) if r.table == names.POD_TABLE),
    )


def removable(rules: Iterable[Rule]) -> Iterable[Rule]:
    """The rules of ours that nobody needs once aws-node's stand: those that it has nothing like,
    and those that it has written as well. Our last rule of a kind that it does have stays, for
    aws-node takes that over at its next start as its own. Pure."""
    every = tuple(rules)
    theirs = {replace(rule, protocol=0) for rule in every if rule.protocol != names.PROTOCOL}
    for rule in every:
        if rule.protocol != names.PROTOCOL or names_pod(rule) is not None:
            continue
        is_grouped = rule.table == names.POD_TABLE or rule.priority == names.MARK_RULE_PRIORITY
        if is_grouped or replace(rule, protocol=0) in theirs:
            yield rule


def remove(netlink: HostNetlink, found: Leftovers) -> None:
    """Take it away: the marks first, which lead nowhere without their rules."""
    if found.has_firewall:
        firewall.remove()
    for rule in found.rules:
        try:
            netlink.socket().execute((messages.delete_rule(rule),))
        except DatapathError as e:
            if e.errno not in _GONE:
                raise
