"""EC2's request buckets: how many calls of one action an account may make in one region.

Free of moto and of any clock: times are seconds of whatever clock the caller keeps, and must not go
backwards. The HTTP emulator and the fleet simulation in virtual time share it.

Source: EC2 developer guide, "Request throttling for the Amazon EC2 API" (read in 2026). Every
action has a bucket of its own; its category only says how large it is. Listed here are the actions
that a node agent, a test or the emulator can call; the others fall into their category.
"""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketSize:
    """How many tokens a bucket holds, and how many come back each second."""

    capacity: float
    refill_per_second: float


NON_MUTATING = BucketSize(capacity=100, refill_per_second=20)
UNNARROWED = BucketSize(capacity=50, refill_per_second=10)
MUTATING = BucketSize(capacity=50, refill_per_second=5)  # resource-intensive ones are the same

# Those of the non-mutating actions that spend from a smaller bucket without a filter or paging.
UNNARROWED_ACTIONS = frozenset(
    {
        "DescribeInstances",
        "DescribeInstanceStatus",
        "DescribeNetworkInterfaces",
        "DescribeSecurityGroups",
        "DescribeSnapshots",
        "DescribeSpotInstanceRequests",
        "DescribeVolumes",
    }
)

_OFTEN = BucketSize(capacity=100, refill_per_second=5)
_TAGS = BucketSize(capacity=100, refill_per_second=10)
_RESERVATIONS = BucketSize(capacity=5, refill_per_second=1)
_LAUNCHES = BucketSize(capacity=5, refill_per_second=2)

# "Uncategorized actions" of the page.
OWN_SIZES = {
    "AssignIpv6Addresses": _OFTEN,
    "AssignPrivateIpAddresses": _OFTEN,
    "CreateDefaultSubnet": BucketSize(capacity=1, refill_per_second=1),
    "CreateDefaultVpc": BucketSize(capacity=1, refill_per_second=1),
    "CreateNetworkInterface": _OFTEN,
    "CreateSubnetCidrReservation": _RESERVATIONS,
    "CreateTags": _TAGS,
    "DeleteNetworkInterface": _OFTEN,
    "DeleteSubnetCidrReservation": _RESERVATIONS,
    "DeleteTags": _TAGS,
    "DescribeInstanceTopology": BucketSize(capacity=1, refill_per_second=1),
    "DescribeSecurityGroupReferences": BucketSize(capacity=20, refill_per_second=5),
    "DescribeStaleSecurityGroups": BucketSize(capacity=20, refill_per_second=5),
    "ModifyInstanceMetadataOptions": _OFTEN,
    "ModifyNetworkInterfaceAttribute": _OFTEN,
    "RunInstances": _LAUNCHES,
    "StartInstances": _LAUNCHES,
    "TerminateInstances": _OFTEN,
    "UnassignPrivateIpAddresses": _OFTEN,
}

# "Resource token bucket sizes": a token for each instance, beside the one for the request.
RESOURCE_SIZES = {
    "RunInstances": BucketSize(capacity=1000, refill_per_second=2),
    "StartInstances": BucketSize(capacity=1000, refill_per_second=2),
    "StopInstances": BucketSize(capacity=1000, refill_per_second=20),
    "TerminateInstances": BucketSize(capacity=1000, refill_per_second=20),
}

_NON_MUTATING_PREFIXES = ("Describe", "List", "Search", "Get")


def request_size(action: str, *, is_narrowed: bool = True) -> BucketSize:
    """The size of an action's bucket. `is_narrowed`: the request has a filter or a page size."""
    if action in OWN_SIZES:
        return OWN_SIZES[action]
    if not is_narrowed and action in UNNARROWED_ACTIONS:
        return UNNARROWED
    return NON_MUTATING if action.startswith(_NON_MUTATING_PREFIXES) else MUTATING


@dataclass(frozen=True, slots=True, kw_only=True)
class Bucket:
    """A bucket as it was at one moment."""

    size: BucketSize
    tokens: float
    as_of: float

    @classmethod
    def full(cls, size: BucketSize, now: float) -> Bucket:
        """A bucket that nobody has used."""
        return cls(size=size, tokens=size.capacity, as_of=now)

    def at(self, now: float) -> Bucket:
        """The same bucket at `now`, refilled without ever running over."""
        grown = self.tokens + max(0.0, now - self.as_of) * self.size.refill_per_second
        return replace(self, tokens=min(self.size.capacity, grown), as_of=now)

    def spent(self, tokens: int) -> Bucket | None:
        """The bucket less so many tokens; None when it has fewer."""
        # Refilling in many small steps loses a few units in the last place.
        left = self.tokens - tokens
        return replace(self, tokens=max(0.0, left)) if left > -1e-9 else None


class RequestBuckets:
    """The buckets of one account in one region; all are full at first."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def take(
        self, action: str, now: float, *, is_narrowed: bool = True, resources: int = 0
    ) -> bool:
        """Whether a request passes at `now`; its tokens are spent then, and else none.

        `resources`: how many instances it starts, stops or terminates.
        """
        asked = {
            _key(action, is_narrowed): (request_size(action, is_narrowed=is_narrowed), 1),
        }
        if action in RESOURCE_SIZES:
            asked[action, "resources"] = (RESOURCE_SIZES[action], resources)
        left = {
            key: self._at(key, size, now).spent(tokens) for key, (size, tokens) in asked.items()
        }
        spent = {key: bucket for key, bucket in left.items() if bucket is not None}
        if len(spent) < len(left):
            return False
        self._buckets.update(spent)
        return True

    def tokens(self, action: str, now: float, *, is_narrowed: bool = True) -> float:
        """How many requests of an action pass at `now`, parts of one included."""
        size = request_size(action, is_narrowed=is_narrowed)
        return self._at(_key(action, is_narrowed), size, now).tokens

    def _at(self, key: tuple[str, str], size: BucketSize, now: float) -> Bucket:
        return self._buckets.get(key, Bucket.full(size, now)).at(now)


def _key(action: str, is_narrowed: bool) -> tuple[str, str]:
    is_small = not is_narrowed and action in UNNARROWED_ACTIONS
    return action, "unnarrowed" if is_small else "requests"
