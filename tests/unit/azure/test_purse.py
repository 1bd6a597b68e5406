from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.budget import BUDGET_SPENT
from ipamd.errors import Throttled
from providers.azure.purse import (
    ALLOWANCES,
    LONGEST_WAIT_SECONDS,
    PRICES,
    Api,
    Purse,
    Share,
)
from tests.unit.azure.arm_fakes import Clock


def purse(clock: Clock) -> Purse:
    return Purse(monotonic=clock.monotonic, sleep=clock.sleep, chance=lambda: 0.0)


def spend_burst(made: Purse, api: Api) -> int:
    """Spend until the budget says no; how often it said yes."""
    for count in range(1000):
        try:
            made.spend(api)
        except Throttled:
            return count
    raise AssertionError("the budget never ends")


def test_an_instance_is_written_twelve_times_and_then_every_fifteen_seconds() -> None:
    clock = Clock()
    made = purse(clock)
    assert spend_burst(made, Api.INSTANCE_PUT) == 12
    assert clock.now == 0.0
    with pytest.raises(Throttled) as caught:
        made.spend(Api.INSTANCE_PUT)
    assert (caught.value.code, caught.value.operation) == (
        "BudgetSpent",
        "VirtualMachineScaleSetVMs_Update",
    )
    assert caught.value.retry_after_seconds == pytest.approx(15.0)
    clock.now += 15.0
    assert made.spend(Api.INSTANCE_PUT) == 0.0


def test_ten_minutes_at_any_pace_keep_to_the_documented_rate() -> None:
    clock, sent = Clock(), 0
    made = purse(clock)
    while clock.now < 600.0:
        sent += spend_burst(made, Api.INSTANCE_PUT)
        clock.now += 1.0
    assert sent <= 12 + 4 * (clock.now + LONGEST_WAIT_SECONDS) / 60
    assert sent >= 12 + 4 * 9


def test_a_short_wait_is_slept_and_not_told() -> None:
    clock = Clock()
    made = purse(clock)
    assert [made.spend(Api.NIC_PUT) for _ in range(21)] == [0.0] * 20 + [pytest.approx(3.0)]
    assert clock.slept == [pytest.approx(3.0)]


def test_what_was_refused_by_the_budget_spent_nothing_at_the_front_door() -> None:
    clock = Clock()
    made = purse(clock)
    spend_burst(made, Api.INSTANCE_PUT)
    for _ in range(100):
        with pytest.raises(Throttled):
            made.spend(Api.INSTANCE_PUT)
    assert made.spend(Api.NIC_PUT) == 0.0


def test_retry_after_rests_the_providers_bucket_and_no_other() -> None:
    clock = Clock()
    made = purse(clock)
    made.throttled(Api.INSTANCE_PUT, "OperationNotAllowed", 60.0)
    with pytest.raises(Throttled) as caught:
        made.spend(Api.INSTANCE_PUT)
    assert caught.value.retry_after_seconds == pytest.approx(60.0)
    assert made.spend(Api.INSTANCE_GET) == 0.0
    assert made.spend(Api.NIC_PUT) == 0.0
    clock.now += 60.0
    assert made.spend(Api.INSTANCE_PUT) == 0.0


def test_a_refusal_at_the_front_door_rests_all_calls_of_its_kind() -> None:
    made = purse(Clock())
    made.throttled(Api.NIC_GET, "SubscriptionRequestsThrottled", 30.0)
    with pytest.raises(Throttled, match="ARM reads"):
        made.spend(Api.VM_GET)
    assert made.spend(Api.NIC_PUT) == 0.0


def test_a_throttled_bucket_goes_on_at_half_its_rate() -> None:
    made = purse(Clock())
    made.throttled(Api.NIC_PUT, "TooManyRequests", 0.0)
    whole = ALLOWANCES[Share.NETWORK_WRITE].per_second
    assert made.per_second(Share.NETWORK_WRITE) == pytest.approx(whole / 2)


def test_no_more_is_counted_on_than_arm_says_is_left() -> None:
    clock = Clock()
    made = purse(clock)
    made.heard(
        Api.INSTANCE_PUT,
        {"x-ms-ratelimit-remaining-resource": "Microsoft.Compute/A;2,Microsoft.Compute/B;900"},
    )
    assert spend_burst(made, Api.INSTANCE_PUT) == 2


def test_little_left_at_the_front_door_slows_this_node_down() -> None:
    made = purse(Clock())
    made.heard(Api.NIC_GET, {"x-ms-ratelimit-remaining-subscription-reads": "24"})
    assert made.per_second(Share.FRONT_READ) == ALLOWANCES[Share.FRONT_READ].per_second / 2
    calm = purse(Clock())
    calm.heard(Api.NIC_GET, {"x-ms-ratelimit-remaining-subscription-reads": "11999"})
    assert calm.per_second(Share.FRONT_READ) == ALLOWANCES[Share.FRONT_READ].per_second


@given(st.text(max_size=30), st.sampled_from(Api))
def test_odd_headers_never_end_a_call(text: str, api: Api) -> None:
    made = purse(Clock())
    made.heard(
        api,
        {
            "x-ms-ratelimit-remaining-resource": text,
            "x-ms-ratelimit-remaining-subscription-reads": text,
        },
    )
    assert all(made.per_second(share) > 0 for share in Share)


def test_a_pause_ends_at_different_times_on_different_nodes() -> None:
    clock = Clock()
    made = Purse(monotonic=clock.monotonic, sleep=clock.sleep, chance=lambda: 0.5)
    made.throttled(Api.NIC_PUT, "TooManyRequests", 40.0)
    with pytest.raises(Throttled) as caught:
        made.spend(Api.NIC_PUT)
    assert caught.value.retry_after_seconds > 45.0


def test_every_call_has_a_price() -> None:
    assert set(PRICES) == set(Api)


def test_a_call_that_waited_for_its_turn_is_not_made_into_a_pause() -> None:
    clock = Clock()
    made = purse(clock)
    for _ in range(20):
        made.spend(Api.NIC_PUT)

    def sleep(seconds: float) -> None:
        clock.sleep(seconds)
        made.throttled(Api.NIC_PUT, "TooManyRequests", 60.0)  # what another thread heard

    made._sleep = sleep
    with pytest.raises(Throttled) as caught:
        made.spend(Api.NIC_PUT)
    assert caught.value.code == BUDGET_SPENT
    assert caught.value.retry_after_seconds == pytest.approx(60.0)


def test_a_pause_that_is_short_is_slept_through() -> None:
    made = purse(Clock(now=1000.1))
    made.throttled(Api.NIC_PUT, "TooManyRequests", 3.3)
    assert made.spend(Api.NIC_PUT) == pytest.approx(3.3)
