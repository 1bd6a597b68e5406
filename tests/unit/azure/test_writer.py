from __future__ import annotations

from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

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
    Unsupported,
)
from ipamd.model import EniId
from providers.azure.names import Kind, names_of
from providers.azure.writer import DEADLINE_SECONDS
from tests.unit.azure.memory_arm import (
    INSTANCE,
    INSTANCE_ENI,
    NIC_ENI,
    SECOND_ENI,
    SUBNET,
    config,
)
from tests.unit.azure.writing import Scene, a


@pytest.fixture(params=[NIC_ENI, INSTANCE_ENI], ids=["nic", "instance"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path / "writes.json", request.param)


@pytest.fixture
def nic(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "writes.json", NIC_ENI)


@pytest.fixture
def instance(tmp_path: Path) -> Scene:
    return Scene(tmp_path / "writes.json", INSTANCE_ENI)


# What is asked for is had


def test_addresses_are_told_once_traffic_passes(scene: Scene) -> None:
    added = scene.add(3)
    assert sorted(map(str, added)) == sorted(scene.held())
    assert scene.clock.now >= 1000 + scene.arm.write_seconds
    assert scene.arm.puts == 1


def test_blocks_and_addresses_come_in_one_write(scene: Scene) -> None:
    outcome = scene.writer.apply(scene.change(add=2, add_prefixes=2))
    assert len(outcome.added) == 2
    assert [network.prefixlen for network in outcome.added_prefixes] == [28, 28]
    assert scene.arm.puts == 1


def test_an_answer_that_has_all_needs_no_look(nic: Scene) -> None:
    nic.arm.write_seconds = 0
    nic.add(2)
    assert nic.arm.calls == ["nic", "put_nic"]


def test_views_of_2018_without_lengths_are_read_with_the_model(instance: Scene) -> None:
    def without_lengths(views: tuple[Any, ...]) -> tuple[Any, ...]:
        for view in views:
            for raw in view["properties"]["ipConfigurations"]:
                raw["properties"].pop("privateIPAddressPrefixLength", None)
                address = raw["properties"]["privateIPAddress"]
                raw["properties"]["privateIPAddress"] = address.partition("/")[0]
        return views

    instance.arm.shown = without_lengths
    blocks = instance.add_blocks(2)
    assert [block.prefixlen for block in blocks if isinstance(block, IPv4Network)] == [28, 28]
    instance.writer.apply(instance.change(remove_prefixes=blocks, token="t2"))
    assert instance.held() == []


def test_addresses_and_blocks_go(scene: Scene) -> None:
    (address,), (block,) = scene.add(1), scene.add_blocks(1, token="t2")
    scene.writer.apply(scene.change(remove=(address,), remove_prefixes=(block,), token="t3"))
    assert scene.held() == []


def test_one_change_swaps_in_one_write(scene: Scene) -> None:
    first = scene.add(1)
    scene.add(2, remove=first, token="t2")
    assert len(scene.held()) == 2
    assert scene.arm.puts == 2


def test_every_write_names_the_etag_it_was_read_with(scene: Scene) -> None:
    etag = scene.arm.resources[scene.target]["etag"]
    scene.add(1)
    assert scene.arm.if_match == [etag]


def test_an_instance_without_etags_is_written_without(instance: Scene) -> None:
    instance.arm.has_instance_etags = False
    instance.arm.add_instance("Primary", "second")
    instance.add(1)
    assert instance.arm.if_match == [""]


def test_an_instance_that_moves_is_asked_for_itself_alone(instance: Scene) -> None:
    instance.arm.write_seconds = 60
    instance.add(1)
    assert instance.arm.calls.count("instance_nics") == 2
    assert max(instance.clock.slept) <= 10.0


def test_a_nic_that_moves_is_looked_at_further_and_further_apart(nic: Scene) -> None:
    nic.arm.write_seconds = 20
    nic.add(1)
    assert nic.clock.slept[:5] == [0.1, 0.5, 1.0, 2.0, 4.0]
    assert max(nic.clock.slept) == 5.0


# Asking twice


def test_the_same_token_adds_nothing_twice(scene: Scene) -> None:
    first = scene.add(3)
    assert scene.add(3) == first
    assert scene.arm.puts == 1


def test_the_same_token_adds_what_is_missing(scene: Scene) -> None:
    scene.add(2)
    assert len(scene.add(3)) == 3
    assert len(scene.held()) == 3


def test_a_change_without_a_token_is_never_a_repeat(scene: Scene) -> None:
    scene.add(1, token="")
    scene.add(1, token="")
    assert len(scene.held()) == 2


def test_what_is_gone_already_is_gone(scene: Scene) -> None:
    scene.remove(a("10.0.0.77"))
    assert scene.arm.puts == 0


def test_a_nic_changed_by_an_unknown_write_is_waited_for(nic: Scene) -> None:
    (name,) = names_of("t1", Kind.ADDRESS, 1)
    nic.arm.put_config(NIC_ENI, config(name, "10.0.0.9", state="Updating"))
    body = nic.arm.resources[NIC_ENI]
    body["properties"]["provisioningState"] = "Updating"

    def end() -> None:
        body["properties"]["provisioningState"] = "Succeeded"
        body["properties"]["ipConfigurations"][1]["properties"]["provisioningState"] = "Succeeded"

    nic.clock.during = [lambda: None, lambda: None, end]
    assert nic.add(1) == (a("10.0.0.9"),)
    assert nic.arm.puts == 0


# What is not ours


def test_configurations_of_others_are_never_removed(scene: Scene) -> None:
    scene.arm.put_config(scene.eni_id, config("Cilium-abcdefgh", "10.0.0.99"))
    with pytest.raises(CloudError, match="not ours to remove") as refusal:
        scene.remove(a("10.0.0.99"))
    assert refusal.value.code == "NotOurs"
    assert scene.held() == ["10.0.0.99"]


def test_the_primary_address_is_never_removed(scene: Scene) -> None:
    with pytest.raises(CloudError, match="not ours to remove"):
        scene.remove(a("10.0.0.4"))


def test_an_address_inside_a_block_of_ours_is_not_removed_by_itself(scene: Scene) -> None:
    (block,) = scene.add_blocks(1)
    scene.remove(block[0])
    assert scene.held() == [str(block)]


def test_what_others_add_between_our_looks_stays(scene: Scene) -> None:
    def meddle() -> None:
        if scene.arm.puts == 1:
            scene.arm.put_config(scene.eni_id, config("other", "10.0.0.99"))

    scene.arm.faults[scene.put] = [meddle]
    scene.add(1)
    assert "10.0.0.99" in scene.held()
    assert len(scene.held()) == 2
    assert scene.arm.puts == 2


def test_a_nic_that_is_not_on_the_node_is_not_found(scene: Scene) -> None:
    other = EniId(scene.eni_id + "2")
    with pytest.raises(NotFound):
        scene.writer.apply(scene.change(eni_id=other, add=1))
    with pytest.raises(NotFound):
        scene.writer.apply(scene.change(eni_id=EniId("eni-1"), add=1))


def test_blocks_of_ipv6_are_unsupported(scene: Scene) -> None:
    with pytest.raises(Unsupported):
        scene.writer.apply(scene.change(add_prefixes_v6=1))


# Refusals


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Throttled("slow", code="TooManyRequests", retry_after_seconds=90), id="429"),
        pytest.param(SubnetExhausted("full", code="SubnetIsFull"), id="full"),
        pytest.param(Denied("no", code="LinkedAuthorizationFailed"), id="denied"),
        pytest.param(CloudError("bad", code="InvalidRequestFormat"), id="400"),
    ],
)
def test_a_refusal_reaches_the_caller_as_it_is(scene: Scene, error: CloudError) -> None:
    scene.arm.faults[scene.put] = [error]
    with pytest.raises(type(error)) as refusal:
        scene.add(1)
    assert type(refusal.value) is type(error)
    assert refusal.value.code == error.code
    assert refusal.value.retry_after_seconds == error.retry_after_seconds
    assert refusal.value.eni_id == scene.eni_id
    assert scene.arm.puts == 1
    assert scene.journal.writes() == ()


