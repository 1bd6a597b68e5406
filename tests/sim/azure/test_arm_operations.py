"""Behaviours 9 and 11: operations take their time, and a failed one may have been applied."""

from __future__ import annotations

import functools

import pytest

from providers.sim.arm_behaviour import Behaviour, Busy
from providers.sim.arm_errors import ArmError
from providers.sim.arm_faults import Applies, ArmFaultKind
from providers.sim.arm_operations import Operation, Operations
from providers.sim.arm_records import State
from tests.sim.azure.network_lab import (
    PODS,
    NetworkLab,
    Reply,
    block,
    config,
    nic_id,
    primary,
    static,
)


@pytest.fixture
def slow(network: NetworkLab) -> NetworkLab:
    """A NIC in a cloud in which writes take 30 s."""
    network.put(primary())
    network.set(write_seconds=30.0)
    return network


def states(reply: Reply) -> tuple[str, dict[str, str]]:
    """provisioningState of the NIC, and of its configurations by name."""
    nic = reply.body["properties"]["provisioningState"]
    return nic, {row["name"]: row["provisioningState"] for row in reply.configs}


def test_the_answer_has_the_addresses_of_a_write_that_is_not_over(slow: NetworkLab) -> None:
    reply = slow.put(primary(), config("a"))
    assert (reply.status, reply.addresses["a"]) == (200, "10.0.1.5")
    assert states(reply) == ("Updating", {"ipconfig1": "Succeeded", "a": "Updating"})
    assert reply.headers["retry-after"] == "10"


def test_nic_and_new_configurations_are_updating_until_the_operation_ends(
    slow: NetworkLab,
) -> None:
    slow.put(primary(), config("a"))
    slow.clock.advance(29.9)
    assert states(slow.get()) == ("Updating", {"ipconfig1": "Succeeded", "a": "Updating"})
    slow.clock.advance(0.1)
    assert states(slow.get()) == ("Succeeded", {"ipconfig1": "Succeeded", "a": "Succeeded"})


def test_the_operation_is_in_progress_and_then_succeeded(slow: NetworkLab) -> None:
    url = slow.put(primary(), config("a")).headers["azure-asyncoperation"]
    early = slow.follow(url)
    assert (early.status, early.body) == (200, {"status": "InProgress"})
    assert early.headers["retry-after"] == "10"
    slow.clock.advance(30)
    late = slow.follow(url)
    assert (late.status, late.body) == (200, {"status": "Succeeded"})
    assert "retry-after" not in late.headers


def test_retry_after_can_be_set_and_left_out(slow: NetworkLab) -> None:
    slow.set(retry_after_seconds=3)
    assert slow.put(primary(), config("a")).headers["retry-after"] == "3"
    slow.clock.advance(30)
    slow.set(retry_after_seconds=0)
    assert "retry-after" not in slow.put(primary()).headers


@pytest.mark.parametrize("has_new", [True, False], ids=["new", "same"])
def test_the_end_of_a_write_may_be_a_change_of_the_etag(slow: NetworkLab, has_new: bool) -> None:
    slow.set(has_new_etag_at_end=has_new)
    etag = slow.put(primary(), config("a")).body["etag"]
    slow.clock.advance(30)
    assert (slow.get().body["etag"] != etag) is has_new


@pytest.mark.parametrize(
    ("busy", "refusal"),
    [
        (Busy.RETRYABLE, (429, "RetryableErrorDueToAnotherOperation")),
        (Busy.CONFLICT, (409, "ConflictingConcurrentWriteNotAllowed")),
        (Busy.PRECONDITION, (412, "PreconditionFailed")),
    ],
)
def test_a_write_during_another_one_is_refused_as_set(
    slow: NetworkLab, busy: Busy, refusal: tuple[int, str]
) -> None:
    slow.set(busy=busy)
    etag = slow.put(primary(), config("a")).body["etag"]
    refused = slow.put(primary(), config("b"), if_match=etag)
    assert refused.refusal == refusal
    assert ("retry-after" in refused.headers) is (busy is Busy.RETRYABLE)
    assert slow.call("DELETE", nic_id()).refusal == refusal
    slow.clock.advance(30)
    assert slow.put(primary(), config("a"), config("b")).status == 200


def test_a_removed_address_is_free_only_when_the_write_is_over(slow: NetworkLab) -> None:
    slow.set(write_seconds=0)
    slow.put(primary(), config("a"), block("b"))
    slow.set(write_seconds=30)
    slow.put(primary(), nic="nic1")
    assert slow.put(primary(), nic="nic2").addresses == {"ipconfig1": "10.0.1.6"}
    assert slow.usage() == (2, 251)
    slow.clock.advance(30)
    assert slow.put(primary(), block("c"), nic="nic3").addresses == {
        "ipconfig1": "10.0.1.5",
        "c": "10.0.1.16/28",
    }


