"""Applying, reporting and sweeping, against a host and a ledger in memory."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from cni_shim.allocations import PEER
from cni_shim.datapath.desired import DesiredHost, EniReadiness
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import Rule
from cni_shim.datapath.notices import AddressChanged, FirewallChanged, Notice, RuleVanished
from cni_shim.datapath.pods import ObservedPod
from cni_shim.datapath.strays import StrayAddress
from cni_shim.ipam_client import IpamdError
from cni_shim.node_watch import REPORT_SECONDS, SUSPECT_SECONDS, NodeWatch
from cni_shim.pod_mtu import PodMtu
from cni_shim.spec import AttachmentKey
from cni_shim.verbs import Verbs
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb
from structlog.testing import capture_logs

from tests.cni_bench import FakeDatapath, FakeIpam
from tests.delegates import FakeDelegates


class Ledger(FakeIpam):
    """ipamd's side of a report."""

    def __init__(self) -> None:
        super().__init__([])
        self.reports: list[pb.ReportNodeRequest] = []
        self.unknown: list[str] = []
        self.accepts = True

    def report(self, request: pb.ReportNodeRequest, *, seconds: float) -> pb.ReportNodeReply:
        self._enter("report")
        self.reports.append(request)
        return pb.ReportNodeReply(is_accepted=self.accepts, unknown_addresses=self.unknown)


class Kernel:
    """The host's side and the pods' side."""

    def __init__(self) -> None:
        self.applied: list[DesiredHost] = []
        self.is_ready = True
        self.pods: tuple[ObservedPod, ...] = ()
        self.removed: list[str] = []
        self.failure: DatapathError | None = None

    def apply(self, desired: DesiredHost) -> tuple[EniReadiness, ...]:
        if self.failure is not None:
            raise self.failure
        self.applied.append(desired)
        return tuple(
            EniReadiness(
                eni_id=e.eni_id,
                is_ready=self.is_ready,
                link_name="eth0",
                ifindex=5,
                mtu=1500 if e.is_primary else 3000,
                message="" if self.is_ready else "no link",
            )
            for e in desired.enis
        )

    def observe(self) -> tuple[ObservedPod, ...]:
        return self.pods

    def remove_leftover(self, observed: ObservedPod) -> bool:
        self.removed.append(observed.link_name)
        return True


class Bench:
    def __init__(self) -> None:
        self.ledger, self.kernel = Ledger(), Kernel()
        self.verbs = Verbs(
            self.ledger,
            FakeDatapath([]),
            delegates=FakeDelegates(),
            queue_release=lambda request: None,
            finish_queued=lambda key: None,
        )
        self.beats = 0
        self.notes: tuple[str, ...] = ()
        self.pod_mtu = PodMtu(None)
        self.strays: tuple[StrayAddress, ...] = ()
        self.watch = NodeWatch(
            self.ledger,
            self.kernel,
            self.kernel,
            self.verbs,
            mend=lambda: None,
            beat=self.beat,
            notes=lambda: self.notes,
            strays=lambda: self.strays,
            pod_mtu=self.pod_mtu,
            eni_mtu=9001,
        )

    def beat(self) -> None:
        self.beats += 1
        self.watch._wake.set()  # and no pause


@pytest.fixture
def bench() -> Bench:
    return Bench()


NETWORK = pb.NodeNetwork(
    epoch="e1",
    enis=[
        pb.NodeEni(
            eni_id="eni-1",
            mac="02:00:00:00:00:01",
            primary_address="10.0.0.4",
            subnet_cidr="10.0.0.0/24",
            gateway="10.0.0.1",
            route_table_id=254,
            is_primary=True,
        )
    ],
)


def pod(name: str = "c1", address: str | None = "10.0.0.5", link: str = "eni1") -> ObservedPod:
    return ObservedPod(
        address=ip_address(address) if address else None,
        link_name=link,
        ifindex=7,
        container_id=name,
        ifname="eth0" if name else "",
        netns_cookie=9,
        pod_namespace="default",
        pod_name=name,
        is_ours=True,
    )


def test_nothing_is_touched_before_something_is_wanted(bench: Bench) -> None:
    assert bench.watch.step(0.0)
    assert bench.kernel.applied == []


