"""Pods with prefixes' addresses and IPv6, alone and beside IPv4, on a VPC that checks sources."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import Queue

import pytest
from cni_shim.datapath import messages
from cni_shim.datapath.desired import EniReadiness
from cni_shim.datapath.diff import diff
from cni_shim.datapath.errors import AddressInUse, DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.host import observe
from cni_shim.datapath.identity import encode_alias
from cni_shim.datapath.notices import LinkNotices, Notice, RuleVanished
from cni_shim.datapath.wiring import PodWiring, host_requests, pod_requests, veth_pair

from providers.sim import netns
from providers.sim.model import WiredEni
from tests.netns.datapath_lab import Netns, run
from tests.netns.vpc_lab import (
    DESIRED,
    FAR,
    ONLY_IPV4,
    PRIMARY,
    SECONDARY,
    VpcLab,
    open_vpc_lab,
    pod_addresses,
    wiring,
)

pytestmark = pytest.mark.netns

READY = (
    EniReadiness(eni_id="eni-a0", is_ready=True, link_name="eth0", message=""),
    EniReadiness(eni_id="eni-a1", is_ready=True, link_name="eth1", message=""),
)
OUTSIDE: list[Address] = [FAR.primary_address, FAR.addresses_v6[0]]


@pytest.fixture
def lab() -> Iterator[VpcLab]:
    with open_vpc_lab() as opened:
        apply_until_ready(opened)
        yield opened


def apply_until_ready(lab: VpcLab) -> None:
    """A link gets its link-local address shortly after it came up."""
    deadline = time.monotonic() + 5
    while (readiness := lab.host.apply(DESIRED)) != READY:
        assert time.monotonic() < deadline, readiness


def unwire(lab: VpcLab, pod: PodWiring) -> bool:
    return lab.pods.unwire(
        pod.container_id,
        pod.ifname,
        pod.pod_namespace,
        pod.pod_name,
        pod.veth_prefix,
        pod.addresses,
    )


def host_veths() -> list[str]:
    lines = run("ip", "-o", "link", "show", "type", "veth").splitlines()
    names = [line.split(": ")[1].split("@")[0] for line in lines]
    return [name for name in names if not name.startswith("eth")]


def traces(pod: PodWiring) -> list[str]:
    """Lines of the kernel's tables that name the pod's addresses."""
    listed = (
        run("ip", "-4", "route", "show", "table", "all")
        + run("ip", "-6", "route", "show", "table", "all")
        + run("ip", "rule")
        + run("ip", "-6", "rule")
        + run("ip", "-6", "neigh")
    )
    texts = [str(address) for address in pod.addresses]
    return [line for line in listed.splitlines() if any(text in line for text in texts)]


def test_applying_again_finds_nothing_to_do(lab: VpcLab) -> None:
    assert diff(observe(lab.netlink.socket(), DESIRED), DESIRED) == ()


def test_the_secondary_eni_has_its_ipv6_table_and_rules(lab: VpcLab) -> None:
    table = [line.split(" metric")[0] for line in run("ip", "-6", "route", "show", "table",
             "2").splitlines()]  # fmt: skip
    rules = [line.replace("\t", " ").rstrip() for line in run("ip", "-6", "rule").splitlines()]
    assert table == [
        "fe80:ec2::1 dev eth1 proto 119",
        "default via fe80:ec2::1 dev eth1 proto 119",
    ]
    assert rules[1:4] == [
        "512: from all lookup 5120 proto 119",
        "1536: from all fwmark 0x2/0x7f lookup 2 proto 119",
        f"32765: from {SECONDARY.addresses_v6[0]} lookup 2 proto 119",
    ]


def test_settings_of_ipv6_are_as_stated(lab: VpcLab) -> None:
    conf = Path("/proc/sys/net/ipv6/conf")
    names = ("all/forwarding", "eth0/accept_ra", "eth1/accept_ra", "eth1/accept_dad")
    assert [(conf / name).read_text().strip() for name in names] == ["1", "2", "0", "0"]


@pytest.mark.parametrize(
    "damage",
    [
        ("ip", "-6", "rule", "delete", "pref", "512"),
        ("ip", "-6", "rule", "delete", "pref", "1536"),
        ("ip", "-6", "rule", "delete", "pref", "32765"),
        ("ip", "-6", "route", "flush", "table", "2"),
        ("ip", "-6", "route", "delete", "default", "table", "2"),
        ("ip", "-6", "address", "flush", "dev", "eth1", "scope", "global"),
        ("ip", "address", "add", "2001:db8:0:b::99/64", "dev", "eth1", "nodad"),
        ("ip", "link", "set", "eth1", "down"),
        ("nft", "flush", "ruleset"),
        ("sysctl", "-q", "-w", "net.ipv6.conf.all.forwarding=0"),
        ("sysctl", "-q", "-w", "net.ipv6.conf.eth0.accept_ra=1"),
    ],
    ids=" ".join,
)
def test_damage_is_seen_and_repaired(lab: VpcLab, damage: tuple[str, ...]) -> None:
    run(*damage)
    assert diff(observe(lab.netlink.socket(), DESIRED), DESIRED) != ()
    apply_until_ready(lab)
    assert diff(observe(lab.netlink.socket(), DESIRED), DESIRED) == ()


def test_back_to_ipv4_leaves_no_rule_route_or_address_of_ipv6(lab: VpcLab) -> None:
    assert lab.host.apply(ONLY_IPV4) == READY
    listed = run("ip", "-6", "rule") + run("ip", "-6", "route", "show", "table", "all")
    addresses = run("ip", "-6", "address", "show", "dev", "eth1", "scope", "global")
    assert ("119" in listed, addresses) == (False, "")


@pytest.mark.parametrize("families", ["4", "6", "46"])
@pytest.mark.parametrize("eni", [PRIMARY, SECONDARY], ids=["primary", "secondary"])
def test_a_pod_reaches_the_outside_the_node_and_its_neighbours(
    lab: VpcLab, eni: WiredEni, families: str
) -> None:
    wanted = [wiring(1, eni, families), wiring(2, PRIMARY, families)]
    wanted.append(wiring(3, SECONDARY, families))
    pods = [lab.make_netns() for _ in wanted]
    for pod, one in zip(pods, wanted, strict=True):
        lab.pods.wire(pod.fd, one)
    targets = [*OUTSIDE, PRIMARY.primary_address, PRIMARY.addresses_v6[0]]
    targets += [address for one in wanted[1:] for address in one.addresses]

    answers = lab.answers([(pods[0], source) for source in wanted[0].addresses], targets)

    assert (answers, lab.drops()) == ([True] * 4 * len(families), [])


def test_the_outside_and_the_node_reach_a_pod_that_never_spoke(lab: VpcLab) -> None:
    wanted = wiring(1, SECONDARY)
    lab.pods.wire(lab.make_netns().fd, wanted)
    far, node = Netns(name="v6-far", fd=-1), Netns(name="v6-node", fd=-1)
    sources = [(far, address) for address in OUTSIDE]
    sources += [(node, PRIMARY.primary_address), (node, PRIMARY.addresses_v6[0])]
    assert lab.answers(sources, list(wanted.addresses)) == [True] * 4
    assert lab.drops() == []


@pytest.mark.parametrize("families", ["6", "46"])
def test_a_pod_marked_for_the_wrong_eni_is_dropped_by_the_vpc(lab: VpcLab, families: str) -> None:
    pod, wanted = lab.make_netns(), wiring(1, SECONDARY, families, mark=0)
    lab.pods.wire(pod.fd, wanted)
    sources = [(pod, address) for address in wanted.addresses]
    assert lab.answers(sources, OUTSIDE, 0.3) == [False] * len(families)
    assert set(lab.drops()) == {("eni-a0", "ip", str(address)) for address in wanted.addresses}


def test_pods_work_again_after_a_flush_of_nft(lab: VpcLab) -> None:
    pod, wanted = lab.make_netns(), wiring(1, SECONDARY)
    lab.pods.wire(pod.fd, wanted)
    sources = [(pod, address) for address in wanted.addresses]
    run("nft", "flush", "ruleset")
    assert lab.answers(sources, OUTSIDE, 0.3) == [False, False]
    lab.host.apply(DESIRED)
    assert lab.answers(sources, OUTSIDE) == [True, True]


def test_an_ipv6_address_can_be_used_when_the_add_is_answered(lab: VpcLab) -> None:
    """Duplicate detection would take a second; the kernel's own local route takes milliseconds."""
    wanted = wiring(1, PRIMARY, "6")
    for _ in range(20):
        pod = lab.make_netns()
        lab.pods.wire(pod.fd, wanted)
        assert lab.answers([(pod, wanted.addresses[0])], OUTSIDE, 0.3) == [True]
        assert "tentative" not in pod.ip("address", "show", "dev", "eth0", "scope", "global")
        local = pod.ip("-6", "route", "show", "table", "local", "proto", "119")
        assert f"local {wanted.addresses[0]} dev eth0" in local
        unwire(lab, wanted)


