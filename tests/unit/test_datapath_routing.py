from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

import pytest
from cni_shim.datapath import messages, names
from cni_shim.datapath.answers import route_of, rule_of
from cni_shim.datapath.families import AF_INET6, Address, host_network
from cni_shim.datapath.messages import Request, Route, Rule
from cni_shim.datapath.routing import (
    RoutedPod,
    RoutingRules,
    additions,
    host_route,
    is_pod_route,
    names_pod,
    removals,
    rules_of,
)
from hypothesis import given
from hypothesis import strategies as st

GROUPED, PER_POD = RoutingRules.GROUPED, RoutingRules.PER_POD
A, A6 = IPv4Address("10.0.1.101"), IPv6Address("2001:db8::101")

addresses: st.SearchStrategy[tuple[Address, ...]] = st.sampled_from([(A,), (A6,), (A, A6)])
pods = st.builds(
    RoutedPod, ifindex=st.just(7), mark=st.sampled_from([0, 2, 5]), addresses=addresses
)
modes = st.sampled_from(RoutingRules)


def wanted(pod: RoutedPod, mode: RoutingRules) -> tuple[set[Route], set[Rule]]:
    return (
        {host_route(a, pod.ifindex, mode) for a in pod.addresses},
        {rule for a in pod.addresses for rule in rules_of(a, pod.mark, mode)},
    )


def apply(
    requests: Iterable[Request], routes: set[Route], rules: set[Rule]
) -> tuple[set[Route], set[Rule]]:
    """What the kernel would have; no step may find its work done already."""
    routes, rules = set(routes), set(rules)
    for request in requests:
        is_route = request.kind in {messages.RTM_NEWROUTE, messages.RTM_DELROUTE}
        is_addition = request.kind in {messages.RTM_NEWROUTE, messages.RTM_NEWRULE}
        pool: set[Route] | set[Rule] = routes if is_route else rules
        value = route_of(request.body) if is_route else rule_of(request.body)
        assert value is not None
        assert (value in pool) != is_addition
        (pool.add if is_addition else pool.discard)(value)  # type: ignore[arg-type]
    return routes, rules


@given(pods, modes, modes, st.data())
def test_from_any_part_of_one_kind_to_the_whole_of_the_other(
    pod: RoutedPod, before: RoutingRules, after: RoutingRules, data: st.DataObject
) -> None:
    routes, rules = wanted(pod, before)
    routes = {r for r in routes if data.draw(st.booleans())}
    rules = {r for r in rules if data.draw(st.booleans())}
    added = apply(additions(pod, after, routes, rules), routes, rules)
    assert added[0] >= wanted(pod, after)[0]
    assert added[1] >= wanted(pod, after)[1]
    assert apply(removals(pod, after, *added), *added) == wanted(pod, after)


@given(pods, modes)
def test_what_stands_needs_nothing(pod: RoutedPod, mode: RoutingRules) -> None:
    routes, rules = wanted(pod, mode)
    assert [*additions(pod, mode, routes, rules), *removals(pod, mode, routes, rules)] == []


@given(pods, modes)
def test_what_others_made_for_the_address_stays(pod: RoutedPod, mode: RoutingRules) -> None:
    foreign_routes = {
        Route(table=254, destination=host_network(a), gateway=None, ifindex=9)
        for a in pod.addresses
    }
    foreign_rules = {
        Rule(priority=512, table=254, destination=host_network(a), protocol=4)
        for a in pod.addresses
    }
    assert [*removals(pod, mode, foreign_routes, foreign_rules)] == []


def test_a_route_is_written_before_the_rule_that_leads_to_it() -> None:
    pod = RoutedPod(ifindex=7, mark=2, addresses=(A,))
    kinds = [request.kind for request in additions(pod, PER_POD, (), ())]
    assert kinds == [messages.RTM_NEWROUTE, messages.RTM_NEWRULE, messages.RTM_NEWRULE]


def test_a_rule_goes_before_the_route_that_it_leads_to() -> None:
    pod = RoutedPod(ifindex=7, mark=2, addresses=(A,))
    kinds = [request.kind for request in removals(pod, GROUPED, *wanted(pod, PER_POD))]
    assert kinds == [messages.RTM_DELRULE, messages.RTM_DELRULE, messages.RTM_DELROUTE]


def route(table: int, destination: Address, **changed: object) -> Route:
    values: dict[str, object] = {
        "table": table,
        "destination": host_network(destination),
        "gateway": None,
        "ifindex": 7,
    }
    return Route(**(values | changed))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("found", "is_it"),
    [
        (route(5120, A), True),
        (route(5120, A, protocol=3), True),
        (route(254, A), True),
        (route(254, A6), True),
        (route(254, A, protocol=3), False),
        (route(254, A, gateway=IPv4Address("10.0.1.1")), False),
        (route(2, A), False),
    ],
    ids=["table", "other's in table", "main", "ipv6", "other's in main", "gateway", "an ENI's"],
)
def test_which_routes_are_pods(found: Route, is_it: bool) -> None:
    assert is_pod_route(found) == is_it


@pytest.mark.parametrize(
    ("rule", "address"),
    [
        (Rule(priority=512, table=254, destination=host_network(A)), A),
        (Rule(priority=1536, table=2, source=host_network(A6), family=AF_INET6), A6),
        (Rule(priority=512, table=names.POD_TABLE), None),
        (Rule(priority=1536, table=2, mark=2, mask=0x7F), None),
        (Rule(priority=32765, table=2, source=host_network(A)), None),
    ],
    ids=["to", "from", "all pods", "mark", "the ENI's own"],
)
def test_which_rules_are_for_a_pod(rule: Rule, address: Address | None) -> None:
    assert names_pod(rule) == address
