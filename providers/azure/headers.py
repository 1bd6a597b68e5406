"""The headers of ARM's answers that say when to come again and how much is left (pure).

Sources: "Throttling Resource Manager requests" (ARM documentation) for x-ms-ratelimit-remaining-
subscription-*, "Troubleshooting API throttling errors" (Azure Virtual Machines) for
x-ms-ratelimit-remaining-resource, RFC 9110 10.2.3 for Retry-After. Whatever cannot be read says
nothing; these are advice, and an answer is not worse for a header that is odd.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from email.utils import parsedate_to_datetime

from ipamd.api_calls import Left

LONGEST_PAUSE_SECONDS = 3600.0
"""ARM's longest window is an hour ("12,000 reads per hour"); more is an error or a mistake."""

_REMAINING = re.compile(r"\s*[\w.]+/([\w.]+)\s*;\s*(\d{1,9})\s*")
_MILLISECONDS = ("x-ms-retry-after-ms", "retry-after-ms")


def retry_after_seconds(headers: Mapping[str, str]) -> float:
    """How long ARM asks to wait, 0 where it does not say; at most an hour.

    A date counts from the answer's own Date, so that no clock of ours matters.
    """
    small = {k.lower(): v for k, v in headers.items()}
    for name in _MILLISECONDS:
        if (ms := _number(small.get(name, ""))) is not None:
            return _bounded(ms / 1000)
    text = small.get("retry-after", "")
    seconds = _number(text)
    return _bounded(seconds) if seconds is not None else _until(text, small.get("date", ""))


def remaining_front(headers: Mapping[str, str], kind: str) -> int | None:
    """What is left at ARM's front door for `kind` ("reads" or "writes"); the least of all that
    apply, None where nothing is said."""
    small = {k.lower(): v for k, v in headers.items()}
    said = (_number(small.get(f"{_FRONT}{scope}-{kind}", "")) for scope in _SCOPES)
    return min((int(n) for n in said if n is not None), default=None)


def left(headers: Mapping[str, str]) -> tuple[Left, ...]:
    """All that an answer says is left, for the metrics.

    Example: {"x-ms-ratelimit-remaining-subscription-reads": "249"} -> Left("subscription-reads",
    249).
    """
    small = {k.lower(): v for k, v in headers.items()}
    front = ((name, _number(small.get(_FRONT + name, ""))) for name in _FRONT_NAMES)
    said = {name: int(count) for name, count in front if count is not None}
    return tuple(
        Left(bucket=name, calls=count)
        for name, count in (said | {**remaining_resource(headers)}).items()
    )


_FRONT = "x-ms-ratelimit-remaining-"
_SCOPES = ("subscription", "subscription-global", "tenant")
_FRONT_NAMES = tuple(
    f"{scope}-{kind}" for scope in _SCOPES for kind in ("reads", "writes", "deletes")
)


def remaining_resource(headers: Mapping[str, str]) -> Mapping[str, int]:
    """What is left by a resource provider's policies; a queue's length is none of them.

    Example: "Microsoft.Compute/HighCostGetVMScaleSet3Min;179,Microsoft.Compute/Other;4993" ->
    {"HighCostGetVMScaleSet3Min": 179, "Other": 4993}.
    """
    text = next((v for k, v in headers.items() if k.lower() == _RESOURCE), "")
    found = (_REMAINING.fullmatch(part) for part in text.split(","))
    return {m.group(1): int(m.group(2)) for m in found if m and _QUEUE not in m.group(1)}


_RESOURCE = "x-ms-ratelimit-remaining-resource"
_QUEUE = "Queued"
"""Azure CLI's recording test_vmss_update: an update of an instance went well and was answered with
VmssQueuedVMOperations;0, beside VMScaleSetActions3Min;238."""


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\s*\d{1,9}(\.\d{1,9})?\s*", text, re.ASCII) else None


def _until(text: str, date: str) -> float:
    try:
        return _bounded((parsedate_to_datetime(text) - parsedate_to_datetime(date)).total_seconds())
    except (ValueError, TypeError, OverflowError):  # TypeError: only one of them names a zone
        return 0.0


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), LONGEST_PAUSE_SECONDS)
