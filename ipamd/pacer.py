"""What earlier refusals of the cloud forbid for now: pauses, full subnets, limits of one ENI.

State in, `Pace` out: the planner gets it as values. Throttling pauses everything; any other refusal
only its own kind of call (growing, making ENIs, shrinking), so that a policy that forbids
unassigning never keeps a pod from its address. A subnet can refuse prefixes alone, or run low
without refusing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from ipamd import backoff
from ipamd.cloud import Subnet
from ipamd.errors import (
    Busy,
    CloudError,
    Denied,
    LimitReached,
    NoPrefixFree,
    SubnetExhausted,
    Throttled,
)
from ipamd.model import EniId, SubnetId
from ipamd.pool.ledger import Intent, IntentKind
from ipamd.sizing import PREFIX_ADDRESSES
from ipamd.view import Pace

GROWING = (IntentKind.ASSIGN, IntentKind.CREATE)

ROOM_SECONDS = 60.0
"""How long a measured rest of a subnet bounds our requests; it changes with every neighbour."""

SCARCE_SHARE, SCARCE_LEAST = 50, 8
"""A subnet with less than a 50th of its addresses free is scarce, or with less than 8 (a quarter,
if that is less): 8 of a /24, 81 of a /20, 4 of a /28. One node with default targets on a large
type takes more than that at once. It is scarce no more once twice as many are free; nothing is
bought ahead below that, or what one node gives back would end the scarcity and be bought again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetSeen:
    """A subnet's free count and when it was seen. `free` is less what we took since."""

    free: Subnet
    seen_boottime: float
    is_scarce: bool = False


@dataclass(slots=True, kw_only=True)
class _Until:
    """Something that holds until a boot time, after so many failures in a row."""

    boottime: float = 0.0
    failures: int = 0
    amount: int = 0


