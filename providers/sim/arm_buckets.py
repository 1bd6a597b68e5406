"""ARM's three layers of throttling: which buckets a request spends from, and what a refusal says.

No clock and no I/O: times are seconds of whatever clock the caller keeps, and must not go
backwards. A request meets the front door first (a bucket for each subscription, principal, region
and class of operation) and then its resource provider: Microsoft.Network counts writes and reads of
a subscription and region, Microsoft.Compute counts by operation, for the resource and for the
subscription and region. A request that one layer refuses has spent from the layers before it.

A 429 from here is throttling: it names a bucket and lasts until that has a token. The other kind of
429, a lock held by another operation, is no bucket's and is answered by the resources themselves.

Sources: "Throttling Resource Manager requests" and "Compute throttling limits" of Microsoft's pages
for sizes; "Troubleshooting API throttling errors" for the headers and the compute error; the Azure
CLI's recording test_vmss_nics for which headers come with which read: reads of a scale set's NICs
are Microsoft.Network's, although their path is below Microsoft.Compute. The names of compute's
per-minute policies are published nowhere; ours follow the pattern of those that were recorded.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from providers.sim.buckets import Bucket, BucketSize

_READS = BucketSize(capacity=250, refill_per_second=25)
_WRITES = BucketSize(capacity=200, refill_per_second=10)
_FRONT_DOOR = {"reads": _READS, "writes": _WRITES, "deletes": _WRITES}

_NETWORK_WINDOW_SECONDS = 300
_NETWORK_READS = BucketSize(capacity=10_000, refill_per_second=10_000 / _NETWORK_WINDOW_SECONDS)
_NETWORK_WRITES = BucketSize(capacity=1_000, refill_per_second=1_000 / _NETWORK_WINDOW_SECONDS)


def _a_minute(refill: int, capacity: int) -> BucketSize:
    return BucketSize(capacity=capacity, refill_per_second=refill / 60)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputePolicy:
    """One operation of Microsoft.Compute: its bucket for each resource and for a subscription."""

    name: str
    per_resource: BucketSize | None
    per_subscription: BucketSize | None


_SET = r"(?P<resource>/virtualmachinescalesets/[^/]+)"
_INSTANCE = r"(?P<resource>/virtualmachinescalesets/[^/]+/virtualmachines/[^/]+)"
_VM = r"(?P<resource>/virtualmachines/[^/]+)"

# (methods, path below the provider, policy); the first that fits counts. What follows the resource
# is something that is done to it, and spends from its bucket.
_COMPUTE: tuple[tuple[frozenset[str], re.Pattern[str], ComputePolicy], ...] = tuple(
    (
        frozenset(methods.split()),
        re.compile(path),
        ComputePolicy(name=name, per_resource=resource, per_subscription=subscription),
    )
    for methods, path, name, resource, subscription in (
        (
            "GET",
            r"(?P<resource>/locations/[^/]+/operations/[^/]+)",
            "GetOperation",
            _a_minute(15, 45),
            _a_minute(5_000, 15_000),
        ),
        ("GET", _INSTANCE, "GetVMScaleSetVM", _a_minute(12, 36), _a_minute(2_000, 6_000)),
        ("DELETE", _INSTANCE, "DeleteVMScaleSetVM", _a_minute(4, 12), None),
        (
            "PUT PATCH POST",
            _INSTANCE + "(/.*)?",
            "UpdateVMScaleSetVM",
            _a_minute(4, 12),
            _a_minute(500, 1_500),
        ),
        (
            "GET",
            _SET + "/virtualmachines",
            "HighCostGetVMScaleSet",
            _a_minute(10, 30),
            _a_minute(360, 1_080),
        ),
        ("GET", _SET, "GetVMScaleSet", _a_minute(12, 36), _a_minute(800, 2_400)),
        (
            "PUT PATCH POST DELETE",
            _SET + "(/.*)?",
            "UpdateVMScaleSet",
            _a_minute(4, 12),
            _a_minute(500, 1_500),
        ),
        (
            "GET",
            "/virtualmachinescalesets",
            "HighCostGetVMScaleSet",
            None,
            _a_minute(360, 1_080),
        ),
        ("GET", _VM + "(/.*)?", "GetVM", _a_minute(12, 36), _a_minute(8_000, 24_000)),
        (
            "PUT PATCH POST DELETE",
            _VM + "(/.*)?",
            "UpdateVM",
            _a_minute(4, 12),
            _a_minute(500, 1_500),
        ),
        ("GET", "/virtualmachines", "HighCostGet", None, _a_minute(300, 900)),
    )
)
# As recorded (azure-cli, test_vmss_update): a write of an instance that went well tells of a queue
# of operations with nothing in it, and a look at an operation is not charged.
_QUEUED = frozenset({"UpdateVMScaleSetVM"})
_UNCHARGED = frozenset({"GetOperation"})
# Served by Microsoft.Network, see above.
_SET_NICS = re.compile(_SET + r"(/virtualmachines/[^/]+)?/networkinterfaces(/.*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Spender:
    """Who asks, and where: what every bucket is kept apart by."""

    subscription: str
    principal: str
    region: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """One bucket that a request takes one token from.

    `shown_as` is the bucket's name in the response headers; empty: it is not shown.
    """

    layer: str
    key: tuple[str, ...]
    size: BucketSize
    shown_as: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Throttle:
    """Why a request is refused; an ARM error in the making, of status 429."""

    code: str
    message: str
    retry_after_seconds: int
    details: tuple[Mapping[str, str], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What the buckets say of a request: the headers its answer gets, and the refusal if any."""

    headers: Mapping[str, str] = field(default_factory=dict)
    throttle: Throttle | None = None


