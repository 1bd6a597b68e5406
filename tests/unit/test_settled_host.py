from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from cni_shim.datapath.answers import Link
from cni_shim.datapath.desired import DesiredEni, DesiredHost, EniReadiness
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.notices import (
    LinkVanished,
    Notice,
    NoticesLost,
    RouteChanged,
    RuleVanished,
)
from cni_shim.datapath.peer_host import PeerHost
from cni_shim.datapath.policy import HostPolicy
from cni_shim.datapath.routing import RoutingRules, host_route, rules_of
from cni_shim.settled_host import LOOK_SECONDS, SettledHost
from cni_shim.take_over import AGAIN_SECONDS, TakeOver

ADDRESS = IPv4Address("10.0.0.9")
HELD: Mapping[tuple[str, str], tuple[Address, ...]] = {("c1", "eth0"): (ADDRESS,)}
LINK = Link(ifindex=3, ifname="ens5", kind="", mac="02:00:00:00:00:10", mtu=9001, is_up=True,
            group=0, alias="", peer_ifindex=0)  # fmt: skip
PRIMARY = DesiredEni(
    eni_id="eni-0",
    mac="02:00:00:00:00:10",
    primary_address=IPv4Address("10.0.0.10"),
    subnet_cidr=IPv4Network("10.0.0.0/24"),
    gateway=IPv4Address("10.0.0.1"),
    device_index=0,
    route_table_id=254,
    is_primary=True,
)
SECOND = replace(PRIMARY, eni_id="eni-1", device_index=1, route_table_id=2, is_primary=False)
ELSEWHERE = replace(SECOND, eni_id="eni-c1", network_card=1, route_table_id=10101)
DESIRED = DesiredHost(enis=(PRIMARY, SECOND, ELSEWHERE))
WITH_POLICY = replace(DESIRED, policy=HostPolicy(has_node_port_support=True))


class FakeHost:
    def __init__(self) -> None:
        self.ready = {"eni-0"}

    def apply(self, desired: DesiredHost) -> tuple[EniReadiness, ...]:
        return tuple(
            EniReadiness(eni_id=e.eni_id, is_ready=e.eni_id in self.ready, link_name="", message="")
            for e in desired.enis
        )


class FakePods:
    def __init__(self) -> None:
        self.calls: list[frozenset[int]] = []
        self.failures = 0

    def settle(
        self, held: Mapping[tuple[str, str], tuple[Address, ...]], ready_marks: frozenset[int]
    ) -> int:
        assert held == HELD
        if self.failures:
            self.failures -= 1
            raise DatapathError("list links", 4)
        self.calls.append(ready_marks)
        return 1


class FakeChains:
    def __init__(self) -> None:
        self.there = PeerHost(backends=(), has_nft_table=True)
        self.looks = 0
        self.failures = 0

    def look(self) -> PeerHost:
        self.looks += 1
        return self.there

    def remove(self, found: PeerHost) -> None:
        assert found == self.there
        if self.failures:
            self.failures -= 1
            raise DatapathError("run iptables-legacy-restore", 22)
        self.there = PeerHost(backends=(), has_nft_table=False)


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.host, self.pods = FakeHost(), FakePods()
        self.chains = FakeChains()
        self.settled = SettledHost(
            self.host,
            self.pods,
            lambda: HELD,
            TakeOver(self.chains, clock=lambda: self.now),
            clock=lambda: self.now,
        )

    def apply(self, times: int = 1) -> list[frozenset[int]]:
        """The marks of every settling that these rounds caused."""
        before = len(self.pods.calls)
        for _ in range(times):
            self.settled.apply(DESIRED)
        return self.pods.calls[before:]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_pods_are_settled_at_the_start_and_then_left(bench: Bench) -> None:
    assert bench.apply(3) == [{0}]


def test_an_eni_that_becomes_ready_is_a_reason(bench: Bench) -> None:
    bench.apply()
    bench.host.ready.add("eni-1")
    assert bench.apply(3) == [{0, 2}]


def test_an_eni_that_cannot_carry_pods_has_no_mark(bench: Bench) -> None:
    bench.host.ready.add("eni-c1")
    assert bench.apply() == [{0}]


def test_an_eni_that_fails_is_none(bench: Bench) -> None:
    bench.apply()
    bench.host.ready.clear()
    assert bench.apply() == []


@pytest.mark.parametrize(
    "notice",
    [
        RouteChanged(route=host_route(ADDRESS, 7, RoutingRules.GROUPED)),
        RuleVanished(rule=rules_of(ADDRESS, 0, RoutingRules.PER_POD)[0]),
        NoticesLost(),
    ],
    ids=["route", "rule", "lost"],
)
def test_what_went_of_a_pod_is_a_reason(bench: Bench, notice: Notice) -> None:
    bench.apply()
    bench.settled.on_notice(notice)
    assert len(bench.apply(2)) == 1


def test_a_pods_link_that_goes_is_none(bench: Bench) -> None:
    bench.apply()
    bench.settled.on_notice(LinkVanished(link=LINK))
    assert bench.apply() == []


def test_a_minute_is_one(bench: Bench) -> None:
    bench.apply()
    bench.now += LOOK_SECONDS
    assert len(bench.apply(2)) == 1


def test_what_failed_is_tried_again_in_the_next_round(bench: Bench) -> None:
    bench.pods.failures = 2
    assert bench.apply(4) == [{0}]


def test_the_hosts_answer_passes_through(bench: Bench) -> None:
    assert bench.settled.apply(DESIRED) == bench.host.apply(DESIRED)


def test_aws_nodes_chains_go_once_every_eni_that_can_carry_pods_is_ready(bench: Bench) -> None:
    bench.settled.apply(WITH_POLICY)
    assert not bench.chains.there.is_empty
    bench.host.ready.add("eni-1")
    for _ in range(3):
        bench.settled.apply(WITH_POLICY)
    assert bench.chains.there.is_empty
    assert bench.chains.looks == 1


def test_while_nobody_says_how_traffic_leaves_they_stay(bench: Bench) -> None:
    bench.host.ready.add("eni-1")
    bench.settled.apply(DESIRED)
    assert bench.chains.looks == 0


def test_a_node_without_enis_is_not_known_yet_and_they_stay(bench: Bench) -> None:
    bench.settled.apply(replace(WITH_POLICY, enis=()))
    assert bench.chains.looks == 0


def test_what_failed_with_them_is_tried_again_after_a_minute(bench: Bench) -> None:
    bench.host.ready.add("eni-1")
    bench.chains.failures = 1
    for _ in range(2):
        bench.settled.apply(WITH_POLICY)
    assert (bench.chains.there.is_empty, bench.chains.looks) == (False, 1)
    bench.now += AGAIN_SECONDS
    bench.settled.apply(WITH_POLICY)
    assert bench.chains.there.is_empty