def test_an_eni_that_cannot_ask_for_its_ipv6_gateway_is_not_ready(lab: VpcLab) -> None:
    run("ip", "-6", "address", "flush", "dev", "eth1", "scope", "link")
    first, second = lab.host.apply(DESIRED)
    assert first == READY[0]
    assert second == replace(READY[1], is_ready=False, message="eth1 has no IPv6 link-local address"
                             " yet, and cannot find its gateway")  # fmt: skip


def test_the_pod_has_one_gateway_and_no_subnet(lab: VpcLab) -> None:
    pod, wanted = lab.make_netns(), wiring(1, PRIMARY, "6")
    wired = lab.pods.wire(pod.fd, wanted)
    routes = pod.ip("-6", "route", "show").splitlines()
    assert [line.split(" metric")[0] for line in routes if not line.startswith("fe80::/64")] == [
        "default via fe80::1 dev eth0 proto 119",
    ]
    neighbours = pod.ip("-6", "neigh", "show")
    assert f"fe80::1 dev eth0 lladdr {wired.host_mac} PERMANENT" in neighbours


def test_a_pod_without_ipv6_gets_none_from_us(lab: VpcLab) -> None:
    pod, wanted = lab.make_netns(), wiring(1, PRIMARY, "4")
    wired = lab.pods.wire(pod.fd, wanted)
    assert pod.ip("-6", "address", "show", "scope", "global") == ""
    assert run("ip", "-6", "neigh", "show", "dev", wired.host_ifname) == ""
    assert "inet6" not in run("ip", "address", "show", "dev", wired.host_ifname)


