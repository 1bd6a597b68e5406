"""How packets find a pod and its ENI: two ways to write it down, and the way from one to the other.
Pure.

`grouped`, the default: a pod's route stands in the pod table, which one rule leads to; its ENI
follows from its link's group by a mark. Nothing is written for a single pod but its route.

`per-pod`: the route stands in main, and rules name the pod's address, to it (512) and, on a
secondary ENI, from it to the ENI's table (1536): numbers and tables of amazon-vpc-cni-k8s
(docs/cni-proposal.md), for what looks for pods there. The rules and marks of `grouped` stand
beside it, so that a pod is never without a way while its routes and rules change places, and
`nft flush ruleset` cuts nobody off.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from enum import Enum

from cni_shim.datapath import messages, names
from cni_shim.datapath.families import FAMILIES, Address, host_network
from cni_shim.datapath.messages import Request, Route, Rule

# Where rules for single pods stand, ours and the AWS agent's. Elsewhere they may name the node's.
POD_RULE_PRIORITIES = frozenset({names.POD_RULE_PRIORITY, names.MARK_RULE_PRIORITY})


class RoutingRules(Enum):
    """The two ways."""

    GROUPED = "grouped"
    PER_POD = "per-pod"

    @property
    def pod_table(self) -> int:
        """The table with the pods' routes."""
        return names.POD_TABLE if self is RoutingRules.GROUPED else names.MAIN_TABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedPod:
    """A pod's host veth, the mark of its ENI, and the addresses that are to be routed to it."""

    ifindex: int
    mark: int
    addresses: tuple[Address, ...]


def host_route(address: Address, ifindex: int, mode: RoutingRules) -> Route:
    """The pod's /32 or /128 on the host."""
    return Route(
        table=mode.pod_table, destination=host_network(address), gateway=None, ifindex=ifindex
    )


def rules_of(address: Address, mark: int, mode: RoutingRules) -> tuple[Rule, ...]:
    """The rules that name a pod's address. A pod on the primary ENI goes out by main, as all do."""
    if mode is RoutingRules.GROUPED:
        return ()
    network, family = host_network(address), FAMILIES[address.version]
    to_pod = Rule(
        priority=names.POD_RULE_PRIORITY,
        table=names.MAIN_TABLE,
        destination=network,
        family=family,
    )
    if not mark:
        return (to_pod,)
    from_pod = Rule(
        priority=names.MARK_RULE_PRIORITY,
        table=names.eni_table(mark),
        source=network,
        family=family,
    )
    return to_pod, from_pod


def is_pod_route(route: Route) -> bool:
    """Whether a route is of the pods' making: all in the pod table, and in main those of ours that
    lead to a single address. The host's own never look so."""
    is_in_main = route.table == names.MAIN_TABLE and route.is_to_one_address
    return route.table == names.POD_TABLE or (route.protocol == names.PROTOCOL and is_in_main)


def names_pod(rule: Rule) -> Address | None:
    """The pod's address that a rule, ours or the AWS agent's, is for; None for all others."""
    if rule.priority not in POD_RULE_PRIORITIES:
        return None
    for network in (rule.destination, rule.source):
        if network is not None and network.prefixlen == network.max_prefixlen:
            return network.network_address
    return None


def additions(
    pod: RoutedPod, mode: RoutingRules, routes: Collection[Route], rules: Collection[Rule]
) -> Iterator[Request]:
    """What is not there yet of what the pod needs; a rule comes after the route it leads to."""
    present = {replace(route, protocol=names.PROTOCOL) for route in routes}
    for address in pod.addresses:
        route = host_route(address, pod.ifindex, mode)
        if route not in present:
            yield messages.add_route(route)
        for rule in rules_of(address, pod.mark, mode):
            if rule not in rules:
                yield messages.add_rule(rule)


def removals(
    pod: RoutedPod, mode: RoutingRules, routes: Collection[Route], rules: Collection[Rule]
) -> Iterator[Request]:
    """What of ours the pod needs no more; a rule goes before the route it leads to."""
    wanted_rules = {r for a in pod.addresses for r in rules_of(a, pod.mark, mode)}
    for rule in rules:
        is_ours = rule.protocol == names.PROTOCOL and names_pod(rule) in pod.addresses
        if is_ours and rule not in wanted_rules:
            yield messages.delete_rule(rule)
    for route in routes:
        is_of_pod = route.ifindex == pod.ifindex and route.protocol == names.PROTOCOL
        if is_of_pod and is_pod_route(route) and route.table != mode.pod_table:
            yield messages.delete_route(route)
