"""ARM's refusals by the reaction they ask for, as data.

Sources: "Common error codes for Azure" and "Throttling Resource Manager requests" (ARM
documentation), the error types of Microsoft.Network and Microsoft.Compute as cloud-provider-azure,
cilium and the tools' issue trackers name them (each group below says which). Codes are compared
without regard to case.

Two kinds of 429 look alike: a rate that is exceeded, which concerns every call of its bucket, and a
lock that another operation holds, which concerns one NIC or subnet for some seconds. The code
and the codes of the details tell them apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

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
from providers.azure.advice import lacking

BY_CODE: dict[str, type[CloudError]] = {
    code.lower(): kind
    for kind, codes in (
        # "Subnet X with address prefix Y does not have enough capacity for N IP addresses."
        (SubnetExhausted, ("SubnetIsFull",)),
        # No aligned /28 is left (what cilium's operator falls back on to single addresses).
        (
            NoPrefixFree,
            ("NoAvailableIPAddressesInSubnet", "InsufficientCidrBlocks", "PrefixUnavailable"),
        ),
        (Throttled, ("TooManyRequests", "SubscriptionRequestsThrottled")),
        (
            Busy,
            (
                "AnotherOperationInProgress",
                "ReferencedResourceNotProvisioned",  # the subnet is Updating
                "ConflictingConcurrentWriteNotAllowed",  # bosh-azure-cpi issue 762
                "OperationPreempted",  # compute: a later write displaced this one
                "PreconditionFailed",
                "Conflict",
            ),
        ),
        (
            Denied,
            (
                "AuthorizationFailed",
                "LinkedAuthorizationFailed",  # subnets/join/action is missing
                "AuthenticationFailed",
                "ExpiredAuthenticationToken",
                "InvalidAuthenticationToken",
                "InvalidAuthenticationTokenTenant",
                "InvalidAuthenticationTokenAudience",
                "RequestDisallowedByPolicy",
                "RequestDisallowedByAzure",
                "ScopeLocked",
                "ReadOnlyDisabledSubscription",
            ),
        ),
        (
            NotFound,
            (
                "NotFound",
                "ResourceNotFound",
                "ParentResourceNotFound",
                "ResourceGroupNotFound",
                "SubscriptionNotFound",
                "InvalidResourceReference",
                # Gone, or made a moment ago (cloud-provider-azure issue 2386).
                "InstanceIdsListInstanceIdNotActiveVM",
            ),
        ),
        (LimitReached, ("QuotaExceeded", "ResourceQuotaExceeded")),
        # A 400 or a 409: what was asked for is not to be had in this subscription, however often
        # one asks (terraform-provider-azurerm issue 11453 for one of Microsoft.Network's features).
        (
            CloudError,
            (
                "SubscriptionNotRegisteredForFeature",
                "MissingSubscriptionRegistration",
                "FeatureNotEnabled",
                "FeatureNotSupported",
            ),
        ),
        (
            Transient,
            (
                "InternalServerError",
                "InternalExecutionError",
                "InternalOperationError",
                "ServerTimeout",
                "ServiceUnavailable",
                "GatewayTimeout",
                "OperationTimedOut",
                "OperationTimeout",
            ),
        ),
    )
    for code in codes
}

# "RetryableError", "RetryableErrorDueToAnotherOperation" and their kin, whatever the status.
_LOCK_PREFIX = "retryableerror"

FRONT_DOOR = frozenset({"subscriptionrequeststhrottled"})
"""Codes of a 429 of ARM itself rather than of a resource provider."""

EXPIRED = frozenset({"expiredauthenticationtoken", "invalidauthenticationtoken", ""})
"""Codes of a 401 that a fresh token may mend; "" is a 401 without a body."""

WRONG_VERSION = frozenset(
    {"invalidapiversionparameter", "noregisteredproviderfound", "invalidresourcetype"}
)
"""Codes of a 400 or 404 that refuses an api-version."""

NOT_TAKEN = frozenset(
    {
        "http401",
        "unauthorized",
        "authenticationfailed",
        "expiredauthenticationtoken",
        "invalidauthenticationtoken",
        "invalidauthenticationtokentenant",
        "invalidauthenticationtokenaudience",
        "nocredentials",
    }
)
"""Codes of refusals of the token itself: they say nothing of the rights for one call."""

# Codes given to what has none of its own: with these, or none that is known, the text decides. In
# order; the first that is found does.
_BY_TEXT: tuple[tuple[re.Pattern[str], type[CloudError]], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), kind)
    for pattern, kind in (
        (r"not have enough capacity for \d+ ip", SubnetExhausted),
        (r"being deleted|marked for deletion|is deallocat", CloudError),
        (r"(another|other) operation|in progress|is being (modified|updated)", Busy),
        # More than 256 configurations on a NIC: no document says with which code it is refused.
        (r"ip ?configurations?\b.*\b(limit|maximum|max|exceed)", LimitReached),
        (r"(limit|maximum|max|exceed)\w*\b.*\bip ?configurations?", LimitReached),
        (r"quota|exceed\w*.*\blimit|\blimit\b.*\b(reached|exceed)", LimitReached),
    )
)

# 409 OperationNotAllowed is quota, a machine that goes away or a lock; 429 with it is compute's
# throttling ("Troubleshooting API throttling errors", Azure Virtual Machines).
_NOT_ALLOWED = "operationnotallowed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What an error body says; `details` are the codes of its inner errors, outermost first."""

    code: str = ""
    message: str = ""
    details: tuple[str, ...] = ()

    @property
    def telling_code(self) -> str:
        """The first code that is known here, else the outermost: the inner one often says more."""
        codes = (self.code, *self.details)
        return next((c for c in codes if _is_known(c)), self.code)


