"""What crosses the pipe between ipamd and its cloud child, beside the values of `ipamd.cloud`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ipamd.api_calls import ApiCall
from ipamd.errors import CloudError


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One method call on its way to the child."""

    number: int
    method: str
    arguments: tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Its outcome on the way back."""

    number: int
    value: Any = None
    error: CloudError | None = None


Reply = Answer | ApiCall
"""What the child sends: answers, and a report of each API call as soon as it has ended."""
