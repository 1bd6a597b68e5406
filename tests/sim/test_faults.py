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
    "wrong",
    [{"kind": FaultKind.ERROR}, {"kind": FaultKind.THROTTLE, "count": 0}],
    ids=["an error without a code", "a count of none"],
)
def test_a_fault_that_means_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"code|count"):
        FaultBook().add("*", **wrong)
