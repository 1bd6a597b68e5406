"""The three layers of ARM's throttling, in virtual time."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.sim.arm_buckets import ArmBuckets, Spender, charges

NODE = Spender(subscription="sub", principal="kubelet", region="westeurope")
OTHER = Spender(subscription="sub", principal="autoscaler", region="westeurope")
GROUP = "/subscriptions/sub/resourceGroups/rg/providers"
NIC = f"{GROUP}/Microsoft.Network/networkInterfaces/n"
SET = f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/pool"
INSTANCE = f"{SET}/virtualMachines/3"


def passed(
    buckets: ArmBuckets, method: str, path: str, count: int, now: float, spender: Spender = NODE
) -> int:
    verdicts = [buckets.take(method, path, spender, now) for _ in range(count)]
    return sum(verdict.throttle is None for verdict in verdicts)


@pytest.mark.parametrize(
    ("method", "path", "burst", "in_a_minute"),
    [
        pytest.param("PUT", INSTANCE, 12, 4, id="update of an instance"),
        pytest.param("GET", INSTANCE, 36, 12, id="get of an instance"),
        pytest.param("DELETE", INSTANCE, 12, 4, id="delete of an instance"),
        pytest.param("POST", f"{INSTANCE}/reimage", 12, 4, id="reimage"),
        pytest.param("GET", SET, 36, 12, id="get of a set"),
        pytest.param("PUT", SET, 12, 4, id="update of a set"),
        pytest.param("GET", f"{SET}/virtualMachines", 30, 10, id="list of a set's instances"),
        pytest.param(
            "GET", f"{GROUP}/Microsoft.Compute/virtualMachines/vm", 36, 12, id="get of a VM"
        ),
        pytest.param(
            "GET",
            "/subscriptions/sub/providers/Microsoft.Compute/locations/l/operations/o",
            45,
            15,
            id="status of an operation",
        ),
        pytest.param("PUT", NIC, 200, 200, id="a NIC: the front door is what bites first"),
    ],
)
def test_a_burst_passes_as_deep_as_the_smallest_bucket_and_refills_at_its_rate(
    method: str, path: str, burst: int, in_a_minute: int
) -> None:
    buckets = ArmBuckets()
    assert passed(buckets, method, path, 400, now=0) == burst
    assert passed(buckets, method, path, 400, now=60) == in_a_minute


def test_instances_have_buckets_of_their_own_whatever_the_case_of_their_path() -> None:
    buckets = ArmBuckets()
    assert (
        passed(buckets, "PUT", INSTANCE.upper().replace("/SUBSCRIPTIONS", "/subscriptions"), 12, 0)
        == 12
    )
    assert passed(buckets, "PUT", INSTANCE, 1, now=0) == 0
    assert passed(buckets, "PUT", f"{SET}/virtualMachines/4", 12, now=0) == 12


def test_what_is_done_to_an_instance_spends_from_the_bucket_of_its_writes() -> None:
    buckets = ArmBuckets()
    assert passed(buckets, "POST", f"{INSTANCE}/reimage", 5, now=0) == 5
    assert passed(buckets, "PUT", INSTANCE, 12, now=0) == 7


def test_the_front_door_is_kept_apart_by_principal_and_class_of_operation() -> None:
    buckets = ArmBuckets()
    assert passed(buckets, "PUT", NIC, 300, now=0) == 200
    assert passed(buckets, "PUT", NIC, 1, now=0, spender=OTHER) == 1
    assert passed(buckets, "DELETE", NIC, 1, now=0) == 1
    assert passed(buckets, "GET", NIC, 300, now=0) == 250


def test_a_subscription_has_1000_network_writes_in_five_minutes_whoever_makes_them() -> None:
    buckets = ArmBuckets()
    spenders = [
        Spender(subscription="sub", principal=f"node-{n}", region="westeurope") for n in range(8)
    ]
    assert sum(passed(buckets, "PUT", NIC, 150, 0, one) for one in spenders) == 1000
    verdict = buckets.take("PUT", NIC, NODE, 0)
    assert verdict.throttle is not None
    assert verdict.throttle.code == "TooManyRequests"
    assert sum(passed(buckets, "PUT", NIC, 40, 30, one) for one in spenders) == 100


def test_a_scale_sets_nics_are_read_from_microsoft_network() -> None:
    path = (
        f"{GROUP}/microsoft.Compute/virtualMachineScaleSets/p/virtualMachines/0/networkInterfaces"
    )
    layers = [charge.layer for layer in charges("GET", path, NODE) for charge in layer]
    assert layers == ["front_door", "network"]


def test_an_answer_says_how_much_is_left_in_each_bucket_that_azure_shows() -> None:
    headers = ArmBuckets().take("PUT", INSTANCE, NODE, 0).headers
    assert headers == {
        "x-ms-ratelimit-remaining-subscription-writes": "199",
        "x-ms-ratelimit-remaining-resource": (
            "Microsoft.Compute/UpdateVMScaleSetVMPerResource1Min;11,"
            "Microsoft.Compute/UpdateVMScaleSetVMPerSubscription1Min;1499,"
            "Microsoft.Compute/VmssQueuedVMOperations;0"
        ),
        "x-ms-request-charge": "1",
    }


def test_a_refusal_of_compute_names_its_bucket_and_the_seconds_to_wait() -> None:
    buckets = ArmBuckets()
    passed(buckets, "PUT", INSTANCE, 12, now=0)
    verdict = buckets.take("PUT", INSTANCE, NODE, 5)
    assert verdict.throttle is not None
    assert (verdict.throttle.code, verdict.throttle.retry_after_seconds) == (
        "OperationNotAllowed",
        10,
    )
    assert verdict.headers["Retry-After"] == "10"
    assert (
        "UpdateVMScaleSetVMPerResource1Min;0"
        in verdict.headers["x-ms-ratelimit-remaining-resource"]
    )
    detail = verdict.throttle.details[0]
    assert json.loads(detail["message"])["allowedRequestCount"] == 12
    assert detail["target"] == "UpdateVMScaleSetVMPerResource1Min"


def test_a_refusal_of_the_front_door_has_its_own_code() -> None:
    buckets = ArmBuckets()
    passed(buckets, "DELETE", NIC, 200, now=0)
    verdict = buckets.take("DELETE", NIC, NODE, 0)
    assert verdict.throttle is not None
    assert verdict.throttle.code == "SubscriptionRequestsThrottled"
    assert verdict.headers["x-ms-ratelimit-remaining-subscription-deletes"] == "0"


def test_what_the_provider_refuses_has_still_passed_the_front_door() -> None:
    buckets = ArmBuckets()
    assert passed(buckets, "PUT", INSTANCE, 20, now=0) == 12
    assert (
        buckets.tokens("PUT", INSTANCE, NODE, 0)["x-ms-ratelimit-remaining-subscription-writes"]
        == 180
    )


@given(
    steps=st.lists(
        st.tuples(st.floats(0, 30), st.sampled_from(["PUT", "GET", "DELETE"])), max_size=60
    )
)
def test_whoever_waits_as_told_is_let_through(steps: list[tuple[float, str]]) -> None:
    buckets, now = ArmBuckets(), 0.0
    for pause, method in steps:
        now += pause
        throttle = buckets.take(method, INSTANCE, NODE, now).throttle
        if throttle is not None:
            now += throttle.retry_after_seconds
            assert buckets.take(method, INSTANCE, NODE, now).throttle is None
