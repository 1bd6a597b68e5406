"""The best that an omniscient agent could do: a bound for waits, not a policy.

It starts each node from the same pool at rest that the settings ask for, knows every pod's start
and end, and from the load's start on may call EC2 ahead of need. One scheduler serves the whole
account, so no request is ever throttled and no token lies idle while somebody waits: at each token
the call goes to the node where it serves most of the pods that wait now, and while none waits to
the call that is needed soonest. It asks once for all that a node will ever need and gives nothing
back. What binds it is what binds everyone: request buckets, slots, ENI limits, API latency, attach
times (the same draws), and the cooldown of released addresses.

For pods that all start at once this order is the best for every percentile. Where needs are spread
over time it is a greedy choice; no better one was sought.
"""

from __future__ import annotations

import bisect
import heapq
from collections import Counter, defaultdict
from dataclasses import dataclass
from math import ceil

from providers.sim.buckets import Bucket, request_size
from scripts.bench.fleet_sim import peer_policy
from scripts.bench.fleet_sim.chance import Chance
from scripts.bench.fleet_sim.loads import Load, Pod
from scripts.bench.fleet_sim.meter import Outcome, percentile
from scripts.bench.fleet_sim.peer_policy import COOLDOWN_SECONDS, PeerSettings

CREATE = "CreateNetworkInterface"
ATTACH = "AttachNetworkInterface"
ASSIGN = "AssignPrivateIpAddresses"

ENI_CALLS = (
    CREATE,
    ATTACH,
    "ModifyNetworkInterfaceAttribute",
    "DescribeNetworkInterfaces",
)
"""The fewest calls for an ENI: create with its addresses, attach, protect, see it attached."""


class _Tokens:
    """A request bucket, full at the load's start, that is never asked in vain."""

    def __init__(self, action: str) -> None:
        self._bucket = Bucket.full(request_size(action), 0.0)

    def next_at(self, now: float) -> float:
        """The first moment from `now` on at which a token is there."""
        missing = 1.0 - self._bucket.at(now).tokens
        return now if missing <= 1e-9 else now + missing / self._bucket.size.refill_per_second

    def take(self, now: float) -> None:
        """Spend the token of `now`."""
        left = self._bucket.at(now).spent(1)
        assert left is not None, "asked before there was one"
        self._bucket = left


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One growth of one node: a fill (one call) or an ENI."""

    node: int
    is_eni: bool
    threshold: int  # addresses of the node before it
    addresses: int  # that it brings
    needed_at: float

    def weight(self, demand: _Demand, now: float) -> int:
        """Pods that would be served by it if it were there now."""
        return min(max(demand.at(now) - self.threshold, 0), self.addresses)


class _Demand:
    """How many addresses a node needs over time: its pods, and what cools after them."""

    def __init__(self, pods: list[Pod], seconds: float) -> None:
        changes: Counter[float] = Counter()
        for pod in pods:
            changes[max(pod.starts_at, 0.0)] += 1
            if pod.ends_at < seconds:
                changes[pod.ends_at + COOLDOWN_SECONDS] -= 1
        self._times = sorted(t for t in changes if t <= seconds)
        self._levels: list[int] = []
        level = 0
        for time in self._times:
            level += changes[time]
            self._levels.append(level)

    @property
    def peak(self) -> int:
        return max(self._levels, default=0)

    def at(self, now: float) -> int:
        index = bisect.bisect_right(self._times, now) - 1
        return self._levels[index] if index >= 0 else 0

    def first_above(self, threshold: int) -> float:
        return next(t for t, n in zip(self._times, self._levels, strict=True) if n > threshold)


@dataclass(slots=True, kw_only=True)
class _Held:
    """What the schedule adds to a node: (when, addresses), and what was there before."""

    addresses: int
    first_enis: int
    growth: list[tuple[float, int]]


def run(load: Load, *, seed: int) -> Outcome:
    """The oracle's figures under one load."""
    settings = peer_policy.from_environ(load.setting.environ, load.node_type)
    by_node: dict[int, list[Pod]] = defaultdict(list)
    for pod in load.pods:
        if pod.ends_at > 0:
            by_node[pod.node].append(pod)
    demands = {n: _Demand(pods, load.seconds) for n, pods in by_node.items()}
    rest = {
        n: peer_policy.settled(settings, d.at(0.0) - _arriving(by_node[n]))
        for n, d in demands.items()
    }
    held = {
        n: _Held(addresses=pool.total, first_enis=len(pool.enis), growth=[])
        for n, pool in rest.items()
    }
    steps = [s for n, d in demands.items() for s in _steps(n, settings, rest[n], d)]
    chance = Chance(f"{seed}")
    chance.begin()
    calls, idle_seconds = _schedule(load, steps, demands, held, chance)
    waits, missed, used_seconds = _serve(load, by_node, held)
    for node in held.values():
        base = node.addresses + node.first_enis - 1
        idle_seconds += base * load.seconds
    ordered = sorted(waits + missed)
    return Outcome(
        wait_p50_s=percentile(ordered, 0.5),
        wait_p99_s=percentile(ordered, 0.99),
        wait_max_s=percentile(ordered, 1.0),
        pods=len(ordered),
        pods_never_served=len(missed),
        calls=calls.total(),
        calls_by_api=dict(sorted(calls.items())),
        throttled=0,
        idle_address_hours=(idle_seconds - used_seconds) / 3600,
    )


