from __future__ import annotations

from dataclasses import replace

import pytest

from ipamd import explain
from ipamd.explain import Condition
from ipamd.model import AddressState
from ipamd.node import NodeFacts
from ipamd.pool import blocks
from tests import builders as b

S = AddressState

WELL = Condition(
    ledger=b.ledger(),
    facts=b.facts(),
    max_pods=2,
    cooldown_seconds=30.0,
    has_observed=True,
    cloud_error="",
    last_error="",
    plan_summary="targets met",
    exhausted={},
    prefixless={},
    missing_allocated=(),
    settings_problems=(),
    now=100.0,
)
FULL = b.ledger(
    b.address("10.0.0.5", S.ALLOCATED),
    b.address("10.0.0.6", S.ALLOCATED),
    b.address("10.0.0.7", S.COOLING, since=90.0),
    allocations=(b.allocation("10.0.0.5"), b.allocation("10.0.0.6", "c2", generation=2)),
)
UNREADY = b.ledger(enis=(b.eni(is_ready=False),))

UNCLEARED = b.ledger(
    b.address("10.0.0.5", S.COOLING, since=64.0),
    b.address("10.0.0.6", S.COOLING, since=60.0),
    b.address("10.0.0.7", S.COOLING, since=90.0),
)
WAIT = "2 addresses wait for vpc-cnid to clear their connection tracking entries"

QUARANTINED = b.ledger(
    b.address("10.0.0.10", S.QUARANTINED, reason=blocks.MISSING),
    b.address("10.0.0.5", S.QUARANTINED, reason=blocks.MISSING),
)

WHY = {
    "the cloud was never seen": ({"has_observed": False, "cloud_error": "down"}, "(down)"),
    "the node is full": ({"ledger": FULL}, "the node is full: 2 of max 2 pods"),
    "a full node is full, whatever a subnet said once": (
        {"ledger": FULL, "exhausted": {b.SUBNET: 0.0}},
        "the node is full: 2 of max 2 pods; the earliest cooling address is free in 20 s",
    ),
    "the subnet is full": ({"exhausted": {b.SUBNET: 7.0}}, "subnet subnet-01 has no free address"),
    "a file is wrong": ({"settings_problems": ("no ENIConfig",)}, "no ENIConfig"),
    "a call failed": ({"last_error": "AuthFailure"}, "the last cloud call failed: AuthFailure"),
    "the cloud throttles": ({"last_error": "429", "paused_seconds": 47.2}, "429; next try in 47 s"),
    "a right is missing from the start": (
        {"has_observed": False, "cloud_error": "no right", "is_denied": True},
        "the cloud refuses: no right",
    ),
    "an ENI is not ready": ({"ledger": UNREADY}, "ENI eni-0a is not ready on the node yet"),
    "vpc-cnid does not clear connections": ({"ledger": UNCLEARED}, WAIT),
    "what it does not clear is nothing to wait for": (
        {"ledger": UNCLEARED},
        "the earliest cooling address is free in 20 s",
    ),
    "nothing else is known": ({}, "targets met"),
}


@pytest.mark.parametrize("name", WHY)
def test_a_shortage_names_what_stands_in_the_way(name: str) -> None:
    fields, expected = WHY[name]
    assert expected in explain.shortage(replace(WELL, **fields)).sentence  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"exhausted": {b.SUBNET: 7.0}}, 7.0),
        ({"exhausted": {b.SUBNET: 0.0}}, 1.0),
        ({"ledger": FULL}, 5.0),
        ({"paused_seconds": 47.2}, 47.2),
        ({"ledger": FULL, "paused_seconds": 47.2}, 20.0),
        ({}, 5.0),
    ],
    ids=[
        "when the subnet is asked again",
        "soon",
        "not before an address may be free",
        "when the cloud is asked again",
        "when an address has cooled, if that is sooner",
        "else",
    ],
)
def test_a_shortage_says_when_to_ask_again(fields: dict[str, object], expected: float) -> None:
    answer = explain.shortage(replace(WELL, **fields))  # type: ignore[arg-type]
    assert answer.retry_after_seconds == expected


