"""What only Azure has: whole writes, etags, long operations, other writers and its refusals.

Each test runs for a NIC of a virtual machine and for one of a scale set's instance, unless it is
about one of them.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
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
    NotFound,
    SubnetExhausted,
    Throttled,
    Transient,
)
from ipamd.model import EniId, IPAddress
from providers.sim.arm_behaviour import Busy as BusyWith
from providers.sim.arm_compute_state import FullAt, SecondWrite, Style
from providers.sim.arm_faults import Applies, ArmFaultKind
from tests.contract.azure_node import INSTANCE_SECONDS, KINDS, AzureNode, azure_node
from tests.sim.azure.lab import config

K = ArmFaultKind
GROUP = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.Network"
NSG = {"id": f"{GROUP}/networkSecurityGroups/theirs"}
ASG = {"id": f"{GROUP}/applicationSecurityGroups/theirs"}
POOL = {"id": f"{GROUP}/loadBalancers/theirs/backendAddressPools/pool"}
DAY = 86_400.0

READS = {"vm": ["NetworkInterfaces_Get"]}
READS["scale-set"] = [
    "VirtualMachineScaleSetVMs_Get",
    "NetworkInterfaces_ListVirtualMachineScaleSetVMNetworkInterfaces",
]
PUT = {
    "vm": "NetworkInterfaces_CreateOrUpdate",
    "scale-set": "VirtualMachineScaleSetVMs_Update",
}


@pytest.fixture(params=KINDS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AzureNode]:
    """A node that has looked around; what it called from here on is counted."""
    yield from _looked(azure_node(request.param, tmp_path))


@pytest.fixture
def two_nics(tmp_path: Path) -> Iterator[AzureNode]:
    """A virtual machine with two NICs."""
    yield from _looked(azure_node("vm", tmp_path, nics=2))


on_vm = pytest.mark.parametrize("node", ["vm"], indirect=True)
on_instance = pytest.mark.parametrize("node", ["scale-set"], indirect=True)


def _looked(nodes: Iterator[AzureNode]) -> Iterator[AzureNode]:
    for node in nodes:
        node.look()
        node.calls.clear()
        yield node


def puts(node: AzureNode) -> int:
    return node.counted()[PUT[node.kind]]


def instant(node: AzureNode) -> None:
    """Writes that are over when they are answered."""
    node.lab.set(write_seconds=0)
    node.lab.compute(write_seconds=0)


def texts(addresses: tuple[IPAddress, ...]) -> set[str]:
    return set(map(str, addresses))


# How many calls it takes.


@pytest.mark.parametrize("count", [1, 40])
def test_a_growth_of_any_size_is_a_read_and_a_write(node: AzureNode, count: int) -> None:
    instant(node)
    assert len(node.grow(count)) == count
    # The answer of a NIC's write has the addresses; an instance's has to be read.
    reads = READS[node.kind]
    assert node.called() == [*reads, PUT[node.kind], *(reads if node.is_instance else [])]


def test_while_a_write_lasts_the_resource_is_looked_at_further_and_further_apart(
    node: AzureNode,
) -> None:
    node.grow(3)
    counted = node.counted()
    assert counted.pop(PUT[node.kind]) == 1
    assert counted.pop("ComputeOperations_Get", 0) <= 1  # what takes long is asked for itself
    if node.is_instance:  # 20 s: after 0, 0.5, 1.5, 3.5, 7.5, 15.5, 25.5; then the NICs as well
        assert counted == Counter(dict(zip(READS["scale-set"], (1 + 7, 1 + 1), strict=True)))
    else:  # 3 s: the answer, and after 0.5, 1.5, 3.5
        assert counted == Counter({READS["vm"][0]: 1 + 3})


def test_a_look_is_one_read_of_what_is_written(node: AzureNode) -> None:
    node.grow(20)
    node.calls.clear()
    assert len(node.look().addresses) == 20
    assert sorted(node.called()) == sorted(READS[node.kind])


def test_a_removal_and_a_growth_are_one_write(node: AzureNode) -> None:
    first = node.grow(4)
    node.calls.clear()
    outcome = node.change(add=3, remove=first[:2])
    assert puts(node) == 1
    assert set(node.look().addresses) == {*first[2:], *outcome.added}


def test_what_is_there_already_costs_no_write(node: AzureNode) -> None:
    first = node.grow(3, token="t")
    node.calls.clear()
    assert node.grow(3, token="t") == first
    gone = node.change(remove=(first[0],))
    assert gone.added == ()
    node.calls.clear()
    node.change(remove=(first[0],))
    assert node.called() == READS[node.kind]


def test_a_write_over_the_limit_is_not_sent(node: AzureNode) -> None:
    with pytest.raises(LimitReached, match="256"):
        node.grow(256)
    assert puts(node) == 0


def test_an_instance_is_written_once_for_both_of_its_nics(tmp_path: Path) -> None:
    for node in _looked(azure_node("scale-set", tmp_path, nics=2)):
        instant(node)
        for eni in node.provider.snapshot().enis:
            node.calls.clear()
            node.provider.apply(AddressChange(eni_id=eni.eni_id, add=2))
            assert puts(node) == 1
        assert [len(node.held(nic)) for nic in (0, 1)] == [2, 2]
        assert [len(eni.addresses) for eni in node.provider.snapshot().enis] == [2, 2]


# Answers that do not come, or cannot be read.


@pytest.mark.parametrize("kind", [K.LOST, K.MALFORMED])
def test_a_write_whose_answer_is_lost_has_its_addresses_and_doubles_nothing(
    node: AzureNode, kind: ArmFaultKind
) -> None:
    node.fault(kind, seconds=0.02)
    added = node.grow(3, token="t")
    assert texts(added) == set(node.held().values())
    assert puts(node) == 1
    assert node.grow(3, token="t") == added
    assert len(node.held()) == 3


@pytest.mark.parametrize("kind", [K.DROPPED, K.RESET])
def test_a_write_that_did_not_arrive_is_transient_and_its_repeat_adds_once(
    node: AzureNode, kind: ArmFaultKind
) -> None:
    node.fault(kind, seconds=0.02)
    with pytest.raises(Transient):
        node.grow(3, token="t")
    assert node.held() == {}
    assert len(node.grow(3, token="t")) == 3
    assert len(node.held()) == 3


def test_a_removal_whose_answer_is_lost_is_done(node: AzureNode) -> None:
    first = node.grow(3)
    node.fault(K.LOST, seconds=0.02)
    node.change(remove=first[:2])
    assert set(node.held().values()) == texts(first[2:])


@pytest.mark.parametrize("kind", [K.MALFORMED, K.RESET])
def test_a_read_that_cannot_be_read_is_transient_and_nothing_is_written(
    node: AzureNode, kind: ArmFaultKind
) -> None:
    node.fault(kind, "GET")
    with pytest.raises(Transient):
        node.grow(1)
    assert puts(node) == 0


def test_a_look_that_is_lost_while_a_write_lasts_is_waited_out(node: AzureNode) -> None:
    node.fault(K.RESET, "GET", nth=2, count=2)
    assert len(node.grow(2)) == 2
    assert puts(node) == 1


def test_a_list_without_one_of_the_nics_is_no_look(tmp_path: Path) -> None:
    for node in _looked(azure_node("scale-set", tmp_path, nics=2)):
        node.fault(K.TRUNCATED, "GET", f"{node.machine_id}/networkInterfaces")
        with pytest.raises(CloudError, match="does not show"):
            node.provider.snapshot()
        assert len(node.provider.snapshot().enis) == 2


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_server_error_is_transient_and_the_repeat_adds_once(node: AzureNode, status: int) -> None:
    node.fault(K.ERROR, status=status, code="InternalServerError")
    with pytest.raises(Transient):
        node.grow(2, token="t")
    assert len(node.grow(2, token="t")) == 2
    assert len(node.held()) == 2


def test_a_token_that_expired_is_had_anew_and_the_write_is_done_once(node: AzureNode) -> None:
    node.lab.advance(2 * DAY)
    assert len(node.grow(2)) == 2
    assert [call.status for call in node.calls[:2]] == [401, 200]
    assert len(node.held()) == 2


def test_a_token_that_is_revoked_between_read_and_write_costs_nothing(node: AzureNode) -> None:
    node.before_next("PUT", node.lab.world.tokens.issuer.revoke_all)
    assert len(node.grow(2)) == 2
    written = [call.status for call in node.calls if call.api == PUT[node.kind]]
    assert written == [401, 200]


# Others who write.


def test_a_write_of_others_between_read_and_write_survives_and_ours_lands(node: AzureNode) -> None:
    mine = node.grow(2)
    node.calls.clear()
    node.before_next("PUT", lambda: node.write_outside("theirs"))
    added = node.grow(2)
    held = node.held()
    assert held.pop("theirs")
    assert set(held.values()) == texts((*mine, *added))
    assert [call.code for call in node.calls if call.code] == ["PreconditionFailed"]


def test_what_others_removed_between_read_and_write_stays_removed(node: AzureNode) -> None:
    mine = node.grow(3)
    gone = next(iter(node.held()))

    def remove() -> None:
        node.write_outside(without=(gone,))
        node.lab.world.outsiders.take(node.subnet_ids[0], 1)  # and its address is another's

    node.before_next("PUT", remove)
    added = node.grow(1)
    assert set(node.held().values()) == texts((*mine[1:], *added))
    assert mine[0] not in node.look().addresses


def test_a_removed_configuration_of_ours_is_not_made_again(node: AzureNode) -> None:
    mine = node.grow(3)
    gone = next(iter(node.held()))
    node.write_outside(without=(gone,))
    node.lab.world.outsiders.take(node.subnet_ids[0], 1)
    assert node.look().addresses == mine[1:]
    added = node.grow(1)
    assert gone not in node.held()
    node.change(remove=mine)
    assert set(node.held().values()) == texts(added)


def decorate(body: Any, nic: Any) -> None:
    """What others do: a tag, a security group, an ASG, a pool, one configuration of their own, and
    fields that no SDK of today knows, at every level."""
    body["tags"] = {**(body.get("tags") or {}), "team": "blue"}
    nic["properties"]["networkSecurityGroup"] = NSG
    rows = nic["properties"]["ipConfigurations"]
    subnet = rows[0]["properties"]["subnet"]
    rows.append(config("theirs", subnet=subnet))
    for row in rows:
        row["properties"]["applicationSecurityGroups"] = [ASG]
    rows[0]["properties"]["loadBalancerBackendAddressPools"] = [POOL]
    for place in (body, nic, rows[0], rows[-1]):
        place["properties"]["fieldOfTomorrow"] = {"deep": [1, {"x": None}]}


def theirs(node: AzureNode) -> Any:
    """All that is not ours of what a write replaces, without what changes with every write."""
    document = copy.deepcopy(node.document)
    rows = node.nic_in(document)["properties"]["ipConfigurations"]
    rows[:] = [row for row in rows if not row["name"].startswith("ipamd-")]
    return _lasting(document)


def _lasting(value: Any) -> Any:
    if isinstance(value, list):
        return [_lasting(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {k: _lasting(v) for k, v in value.items() if k not in ("etag", "provisioningState")}


def test_all_that_others_did_survives_our_writes(node: AzureNode) -> None:
    first = node.grow(2)
    node.edit_outside(decorate)
    before = theirs(node)
    assert str(before).count("fieldOfTomorrow") == (4 if node.is_instance else 3)
    node.change(add=2, add_prefixes=1, remove=first[:1])
    node.change(remove=node.look().addresses)
    assert theirs(node) == before
    assert node.held()["theirs"]


def test_our_configurations_are_in_the_primarys_asg_and_in_no_pool(node: AzureNode) -> None:
    node.edit_outside(decorate)
    node.grow(1)
    rows = node.nic_in(node.document)["properties"]["ipConfigurations"]
    (ours,) = [row["properties"] for row in rows if row["name"].startswith("ipamd-")]
    assert ours["applicationSecurityGroups"] == [ASG]
    assert "loadBalancerBackendAddressPools" not in ours


def test_what_others_have_is_never_shown_and_never_removed(node: AzureNode) -> None:
    node.write_outside("theirs")
    look = node.look()
    address = next(iter(node.held().values()))
    assert look.addresses == ()
    for foreign in (address, str(look.primary_address)):
        node.calls.clear()
        with pytest.raises(CloudError, match="not ours"):
            node.change(remove=(type(look.primary_address)(foreign),), add=1)
        assert puts(node) == 0
    assert list(node.held()) == ["theirs"]


def test_others_configurations_take_room(node: AzureNode) -> None:
    node.write_outside("theirs-1", "theirs-2")
    node.restart()
    assert node.provider.limits().slots_per_eni == 253
    assert len(node.grow(253)) == 253
    with pytest.raises(LimitReached):
        node.grow(1)


@on_vm
@pytest.mark.parametrize("answer", list(BusyWith))
def test_a_nic_that_others_are_writing_is_written_after_them(
    node: AzureNode, answer: BusyWith
) -> None:
    node.lab.set(busy=answer, retry_after_seconds=2, write_seconds=2.0)
    _begin_outside(node, "theirs")
    added = node.grow(2)
    assert set(node.held()) > {"theirs"}
    assert texts(added) < set(node.held().values())


@on_instance
@pytest.mark.parametrize("second", list(SecondWrite))
def test_an_instance_that_others_are_writing_is_left_alone_until_they_are_done(
    node: AzureNode, second: SecondWrite
) -> None:
    node.lab.compute(second_write=second)
    _begin_outside(node, "theirs")
    with pytest.raises(Busy) as refusal:
        node.grow(2)
    assert refusal.value.retry_after_seconds > 0
    assert puts(node) == 0
    node.lab.advance(INSTANCE_SECONDS)
    assert len(node.grow(2)) == 2
    assert set(node.held()) > {"theirs"}


def _begin_outside(node: AzureNode, name: str) -> None:
    """Another client's write is under way."""
    body = node.document
    rows = node.nic_in(body)["properties"]["ipConfigurations"]
    rows.append(config(name, subnet=rows[0]["properties"]["subnet"]))
    assert node.lab.call("PUT", node.target, body).status == 200