@pytest.mark.parametrize(
    ("wanted", "said", "told"),
    [
        pytest.param({"add": 1}, NoPrefixFree, SubnetExhausted, id="addresses"),
        pytest.param({"add_prefixes": 1}, SubnetExhausted, NoPrefixFree, id="blocks"),
        pytest.param({"add": 1, "add_prefixes": 1}, NoPrefixFree, NoPrefixFree, id="both"),
        pytest.param(
            {"add": 1, "add_prefixes": 1}, SubnetExhausted, SubnetExhausted, id="both, full"
        ),
    ],
)
def test_what_is_short_is_what_was_asked_for(
    scene: Scene, wanted: dict[str, int], said: type[CloudError], told: type[CloudError]
) -> None:
    scene.arm.faults[scene.put] = [said("short", code="Short")]
    with pytest.raises(told) as refusal:
        scene.writer.apply(scene.change(**wanted))
    assert type(refusal.value) is told
    assert (refusal.value.code, refusal.value.subnet_id) == ("Short", SUBNET.lower())


@pytest.mark.parametrize(
    ("said", "wanted", "told"),
    [
        pytest.param(CloudError, {"add_prefixes": 2}, NoPrefixFree, id="blocks"),
        pytest.param(LimitReached, {"add_prefixes": 2}, NoPrefixFree, id="blocks, a limit"),
        pytest.param(CloudError, {"add": 1, "add_prefixes": 1}, CloudError, id="both"),
        pytest.param(CloudError, {"add": 2}, CloudError, id="addresses"),
        pytest.param(Denied, {"add_prefixes": 2}, Denied, id="no rights"),
        pytest.param(Throttled, {"add_prefixes": 2}, Throttled, id="throttled"),
    ],
)
@pytest.mark.parametrize("is_late", [False, True], ids=["at once", "by the operation"])
def test_blocks_that_are_refused_for_an_unknown_reason_are_none_to_be_had(
    scene: Scene,
    said: type[CloudError],
    wanted: dict[str, int],
    told: type[CloudError],
    is_late: bool,
) -> None:
    if is_late and said is CloudError:
        scene.arm.failing = [("SubscriptionNotRegisteredForFeature", "none")]
    else:
        scene.arm.faults[scene.put] = [said("no", code="NotHere")]
    with pytest.raises(told) as refusal:
        scene.writer.apply(scene.change(**wanted))
    assert type(refusal.value) is told
    assert len(scene.add(1, token="t2")) == 1


