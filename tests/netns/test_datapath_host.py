from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from queue import SimpleQueue

import pytest
from cni_shim.datapath import firewall
from cni_shim.datapath.desired import DesiredEni, DesiredHost, EniReadiness
from cni_shim.datapath.diff import diff
from cni_shim.datapath.host import observe
from cni_shim.datapath.notices import LinkChanged, LinkNotices, LinkVanished, Notice, NoticesLost

from tests.netns.datapath_lab import BOTH, PRIMARY, SECONDARY, Lab, open_lab, run, wiring

pytestmark = pytest.mark.netns

ONLY_PRIMARY = DesiredHost(enis=(PRIMARY,))
READY = (
    EniReadiness(eni_id="eni-0", is_ready=True, link_name="ens5", message=""),
    EniReadiness(eni_id="eni-1", is_ready=True, link_name="ens6", message=""),
)


@pytest.fixture
def lab() -> Iterator[Lab]:
    with open_lab() as opened:
        yield opened


def remaining(lab: Lab, desired: DesiredHost) -> list[str]:
    actions = diff(observe(lab.netlink.socket(), desired), desired)
    return [type(action).__name__ for action in actions]


def test_a_bare_node_becomes_ready(lab: Lab) -> None:
    assert lab.host.apply(BOTH) == READY


def test_applying_again_finds_nothing_to_do(lab: Lab) -> None:
    lab.host.apply(BOTH)
    assert remaining(lab, BOTH) == []


def test_the_secondary_eni_is_set_up_as_stated(lab: Lab) -> None:
    lab.host.apply(BOTH)
    assert run("ip", "route", "show", "table", "2").split("\n")[:2] == [
        "default via 10.0.1.1 dev ens6 proto 119 ",
        "10.0.1.1 dev ens6 proto 119 scope link ",
    ]
    rules = [line.replace("\t", " ").rstrip() for line in run("ip", "rule").splitlines()]
    assert rules[1:3] + rules[-3:-2] == [
        "512: from all lookup 5120 proto 119",
        "1536: from all fwmark 0x2/0x7f lookup 2 proto 119",
        "32765: from 10.0.1.10 lookup 2 proto 119",
    ]
    assert "mtu 9001" in run("ip", "link", "show", "dev", "ens6")
    assert "inet 10.0.1.10/32" in run("ip", "address", "show", "dev", "ens6")
    assert "ens6" not in run("ip", "route", "show", "table", "main")


def test_forwarding_and_loose_reverse_path_filters_are_set(lab: Lab) -> None:
    lab.host.apply(BOTH)
    net = Path("/proc/sys/net/ipv4")
    paths = ("ip_forward", "conf/ens5/rp_filter", "conf/ens6/rp_filter")
    assert [(net / path).read_text().strip() for path in paths] == ["1", "2", "2"]


@pytest.mark.parametrize(
    "damage",
    [
        ("ip", "rule", "delete", "pref", "512"),
        ("ip", "rule", "delete", "pref", "1536"),
        ("ip", "rule", "delete", "pref", "32765"),
        ("ip", "route", "flush", "table", "2"),
        ("ip", "route", "delete", "default", "table", "2"),
        ("ip", "address", "flush", "dev", "ens6"),
        ("ip", "address", "add", "10.0.1.10/24", "dev", "ens6"),
        ("ip", "route", "add", "10.0.1.0/24", "dev", "ens6", "proto", "kernel"),
        ("ip", "link", "set", "ens6", "down"),
        ("ip", "link", "set", "ens6", "mtu", "1500"),
        ("nft", "flush", "ruleset"),
        ("nft", "flush", "table", "inet", "vpc-ipamd"),
        ("nft", "flush", "chain", "inet", "vpc-ipamd", "mark-pods"),
        ("sysctl", "-q", "-w", "net.ipv4.ip_forward=0"),
        ("sysctl", "-q", "-w", "net.ipv4.conf.ens6.rp_filter=1"),
    ],
    ids=" ".join,
)
def test_damage_is_seen_and_repaired(lab: Lab, damage: tuple[str, ...]) -> None:
    lab.host.apply(BOTH)
    run(*damage)
    assert remaining(lab, BOTH) != []
    assert lab.host.apply(BOTH) == READY


