"""Rules and routes for pods that other plugins wire, on a real kernel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest
from cni_shim.datapath import messages
from cni_shim.datapath.delegated_pods import DelegatedPods
from cni_shim.datapath.delegation import Delegation, bridge_sysctls, wanted_rules
from cni_shim.datapath.errors import AddressInUse, DatapathError
from cni_shim.datapath.messages import Request
from cni_shim.datapath.netlink import NetlinkSocket
from cni_shim.datapath.observe import observe_pods
from cni_shim.spec import AttachmentKey

from tests.netns.datapath_lab import BOTH, Lab, open_lab, run, wiring

pytestmark = pytest.mark.netns

KEY = AttachmentKey(container_id="c1", ifname="eth0")
OTHER = AttachmentKey(container_id="c2", ifname="eth0")
A, A6, B = IPv4Address("10.0.1.50"), IPv6Address("2001:db8::50"), IPv4Address("10.0.1.51")
PTP = Delegation(addresses=(A, A6), table=2, main_type="ptp")
BRIDGE = Delegation(addresses=(A,), table=2, main_type="bridge", bridge="cni0")
IPVLAN = Delegation(addresses=(B,), table=254, main_type="ipvlan")


@dataclass(kw_only=True)
class Node:
    """The lab's node, and what this module is about."""

    lab: Lab
    delegates: DelegatedPods

    def anew(self) -> DelegatedPods:
        """As after a restart of vpc-cnid."""
        return DelegatedPods(self.lab.netlink)


@pytest.fixture
def node() -> Iterator[Node]:
    with open_lab() as opened:
        opened.host.apply(BOTH)
        run("ip", "link", "add", "cni0", "type", "bridge")
        run("ip", "link", "set", "cni0", "up")
        yield Node(lab=opened, delegates=DelegatedPods(opened.netlink))


def standing() -> list[str]:
    """Our rules and routes for other plugins' pods, as iproute2 lists them."""
    lines = [
        line
        for family in ("-4", "-6")
        for what in (["rule"], ["route", "show", "table", "all"])
        for line in run("ip", family, *what).splitlines()
    ]
    return sorted(" ".join(line.split()) for line in lines if "proto 120" in line)


WHOLE_PTP = [
    "1536: from 10.0.1.50 lookup 2 proto 120",
    "1536: from 2001:db8::50 lookup 2 proto 120",
    "512: from all to 10.0.1.50 lookup main proto 120",
    "512: from all to 2001:db8::50 lookup main proto 120",
]
WHOLE_BRIDGE = [
    "10.0.1.50 dev cni0 table 5120 proto 120 scope link",
    "1536: from 10.0.1.50 lookup 2 proto 120",
]


@pytest.mark.parametrize(
    ("delegation", "whole"), [(PTP, WHOLE_PTP), (BRIDGE, WHOLE_BRIDGE)], ids=["ptp", "bridge"]
)
def test_what_is_put_stands_and_what_is_removed_is_gone(
    node: Node, delegation: Delegation, whole: list[str]
) -> None:
    node.delegates.put(KEY, delegation, is_repeat=False)
    assert (standing(), node.delegates.check(delegation)) == (whole, ())
    assert node.delegates.remove(KEY, delegation.addresses)
    assert (standing(), node.delegates.remove(KEY, delegation.addresses)) == ([], False)


@pytest.mark.parametrize(
    ("delegation", "whole"), [(PTP, WHOLE_PTP), (BRIDGE, WHOLE_BRIDGE)], ids=["ptp", "bridge"]
)
@pytest.mark.parametrize("is_restarted", [False, True], ids=["same", "restarted"])
def test_what_somebody_deletes_is_told_and_put_back(
    node: Node, delegation: Delegation, whole: list[str], *, is_restarted: bool
) -> None:
    node.delegates.put(KEY, delegation, is_repeat=False)
    delegates = node.anew() if is_restarted else node.delegates
    known = Delegation(addresses=delegation.addresses, table=delegation.table)
    delegates.recall(KEY, known)
    run("ip", "rule", "del", "from", str(A))
    if delegation is BRIDGE:
        run("ip", "route", "del", str(A), "table", "5120")
    else:
        run("ip", "rule", "del", "to", str(A))
    assert "missing: add rule 1536" in delegates.check(delegation)
    delegates.mend()
    assert standing() == whole


