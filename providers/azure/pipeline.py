"""One call through the SDK: the budget before, the error's class and the report after.

Both clients get the same short list of azure-core policies: a request id, the user agent, the token
and a hook for the raw answer. Left out on purpose: retries and redirects (a token must not go where
a redirect points), the registration of resource providers that azure-mgmt does by itself on some
refusals, and everything that logs, since a log of headers is one mistake away from a log of tokens.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
from azure.core.pipeline.policies import (
    CustomHookPolicy,
    RequestIdPolicy,
    SansIOHTTPPolicy,
    UserAgentPolicy,
)
from azure.mgmt.core.policies import ARMChallengeAuthenticationPolicy

from ipamd.api_calls import ApiCall
from ipamd.budget import BUDGET_SPENT
from ipamd.errors import Busy, CloudError, Denied, Throttled, Transient
from providers.azure.advice import is_refused, no_token, unreached
from providers.azure.configs import ODD
from providers.azure.credentials import RenewableCredential, scope_of
from providers.azure.errors import EXPIRED, clean, refusal, said
from providers.azure.headers import left, retry_after_seconds
from providers.azure.purse import Api, Purse

CONNECT_SECONDS = 3.0

MOST_PAGES = 64
"""Of one list. A VNET has 3,000 subnets at most, and no list of ARM's has fewer than some 50 to a
page; more is a page that names itself as the next."""

Made = Callable[[Any, dict[str, Any]], object]
"""A call of one SDK client, with the options that every call gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """One raw answer: header names in lower case; `body` the parsed JSON, None where there is none.

    `raw` is the start of a body that is no JSON.
    """

    status: int
    headers: Mapping[str, str]
    body: object
    raw: str = ""

    @property
    def is_success(self) -> bool:
        """Whether the status is of the 2xx."""
        return 200 <= self.status < 300