def charges(method: str, path: str, spender: Spender) -> tuple[tuple[Charge, ...], ...]:
    """What a request spends, layer by layer. `path` is an ARM path, of any case, without query."""
    front = _front_door(method, spender)
    provider, below = _provider(path)
    if provider == "microsoft.network" or (
        provider == "microsoft.compute" and _SET_NICS.fullmatch(below)
    ):
        return (front,), (_network(method, spender),)
    if provider == "microsoft.compute":
        return (front,), _compute(method, below, path, spender)
    return ((front,),)


def _front_door(method: str, spender: Spender) -> Charge:
    kind = {"GET": "reads", "HEAD": "reads", "DELETE": "deletes"}.get(method, "writes")
    return Charge(
        layer="front_door",
        key=("front_door", kind, spender.subscription, spender.principal, spender.region),
        size=_FRONT_DOOR[kind],
        shown_as=f"x-ms-ratelimit-remaining-subscription-{kind}",
    )


def _network(method: str, spender: Spender) -> Charge:
    is_read = method in ("GET", "HEAD")
    kind = "reads" if is_read else "writes"
    return Charge(
        layer="network",
        key=("network", kind, spender.subscription, spender.region),
        size=_NETWORK_READS if is_read else _NETWORK_WRITES,
    )


def _compute(method: str, below: str, path: str, spender: Spender) -> tuple[Charge, ...]:
    fits = (
        (policy, found)
        for methods, shape, policy in _COMPUTE
        if method in methods and (found := shape.fullmatch(below))
    )
    policy, found = next(fits, (None, None))
    if policy is None or found is None:
        return ()
    group = path.lower().rpartition("/providers/")[0]
    asked = (
        ("PerResource", policy.per_resource, group + found.groupdict().get("resource", "")),
        ("PerSubscription", policy.per_subscription, f"{spender.subscription} {spender.region}"),
    )
    return tuple(
        Charge(
            layer="compute",
            key=("compute", policy.name, scope, whose),
            size=size,
            shown_as=f"Microsoft.Compute/{policy.name}{scope}1Min",
        )
        for scope, size, whose in asked
        if size is not None
    )