PROBLEMS = {
    "the cloud": ({"cloud_error": "time-out"}, "the cloud does not answer: time-out"),
    "a right": (
        {"cloud_error": "no right", "is_denied": True},
        "the cloud refuses: no right",
    ),
    "a throttle": (
        {"last_error": "429", "paused_seconds": 47.2},
        "the last cloud call failed: 429; next try in 47 s",
    ),
    "a node that nobody knows yet, of which vpc-cnid was told nothing": (
        {"cloud_error": "down", "facts": None, "ledger": b.ledger(has_heard_node=False)},
        "the cloud does not answer: down",
    ),
    "no report": (
        {"ledger": b.ledger(has_heard_node=False)},
        "no report from vpc-cnid yet, nothing is handed out: is vpc-cnid running?",
    ),
    "a subnet": (
        {"exhausted": {b.SUBNET: 7.0}},
        "subnet subnet-01 is exhausted; next try in 7 s",
    ),
    "a subnet that nobody needs": (
        {"exhausted": {b.SUBNET: 0.0}},
        "subnet subnet-01 is exhausted; tried again when one is needed",
    ),
    "no block": (
        {"prefixless": {b.SUBNET: 60.0}},
        "subnet subnet-01 has no free /28 (pods get single addresses); next try in 60 s",
    ),
    "a call": ({"last_error": "AuthFailure"}, "the last cloud call failed: AuthFailure"),
    "lost addresses": (
        {"ledger": FULL, "missing_allocated": ("10.0.0.5", "10.0.0.9")},
        (
            "used by pods but not in the cloud any more: 10.0.0.5 (default/c1), 10.0.0.9; these "
            "pods have no network: delete them, and find out who took the addresses away"
        ),
    ),
    "quarantine": (
        {"ledger": QUARANTINED},
        "quarantined: 10.0.0.5, 10.0.0.10 (missing in the cloud)",
    ),
    "connections": (
        {"ledger": UNCLEARED},
        f"{WAIT}: is vpc-cnid running? If so, its log says what fails (flush_failed)",
    ),
    "an ENI": ({"ledger": UNREADY}, "ENI eni-0a is attached but not ready on the node"),
    "a file": ({"settings_problems": ("no ENIConfig",)}, "no ENIConfig"),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_each_problem_is_told_alone(name: str) -> None:
    fields, expected = PROBLEMS[name]
    assert explain.problems(replace(WELL, **fields)) == (expected,)  # type: ignore[arg-type]


UNKNOWN = replace(b.facts(), vpc_cidrs=())


@pytest.mark.parametrize(
    ("facts", "environ", "expected"),
    [
        pytest.param(b.facts(), {}, (), id="networks are known"),
        pytest.param(None, {}, (), id="nobody knows the node yet"),
        pytest.param(UNKNOWN, {}, (explain.NO_NETWORKS,), id="they may not be read"),
        pytest.param(UNKNOWN, {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true"}, (), id="nor need they be"),
    ],
)
def test_snat_without_the_vpcs_networks_is_a_problem_of_the_settings(
    facts: NodeFacts | None, environ: dict[str, str], expected: tuple[str, ...]
) -> None:
    said = explain.of_settings(("a file",), b.settings(**environ), facts)
    assert said == (*expected, "a file")


def test_a_silence_that_has_a_reason_is_not_asked_about() -> None:
    unheard = replace(
        WELL,
        ledger=b.ledger(has_heard_node=False),
        settings_problems=(explain.NO_NETWORKS,),
    )
    assert explain.problems(unheard) == (explain.NO_NETWORKS,)


def test_all_well_is_no_problem_and_a_fresh_eni_may_take_its_time() -> None:
    assert explain.problems(WELL) == ()
    assert explain.problems(replace(WELL, ledger=UNREADY, now=9.0)) == ()