def test_the_wanted_network_is_applied_and_reported(bench: Bench) -> None:
    bench.kernel.pods = (pod(),)
    bench.watch.wanted(NETWORK)
    assert bench.watch.step(0.0)
    (report,) = bench.ledger.reports
    assert report.epoch == "e1"
    assert [(e.eni_id, e.is_ready) for e in report.enis] == [("eni-1", True)]
    assert [(a.address, a.key.container_id) for a in report.addresses] == [("10.0.0.5", "c1")]


def test_the_primarys_mtu_is_told_to_adds(bench: Bench) -> None:
    secondary = pb.NodeEni()
    secondary.CopyFrom(NETWORK.enis[0])
    secondary.eni_id, secondary.is_primary, secondary.route_table_id = "eni-0", False, 2
    bench.watch.wanted(pb.NodeNetwork(epoch="e1", enis=[secondary, NETWORK.enis[0]]))
    bench.watch.step(0.0)
    assert bench.pod_mtu.now(deadline_monotonic=0.0) == 1500


STRAY = StrayAddress(address=ip_address("10.0.0.9"), link_name="eth0")


def test_what_the_node_has_of_pods_addresses_is_reported_at_once_and_said_once(
    bench: Bench,
) -> None:
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    bench.strays = (STRAY,)
    with capture_logs() as logged:
        bench.watch.step(1.0)
        bench.watch.step(2.0)
    assert [log["addresses"] for log in logged] == [{"10.0.0.9": "eth0"}]
    assert len(bench.ledger.reports) == 2
    (told,) = bench.ledger.reports[1].addresses
    assert (told.address, told.link_name, told.is_on_host) == ("10.0.0.9", "eth0", True)
    assert not told.HasField("key")


def test_a_pod_that_the_node_cuts_off_is_named(bench: Bench) -> None:
    bench.kernel.pods = (pod(), pod("c2", "10.0.0.6", "eni2"))
    bench.strays = (replace(STRAY, address=ip_address("10.0.0.6")),)
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    (note,) = bench.ledger.reports[0].notes
    assert note.startswith("pod default/c2 is cut off: eth0 of the node has its address 10.0.0.6")


def test_what_was_said_is_not_said_again_before_its_time(bench: Bench) -> None:
    bench.watch.wanted(NETWORK)
    for now in (0.0, 1.0, REPORT_SECONDS - 1):
        bench.watch.step(now)
    assert len(bench.ledger.reports) == 1
    bench.watch.step(REPORT_SECONDS)
    assert len(bench.ledger.reports) == 2


def test_notes_go_along_with_the_report(bench: Bench) -> None:
    bench.notes = ("two pods cannot be seen",)
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    assert [list(report.notes) for report in bench.ledger.reports] == [["two pods cannot be seen"]]


def test_an_eni_that_is_not_ready_is_tried_again_soon_and_news_is_told(bench: Bench) -> None:
    bench.kernel.is_ready = False
    bench.watch.wanted(NETWORK)
    assert not bench.watch.step(0.0)
    bench.kernel.is_ready = True
    assert bench.watch.step(0.5)
    assert [r.enis[0].is_ready for r in bench.ledger.reports] == [False, True]


def test_a_report_that_was_not_taken_is_repeated(bench: Bench) -> None:
    bench.ledger.accepts = False
    bench.watch.wanted(NETWORK)
    assert not bench.watch.step(0.0)
    bench.ledger.accepts = True
    assert bench.watch.step(0.5)
    assert len(bench.ledger.reports) == 2


def test_a_kernel_that_cannot_be_read_is_tried_again(bench: Bench) -> None:
    bench.kernel.failure = DatapathError("dump links", 105)
    bench.watch.wanted(NETWORK)
    assert not bench.watch.step(0.0)
    assert bench.ledger.reports == []


def test_an_ipamd_that_is_away_is_tried_again(bench: Bench) -> None:
    bench.ledger.script["report"] = [IpamdError(door.Status.UNAVAILABLE, "away", None)]
    bench.watch.wanted(NETWORK)
    assert not bench.watch.step(0.0)
    assert bench.watch.step(0.5)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr("cni_shim.node_watch.time.monotonic", lambda: now[0])
    return now


