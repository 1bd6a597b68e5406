"""Rules for single pods, and pods that change from one kind of routing to the other as they run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import pytest
from cni_shim.datapath import pod_routing
from cni_shim.datapath.diff import diff
from cni_shim.datapath.families import Address
from cni_shim.datapath.host import observe
from cni_shim.datapath.messages import Request
from cni_shim.datapath.netlink import NetlinkSocket
from cni_shim.datapath.pods import PodDatapath
from cni_shim.datapath.routing import RoutingRules
from cni_shim.datapath.wiring import PodWiring

from providers.sim.model import WiredEni
from tests.netns.datapath_lab import Netns, run
from tests.netns.streams import Flow, Streams
from tests.netns.vpc_lab import (
    DESIRED,
    FAR,
    PRIMARY,
    SECONDARY,
    VpcLab,
    open_vpc_lab,
    pod_addresses,
    wiring,
)

pytestmark = pytest.mark.netns

GROUPED, PER_POD = RoutingRules.GROUPED, RoutingRules.PER_POD
READY_MARKS = frozenset({0, 2})


@pytest.fixture
def lab() -> Iterator[VpcLab]:
    with open_vpc_lab() as opened:
        deadline = time.monotonic() + 5
        while not all(r.is_ready for r in opened.host.apply(DESIRED)):
            assert time.monotonic() < deadline
        yield opened


@contextmanager
def datapath(lab: VpcLab, mode: RoutingRules) -> Iterator[PodDatapath]:
    """The pods' side of a vpc-cnid that was started with this setting."""
    made = PodDatapath(lab.netlink, lab.notices, mode=mode)
    try:
        yield made
    finally:
        made.close()


@dataclass(frozen=True, kw_only=True)
class Pod:
    """A wired pod."""

    netns: Netns
    wiring: PodWiring

    @property
    def path(self) -> str:
        return f"/run/netns/{self.netns.name}"


def wire(lab: VpcLab, pods: PodDatapath, number: int, eni: WiredEni) -> Pod:
    made = Pod(netns=lab.make_netns(), wiring=wiring(number, eni))
    pods.wire(made.netns.fd, made.wiring)
    return made


def unwire(pods: PodDatapath, pod: PodWiring) -> bool:
    return pods.unwire(
        pod.container_id,
        pod.ifname,
        pod.pod_namespace,
        pod.pod_name,
        pod.veth_prefix,
        pod.addresses,
    )


def rules(*addresses: Address) -> list[str]:
    """The rules that name one of the addresses."""
    lines = (run("ip", "-4", "rule") + run("ip", "-6", "rule")).splitlines()
    found = [" ".join(line.split()) for line in lines]
    return [line for line in found if any(str(a) in line.split() for a in addresses)]


def routes(*addresses: Address) -> list[str]:
    """By address the tables that have a route to it over a pod's link."""
    lines = [
        line
        for family in ("-4", "-6")
        for line in run("ip", family, "route", "show", "table", "all", "proto", "119").splitlines()
    ]
    return [
        f"{a} in {line.split(' table ')[1].split()[0] if ' table ' in line else 'main'}"
        for a in addresses
        for line in lines
        if line.split()[0] == str(a)
    ]