def test_a_removal_that_is_refused_is_no_lack_of_blocks(nic: Scene) -> None:
    nic.arm.put_config(nic.eni_id, config("web", "10.0.0.9"))
    with pytest.raises(CloudError, match="not ours") as refusal:
        nic.writer.apply(nic.change(add_prefixes=1, remove=(a("10.0.0.9"),)))
    assert type(refusal.value) is CloudError


def test_a_full_subnet_is_named(scene: Scene) -> None:
    scene.arm.faults[scene.put] = [SubnetExhausted("full", code="SubnetIsFull")]
    with pytest.raises(SubnetExhausted) as refusal:
        scene.add(1)
    assert refusal.value.subnet_id == SUBNET.lower()


def test_more_than_a_nic_takes_is_refused_before_any_write(scene: Scene) -> None:
    with pytest.raises(LimitReached):
        scene.add(256)
    assert scene.arm.puts == 0


def test_all_of_a_nic_can_be_had(scene: Scene) -> None:
    scene.arm.cidr = IPv4Network("10.0.0.0/22")
    assert len(scene.add(255)) == 255
    with pytest.raises(LimitReached):
        scene.add(1, token="t2")


def test_a_swap_on_a_full_nic_is_had(scene: Scene) -> None:
    scene.arm.cidr = IPv4Network("10.0.0.0/22")
    first, *_ = scene.add(255)
    assert len(scene.add(1, remove=(first,), token="t2")) == 1


# Somebody else's changes