def test_pods_on_the_secondary_eni_work_again_after_a_flush_of_nft(lab: Lab) -> None:
    lab.host.apply(BOTH)
    pod, wanted = lab.make_netns(), wiring(mark=2)
    lab.pods.wire(pod.fd, wanted)
    run("nft", "flush", "ruleset")
    assert not lab.can_reach_outside(pod, SECONDARY, wanted.addresses[0])
    lab.host.apply(BOTH)
    assert lab.can_reach_outside(pod, SECONDARY, wanted.addresses[0])


def test_the_mark_keeps_the_bits_of_others(lab: Lab) -> None:
    lab.host.apply(BOTH)
    run("nft", "table ip other { chain early { type filter hook prerouting priority -200;"
        " meta mark set 0xffffffff;\n}\nchain late { type filter hook prerouting priority -140;"
        " meta mark 0xffffff82 counter name seen;\n}\ncounter seen { }\n}\n")  # fmt: skip
    pod, wanted = lab.make_netns(), wiring(mark=2)
    lab.pods.wire(pod.fd, wanted)
    lab.can_reach_outside(pod, SECONDARY, wanted.addresses[0])
    assert "packets 0" not in run("nft", "list", "counter", "ip", "other", "seen")


def test_an_unchanged_nft_table_is_not_replaced(lab: Lab) -> None:
    lab.host.apply(BOTH)
    before = run("nft", "-a", "list", "table", "inet", "vpc-ipamd")
    lab.host.apply(BOTH)
    assert run("nft", "-a", "list", "table", "inet", "vpc-ipamd") == before


def test_a_missing_link_is_said_and_stops_no_other(lab: Lab) -> None:
    run("ip", "link", "delete", "ens6")
    first, second = lab.host.apply(BOTH)
    assert first == READY[0]
    assert second == EniReadiness(
        eni_id="eni-1", is_ready=False, link_name="", message="no link with MAC 02:00:00:00:00:11"
    )


def test_a_link_that_appears_late_and_renamed_is_taken(lab: Lab) -> None:
    run("ip", "link", "delete", "ens6")
    lab.host.apply(BOTH)
    lab.attach_eni(SECONDARY)
    run("ip", "link", "set", "ens6", "name", "eth77")
    assert lab.host.apply(BOTH)[1] == replace(READY[1], link_name="eth77")


def test_links_keep_their_mtu_where_none_is_chosen(lab: Lab) -> None:
    run("ip", "link", "set", "ens6", "mtu", "1500")
    first, second = lab.host.apply(replace(BOTH, eni_mtu=None))
    assert "mtu 1500" in run("ip", "link", "show", "dev", "ens6")
    assert (first.is_ready, second.is_ready, second.mtu) == (True, True, 1500)


def test_an_eni_that_the_system_has_set_up_at_boot_becomes_ready(lab: Lab) -> None:
    """As on Azure, where all NICs are there at boot: up, with DHCP's address and routes."""
    for command in (
        "link set ens6 up",
        "address add 10.0.1.10/24 dev ens6",
        "address add 10.0.1.101/24 dev ens6",  # of a pod to come, by the metadata service
        "route add default via 10.0.1.1 dev ens6 metric 200",
        "route add 168.63.129.16 via 10.0.1.1 dev ens6 metric 200",
    ):
        run("ip", *command.split())
    assert lab.host.apply(BOTH) == READY
    assert remaining(lab, BOTH) == []
    pod, wanted = lab.make_netns(), wiring(mark=2)
    assert str(wanted.addresses[0]) == "10.0.1.101"
    lab.pods.wire(pod.fd, wanted)
    assert lab.can_reach_outside(pod, SECONDARY, wanted.addresses[0])


