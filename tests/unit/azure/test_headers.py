from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.api_calls import Left
from providers.azure.headers import (
    LONGEST_PAUSE_SECONDS,
    left,
    remaining_front,
    remaining_resource,
    retry_after_seconds,
)

DATE = "Fri, 27 Nov 2026 01:00:00 GMT"
LATER = "Fri, 27 Nov 2026 01:00:30 GMT"


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"Retry-After": "17"}, 17.0),
        ({"retry-after": " 2 "}, 2.0),
        ({"Retry-After": "0"}, 0.0),
        ({"Retry-After": "-5"}, 0.0),
        ({"Retry-After": "soon"}, 0.0),
        ({"Retry-After": "nan"}, 0.0),
        ({"Retry-After": "\u0663"}, 0.0),
        ({"Retry-After": "1e9"}, 0.0),
        ({"Retry-After": "999999999"}, LONGEST_PAUSE_SECONDS),
        ({"Retry-After": "9" * 400}, 0.0),
        ({"Retry-After": LATER, "Date": DATE}, 30.0),
        ({"Retry-After": DATE, "Date": LATER}, 0.0),
        ({"Retry-After": LATER}, 0.0),
        ({"Retry-After": LATER, "Date": "today"}, 0.0),
        ({"Retry-After": "Fri, 27 Nov 2026 01:00:30", "Date": DATE}, 0.0),
        ({"x-ms-retry-after-ms": "1500", "Retry-After": "9"}, 1.5),
        ({"retry-after-ms": "x", "Retry-After": "9"}, 9.0),
    ],
)
def test_how_long_to_wait(headers: dict[str, str], seconds: float) -> None:
    assert retry_after_seconds(headers) == seconds


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (
            "Microsoft.Compute/HighCostGetVMScaleSet3Min;179,Microsoft.Compute/Views3Min;4993",
            {"HighCostGetVMScaleSet3Min": 179, "Views3Min": 4993},
        ),
        (
            " Microsoft.Compute/A ; 3 , rubbish, Microsoft.Compute/B;x, Microsoft.Compute/C;-1",
            {"A": 3},
        ),
        ("", {}),
        (";;;,,,", {}),
        ("Microsoft.Compute/A;99999999999999999999", {}),
    ],
)
def test_what_a_resource_provider_has_left(text: str, left: dict[str, int]) -> None:
    assert remaining_resource({"X-Ms-Ratelimit-Remaining-Resource": text}) == left


def test_an_empty_queue_of_operations_is_no_spent_budget() -> None:
    said = "Microsoft.Compute/VMScaleSetActions3Min;238,Microsoft.Compute/VmssQueuedVMOperations;0"
    left = remaining_resource({"x-ms-ratelimit-remaining-resource": said})
    assert left == {"VMScaleSetActions3Min": 238}


def test_the_least_of_the_front_doors_counts_is_what_is_left() -> None:
    headers = {
        "x-ms-ratelimit-remaining-subscription-reads": "249",
        "x-ms-ratelimit-remaining-subscription-global-reads": "3749",
        "x-ms-ratelimit-remaining-tenant-reads": "rubbish",
        "x-ms-ratelimit-remaining-subscription-writes": "7",
    }
    assert remaining_front(headers, "reads") == 249
    assert remaining_front(headers, "writes") == 7
    assert remaining_front({}, "reads") is None


@given(st.text(), st.text())
def test_no_header_is_too_odd_to_be_passed_over(value: str, date: str) -> None:
    headers = {"Retry-After": value, "Date": date, "x-ms-ratelimit-remaining-resource": value}
    assert 0.0 <= retry_after_seconds(headers) <= LONGEST_PAUSE_SECONDS
    assert all(count >= 0 for count in remaining_resource(headers).values())


def test_all_that_is_left_is_told_for_the_metrics() -> None:
    headers = {
        "x-ms-ratelimit-remaining-subscription-writes": "199",
        "X-Ms-RateLimit-Remaining-Subscription-Global-Writes": "2999",
        "x-ms-ratelimit-remaining-tenant-reads": "soon",
        "x-ms-ratelimit-remaining-resource": "Microsoft.Compute/UpdateVM3Min;11",
        "x-ms-ratelimit-remaining-made-up": "1",
    }
    assert left(headers) == (
        Left(bucket="subscription-writes", calls=199),
        Left(bucket="subscription-global-writes", calls=2999),
        Left(bucket="UpdateVM3Min", calls=11),
    )
