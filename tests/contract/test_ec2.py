"""What only EC2 has: its calls, their number and their faults, on the emulator."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Any
from unittest import mock

import pytest
from botocore.parsers import ResponseParserError

from ipamd.api_calls import ApiCall
from ipamd.cloud import AddressChange, InterfaceRequest
from ipamd.errors import Denied, Throttled, Transient
from ipamd.model import EniId
from providers.aws import tags as t
from providers.aws.config import AwsConfig
from providers.aws.provider import AwsProvider
from providers.sim.ec2_state import Delays
from providers.sim.faults import FaultKind
from tests.contract.conftest import Emulated, emulated
from tests.sim.lab import Lab

TOKEN = "5f000000-0123456789abcdef0123"
RESERVED = IPv4Network("10.0.1.64/26")


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A provider that has looked around, and what it called since."""

    provider: AwsProvider
    lab: Lab
    calls: list[ApiCall]

    def request(self, token: str = TOKEN, **more: Any) -> InterfaceRequest:
        node = self.provider.discover_node()
        wanted = {"secondary_addresses": 3, "device_index": 1, "network_card": 0, **more}
        return InterfaceRequest(
            token=token,
            subnet_id=node.primary_subnet_id,
            security_group_ids=node.security_group_ids,
            reason="test",
            **wanted,
        )

    def called(self) -> list[str]:
        return [c.api for c in self.calls]

    def fault(self, api: str, kind: FaultKind, **more: Any) -> None:
        self.lab.emulator.faults.add(api, kind, **more)


MakeNode = Callable[..., Node]


@pytest.fixture
def make(on_ec2: Emulated) -> Iterator[MakeNode]:
    """Makes a node with its provider by configuration."""
    made: list[AwsProvider] = []

    def node(**config: Any) -> Node:
        calls: list[ApiCall] = []
        provider = AwsProvider(AwsConfig(cluster_name="c1", **config), tell=calls.append)
        made.append(provider)
        provider.snapshot()
        calls.clear()
        return Node(provider=provider, lab=on_ec2.lab, calls=calls)

    with mock.patch.dict(os.environ, on_ec2.environ):
        yield node
        for provider in made:
            provider.close()


@pytest.fixture
def node(make: MakeNode) -> Node:
    return make()


def reserve(node: Node) -> None:
    """Reserve a block of the subnet for prefixes."""
    node.lab.ec2.create_subnet_cidr_reservation(
        SubnetId=node.lab.subnet_id, Cidr=str(RESERVED), ReservationType="prefix"
    )


def test_an_eni_takes_four_calls(node: Node) -> None:
    node.provider.create_interface(node.request())
    assert node.called() == [
        "CreateNetworkInterface",
        "AttachNetworkInterface",
        "ModifyNetworkInterfaceAttribute",
        "DescribeNetworkInterfaces",
    ]


def test_removing_one_takes_three(node: Node) -> None:
    made = node.provider.create_interface(node.request())
    node.calls.clear()
    node.provider.delete_interface(made.eni_id)
    assert Counter(node.called()) == Counter(
        ["DescribeNetworkInterfaces", "DetachNetworkInterface", "DeleteNetworkInterface"]
    )


def test_a_first_look_with_its_subnets_takes_three_calls(make: MakeNode) -> None:
    node = make()
    fresh = AwsProvider(AwsConfig(), tell=node.calls.append)
    fresh.snapshot()
    fresh.subnets((fresh.discover_node().primary_subnet_id,))
    fresh.close()
    assert node.called() == [
        "DescribeNetworkInterfaces",
        "DescribeSubnets",
        "DescribeNetworkInterfaces",
    ]


def test_enis_are_made_in_parallel(node: Node) -> None:
    wanted = [node.request(f"{TOKEN}{n}", device_index=n) for n in (1, 2)]
    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(node.provider.create_interface, wanted))
    assert {e.device_index for e in made} == {1, 2}


def test_an_eni_carries_the_tags_and_goes_with_its_instance(make: MakeNode) -> None:
    node = make(extra_eni_tags=(("team", "blue"),))
    made = node.provider.create_interface(node.request())
    shown = node.lab.shown(made.eni_id)
    assert t.from_list(shown["TagSet"]) == {
        "team": "blue",
        t.TAG_INSTANCE: node.provider.discover_node().instance_id,
        t.TAG_CREATED: t.created_text(0x5F000000),
        t.TAG_CLUSTER: "c1",
        t.TAG_OWNER: t.OWNER,
    }
    assert shown["Description"] == f"aws-K8S-{node.provider.discover_node().instance_id}"
    assert shown["Attachment"]["DeleteOnTermination"] is True


def test_an_untagged_eni_is_managed_only_where_that_is_wanted(make: MakeNode) -> None:
    node = make(manages_untagged_enis=False)
    made = node.lab.eni()
    node.lab.attach(made, node.provider.discover_node().instance_id)
    managed = {e.eni_id: e.is_managed for e in node.provider.snapshot().enis}
    assert managed.pop(EniId(made)) is False
    assert list(managed.values()) == [True]


