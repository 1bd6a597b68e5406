from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from cni_shim.datapath.answers import Link
from cni_shim.datapath.desired import DesiredEni, DesiredHost, EniReadiness
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.notices import LinkVanished, Notice, NoticesLost, RuleVanished
from cni_shim.settled_host import LOOK_SECONDS, SettledHost

HELD: Mapping[tuple[str, str], tuple[Address, ...]] = {("c1", "eth0"): (IPv4Address("10.0.0.9"),)}
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


class Bench:
    def __init__(self) -> None:
        self.now = 100.0
        self.host, self.pods = FakeHost(), FakePods()
        self.settled = SettledHost(self.host, self.pods, lambda: HELD, clock=lambda: self.now)

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


@pytest.mark.parametrize("notice", [RuleVanished(), NoticesLost()], ids=["rule", "lost"])
def test_what_went_on_the_host_is_a_reason(bench: Bench, notice: Notice) -> None:
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