def test_addresses_of_pods_on_the_nodes_links_are_found(lab: Lab) -> None:
    """As cloud-init or a distribution configures what the metadata service lists."""
    for where in ("10.0.0.77/24 dev ens5", "10.0.1.78/32 dev lo", "10.0.1.79/24 dev ens6"):
        run("ip", "address", "add", *where.split())
    lab.host.apply(BOTH)
    found = {(str(stray.address), stray.link_name) for stray in lab.host.strays}
    assert found == {("10.0.0.77", "ens5"), ("10.0.1.78", "lo")}  # ens6 has its own alone by now
    run("ip", "address", "delete", "10.0.0.77/24", "dev", "ens5")
    run("ip", "address", "delete", "10.0.1.78/32", "dev", "lo")
    lab.host.apply(BOTH)
    assert lab.host.strays == ()


def add_vf(eni: DesiredEni) -> None:
    """A link with the ENI's MAC that has a master, as a VF has: here a bridge of the same MAC."""
    run("ip", "link", "add", "enP1s1", "address", eni.mac, "type", "veth", "peer", "name", "vf-far")
    run("ip", "link", "add", "vf-nic", "address", eni.mac, "type", "bridge")
    run("ip", "link", "set", "enP1s1", "master", "vf-nic", "up")


def remove_vf() -> None:
    run("ip", "link", "delete", "enP1s1")
    run("ip", "link", "delete", "vf-nic")


def test_a_vf_with_the_enis_mac_is_passed_over(lab: Lab) -> None:
    run("ip", "link", "delete", "ens6")
    add_vf(SECONDARY)  # older than the ENI's own link
    lab.attach_eni(SECONDARY)
    assert lab.host.apply(BOTH) == READY


def test_nothing_is_to_do_and_nothing_cut_while_a_vf_comes_and_goes(lab: Lab) -> None:
    lab.host.apply(BOTH)
    pod, wanted = lab.make_netns(), wiring(mark=2)
    lab.pods.wire(pod.fd, wanted)
    for change in (lambda: add_vf(SECONDARY), remove_vf) * 2:
        change()
        assert remaining(lab, BOTH) == []
        assert lab.can_reach_outside(pod, SECONDARY, wanted.addresses[0])


def test_a_link_that_came_back_gets_its_routes_again(lab: Lab) -> None:
    lab.host.apply(BOTH)
    run("ip", "link", "delete", "ens6")
    lab.attach_eni(SECONDARY)
    assert lab.host.apply(BOTH) == READY


def test_a_removed_eni_loses_its_rules_routes_and_marks(lab: Lab) -> None:
    lab.host.apply(BOTH)
    assert lab.host.apply(ONLY_PRIMARY) == READY[:1]
    assert run("ip", "route", "show", "table", "all").count("table 2") == 0
    assert [line for line in run("ip", "rule").splitlines() if "lookup 2" in line] == []
    assert "10.0.1.10" not in run("ip", "address", "show", "dev", "ens6")
    assert firewall.read_comments() is None


def test_an_eni_that_moves_to_another_table_leaves_nothing_in_the_old(lab: Lab) -> None:
    lab.host.apply(BOTH)
    moved = DesiredHost(enis=(PRIMARY, replace(SECONDARY, device_index=2, route_table_id=3)))
    assert lab.host.apply(moved) == READY
    assert "table 2" not in run("ip", "route", "show", "table", "all")
    assert remaining(lab, moved) == []


def test_a_changed_gateway_replaces_our_route(lab: Lab) -> None:
    lab.host.apply(BOTH)
    changed = DesiredHost(enis=(PRIMARY, replace(SECONDARY, gateway=IPv4Address("10.0.1.2"))))
    assert lab.host.apply(changed) == READY
    assert "10.0.1.1 " not in run("ip", "route", "show", "table", "2")