def test_without_discovery_only_the_primarys_subnet_is_a_candidate(
    make: MakeNode, on_ec2: Emulated
) -> None:
    node = make(discovers_subnets=False)
    own = node.provider.discover_node().primary_subnet_id
    found = node.provider.subnets((own, on_ec2.subnets[0]))
    assert {s.subnet_id: s.is_candidate for s in found} == {own: True, on_ec2.subnets[0]: False}


# Where an ENI's own address goes.


def test_an_enis_own_address_stays_out_of_reservations(make: MakeNode) -> None:
    node = make(uses_prefixes=True)
    reserve(node)
    made = [
        node.provider.create_interface(
            node.request(f"5f00000{n}-x", device_index=n, secondary_addresses=0, prefixes=1)
        )
        for n in (1, 2)
    ]
    assert all(e.primary_address not in RESERVED for e in made)
    assert all(p.subnet_of(RESERVED) for e in made for p in e.prefixes)  # type: ignore[arg-type]
    assert node.called().count("GetSubnetCidrReservations") == 1


def test_a_repeat_with_a_chosen_address_is_the_same_eni(make: MakeNode) -> None:
    node = make(uses_prefixes=True)
    reserve(node)
    first = node.provider.create_interface(node.request())
    assert node.provider.create_interface(node.request()) == first
    assert make(uses_prefixes=True).provider.create_interface(node.request()) == first


def test_an_address_that_others_have_is_passed_over(make: MakeNode) -> None:
    node = make(uses_prefixes=True)
    reserve(node)
    first = node.provider.create_interface(node.request())
    node.provider.delete_interface(first.eni_id)
    node.lab.eni(PrivateIpAddress=str(first.primary_address))
    request = node.request("5f000009-other")
    with mock.patch("providers.aws.interfaces.placement.candidates") as candidates:
        candidates.return_value = (first.primary_address, first.primary_address + 1)
        made = node.provider.create_interface(request)
        again = node.provider.create_interface(request)
    assert made == again
    assert made.primary_address == first.primary_address + 1


def test_ec2_chooses_when_every_candidate_is_taken(make: MakeNode) -> None:
    node = make(uses_prefixes=True)
    reserve(node)
    taken = node.provider.snapshot().enis[0].primary_address
    with mock.patch("providers.aws.interfaces.placement.candidates", return_value=(taken,)):
        made = node.provider.create_interface(node.request())
    assert made.primary_address != taken


def test_a_policy_that_hides_reservations_is_tolerated_and_asked_once(make: MakeNode) -> None:
    node = make(uses_prefixes=True)
    node.fault("GetSubnetCidrReservations", FaultKind.ERROR, code="UnauthorizedOperation")
    for n in (1, 2):
        node.provider.create_interface(node.request(f"5f00000{n}-x", device_index=n))
    assert node.called().count("GetSubnetCidrReservations") == 1


def test_a_policy_that_hides_subnets_leaves_the_node_working(make: MakeNode) -> None:
    node = make()
    node.fault("DescribeSubnets", FaultKind.ERROR, code="UnauthorizedOperation")
    fresh = AwsProvider(AwsConfig(uses_prefixes=True))
    (primary,) = fresh.snapshot().enis
    assert str(primary.subnet_cidr) == "10.0.1.0/24"
    assert str(primary.subnet_cidr_v6) == "2001:db8:0:101::/64"
    assert fresh.create_interface(node.request()).device_index == 1
    with pytest.raises(Denied):
        fresh.subnets((primary.subnet_id,))
    fresh.close()


def test_a_policy_that_hides_types_leaves_the_bundled_limits(make: MakeNode) -> None:
    node = make()
    node.fault("DescribeInstanceTypes", FaultKind.ERROR, code="UnauthorizedOperation")
    limits = node.provider.limits()
    assert (limits.max_enis, limits.addresses_per_eni, limits.has_prefixes) == (3, 10, True)


def test_the_limits_are_asked_for_once(node: Node) -> None:
    assert node.provider.limits() == node.provider.limits()
    assert node.called() == ["DescribeInstanceTypes"]


def test_without_prefixes_reservations_are_not_asked_for(node: Node) -> None:
    node.provider.create_interface(node.request())
    assert "GetSubnetCidrReservations" not in node.called()


# Faults.


@pytest.mark.parametrize(
    "api",
    ["CreateNetworkInterface", "AttachNetworkInterface", "ModifyNetworkInterfaceAttribute"],
)
@pytest.mark.parametrize("kind", [FaultKind.TIMEOUT_BEFORE, FaultKind.TIMEOUT_AFTER])
def test_a_lost_answer_and_a_repeat_make_one_eni(node: Node, api: str, kind: FaultKind) -> None:
    node.fault(api, kind, seconds=0.05, count=1)
    try:
        node.provider.create_interface(node.request())
    except Transient:
        node.provider.create_interface(node.request())
    assert len(node.provider.snapshot().enis) == 2