def two_reports(bench: Bench, clock: list[float]) -> list[str]:
    """Two reports, half a minute apart; what was removed."""
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    assert bench.kernel.removed == [], "nothing goes on one look"
    clock[0] += SUSPECT_SECONDS
    bench.watch.step(SUSPECT_SECONDS)
    return bench.kernel.removed


def test_a_link_without_an_allocation_is_removed(bench: Bench, clock: list[float]) -> None:
    bench.kernel.pods = (pod(),)
    bench.ledger.unknown = ["10.0.0.5"]
    assert two_reports(bench, clock) == ["eni1"]


def test_a_link_with_its_allocation_stays(bench: Bench, clock: list[float]) -> None:
    bench.kernel.pods = (pod(),)
    bench.ledger.unknown = ["10.0.0.5"]  # the report was older than the allocation
    bench.ledger.held["c1"] = pb.Allocation(address="10.0.0.5")
    assert two_reports(bench, clock) == []


@pytest.mark.parametrize(
    ("allocated", "removed"),
    [(["10.0.0.5"], []), (["10.0.0.6"], ["eni1", "eni1"])],
    ids=["one-family-is-held", "neither-is"],
)
def test_a_link_goes_only_when_none_of_its_addresses_is_held(
    bench: Bench, clock: list[float], allocated: list[str], removed: list[str]
) -> None:
    bench.kernel.pods = (pod(), pod(address="2001:db8::5"))
    bench.ledger.unknown = ["10.0.0.5", "2001:db8::5"]
    bench.ledger.held["c1"] = pb.Allocation(address=allocated[0], addresses=allocated)
    assert two_reports(bench, clock) == removed


def test_a_link_of_an_attachment_that_the_peer_wired_stays(
    bench: Bench, clock: list[float]
) -> None:
    bench.kernel.pods = (pod(),)
    bench.ledger.unknown = ["10.0.0.5"]
    bench.ledger.held["c1"] = pb.Allocation(address="10.0.0.6", wired_by=PEER)
    assert two_reports(bench, clock) == []


def test_both_families_are_wanted_and_reported(bench: Bench) -> None:
    network = pb.NodeNetwork()
    network.CopyFrom(NETWORK)
    network.enis[0].subnet_cidr_v6 = "2001:db8::/64"
    network.enis[0].primary_address_v6 = "2001:db8::4"
    network.enis[0].gateway_v6 = "fe80:ec2::1"
    bench.kernel.pods = (pod(), pod(address="2001:db8::5"))
    bench.watch.wanted(network)
    bench.watch.step(0.0)
    (eni,) = bench.kernel.applied[0].enis
    assert (eni.subnet_cidr, eni.subnet_cidr_v6) == (
        IPv4Network("10.0.0.0/24"),
        IPv6Network("2001:db8::/64"),
    )
    assert (eni.primary_address_v6, eni.gateway_v6) == (
        IPv6Address("2001:db8::4"),
        IPv6Address("fe80:ec2::1"),
    )
    (report,) = bench.ledger.reports
    assert [(a.address, a.key.container_id) for a in report.addresses] == [
        ("10.0.0.5", "c1"),
        ("2001:db8::5", "c1"),
    ]


def test_an_eni_without_ipv6_is_wanted_without(bench: Bench) -> None:
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    assert not bench.kernel.applied[0].has_v6


def test_a_half_made_link_of_an_allocation_stays(bench: Bench, clock: list[float]) -> None:
    bench.kernel.pods = (pod(address=None),)
    bench.ledger.held["c1"] = pb.Allocation(address="10.0.0.5")
    assert two_reports(bench, clock) == []


def test_a_nameless_link_of_ours_is_removed(bench: Bench, clock: list[float]) -> None:
    bench.kernel.pods = (pod("", address=None),)
    assert two_reports(bench, clock) == ["eni1"]


def test_a_link_that_cannot_be_asked_for_is_left_alone(bench: Bench, clock: list[float]) -> None:
    bench.kernel.pods = (pod("~" + "0" * 32),)
    bench.ledger.unknown = ["10.0.0.5"]
    assert two_reports(bench, clock) == []


def test_a_link_whose_verb_is_running_is_left_to_it(bench: Bench, clock: list[float]) -> None:
    bench.kernel.pods = (pod(),)
    bench.ledger.unknown = ["10.0.0.5"]
    key = AttachmentKey(container_id="c1", ifname="eth0")
    with bench.verbs.locked(key, timeout_seconds=1):
        assert two_reports(bench, clock) == []


