"""Which pods have an ENI of their own, and what is made of their annotation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import pytest
from cni_shim.attempt import Attempt
from cni_shim.branch import ANNOTATION, PodFacts, annotated, link_of, required
from cni_shim.datapath import branch as kernel
from cni_shim.datapath import names
from cni_shim.datapath.branch import Branch, BranchLink
from cni_shim.datapath.errors import DatapathError
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_only import IpamOnly
from cni_shim.own_enis import OwnEnis
from cni_shim.results import to_document
from cni_shim.spec import AttachmentKey, CniRequest, Pod
from cni_shim.wanted import WantedNetwork
from hypothesis import given
from hypothesis import strategies as st
from ipam_api.v1 import ipam_pb2 as pb

from tests.cni_bench import Bench, away

ENTRY: Mapping[str, Any] = {
    "eniId": "eni-0b1",
    "ifAddress": "02:AA:00:00:00:07",
    "privateIp": "10.0.7.107",
    "ipv6Addr": "",
    "vlanID": 7,
    "subnetCidr": "10.0.7.0/24",
    "subnetV6Cidr": "",
}
TRUNK = pb.NodeEni(eni_id="eni-trunk", mac="02:00:00:00:00:33", is_trunk=True, device_index=2)


def annotation(**changed: object) -> dict[str, str]:
    entry = {k: v for k, v in {**ENTRY, **changed}.items() if v is not None}
    return {ANNOTATION: json.dumps([entry])}


def network(mode: str = "strict", *, gateway_v6: str = "", trunk: bool = True) -> pb.NodeNetwork:
    primary = pb.NodeEni(eni_id="eni-0", is_primary=True, gateway_v6=gateway_v6)
    return pb.NodeNetwork(
        policy=pb.HostPolicy(pod_eni_mode=mode), enis=[primary, *([TRUNK] if trunk else [])]
    )


def test_the_annotation_becomes_a_branch_eni() -> None:
    found = annotated(annotation())
    assert found is not None
    assert (found.eni_id, found.mac, found.vlan_id) == ("eni-0b1", "02:aa:00:00:00:07", 7)
    assert link_of(found, network(), mtu=9001) == BranchLink(
        branch=Branch(
            vlan_id=7,
            is_strict=True,
            gateways=(IPv4Address("10.0.7.1"),),
            addresses=(IPv4Address("10.0.7.107"),),
        ),
        mac="02:aa:00:00:00:07",
        trunk_mac="02:00:00:00:00:33",
        mtu=9001,
    )


@pytest.mark.parametrize("key", ["vlanID", "vlanId"])
@pytest.mark.parametrize("value", [7, "7"], ids=repr)
def test_the_vlan_id_may_be_a_number_or_a_text_under_either_name(key: str, value: object) -> None:
    found = annotated(annotation(**{"vlanID": None, key: value}))
    assert found is not None and found.vlan_id == 7


def test_on_a_node_of_ipv6_the_pod_has_its_ipv6_address() -> None:
    found = annotated(annotation(ipv6Addr="2001:db8::7", subnetV6Cidr="2001:db8::/64"))
    assert found is not None
    branch = link_of(found, network(gateway_v6="fe80:ec2::1"), mtu=9001).branch
    assert branch.addresses == (IPv6Address("2001:db8::7"),)
    assert branch.gateways == (IPv6Address("fe80:ec2::1"),)


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("{", CniErrorCode.INVALID_NETWORK_CONFIG, "it is no JSON"),
        ('{"eniId": "x"}', CniErrorCode.INVALID_NETWORK_CONFIG, "no array of objects"),
        ("[1]", CniErrorCode.INVALID_NETWORK_CONFIG, "no array of objects"),
        ("[" * 100_000, CniErrorCode.INVALID_NETWORK_CONFIG, "it is no JSON"),
        ("[]", CniErrorCode.TRY_AGAIN_LATER, "it is empty"),
    ],
    ids=["no JSON", "an object", "a number", "too deep", "empty"],
)
def test_what_is_no_list_of_enis_is_refused(text: str, code: CniErrorCode, said: str) -> None:
    error = refused(lambda: annotated({ANNOTATION: text}))
    assert error.code is code and said in error.details


WRONG, LATER = CniErrorCode.INVALID_NETWORK_CONFIG, CniErrorCode.TRY_AGAIN_LATER


@pytest.mark.parametrize(
    ("changed", "code", "said"),
    [
        ({"eniId": ""}, LATER, "eniId is missing"),
        ({"eniId": 5}, WRONG, "eniId is no text"),
        ({"ifAddress": None}, LATER, "ifAddress is missing"),
        ({"ifAddress": "02:aa"}, WRONG, "is no MAC"),
        ({"vlanID": None}, LATER, "vlanID is missing"),
        ({"vlanID": 0}, LATER, "vlanID is missing"),
        ({"vlanID": 4095}, WRONG, "1 to 4094"),
        ({"vlanID": -1}, WRONG, "1 to 4094"),
        ({"vlanID": True}, WRONG, "1 to 4094"),
        ({"vlanID": "seven"}, WRONG, "1 to 4094"),
        ({"vlanID": "7777777777"}, WRONG, "1 to 4094"),
        ({"privateIp": "10.0.7"}, WRONG, "privateIp='10.0.7' cannot be"),
        ({"privateIp": "2001:db8::1"}, WRONG, "is not IPv4"),
        ({"privateIp": "10.0.8.1"}, WRONG, "is not in subnetCidr"),
        ({"subnetCidr": "10.0.7.5/24"}, WRONG, "subnetCidr='10.0.7.5/24' cannot be"),
        ({"ipv6Addr": "::g"}, WRONG, "ipv6Addr='::g' cannot be"),
    ],
    ids=str,
)
def test_a_field_that_is_wrong_or_missing_is_named(
    changed: dict[str, object], code: CniErrorCode, said: str
) -> None:
    error = refused(lambda: annotated(annotation(**changed)))
    assert error.code is code and said in error.details


@pytest.mark.parametrize(
    ("changed", "node", "said"),
    [
        ({"privateIp": ""}, network(), "no privateIp and subnetCidr, and pods of this node have"),
        ({"subnetCidr": ""}, network(), "no privateIp and subnetCidr"),
        ({}, network(gateway_v6="fe80:ec2::1"), "no ipv6Addr, and pods of this node have IPv6"),
        ({}, network(trunk=False), "the VPC resource controller attaches it"),
    ],
    ids=["no IPv4", "no subnet", "no IPv6", "no trunk"],
)
def test_what_the_node_lacks_for_it_is_said(
    changed: dict[str, object], node: pb.NodeNetwork, said: str
) -> None:
    found = annotated(annotation(**changed))
    assert found is not None
    error = refused(lambda: link_of(found, node, mtu=9001))
    assert error.code is LATER and said in error.details


CODES = (WRONG, LATER)


def outcome(call: Any) -> object:
    """What it returns, or the code of its CniError."""
    try:
        return call()
    except CniError as e:
        return e.code


@given(st.text() | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_any_annotation_is_an_eni_or_a_cni_error(text: str) -> None:
    assert outcome(lambda: annotated({ANNOTATION: text})) in (None, *CODES)


@given(
    st.fixed_dictionaries(
        {key: st.none() | st.booleans() | st.integers() | st.text() for key in ENTRY}
    )
)
def test_any_field_is_taken_or_a_cni_error(entry: dict[str, object]) -> None:

    def wired() -> BranchLink:
        found = annotated({ANNOTATION: json.dumps([entry])})
        assert found is not None
        return link_of(found, network(), mtu=9001)

    found = outcome(wired)
    assert found in CODES or isinstance(found, BranchLink)


@pytest.mark.parametrize(
    ("facts", "uid", "said"),
    [
        (PodFacts(uid="u", annotations={}, wants_branch=True), "u", "is not annotated yet"),
        (PodFacts(uid="v", annotations=annotation(), wants_branch=True), "u", "been replaced"),
    ],
    ids=["not yet", "another pod of the name"],
)
def test_a_pod_that_cannot_be_told_must_wait(facts: PodFacts, uid: str, said: str) -> None:
    error = refused(lambda: required(facts, uid))
    assert error.code is LATER and said in f"{error.msg}; {error.details}"


@pytest.mark.parametrize("is_strict", [True, False])
def test_the_alias_says_all_that_stands(is_strict: bool) -> None:
    wanted = Branch(
        vlan_id=4094,
        is_strict=is_strict,
        gateways=(IPv4Address("10.0.7.1"), IPv6Address("fe80:ec2::1")),
        addresses=(IPv4Address("10.0.7.107"), IPv6Address("ffff:" * 7 + "ffff")),
    )
    alias = kernel.alias_of(wanted)
    assert kernel.branch_of(alias, wanted.group) == wanted
    assert len(alias) < 255


@pytest.mark.parametrize(
    ("alias", "group"),
    [
        ("", names.branch_group(7)),
        ("vpc-ipamd-branch/1/strict/10.0.7.1/10.0.7.7", names.link_group(2)),
        ("vpc-ipamd-branch/1/strict/10.0.7.1", names.branch_group(7)),
        ("vpc-ipamd-branch/1/strict/x/10.0.7.7", names.branch_group(7)),
        ("vpc-ipamd-branch/1/strict/fe80::1/10.0.7.7", names.branch_group(7)),
        ("vpc-ipamd-branch/2/strict/10.0.7.1/10.0.7.7", names.branch_group(7)),
    ],
)
def test_other_links_are_no_branch(alias: str, group: int) -> None:
    assert kernel.branch_of(alias, group) is None


@pytest.mark.parametrize("vlan_id", [1, 7, 127, 4094])
def test_a_branchs_group_is_ours_and_no_enis(vlan_id: int) -> None:
    group = names.branch_group(vlan_id)
    assert names.is_our_group(group) and names.vlan_of_group(group) == vlan_id
    assert names.mark_of_group(group) == 0
    assert names.vlan_of_group(names.link_group(2)) == 0
    assert names.is_branch_table(names.branch_table(vlan_id))


class FakeLookup:
    """An API server's word, or its refusal; who was asked for."""

    def __init__(self, answer: PodFacts | CniError) -> None:
        self.answer = answer
        self.asked: list[str] = []

    def facts(self, namespace: str, name: str, *, deadline_monotonic: float) -> PodFacts:
        self.asked.append(f"{namespace}/{name}")
        if isinstance(self.answer, CniError):
            raise self.answer
        return self.answer


