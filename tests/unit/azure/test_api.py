"""The door to ARM, with the real SDK over a transport that answers as told."""

from __future__ import annotations

import contextlib
import logging
import pickle
from collections.abc import Callable

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    ServiceRequestError,
    ServiceResponseTimeoutError,
)

from ipamd.api_calls import Left
from ipamd.errors import Busy, CloudError, Denied, NotFound, SubnetExhausted, Throttled, Transient
from providers.azure.api import NEWEST_NICS, OLDEST_NICS, Answered, ArmApi, Operation
from providers.azure.pipeline import MOST_PAGES, understood
from providers.azure.purse import ALLOWANCES, Api, Share
from tests.unit.azure.arm_fakes import (
    ENDPOINT,
    INSTANCE,
    NIC,
    SECRET,
    SUBNET,
    VM,
    VNET,
    Answer,
    Credential,
    Door,
    Sent,
    Transport,
    door,
    nic,
    refused,
)

OPERATION = f"{ENDPOINT}/subscriptions/sub/providers/Microsoft.Compute/locations/l/operations/1?a=b"
CALLS: dict[str, Callable[[ArmApi], object]] = {
    "nic": lambda api: api.nic(NIC),
    "vm": lambda api: api.vm(VM),
    "instance": lambda api: api.instance(INSTANCE),
    "instance_nics": lambda api: api.instance_nics(INSTANCE),
    "subnet": lambda api: api.subnet(SUBNET),
    "vnet": lambda api: api.vnet(VNET),
    "usages": lambda api: api.usages(VNET),
    "put_nic": lambda api: api.put_nic(NIC, {}, 'W/"1"'),
    "put_instance": lambda api: api.put_instance(INSTANCE, {}, '"1"'),
    "operation": lambda api: api.operation(OPERATION),
}
EVERY = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)


def failure(made: Door, call: Callable[[ArmApi], object]) -> CloudError:
    with pytest.raises(CloudError) as caught:
        call(made.api())
    return caught.value


@pytest.mark.parametrize(
    ("call", "path"),
    [
        ("nic", NIC),
        ("vm", VM),
        ("instance", INSTANCE),
        ("instance_nics", f"{INSTANCE}/networkInterfaces"),
        ("subnet", SUBNET),
        ("vnet", VNET),
        ("usages", f"{VNET}/usages"),
        ("put_nic", NIC),
        ("put_instance", INSTANCE),
    ],
)
def test_each_call_goes_to_its_path(call: str, path: str) -> None:
    made = door(Answer(200, {"value": []}))
    CALLS[call](made.api())
    (sent,) = made.transport.sent
    assert sent.path == path.lower()
    assert sent.method == ("PUT" if call.startswith("put") else "GET")
    assert sent.headers["User-Agent"].startswith("vpc-ipamd")


def test_fields_that_nobody_knows_come_back() -> None:
    raw = {**nic(), "brandNew": {"inside": [1]}}
    assert door(Answer(200, raw)).api().nic(NIC).body == raw


def test_a_put_sends_what_it_was_given_and_not_what_the_models_know() -> None:
    made = door(Answer(200, {}))
    body = {"properties": {"provisioningState": "x", "brandNew": 1}, "etag": "e"}
    made.api().put_nic(NIC, body, "")
    assert made.transport.sent[0].body == body


@pytest.mark.parametrize("call", ["put_nic", "put_instance"])
def test_an_etag_is_sent_as_if_match(call: str) -> None:
    made = door(Answer(200, {}), Answer(200, {}))
    target = NIC if call == "put_nic" else INSTANCE
    getattr(made.api(), call)(target, {}, 'W/"7"')
    getattr(made.api(), call)(target, {}, "")
    assert [s.headers.get("If-Match") for s in made.transport.sent] == ['W/"7"', None]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            Answer(200, {"etag": "b"}, ETag="h", Azure_AsyncOperation="u", Location="l"),
            Answered(body={"etag": "b"}, etag="h", operation_url="u"),
            id="the header's etag and the operation's URL",
        ),
        pytest.param(
            Answer(201, {"etag": "b"}, Location="l", Retry_After="10"),
            Answered(body={"etag": "b"}, etag="b", operation_url="l", retry_after_seconds=10.0),
            id="a location",
        ),
        pytest.param(
            Answer(202, None, Location="l"), Answered(operation_url="l"), id="accepted, no body"
        ),
        pytest.param(Answer(200, {"etag": 5}), Answered(body={"etag": 5}), id="an odd etag"),
    ],
)
def test_the_answer_of_a_put(answer: Answer, expected: Answered) -> None:
    assert door(answer).api().put_nic(NIC, {}, "e") == expected
    assert door(answer).api().put_instance(INSTANCE, {}, "e") == expected


