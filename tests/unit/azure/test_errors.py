"""ARM's refusals by reaction."""

from __future__ import annotations

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.errors import (
    Busy,
    CloudError,
    Denied,
    LimitReached,
    NoPrefixFree,
    NotFound,
    SubnetExhausted,
    Throttled,
    Transient,
)
from providers.azure.errors import LONGEST_TEXT, Said, classify, clean, refusal, said

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("error", "code", "message", "details", "innererror")), inner
        )
    ),
    max_leaves=20,
)


@pytest.mark.parametrize(
    ("status", "code", "message", "kind"),
    [
        (400, "SubnetIsFull", "Subnet s does not have enough capacity", SubnetExhausted),
        (400, "InvalidRequest", "does not have enough capacity for 3 IP add", SubnetExhausted),
        (400, "NoAvailableIPAddressesInSubnet", "", NoPrefixFree),
        (400, "InsufficientCidrBlocks", "", NoPrefixFree),
        (400, "PrefixUnavailable", "", NoPrefixFree),
        (400, "PrivateIPAddressIsAllocated", "taken", CloudError),
        (400, "IpConfigDeleteNotSupported", "the primary", CloudError),
        (400, "Whatever", "The NIC exceeds the maximum of 256 ip configurations", LimitReached),
        (400, "Whatever", "Number of IP configurations exceeds 256", LimitReached),
        (400, "InvalidResourceReference", "the subnet is gone", NotFound),
        (400, "BadRequest", "what is this", CloudError),
        (401, "ExpiredAuthenticationToken", "", Denied),
        (401, "", "", Denied),
        (403, "AuthorizationFailed", "", Denied),
        (403, "LinkedAuthorizationFailed", "no subnets/join/action", Denied),
        (403, "NeverHeardOf", "", Denied),
        (404, "ResourceNotFound", "", NotFound),
        (404, "ParentResourceNotFound", "", NotFound),
        (400, "InstanceIdsListInstanceIdNotActiveVM", "", NotFound),
        (404, "", "", NotFound),
        (408, "", "", Transient),
        (409, "ConflictingConcurrentWriteNotAllowed", "", Busy),
        (409, "OperationPreempted", "", Busy),
        (409, "AnotherOperationInProgress", "", Busy),
        (409, "Conflict", "", Busy),
        (409, "NeverHeardOf", "", Busy),
        (409, "ScopeLocked", "a lock on the group", Denied),
        (409, "OperationNotAllowed", "Operation exceeds the quota of cores", LimitReached),
        (409, "OperationNotAllowed", "the VM is marked for deletion", CloudError),
        (409, "OperationNotAllowed", "another operation is in progress", Busy),
        (409, "OperationNotAllowed", "no", CloudError),
        (412, "PreconditionFailed", "", Busy),
        (412, "", "", Busy),
        (429, "TooManyRequests", "", Throttled),
        (429, "SubscriptionRequestsThrottled", "", Throttled),
        (429, "OperationNotAllowed", "Number of requests exceeded", Throttled),
        (429, "NeverHeardOf", "", Throttled),
        (429, "", "", Throttled),
        (429, "RetryableError", "", Busy),
        (429, "RetryableErrorDueToAnotherOperation", "", Busy),
        (429, "AnotherOperationInProgress", "", Busy),
        (500, "InternalServerError", "", Transient),
        (502, "", "", Transient),
        (503, "ServiceUnavailable", "", Transient),
        (504, "GatewayTimeout", "", Transient),
        (0, "SubnetIsFull", "", SubnetExhausted),
        (0, "OperationPreempted", "", Busy),
        (0, "InternalExecutionError", "", Transient),
        (0, "NeverHeardOf", "", CloudError),
    ],
)
def test_each_refusal_has_its_reaction(
    status: int, code: str, message: str, kind: type[CloudError]
) -> None:
    assert classify(status, Said(code=code, message=message)) is kind
    assert classify(status, Said(code=code.upper(), message=message)) is kind


@pytest.mark.parametrize(
    ("status", "detail", "kind", "code"),
    [
        (429, "ReferencedResourceNotProvisioned", Busy, "ReferencedResourceNotProvisioned"),
        (429, "TooManyRequests", Throttled, "TooManyRequests"),
        (400, "SubnetIsFull", SubnetExhausted, "SubnetIsFull"),
        (0, "SubnetIsFull", SubnetExhausted, "SubnetIsFull"),
        (400, "Unheard", CloudError, "Outer"),
    ],
)
def test_a_detail_tells_what_the_outer_code_does_not(
    status: int, detail: str, kind: type[CloudError], code: str
) -> None:
    body = {"error": {"code": "Outer", "message": "m", "details": [{"code": detail}]}}
    assert classify(status, said(body)) is kind
    assert said(body).telling_code == code


def test_an_operations_bare_error_is_read_like_an_envelope() -> None:
    bare = {"status": "Failed", "error": {"code": "A", "innererror": {"code": "B"}}}
    assert said(bare) == Said(code="A", details=("B",))
    assert said({"code": "A", "message": "m"}) == Said(code="A", message="m")


@given(JSON)
def test_no_body_is_too_odd_to_be_read(body: object) -> None:
    what = said(body)
    assert len(what.message) <= LONGEST_TEXT
    assert issubclass(classify(400, what), CloudError)


def test_a_refusal_names_what_was_seen_and_crosses_the_pipe() -> None:
    what = Said(code="SubnetIsFull", message="Subnet s is full")
    error = refusal("Put", 400, what, request_id="r", retry_after_seconds=3.0, eni_id="e")
    assert str(error) == "Put: SubnetIsFull: Subnet s is full"
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error)
    assert (again.code, again.request_id, again.retry_after_seconds) == ("SubnetIsFull", "r", 3.0)


def test_a_refusal_without_a_word_still_has_a_code() -> None:
    assert refusal("Get", 503, Said()).code == "Http503"
    assert refusal("write", 0, Said()).code == "OperationFailed"


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer abc.def.ghi failed",
        "token eyJhbGciOi.eyJzdWIiOi.c2ln is bad",
        "got bearer   abc.def.ghi",
        '{"access_token":"abc.def.ghi"}',
    ],
)
def test_nothing_that_looks_like_a_token_is_repeated(text: str) -> None:
    assert "(token)" in clean(text)
    assert "ghi" not in clean(text)
    assert "c2ln" not in clean(text)


def test_a_text_from_outside_is_one_bounded_line() -> None:
    assert clean("a\nb\t c") == "a b c"
    assert len(clean("x" * 9999)) == LONGEST_TEXT