ORDINARY = PodFacts(uid="u", annotations={}, wants_branch=False)


class BranchNode:
    """Verbs of a node with such ENIs, whose pod has these annotations from its runtime."""

    def __init__(
        self,
        from_runtime: Mapping[str, str],
        answer: PodFacts | CniError = ORDINARY,
        wanted: pb.NodeNetwork | None = None,
    ) -> None:
        self.lookup = FakeLookup(answer)
        self.own = OwnEnis(WantedNetwork(wanted or network()), lambda: self.lookup)
        self.bench = Bench(own_enis=self.own)
        self.request = replace(self.bench.request(), pod_annotations=from_runtime)

    def add(self, request: CniRequest | None = None, attempt: Attempt | None = None) -> str:
        attempt = attempt or self.bench.attempt()
        result = self.bench.verbs.add(request or self.request, 3, attempt)
        return str(result.ips[0].address)


def test_an_annotated_pod_is_wired_without_ipamd_and_the_api_server() -> None:
    node = BranchNode(annotation())
    assert node.add() == "10.0.7.107/32"
    assert node.bench.diary == ["wire 10.0.7.107 VLAN 7"]
    assert node.lookup.asked == []


@pytest.mark.parametrize("has_link", [True, False], ids=["wired", "gone with its namespace"])
def test_a_del_forgets_the_pod(has_link: bool) -> None:
    node = BranchNode(annotation())
    attempt = node.bench.attempt()
    node.add(attempt=attempt)
    if not has_link:
        node.bench.datapath.branches.clear()
        node.bench.datapath.links.clear()
    node.bench.delete()
    assert not node.own.is_of(attempt.key, attempt.attempt_id)


