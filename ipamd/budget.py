"""How many cloud calls one node may make, as pure token buckets: time is an argument.

EC2 gives each account and region a bucket per API, shared by all its nodes and tools ("Request
throttling for the Amazon EC2 API": Describe* 100 tokens and 20/s; create, delete and modify of
network interfaces, assign and unassign 100 and 5/s each; attach and detach 50 and 5/s each). No
node knows how many share it. So each keeps to a small share in the long run, has a burst for the
largest growth that one node needs at once, and gives way when EC2 throttles: its rate halves, and
comes back evenly (multiplicative decrease, additive increase). Enforced in the cloud child.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TypeVar

from ipamd.errors import Throttled

Kind = TypeVar("Kind")

BUDGET_SPENT = "BudgetSpent"
"""The code of the error for a call that was not made, because its bucket had no token in time."""


class ApiClass(enum.Enum):
    """Kinds of call that share a bucket."""

    DESCRIBE = "describe"
    INTERFACE = "interface"  # create, delete and modify network interfaces
    ATTACH = "attach"  # attach and detach
    ADDRESS = "address"  # assign and unassign
    OTHER = "other"


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowance:
    """What one class may spend: `burst` calls at once, `per_second` in the long run."""

    burst: float
    per_second: float

    def __post_init__(self) -> None:
        if self.burst < 1 or self.per_second <= 0:
            raise ValueError(f"{self} would never let a call through")


ALLOWANCES: Mapping[ApiClass, Allowance] = MappingProxyType(
    {
        # A tenth of the account's refill for each node, so that ten busy nodes fit beside each
        # other without one refusal. The bursts let the largest common type (15 ENIs) fill itself
        # in one go with a quarter to spare: 14 creations are 14 creates and 14 modifies, 14
        # attaches, and as many looks that confirm them.
        ApiClass.DESCRIBE: Allowance(burst=40, per_second=2.0),
        ApiClass.INTERFACE: Allowance(burst=40, per_second=0.5),
        ApiClass.ATTACH: Allowance(burst=20, per_second=0.5),
        # One call tops up one ENI, or takes back what one ENI has too much.
        ApiClass.ADDRESS: Allowance(burst=20, per_second=0.5),
        # CreateTags (100 tokens, 10/s) for orphans: at most 25 in a round of the cleaner.
        ApiClass.OTHER: Allowance(burst=30, per_second=0.5),
    }
)

DECREASE = 0.5
"""A throttled class goes on at half its rate."""

FLOOR = 1 / 4
"""Two halvings at most: the slowest class still makes a call every 8 s. In a fleet of 500 nodes
that grow at once a lower floor leaves the account's tokens unused while pods wait (docs/fleet.md).
"""

RECOVERY_SECONDS = 60.0
"""From nothing to the full rate without another throttle. The account's largest bucket refills in
20 s (100 tokens at 5/s); three times that keeps nodes from coming back all together."""

ONE_EVENT_SECONDS = 1.0
"""Throttles within this time are one event: calls that were in flight together halve once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """One class's bucket. `tokens` below zero are calls that wait their turn.

    `share` in [FLOOR, 1] scales rate and burst; it falls with throttles and rises with time.
    """

    allowance: Allowance
    tokens: float
    as_of: float
    share: float = 1.0
    throttled_at: float = float("-inf")

    @property
    def per_second(self) -> float:
        """The rate at present."""
        return self.allowance.per_second * self.share

    @property
    def burst(self) -> float:
        """The most that can be saved up at present: never less than one call."""
        return max(self.allowance.burst * self.share, 1.0)

    def at(self, now: float) -> Bucket:
        """The bucket at `now`, refilled. A clock that went back changes nothing."""
        passed = max(now - self.as_of, 0.0)
        share = min(self.share + passed / RECOVERY_SECONDS, 1.0)
        # The rate rises evenly meanwhile: its mean is exact until it is whole again.
        mean = (self.share + share) / 2 * self.allowance.per_second
        grown = replace(self, share=share, as_of=max(now, self.as_of))
        return replace(
            grown, tokens=min(self.tokens + passed * mean, max(grown.burst, self.tokens))
        )

    def wait_seconds(self, now: float, chance: float) -> float:
        """How long the next call has to wait for its token; 0 where one is there.

        `chance` in [0, 1) adds up to a quarter, so that nodes which were throttled together do not
        come back together. Example: 0.5 tokens at 0.5/s, chance 0 -> 1 s.
        """
        missing = 1.0 - self.at(now).tokens
        return max(missing / self.per_second, 0.0) * (1.0 + chance / 4) if missing > 0 else 0.0

    def spent(self, now: float) -> Bucket:
        """After one call was let through, or given a place in the queue."""
        full = self.at(now)
        return replace(full, tokens=full.tokens - 1.0)

    def throttled(self, now: float) -> Bucket:
        """After EC2 refused a call of this class for its rate.

        What was saved up is lost but for one call, the probe that the next back-off allows.
        """
        full = self.at(now)
        empty = replace(full, tokens=min(full.tokens, 1.0))
        if now - self.throttled_at < ONE_EVENT_SECONDS:
            return empty
        return replace(empty, share=max(full.share * DECREASE, FLOOR), throttled_at=now)


def full_buckets(allowances: Mapping[Kind, Allowance], now: float) -> dict[Kind, Bucket]:
    """The buckets of a process that has just started, by the kinds that its cloud counts."""
    return {
        kind: Bucket(allowance=allowance, tokens=allowance.burst, as_of=now)
        for kind, allowance in allowances.items()
    }


def budget_spent(call: str, budget: str, wait_seconds: float) -> Throttled:
    """The error for a call that was not made; `budget` says of what there is no more."""
    return Throttled(
        f"{call}: this node's budget of {budget} is spent; "
        f"the next one is due in {wait_seconds:.1f} s",
        operation=call,
        code=BUDGET_SPENT,
        retry_after_seconds=wait_seconds,
    )


_ATTACH = ("Attach", "Detach")
_ADDRESS = ("Assign", "Unassign")
_INTERFACE = frozenset(
    {
        "CreateNetworkInterface",
        "DeleteNetworkInterface",
        "ModifyNetworkInterfaceAttribute",
    }
)


def class_of(api: str) -> ApiClass:
    """The class of an EC2 API by its name. Example: AssignIpv6Addresses -> ADDRESS."""
    if api.startswith(("Describe", "Get")):
        return ApiClass.DESCRIBE
    if api.startswith(_ATTACH):
        return ApiClass.ATTACH
    if api.startswith(_ADDRESS):
        return ApiClass.ADDRESS
    return ApiClass.INTERFACE if api in _INTERFACE else ApiClass.OTHER