def test_the_host_believes_no_router_advertisement_of_a_pod(lab: VpcLab) -> None:
    netns.set_sysctl("ipv6/conf/default/accept_ra", 2)
    wired = lab.pods.wire(lab.make_netns().fd, wiring(1, PRIMARY, "6"))
    name = Path(f"/proc/sys/net/ipv6/conf/{wired.host_ifname}/accept_ra")
    assert name.read_text() == "0\n"


def test_ipv6_is_switched_on_in_a_namespace_that_has_it_off(lab: VpcLab) -> None:
    pod, wanted = lab.make_netns(), wiring(1, SECONDARY, "6")
    for scope in ("all", "default", "lo"):
        run("ip", "netns", "exec", pod.name, "sysctl", "-q", "-w",
            f"net.ipv6.conf.{scope}.disable_ipv6=1")  # fmt: skip
    lab.pods.wire(pod.fd, wanted)
    assert lab.answers([(pod, wanted.addresses[0])], OUTSIDE) == [True]
    assert "::1/128" in pod.ip("-6", "address", "show", "dev", "lo")


def test_an_mtu_below_ipv6s_least_is_refused_with_the_setting_to_change(lab: VpcLab) -> None:
    with pytest.raises(DatapathError, match="the MTU is 1279, IPv6 needs 1280"):
        lab.pods.wire(lab.make_netns().fd, wiring(1, PRIMARY, "6", mtu=1279))
    assert host_veths() == []