def test_foreign_rules_and_routes_are_left_alone(lab: Lab) -> None:
    run("ip", "rule", "add", "from", "10.9.9.9", "lookup", "77", "pref", "1536")
    run("ip", "route", "add", "10.8.0.0/16", "dev", "ens5", "table", "77")
    lab.host.apply(BOTH)
    lab.host.apply(ONLY_PRIMARY)
    assert "10.9.9.9" in run("ip", "rule")
    assert "10.8.0.0/16" in run("ip", "route", "show", "table", "77")


def test_a_foreign_default_route_in_an_enis_table_is_replaced(lab: Lab) -> None:
    """The table is ours, and was aws-node's before us; other tables are not looked at."""
    run("ip", "route", "add", "default", "via", "10.0.0.1", "dev", "ens5", "table", "2")
    assert lab.host.apply(BOTH) == READY
    assert "via 10.0.1.1 dev ens6" in run("ip", "route", "show", "table", "2", "default")


def test_applying_leaves_the_pods_routes_alone(lab: Lab) -> None:
    lab.host.apply(BOTH)
    pod, wanted = lab.make_netns(), wiring()
    lab.pods.wire(pod.fd, wanted)
    lab.host.apply(ONLY_PRIMARY)
    assert lab.pods.inspect(pod.fd, wanted) is not None


def test_an_eni_on_another_card_is_not_ready_and_says_why(lab: Lab) -> None:
    other = replace(SECONDARY, network_card=1, route_table_id=10101)
    assert lab.host.apply(DesiredHost(enis=(PRIMARY, other)))[1].message == (
        "network card 1: only ENIs on card 0 can serve pods"
    )


def test_without_nft_the_secondary_is_not_ready_and_the_primary_is(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    first, second = lab.host.apply(BOTH)
    assert first.is_ready
    assert "nft is not installed" in second.message


def next_about(heard: SimpleQueue[Notice], kind: type, ifname: str) -> Notice:
    while True:
        notice = heard.get(timeout=5)
        if (
            isinstance(notice, LinkChanged | LinkVanished)
            and isinstance(notice, kind)
            and notice.link.ifname == ifname
        ):
            return notice


def test_an_eni_that_appears_and_vanishes_is_heard(lab: Lab) -> None:
    heard: SimpleQueue[Notice] = SimpleQueue()
    lab.notices.subscribe(heard.put)
    run("ip", "link", "delete", "ens6")
    gone = next_about(heard, LinkVanished, "ens6")
    lab.attach_eni(SECONDARY)
    back = next_about(heard, LinkChanged, "ens6")
    assert isinstance(gone, LinkVanished)
    assert isinstance(back, LinkChanged)
    assert back.link.mac == SECONDARY.mac


def test_host_veths_of_ours_are_heard_only_when_they_vanish(lab: Lab) -> None:
    heard: SimpleQueue[Notice] = SimpleQueue()
    lab.notices.subscribe(heard.put)
    wanted = wiring()
    wired = lab.pods.wire(lab.make_netns().fd, wanted)
    lab.pods.remove_leftover(lab.pods.observe()[0])
    run("ip", "link", "set", "ens6", "up")
    kinds = []
    while True:
        notice = heard.get(timeout=5)
        assert isinstance(notice, LinkChanged | LinkVanished)
        if notice.link.ifname == wired.host_ifname:
            kinds.append(type(notice))
        if notice.link.ifname == "ens6":
            break
    assert kinds == [LinkVanished]


def test_lost_notices_are_told(lab: Lab) -> None:
    heard: SimpleQueue[Notice] = SimpleQueue()
    notices = LinkNotices()
    notices.subscribe(heard.put)
    notices._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    for state in ("up", "down") * 10:
        run("ip", "link", "set", "ens6", state)
    notices.start()
    while not isinstance(heard.get(timeout=5), NoticesLost):
        pass
    notices.close()
    assert not notices._thread.is_alive()