@dataclass(slots=True)
class Pacer:
    """Remembers outcomes. All times are boot times; `chance` in [0, 1) is the jitter.

    `counts_are_hints`: a subnet may refuse although its free count says enough, and give less
    (Azure counts late, and mostly cannot say how large a block is free; EC2's counts are exact).
    """

    counts_are_hints: bool = False
    write_interval_seconds: float = 0.0  # no subnet is tried again sooner
    subnets: dict[SubnetId, SubnetSeen] = field(default_factory=dict)
    _throttled: _Until = field(default_factory=_Until)
    _throttled_awaited: _Until = field(default_factory=_Until)  # the shorter one, for demand
    _growing: _Until = field(default_factory=_Until)
    _unanswered: _Until = field(default_factory=_Until)  # changes of addresses, of either kind
    _creating: _Until = field(default_factory=_Until)
    _shrinking: _Until = field(default_factory=_Until)
    _exhausted: dict[SubnetId, _Until] = field(default_factory=dict)
    _resting: dict[SubnetId, _Until] = field(default_factory=dict)  # longer, while nobody waits
    _prefixless: dict[SubnetId, _Until] = field(default_factory=dict)
    _room: dict[SubnetId, _Until] = field(default_factory=dict)
    _caps: dict[EniId, _Until] = field(default_factory=dict)
    _busy: dict[EniId, _Until] = field(default_factory=dict)
    _doubted: dict[SubnetId, float] = field(default_factory=dict)  # -> until when
    _remeasure: dict[SubnetId, _Until] = field(default_factory=dict)
    _changed_at: float = 0.0

    def pace(self, now: float) -> Pace:
        """What is forbidden at `now`."""
        return Pace(
            paused_seconds=max(self._throttled.boottime - now, 0.0),
            awaited_paused_seconds=max(self._throttled_awaited.boottime - now, 0.0),
            growth_paused_seconds=max(
                self._growing.boottime - now, self._unanswered.boottime - now, 0.0
            ),
            creation_paused_seconds=max(self._creating.boottime - now, 0.0),
            shrink_paused_seconds=max(
                self._shrinking.boottime - now, self._unanswered.boottime - now, 0.0
            ),
            exhausted_subnets=_running(self._exhausted, now),
            resting_subnets=_running(self._resting, now),
            prefixless_subnets=self._too_small(now) | _running(self._prefixless, now),
            scarce_subnets=frozenset(s for s, seen in self.subnets.items() if seen.is_scarce)
            | frozenset(self._exhausted),
            subnet_spare={
                s: max(seen.free.free_addresses - 2 * _scarce_below(seen.free), 0)
                for s, seen in self.subnets.items()
                if seen.free.free_addresses >= 0
            },
            subnet_room=self._counted()
            | {s: u.amount for s, u in self._room.items() if u.boottime > now},
            eni_caps={e: u.amount for e, u in self._caps.items() if u.boottime > now},
            doubted_subnets=frozenset(s for s, until in self._doubted.items() if until > now),
            resting_enis=frozenset(e for e, u in self._busy.items() if u.boottime > now),
            seconds_since_change=now - self._changed_at,
        )

    def _counted(self) -> dict[SubnetId, int]:
        """Free counts that bound requests: where a refusal takes as long as a change, more than is
        counted is asked for only of a subnet that counts as empty. Else it costs nothing to try."""
        if not self.counts_are_hints:
            return {}
        counts = {s: seen.free.free_addresses for s, seen in self.subnets.items()}
        return {s: free for s, free in counts.items() if free > 0}

    def _too_small(self, now: float) -> dict[SubnetId, float]:
        """For the same reason, subnets that cannot have a /28, until they are counted again."""
        if not self.counts_are_hints:
            return {}
        return {
            s: max(self._remeasure.get(s, _Until()).boottime - now, 0.0)
            for s, seen in self.subnets.items()
            if 0 <= seen.free.free_addresses < PREFIX_ADDRESSES
        }

    def exhausted(self, now: float) -> dict[SubnetId, float]:
        """Subnets that refused last, with the seconds until the next try (0: it is under way)."""
        return {s: max(u.boottime - now, 0.0) for s, u in self._exhausted.items()}

    def prefixless(self, now: float) -> dict[SubnetId, float]:
        """Subnets without a free /28 at the last try, with the seconds until the next one."""
        return {s: max(u.boottime - now, 0.0) for s, u in self._prefixless.items()}

    def growth_pause(self, now: float) -> float:
        """Seconds until growth that pods wait for is tried again, but for reasons of one subnet."""
        ends = (self._throttled_awaited, self._growing, self._unanswered)
        return max(0.0, *(end.boottime - now for end in ends))

    def excluded_subnets(self) -> frozenset[SubnetId]:
        """Subnets whose tag keeps pods out."""
        return frozenset(s for s, seen in self.subnets.items() if seen.free.is_excluded)

    def due_times(self, now: float) -> Iterable[float]:
        """Boot times after `now` at which a plan may differ for what is kept here."""
        ends = [
            self._throttled,
            self._throttled_awaited,
            self._growing,
            self._unanswered,
            self._creating,
            self._shrinking,
        ]
        ends += [*self._exhausted.values(), *self._prefixless.values(), *self._room.values()]
        ends += [*self._caps.values(), *self._busy.values(), *self._remeasure.values()]
        ends += self._resting.values()
        times = [u.boottime for u in ends]
        # The hold times of the pool and of prefixes, and the minimum life of an ENI
        # (ipamd.pool.shrink).
        times += [self._changed_at + after for after in (30.5, 60.5, 120.5)]
        return [t for t in times if t > now]

    def subnets_seen(
        self, subnets: tuple[Subnet, ...], now: float, chance: float, *, is_refusal: bool = False
    ) -> None:
        """Remember free counts; a measured rest that has grown bounds nothing any more, and a
        subnet that had too little and has more is full no more. `is_refusal`: it refuses now."""
        for seen in subnets:
            before = self.subnets.get(seen.subnet_id)
            is_scarce = _is_scarce(seen, before.is_scarce if before else False)
            self.subnets[seen.subnet_id] = SubnetSeen(
                free=seen, seen_boottime=now, is_scarce=is_scarce
            )
            held = self._room.get(seen.subnet_id)
            is_more = held is not None and seen.free_addresses > held.amount
            if is_more and not self.counts_are_hints:
                del self._room[seen.subnet_id]
            full = self._exhausted.get(seen.subnet_id)
            has_more = full is not None and seen.free_addresses > full.amount and not is_scarce
            if full is not None and full.boottime <= now and has_more and not is_refusal:
                del self._exhausted[seen.subnet_id]
                self._resting.pop(seen.subnet_id, None)
            is_small = self.counts_are_hints and 0 <= seen.free_addresses < PREFIX_ADDRESSES
            if is_scarce or is_small or seen.subnet_id in self._exhausted:
                self._plan_remeasure(seen.subnet_id, now, chance)
            else:
                self._remeasure.pop(seen.subnet_id, None)

    def _plan_remeasure(self, subnet_id: SubnetId, now: float, chance: float) -> None:
        """A subnet that is scarce or refused is asked about again, less often while it stays so:
        its free count changes with every neighbour, and every node of it asks."""
        failures = self._remeasure.get(subnet_id, _Until()).failures + 1
        wait = backoff.REMEASURE.delay(failures, chance)
        self._remeasure[subnet_id] = _Until(boottime=now + wait, failures=failures)

    def to_measure(self, now: float) -> tuple[SubnetId, ...]:
        """Scarce subnets whose free count should be looked at now."""
        return tuple(sorted(s for s, u in self._remeasure.items() if u.boottime <= now))

    def measuring(self, subnet_ids: tuple[SubnetId, ...], now: float, chance: float) -> None:
        """They are being asked about; an answer may fail to come."""
        for subnet_id in subnet_ids:
            last = self._remeasure.get(subnet_id, _Until())
            wait = backoff.REMEASURE.delay(last.failures + 1, chance)
            self._remeasure[subnet_id] = replace(last, boottime=now + wait)

    def succeeded(self, intent: Intent, now: float) -> None:
        """A call ended well: what held its kind back is over."""
        self._throttled = self._throttled_awaited = self._unanswered = _Until()
        self._changed_at = now
        if intent.eni_id is not None:
            self._busy.pop(intent.eni_id, None)
        if intent.kind not in GROWING:
            self._shrinking = _Until()
            return
        self._growing = _Until()
        if intent.kind is IntentKind.CREATE:
            self._creating = _Until()
        self._exhausted.pop(intent.subnet_id, None)
        self._resting.pop(intent.subnet_id, None)
        self._room.pop(intent.subnet_id, None)
        if intent.eni_id is not None and intent.eni_id in self._caps:
            self._caps[intent.eni_id].failures = 0
        if intent.prefixes:
            self._prefixless.pop(intent.subnet_id, None)
        self._took(intent)

    def _took(self, intent: Intent) -> None:
        """What our own growth leaves of a subnet's free count, until it is seen again."""
        seen = self.subnets.get(intent.subnet_id)
        if seen is None or seen.free.free_addresses < 0:
            return
        taken = intent.addresses + intent.prefixes * PREFIX_ADDRESSES + _own(intent)
        less = replace(seen.free, free_addresses=max(seen.free.free_addresses - taken, 0))
        is_scarce = _is_scarce(less, seen.is_scarce)
        self.subnets[intent.subnet_id] = replace(seen, free=less, is_scarce=is_scarce)
        is_small = self.counts_are_hints and less.free_addresses < PREFIX_ADDRESSES
        if (is_scarce and not seen.is_scarce) or (
            is_small and intent.subnet_id not in self._remeasure
        ):
            self._remeasure[intent.subnet_id] = _Until()  # at once: it is an estimate

    def unanswered(self, now: float, chance: float) -> None:
        """A change of addresses got no answer. One such is nothing, and a look tells what it did;
        but each further one costs a call that may change nothing."""
        failures = self._unanswered.failures
        wait = backoff.TRANSIENT.delay(failures, chance) if failures else 0.0
        self._unanswered = _Until(boottime=now + wait, failures=failures + 1)

    def refused(self, intent: Intent, error: CloudError, now: float, chance: float) -> None:
        """A definite refusal: nothing was done, and asking at once again is of no use."""
        match error:
            case NoPrefixFree():
                self._prefix_refused(intent, now, chance)
            case SubnetExhausted():
                self._subnet_refused(intent, now, chance)
            case Throttled():
                self._throttled = _later(self._throttled, backoff.THROTTLED, error, now, chance)
                self._throttled_awaited = _later(
                    self._throttled_awaited, backoff.THROTTLED_AWAITED, error, now, chance
                )
            case Busy() if intent.eni_id is not None:
                before = self._busy.get(intent.eni_id, _Until())
                self._busy[intent.eni_id] = _later(before, backoff.BUSY, error, now, chance)
            case LimitReached() if intent.kind is IntentKind.ASSIGN and intent.eni_id is not None:
                asked = intent.addresses + intent.prefixes + intent.prefixes_v6
                before = self._caps.get(intent.eni_id, _Until())
                wait = backoff.CAPPED.delay(before.failures + 1, chance)
                self._caps[intent.eni_id] = _Until(
                    boottime=now + wait, failures=before.failures + 1, amount=asked // 2
                )
            case LimitReached() if intent.kind is IntentKind.CREATE:
                self._creating = _later(self._creating, backoff.NO_ENI, error, now, chance)
            case _ if intent.kind not in GROWING:
                self._shrinking = _later(self._shrinking, backoff.NO_SHRINKING, error, now, chance)
            case _:
                pacing = backoff.DENIED if isinstance(error, Denied) else backoff.REFUSED
                if intent.kind is IntentKind.CREATE:  # ENIs that have room go on growing
                    self._creating = _later(self._creating, pacing, error, now, chance)
                else:
                    self._growing = _later(self._growing, pacing, error, now, chance)

    def _subnet_refused(self, intent: Intent, now: float, chance: float) -> None:
        """EC2 gives all that was asked for or nothing: ask once more for what is there."""
        seen = self.subnets.get(intent.subnet_id)
        room = seen.free.free_addresses if seen else 0
        if self.counts_are_hints:
            return self._ask_for_less(intent, room if seen else -1, now, chance)
        if intent.prefixes and room > _own(intent):
            return self._prefix_refused(intent, now, chance)  # single ones are still to be had
        if room > _own(intent) and intent.subnet_id not in self._room:
            self._room[intent.subnet_id] = _Until(boottime=now + ROOM_SECONDS, amount=room)
            return None
        return self._exhaust(intent.subnet_id, room, now, chance)

    def _exhaust(self, subnet_id: SubnetId, room: int, now: float, chance: float) -> None:
        self._room.pop(subnet_id, None)
        _refuse(self._exhausted, subnet_id, backoff.EXHAUSTED, now, chance, amount=room)
        full = self._exhausted[subnet_id]
        full.boottime = max(full.boottime, now + self.write_interval_seconds)
        if self.counts_are_hints:  # a try is a write like any other, from the whole fleet's budget
            _refuse(self._resting, subnet_id, backoff.REMEASURE, now, chance)
        if subnet_id not in self._remeasure:
            self._plan_remeasure(subnet_id, now, chance)

    def _ask_for_less(self, intent: Intent, room: int, now: float, chance: float) -> None:
        """What the count names where that is less, else half; after one of the smallest kind, it
        has none. `room` is the free count, -1 where there is none."""
        if not intent.prefixes:  # blocks that cannot be had say nothing of single addresses
            self._doubted[intent.subnet_id] = now + ROOM_SECONDS
        unit = PREFIX_ADDRESSES if intent.prefixes else 1
        asked = intent.prefixes or intent.addresses
        less = asked // 2
        if 0 <= room < asked * unit + _own(intent):
            less = max(room - _own(intent), 0) // unit
        if less > 0:
            amount = less * unit + _own(intent)
            self._room[intent.subnet_id] = _Until(boottime=now + ROOM_SECONDS, amount=amount)
        elif intent.prefixes and room != 0:
            self._room.pop(intent.subnet_id, None)  # single ones may still be had
            _refuse(self._prefixless, intent.subnet_id, backoff.PREFIXLESS, now, chance)
        else:
            self._exhaust(intent.subnet_id, max(room, 0), now, chance)

    def _prefix_refused(self, intent: Intent, now: float, chance: float) -> None:
        """No count tells how many blocks are free: after several, one is asked for."""
        if self.counts_are_hints:
            return self._ask_for_less(intent, -1, now, chance)
        one = PREFIX_ADDRESSES + _own(intent)
        if intent.prefixes > 1 and intent.subnet_id not in self._room:
            self._room[intent.subnet_id] = _Until(boottime=now + ROOM_SECONDS, amount=one)
            return None
        self._room.pop(intent.subnet_id, None)
        _refuse(self._prefixless, intent.subnet_id, backoff.PREFIXLESS, now, chance)
        return None