@EVERY
@pytest.mark.parametrize("status", [408, 409, 412, 429, 500, 503, 504])
def test_nothing_is_repeated_by_itself(call: Callable[[ArmApi], object], status: int) -> None:
    made = door(refused(status, "Whatever", Retry_After="1"))
    with contextlib.suppress(CloudError):  # a failed operation is an answer and no error
        call(made.api())
    assert len(made.transport.sent) == 1
    assert made.clock.slept == []


def test_a_resource_provider_is_never_registered() -> None:
    made = door(refused(409, "MissingSubscriptionRegistration"))
    failure(made, CALLS["nic"])
    assert len(made.transport.sent) == 1


def test_a_redirect_is_not_followed() -> None:
    made = door(Answer(307, None, Location="https://elsewhere.test/"))
    assert failure(made, CALLS["nic"]).code == "Http307"
    assert len(made.transport.sent) == 1


@pytest.mark.parametrize(
    ("answer", "kind", "code"),
    [
        (refused(400, "SubnetIsFull", "full"), SubnetExhausted, "SubnetIsFull"),
        (refused(412, "PreconditionFailed"), Busy, "PreconditionFailed"),
        (refused(429, "TooManyRequests", Retry_After="7"), Throttled, "TooManyRequests"),
        (Answer(429, b"<html>slow down</html>"), Throttled, "Http429"),
        (Answer(503, b"<html>sorry</html>"), Transient, "Http503"),
        (Answer(500, None), Transient, "Http500"),
        (Answer(404, ["no", "object"]), NotFound, "Http404"),
        (Answer(200, b'{"cut'), Transient, "OddAnswer"),
        (Answer(200, b""), Transient, "OddAnswer"),
        (Answer(200, ["no", "object"]), Transient, "OddAnswer"),
        (Answer(200, "text"), Transient, "OddAnswer"),
        (ServiceRequestError("refused"), Transient, "ServiceRequestError"),
        (ServiceResponseTimeoutError("slow"), Transient, "ServiceResponseTimeoutError"),
    ],
)
def test_each_failure_has_its_class(
    answer: Answer | Exception, kind: type[CloudError], code: str
) -> None:
    for call in ("nic", "put_nic", "instance", "put_instance"):
        error = failure(door(answer), CALLS[call])
        assert (type(error), error.code) == (kind, code)


@pytest.mark.parametrize(
    "body",
    [b"[]", b'{"value": {}}', b'{"value": [1]}', b'{"cut', b"null", b'{"value": null}'],
)
@pytest.mark.parametrize("call", ["usages", "instance_nics"])
def test_an_odd_list_is_transient(call: str, body: bytes) -> None:
    error = failure(door(Answer(200, body)), CALLS[call])
    assert (type(error), error.code) == (Transient, "OddAnswer")


def test_a_refusal_says_whose_nic_and_when_to_come_again() -> None:
    error = failure(
        door(refused(429, "TooManyRequests", Retry_After="7", x_ms_request_id="r-1")),
        CALLS["put_nic"],
    )
    assert error.eni_id == NIC.lower()
    assert error.retry_after_seconds == 7.0
    assert error.request_id == "r-1"
    assert error.operation == "NetworkInterfaces_CreateOrUpdate"