def test_a_pod_without_an_annotation_is_asked_for() -> None:
    node = BranchNode({}, PodFacts(uid="u", annotations=annotation(), wants_branch=True))
    assert node.add() == "10.0.7.107/32"
    assert node.lookup.asked == ["default/web"]


def test_an_ordinary_pod_gets_an_ordinary_address() -> None:
    assert BranchNode({}).add() == "10.0.0.5/32"


AWAY = CniError(CniErrorCode.TRY_AGAIN_LATER, "it cannot be told")


@pytest.mark.parametrize(
    ("from_runtime", "answer"),
    [
        ({}, AWAY),
        ({}, PodFacts(uid="u", annotations={}, wants_branch=True)),
        ({ANNOTATION: "[]"}, ORDINARY),
        ({ANNOTATION: "?"}, ORDINARY),
    ],
    ids=["API server away", "not annotated yet", "empty annotation", "bad annotation"],
)
def test_a_pod_that_may_have_its_own_eni_never_gets_an_ordinary_address(
    from_runtime: dict[str, str], answer: PodFacts | CniError
) -> None:
    node = BranchNode(from_runtime, answer)
    refused(node.add)
    assert node.bench.diary == []


@pytest.mark.parametrize(
    "changed",
    [
        {"pod": Pod()},
        {"key": AttachmentKey(container_id="c1", ifname="net1")},
    ],
    ids=["no pod", "a further attachment"],
)
def test_who_cannot_have_a_branch_is_not_asked_for(changed: dict[str, Any]) -> None:
    node = BranchNode({}, AWAY)
    request = replace(node.request, **changed)
    assert request.key is not None
    attempt = Attempt(request.key, node.bench.ipam, deadline_monotonic=time.monotonic() + 10)
    assert node.add(request, attempt) == "10.0.0.5/32"