def test_a_pods_address_can_be_used_at_once(lab: VpcLab) -> None:
    pod, wanted = lab.make_netns(), wiring(1, SECONDARY, "6")
    for scope in ("all", "default"):
        run("ip", "netns", "exec", pod.name, "sysctl", "-q", "-w",
            f"net.ipv6.conf.{scope}.accept_dad=1")  # fmt: skip
    lab.pods.wire(pod.fd, wanted)
    shown = pod.ip("-6", "address", "show", "dev", "eth0", "scope", "global")
    assert f"{wanted.addresses[0]}/128" in shown
    assert "tentative" not in shown


@pytest.mark.parametrize("mtu", [1280, 1500, 9001])
@pytest.mark.parametrize("families", ["4", "6", "46"])
def test_both_ends_have_the_mtu_and_the_macs_that_follow_from_the_pod(
    lab: VpcLab, families: str, mtu: int
) -> None:
    pod, wanted = lab.make_netns(), wiring(1, PRIMARY, families, mtu=mtu)
    wired = lab.pods.wire(pod.fd, wanted)
    inside = pod.ip("-o", "link", "show", "eth0")
    outside = run("ip", "-o", "link", "show", wired.host_ifname)
    assert f" mtu {mtu} " in inside
    assert f" mtu {mtu} " in outside
    assert f"link/ether {wired.pod_mac}" in inside
    assert f"link/ether {wired.host_mac}" in outside
    assert wired.pod_mac == "0a:58:" + wanted.addresses[0].packed[-4:].hex(":")


@pytest.mark.parametrize("families", ["6", "46"])
def test_what_was_wired_is_what_inspect_sees(lab: VpcLab, families: str) -> None:
    pod, wanted = lab.make_netns(), wiring(1, SECONDARY, families)
    wired = lab.pods.wire(pod.fd, wanted)
    assert lab.pods.inspect(pod.fd, wanted) == wired


@pytest.mark.parametrize(
    "damage",
    [
        ("-6", "address", "flush", "dev", "eth0", "scope", "global"),
        ("-6", "route", "delete", "default"),
        ("-6", "neighbour", "delete", "fe80::1", "dev", "eth0"),
        ("-4", "route", "delete", "default"),
    ],
    ids=["address", "route", "neighbour", "ipv4-route"],
)
def test_inspect_sees_damage_inside_the_pod(lab: VpcLab, damage: tuple[str, ...]) -> None:
    pod, wanted = lab.make_netns(), wiring(1, PRIMARY)
    lab.pods.wire(pod.fd, wanted)
    pod.ip(*damage)
    assert lab.pods.inspect(pod.fd, wanted) is None


@pytest.mark.parametrize("what", ["neigh", "route"])
def test_inspect_sees_damage_on_the_host(lab: VpcLab, what: str) -> None:
    pod, wanted = lab.make_netns(), wiring(1, PRIMARY)
    wired = lab.pods.wire(pod.fd, wanted)
    place = [] if what == "neigh" else ["table", "5120"]
    run("ip", "-6", what, "delete", str(wanted.addresses[1]), "dev", wired.host_ifname, *place)
    assert lab.pods.inspect(pod.fd, wanted) is None
    (said,) = lab.pods.check(pod.fd, wanted)
    assert str(wanted.addresses[1]) in said


@pytest.mark.parametrize("families", ["6", "46"])
def test_a_wired_pod_misses_nothing(lab: VpcLab, families: str) -> None:
    pod, wanted = lab.make_netns(), wiring(1, SECONDARY, families)
    lab.pods.wire(pod.fd, wanted)
    assert lab.pods.check(pod.fd, wanted) == ()


