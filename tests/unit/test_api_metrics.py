from __future__ import annotations

from dataclasses import replace

from ipamd.api_calls import ApiCall, Left
from ipamd.metrics import MOST_BUCKETS, LedgerCollector, Metrics, Rests
from ipamd.model import EniId, SubnetId
from ipamd.pool.ledger import Intent, IntentKind
from tests import builders as b

RUNNING = Intent(
    token="t1",
    kind=IntentKind.ASSIGN,
    eni_id=EniId("eni-0a"),
    subnet_id=SubnetId("subnet-01"),
    addresses=1,
    device_index=-1,
    network_card=0,
    began_boottime=1.0,
    reason="",
)


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


def test_a_call_refused_for_a_lock_is_no_throttle() -> None:
    said = text(
        ApiCall(api="NetworkInterfaces_CreateOrUpdate", code="RetryableError", is_busy=True)
    )
    assert 'vpc_ipamd_api_busy_total{api="NetworkInterfaces_CreateOrUpdate"} 1' in said
    assert not any(line.startswith("vpc_ipamd_api_throttles_total{") for line in said)


def test_what_an_answer_says_is_left_is_the_newest_word() -> None:
    said = text(
        *(ApiCall(api="A", left=(Left(bucket="subscription-reads", calls=n),)) for n in (9, 8))
    )
    assert 'vpc_ipamd_api_remaining{bucket="subscription-reads"} 8' in said
    assert len([line for line in said if line.startswith("vpc_ipamd_api_remaining{")]) == 1


def test_the_cloud_cannot_name_more_allowances_than_are_kept() -> None:
    many = tuple(Left(bucket=f"b{n}", calls=n) for n in range(MOST_BUCKETS + 9))
    said = text(ApiCall(api="A", left=many), ApiCall(api="A", left=(Left(bucket="b0", calls=7),)))
    rows = [line for line in said if line.startswith("vpc_ipamd_api_remaining{")]
    assert len(rows) == MOST_BUCKETS
    assert 'vpc_ipamd_api_remaining{bucket="b0"} 7' in rows


def test_a_code_that_is_no_word_is_no_label() -> None:
    said = text(ApiCall(api="A", code="nic /subscriptions/0 is full", status=400))
    assert 'awscni_aws_api_error_count{api="A",error="odd"} 1' in said


def test_a_rest_runs_down_and_a_shorter_one_does_not_end_it() -> None:
    now = [100.0]
    rests = Rests(lambda: now[0])
    rests.begin("ARM writes", 30.0)
    rests.begin("ARM writes", 5.0)
    values = []
    for now[0] in (110.0, 130.0, 131.0):
        (family,) = rests.collect()
        values.append([sample.value for sample in family.samples])
    assert values == [[20.0], [0.0], [0.0]]


def test_actions_are_timed_and_those_that_run_are_counted() -> None:
    metrics = Metrics()
    metrics.cloud_done("assign", 47.0)
    metrics.cloud_done("delete_orphan")
    lost = replace(RUNNING, token="t2", is_open=False)
    ledger = replace(b.ledger(), intents={i.token: i for i in (RUNNING, lost)})
    metrics.registry.register(LedgerCollector(lambda: ledger, lambda: (0, 0), lambda: 0))
    said = metrics.text().decode().splitlines()
    assert 'vpc_ipamd_cloud_action_seconds_bucket{action="assign",le="60"} 1' in said
    assert 'vpc_ipamd_cloud_action_seconds_bucket{action="assign",le="40"} 0' in said
    assert not any("vpc_ipamd_cloud_action_seconds" in x and "delete_orphan" in x for x in said)
    assert 'vpc_ipamd_cloud_actions_running{action="assign"} 1' in said
    assert 'vpc_ipamd_cloud_actions_running{action="create"} 0' in said