def _own(intent: Intent) -> int:
    """A new ENI's own address comes out of the same subnet."""
    return 1 if intent.kind is IntentKind.CREATE else 0


def _scarce_below(subnet: Subnet) -> int:
    size = subnet.cidr.num_addresses
    return max(size // SCARCE_SHARE, min(SCARCE_LEAST, size // 4))


def _is_scarce(subnet: Subnet, before: bool) -> bool:
    if subnet.free_addresses < 0:
        return False  # nobody knows; a refusal will tell
    least = _scarce_below(subnet)
    return subnet.free_addresses < (2 * least if before else least)


def _running(ends: dict[SubnetId, _Until], now: float) -> dict[SubnetId, float]:
    return {s: u.boottime - now for s, u in ends.items() if u.boottime > now}


def _refuse(
    ends: dict[SubnetId, _Until],
    subnet_id: SubnetId,
    pacing: backoff.Backoff,
    now: float,
    chance: float,
    *,
    amount: int = 0,
) -> None:
    failures = ends.get(subnet_id, _Until()).failures + 1
    until = now + pacing.delay(failures, chance)
    ends[subnet_id] = _Until(boottime=until, failures=failures, amount=amount)


def _later(
    before: _Until, pacing: backoff.Backoff, error: CloudError, now: float, chance: float
) -> _Until:
    failures = before.failures + 1
    wait = max(pacing.delay(failures, chance), error.retry_after_seconds)
    return _Until(boottime=now + wait, failures=failures)
