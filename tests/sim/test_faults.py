"""Faults on demand, seen by an unmodified boto3."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

from providers.sim.faults import FaultBook, FaultKind
from tests.sim.lab import Lab, ec2_client, refused


@pytest.fixture
def patient(lab: Lab) -> Iterator[Any]:
    """A client that retries, as a daemon's would."""
    client = ec2_client(lab.url, attempts=3)
    yield client
    client.close()


def test_throttling_is_a_503_and_ends_with_its_count(lab: Lab) -> None:
    lab.emulator.faults.add("DescribeSubnets", FaultKind.THROTTLE, count=1)
    with pytest.raises(ClientError) as caught:
        lab.ec2.describe_subnets()
    status = caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
    assert (caught.value.response["Error"]["Code"], status) == ("RequestLimitExceeded", 503)
    assert lab.free() == 251


def test_boto3_retries_a_throttled_call_by_itself(lab: Lab, patient: Any) -> None:
    lab.emulator.faults.add("DescribeSubnets", FaultKind.THROTTLE, count=1)
    assert patient.describe_subnets()["ResponseMetadata"]["RetryAttempts"] == 1


def test_any_error_can_be_made(lab: Lab) -> None:
    lab.emulator.faults.add(
        "CreateNetworkInterface",
        FaultKind.ERROR,
        code="UnauthorizedOperation",
        message="You are <not> allowed.",
        status=403,
    )
    with pytest.raises(ClientError, match="You are <not> allowed") as caught:
        lab.eni()
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert lab.free() == 251


def test_a_time_out_before_the_commit_has_no_effect(lab: Lab) -> None:
    eni = lab.eni()
    lab.emulator.faults.add(
        "AssignPrivateIpAddresses", FaultKind.TIMEOUT_BEFORE, seconds=0.1, count=1
    )
    with pytest.raises(ConnectionClosedError):
        lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=3
        )
    assert len(lab.addresses(eni)) == 1


def test_a_time_out_after_the_commit_has_its_effect(lab: Lab) -> None:
    eni = lab.eni()
    lab.emulator.faults.add(
        "AssignPrivateIpAddresses", FaultKind.TIMEOUT_AFTER, seconds=0.1, count=1
    )
    with pytest.raises(ConnectionClosedError):
        lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=3
        )
    assert len(lab.addresses(eni)) == 4


def test_assign_repeated_after_a_lost_answer_assigns_twice(lab: Lab, patient: Any) -> None:
    eni = lab.eni()
    lab.emulator.faults.add(
        "AssignPrivateIpAddresses", FaultKind.TIMEOUT_AFTER, seconds=0.1, count=1
    )
    patient.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=3)
    assert len(lab.addresses(eni)) == 7


def test_create_repeated_after_a_lost_answer_creates_once(lab: Lab, patient: Any) -> None:
    lab.emulator.faults.add("CreateNetworkInterface", FaultKind.TIMEOUT_AFTER, seconds=0.1, count=1)
    patient.create_network_interface(SubnetId=lab.subnet_id)
    assert lab.free() == 250


def test_a_held_connection_outlasts_an_impatient_client(lab: Lab) -> None:
    lab.emulator.faults.add("DescribeSubnets", FaultKind.TIMEOUT_BEFORE, seconds=5)
    impatient = ec2_client(lab.url, read_seconds=0.2)
    with pytest.raises(ReadTimeoutError):
        impatient.describe_subnets()
    impatient.close()


def test_latency_comes_on_top_and_delays_nobody_else(lab: Lab) -> None:
    lab.emulator.faults.add("DescribeSubnets", FaultKind.LATENCY, seconds=0.3)
    begun = time.monotonic()
    lab.ec2.describe_network_interfaces()
    quick = time.monotonic() - begun
    lab.ec2.describe_subnets()
    assert quick < 0.3 <= time.monotonic() - begun


def test_a_fault_of_one_instance_spares_the_others(lab: Lab) -> None:
    struck, spared = lab.node(), lab.node()
    lab.emulator.faults.add("*", FaultKind.THROTTLE, instance_id=struck)
    code = refused(lambda: lab.nics(struck))
    assert (code, len(lab.nics(spared))) == ("RequestLimitExceeded", 1)


def test_a_fault_of_an_instance_strikes_calls_that_name_its_interface(lab: Lab) -> None:
    node = lab.node()
    eni = lab.primary(node)["NetworkInterfaceId"]
    lab.emulator.faults.add("*", FaultKind.THROTTLE, instance_id=node)
    assert refused(lambda: lab.shown(eni)) == "RequestLimitExceeded"


def test_cleared_faults_are_gone(lab: Lab) -> None:
    lab.emulator.faults.add("*", FaultKind.THROTTLE)
    lab.emulator.faults.clear()
    assert lab.free() == 251


def test_refused_calls_count_too(lab: Lab) -> None:
    lab.emulator.calls.clear()
    lab.emulator.faults.add("DescribeSubnets", FaultKind.THROTTLE, count=1)
    refused(lab.ec2.describe_subnets)
    lab.ec2.describe_subnets()
    assert dict(lab.emulator.calls) == {"DescribeSubnets": 2}