def test_a_delete_takes_its_time_too(slow: NetworkLab) -> None:
    deleted = slow.call("DELETE", nic_id())
    assert (deleted.status, deleted.headers["retry-after"]) == (202, "10")
    assert states(slow.get())[0] == "Deleting"
    assert slow.follow(deleted.headers["location"]).status == 202
    slow.clock.advance(30)
    assert slow.get().status == 404
    assert slow.follow(deleted.headers["location"]).status == 204


def test_a_nic_that_is_being_deleted_is_not_written(slow: NetworkLab) -> None:
    slow.call("DELETE", nic_id())
    assert slow.put(primary()).refusal == (429, "RetryableErrorDueToAnotherOperation")
    assert slow.call("DELETE", nic_id()).refusal == (429, "RetryableErrorDueToAnotherOperation")
    slow.clock.advance(30)
    assert slow.put(primary()).status == 201


def test_a_write_that_is_under_way_at_a_reset_has_no_effect_any_more(slow: NetworkLab) -> None:
    slow.set(write_seconds=0)
    slow.put(primary(), config("old"))
    slow.set(write_seconds=30)
    slow.put(primary(), config("new"))
    slow.arm.reset()
    slow.build()
    slow.put(primary(), config("on-the-address-of-old"), nic="other")
    slow.clock.advance(30)
    slow.arm.settle()
    assert list(slow.state.nics) == [nic_id("other").lower()]
    assert slow.free() == 249


def test_a_write_can_last_for_ever(slow: NetworkLab) -> None:
    slow.arm.faults.add("PUT", "*", ArmFaultKind.OPERATION_LASTS)
    slow.put(primary(), config("a"))
    slow.clock.advance(1e9)
    slow.token = slow.arm.tokens.issue()
    assert states(slow.get())[0] == "Updating"
    assert slow.state.operations.next_due_unix() is None


def test_a_failed_operation_tells_its_reason(slow: NetworkLab) -> None:
    slow.arm.faults.add(
        "PUT",
        "*/networkInterfaces/nic1",
        ArmFaultKind.OPERATION_FAILS,
        code="SubnetIsFull",
        message="too late",
    )
    url = slow.put(primary(), config("a")).headers["azure-asyncoperation"]
    assert slow.follow(url).body == {"status": "InProgress"}
    slow.clock.advance(30)
    shown = slow.follow(url)
    assert (shown.status, shown.body["status"]) == (200, "Failed")
    assert shown.body["error"] == {"code": "SubnetIsFull", "message": "too late", "details": []}
    assert states(slow.get())[0] == "Failed"


def written_with(network: NetworkLab, applies: Applies) -> dict[str, str]:
    """The addresses after a write that fails: it adds three and a block, and removes `old`."""
    network.put(primary(), config("old"))
    network.arm.faults.add("PUT", "*", ArmFaultKind.OPERATION_FAILS, applies=applies)
    rows = [config("a"), config("b"), config("c"), block("d")]
    accepted = network.put(primary(), *rows)
    assert (accepted.status, len(accepted.configs)) == (200, 5)
    return network.get().addresses


def test_a_failed_operation_without_effect_leaves_what_was_before(network: NetworkLab) -> None:
    assert written_with(network, Applies.NOTHING) == {"ipconfig1": "10.0.1.4", "old": "10.0.1.5"}
    assert (network.usage(), network.free()) == ((2, 251), 249)
    assert states(network.get()) == ("Failed", {"ipconfig1": "Succeeded", "old": "Succeeded"})


def test_a_failed_operation_may_have_been_applied_all_the_same(network: NetworkLab) -> None:
    got = written_with(network, Applies.ALL)
    assert list(got) == ["ipconfig1", "a", "b", "c", "d"]
    assert set(states(network.get())[1].values()) == {"Succeeded"}
    assert (network.usage(), network.free()) == ((5, 251), 251 - 4 - 16)


def test_a_failed_operation_may_have_been_applied_in_part(network: NetworkLab) -> None:
    got = written_with(network, Applies.PART)
    assert got == {"ipconfig1": "10.0.1.4", "a": "10.0.1.6", "b": "10.0.1.7"}
    assert (network.usage(), network.free()) == ((3, 251), 248)


@pytest.mark.parametrize("applies", [Applies.PART, Applies.ALL])
def test_what_a_failed_write_leaves_may_be_failed_itself(
    network: NetworkLab, applies: Applies
) -> None:
    network.put(primary(), config("before"))
    network.set(fails_configurations=True)
    network.arm.faults.add("PUT", "*", ArmFaultKind.OPERATION_FAILS, applies=applies)
    network.put(primary(), config("before"), config("a"))
    left = {"ipconfig1": "Succeeded", "before": "Succeeded", "a": "Failed"}
    assert states(network.get()) == ("Failed", left)
    network.put(primary(), config("before"), config("b"))
    assert states(network.get())[1] == dict.fromkeys(("ipconfig1", "before", "b"), "Succeeded")