def test_what_the_kernel_cannot_tell_at_a_restart_is_mended_as_far_as_ipamd_knows_it(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.delegates.put(KEY, PTP, is_repeat=False)
    later = node.anew()

    def refuse(self: NetlinkSocket, request: Request) -> list[bytes]:
        raise DatapathError(request.op, 4, "the table changed during every try")

    monkeypatch.setattr(NetlinkSocket, "dump_raw", refuse)
    later.recall(KEY, Delegation(addresses=PTP.addresses, table=PTP.table))
    monkeypatch.undo()
    run("ip", "rule", "del", "from", str(A))
    later.mend()
    assert standing() == WHOLE_PTP


def test_nothing_is_put_back_after_a_del(node: Node) -> None:
    node.delegates.put(KEY, PTP, is_repeat=False)
    node.delegates.remove(KEY, ())
    node.delegates.mend()
    assert standing() == []


def test_a_refusal_while_mending_is_left_to_the_next_look(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    node.delegates.put(KEY, PTP, is_repeat=False)
    run("ip", "rule", "del", "from", str(A))

    def refuse(self: NetlinkSocket, requests: tuple[Request, ...]) -> None:
        raise DatapathError(requests[0].op, 12)

    monkeypatch.setattr(NetlinkSocket, "execute", refuse)
    node.delegates.mend()
    assert standing() != WHOLE_PTP
    monkeypatch.undo()
    node.delegates.mend()
    assert standing() == WHOLE_PTP


FOREIGN_USES = {
    "another agent's route": ("route", "add", str(A), "dev", "cni0"),
    "another agent's rule": ("rule", "add", "from", str(A), "lookup", "77"),
}


@pytest.mark.parametrize("case", FOREIGN_USES)
def test_an_address_that_the_node_uses_is_refused_and_nothing_is_put(node: Node, case: str) -> None:
    run("ip", *FOREIGN_USES[case])
    with pytest.raises(AddressInUse):
        node.delegates.put(KEY, PTP, is_repeat=False)
    assert standing() == []


def test_a_pod_of_ours_never_gets_an_address_that_such_a_rule_names(node: Node) -> None:
    node.delegates.put(KEY, IPVLAN, is_repeat=False)
    pod = node.lab.make_netns()
    with pytest.raises(AddressInUse):
        node.lab.pods.wire(pod.fd, wiring(addresses=(B,)))


def test_a_put_that_the_kernel_refuses_half_way_leaves_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    execute = NetlinkSocket.execute

    def refuse(self: NetlinkSocket, requests: tuple[Request, ...]) -> None:
        if requests[0] == messages.add_rule(wanted_rules(PTP)[-1]):
            raise DatapathError(requests[0].op, 12)
        execute(self, requests)

    monkeypatch.setattr(NetlinkSocket, "execute", refuse)
    with pytest.raises(DatapathError, match="1536"):
        node.delegates.put(KEY, PTP, is_repeat=False)
    monkeypatch.undo()
    node.delegates.mend()
    assert standing() == []


def test_the_rules_of_unknown_addresses_go_and_those_of_known_ones_stay(node: Node) -> None:
    node.delegates.put(KEY, PTP, is_repeat=False)
    node.delegates.put(OTHER, IPVLAN, is_repeat=False)
    later = node.anew()
    later.recall(OTHER, IPVLAN)
    later.remove_unknown((A, A6, B))
    assert standing() == ["1536: from 10.0.1.51 lookup 5120 proto 120"]


def test_neither_the_hosts_repair_nor_the_search_for_leftovers_touches_them(node: Node) -> None:
    node.delegates.put(KEY, PTP, is_repeat=False)
    node.delegates.put(OTHER, IPVLAN, is_repeat=False)
    before = standing()
    node.lab.host.apply(BOTH)
    observed = observe_pods(node.lab.netlink.socket())
    assert standing() == before
    assert {o.address for o in observed} == {A, A6, B}
    assert not any(o.is_ours for o in observed)


def test_a_route_over_a_bridge_is_seen_as_no_sign_of_a_living_link(node: Node) -> None:
    node.delegates.put(KEY, BRIDGE, is_repeat=False)
    (found,) = observe_pods(node.lab.netlink.socket())
    assert (found.address, found.ifindex, found.is_ours) == (A, 0, False)


def test_the_node_answers_at_once_on_the_bridge_for_what_is_elsewhere(node: Node) -> None:
    node.delegates.put(KEY, BRIDGE, is_repeat=False)
    for name, value in bridge_sysctls("cni0"):
        assert (Path("/proc/sys/net") / name).read_text().strip() == value