@pytest.mark.parametrize("families", ["6", "46"])
def test_unwire_removes_everything_and_says_so_once(lab: VpcLab, families: str) -> None:
    pod, wanted = lab.make_netns(), wiring(1, SECONDARY, families)
    lab.pods.wire(pod.fd, wanted)
    assert len(traces(wanted)) >= len(families)
    assert [unwire(lab, wanted), unwire(lab, wanted)] == [True, False]
    assert (host_veths(), traces(wanted)) == ([], [])


def test_unwire_removes_ipv6_rules_of_ours_and_spares_others(lab: VpcLab) -> None:
    wanted = wiring(1, PRIMARY, "6")
    lab.pods.wire(lab.make_netns().fd, wanted)
    for protocol in ("119", "static"):
        run("ip", "-6", "rule", "add", "from", str(wanted.addresses[0]), "lookup", "3", "pref",
            "1536", "proto", protocol)  # fmt: skip
    assert unwire(lab, wanted)
    assert len(traces(wanted)) == 1
    assert "proto static" in traces(wanted)[0]


def build_partly(lab: VpcLab, pod: Netns, wanted: PodWiring, steps: int) -> int:
    """What a process leaves that is killed after so many messages; how many there would be."""
    pair = veth_pair(
        wanted, host_ifname=wanted.host_ifnames()[0], indexes=(5001, 5002), netns_fd=pod.fd
    )
    alias = encode_alias(wanted.identity(lab.pods.netns_cookie(pod.fd)))
    on_host = [
        messages.create_veth(pair),
        *host_requests(pair, alias, wanted.addresses, has_ipv6=True),
    ]
    in_pod = pod_requests(pair, wanted.addresses)
    for request in on_host[:steps]:
        lab.netlink.socket().execute((request,))
    with lab.netlink.pod_socket(pod.fd) as sock:
        for request in in_pod[: max(0, steps - len(on_host))]:
            sock.execute((request,))
    return len(on_host) + len(in_pod)


@pytest.mark.parametrize("families", ["6", "46"])
def test_a_half_wired_leftover_is_replaced_and_removed_at_every_step(
    lab: VpcLab, families: str
) -> None:
    wanted = wiring(1, SECONDARY, families)
    steps = 0
    while True:
        steps += 1
        pod = lab.make_netns()
        whole = build_partly(lab, pod, wanted, steps)
        assert (lab.pods.inspect(pod.fd, wanted) is not None) == (steps == whole)
        lab.pods.wire(pod.fd, wanted)
        assert len(host_veths()) == 1
        assert all(lab.answers([(pod, address) for address in wanted.addresses], OUTSIDE))
        assert unwire(lab, wanted)
        build_partly(lab, pod, wanted, steps)
        assert unwire(lab, wanted)
        assert (host_veths(), traces(wanted)) == ([], [])
        if steps == whole:
            break
    assert steps >= 9


@pytest.mark.parametrize(
    "occupy",
    [
        "-6 route add {a} dev eth0 table 5120",
        "-6 route add {a} dev eth0",
        "-6 rule add to {a} lookup main pref 512",
        "-6 rule add from {a} lookup 3 pref 1536",
        "-6 address add {a}/128 dev eth0 nodad",
    ],
    ids=["pod-table", "main", "rule-to", "rule-from", "node-address"],
)
@pytest.mark.parametrize("families", ["6", "46"])
def test_an_ipv6_address_that_the_node_uses_is_in_use(
    lab: VpcLab, families: str, occupy: str
) -> None:
    wanted = wiring(1, PRIMARY, families)
    run("ip", *occupy.format(a=wanted.addresses[-1]).split())
    with pytest.raises(AddressInUse) as caught:
        lab.pods.wire(lab.make_netns().fd, wanted)
    assert caught.value.address == wanted.addresses[-1]
    assert host_veths() == []