class Pipeline:
    """The SDK's clients, one of each. Thread-safe; made when they are first needed."""

    def __init__(
        self,
        *,
        arm_endpoint: str,
        credential: RenewableCredential,
        purse: Purse,
        tell: Callable[[ApiCall], None],
        timeout_seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
        transport: Any = None,
    ) -> None:
        self._endpoint = arm_endpoint.rstrip("/")
        self._scope = scope_of(self._endpoint)
        self._credential = credential
        self._purse = purse
        self._tell = tell
        self._timeout = timeout_seconds
        self._monotonic = monotonic
        self._transport = transport
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for client in self._clients.values():
                client.close()
            self._clients.clear()

    def network(
        self, api: Api, subscription: str, call: Made, *, eni_id: str = ""
    ) -> tuple[Heard, ...]:
        """One call of azure-mgmt-network; its answers, several where the SDK turned pages."""
        return self._call(api, lambda: self._client("network", subscription), call, eni_id)

    def compute(self, api: Api, subscription: str, call: Made) -> tuple[Heard, ...]:
        """One call of azure-mgmt-compute."""
        return self._call(api, lambda: self._client("compute", subscription), call, "")

    def get(self, api: Api, url: str) -> Heard:
        """A GET of an operation's URL, which must lie under the ARM endpoint.

        A refusal that is about the operation rather than about this call comes back as an answer.
        """
        subscription = self._own_subscription(api, url)
        kind = "compute" if api is Api.COMPUTE_OPERATION else "network"

        def get(client: Any, options: dict[str, Any]) -> object:
            from azure.core.rest import HttpRequest

            answer = client.send_request(HttpRequest("GET", url), **options)
            if answer.status_code in (401, 403, 404, 408, 429) or answer.status_code >= 500:
                answer.raise_for_status()
            return answer

        return self._call(api, lambda: self._client(kind, subscription), get, "")[-1]

    def _own_subscription(self, api: Api, url: str) -> str:
        """The subscription that a URL names; CloudError where it is not ARM's."""
        found = _OPERATION_URL.fullmatch(url)
        if found is None or _origin(url) is None or _origin(url) != _origin(self._endpoint):
            raise _foreign(api.value, url, self._endpoint)
        return found.group(1)

    def _call(
        self, api: Api, client: Callable[[], Any], call: Made, eni_id: str
    ) -> tuple[Heard, ...]:
        """The call, once more with a fresh token where the old one is no longer taken: azure-core
        drops it after a 401, but azure-identity would give the same one again from its cache."""
        generation = self._credential.generation
        heard, error = self._once(api, client(), call, eni_id)
        if _is_expired(heard):
            self._credential.renew(generation)
            heard, error = self._once(api, client(), call, eni_id)
        if error is not None:
            raise error
        return tuple(h for h in heard if h.is_success or api in _OPERATIONS)

    def _once(
        self, api: Api, client: Any, call: Made, eni_id: str
    ) -> tuple[list[Heard], CloudError | None]:
        waited = self._spend(api)
        began = self._monotonic()
        heard: list[Heard] = []

        def hear(response: Any) -> None:
            heard.append(_heard(response.http_response))
            if _has_more(heard[-1]):
                self._turn_page(api, len(heard))

        options = {
            "raw_response_hook": hear,
            "connection_timeout": CONNECT_SECONDS,
            "read_timeout": self._timeout,
        }
        error = _failure(api, lambda: call(client, options), heard, eni_id)
        self._report(api, error, heard, seconds=self._monotonic() - began, waited=waited)
        return heard, error

    def _spend(self, api: Api) -> float:
        try:
            return self._purse.spend(api)
        except Throttled as e:
            self._tell(ApiCall(api=api.value, code=e.code, is_sent=False, is_throttled=True))
            raise

    def _turn_page(self, api: Api, pages: int) -> None:
        """The next page of a list is a call as well."""
        if pages >= MOST_PAGES:
            raise odd(api, f"more than {MOST_PAGES} pages", "")
        self._spend(api)

    def _report(
        self,
        api: Api,
        error: CloudError | None,
        heard: list[Heard],
        *,
        seconds: float,
        waited: float,
    ) -> None:
        rest = None
        if heard:
            self._purse.heard(api, heard[-1].headers)
        if isinstance(error, Throttled) and error.code != BUDGET_SPENT:
            rest = self._purse.throttled(api, error.code, error.retry_after_seconds)
        self._tell(
            ApiCall(
                api=api.value,
                code=(error.code or "none") if error else "",
                status=heard[-1].status if heard else 0,
                seconds=seconds,
                waited_seconds=waited,
                is_throttled=isinstance(error, Throttled),
                is_busy=isinstance(error, Busy),
                left=left(heard[-1].headers) if heard else (),
                resting=rest.share.value if rest else "",
                rest_seconds=rest.seconds if rest else 0.0,
            )
        )

    def _client(self, kind: str, subscription: str) -> Any:
        with self._lock:
            key = f"{kind}/{subscription}"
            if key not in self._clients:
                self._clients[key] = self._make(kind, subscription)
            return self._clients[key]

    def _make(self, kind: str, subscription: str) -> Any:
        """Late imports: each of the two packages takes a tenth of a second and 15 to 30 MB."""
        made: Any
        if kind == "network":
            from azure.mgmt.network import NetworkManagementClient

            made = NetworkManagementClient
        else:
            from azure.mgmt.compute import ComputeManagementClient

            made = ComputeManagementClient
        return made(
            self._credential,
            subscription,
            base_url=self._endpoint,
            credential_scopes=[self._scope],
            policies=[
                RequestIdPolicy(),
                UserAgentPolicy(base_user_agent="vpc-ipamd"),
                _OnlyTo(self._endpoint),
                ARMChallengeAuthenticationPolicy(self._credential, self._scope),
                CustomHookPolicy(),
            ],
            **({"transport": self._transport} if self._transport is not None else {}),
        )


