"""Calls to EC2: the budget before, the error's class and the report after.

botocore's own retries are off: AssignPrivateIpAddresses is not idempotent, and a retry after a lost
answer assigns twice; the reconciler paces and repeats. Only botocore is used: boto3 adds a layer of
resources that nothing here needs. Its model of EC2 is a trimmed one where `providers.aws.ec2_model`
has made it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import botocore.config
import botocore.exceptions
import botocore.parsers
from botocore import xform_name

from ipamd.api_calls import ApiCall
from ipamd.budget import BUDGET_SPENT
from ipamd.errors import CloudError, Throttled, Transient
from providers.aws import ec2_model
from providers.aws.errors import classify
from providers.aws.purse import Purse

A = TypeVar("A")
T = TypeVar("T")

Filters = Iterable[tuple[str, Iterable[str]]]
"""EC2's filters: all must hold, each by any of its values."""

CONNECT_SECONDS = 3.0
PAGE = 200
"""Items at once, where EC2 gives 1,000 at most. A node has a few dozen ENIs and its zone as many
subnets, so it makes no more calls; only orphans come in thousands, and a page of 1,000 takes three
times the memory of one of 200. Asking for pages also brings the larger request bucket."""

CONNECTIONS = 16
"""Kept open; the child answers as many calls at once."""


class Ec2:
    """EC2's API. Thread-safe: botocore's clients are, and making one is locked."""

    def __init__(
        self,
        *,
        region: Callable[[], str],
        timeout_seconds: float,
        purse: Purse,
        tell: Callable[[ApiCall], None],
    ) -> None:
        self._region = region
        self._timeout = timeout_seconds
        self._purse = purse
        self._tell = tell
        self._lock = threading.Lock()
        self._made: Any = None

    def close(self) -> None:
        """Close the connections."""
        if self._made is not None:
            self._made.close()

    def call(
        self,
        api: str,
        parameters: Mapping[str, Any],
        *,
        eni_id: str = "",
        subnet_id: str = "",
        finishes: bool = False,
    ) -> dict[str, Any]:
        """One call. Every failure is a CloudError of the class that its code asks for.

        `finishes`: it completes what an earlier one began, and may wait longer for the budget.
        """
        client = self._client()
        waited = self._spend(api, finishes=finishes)
        began = time.monotonic()
        error: CloudError | None = None
        try:
            answer: dict[str, Any] = getattr(client, xform_name(api))(**parameters)
        except botocore.exceptions.ClientError as e:
            error = client_error(e.response, api, eni_id=eni_id, subnet_id=subnet_id)
            raise error from e
        except (
            botocore.exceptions.BotoCoreError,
            botocore.parsers.ResponseParserError,
        ) as e:
            error = _no_answer(e, api, eni_id)
            raise error from e
        finally:
            self._report(api, error, seconds=time.monotonic() - began, waited=waited)
        return answer

    def pages(
        self, api: str, key: str, filters: Filters, *, finishes: bool = False
    ) -> Iterator[dict[str, Any]]:
        """The items under `key`, page after page; who keeps what it makes of each needs no more."""
        wanted = [{"Name": name, "Values": list(values)} for name, values in filters]
        token: dict[str, str] = {}
        while True:
            asked = {"Filters": wanted, "MaxResults": PAGE, **token}
            answer = self.call(api, asked, finishes=finishes)
            if not isinstance(answer.get(key), list):
                raise odd(api, f"no list of {key}", answer)
            yield from answer[key]
            if not answer.get("NextToken"):
                return
            token = {"NextToken": answer["NextToken"]}

    def _spend(self, api: str, *, finishes: bool) -> float:
        try:
            return self._purse.spend(api, finishes=finishes)
        except Throttled:
            self._tell(ApiCall(api=api, code=BUDGET_SPENT, is_sent=False, is_throttled=True))
            raise

    def _report(self, api: str, error: CloudError | None, *, seconds: float, waited: float) -> None:
        if isinstance(error, Throttled):
            self._purse.throttled(api)
        self._tell(
            ApiCall(
                api=api,
                code=(error.code or "none") if error else "",
                status=_http_status(error),
                seconds=seconds,
                waited_seconds=waited,
                is_throttled=isinstance(error, Throttled),
            )
        )

    def _client(self) -> Any:
        with self._lock:
            if self._made is None:
                self._made = self._make()
            return self._made

    def _make(self) -> Any:
        try:
            return ec2_model.session().create_client(
                "ec2",
                region_name=self._region(),
                config=botocore.config.Config(
                    connect_timeout=CONNECT_SECONDS,
                    read_timeout=self._timeout,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    max_pool_connections=CONNECTIONS,
                    user_agent_extra="vpc-ipamd",
                ),
            )
        except botocore.exceptions.BotoCoreError as e:
            raise Transient(f"cannot make an EC2 client: {e}", operation="client") from e


def understood(api: str, read: Callable[[A], T], answer: A) -> T:
    """What `read` makes of an answer; Transient that names what was seen where it cannot.

    A whole answer has every member that the API reference promises. One that has not comes from
    something between us and EC2, and is worth asking for again.
    """
    try:
        return read(answer)
    except (LookupError, ValueError, TypeError, AttributeError) as e:
        raise odd(api, f"{type(e).__name__}: {e}", answer) from e


def odd(api: str, what: str, answer: object) -> Transient:
    """The error for an answer that is not as the API reference says."""
    return Transient(
        f"{api} gave an answer that cannot be read ({what}): {str(answer)[:300]}",
        operation=api,
        code="OddAnswer",
    )


def client_error(
    response: dict[str, Any], api: str, *, eni_id: str = "", subnet_id: str = ""
) -> CloudError:
    """The error for a refusal, by `providers.aws.errors`."""
    said = response.get("Error") or {}
    meta = response.get("ResponseMetadata") or {}
    code, message = str(said.get("Code", "")), str(said.get("Message", ""))
    kind = classify(code, message, _status(response))
    return kind(
        f"{api}: {code}: {message}",
        operation=api,
        code=code,
        request_id=str(meta.get("RequestId", said.get("RequestId", ""))),
        eni_id=eni_id,
        subnet_id=subnet_id,
    )


def _status(response: dict[str, Any]) -> int:
    return int((response.get("ResponseMetadata") or {}).get("HTTPStatusCode", 0))


def _http_status(error: CloudError | None) -> int:
    """The status of the answer behind an error; 0 where none came."""
    if error is None:
        return 200
    cause = error.__cause__
    return _status(cause.response) if isinstance(cause, botocore.exceptions.ClientError) else 0


def _no_answer(error: Exception, api: str, eni_id: str) -> CloudError:
    """The error for a call that got no answer of EC2's, or none that can be read."""
    if isinstance(error, botocore.exceptions.ParamValidationError):
        return CloudError(f"{api}: {error}", operation=api, code="ParamValidation", eni_id=eni_id)
    if isinstance(error, botocore.exceptions.NoCredentialsError):
        said = "no credentials; does the node have an instance profile?"
        return Transient(f"{api}: {said}", operation=api, code="NoCredentials")
    code = type(error).__name__
    return Transient(f"{api}: {error}", operation=api, code=code, eni_id=eni_id)