@on_instance
def test_a_reimaged_instance_has_nothing_of_ours_and_grows_anew(node: AzureNode) -> None:
    lost = node.grow(3)
    node.lab.world.reimage(node.machine_id)
    node.lab.advance(INSTANCE_SECONDS)
    assert node.look().addresses == ()
    node.change(remove=lost)
    assert len(node.grow(2)) == 2
    assert len(node.held()) == 2


@on_instance
def test_a_write_that_a_reimage_displaced_is_made_anew_after_it(node: AzureNode) -> None:
    node.during += [lambda: None, lambda: node.lab.world.reimage(node.machine_id)]
    with contextlib.suppress(Busy):
        node.grow(3, token="t")
    node.lab.advance(INSTANCE_SECONDS)
    added = node.grow(3, token="t")
    assert puts(node) == 2
    assert texts(added) == set(node.held().values()) == texts(node.look().addresses)


def test_a_machine_that_is_gone_is_not_found(node: AzureNode) -> None:
    eni_id = node.eni_id
    node.lab.world.remove_machine(node.machine_id)
    with pytest.raises(NotFound):
        node.provider.apply(AddressChange(eni_id=eni_id, add=1))
    with pytest.raises(NotFound):
        node.provider.snapshot()


def test_a_machine_that_goes_during_a_write_is_not_found_and_nothing_waits(node: AzureNode) -> None:
    eni_id = node.eni_id
    node.during += [lambda: None, lambda: node.lab.world.remove_machine(node.machine_id)]
    with pytest.raises(NotFound):
        node.provider.apply(AddressChange(eni_id=eni_id, add=1))
    journal = node.directory / "azure-writes.json"
    assert '"writes": []' in journal.read_text()


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
    assert puts(node) == 2
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
    assert (puts(node), node.held()) == (3, {})


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
    assert puts(node) == 6
    assert sum(call.is_sent for call in node.calls if call.api == PUT[node.kind]) == 1
    assert node.look().addresses == ()  # reads have buckets of their own
    node.lab.advance(40.0)
    assert len(node.grow(2)) == 2


@on_instance
def test_an_instances_empty_bucket_is_throttled_and_names_the_wait(node: AzureNode) -> None:
    node.lab.world.set_buckets("real")
    instant(node)
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
    assert (puts(node), node.held()) == (1, {})


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
    assert puts(node) == 1


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
    assert (puts(node), len(node.held())) == (1, 2)


def test_another_want_waits_for_the_write_that_outlasted_its_deadline(node: AzureNode) -> None:
    node.fault(K.OPERATION_LASTS, seconds=700.0)
    with pytest.raises(Transient):
        node.grow(2, token="t")
    assert len(node.grow(1, token="u")) == 1
    assert (puts(node), len(node.held())) == (2, 3)


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
    image = {"id": f"{GROUP}/galleries/g/images/i"}
    node.lab.world.compute.put(_with_image(node, image))
    assert len(node.grow(1)) == 1
    assert node.document["properties"]["storageProfile"]["imageReference"] == image


def _with_image(node: AzureNode, image: dict[str, str]) -> Any:
    document = copy.deepcopy(node.instance.document)
    document["properties"].setdefault("storageProfile", {})["imageReference"] = image
    return replace(node.instance, document=document)