def test_a_lost_answer_of_an_assign_is_transient_and_told_apart(node: Node) -> None:
    node.fault("AssignPrivateIpAddresses", FaultKind.TIMEOUT_AFTER, seconds=0.05, count=1)
    primary = node.provider.discover_node().primary_eni_id
    with pytest.raises(Transient):
        node.provider.apply(AddressChange(eni_id=primary, add=2))
    assert node.calls[-1].code == "ConnectionClosedError"
    assert node.calls[-1].status == 0


@pytest.mark.parametrize("api", ["AttachNetworkInterface", "ModifyNetworkInterfaceAttribute"])
def test_a_denied_step_leaves_no_eni(node: Node, api: str) -> None:
    node.fault(api, FaultKind.ERROR, code="UnauthorizedOperation", message="no")
    with pytest.raises(Denied, match=f"{api}: UnauthorizedOperation: no"):
        node.provider.create_interface(node.request())
    assert len(node.provider.snapshot().enis) == 1


@pytest.mark.parametrize("api", ["AttachNetworkInterface", "ModifyNetworkInterfaceAttribute"])
def test_a_throttled_step_keeps_the_eni_for_the_repeat(node: Node, api: str) -> None:
    node.fault(api, FaultKind.THROTTLE, count=1)
    with pytest.raises(Transient):
        node.provider.create_interface(node.request())
    made = node.provider.create_interface(node.request())
    assert {made.eni_id} < {e.eni_id for e in node.provider.snapshot().enis}
    assert len(node.provider.snapshot().enis) == 2


def test_a_throttle_is_told_and_has_no_effect(node: Node) -> None:
    node.fault("AssignPrivateIpAddresses", FaultKind.THROTTLE, count=1)
    primary = node.provider.discover_node().primary_eni_id
    with pytest.raises(Throttled):
        node.provider.apply(AddressChange(eni_id=primary, add=2))
    (call,) = node.calls
    assert (call.api, call.code, call.status, call.is_throttled) == (
        "AssignPrivateIpAddresses",
        "RequestLimitExceeded",
        503,
        True,
    )


def test_what_ec2_does_not_show_yet_is_waited_for(node: Node) -> None:
    node.lab.emulator.state.delays = Delays(attach_seconds=0.1, visibility_seconds=1.0)
    made = node.provider.create_interface(node.request())
    assert made.device_index == 1


def test_an_undo_deletes_what_ec2_does_not_show_yet(node: Node) -> None:
    node.lab.emulator.state.delays = Delays(attach_seconds=0.1, visibility_seconds=1.0)
    node.fault("AttachNetworkInterface", FaultKind.ERROR, code="UnauthorizedOperation")
    before = node.lab.free()
    with pytest.raises(Denied):
        node.provider.create_interface(node.request())
    assert node.lab.free() == before


def test_an_answer_that_is_no_xml_is_transient(node: Node) -> None:
    error = ResponseParserError("invalid XML received")
    with (
        mock.patch("botocore.parsers.EC2QueryParser.parse", side_effect=error),
        pytest.raises(Transient, match="invalid XML"),
    ):
        node.provider.snapshot()


# Several network cards.


@pytest.fixture
def carded() -> Iterator[Node]:
    """A p4d.24xlarge: four cards of 15 ENIs."""
    for cloud in emulated("p4d.24xlarge"):
        calls: list[ApiCall] = []
        with mock.patch.dict(os.environ, cloud.environ):
            provider = AwsProvider(AwsConfig(), tell=calls.append)
            yield Node(provider=provider, lab=cloud.lab, calls=calls)
            provider.close()


def test_each_card_has_its_enis(carded: Node) -> None:
    limits = carded.provider.limits()
    assert (limits.max_enis, limits.card_enis, limits.has_prefixes) == (15, (15,) * 4, True)


def test_index_0_of_another_card_is_no_primary(carded: Node) -> None:
    made = carded.provider.create_interface(carded.request(device_index=0, network_card=1))
    assert (made.device_index, made.network_card, made.is_primary) == (0, 1, False)
    assert [e.is_primary for e in carded.provider.snapshot().enis].count(True) == 1


@pytest.mark.parametrize("kind", ["efa", "efa-only"])
def test_an_efa_is_shown_and_left_alone(carded: Node, kind: str) -> None:
    made = carded.lab.eni(InterfaceType=kind)
    node = carded.provider.discover_node().instance_id
    carded.lab.attach(made, node, NetworkCardIndex=1)
    (shown,) = [e for e in carded.provider.snapshot().enis if e.eni_id == made]
    assert (shown.interface_type, shown.is_managed, shown.addresses) == (kind, False, ())


def test_a_cidr_that_the_vpc_gets_is_in_the_next_hint_and_costs_no_call(make: MakeNode) -> None:
    node = make()
    added = IPv4Network("100.64.0.0/16")
    vpc_id = node.provider.discover_node().vpc_id
    assert added not in node.provider.hint().vpc_cidrs
    node.calls.clear()
    node.lab.emulator.backend.associate_vpc_cidr_block(vpc_id, str(added), False)  # noqa: FBT003 - moto
    assert added in node.provider.hint().vpc_cidrs
    assert node.called() == []