class _OnlyTo(SansIOHTTPPolicy[Any, Any]):
    """Nothing is sent to any other origin, whatever an answer named as its next page."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def on_request(self, request: Any) -> None:
        url = str(request.http_request.url)
        if _origin(url) is None or _origin(url) != _origin(self._endpoint):
            raise _foreign("request", url, self._endpoint)


_OPERATIONS = frozenset({Api.NETWORK_OPERATION, Api.COMPUTE_OPERATION})

# The characters that RFC 3986 allows in a path and a query, but for those that the SDK's URL
# templates would take for their own.
_OPERATION_URL = re.compile(
    r"https://[A-Za-z0-9.\-:\[\]]+/subscriptions/([\w.-]+)/[A-Za-z0-9._~%!$&'()*+,;=:@/?-]*",
    re.ASCII | re.IGNORECASE,
)


def _origin(url: str) -> tuple[str, str, int] | None:
    """Scheme, host and port; None for a URL that has none, or that carries a user."""
    try:
        parts = urlsplit(url)
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
    except ValueError:
        return None
    if "@" in parts.netloc or not parts.hostname:
        return None
    return parts.scheme.lower(), parts.hostname.lower(), port


def _foreign(operation: str, url: str, endpoint: str) -> CloudError:
    return CloudError(
        f"{clean(url.partition('?')[0])[:200]!r} is not under {endpoint}; it is not followed, "
        "since the token must go nowhere else",
        operation=operation,
        code="ForeignUrl",
    )


def _heard(response: Any) -> Heard:
    text = bytes(response.read())
    try:
        body, raw = (json.loads(text), "") if text.strip() else (None, "")
    except (ValueError, RecursionError):
        body, raw = None, text[:300].decode(errors="replace")
    headers = {str(k).lower(): str(v) for k, v in response.headers.items()}
    return Heard(status=int(response.status_code), headers=headers, body=body, raw=raw)


def _has_more(heard: Heard) -> bool:
    return heard.is_success and isinstance(heard.body, dict) and bool(heard.body.get("nextLink"))


def _failure(
    api: Api, call: Callable[[], object], heard: list[Heard], eni_id: str
) -> CloudError | None:
    """Make the call; the error it ended with. No cause is chained to it: what the SDK raises holds
    the request with its headers."""
    try:
        call()
    except CloudError as e:
        return e
    except AzureError as e:
        return _of_azure(api, e, heard, eni_id)
    except OSError as e:  # of the machine itself: a file with certificates or a token is not there
        what = f"{api.value}: {type(e).__name__}: {clean(str(e))}; nothing was sent"
        return Transient(what, operation=api.value, code="NotSent", eni_id=eni_id)
    except (RecursionError, *ODD) as e:
        # The SDK's models stumble over what is not as documented; what was heard is read by us.
        if not heard or not heard[-1].is_success or heard[-1].raw:
            return odd(api, f"{type(e).__name__}: {e}", heard[-1].raw if heard else "")
    if not heard:
        return odd(api, "nothing was heard", "")
    return odd(api, "no JSON", heard[-1].raw) if heard[-1].raw and heard[-1].is_success else None


def _of_azure(api: Api, error: AzureError, heard: list[Heard], eni_id: str) -> CloudError | None:
    if not heard:
        return _no_answer(api, error, eni_id)
    last = heard[-1]
    if last.is_success and isinstance(error, HttpResponseError) and not last.raw:
        return None  # a success that the SDK does not expect here, as 202 for a NIC
    if last.is_success:
        return _no_answer(api, error, eni_id)
    return refusal(
        api.value,
        last.status,
        said(last.body),
        request_id=last.headers.get("x-ms-request-id", ""),
        retry_after_seconds=retry_after_seconds(last.headers),
        eni_id=eni_id,
    )


def _no_answer(api: Api, error: AzureError, eni_id: str) -> CloudError:
    """The error for a call that got no answer of ARM's, or no token to be made with."""
    text = clean(str(error))
    if isinstance(error, ClientAuthenticationError):
        status = getattr(error, "status_code", None)
        kind = Denied if status in (400, 401, 403) or is_refused(text) else Transient
        said_so = f"{api.value}: {no_token(text)}"
        return kind(said_so, operation=api.value, code="NoCredentials")
    said_so = f"{api.value}: {unreached(text)}"
    return Transient(said_so, operation=api.value, code=type(error).__name__, eni_id=eni_id)


def _is_expired(heard: list[Heard]) -> bool:
    return bool(heard) and heard[-1].status == 401 and said(heard[-1].body).code.lower() in EXPIRED


A = TypeVar("A")
T = TypeVar("T")


def understood(api: Api, read: Callable[[A], T], answer: A) -> T:
    """What `read` makes of an answer; Transient that names what was seen where it cannot."""
    try:
        return read(answer)
    except ODD as e:
        raise odd(api, f"{type(e).__name__}: {e}", answer) from e
    except StopIteration as e:
        raise odd(api, "something is missing", answer) from e


def odd(api: Api, what: str, answer: object) -> Transient:
    """The error for an answer that is not as Azure's API specifications say."""
    return Transient(
        f"{api.value} gave an answer that cannot be read ({clean(what)[:200]}): "
        f"{clean(str(answer))[:300]!r}",
        operation=api.value,
        code="OddAnswer",
    )