def test_a_pod_on_a_secondary_eni_has_the_rules_that_aws_node_writes(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        pod = wire(lab, pods, 1, SECONDARY)
    v4, v6 = pod.wiring.addresses
    assert rules(v4, v6) == [
        f"512: from all to {v4} lookup main proto 119",
        f"1536: from {v4} lookup 2 proto 119",
        f"512: from all to {v6} lookup main proto 119",
        f"1536: from {v6} lookup 2 proto 119",
    ]
    assert routes(v4, v6) == [f"{v4} in main", f"{v6} in main"]


def test_a_pod_on_the_primary_eni_needs_no_rule_from_it(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        pod = wire(lab, pods, 1, PRIMARY)
    assert [line.split()[0] for line in rules(*pod.wiring.addresses)] == ["512:", "512:"]


def test_grouped_pods_have_no_rule_and_their_route_in_the_pod_table(lab: VpcLab) -> None:
    pod = wire(lab, lab.pods, 1, SECONDARY)
    assert rules(*pod.wiring.addresses) == []
    assert routes(*pod.wiring.addresses) == [f"{a} in 5120" for a in pod.wiring.addresses]


@pytest.mark.parametrize("mode", list(RoutingRules), ids=lambda mode: mode.value)
def test_unwire_leaves_nothing_of_either_kind(lab: VpcLab, mode: RoutingRules) -> None:
    with datapath(lab, PER_POD) as before, datapath(lab, mode) as now:
        pod = wire(lab, before, 1, SECONDARY).wiring
        assert [unwire(now, pod), unwire(now, pod)] == [True, False]
        assert (rules(*pod.addresses), routes(*pod.addresses)) == ([], [])
        assert now.observe() == ()


def test_a_second_look_at_the_host_leaves_the_pods_rules_and_routes(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        pod = wire(lab, pods, 1, SECONDARY).wiring
        assert diff(observe(lab.netlink.socket(), DESIRED), DESIRED) == ()
        lab.host.apply(DESIRED)
        assert (len(rules(*pod.addresses)), len(routes(*pod.addresses))) == (4, 2)


def test_inspect_and_check_miss_a_rule(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        pod = wire(lab, pods, 1, SECONDARY)
        settle(pods)
        assert pods.inspect(pod.netns.fd, pod.wiring) is not None
        assert pods.check(pod.netns.fd, pod.wiring) == ()
        run("ip", "rule", "delete", "pref", "1536", "from", str(pod.wiring.addresses[0]))
        assert pods.inspect(pod.netns.fd, pod.wiring) is None
        assert pods.check(pod.netns.fd, pod.wiring) == (
            f"the host has no rule 1536 from {pod.wiring.addresses[0]} for table 2",
        )


def test_a_pod_that_is_not_settled_yet_misses_nothing(lab: VpcLab) -> None:
    pod = wire(lab, lab.pods, 1, SECONDARY)
    with datapath(lab, PER_POD) as pods:
        assert pods.check(pod.netns.fd, pod.wiring) == ()
        assert pods.inspect(pod.netns.fd, pod.wiring) is not None
        settle(pods)
        assert pods.check(pod.netns.fd, pod.wiring) == ()


def test_observe_names_the_attachment_by_its_route_in_main(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        pod = wire(lab, pods, 1, SECONDARY).wiring
        seen = pods.observe()
        assert {(s.address, s.container_id, s.is_ours) for s in seen} == {
            (address, pod.container_id, True) for address in pod.addresses
        }


def test_rules_that_outlived_their_pod_are_seen_and_removed_as_leftovers(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        pod = wire(lab, pods, 1, SECONDARY)
        pod.netns.ip("link", "delete", "eth0")
        seen = pods.observe()
        assert {(s.address, s.link_name, s.is_ours) for s in seen} == {
            (address, "", True) for address in pod.wiring.addresses
        }
        assert [pods.remove_leftover(s) for s in seen] == [True, True]
        assert rules(*pod.wiring.addresses) == []


def test_rules_that_outlived_their_pod_do_not_keep_the_address_from_the_next(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        gone = wire(lab, pods, 1, SECONDARY)
        gone.netns.ip("link", "delete", "eth0")
        after = Pod(
            netns=lab.make_netns(),
            wiring=wiring(
                1, SECONDARY, container_id="b" * 64, mark=0, addresses=gone.wiring.addresses
            ),
        )
        pods.wire(after.netns.fd, after.wiring)
        assert [line.split()[0] for line in rules(*after.wiring.addresses)] == ["512:", "512:"]


def test_a_leftover_rule_is_spared_once_the_address_has_its_next_pod(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        gone = wire(lab, pods, 1, SECONDARY)
        gone.netns.ip("link", "delete", "eth0")
        seen = pods.observe()
        after = wire(lab, pods, 1, SECONDARY)
        assert [pods.remove_leftover(s) for s in seen] == [False, False]
        assert len(rules(*after.wiring.addresses)) == 4


def test_a_wire_that_fails_takes_its_rules_back(
    lab: VpcLab, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("in the pod")

    monkeypatch.setattr("cni_shim.datapath.pods.pod_requests", fail)
    wanted = wiring(1, SECONDARY)
    with datapath(lab, PER_POD) as pods, pytest.raises(RuntimeError):
        pods.wire(lab.make_netns().fd, wanted)
    assert (rules(*wanted.addresses), routes(*wanted.addresses)) == ([], [])


def flows(lab: VpcLab, pods: list[Pod]) -> list[Flow]:
    """Every pod asks every other and the far host, and is asked by the far host."""
    outside: list[Address] = [FAR.primary_address, FAR.addresses_v6[0]]
    places = [(p.path, a) for p in pods for a in p.wiring.addresses]
    places += [(lab.far_path, address) for address in outside]
    return [
        Flow(
            name=f"{client} -> {server}",
            client_netns=client_path,
            client=client,
            server_netns=server_path,
            server=server,
        )
        for client_path, client in places
        for server_path, server in places
        if client.version == server.version and client_path != server_path
    ]


def settle(pods: PodDatapath, *held: Pod) -> int:
    return pods.settle(
        {(p.wiring.container_id, "eth0"): p.wiring.addresses for p in held}, READY_MARKS
    )


def test_no_packet_is_lost_while_pods_change_from_one_kind_to_the_other(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as per_pod:
        pods = [
            wire(lab, lab.pods if number % 2 else per_pod, number, eni)
            for number, eni in enumerate((PRIMARY, PRIMARY, SECONDARY, SECONDARY))
        ]
        addresses = [a for pod in pods for a in pod.wiring.addresses]
        with Streams(flows(lab, pods)) as streams:
            streams.pass_time()
            assert settle(per_pod, *pods) == 2
            assert routes(*addresses) == [f"{a} in main" for a in addresses]
            assert len(rules(*addresses)) == 4 + 8
            streams.pass_time()
            for _ in range(20):
                assert settle(lab.pods) == 4
                assert settle(per_pod) == 4
            assert settle(lab.pods) == 4
            assert routes(*addresses) == [f"{a} in 5120" for a in addresses]
            assert rules(*addresses) == []
            streams.pass_time()
        assert streams.lost == {}
        assert min(streams.sent.values()) > 60
    assert lab.drops() == []


def cut_off_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the next settling die after so many changes."""
    perform = pod_routing._perform
    left = iter(range(steps))

    def die(host: NetlinkSocket, request: Request) -> None:
        if next(left, None) is None:
            raise Killed
        perform(host, request)

    monkeypatch.setattr(pod_routing, "_perform", die)


class Killed(Exception):
    """The process was killed here."""


def test_a_change_that_is_cut_off_anywhere_loses_nothing_and_is_finished_by_the_next(
    lab: VpcLab,
) -> None:
    with datapath(lab, PER_POD) as per_pod:
        pods = [wire(lab, lab.pods, n, eni) for n, eni in enumerate((PRIMARY, SECONDARY))]
        addresses = [a for pod in pods for a in pod.wiring.addresses]
        points = 0
        with Streams(flows(lab, pods)) as streams:
            for steps in range(1000):
                outcomes = []
                for to in (per_pod, lab.pods):
                    with pytest.MonkeyPatch.context() as patch, suppress(Killed):
                        cut_off_after(steps, patch)
                        settle(to)
                        outcomes.append(to)
                    settle(to)
                points += 1
                if len(outcomes) == 2:
                    break
            assert routes(*addresses) == [f"{a} in 5120" for a in addresses]
            assert rules(*addresses) == []
        assert streams.lost == {}
        assert points > 10


def test_a_pod_keeps_its_rules_until_its_enis_mark_works(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as per_pod:
        first, second = (wire(lab, per_pod, n, e) for n, e in enumerate((PRIMARY, SECONDARY)))
    assert lab.pods.settle({}, frozenset({0})) == 2
    assert rules(*first.wiring.addresses) == []
    assert len(rules(*second.wiring.addresses)) == 4
    assert len(routes(*second.wiring.addresses)) == 4
    assert lab.pods.settle({}, READY_MARKS) == 1
    assert rules(*second.wiring.addresses) == []


@pytest.mark.parametrize("mode", list(RoutingRules), ids=lambda mode: mode.value)
def test_settling_twice_finds_nothing_to_do(lab: VpcLab, mode: RoutingRules) -> None:
    with datapath(lab, mode) as pods:
        made = [wire(lab, pods, n, eni) for n, eni in enumerate((PRIMARY, SECONDARY))]
        assert [settle(pods, *made), settle(pods)] == [0, 0]


@pytest.mark.parametrize("mode", list(RoutingRules), ids=lambda mode: mode.value)
@pytest.mark.parametrize("what", ["route", "rule"])
def test_what_somebody_deleted_is_put_back(lab: VpcLab, mode: RoutingRules, what: str) -> None:
    with datapath(lab, mode) as pods:
        pod = wire(lab, pods, 1, SECONDARY)
        before = rules(*pod.wiring.addresses), routes(*pod.wiring.addresses)
        for address in pod.wiring.addresses:
            family = f"-{address.version}"
            if what == "route":
                run("ip", family, "route", "delete", str(address), "table", str(mode.pod_table))
            elif mode is PER_POD:
                run("ip", family, "rule", "delete", "pref", "512", "to", str(address))
        settle(pods, pod)
        assert (rules(*pod.wiring.addresses), routes(*pod.wiring.addresses)) == before
        assert pods.check(pod.netns.fd, pod.wiring) == ()


def test_flushing_the_firewall_cuts_nobody_with_rules_of_his_own(lab: VpcLab) -> None:
    with datapath(lab, PER_POD) as pods:
        pod = wire(lab, pods, 1, SECONDARY)
        with Streams(flows(lab, [pod])) as streams:
            streams.pass_time(0.1)
            run("nft", "flush", "ruleset")
            streams.pass_time()
        assert streams.lost == {}


@pytest.mark.parametrize("mode", list(RoutingRules), ids=lambda mode: mode.value)
def test_what_aws_node_left_beside_ours_stays(lab: VpcLab, mode: RoutingRules) -> None:
    """A pod that its plugin wired keeps link, route and rules, whatever becomes of ours."""
    theirs = lab.make_netns()
    (address,) = pod_addresses(SECONDARY, 9, "4")
    run("ip", "link", "add", "enipeer", "type", "veth", "peer", "name", "eth0", "netns",
        theirs.name)  # fmt: skip
    run("ip", "link", "set", "enipeer", "up")
    run("ip", "route", "add", str(address), "dev", "enipeer")
    run("ip", "rule", "add", "pref", "512", "to", str(address), "lookup", "main")
    run("ip", "rule", "add", "pref", "1536", "from", str(address), "lookup", "2")
    before = rules(address), run("ip", "route", "show", "dev", "enipeer")
    other = GROUPED if mode is PER_POD else PER_POD
    with datapath(lab, other) as old, datapath(lab, mode) as new:
        pod = wire(lab, old, 1, SECONDARY)
        settle(new, pod)
        lab.host.apply(DESIRED)
        assert (rules(address), run("ip", "route", "show", "dev", "enipeer")) == before
        assert unwire(new, pod.wiring)
        assert (rules(address), run("ip", "route", "show", "dev", "enipeer")) == before


def test_an_attachment_whose_del_was_faster_is_left_to_it(lab: VpcLab) -> None:
    pod = wire(lab, lab.pods, 1, SECONDARY)
    with datapath(lab, PER_POD) as pods:
        routing = pods._routing
        locked = pods._locked

        def delete_first(container_id: str, ifname: str):  # type: ignore[no-untyped-def]
            assert unwire(lab.pods, pod.wiring)
            return locked(container_id, ifname)

        assert routing.settle({}, READY_MARKS, delete_first) == 0
    assert (rules(*pod.wiring.addresses), routes(*pod.wiring.addresses)) == ([], [])


def test_a_ledger_that_names_other_addresses_than_the_link_has_moves_nothing(lab: VpcLab) -> None:
    pod = wire(lab, lab.pods, 1, SECONDARY)
    others = pod_addresses(SECONDARY, 2)
    held = {(pod.wiring.container_id, "eth0"): others}
    assert lab.pods.settle(held, READY_MARKS) == 0
    assert routes(*others) == []
    assert len(routes(*pod.wiring.addresses)) == 2


def test_a_link_without_a_name_is_not_settled(lab: VpcLab) -> None:
    pod = wire(lab, lab.pods, 1, SECONDARY)
    (seen, *_) = lab.pods.observe()
    run("ip", "link", "set", seen.link_name, "alias", "")
    with datapath(lab, PER_POD) as pods:
        assert settle(pods, replace(pod)) == 0