@pytest.mark.parametrize("refusals", [1, 2])
def test_a_stale_etag_is_read_again(scene: Scene, refusals: int) -> None:
    scene.arm.faults[scene.put] = [lambda: scene.arm.others_write(scene.target)] * refusals
    assert len(scene.add(1)) == 1
    assert scene.arm.puts == refusals + 1
    assert len(set(scene.arm.if_match)) == refusals + 1


def test_after_three_refusals_in_a_row_the_caller_is_told(scene: Scene) -> None:
    scene.arm.faults[scene.put] = [lambda: scene.arm.others_write(scene.target)] * 9
    with pytest.raises(Busy) as refusal:
        scene.add(1)
    assert scene.arm.puts == 3
    assert refusal.value.retry_after_seconds == (5.0 if scene.eni_id == NIC_ENI else 15.0)
    assert scene.held() == []
    assert scene.journal.writes() == ()


def test_a_lock_is_waited_for_as_long_as_arm_says(nic: Scene) -> None:
    nic.arm.faults["put_nic"] = [Busy("locked", code="RetryableError", retry_after_seconds=7)]
    nic.add(1)
    assert 7 in nic.clock.slept


def test_a_lock_that_is_held_for_long_is_the_callers_to_wait_for(nic: Scene) -> None:
    nic.arm.faults["put_nic"] = [Busy("locked", code="RetryableError", retry_after_seconds=60)]
    with pytest.raises(Busy) as refusal:
        nic.add(1)
    assert refusal.value.retry_after_seconds == 60
    assert nic.arm.puts == 1


def test_an_instance_that_others_change_is_not_written(instance: Scene) -> None:
    instance.arm.resources[instance.target]["properties"]["provisioningState"] = "Updating"
    with pytest.raises(Busy):
        instance.add(1)
    assert instance.arm.puts == 0


def test_a_nic_that_never_stops_updating_is_written_all_the_same(nic: Scene) -> None:
    nic.arm.resources[nic.target]["properties"]["provisioningState"] = "Updating"
    assert len(nic.add(1)) == 1


def test_a_spent_budget_of_some_seconds_is_waited_for(instance: Scene) -> None:
    spent = Throttled("spent", code="BudgetSpent", retry_after_seconds=12.0)
    instance.arm.faults["put_instance"] = [spent]
    assert len(instance.add(1)) == 1
    assert 12.0 in instance.clock.slept


def test_a_budget_spent_for_long_is_the_callers_to_wait_for(instance: Scene) -> None:
    spent = Throttled("spent", code="BudgetSpent", retry_after_seconds=300.0)
    instance.arm.faults["put_instance"] = [spent]
    with pytest.raises(Throttled):
        instance.add(1)


# Lost answers


def test_a_write_whose_answer_is_lost_is_waited_for(scene: Scene) -> None:
    scene.arm.lost = ["after"]
    assert len(scene.add(2)) == 2
    assert scene.arm.puts == 1
    assert scene.journal.writes() == ()


def test_a_removal_whose_answer_is_lost_is_waited_for(scene: Scene) -> None:
    added = scene.add(2)
    scene.arm.lost = ["after"]
    scene.remove(added[0], token="t2")
    assert scene.held() == [str(added[1])]


def test_a_write_that_never_arrived_is_transient(scene: Scene) -> None:
    scene.arm.lost = ["before"]
    with pytest.raises(Transient) as refusal:
        scene.add(2)
    assert refusal.value.code == "ConnectionReset"
    assert scene.arm.puts == 1
    assert scene.journal.writes() == ()


def test_a_write_that_cannot_be_read_back_stays_noted(scene: Scene) -> None:
    gone = Transient("unreachable", code="Timeout")
    scene.arm.lost = ["after"]
    scene.arm.faults[scene.put] = [lambda: scene.arm.faults.update({scene.read: [gone]})]
    with pytest.raises(Transient):
        scene.add(2)
    assert len(scene.journal.writes()) == 1
    scene.idle()
    assert len(scene.add(2)) == 2
    assert len(scene.held()) == 2
    assert scene.arm.puts == 1