def test_stopping_ends_a_fault_that_holds_a_connection(lab: Lab) -> None:
    lab.emulator.faults.add("*", FaultKind.TIMEOUT_BEFORE, seconds=60)
    lab.emulator.stopping.set()
    with pytest.raises(ConnectionClosedError):
        lab.ec2.describe_subnets()


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("AttachmentLimitExceeded", 400),
        ("AuthFailure", 401),
        ("IncorrectState", 400),
        ("InsufficientCidrBlocks", 400),
        ("InsufficientFreeAddressesInSubnet", 400),
        ("InternalError", 500),
        ("InvalidNetworkInterface.InUse", 400),
        ("InvalidNetworkInterfaceID.NotFound", 400),
        ("InvalidParameterValue", 400),
        ("InvalidSubnetID.NotFound", 400),
        ("NetworkInterfaceLimitExceeded", 400),
        ("PrivateIpAddressLimitExceeded", 400),
        ("RequestLimitExceeded", 503),
        ("ServiceUnavailable", 503),
        ("UnauthorizedOperation", 403),
        ("Unavailable", 503),
    ],
)
def test_each_code_comes_with_its_own_status(lab: Lab, code: str, status: int) -> None:
    lab.emulator.faults.add("CreateNetworkInterface", FaultKind.ERROR, code=code, count=1)
    with pytest.raises(ClientError) as caught:
        lab.eni()
    answer = caught.value.response
    assert (answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)
    assert lab.free() == 251


def test_throttling_for_five_minutes_ends_by_time(lab: Lab) -> None:
    until = lab.clock.now + 300
    lab.emulator.faults.add("*", FaultKind.THROTTLE, until_unix=until)
    seen = []
    for _ in range(3):
        seen.append(refused(lab.ec2.describe_subnets))
        lab.clock.advance(149)
    assert (seen, lab.free()) == (["RequestLimitExceeded"] * 3, 251)


def test_a_fault_ends_by_count_or_by_time_whichever_is_first(lab: Lab) -> None:
    until = lab.clock.now + 300
    lab.emulator.faults.add("*", FaultKind.THROTTLE, until_unix=until, count=1)
    assert (refused(lab.ec2.describe_subnets), lab.free()) == ("RequestLimitExceeded", 251)


def test_throttled_calls_are_counted_by_action(lab: Lab) -> None:
    lab.emulator.faults.add("DescribeSubnets", FaultKind.THROTTLE, count=2)
    for _ in range(2):
        refused(lab.ec2.describe_subnets)
    assert (lab.free(), dict(lab.emulator.throttled)) == (251, {"DescribeSubnets": 2})


def test_a_lost_attach_is_answered_and_never_happens(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node()
    lab.emulator.faults.add("AttachNetworkInterface", FaultKind.LOST, count=1)
    attachment = lab.attach(eni, node)
    lab.clock.advance(600)
    code = refused(lambda: lab.ec2.detach_network_interface(AttachmentId=attachment))
    assert (lab.shown(eni)["Status"], len(lab.nics(node)), code) == (
        "available",
        1,
        "InvalidAttachmentID.NotFound",
    )
    lab.attach(eni, node)
    assert lab.shown(eni)["Attachment"]["Status"] == "attached"


def test_a_lost_attach_is_refused_like_any_other(lab: Lab) -> None:
    lab.emulator.faults.add("AttachNetworkInterface", FaultKind.LOST)
    node = lab.node()
    assert refused(lambda: lab.attach(lab.eni(), node, index=0)) == "InvalidParameterValue"


def test_an_attach_can_stay_under_way_for_long(lab: Lab) -> None:
    eni, node = lab.eni(), lab.node()
    lab.emulator.faults.add("AttachNetworkInterface", FaultKind.STUCK, seconds=120, count=1)
    lab.attach(eni, node)
    seen = []
    for _ in range(3):
        seen.append(lab.shown(eni)["Attachment"]["Status"])
        lab.clock.advance(60)
    assert seen == ["attaching", "attaching", "attached"]


def test_an_attach_that_stays_for_ever_can_still_be_taken_back(lab: Lab) -> None:
    eni = lab.eni()
    lab.emulator.faults.add("AttachNetworkInterface", FaultKind.STUCK, count=1)
    attachment = lab.attach(eni, lab.node())
    lab.clock.advance(10**9)
    stuck = lab.shown(eni)["Attachment"]["Status"]
    due = lab.emulator.state.next_settling_unix()
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    assert (stuck, due, lab.shown(eni)["Status"]) == ("attaching", None, "available")


def test_a_detach_can_be_lost_and_can_stay(lab: Lab) -> None:
    eni = lab.eni()
    attachment = lab.attach(eni, lab.node())
    lab.emulator.faults.add("DetachNetworkInterface", FaultKind.LOST, count=1)
    lab.emulator.faults.add("DetachNetworkInterface", FaultKind.STUCK, seconds=60, count=1)
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    lost = lab.shown(eni)["Attachment"]["Status"]
    lab.ec2.detach_network_interface(AttachmentId=attachment)
    stuck = lab.shown(eni)["Attachment"]["Status"]
    lab.clock.advance(60)
    assert (lost, stuck, lab.shown(eni)["Status"]) == ("attached", "detaching", "available")


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": FaultKind.ERROR},
        {"kind": FaultKind.THROTTLE, "count": 0},
        {"kind": FaultKind.LOST},
    ],
    ids=["an error without a code", "a count of none", "any call lost"],
)
def test_a_fault_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"code|count|Attach"):
        FaultBook().add("*", **wrong)