def said(body: object) -> Said:
    """Read an error body: ARM's {"error": {...}} or the bare {"code", "message"} of an operation.

    Never raises; what is not there is empty. Messages of details are joined to the outer one.
    """
    if not isinstance(body, dict):
        return Said()
    inner = body.get("error")
    outer = inner if isinstance(inner, dict) else body
    details = tuple(_inner(outer))
    messages = [_message(outer), *(_message(d) for d in details)]
    return Said(
        code=_code(outer),
        message=clean("; ".join(dict.fromkeys(m for m in messages if m))),
        details=tuple(c for d in details if (c := _code(d))),
    )


DEEPEST = 20
"""Inner errors that are read; ARM nests two or three."""


def _inner(outer: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    queue: list[object] = [outer.get("details"), outer.get("innererror")]
    while queue and len(found) < DEEPEST:
        item = queue.pop(0)
        if isinstance(item, list):
            queue += item[:DEEPEST]
        elif isinstance(item, dict):
            found.append(item)
            queue += [item.get("details"), item.get("innererror")]
    return found


def classify(status: int, what: Said) -> type[CloudError]:
    """The error class for one refusal; plain CloudError where only a person can tell.

    `status` is 0 for an operation that failed after its call was taken. Example: (429, code
    RetryableError) -> Busy; (429, code OperationNotAllowed) -> Throttled.
    """
    codes = tuple(c.lower() for c in (what.code, *what.details))
    if any(c.startswith(_LOCK_PREFIX) for c in codes):
        return Busy
    known = next((BY_CODE[c] for c in codes if c in BY_CODE), None)
    if status == 429:
        return Busy if known is Busy else Throttled
    if status == 412:
        return Busy
    if status == 409 and _NOT_ALLOWED in codes:
        return _by_text(what.message) or CloudError
    return known or _by_text(what.message) or _by_status(status)


def _by_text(message: str) -> type[CloudError] | None:
    return next((kind for pattern, kind in _BY_TEXT if pattern.search(message)), None)


def _by_status(status: int) -> type[CloudError]:
    match status:
        case 401 | 403:
            return Denied
        case 404:
            return NotFound
        case 409:
            return Busy
        case 408:
            return Transient
        case _:
            return Transient if status >= 500 else CloudError


def refusal(
    api: str,
    status: int,
    what: Said,
    *,
    request_id: str = "",
    retry_after_seconds: float = 0.0,
    eni_id: str = "",
    subnet_id: str = "",
) -> CloudError:
    """The error for one refusal, or (status 0) for an operation that failed later."""
    kind = classify(status, what)
    code = what.telling_code or (f"Http{status}" if status else "OperationFailed")
    said_so = what.message or "no reason given"
    return kind(
        f"{api}: {code}: {said_so}",
        operation=api,
        code=code,
        request_id=request_id,
        retry_after_seconds=retry_after_seconds,
        eni_id=eni_id,
        subnet_id=subnet_id,
    )


LONGEST_TEXT = 600
LONGEST_MESSAGE = 10 * LONGEST_TEXT
"""Of a text from outside, before it is made shorter: more is never looked at."""

LONGEST_CODE = 100
"""It is a label of metrics; the longest of ARM's has some 60 characters."""

_SECRETS = re.compile(
    r"(?i)\bbearer\s+\S+|eyJ[\w-]{5,}(?:\.[\w-]*){1,2}"
    r"|(?:(?:access|refresh|id)_token|client_(?:secret|assertion))\W{0,9}\S*"
)

# Operation URLs carry a signature in their query, and no query says anything that an error needs.
_QUERIES = re.compile(r"\?[\w$.-]+=[^\s'\")>]*")


def clean(text: str) -> str:
    """A text from outside for an error or the log: one line, bounded, without anything that looks
    like a token, and without the queries of URLs."""
    one_line = " ".join(text[:LONGEST_MESSAGE].split())
    return _QUERIES.sub("?(query)", _SECRETS.sub("(token)", one_line))[:LONGEST_TEXT]


def _is_known(code: str) -> bool:
    lower = code.lower()
    return lower in BY_CODE or lower.startswith(_LOCK_PREFIX)


def _code(error: dict[str, Any]) -> str:
    return clean(_text(error.get("code")))[:LONGEST_CODE]


def _message(error: dict[str, Any]) -> str:
    """In our words where a right is missing: ARM's are longer than what we keep."""
    text = error.get("message")
    return (lacking(text[:LONGEST_MESSAGE]) if isinstance(text, str) else "") or _text(text)


def _text(value: object) -> str:
    return value.strip()[:LONGEST_TEXT] if isinstance(value, str) else ""