def test_looks_that_fail_are_waited_out(scene: Scene) -> None:
    scene.arm.write_seconds = 20
    slow = Throttled("slow", code="TooManyRequests", retry_after_seconds=33)
    faults = [Transient("t"), slow, Transient("t")]
    scene.arm.faults[scene.put] = [lambda: scene.arm.faults.update({scene.read: list(faults)})]
    assert len(scene.add(1)) == 1
    assert 33 in scene.clock.slept


def test_a_nic_that_goes_while_it_is_written_is_not_found(nic: Scene) -> None:
    nic.arm.faults["put_nic"] = [
        lambda: nic.arm.faults.update({"nic": [NotFound("gone", code="ResourceNotFound")]})
    ]
    with pytest.raises(NotFound):
        nic.add(1)
    assert nic.journal.writes() == ()


# Operations that fail


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        pytest.param("SubnetIsFull", SubnetExhausted, id="full"),
        pytest.param("SomethingElse", CloudError, id="unknown"),
        pytest.param("InternalExecutionError", Transient, id="theirs"),
    ],
)
def test_a_failed_operation_says_why(scene: Scene, code: str, kind: type[CloudError]) -> None:
    scene.arm.failing = [(code, "none")]
    with pytest.raises(kind) as refusal:
        scene.add(2)
    assert refusal.value.code == code
    assert scene.arm.calls.count("operation") == 1
    assert scene.journal.writes() == ()


def test_a_failed_operation_that_applied_all_is_a_success(scene: Scene) -> None:
    scene.arm.failing = [("PublicIpPrefixOutOfIpAddressesForVMScaleSet", "all")]
    assert sorted(map(str, scene.add(3))) == sorted(scene.held())
    assert len(scene.held()) == 3


def test_of_a_failed_operation_what_is_usable_is_told(scene: Scene) -> None:
    scene.arm.failing = [("SubnetIsFull", 2)]
    assert len(scene.add(3)) == 2
    assert [event for event, _ in scene.notes] == ["azure_write_partly_done"]


def test_what_a_failed_operation_left_goes_with_the_next_write(scene: Scene) -> None:
    scene.arm.failing = [("SomethingElse", "none")]
    with pytest.raises(CloudError):
        scene.add(2)
    left = set(names_of("t1", Kind.ADDRESS, 2))
    assert scene.writer.hidden(scene.eni_id) == left

    scene.add(1, token="t2")

    assert not left & set(scene.arm.names(scene.eni_id))
    assert len(scene.held()) == 1
    assert scene.writer.hidden(scene.eni_id) == frozenset()


def test_what_a_failed_operation_left_is_tried_again_when_it_is_asked_for(scene: Scene) -> None:
    scene.arm.failing = [("SomethingElse", "none")]
    with pytest.raises(CloudError):
        scene.add(2)
    assert len(scene.add(2)) == 2
    assert scene.writer.hidden(scene.eni_id) == frozenset()


def test_what_was_told_before_is_never_left_behind(nic: Scene) -> None:
    """A NIC may call all that it has Failed, for the one that is."""
    (address,) = nic.add(1)
    listed = nic.arm.resources[nic.target]["properties"]["ipConfigurations"]
    listed[1]["properties"]["provisioningState"] = "Failed"

    def fail_all() -> None:
        listed = nic.arm.resources[nic.target]["properties"]["ipConfigurations"]
        for raw in listed:
            raw["properties"]["provisioningState"] = "Failed"

    nic.arm.failing = [("SubnetIsFull", "none")]
    nic.arm.faults["operation"] = [fail_all]
    with pytest.raises(SubnetExhausted):
        nic.add(2)
    left = names_of("t1", Kind.ADDRESS, 2)[1]
    assert nic.writer.hidden(NIC_ENI) == {left}
    nic.add(1, token="t2")
    assert str(address) in nic.held()


def test_what_is_left_behind_stays_so_when_it_fails_again(scene: Scene) -> None:
    scene.arm.failing = [("SomethingElse", "none")] * 2
    for _ in range(2):
        with pytest.raises(CloudError):
            scene.add(1)
    assert scene.writer.hidden(scene.eni_id) == set(names_of("t1", Kind.ADDRESS, 1))