def _provider(path: str) -> tuple[str, str]:
    """The resource provider of a path, and what follows it, in lower case."""
    _, _, rest = path.lower().rstrip("/").rpartition("/providers/")
    provider, _, below = rest.partition("/")
    return provider, f"/{below}"


class ArmBuckets:
    """All buckets of one ARM; they are full at first."""

    def __init__(self) -> None:
        self._buckets: dict[tuple[str, ...], Bucket] = {}

    def take(self, method: str, path: str, spender: Spender, now: float) -> Verdict:
        """Let a request pass at `now`, or refuse it; its answer carries the verdict's headers."""
        headers: dict[str, str] = {}
        for layer in charges(method, path, spender):
            empty = [one for one in layer if self._at(one, now).spent(1) is None]
            if not empty:
                self._spend(layer, now)
            headers |= self._shown(layer, now)
            if empty:
                throttle = self._throttle(empty, now)
                headers["Retry-After"] = str(throttle.retry_after_seconds)
                return Verdict(headers=headers, throttle=throttle)
        return Verdict(headers=headers)

    def tokens(self, method: str, path: str, spender: Spender, now: float) -> dict[str, int]:
        """Whole tokens left in the buckets that such a request would spend from, by layer or name.

        For tests and their questions about a bucket that no header shows.
        """
        return {
            charge.shown_as or charge.layer: math.floor(self._at(charge, now).tokens)
            for layer in charges(method, path, spender)
            for charge in layer
        }

    def _at(self, charge: Charge, now: float) -> Bucket:
        return self._buckets.get(charge.key, Bucket.full(charge.size, now)).at(now)

    def _spend(self, layer: Iterable[Charge], now: float) -> None:
        for charge in layer:
            left = self._at(charge, now).spent(1)
            assert left is not None, charge  # the caller has looked
            self._buckets[charge.key] = left

    def _shown(self, layer: tuple[Charge, ...], now: float) -> dict[str, str]:
        left = {one: math.floor(self._at(one, now).tokens) for one in layer if one.shown_as}
        compute = [f"{one.shown_as};{left[one]}" for one in left if one.layer == "compute"]
        shown = {one.shown_as: str(left[one]) for one in left if one.layer == "front_door"}
        names = {one.key[1] for one in left if one.layer == "compute"}
        if names & _QUEUED:
            compute.append("Microsoft.Compute/VmssQueuedVMOperations;0")
        if compute:
            shown["x-ms-ratelimit-remaining-resource"] = ",".join(compute)
        if names - _UNCHARGED:
            shown["x-ms-request-charge"] = "1"
        return shown

    def _throttle(self, empty: list[Charge], now: float) -> Throttle:
        wait = max(self._seconds_to_token(charge, now) for charge in empty)
        return _refusal(empty[0], wait)

    def _seconds_to_token(self, charge: Charge, now: float) -> int:
        missing = 1 - self._at(charge, now).tokens
        # Less what refilling in steps loses in the last place, which is no second.
        return max(1, math.ceil(missing / charge.size.refill_per_second - 1e-6))


def _refusal(charge: Charge, wait: int) -> Throttle:
    match charge.layer:
        case "front_door":
            return Throttle(
                code="SubscriptionRequestsThrottled",
                message=f"Too many {charge.key[1]} for subscription {charge.key[2]!r}; "
                f"try again after {wait} seconds.",
                retry_after_seconds=wait,
            )
        case "network":
            return Throttle(
                code="TooManyRequests",
                message=f"Too many {charge.key[1]} of Microsoft.Network for subscription "
                f"{charge.key[2]!r}.",
                retry_after_seconds=wait,
            )
        case _:
            group = charge.shown_as.removeprefix("Microsoft.Compute/")
            limit = {"operationGroup": group, "allowedRequestCount": int(charge.size.capacity)}
            detail = {
                "code": "TooManyRequests",
                "target": group,
                "message": json.dumps(limit),
            }
            return Throttle(
                code="OperationNotAllowed",
                message="The server rejected the request because too many requests have been "
                "received for this subscription.",
                retry_after_seconds=wait,
                details=(detail,),
            )