def test_pages_are_turned() -> None:
    more = f"{ENDPOINT}/next?x=1"
    made = door(
        Answer(200, {"value": [{"a": 1}], "nextLink": more}), Answer(200, {"value": [{"b": 2}]})
    )
    assert made.api().usages(VNET) == ({"a": 1}, {"b": 2})
    assert made.transport.sent[1].url == more


def test_a_page_elsewhere_gets_no_token() -> None:
    made = door(Answer(200, {"value": [], "nextLink": "https://elsewhere.test/next"}))
    assert failure(made, CALLS["usages"]).code == "ForeignUrl"
    assert len(made.transport.sent) == 1


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://elsewhere.test/subscriptions/s/operations/1",
        "http://arm.test/subscriptions/s/operations/1",
        "https://arm.test:8443/subscriptions/s/operations/1",
        "https://arm.test@elsewhere.test/subscriptions/s/operations/1",
        "https://arm.test.elsewhere.test/subscriptions/s/operations/1",
        "https://arm.test/elsewhere",
        "https://arm.test/subscriptions/s/{endpoint}",
        "https://arm.test/subscriptions/s/a b",
        "https://arm.test/subscriptions/s/a\r\nX: y",
        "https://arm.test:x/subscriptions/s/a",
        "/subscriptions/s/operations/1",
    ],
)
def test_an_operation_elsewhere_is_not_asked(url: str) -> None:
    made = door()
    error = failure(made, lambda api: api.operation(url))
    assert (type(error), error.code) == (CloudError, "ForeignUrl")
    assert made.transport.sent == []
    assert made.credentials == []


@pytest.mark.parametrize(
    "url", [OPERATION, OPERATION.replace("arm.test", "ARM.test:443"), OPERATION.upper()]
)
def test_an_operation_is_asked_at_the_url_it_was_given(url: str) -> None:
    made = door(Answer(200, {"status": "InProgress"}, Retry_After="5"))
    assert made.api().operation(url) == Operation(status="InProgress", retry_after_seconds=5.0)
    assert made.transport.sent[0].url == url
    assert made.told[0].api == "ComputeOperations_Get"


@pytest.mark.parametrize(
    ("answer", "operation"),
    [
        pytest.param(
            Answer(200, {"status": "Succeeded"}), Operation(status="Succeeded"), id="succeeded"
        ),
        pytest.param(
            Answer(200, {"status": "Failed", "error": {"code": "SubnetIsFull", "message": "full"}}),
            Operation(status="Failed", code="SubnetIsFull", message="full"),
            id="failed",
        ),
        pytest.param(
            Answer(
                200,
                {
                    "status": "Failed",
                    "error": {"code": "Outer", "details": [{"code": "SubnetIsFull"}]},
                },
            ),
            Operation(status="Failed", code="SubnetIsFull"),
            id="failed, and a detail says why",
        ),
        pytest.param(Answer(202, None), Operation(status="InProgress"), id="location, running"),
        pytest.param(Answer(204, None), Operation(status="Succeeded"), id="location, no content"),
        pytest.param(
            Answer(200, {"properties": {"provisioningState": "Succeeded"}}),
            Operation(status="Succeeded"),
            id="location, the resource",
        ),
        pytest.param(
            refused(400, "SubnetIsFull", "full"),
            Operation(status="Failed", code="SubnetIsFull", message="full"),
            id="location, the refusal",
        ),
        pytest.param(
            refused(409, "OperationPreempted", "no"),
            Operation(status="Failed", code="OperationPreempted", message="no"),
            id="location, displaced",
        ),
    ],
)
def test_how_an_operation_stands(answer: Answer, operation: Operation) -> None:
    assert door(answer).api().operation(OPERATION) == operation


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refused(404, "NotFound"), NotFound),
        (refused(429, "TooManyRequests"), Throttled),
        (refused(403, "AuthorizationFailed"), Denied),
        (refused(500, "InternalServerError"), Transient),
        (Answer(200, {"unheard": 1}), Transient),
        (Answer(200, b'{"cut'), Transient),
    ],
)
def test_a_failure_to_ask_is_not_the_operations(answer: Answer, kind: type[CloudError]) -> None:
    assert type(failure(door(answer), CALLS["operation"])) is kind


