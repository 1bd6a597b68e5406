"""One node whose writes are slow, as numbers over time: real plans, a model of everything else.

One ENI with /28s. Pods take the fullest prefix first, wait in line where there is none, and what
they leave cools for 30 s. A write lasts as long as the cloud says, and nothing changes before.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network

from ipamd.arrivals import ArrivalLog
from ipamd.model import IPNetwork
from ipamd.pool import ahead
from ipamd.pool.ahead import INSTANT, Writes
from ipamd.pool.plan import Action, AssignAddresses, EniView, PrefixView, UnassignAddresses, plan
from ipamd.pool.targets import Counts, Targets
from ipamd.pool.view import View
from ipamd.view import QUIET_SECONDS
from tests import views

COOLDOWN_SECONDS = 30.0
TARGETS = Targets(
    warm_enis=1,
    warm_addresses=0,
    minimum_addresses=0,
    warm_prefixes=2,
    use_prefixes=True,
    max_pods=250,
)


@dataclass(slots=True)
class Block:
    """One /28."""

    pods: int = 0
    cooling: list[float] = field(default_factory=list)  # until when
    idle_since: float = 0.0

    @property
    def available(self) -> int:
        return 16 - self.pods - len(self.cooling)


class SlowPool:
    """`looks_ahead`: whether plans know how slow writes are; the writes are as slow either way."""

    def __init__(self, writes: Writes, *, looks_ahead: bool = True) -> None:
        self.writes = writes
        self.known = writes if looks_ahead else INSTANT
        self.blocks: dict[IPNetwork, Block] = {}
        self.now, self.changed_at, self.moved_at = 1000.0, 0.0, 0.0
        self.waiting: list[float] = []
        self.waits: list[float] = []
        self.started: list[Action] = []
        self._arrivals = ArrivalLog()
        self._flight: tuple[Action, float] | None = None
        self._networks = IPv4Network("10.1.0.0/16").subnets(new_prefix=28)
        self._names = iter(range(1_000_000))

    @property
    def available(self) -> int:
        return sum(block.available for block in self.blocks.values())

    @property
    def pods(self) -> int:
        return sum(block.pods for block in self.blocks.values())

    def come(self, pods: int) -> None:
        for _ in range(pods):
            self._arrivals.served(f"p{next(self._names)}", self.now)
            self.waiting.append(self.now)

    def go(self, pods: int) -> None:
        for block in sorted(self.blocks.values(), key=lambda block: block.pods):
            leaving = min(pods, block.pods)
            pods -= leaving
            block.pods -= leaving
            block.cooling += [self.now + COOLDOWN_SECONDS] * leaving
            self.moved_at = self.now

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += step
            self._land()
            for block in self.blocks.values():
                if any(until <= self.now for until in block.cooling):
                    block.cooling = [until for until in block.cooling if until > self.now]
                    block.idle_since = self.now
            self._serve()
            for action in plan(self.view()).actions[: self._flight is None]:
                self.started.append(action)
                self._flight = action, self.now + self.writes.seconds
                if isinstance(action, UnassignAddresses):
                    for prefix in action.prefixes:
                        assert self.blocks[prefix].available == 16
                        del self.blocks[prefix]

    def _land(self) -> None:
        if self._flight is None or self._flight[1] > self.now:
            return
        action, self._flight, self.changed_at = self._flight[0], None, self.now
        if isinstance(action, AssignAddresses):
            for _ in range(action.prefixes):
                self.blocks[next(self._networks)] = Block(idle_since=self.now)

    def _serve(self) -> None:
        for block in sorted(self.blocks.values(), key=lambda block: -block.pods):
            served = min(block.available, len(self.waiting))
            if served:
                self.waits += [self.now - came for came in self.waiting[:served]]
                del self.waiting[:served]
                block.pods += served
                block.idle_since = self.moved_at = self.now

    def view(self) -> View:
        arriving = self._flight[0] if self._flight else None
        incoming = arriving.prefixes if isinstance(arriving, AssignAddresses) else 0
        seen = self._arrivals.seen(self.now, self.known)
        held = sum(len(block.cooling) for block in self.blocks.values())
        return views.view(
            self._eni(incoming),
            targets=replace(
                TARGETS,
                is_exact=self.now - self.moved_at >= QUIET_SECONDS,
                ahead=ahead.expected(seen, self.known),
                reserve=ahead.reserve(seen, self.known),
            ),
            counts=Counts(
                allocated=self.pods,
                available=self.available,
                preparing=0,
                cooling=held,
                incoming=incoming * 16,
                waiting=len(self.waiting),
            ),
            slots_per_eni=255,
            max_enis=1,
            can_create_interfaces=False,
            seconds_since_change=self.now - self.changed_at,
            writes=self.known,
        )

    def _eni(self, incoming: int) -> EniView:
        return views.eni(
            is_busy=self._flight is not None,
            incoming=incoming,
            prefixes=tuple(
                PrefixView(
                    prefix=prefix,
                    allocated=block.pods,
                    available=block.available,
                    held=len(block.cooling),
                    idle_seconds=self.now - block.idle_since,
                )
                for prefix, block in self.blocks.items()
            ),
        )