def test_what_a_failed_operation_left_makes_room_for_what_comes(scene: Scene) -> None:
    scene.arm.cidr = IPv4Network("10.0.0.0/22")
    scene.arm.failing = [("SomethingElse", "none")]
    with pytest.raises(CloudError):
        scene.add(200)
    assert len(scene.add(100, token="t2")) == 100


def test_what_a_failed_operation_applied_may_show_late(instance: Scene) -> None:
    late = [instance.arm.instance_nics(INSTANCE)] * 2
    instance.arm.shown = lambda views: late.pop() if late else views
    instance.arm.failing = [("SomethingElse", "all")]
    assert len(instance.add(1)) == 1


def test_a_removal_that_failed_without_effect_is_refused(nic: Scene) -> None:
    (address,) = nic.add(1)
    nic.arm.faults["put_nic"] = [CloudError("locked model", code="OperationNotAllowed")]
    with pytest.raises(CloudError) as refusal:
        nic.remove(address, token="t2")
    assert type(refusal.value) is CloudError


def test_a_removal_that_stands_in_the_model_alone_is_in_doubt(instance: Scene) -> None:
    (address,) = instance.add(1)
    instance.arm.failing = [("SomethingElse", "none")]
    with pytest.raises(Transient) as refusal:
        instance.remove(address, token="t2")
    assert refusal.value.code == "PartlyDone"


def test_an_operation_that_another_write_displaced_is_done_again(instance: Scene) -> None:
    instance.arm.failing = [("OperationPreempted", "none")]
    assert len(instance.add(1)) == 1
    assert instance.arm.puts == 2


def test_an_operation_that_is_canceled_for_no_reason_is_done_again(instance: Scene) -> None:
    instance.arm.failing = [("Canceled", "none")]
    assert len(instance.add(2)) == 2
    assert instance.arm.puts == 2


def test_the_end_of_a_write_is_seen_though_others_change_the_machine_after_it(
    scene: Scene,
) -> None:
    scene.arm.stays_moving = True
    first, second = scene.add(2)
    assert scene.clock.now < 1030
    assert scene.journal.writes() == ()
    assert sorted(map(str, (first, second))) == sorted(scene.held())


def test_the_failure_of_a_write_is_seen_though_others_change_the_machine_after_it(
    scene: Scene,
) -> None:
    scene.arm.stays_moving = True
    scene.arm.failing = [("SubnetIsFull", "none")]
    with pytest.raises(SubnetExhausted):
        scene.add(2)
    assert scene.clock.now < 1030


def test_a_nic_that_stays_updating_after_a_write_is_written_again(nic: Scene) -> None:
    nic.arm.stays_moving = True
    for number in range(3):
        assert len(nic.add(1, token=f"t{number}")) == 1
    assert nic.arm.puts == 3


def test_an_old_look_after_a_write_that_names_no_operation_is_no_refusal(scene: Scene) -> None:
    scene.arm.names_operations, scene.arm.lagging = False, 4
    assert len(scene.add(2)) == 2
    assert scene.arm.puts == 1


def test_a_full_subnet_that_shows_late_is_a_full_subnet(instance: Scene) -> None:
    instance.arm.cidr = IPv4Network("10.0.0.0/28")
    instance.arm.checks_capacity_late = True
    with pytest.raises(SubnetExhausted) as refusal:
        instance.add(12)
    assert refusal.value.code == "SubnetIsFull"


def test_an_operation_that_nobody_knows_any_more_is_judged_by_the_resource(scene: Scene) -> None:
    scene.arm.failing = [("SomethingElse", "none")]
    scene.arm.faults["operation"] = [NotFound("gone", code="ResourceNotFound")]
    with pytest.raises(Transient) as refusal:
        scene.add(1)
    assert refusal.value.code == "Failed"


def test_an_operation_that_never_answers_is_judged_by_the_resource(scene: Scene) -> None:
    scene.arm.failing = [("SubnetIsFull", "none")]
    scene.arm.faults["operation"] = [Transient("odd", code="Http500")] * 99
    with pytest.raises(Transient) as doubt:
        scene.add(2)
    assert doubt.value.code == "Failed"
    assert scene.clock.now < 1060
    scene.arm.faults = {}
    assert len(scene.add(2, token="t2")) == 2