def test_without_the_mode_nothing_is_asked() -> None:
    assert BranchNode(annotation(), AWAY, network(mode="")).add() == "10.0.0.5/32"


def test_another_main_plugin_cannot_serve_it() -> None:
    node = BranchNode(annotation())
    request = replace(node.request, ipam_only=IpamOnly(main_type="ptp"))
    assert refused(lambda: node.add(request)).code is WRONG


def test_a_del_needs_neither_ipamd_nor_annotation() -> None:
    node = BranchNode(annotation())
    node.add()
    node.bench.diary.clear()
    node.bench.ipam.script = {"get": [away()], "release": [away()]}
    node.bench.delete()
    assert node.bench.diary == ["unwire nothing of web"]
    assert not node.bench.datapath.links


def test_a_wiring_that_fails_leaves_nothing_and_no_allocation() -> None:
    node = BranchNode(annotation())
    node.bench.datapath.script["wire"] = [DatapathError("create VLAN link vlan.eth.7", 95)]
    error = refused(node.add)
    assert error.code is CniErrorCode.INTERFACE_SETUP
    assert not node.bench.ipam.held and not node.bench.datapath.links


def test_a_cancelled_add_is_undone() -> None:
    node = BranchNode(annotation())
    attempt = node.bench.attempt()
    node.bench.datapath.during_wire = attempt.cancel
    refused(lambda: node.add(attempt=attempt))
    assert not node.bench.datapath.links


def test_an_answer_that_could_not_be_delivered_is_undone_unless_another_try_came() -> None:
    node = BranchNode(annotation())
    first, second = node.bench.attempt(), node.bench.attempt()
    node.add(attempt=first)
    node.add(attempt=second)
    node.bench.verbs.undo_locked(node.request, first)
    assert node.bench.datapath.links
    node.bench.verbs.undo_locked(node.request, second)
    assert not node.bench.datapath.links


def test_a_check_goes_by_the_kernel_alone() -> None:
    node = BranchNode(annotation())
    result = node.bench.verbs.add(node.request, 3, node.bench.attempt())
    node.bench.ipam.script = {"get": [away()]}
    node.bench.check(to_document(result, "1.0.0"))
    node.bench.datapath.missing = ("the VLAN link vlan.eth.7 is down",)
    error = refused(lambda: node.bench.check(to_document(result, "1.0.0")))
    assert error.code is CniErrorCode.CHECK_MISMATCH and "is down" in error.details


def refused(call: Any) -> CniError:
    with pytest.raises(CniError) as caught:
        call()
    return caught.value