def test_an_ipv6_route_that_the_check_cannot_see_is_met_when_adding(lab: VpcLab) -> None:
    wanted = wiring(1, PRIMARY)
    run("ip", "-6", "rule", "delete", "pref", "512")
    run("ip", "-6", "route", "add", f"{wanted.addresses[1]}", "dev", "eth0", "table", "5120")
    with pytest.raises(AddressInUse, match="table 5120") as caught:
        lab.pods.wire(lab.make_netns().fd, wanted)
    assert (caught.value.address, host_veths()) == (wanted.addresses[1], [])


def test_observe_names_the_attachment_of_both_addresses(lab: VpcLab) -> None:
    wanted = wiring(1, SECONDARY)
    wired = lab.pods.wire(lab.make_netns().fd, wanted)
    seen = lab.pods.observe()
    assert tuple(pod.address for pod in seen) == wanted.addresses
    assert {(pod.link_name, pod.container_id, pod.is_ours) for pod in seen} == {
        (wired.host_ifname, wanted.container_id, True)
    }


def test_observe_sees_ipv6_addresses_of_another_agent(lab: VpcLab) -> None:
    (address,) = pod_addresses(PRIMARY, 9, "6")
    run("ip", "-6", "rule", "add", "to", str(address), "lookup", "main", "pref", "512")
    (seen,) = lab.pods.observe()
    assert (seen.address, seen.link_name, seen.is_ours) == (address, "", False)


def test_a_leftover_is_removed_by_either_of_its_addresses(lab: VpcLab) -> None:
    wanted = wiring(1, SECONDARY)
    lab.pods.wire(lab.make_netns().fd, wanted)
    first, second = lab.pods.observe()
    assert lab.pods.remove_leftover(second)
    assert not lab.pods.remove_leftover(first)
    assert (host_veths(), traces(wanted)) == ([], [])


def test_a_stray_ipv6_route_of_ours_is_removed_and_the_link_spared(lab: VpcLab) -> None:
    (address,) = pod_addresses(PRIMARY, 9, "6")
    run("ip", "-6", "route", "add", str(address), "dev", "eth0", "table", "5120", "proto", "119")
    (seen,) = lab.pods.observe()
    assert lab.pods.remove_leftover(seen)
    assert lab.pods.observe() == ()
    assert "eth0" in run("ip", "link")


def test_a_deleted_ipv6_rule_is_told_at_once(lab: VpcLab) -> None:
    heard: Queue[Notice] = Queue()
    notices = LinkNotices()
    notices.subscribe(heard.put)
    notices.start()
    try:
        run("ip", "-6", "rule", "delete", "pref", "1536")
        assert isinstance(heard.get(timeout=5), RuleVanished)
    finally:
        notices.close()


def test_twenty_pods_over_the_prefixes_of_two_enis_all_reach_each_other(lab: VpcLab) -> None:
    """Ten on each ENI, spread over both of its /28s: nothing in the kernel is told of a prefix."""
    wanted = [wiring(n, PRIMARY, "4") for n in range(11, 21)]
    wanted += [
        replace(wiring(n, SECONDARY, "4"), container_id=f"{n + 100:064x}", pod_name=f"far-{n}")
        for n in range(11, 21)
    ]
    pods = [lab.make_netns() for _ in wanted]
    for pod, one in zip(pods, wanted, strict=True):
        lab.pods.wire(pod.fd, one)
    sources = [(pod, one.addresses[0]) for pod, one in zip(pods, wanted, strict=True)]

    answers = lab.answers(sources, [*OUTSIDE, *(address for _, address in sources)])

    assert (len(answers), answers.count(False), lab.drops()) == (20 * 20, 0, [])
    prefixes = {p for _, address in sources for eni in (PRIMARY, SECONDARY) for p in eni.prefixes
                if address in p}  # fmt: skip
    assert len(prefixes) == 4
