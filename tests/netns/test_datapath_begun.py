"""Pairs that are made while ipamd still looks for the address."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from cni_shim.datapath.desired import DesiredEni
from cni_shim.datapath.errors import AddressInUse
from cni_shim.datapath.wiring import PairWish, PodWiring

from tests.netns.datapath_lab import BOTH, PRIMARY, SECONDARY, Lab, open_lab, run, wiring

pytestmark = pytest.mark.netns


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        yield opened


def wish(wanted: PodWiring) -> PairWish:
    return PairWish(
        container_id=wanted.container_id,
        ifname=wanted.ifname,
        host_ifname=wanted.host_ifnames()[0],
        mtu=wanted.mtu,
    )


def host_veths() -> list[str]:
    lines = run("ip", "-o", "link", "show", "type", "veth").splitlines()
    ifnames = [line.split(": ")[1].split("@")[0] for line in lines]
    return [ifname for ifname in ifnames if not ifname.startswith("ens")]


@pytest.mark.parametrize("eni", [PRIMARY, SECONDARY], ids=["primary", "secondary"])
def test_a_pod_on_an_early_pair_reaches_the_outside_by_its_own_eni(
    lab: Lab, eni: DesiredEni
) -> None:
    pod, wanted = lab.make_netns(), wiring(mark=eni.mark)
    with lab.pods.begun(pod.fd) as begun:
        begun.make_pair(wish(wanted))
        early = host_veths()
        wired = lab.pods.wire(pod.fd, wanted, begun)

    assert early == host_veths() == [wired.host_ifname]
    assert lab.can_reach_outside(pod, eni, wanted.addresses[0])


@pytest.mark.parametrize("is_early", [True, False], ids=["early", "late"])
def test_what_stands_on_an_early_pair_is_what_stands_on_any(lab: Lab, is_early: bool) -> None:
    pod, wanted = lab.make_netns(), wiring(mark=SECONDARY.mark)
    with lab.pods.begun(pod.fd) as begun:
        if is_early:
            begun.make_pair(wish(wanted))
        wired = lab.pods.wire(pod.fd, wanted, begun)

    assert lab.pods.inspect(pod.fd, wanted) == wired
    assert lab.pods.check(pod.fd, wanted) == ()


def test_a_pair_that_nobody_wires_is_gone_after_the_block(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    with lab.pods.begun(pod.fd) as begun:
        begun.make_pair(wish(wanted))

    assert host_veths() == []


def test_a_pair_is_gone_when_the_block_fails(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    block = lab.pods.begun(pod.fd)
    block.__enter__().make_pair(wish(wanted))
    error = LookupError("no address")

    assert not block.__exit__(LookupError, error, None)
    assert host_veths() == []


def test_a_link_that_stands_is_left_alone_and_no_second_one_is_made(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    wired = lab.pods.wire(pod.fd, wanted)
    with lab.pods.begun(pod.fd) as begun:
        begun.make_pair(wish(wanted))
        standing = lab.pods.inspect(pod.fd, wanted)

    assert standing == wired
    assert host_veths() == [wired.host_ifname]


def test_an_early_pair_serves_the_next_address_when_the_first_is_in_use(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring(mark=SECONDARY.mark)
    taken = replace(wanted, addresses=(IPv4Address("10.0.1.77"),))
    run("ip", "route", "add", "10.0.1.77", "dev", "lo")
    with lab.pods.begun(pod.fd) as begun:
        begun.make_pair(wish(wanted))
        with pytest.raises(AddressInUse):
            lab.pods.wire(pod.fd, taken, begun)
        wired = lab.pods.wire(pod.fd, wanted, begun)

    assert lab.pods.inspect(pod.fd, wanted) == wired
    assert host_veths() == [wired.host_ifname]


def test_a_leftover_of_the_key_under_another_name_goes_and_the_pod_is_wired(lab: Lab) -> None:
    old, pod, wanted = lab.make_netns(), lab.make_netns(), wiring()
    unnamed = replace(wanted, pod_namespace="", pod_name="")
    lab.pods.wire(old.fd, unnamed)
    with lab.pods.begun(pod.fd) as begun:
        begun.make_pair(wish(wanted))
        wired = lab.pods.wire(pod.fd, wanted, begun)

    assert host_veths() == [wired.host_ifname]
    assert lab.pods.inspect(pod.fd, wanted) == wired


def test_the_host_end_of_a_pod_with_ipv4_alone_knows_no_ipv6(lab: Lab) -> None:
    for _ in range(2):  # the second pair is made with the first pod's families in mind
        pod, wanted = lab.make_netns(), wiring()
        with lab.pods.begun(pod.fd) as begun:
            begun.make_pair(wish(wanted))
            wired = lab.pods.wire(pod.fd, wanted, begun)

        assert "inet6" not in run("ip", "address", "show", "dev", wired.host_ifname)
        routes = run("ip", "-6", "route", "show", "table", "all", "dev", wired.host_ifname)
        assert routes == ""
        pod.ip("link", "delete", "eth0")


def test_a_sweep_does_not_take_an_early_pair_for_a_leftover(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    with lab.pods.begun(pod.fd) as begun:
        begun.make_pair(wish(wanted))
        removed = [lab.pods.remove_leftover(seen) for seen in lab.pods.observe()]
        wired = lab.pods.wire(pod.fd, wanted, begun)

    assert removed == [False]
    assert lab.pods.inspect(pod.fd, wanted) == wired


def test_a_rule_for_the_address_in_the_early_list_is_a_foreign_use(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring()
    run("ip", "rule", "add", "from", str(wanted.addresses[0]), "table", "99", "pref", "700")
    with lab.pods.begun(pod.fd) as begun:
        begun.list_rules()
        with pytest.raises(AddressInUse, match="rule 700 to table 99"):
            lab.pods.wire(pod.fd, wanted, begun)


def test_an_early_list_of_rules_that_is_old_by_now_is_made_anew(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    pod, wanted = lab.make_netns(), wiring()
    with lab.pods.begun(pod.fd) as begun:
        begun.list_rules()
        run("ip", "rule", "add", "to", str(wanted.addresses[0]), "table", "99", "pref", "700")
        monkeypatch.setattr("cni_shim.datapath.begun.RULES_SECONDS", -1.0)
        with pytest.raises(AddressInUse, match="rule 700 to table 99"):
            lab.pods.wire(pod.fd, wanted, begun)


def test_an_early_list_of_rules_serves_one_address_alone(lab: Lab) -> None:
    pod, wanted = lab.make_netns(), wiring(mark=SECONDARY.mark)
    taken = replace(wanted, addresses=(IPv4Address("10.0.1.77"),))
    run("ip", "route", "add", "10.0.1.77", "dev", "lo")
    with lab.pods.begun(pod.fd) as begun:
        begun.list_rules()
        with pytest.raises(AddressInUse):
            lab.pods.wire(pod.fd, taken, begun)
        run("ip", "rule", "add", "to", str(wanted.addresses[0]), "table", "99", "pref", "700")
        with pytest.raises(AddressInUse, match="rule 700"):
            lab.pods.wire(pod.fd, wanted, begun)
