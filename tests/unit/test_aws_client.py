"""The edge to botocore: the budget before a call, the error and the report after it."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path
from typing import Any
from unittest import mock

import botocore.exceptions
import pytest

import providers.aws as package
from ipamd.api_calls import ApiCall
from ipamd.budget import ALLOWANCES, ApiClass
from ipamd.errors import CloudError, Denied, SubnetExhausted, Throttled, Transient
from providers.aws import ec2_model
from providers.aws.client import Ec2
from providers.aws.purse import LONGEST_WAIT_SECONDS, Purse


class Clock:
    """Crowded: everybody waits at the same time, so that none of it passes between their calls."""

    def __init__(self, *, is_crowded: bool = False) -> None:
        self.is_crowded = is_crowded
        self.now = 0.0
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += 0 if self.is_crowded else seconds


def purse(clock: Clock) -> Purse:
    return Purse(monotonic=clock.monotonic, sleep=clock.sleep, chance=lambda: 0.0)


def refusal(code: str, message: str = "no", status: int = 400) -> Exception:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "RequestId": "r-1"},
    }
    error: Exception = botocore.exceptions.ClientError(response, "X")
    return error


def made(answer: Any, told: list[ApiCall], clock: Clock | None = None) -> Ec2:
    """A client whose every call gives the answer, or raises it."""
    ec2 = Ec2(
        region=lambda: "us-west-2",
        timeout_seconds=1.0,
        purse=purse(clock or Clock()),
        tell=told.append,
    )
    ec2._made = mock.Mock()
    for method in ("describe_subnets", "create_network_interface"):
        effect = answer if isinstance(answer, Exception | list) else None
        getattr(ec2._made, method).configure_mock(side_effect=effect, return_value=answer)
    return ec2


def spend_all(ec2: Ec2) -> None:
    for _ in range(100):
        ec2.call("CreateNetworkInterface", {})


def test_a_call_that_ends_well_is_told() -> None:
    told: list[ApiCall] = []
    assert made({"a": 1}, told).call("DescribeSubnets", {}) == {"a": 1}
    (call,) = told
    assert (call.api, call.code, call.status, call.is_sent) == ("DescribeSubnets", "", 200, True)


@pytest.mark.parametrize(
    ("error", "kind", "code", "status"),
    [
        (refusal("RequestLimitExceeded", status=503), Throttled, "RequestLimitExceeded", 503),
        (refusal("UnauthorizedOperation", status=403), Denied, "UnauthorizedOperation", 403),
        (
            refusal("InsufficientFreeAddressesInSubnet"),
            SubnetExhausted,
            "InsufficientFreeAddressesInSubnet",
            400,
        ),
        (refusal(""), CloudError, "none", 400),
        (
            botocore.exceptions.ReadTimeoutError(endpoint_url="http://x"),
            Transient,
            "ReadTimeoutError",
            0,
        ),
        (botocore.exceptions.NoCredentialsError(), Transient, "NoCredentials", 0),
        (
            botocore.exceptions.ParamValidationError(report="bad"),
            CloudError,
            "ParamValidation",
            0,
        ),
    ],
    ids=lambda v: v if isinstance(v, str) else None,
)
def test_a_failure_is_an_error_by_its_reaction_and_is_told(
    error: Exception, kind: type[CloudError], code: str, status: int
) -> None:
    told: list[ApiCall] = []
    with pytest.raises(CloudError) as caught:
        made(error, told).call("DescribeSubnets", {}, subnet_id="subnet-1")
    assert type(caught.value) is kind
    assert caught.value.operation == "DescribeSubnets"
    assert [(c.code, c.status) for c in told] == [(code, status)]


def test_a_refusal_keeps_what_a_person_needs() -> None:
    with pytest.raises(CloudError, match="DescribeSubnets: X: text") as caught:
        made(refusal("X", "text"), []).call("DescribeSubnets", {}, eni_id="e", subnet_id="s")
    error = caught.value
    assert (error.request_id, error.eni_id, error.subnet_id) == ("r-1", "e", "s")


def test_no_credentials_says_what_to_look_at() -> None:
    with pytest.raises(Transient, match="does the node have an instance profile"):
        made(botocore.exceptions.NoCredentialsError(), []).call("DescribeSubnets", {})


def test_a_spent_budget_makes_calls_wait_for_their_turn() -> None:
    clock, told = Clock(), list[ApiCall]()
    ec2 = made({}, told, clock)
    allowance = ALLOWANCES[ApiClass.INTERFACE]
    for _ in range(int(allowance.burst) + 1):
        ec2.call("CreateNetworkInterface", {})
    assert clock.slept == [pytest.approx(1 / allowance.per_second)]
    assert told[-1].waited_seconds == pytest.approx(1 / allowance.per_second)


def test_beyond_the_bound_a_call_is_refused_without_being_made() -> None:
    clock, told = Clock(is_crowded=True), list[ApiCall]()
    ec2 = made({}, told, clock)
    with pytest.raises(Throttled, match="budget of interface calls is spent") as caught:
        spend_all(ec2)
    assert caught.value.retry_after_seconds > LONGEST_WAIT_SECONDS
    assert max(clock.slept) <= LONGEST_WAIT_SECONDS
    assert not told[-1].is_sent
    assert ec2._made.create_network_interface.call_count == len(told) - 1


def test_what_finishes_another_call_waits_longer() -> None:
    clock, told = Clock(is_crowded=True), list[ApiCall]()
    ec2 = made({}, told, clock)
    with pytest.raises(Throttled):
        spend_all(ec2)
    ec2.call("CreateNetworkInterface", {}, finishes=True)
    assert clock.slept[-1] > LONGEST_WAIT_SECONDS


def test_a_throttle_slows_its_class_and_no_other() -> None:
    ec2 = made(refusal("RequestLimitExceeded", status=503), [])
    with pytest.raises(Throttled):
        ec2.call("CreateNetworkInterface", {})
    kinds = (ApiClass.INTERFACE, ApiClass.DESCRIBE)
    shares = [ec2._purse.per_second(k) / ALLOWANCES[k].per_second for k in kinds]
    assert shares == [0.5, 1.0]


def test_pages_are_read_to_the_end() -> None:
    answers = [{"Subnets": [1, 2], "NextToken": "n"}, {"Subnets": [3], "NextToken": ""}]
    ec2 = made(answers, [])
    found: list[Any] = list(ec2.pages("DescribeSubnets", "Subnets", [("vpc-id", ["v"])]))
    assert found == [1, 2, 3]
    assert ec2._made.describe_subnets.call_args.kwargs == {
        "Filters": [{"Name": "vpc-id", "Values": ["v"]}],
        "MaxResults": 200,
        "NextToken": "n",
    }


@pytest.mark.parametrize("answer", [{}, {"Subnets": None}, {"Subnets": "x"}])
def test_an_answer_without_its_list_is_transient(answer: dict[str, Any]) -> None:
    with pytest.raises(Transient, match="no list of Subnets"):
        list(made(answer, []).pages("DescribeSubnets", "Subnets", []))


def test_the_trimmed_model_has_every_api_that_is_called() -> None:
    named = set()
    for path in Path(inspect.getfile(package)).parent.glob("*.py"):
        tree = ast.parse(path.read_text())
        named |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
    full = ec2_model.session(Path("/nonexistent")).get_service_model("ec2").operation_names
    assert named & set(full) == set(ec2_model.OPERATIONS)
