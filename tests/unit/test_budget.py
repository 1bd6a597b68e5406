from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.budget import (
    ALLOWANCES,
    DECREASE,
    FLOOR,
    RECOVERY_SECONDS,
    Allowance,
    ApiClass,
    Bucket,
    class_of,
    full_buckets,
)


def bucket(tokens: float = 4.0, *, burst: float = 4.0, rate: float = 0.5) -> Bucket:
    allowance = Allowance(burst=burst, per_second=rate)
    return Bucket(allowance=allowance, tokens=tokens, as_of=0.0)


@pytest.mark.parametrize(
    ("api", "kind"),
    [
        ("DescribeNetworkInterfaces", ApiClass.DESCRIBE),
        ("GetSubnetCidrReservations", ApiClass.DESCRIBE),
        ("CreateNetworkInterface", ApiClass.INTERFACE),
        ("DeleteNetworkInterface", ApiClass.INTERFACE),
        ("ModifyNetworkInterfaceAttribute", ApiClass.INTERFACE),
        ("AttachNetworkInterface", ApiClass.ATTACH),
        ("DetachNetworkInterface", ApiClass.ATTACH),
        ("AssignPrivateIpAddresses", ApiClass.ADDRESS),
        ("UnassignIpv6Addresses", ApiClass.ADDRESS),
        ("CreateTags", ApiClass.OTHER),
    ],
)
def test_every_api_has_a_class(api: str, kind: ApiClass) -> None:
    assert class_of(api) is kind


def test_the_largest_common_type_fills_itself_without_a_wait() -> None:
    buckets = full_buckets(ALLOWANCES, 0.0)
    for _ in range(14):  # 15 ENIs, of which the primary is there already
        for api in ("Create", "Modify", "Attach", "Describe"):
            kind = class_of(
                {
                    "Create": "CreateNetworkInterface",
                    "Modify": "ModifyNetworkInterfaceAttribute",
                    "Attach": "AttachNetworkInterface",
                    "Describe": "DescribeNetworkInterfaces",
                }[api]
            )
            assert buckets[kind].wait_seconds(0.0, 0.99) == 0.0
            buckets[kind] = buckets[kind].spent(0.0)


def test_an_empty_bucket_says_when_its_next_token_is_there() -> None:
    assert bucket(0.5).wait_seconds(0.0, 0.0) == pytest.approx(1.0)
    assert bucket(0.5).wait_seconds(1.0, 0.0) == 0.0
    assert bucket(0.5).wait_seconds(0.0, 0.8) == pytest.approx(1.2)


def test_those_who_wait_get_their_turns_one_after_the_other() -> None:
    first = bucket(0.0).spent(0.0)
    assert first.wait_seconds(0.0, 0.0) == pytest.approx(4.0)
    assert first.spent(0.0).wait_seconds(0.0, 0.0) == pytest.approx(6.0)


def test_a_bucket_never_holds_more_than_its_burst() -> None:
    assert bucket(0.0).at(1e6).tokens == 4.0


def test_a_throttle_halves_the_rate_and_leaves_one_probe() -> None:
    after = bucket().throttled(0.0)
    assert (after.per_second, after.tokens, after.burst) == (0.25, 1.0, 2.0)


def test_throttles_of_one_moment_count_once() -> None:
    after = bucket().throttled(0.0).throttled(0.5).throttled(0.9)
    assert after.share == pytest.approx(DECREASE, abs=1 / RECOVERY_SECONDS)
    assert after.throttled(1.5).share == pytest.approx(DECREASE**2, abs=2 / RECOVERY_SECONDS)


def test_the_rate_never_falls_below_its_floor() -> None:
    after = bucket()
    for now in range(0, 40, 2):
        after = after.throttled(float(now))
    assert FLOOR <= after.share <= FLOOR + 2 / RECOVERY_SECONDS


def test_the_rate_comes_back_evenly_with_time() -> None:
    after = bucket().throttled(0.0)
    quarter = RECOVERY_SECONDS / 4
    shares = [after.at(t).share for t in (0.0, quarter, 2 * quarter, 600.0)]
    assert shares == pytest.approx([0.5, 0.75, 1.0, 1.0])


def test_a_clock_that_goes_back_gives_nothing() -> None:
    later = bucket(0.0).at(10.0)
    assert later.at(5.0) == later


def test_an_allowance_that_lets_nothing_through_is_refused() -> None:
    with pytest.raises(ValueError, match="let a call through"):
        Allowance(burst=0.5, per_second=1.0)


@given(st.lists(st.tuples(st.floats(0.0, 50.0), st.sampled_from(["spend", "throttle"]))))
def test_no_history_lets_through_more_than_burst_and_rate(
    steps: list[tuple[float, str]],
) -> None:
    kept, now, spent = bucket(), 0.0, 0
    for pause, step in steps:
        now += pause
        if step == "throttle":
            kept = kept.throttled(now)
        elif kept.wait_seconds(now, 0.0) == 0.0:
            kept, spent = kept.spent(now), spent + 1
        assert FLOOR <= kept.share <= 1.0
        assert spent <= 4.0 + 0.5 * now + 1e-6


@given(st.floats(0.0, 1e4), st.floats(0.0, 1e4))
def test_refilling_in_two_steps_is_refilling_in_one(first: float, second: float) -> None:
    at_once = bucket(0.0).at(first + second)
    in_steps = bucket(0.0).at(first).at(first + second)
    assert in_steps.tokens == pytest.approx(at_once.tokens)


def test_a_node_keeps_to_a_tenth_of_what_ec2_refills() -> None:
    refills = {ApiClass.DESCRIBE: 20.0, ApiClass.INTERFACE: 5.0, ApiClass.ATTACH: 5.0}
    for kind, per_second in refills.items():
        assert ALLOWANCES[kind].per_second <= per_second / 10