def _arriving(pods: list[Pod]) -> int:
    return sum(p.starts_at == 0.0 for p in pods)


def _steps(
    node: int, settings: PeerSettings, rest: peer_policy.Snapshot, demand: _Demand
) -> list[_Step]:
    """What the node's peak needs beyond its pool at rest: fills first, then ENIs."""
    steps: list[_Step] = []
    total, missing = rest.total, ceil((demand.peak - rest.total) / settings.unit)
    rooms = [(settings.slots - e.items, False) for e in rest.enis]
    rooms += [(settings.slots, True)] * (settings.max_enis - len(rest.enis))
    for room, is_eni in rooms:
        items = min(room, missing)
        if items <= 0:
            continue
        steps.append(
            _Step(
                node=node,
                is_eni=is_eni,
                threshold=total,
                addresses=items * settings.unit,
                needed_at=demand.first_above(total),
            )
        )
        total, missing = total + items * settings.unit, missing - items
    return steps


def _schedule(
    load: Load,
    steps: list[_Step],
    demands: dict[int, _Demand],
    held: dict[int, _Held],
    chance: Chance,
) -> tuple[Counter[str], float]:
    """Grant every step its tokens; returns the calls and the address-seconds that steps hold."""
    calls: Counter[str] = Counter()
    held_seconds = 0.0
    for is_eni in (False, True):
        queue = _Queue([s for s in steps if s.is_eni is is_eni], demands)
        tokens, now = _Tokens(ATTACH if is_eni else ASSIGN), 0.0
        while queue and (now := tokens.next_at(now)) <= load.seconds:
            step = queue.pop(now)
            tokens.take(now)
            calls.update(ENI_CALLS if is_eni else [ASSIGN])
            ready = now + _seconds(step, chance)
            held[step.node].growth.append((ready, step.addresses))
            held_seconds += (load.seconds - now) * (step.addresses + is_eni)
    return calls, held_seconds


def _seconds(step: _Step, chance: Chance) -> float:
    """How long the step takes from its token on, by the draws that the other sides meet."""
    instance_id = f"i-{step.node:017x}"
    if not step.is_eni:
        return chance.latency(ASSIGN, instance_id)
    calls = sum(chance.latency(action, instance_id) for action in (CREATE, ATTACH))
    return calls + chance.attach_seconds(instance_id)


class _Queue:
    """Steps in the order in which they should get their tokens."""

    FRESH_SECONDS = 5.0
    """How old the order may be: demand moves, and sorting for each token takes minutes."""

    def __init__(self, steps: list[_Step], demands: dict[int, _Demand]) -> None:
        self._steps, self._demands = steps, demands
        self._sorted_at = float("-inf")

    def __len__(self) -> int:
        return len(self._steps)

    def pop(self, now: float) -> _Step:
        """Most waiting pods first, then what is needed soonest."""
        if now - self._sorted_at >= self.FRESH_SECONDS:
            self._steps.sort(
                key=lambda s: (s.weight(self._demands[s.node], now), -s.needed_at, -s.node)
            )
            self._sorted_at = now
        return self._steps.pop()


def _serve(
    load: Load, by_node: dict[int, list[Pod]], held: dict[int, _Held]
) -> tuple[list[float], list[float], float]:
    """Waits of the pods that start in the load, of those never served, and address-seconds used."""
    waits: list[float] = []
    missed: list[float] = []
    used = 0.0
    for node, pods in by_node.items():
        free = [(float("-inf"), n) for n in range(held[node].addresses)]
        free += [(at, n) for at, count in held[node].growth for n in range(count)]
        heapq.heapify(free)
        for pod in pods:
            end = min(pod.ends_at, load.seconds)
            ready = free[0][0] if free else float("inf")
            served = max(pod.starts_at, ready)
            if served >= end:
                missed.append(end - pod.starts_at)
                continue
            heapq.heapreplace(free, (end + COOLDOWN_SECONDS, 0))
            used += end - max(served, 0.0)
            if pod.starts_at >= 0:
                waits.append(served - pod.starts_at)
    return waits, missed, used
