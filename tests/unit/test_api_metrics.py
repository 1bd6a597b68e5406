from __future__ import annotations

from ipamd.api_calls import ApiCall
from ipamd.metrics import Metrics


def text(*calls: ApiCall) -> list[str]:
    metrics = Metrics()
    for call in calls:
        metrics.api_called(call)
    return metrics.text().decode().splitlines()


def test_calls_and_failures_have_aws_nodes_names() -> None:
    said = text(
        ApiCall(api="CreateTags", status=200),
        ApiCall(api="CreateTags", code="AuthFailure", status=401),
    )
    assert 'awscni_ec2api_req_count{fn="CreateTags"} 2' in said
    assert 'awscni_ec2api_error_count{fn="CreateTags"} 1' in said
    assert 'awscni_aws_api_error_count{api="CreateTags",error="AuthFailure"} 1' in said


def test_the_time_of_a_call_is_in_milliseconds() -> None:
    said = text(ApiCall(api="CreateTags", status=200, seconds=0.2))
    labels = 'api="CreateTags",error="false",status="200"'
    assert f"awscni_aws_api_latency_ms_sum{{{labels}}} 200" in said
    assert f'awscni_aws_api_latency_ms_bucket{{{labels},le="250"}} 1' in said


def test_a_call_without_an_answer_has_no_status() -> None:
    said = text(ApiCall(api="CreateTags", code="ReadTimeoutError", seconds=1.0))
    assert 'awscni_aws_api_latency_ms_count{api="CreateTags",error="true",status=""} 1' in said


def test_throttles_and_the_wait_for_the_budget_are_told() -> None:
    said = text(
        ApiCall(api="CreateTags", code="Throttling", status=400, is_throttled=True),
        ApiCall(api="CreateTags", status=200, waited_seconds=1.5),
    )
    assert 'vpc_ipamd_api_throttles_total{api="CreateTags"} 1' in said
    assert 'vpc_ipamd_api_budget_wait_seconds_total{api="CreateTags"} 1.5' in said


def test_a_call_that_the_budget_held_back_is_no_call() -> None:
    said = text(ApiCall(api="CreateTags", code="BudgetSpent", is_sent=False, is_throttled=True))
    assert 'vpc_ipamd_api_budget_refusals_total{api="CreateTags"} 1' in said
    assert not any(line.startswith("awscni_ec2api_req_count{") for line in said)