@pytest.mark.parametrize(
    "refusal",
    [
        refused(400, "InvalidApiVersionParameter"),
        refused(400, "NoRegisteredProviderFound"),
        refused(404, "InvalidResourceType"),
    ],
)
def test_the_oldest_version_is_taken_where_the_newest_is_refused(refusal: Answer) -> None:
    made = door(refusal, Answer(200, {"value": []}), Answer(200, {"value": []}))
    api = made.api()
    api.instance_nics(INSTANCE)
    api.instance_nics(INSTANCE)
    versions = [s.query.removeprefix("api-version=") for s in made.transport.sent]
    assert versions == [NEWEST_NICS, OLDEST_NICS, OLDEST_NICS]


def test_a_version_that_was_set_is_kept_to() -> None:
    made = door(refused(400, "InvalidApiVersionParameter"), nic_version="2022-01-01")
    failure(made, CALLS["instance_nics"])
    assert [s.query for s in made.transport.sent] == ["api-version=2022-01-01"]


def test_the_oldest_version_refused_is_an_error() -> None:
    answers = [refused(400, "InvalidApiVersionParameter") for _ in range(2)]
    assert failure(door(*answers), CALLS["instance_nics"]).code == "InvalidApiVersionParameter"


def test_the_newest_version_is_the_sdks_own() -> None:
    made = door(Answer(200, {}))
    made.api().nic(NIC)
    assert made.transport.sent[0].query == f"api-version={NEWEST_NICS}"


def test_the_nic_of_an_instance_is_read_through_the_set() -> None:
    made = door(Answer(200, nic()))
    made.api().nic(f"{INSTANCE}/networkInterfaces/Nic0")
    assert made.transport.sent[0].path == f"{INSTANCE}/networkInterfaces/nic0".lower()


@EVERY
@pytest.mark.parametrize("code", ["ExpiredAuthenticationToken", "InvalidAuthenticationToken"])
def test_a_token_that_is_no_longer_taken_is_had_anew_once(
    call: Callable[[ArmApi], object], code: str
) -> None:
    made = door(refused(401, code), Answer(200, {"value": [], "status": "Succeeded"}))
    call(made.api())
    assert len(made.transport.sent) == 2
    assert [c.made for c in made.credentials] == [1, 1]


def test_a_fresh_token_that_is_not_taken_either_is_denied() -> None:
    made = door(*(refused(401, "ExpiredAuthenticationToken") for _ in range(2)))
    assert isinstance(failure(made, CALLS["nic"]), Denied)


def test_another_refusal_of_the_identity_is_not_repeated() -> None:
    made = door(refused(401, "InvalidAuthenticationTokenTenant"))
    assert isinstance(failure(made, CALLS["nic"]), Denied)
    assert len(made.transport.sent) == 1


