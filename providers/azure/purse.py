"""The budget of this process: what ARM allows is spent in three layers, each with its own buckets.

ARM's front door counts by subscription, region and caller; Microsoft.Network by subscription and
region; Microsoft.Compute by resource and minute ("Throttling Resource Manager requests" and
"Troubleshooting API throttling errors"). Each call spends a token at the front door and one of its
resource provider. What is counted by subscription is shared by all nodes, and none knows how many
they are: each keeps to a small share, and gives way when ARM throttles or says that little is left
(the arithmetic is `ipamd.budget.Bucket`). What is counted by instance is this node's own.
"""

from __future__ import annotations

import enum
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from ipamd.budget import Allowance, Bucket, budget_spent, full_buckets
from providers.azure.errors import FRONT_DOOR
from providers.azure.headers import remaining_front, remaining_resource


class Share(enum.Enum):
    """One bucket. The values are words for errors."""

    FRONT_READ = "ARM reads"
    FRONT_WRITE = "ARM writes"
    NETWORK_READ = "Microsoft.Network reads"
    NETWORK_WRITE = "Microsoft.Network writes"
    INSTANCE_WRITE = "scale set instance updates"
    INSTANCE_READ = "scale set instance reads"
    VM_READ = "virtual machine reads"
    OPERATION_READ = "compute operation reads"


ALLOWANCES: Mapping[Share, Allowance] = MappingProxyType(
    {
        # A tenth of what ARM refills (25 reads and 10 writes a second), like a tenth of EC2's. The
        # bursts are a start (about 10 calls on a node with two NICs) and a growth beside it.
        Share.FRONT_READ: Allowance(burst=40, per_second=2.5),
        Share.FRONT_WRITE: Allowance(burst=20, per_second=1.0),
        # A tenth of 10,000 reads and 1,000 writes in 5 minutes.
        Share.NETWORK_READ: Allowance(burst=40, per_second=10_000 / 300 / 10),
        Share.NETWORK_WRITE: Allowance(burst=20, per_second=1_000 / 300 / 10),
        # Counted by instance, so all of it is ours: cap and refill per minute as documented. By
        # subscription 500 updates a minute are left, enough for 125 nodes at their full rate.
        Share.INSTANCE_WRITE: Allowance(burst=12, per_second=4 / 60),
        Share.INSTANCE_READ: Allowance(burst=36, per_second=12 / 60),
        Share.VM_READ: Allowance(burst=36, per_second=12 / 60),
        Share.OPERATION_READ: Allowance(burst=45, per_second=15 / 60),
    }
)


class Api(enum.Enum):
    """The calls that are made, by their operation ids in Azure's API specifications."""

    NIC_GET = "NetworkInterfaces_Get"
    NIC_PUT = "NetworkInterfaces_CreateOrUpdate"
    INSTANCE_NICS = "NetworkInterfaces_ListVirtualMachineScaleSetVMNetworkInterfaces"
    INSTANCE_NIC = "NetworkInterfaces_GetVirtualMachineScaleSetNetworkInterface"
    INSTANCE_GET = "VirtualMachineScaleSetVMs_Get"
    INSTANCE_PUT = "VirtualMachineScaleSetVMs_Update"
    VM_GET = "VirtualMachines_Get"
    SUBNET_GET = "Subnets_Get"
    VNET_GET = "VirtualNetworks_Get"
    USAGES = "VirtualNetworks_ListUsage"
    NETWORK_OPERATION = "NetworkOperations_Get"
    COMPUTE_OPERATION = "ComputeOperations_Get"


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """The two buckets that a call spends from."""

    front: Share
    provider: Share


_NETWORK_READ = Price(front=Share.FRONT_READ, provider=Share.NETWORK_READ)

PRICES: Mapping[Api, Price] = MappingProxyType(
    dict.fromkeys(Api, _NETWORK_READ)
    | {
        Api.NIC_PUT: Price(front=Share.FRONT_WRITE, provider=Share.NETWORK_WRITE),
        Api.INSTANCE_PUT: Price(front=Share.FRONT_WRITE, provider=Share.INSTANCE_WRITE),
        Api.INSTANCE_GET: Price(front=Share.FRONT_READ, provider=Share.INSTANCE_READ),
        Api.VM_GET: Price(front=Share.FRONT_READ, provider=Share.VM_READ),
        Api.COMPUTE_OPERATION: Price(front=Share.FRONT_READ, provider=Share.OPERATION_READ),
    }
)

