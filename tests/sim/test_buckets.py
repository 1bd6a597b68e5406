"""EC2's request buckets: the pure ones, and in the emulator."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sim.buckets import (
    MUTATING,
    NON_MUTATING,
    OWN_SIZES,
    UNNARROWED,
    Bucket,
    BucketSize,
    RequestBuckets,
    request_size,
)
from tests.sim.lab import Lab, refused


def _passed(buckets: RequestBuckets, action: str, calls: int, now: float = 0.0) -> int:
    return sum(buckets.take(action, now) for _ in range(calls))


@pytest.mark.parametrize(
    ("action", "is_narrowed", "capacity", "refill"),
    [
        ("DescribeSubnets", False, 100, 20),
        ("DescribeNetworkInterfaces", True, 100, 20),
        ("DescribeNetworkInterfaces", False, 50, 10),
        ("DescribeInstances", False, 50, 10),
        ("GetSubnetCidrReservations", True, 100, 20),
        ("CreateNetworkInterface", True, 100, 5),
        ("DeleteNetworkInterface", True, 100, 5),
        ("ModifyNetworkInterfaceAttribute", True, 100, 5),
        ("AssignPrivateIpAddresses", True, 100, 5),
        ("UnassignPrivateIpAddresses", True, 100, 5),
        ("AssignIpv6Addresses", True, 100, 5),
        ("UnassignIpv6Addresses", True, 50, 5),
        ("AttachNetworkInterface", True, 50, 5),
        ("DetachNetworkInterface", True, 50, 5),
        ("CreateTags", True, 100, 10),
        ("CreateSubnetCidrReservation", True, 5, 1),
        ("RunInstances", True, 5, 2),
    ],
)
def test_a_bucket_has_the_published_size(
    action: str, is_narrowed: bool, capacity: float, refill: float
) -> None:
    size = request_size(action, is_narrowed=is_narrowed)
    assert (size.capacity, size.refill_per_second) == (capacity, refill)


@given(
    st.sampled_from([NON_MUTATING, UNNARROWED, MUTATING, *OWN_SIZES.values()]),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 3)), max_size=60),
)
def test_a_bucket_never_gives_more_than_it_held_and_got(
    size: BucketSize, steps: list[tuple[float, int]]
) -> None:
    now, given_away = 0.0, 0
    bucket = Bucket.full(size, now)
    for wait, tokens in steps:
        now += wait
        bucket = bucket.at(now)
        assert 0 <= bucket.tokens <= size.capacity
        if (left := bucket.spent(tokens)) is not None:
            bucket, given_away = left, given_away + tokens
    assert given_away <= size.capacity + now * size.refill_per_second + 1e-6


def test_an_empty_bucket_is_full_again_after_its_time() -> None:
    buckets = RequestBuckets()
    counts = [_passed(buckets, "DescribeSubnets", 120)]
    counts.append(_passed(buckets, "DescribeSubnets", 120, now=1.0))
    counts.append(_passed(buckets, "DescribeSubnets", 120, now=6.0))
    assert counts == [100, 20, 100]


def test_each_action_has_a_bucket_of_its_own() -> None:
    buckets = RequestBuckets()
    assert _passed(buckets, "AttachNetworkInterface", 60) == 50
    assert _passed(buckets, "DetachNetworkInterface", 60) == 50


def test_unfiltered_describes_leave_the_larger_bucket_alone() -> None:
    buckets = RequestBuckets()
    bare = sum(buckets.take("DescribeInstances", 0.0, is_narrowed=False) for _ in range(200))
    assert (bare, _passed(buckets, "DescribeInstances", 200)) == (50, 100)


def test_a_refused_request_spends_nothing() -> None:
    buckets = RequestBuckets()
    _passed(buckets, "RunInstances", 50)
    assert buckets.tokens("RunInstances", 0.5) == pytest.approx(1.0)


def test_instances_spend_from_a_bucket_of_resources_too() -> None:
    buckets = RequestBuckets()
    assert buckets.take("RunInstances", 0.0, resources=1000)
    assert not buckets.take("RunInstances", 0.0, resources=1)
    assert buckets.take("RunInstances", 0.5, resources=1)


def test_the_module_needs_no_moto() -> None:
    code = "import sys, providers.sim.buckets; sys.exit('moto' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_without_buckets_nothing_is_throttled(lab: Lab) -> None:
    for _ in range(60):
        lab.ec2.describe_network_interfaces()
    assert lab.emulator.throttled == {}


def test_a_call_beyond_its_bucket_is_throttled_and_counted(lab: Lab) -> None:
    lab.emulator.set_buckets("ec2")
    eni = lab.eni()
    lab.emulator.calls.clear()
    for _ in range(100):
        lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, PrivateIpAddresses=["10.0.1.9"])
    code = refused(
        lambda: lab.ec2.assign_private_ip_addresses(
            NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1
        )
    )
    assert (code, dict(lab.emulator.throttled), dict(lab.emulator.calls)) == (
        "RequestLimitExceeded",
        {"AssignPrivateIpAddresses": 1},
        {"AssignPrivateIpAddresses": 101},
    )
    lab.clock.advance(0.2)
    lab.ec2.assign_private_ip_addresses(NetworkInterfaceId=eni, SecondaryPrivateIpAddressCount=1)


def test_a_filter_or_a_page_spends_from_the_larger_bucket(lab: Lab) -> None:
    lab.emulator.set_buckets("ec2")
    by_subnet = [{"Name": "subnet-id", "Values": [lab.subnet_id]}]
    for _ in range(50):
        lab.ec2.describe_network_interfaces()
    bare = refused(lab.ec2.describe_network_interfaces)
    lab.ec2.describe_network_interfaces(Filters=by_subnet)
    lab.ec2.describe_network_interfaces(MaxResults=5)
    assert bare == "RequestLimitExceeded"


def test_a_launch_of_many_spends_for_each(lab: Lab) -> None:
    lab.emulator.set_buckets("ec2")
    asked = {"ImageId": "ami-1", "InstanceType": "m5.large", "SubnetId": lab.subnet_id}
    code = refused(lambda: lab.ec2.run_instances(**asked, MinCount=1, MaxCount=1001))
    assert (code, lab.free()) == ("RequestLimitExceeded", 251)


def test_buckets_can_be_lifted_again(lab: Lab) -> None:
    lab.emulator.set_buckets("ec2")
    lab.emulator.set_buckets("off")
    for _ in range(55):
        lab.ec2.describe_network_interfaces()
    with pytest.raises(ValueError, match="off or ec2"):
        lab.emulator.set_buckets("azure")