@pytest.mark.parametrize(
    ("status", "kind"), [(None, Transient), (400, Denied), (401, Denied), (503, Transient)]
)
def test_without_a_token_nothing_is_sent(
    status: int | None, kind: type[CloudError], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = door()

    def refuse(*scopes: str, **options: object) -> None:
        raise ClientAuthenticationError("no identity", response=Answer(status) if status else None)

    monkeypatch.setattr(Credential, "get_token", refuse)
    error = failure(made, CALLS["nic"])
    assert (type(error), error.code) == (kind, "NoCredentials")
    assert "AZURE_CLIENT_ID" in str(error)
    assert made.transport.sent == []


def test_an_id_of_another_kind_is_refused_before_any_call() -> None:
    made = door()
    assert failure(made, lambda api: api.put_nic(VM, {}, "")).code == "BadId"
    assert failure(made, lambda api: api.instance("nonsense")).code == "BadId"
    assert made.transport.sent == []


@EVERY
def test_no_token_is_ever_repeated(
    call: Callable[[ArmApi], object], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    echo = {"error": {"code": "No", "message": f"Bearer {SECRET} is no good: {SECRET}"}}
    made = door(Answer(403, echo, Authorization=f"Bearer {SECRET}"))
    error = failure(made, call)
    assert made.transport.sent[0].headers["Authorization"] == f"Bearer {SECRET}"
    seen = f"{error!r} {vars(error)} {error.__cause__!r} {caplog.text} {made.told}"
    assert SECRET not in seen + str(pickle.loads(pickle.dumps(error)))
    assert error.__cause__ is None


def test_each_call_is_told_with_what_it_cost() -> None:
    made = door(Answer(200, {}), refused(429, "TooManyRequests", Retry_After="60"))
    api = made.api()
    api.nic(NIC)
    for _ in range(2):
        with pytest.raises(Throttled):
            api.nic(NIC)
    assert [(c.code, c.status, c.is_sent, c.is_throttled) for c in made.told] == [
        ("", 200, True, False),
        ("TooManyRequests", 429, True, True),
        ("BudgetSpent", 0, False, True),
    ]
    assert len(made.transport.sent) == 2


def test_a_lock_is_no_reason_to_slow_down() -> None:
    made = door(refused(429, "RetryableError", Retry_After="60"), Answer(200, {}))
    api = made.api()
    with pytest.raises(Busy):
        api.put_nic(NIC, {}, "e")
    api.put_nic(NIC, {}, "e")
    assert made.clock.slept == []


def test_each_call_is_told_with_what_the_metrics_need() -> None:
    front = {"x_ms_ratelimit_remaining_subscription_reads": "249"}
    busy = refused(429, "RetryableError", Retry_After="60")
    throttled = refused(429, "TooManyRequests", Retry_After="60")
    made = door(Answer(200, {}, **front), busy, throttled)
    api = made.api()
    api.nic(NIC)
    for kind in (Busy, Throttled):
        with pytest.raises(kind):
            api.put_nic(NIC, {}, "e")
    read, lock, throttle = made.told
    assert read.left == (Left(bucket="subscription-reads", calls=249),)
    assert (lock.is_busy, lock.is_throttled, lock.resting) == (True, False, "")
    assert (throttle.is_busy, throttle.resting) == (False, "Microsoft.Network writes")
    assert 60.0 <= throttle.rest_seconds <= 75.0


def test_a_missing_right_is_named_though_arms_words_are_long() -> None:
    scope = "/subscriptions/s/resourceGroups/" + "g" * 90 + "/providers/Microsoft.Network/x/y"
    message = (
        f"The client 'c' with object id 'o' has permission to perform action 'w' on scope "
        f"'{scope * 4}'; however, it does not have permission to perform action(s) 'join/action' "
        f"on the linked scope(s) '{scope}' (respectively) or the linked scope(s) are invalid."
    )
    error = failure(door(refused(403, "LinkedAuthorizationFailed", message)), CALLS["nic"])
    assert isinstance(error, Denied)
    assert f"object id o lacks the right join/action over {scope}; give it" in str(error)


def test_what_arm_says_is_left_is_kept_to() -> None:
    left = {"x_ms_ratelimit_remaining_resource": "Microsoft.Compute/UpdateVM;0"}
    made = door(Answer(200, {}, **left))
    api = made.api()
    api.put_instance(INSTANCE, {}, "e")
    with pytest.raises(Throttled, match="scale set instance updates"):
        api.put_instance(INSTANCE, {}, "e")


def test_both_clients_close() -> None:
    made = Door(Transport(Answer(200, {}), Answer(200, {})))
    api = made.api()
    api.nic(NIC)
    api.vm(VM)
    api.close()
    assert made.transport.closed == 2


def test_a_page_that_names_itself_as_the_next_is_not_turned_for_ever() -> None:
    made = door()
    again = {"value": [], "nextLink": f"{ENDPOINT}/next"}
    made.transport.otherwise = lambda sent: Answer(200, again)
    assert "pages" in str(failure(made, CALLS["usages"]))
    assert len(made.transport.sent) == MOST_PAGES
    assert made.clock.now > 0  # each of them spends from the budget, and this was more


def test_a_page_that_the_budget_refuses_is_no_throttle_of_arms() -> None:
    made = door()
    api = made.api()
    purse = api._pipeline._purse

    def first_page(sent: Sent) -> Answer:
        purse.throttled(Api.USAGES, "TooManyRequests", 60.0)  # by another call
        return Answer(200, {"value": [], "nextLink": f"{ENDPOINT}/next"})

    made.transport.otherwise = first_page
    with pytest.raises(Throttled) as caught:
        api.usages(VNET)
    assert caught.value.code == "BudgetSpent"
    assert len(made.transport.sent) == 1
    rate = ALLOWANCES[Share.NETWORK_READ].per_second
    assert purse.per_second(Share.NETWORK_READ) == pytest.approx(rate / 2)


@EVERY
def test_an_answer_that_is_too_deep_is_odd(call: Callable[[ArmApi], object]) -> None:
    assert failure(door(Answer(200, b'{"a":' * 100_000)), call).code == "OddAnswer"


def test_a_machine_without_its_own_files_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_file(*scopes: str, **options: object) -> None:
        raise FileNotFoundError(2, "No such file or directory", "/run/token")

    monkeypatch.setattr(Credential, "get_token", no_file)
    error = failure(door(), CALLS["nic"])
    assert (type(error), error.code) == (Transient, "NotSent")
    assert "/run/token" in str(error)


SIGNED = OPERATION.replace("?a=b", "?api-version=1&t=6&c=MIIH&s=SIGNATURE&h=x")


def test_the_signature_of_an_operations_url_is_in_no_error() -> None:
    lost = ServiceRequestError(f"Max retries exceeded with url: {SIGNED} (Caused by x)")
    for error in (
        failure(door(lost), lambda api: api.operation(SIGNED)),
        failure(door(), lambda api: api.operation(SIGNED.replace("arm.test", "other.test"))),
        failure(door(refused(400, "Bad", f"see {SIGNED}.")), CALLS["nic"]),
    ):
        assert "SIGNATURE" not in f"{error!r} {vars(error)}"
        assert "operations/1" in str(error)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(f"Bearer {SECRET}", id="a bearer"),
        pytest.param(f"x{SECRET}", id="glued to something"),
        pytest.param('{"access_token": "opaque"}', id="an opaque token"),
        pytest.param("client_assertion=opaque", id="an assertion"),
    ],
)
def test_no_secret_is_in_a_code_or_in_what_could_not_be_read(text: str) -> None:
    refusal = failure(door(refused(400, text, text)), CALLS["nic"])
    odd = failure(door(Answer(200, [text])), CALLS["nic"])
    with pytest.raises(Transient) as caught:
        understood(Api.NIC_GET, int, text)
    for error in (refusal, odd, caught.value):
        seen = f"{error!r} {vars(error)}"
        assert SECRET not in seen
        assert "opaque" not in seen


def test_a_code_is_short_enough_for_a_label() -> None:
    assert len(failure(door(refused(400, "x" * 5000)), CALLS["nic"]).code) <= 100


@pytest.mark.parametrize("refusal", [refused(404, "NotFound"), refused(400, "Whatever")])
def test_a_refusal_nobody_knows_may_be_the_versions_until_one_was_taken(refusal: Answer) -> None:
    made = door(refusal, Answer(200, {"value": []}), refusal)
    api = made.api()
    assert api.instance_nics(INSTANCE) == ()
    with pytest.raises(CloudError):
        api.instance_nics(INSTANCE)
    versions = [s.query.removeprefix("api-version=") for s in made.transport.sent]
    assert versions == [NEWEST_NICS, OLDEST_NICS, OLDEST_NICS]


def test_a_version_that_was_taken_stays() -> None:
    made = door(Answer(200, {"value": []}), refused(404, "NotFound"))
    api = made.api()
    api.instance_nics(INSTANCE)
    with pytest.raises(NotFound):
        api.instance_nics(INSTANCE)
    assert {s.query for s in made.transport.sent} == {f"api-version={NEWEST_NICS}"}