def test_a_failed_creation_without_effect_leaves_no_nic(network: NetworkLab) -> None:
    network.arm.faults.add("PUT", "*", ArmFaultKind.OPERATION_FAILS)
    assert network.put(primary()).status == 201
    assert network.get().status == 404
    assert network.usage() == (0, 251)


def test_a_failed_nic_can_be_written_again(network: NetworkLab) -> None:
    written_with(network, Applies.PART)
    assert network.put(primary(), config("a"), config("e")).status == 200
    assert states(network.get())[0] == "Succeeded"


def test_a_nic_that_goes_during_its_write_leaves_no_address_behind(slow: NetworkLab) -> None:
    slow.set(write_seconds=0)
    slow.put(primary(), config("old"))
    slow.set(write_seconds=30)
    slow.put(primary(), config("new"))
    slow.outsiders.delete_nic(nic_id())
    slow.clock.advance(30)
    slow.arm.settle()
    assert (slow.usage(), slow.free()) == ((0, 251), 251)


def test_a_write_waits_for_a_subnet_that_is_being_changed(network: NetworkLab) -> None:
    network.outsiders.set_subnet(PODS, state=State.UPDATING)
    refused = network.put(primary())
    assert refused.refusal == (429, "RetryableError")
    assert refused.body["error"]["details"][0]["code"] == "ReferencedResourceNotProvisioned"
    assert refused.headers["retry-after"] == "10"


def test_an_unknown_operation_is_a_404(network: NetworkLab) -> None:
    url = network.put(primary()).headers["azure-asyncoperation"]
    path, _, version = url.removeprefix("http://arm.sim:8443").partition("?")
    wrong = path.rpartition("/")[0] + "/none"
    assert network.call("GET", wrong, version="", query=version).status == 404
    other = path.replace("Microsoft.Network", "Microsoft.Compute")
    assert network.call("GET", other, version="", query=version).status == 404


def begun(
    operations: Operations, seconds: float = 10.0, provider: str = "Microsoft.Compute"
) -> Operation:
    return operations.begin(provider, "write", "/Some/Id", seconds, 1000.0)


@pytest.fixture
def operations() -> Operations:
    names = iter("abcdef")
    return Operations(lambda: next(names))


def test_compute_tells_begin_end_and_name_of_an_operation(operations: Operations) -> None:
    operation = begun(operations)
    times = {"startTime": "1970-01-01T00:16:40+00:00", "name": "a"}
    assert operation.shown == {"status": "InProgress", **times}
    operations.settle(1010.0)
    end = "1970-01-01T00:16:50+00:00"
    assert operation.shown == {"status": "Succeeded", "endTime": end, **times}


def test_operations_end_in_the_order_of_their_time(operations: Operations) -> None:
    ended: list[str] = []
    for name, seconds in (("late", 20.0), ("soon", 5.0), ("never", 99.0)):
        finish = functools.partial(ended.append, name)
        operations.begin("p", "k", name, seconds, 0.0, finish=finish)
    assert operations.next_due_unix() == 5.0
    operations.settle(50.0)
    assert ended == ["soon", "late"]
    running = operations.running_on("NEVER")
    assert running is not None and running.resource_id == "never"


def test_what_the_end_of_an_operation_refuses_is_its_error(operations: Operations) -> None:
    def refuse() -> None:
        raise ArmError(400, "SubnetIsFull", "no room")

    operation = operations.begin("p", "k", "r", 0.0, 0.0, finish=refuse)
    assert operation.status == "Failed"
    assert operation.shown["error"]["code"] == "SubnetIsFull"


@pytest.mark.parametrize(
    "changes",
    [{"write_seconds": -1.0}, {"page_length": 0}, {"usage_of_block": 2}],
    ids=["seconds", "page", "usage"],
)
def test_a_behaviour_that_cannot_be_is_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must not|counts"):
        Behaviour(**changes)  # type: ignore[arg-type]


def test_a_static_address_moves_only_when_the_write_is_over(slow: NetworkLab) -> None:
    slow.set(write_seconds=0)
    slow.put(primary(), static("s", "10.0.1.50"))
    slow.set(write_seconds=30)
    slow.put(primary(), static("s", "10.0.1.60"))
    taken = slow.put(primary(), static("t", "10.0.1.50"), nic="nic2")
    assert taken.refusal == (400, "PrivateIPAddressIsAllocated")
    slow.clock.advance(30)
    assert slow.put(primary(), static("t", "10.0.1.50"), nic="nic2").status == 201
