"""What only Azure has: its refusals, full subnets, operations that fail or last, and the questions
that no document answers.

Each test runs for a NIC of a virtual machine and for one of a scale set's instance, unless it is
about one of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ipamd.cloud import AddressChange
from ipamd.errors import (
    Busy,
    CloudError,
    Denied,
    LimitReached,
    NoPrefixFree,
    SubnetExhausted,
    Throttled,
    Transient,
)
from ipamd.model import EniId, IPAddress
from providers.sim.arm_compute_state import FullAt, Style
from providers.sim.arm_faults import Applies, ArmFaultKind
from tests.contract.azure_node import (
    KINDS,
    PUT,
    READS,
    AzureNode,
    looked,
    on_instance,
    on_vm,
    texts,
)

K = ArmFaultKind
IMAGE = {"id": "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/images/i"}


@pytest.fixture(params=KINDS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AzureNode]:
    yield from looked(request.param, tmp_path)


@pytest.fixture
def two_nics(tmp_path: Path) -> Iterator[AzureNode]:
    yield from looked("vm", tmp_path, nics=2)


# Refusals.


LOCKS = [
    (409, "ConflictingConcurrentWriteNotAllowed"),
    (409, "OperationPreempted"),
    (409, "AnotherOperationInProgress"),
    (409, "Conflict"),
    (409, "SomethingNobodyKnows"),
    (412, "PreconditionFailed"),
    (429, "RetryableError"),
    (429, "RetryableErrorDueToAnotherOperation"),
    (429, "AnotherOperationInProgress"),
]
of_each_lock = pytest.mark.parametrize(("status", "code"), LOCKS, ids=str)


@of_each_lock
def test_a_lock_is_waited_for_and_the_write_is_made_anew(
    node: AzureNode, status: int, code: str
) -> None:
    node.fault(K.ERROR, status=status, code=code)
    assert len(node.grow(2)) == 2
    assert node.puts() == 2
    assert node.counted()[READS[node.kind][0]] >= 2
    assert len(node.held()) == 2


@of_each_lock
def test_a_lock_that_stays_is_busy_after_three_tries(
    node: AzureNode, status: int, code: str
) -> None:
    node.fault(K.ERROR, status=status, code=code, count=None)
    with pytest.raises(Busy) as refusal:
        node.grow(2)
    assert refusal.value.retry_after_seconds > 0
    assert refusal.value.eni_id == node.eni_id
    assert (node.puts(), node.held()) == (3, {})


def test_a_lock_of_one_nic_hurts_no_other(two_nics: AzureNode) -> None:
    node = two_nics
    node.fault(K.ERROR, status=429, code="RetryableError", retry_after_seconds=9, count=None)
    with pytest.raises(Busy):
        node.grow(1)
    other = EniId(node.lab.nics(node.machine_id)[1].nic_id.lower())
    began = node.lab.clock()
    assert node.provider.apply(AddressChange(eni_id=other, add=2)).added
    assert node.lab.clock() - began < 5.0
    assert len(node.provider.snapshot().enis) == 2


RATES = [("TooManyRequests", "provider"), ("SubscriptionRequestsThrottled", "front-door")]


@pytest.mark.parametrize("code", [code for code, _ in RATES], ids=[layer for _, layer in RATES])
def test_a_throttled_write_rests_as_long_as_arm_says(node: AzureNode, code: str) -> None:
    node.fault(K.ERROR, status=429, code=code, retry_after_seconds=40)
    with pytest.raises(Throttled) as refusal:
        node.grow(2)
    assert (refusal.value.code, refusal.value.retry_after_seconds) == (code, 40.0)
    for _ in range(5):
        with pytest.raises(Throttled):
            node.grow(2)
    assert node.puts() == 6
    assert sum(call.is_sent for call in node.calls if call.api == PUT[node.kind]) == 1
    assert node.look().addresses == ()  # reads have buckets of their own
    node.lab.advance(40.0)
    assert len(node.grow(2)) == 2


@on_instance
def test_an_instances_empty_bucket_is_throttled_and_names_the_wait(node: AzureNode) -> None:
    node.lab.world.set_buckets("real")
    node.make_instant()
    for _ in range(12):  # others spend it
        assert node.lab.write_model(node.instance).status == 200
    with pytest.raises(Throttled) as refusal:
        node.grow(2)
    assert refusal.value.code in ("OperationNotAllowed", "TooManyRequests")
    assert 1.0 <= refusal.value.retry_after_seconds <= 15.0
    node.lab.advance(16.0)
    assert len(node.grow(2)) == 2


def test_ten_minutes_of_throttling_cost_few_calls_and_lose_nothing(node: AzureNode) -> None:
    mine = node.grow(2)
    node.calls.clear()
    node.fault(K.ERROR, "*", "*", status=429, code="TooManyRequests", retry_after_seconds=30,
               count=None)  # fmt: skip
    until = node.lab.clock() + 600.0
    refused = 0
    while node.lab.clock() < until:  # a caller that does not heed what it is told
        with pytest.raises((Throttled, Transient)):
            node.grow(1)
        with pytest.raises((Throttled, Transient)):
            node.look()
        refused += 2
        node.lab.advance(5.0)
    sent = sum(call.is_sent for call in node.calls)
    assert sent <= 2 * (1 + 600 / 30) < refused, "two buckets at most, each rests 30 s"
    node.lab.world.arm.faults.clear()
    node.lab.advance(60.0)
    assert len(node.grow(1)) == 1
    assert set(mine) < set(node.look().addresses)


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (403, "AuthorizationFailed", "no action join", Denied),
        (403, "LinkedAuthorizationFailed", "no rights on the subnet", Denied),
        (409, "ScopeLocked", "the scope is locked", Denied),
        (409, "OperationNotAllowed", "the VM is being deleted", CloudError),
        (409, "OperationNotAllowed", "exceeding the quota limit", LimitReached),
        (400, "InventedToday", "more IP configurations than the limit", LimitReached),
        (400, "InvalidRequestFormat", "cannot parse", CloudError),
    ],
)
def test_a_refusal_that_time_does_not_cure_is_told_at_once(
    node: AzureNode, status: int, code: str, message: str, kind: type[CloudError]
) -> None:
    node.fault(K.ERROR, status=status, code=code, message=message, count=None)
    with pytest.raises(CloudError, match=message) as refusal:
        node.grow(1)
    assert type(refusal.value) is kind
    assert (node.puts(), node.held()) == (1, {})


def test_a_nic_that_takes_less_than_documented_says_so_and_takes_that(node: AzureNode) -> None:
    node.lab.set(nic_limit=5)
    with pytest.raises(CloudError, match="5 are allowed"):  # by which code nobody knows
        node.grow(5)
    assert len(node.grow(4)) == 4


# Full subnets.


@on_instance
@pytest.mark.parametrize("full_at", list(FullAt))
@pytest.mark.parametrize("style", list(Style))
def test_the_reason_of_a_failed_operation_is_read_where_arm_says(
    node: AzureNode, full_at: FullAt, style: Style
) -> None:
    node.lab.compute(full_at=full_at, style=style, put_status=202)
    node.lab.world.outsiders.leave_free(node.subnet_ids[0], 2)
    with pytest.raises(SubnetExhausted) as refusal:
        node.grow(3)
    assert refusal.value.code == "SubnetIsFull"
    assert refusal.value.subnet_id == node.subnet(0)
    assert len(node.grow(2)) == 2
    assert len(node.held()) == 2


@pytest.mark.parametrize(
    "code", ["NoAvailableIPAddressesInSubnet", "InsufficientCidrBlocks", "PrefixUnavailable"]
)
def test_a_subnet_without_a_whole_block_is_told_apart_from_a_full_one(
    node: AzureNode, code: str
) -> None:
    node.lab.set(block_shortage_code=code)
    node.lab.world.outsiders.strew(node.subnet_ids[0])
    with pytest.raises(NoPrefixFree):
        node.change(add_prefixes=1)
    assert len(node.grow(3)) == 3


@pytest.mark.parametrize("shows", [True, False], ids=["shown", "hidden"])
def test_a_subnet_that_is_not_counted_has_a_hint_for_its_free_addresses(
    node: AzureNode, shows: bool
) -> None:
    outsiders, own = node.lab.world.outsiders, node.subnet(0)
    outsiders.take(node.subnet_ids[0], 100)
    outsiders.set_subnet(node.subnet_ids[0], is_counted=False, shows_configurations=shows)
    (seen,) = node.provider.subnets((own,))
    assert seen.free_addresses == (512 - 5 - 101 if shows else 512 - 5)


def test_a_list_of_usages_that_breaks_off_leaves_the_subnets_own_count(node: AzureNode) -> None:
    node.fault(K.TRUNCATED, "GET", "*/usages", count=None)
    last = node.subnet(len(node.subnet_ids) - 1)
    (seen,) = node.provider.subnets((last,))
    assert (seen.subnet_id, seen.free_addresses) == (last, 251)


def test_a_subnet_with_a_list_of_prefixes_is_read_like_any(node: AzureNode) -> None:
    node.lab.world.outsiders.set_subnet(node.subnet_ids[0], has_prefix_list=True)
    node.restart()
    assert str(node.look().subnet_cidr) == "10.8.0.0/23"


# Operations that fail, or last.


def test_a_failed_operation_that_was_applied_gives_what_it_applied(node: AzureNode) -> None:
    node.fault(K.OPERATION_FAILS, code="InternalExecutionError", applies=Applies.ALL)
    added = node.grow(3, token="t")
    assert texts(added) == set(node.held().values())
    assert node.grow(3, token="t") == added
    assert node.puts() == 1


def test_a_failed_operation_that_was_applied_in_part_gives_that_part(node: AzureNode) -> None:
    node.fault(K.OPERATION_FAILS, code="InternalExecutionError", applies=Applies.PART)
    added = node.grow(4, token="t")
    assert len(added) == 2
    assert texts(added) == set(node.held().values()) == texts(node.look().addresses)


def test_a_failed_operation_without_effect_says_why_and_leaves_nothing(node: AzureNode) -> None:
    node.fault(K.OPERATION_FAILS, code="SubnetIsFull", message="not enough capacity for 3")
    with pytest.raises(SubnetExhausted, match="not enough capacity") as refusal:
        node.grow(3, token="t")
    assert refusal.value.subnet_id == node.subnet(0)
    assert (node.held(), node.look().addresses) == ({}, ())
    added = node.grow(3, token="u")
    assert texts(added) == set(node.held().values())
    assert len(node.nic_in(node.document)["properties"]["ipConfigurations"]) == 4


@on_vm
def test_a_configuration_that_is_stuck_in_failed_goes_with_the_next_write(node: AzureNode) -> None:
    node.lab.set(fails_configurations=True)
    node.fault(K.OPERATION_FAILS, code="InternalExecutionError", applies=Applies.ALL)
    with pytest.raises(CloudError):
        node.grow(2, token="t")
    stuck = set(node.held())
    assert len(stuck) == 2
    assert node.look().addresses == ()
    added = node.grow(1, token="u")
    assert set(node.held().values()) == texts(added)


@on_instance
def test_what_a_failed_write_left_in_the_model_goes_with_the_next_write(node: AzureNode) -> None:
    node.fault(K.OPERATION_FAILS, code="InternalExecutionError", applies=Applies.PART)
    assert len(node.grow(4, token="t")) == 2
    node.restart()
    node.grow(1, token="u")
    rows = node.nic_in(node.document)["properties"]["ipConfigurations"]
    assert {row["name"] for row in rows} == {"ipconfig1", *node.held()}
    assert len(node.held()) == 3


def test_a_failed_removal_without_effect_keeps_what_was_there(node: AzureNode) -> None:
    first = node.grow(2)
    node.fault(K.OPERATION_FAILS, code="InternalExecutionError")
    with pytest.raises(CloudError):
        node.change(remove=first[:1])
    assert set(node.look().addresses) <= set(first)
    node.change(remove=first[:1])
    assert set(node.held().values()) == texts(first[1:])
    assert node.look().addresses == first[1:]


def test_a_write_that_outlasts_its_deadline_is_in_doubt_and_is_never_displaced(
    node: AzureNode,
) -> None:
    node.fault(K.OPERATION_LASTS, seconds=700.0)
    began = node.lab.clock()
    with pytest.raises(Transient) as refusal:
        node.grow(2, token="t")
    assert refusal.value.code == "UnderWay"
    assert 470.0 < node.lab.clock() - began <= 481.0
    node.restart()  # the next process knows of it
    assert len(node.grow(2, token="t")) == 2
    assert (node.puts(), len(node.held())) == (1, 2)


def test_another_want_waits_for_the_write_that_outlasted_its_deadline(node: AzureNode) -> None:
    node.fault(K.OPERATION_LASTS, seconds=700.0)
    with pytest.raises(Transient):
        node.grow(2, token="t")
    assert len(node.grow(1, token="u")) == 1
    assert (node.puts(), len(node.held())) == (2, 3)


def test_what_a_slow_removal_takes_is_shown_to_nobody_meanwhile(node: AzureNode) -> None:
    first = node.grow(3)
    node.fault(K.OPERATION_LASTS, seconds=700.0)
    with pytest.raises(Transient):
        node.change(remove=first[:2])
    assert node.look().addresses == first[2:]


def test_what_a_removal_takes_is_hidden_before_it_arrives_and_back_when_it_does_not(
    node: AzureNode,
) -> None:
    first = node.grow(3)
    shown: list[tuple[IPAddress, ...]] = []
    node.before_next("PUT", lambda: shown.append(node.look().addresses))
    node.fault(K.ERROR, status=400, code="InvalidRequestFormat")
    with pytest.raises(CloudError):
        node.change(remove=first[:2])
    assert shown == [first[2:]]
    assert node.look().addresses == first


def test_a_removal_that_never_arrived_is_shown_again_without_another_write(
    node: AzureNode,
) -> None:
    first = node.grow(3)
    node.fault(K.DROPPED, seconds=0.02)
    node.fault(K.RESET, "GET", nth=2)  # nor can it be read back
    with pytest.raises(Transient):
        node.change(remove=first[:2])
    assert node.look().addresses == first[2:], "it may be on its way"
    node.lab.advance(60.0)
    assert node.look().addresses == first


def test_an_address_is_given_to_nobody_before_its_configuration_is_usable(node: AzureNode) -> None:
    shown: list[int] = []
    node.during += [lambda: None, lambda: shown.append(len(node.look().addresses))]
    node.grow(3)
    assert shown == [0]
    assert len(node.look().addresses) == 3


# What nobody could check in a subscription: right under either answer.


@pytest.mark.parametrize("version", ["", "2018-10-01"], ids=["newest", "oldest"])
@pytest.mark.parametrize("suffix", [True, False])
@on_instance
def test_blocks_are_read_at_whichever_api_version_arm_has(
    node: AzureNode, version: str, suffix: bool
) -> None:
    node.lab.compute(newest_nic_version=version)
    node.lab.set(shows_suffix_to_old=suffix)
    node.restart()
    outcome = node.change(add=2, add_prefixes=2)
    look = node.look()
    assert set(look.prefixes) == set(outcome.added_prefixes)
    assert set(look.addresses) == set(outcome.added)
    assert all(block.prefixlen == 28 for block in look.prefixes)


@on_vm
@pytest.mark.parametrize("has_new_etag", [True, False])
def test_writes_follow_each_other_whether_or_not_the_end_changes_the_etag(
    node: AzureNode, has_new_etag: bool
) -> None:
    node.lab.set(has_new_etag_at_end=has_new_etag, keeps_unsent_addresses=False)
    first, second = node.grow(2), node.grow(2)
    assert set(node.held().values()) == texts((*first, *second))


@on_instance
def test_an_instance_without_etags_is_written_all_the_same(node: AzureNode) -> None:
    node.lab.compute(etags_since="2099-01-01")
    first, second = node.grow(2), node.grow(2)
    assert set(node.held().values()) == texts((*first, *second))


@on_instance
def test_an_image_of_another_subscription_is_not_named_in_a_write(node: AzureNode) -> None:
    node.lab.compute(refuses_gallery_images=True)
    node.lab.world.compute.put(_with_image(node))
    assert len(node.grow(1)) == 1
    assert node.document["properties"]["storageProfile"]["imageReference"] == IMAGE


def _with_image(node: AzureNode) -> Any:
    document = copy.deepcopy(node.instance.document)
    document["properties"].setdefault("storageProfile", {})["imageReference"] = IMAGE
    return replace(node.instance, document=document)