def test_an_operation_that_must_not_be_asked_for_long_does_not_delay_the_looks(
    instance: Scene,
) -> None:
    instance.arm.faults["operation"] = [Throttled("slow", retry_after_seconds=400.0)]
    before = instance.arm.instance_nics(INSTANCE)
    instance.arm.shown = lambda views: views if instance.clock.now >= 1020 else before
    assert len(instance.add(1)) == 1
    assert instance.clock.now < 1040
    assert instance.arm.calls.count("operation") == 1


def test_nics_that_follow_late_are_waited_for(instance: Scene) -> None:
    late = [instance.arm.instance_nics(INSTANCE)] * 3
    instance.arm.shown = lambda views: late.pop() if late else views
    assert len(instance.add(1)) == 1


def test_nics_that_never_follow_leave_the_write_in_doubt(instance: Scene) -> None:
    stale = instance.arm.instance_nics(INSTANCE)
    instance.arm.shown = lambda views: stale
    with pytest.raises(Transient) as refusal:
        instance.add(1)
    assert refusal.value.code == "NotShown"
    assert instance.writer.hidden(INSTANCE_ENI) == frozenset()


def test_a_nic_that_is_not_listed_is_no_proof_that_an_address_is_gone(instance: Scene) -> None:
    instance.arm.shown = lambda views: views[1:]
    with pytest.raises(Transient) as refusal:
        instance.remove(a("10.0.0.9"))
    assert refusal.value.code == "NicNotShown"


# Time


def test_a_write_that_does_not_end_stays_noted_and_is_in_doubt(scene: Scene) -> None:
    scene.arm.write_seconds = 10_000
    with pytest.raises(Transient) as refusal:
        scene.add(1)
    assert refusal.value.code == "UnderWay"
    assert scene.clock.now <= 1000 + DEADLINE_SECONDS + 1
    (write,) = scene.journal.writes()
    assert write.operation_url


def test_nothing_is_sent_while_our_last_write_is_under_way(scene: Scene) -> None:
    scene.arm.write_seconds = 700
    with pytest.raises(Transient):
        scene.add(1)
    scene.arm.write_seconds = 1
    assert len(scene.add(1, token="t2")) == 1
    assert scene.arm.puts == 2
    assert len(scene.held()) == 2


def test_what_a_write_under_way_removes_is_hidden(scene: Scene) -> None:
    (address,) = scene.add(1)
    scene.arm.write_seconds = 10_000
    with pytest.raises(Transient):
        scene.remove(address, token="t2")
    assert scene.writer.hidden(scene.eni_id) == set(names_of("t1", Kind.ADDRESS, 1))


def test_nothing_is_sent_without_time_for_it(nic: Scene) -> None:
    nic.arm.faults["nic"] = [lambda: nic.clock.sleep(DEADLINE_SECONDS - 10)]
    with pytest.raises(Busy) as refusal:
        nic.add(1)
    assert refusal.value.code == "NoTimeLeft"
    assert nic.arm.puts == 0


def test_a_length_without_end_is_an_odd_answer(nic: Scene) -> None:
    primary = nic.arm.resources[nic.target]["properties"]["ipConfigurations"][0]["properties"]
    primary |= {"privateIPAddress": "", "privateIPAddressPrefixLength": float("inf")}  # 1e999
    with pytest.raises(Transient) as refusal:
        nic.add(1)
    assert refusal.value.code == "OddAnswer"


def test_an_odd_answer_is_transient(scene: Scene) -> None:
    del scene.arm.resources[scene.target]["properties"]
    with pytest.raises(Transient) as refusal:
        scene.add(1)
    assert refusal.value.code == "OddAnswer"


def test_two_nics_of_an_instance_are_changed_apart_or_together(instance: Scene) -> None:
    first = instance.add(1)
    second = instance.add(1, eni_id=SECOND_ENI, token="t2")
    assert instance.held() == [str(first[0])]
    assert instance.arm.held(SECOND_ENI) == [str(second[0])]