def test_nothing_is_swept_against_reports_that_were_not_taken(
    bench: Bench, clock: list[float]
) -> None:
    bench.kernel.pods = (pod(),)
    bench.ledger.unknown = ["10.0.0.5"]
    bench.ledger.accepts = False
    assert two_reports(bench, clock) == []


def test_a_new_epoch_starts_the_two_looks_over(bench: Bench, clock: list[float]) -> None:
    bench.kernel.pods = (pod(),)
    bench.ledger.unknown = ["10.0.0.5"]
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    clock[0] += SUSPECT_SECONDS
    other = pb.NodeNetwork()
    other.CopyFrom(NETWORK)
    other.epoch = "e2"
    bench.watch.wanted(other)
    bench.watch.step(SUSPECT_SECONDS)
    assert bench.kernel.removed == []


def test_a_network_that_arrives_while_another_is_reported_is_reported_next(bench: Bench) -> None:
    bench.watch.wanted(NETWORK)
    other = pb.NodeNetwork()
    other.CopyFrom(NETWORK)
    other.epoch = "e2"
    plain = bench.ledger.report

    def report(request: pb.ReportNodeRequest, *, seconds: float) -> pb.ReportNodeReply:
        if request.epoch == "e1":
            bench.watch.wanted(other)
        return plain(request, seconds=seconds)

    bench.ledger.report = report  # type: ignore[method-assign]
    bench.watch.step(0.0)
    bench.watch.step(0.1)
    assert [r.epoch for r in bench.ledger.reports] == ["e1", "e2"]


def test_each_round_beats(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cni_shim.node_watch.LEAST_GAP_SECONDS", 0.0)
    rounds = [False, False, True]
    bench.watch.run(lambda: rounds.pop(0))
    assert bench.beats == 2


def with_policy(**policy: object) -> pb.NodeNetwork:
    """The network with a policy, and the VPC that it needs."""
    network = pb.NodeNetwork(vpc_cidrs=["10.0.0.0/16"], policy=pb.HostPolicy(**policy))  # type: ignore[arg-type]
    network.MergeFrom(NETWORK)
    return network


def test_the_policy_of_ipamd_reaches_the_host(bench: Bench) -> None:
    bench.watch.wanted(with_policy(connmark=0x100, node_port_support=True))
    assert bench.watch.step(0.0)
    (applied,) = bench.kernel.applied
    assert (applied.policy.connmark, applied.policy.has_snat) == (0x100, True)


def test_what_cannot_be_is_named_once_and_nothing_is_touched(bench: Bench) -> None:
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    bench.watch.wanted(with_policy(exclude_snat_cidrs=["10.0.0.0/33"]))
    with capture_logs() as logs:
        assert [bench.watch.step(now) for now in (1.0, 2.0)] == [False, False]
    assert [entry["event"] for entry in logs] == ["host_network_failed"]
    assert "ipamd sent '10.0.0.0/33' as exclude_snat_cidrs" in bench.watch.host_problem
    assert len(bench.kernel.applied) == 1


def test_a_host_that_works_again_has_no_problem(bench: Bench) -> None:
    bench.watch.wanted(with_policy(connmark=1))
    bench.watch.step(0.0)
    assert bench.watch.host_problem != ""
    bench.watch.wanted(with_policy())
    bench.watch.step(1.0)
    assert bench.watch.host_problem == ""


@pytest.mark.parametrize(
    ("notice", "is_woken"),
    [
        (FirewallChanged(), True),
        (RuleVanished(rule=Rule(priority=512, table=5120)), True),
        (RuleVanished(rule=Rule(priority=100, table=77, protocol=0)), False),
        (AddressChanged(ifindex=5), True),
        (AddressChanged(ifindex=9), False),
    ],
    ids=["nft table", "our rule", "other rule", "ENI's address", "other address"],
)
def test_a_notice_wakes_where_it_concerns_us(bench: Bench, notice: Notice, is_woken: bool) -> None:
    bench.watch.wanted(NETWORK)
    bench.watch.step(0.0)
    bench.watch._wake.clear()
    bench.watch.on_notice(notice)
    assert bench.watch._wake.is_set() == is_woken
