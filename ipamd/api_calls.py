"""What the cloud child tells of each call to the cloud's API: what was called, and what it cost."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Left:
    """What an answer says is left of one of the cloud's allowances, by the cloud's name of it."""

    bucket: str
    calls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiCall:
    """One call, or one that the budget held back (`is_sent` false).

    `code` is the cloud's error code, empty when it ended well; `status` the HTTP status, 0 without
    an answer. `seconds` is the time of the call itself, `waited_seconds` that for the budget.
    `is_busy`: refused because what it is for is being changed, which is no matter of rates.
    After a throttle the calls of `resting` are held back for `rest_seconds`.
    """

    api: str
    code: str = ""
    status: int = 0
    seconds: float = 0.0
    waited_seconds: float = 0.0
    is_sent: bool = True
    is_throttled: bool = False
    is_busy: bool = False
    left: tuple[Left, ...] = ()
    resting: str = ""
    rest_seconds: float = 0.0