LONGEST_WAIT_SECONDS = 5.0
"""Beyond it the core is told, which then plans anew and asks for all that is wanted by then."""

LEAST_PAUSE_SECONDS = 0.001
"""Less is what rounding leaves of a pause that was slept through."""

LOW: Mapping[Share, int] = MappingProxyType({Share.FRONT_READ: 25, Share.FRONT_WRITE: 20})
"""A tenth of ARM's buckets (250 reads, 200 writes): with so little left for all who share them this
node slows down as if it had been refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """Which bucket rests after a throttle, and how long."""

    share: Share
    seconds: float


class Purse:
    """Safe to call from several threads."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._monotonic = monotonic
        self._sleep = sleep
        self._chance = chance
        self._lock = threading.Lock()
        self._buckets = full_buckets(ALLOWANCES, monotonic())
        self._paused_until = dict.fromkeys(Share, float("-inf"))

    def spend(self, api: Api) -> float:
        """Wait for the call's tokens; returns the seconds waited.

        Raises Throttled (code BudgetSpent), without waiting, when that would take longer than
        LONGEST_WAIT_SECONDS; after the wait, when ARM has throttled another call meanwhile.
        """
        price = PRICES[api]
        with self._lock:
            now = self._monotonic()
            scarcest = max((price.front, price.provider), key=lambda s: self._due(s, now))
            wait = self._due(scarcest, now)
            if wait > 0:
                wait *= 1.0 + self._chance() / 4
            if wait <= LONGEST_WAIT_SECONDS:
                for share in (price.front, price.provider):
                    self._buckets[share] = self._buckets[share].spent(now)
        if wait > LONGEST_WAIT_SECONDS:
            raise budget_spent(api.value, scarcest.value, wait)
        if wait > 0:
            self._sleep(wait)
            self._must_not_pause(api)
        return wait

    def _must_not_pause(self, api: Api) -> None:
        """Another call may have been throttled while this one waited for its turn."""
        price = PRICES[api]
        with self._lock:
            until = {share: self._paused_until[share] for share in (price.front, price.provider)}
            share = max(until, key=lambda share: until[share])
            pause = until[share] - self._monotonic()
        if pause > LEAST_PAUSE_SECONDS:
            raise budget_spent(api.value, share.value, pause)

    def _due(self, share: Share, now: float) -> float:
        pause = self._paused_until[share] - now
        return max(self._buckets[share].wait_seconds(now, 0.0), pause, 0.0)

    def heard(self, api: Api, headers: Mapping[str, str]) -> None:
        """Never count on more than ARM says is left."""
        price = PRICES[api]
        kind = "writes" if price.front is Share.FRONT_WRITE else "reads"
        left = {
            price.front: remaining_front(headers, kind),
            price.provider: min(remaining_resource(headers).values(), default=None),
        }
        with self._lock:
            now = self._monotonic()
            for share, count in left.items():
                if count is not None:
                    self._buckets[share] = self._capped(share, count, now)

    def _capped(self, share: Share, left: int, now: float) -> Bucket:
        bucket = self._buckets[share].at(now)
        if left < LOW.get(share, 0):
            bucket = bucket.throttled(now)
        return replace(bucket, tokens=min(bucket.tokens, float(left)))

    def throttled(self, api: Api, code: str, retry_after_seconds: float) -> Rest:
        """ARM refused a call for its rate: the bucket slows down, and rests as long as ARM says.

        Whose bucket it was, the code tells; where it does not, the resource provider's, whose are
        the smaller ones.
        """
        price = PRICES[api]
        share = price.front if code.lower() in FRONT_DOOR else price.provider
        with self._lock:
            now = self._monotonic()
            self._buckets[share] = self._buckets[share].throttled(now)
            self._paused_until[share] = max(
                self._paused_until[share], now + retry_after_seconds * (1.0 + self._chance() / 4)
            )
            return Rest(share=share, seconds=max(self._paused_until[share] - now, 0.0))

    def per_second(self, share: Share) -> float:
        """The rate of a bucket at present, for the log and for tests."""
        with self._lock:
            return self._buckets[share].at(self._monotonic()).per_second
