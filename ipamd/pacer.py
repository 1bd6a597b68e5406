"""What earlier refusals of the cloud forbid for now: pauses, full subnets, limits of one ENI.

State in, `Pace` out: the planner gets it as values. Throttling pauses everything; any other refusal
only its own kind of call (growing or shrinking), so that a policy that forbids unassigning never
keeps a pod from its address.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from ipamd import backoff
from ipamd.cloud import SubnetFree
from ipamd.errors import CloudError, Denied, LimitReached, SubnetExhausted, Throttled
from ipamd.model import EniId, SubnetId
from ipamd.pool.ledger import Intent, IntentKind
from ipamd.view import Pace

GROWING = (IntentKind.ASSIGN, IntentKind.CREATE)

ROOM_SECONDS = 60.0
"""How long a measured rest of a subnet bounds our requests; it changes with every neighbour."""

CAP_SECONDS = 600.0
"""How long an ENI that met a limit is asked for less. Something else holds its slots, and stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetSeen:
    """A subnet's free count and when it was seen."""

    free: SubnetFree
    seen_boottime: float


@dataclass(slots=True, kw_only=True)
class _Until:
    """Something that holds until a boot time, after so many failures in a row."""

    boottime: float = 0.0
    failures: int = 0
    amount: int = 0


@dataclass(slots=True)
class Pacer:
    """Remembers outcomes. All times are boot times; `chance` in [0, 1) is the jitter."""

    subnets: dict[SubnetId, SubnetSeen] = field(default_factory=dict)
    _throttled: _Until = field(default_factory=_Until)
    _growing: _Until = field(default_factory=_Until)
    _shrinking: _Until = field(default_factory=_Until)
    _exhausted: dict[SubnetId, _Until] = field(default_factory=dict)
    _room: dict[SubnetId, _Until] = field(default_factory=dict)
    _caps: dict[EniId, _Until] = field(default_factory=dict)
    _changed_at: float = 0.0

    def pace(self, now: float) -> Pace:
        """What is forbidden at `now`."""
        return Pace(
            paused_seconds=max(self._throttled.boottime - now, 0.0),
            growth_paused_seconds=max(self._growing.boottime - now, 0.0),
            shrink_paused_seconds=max(self._shrinking.boottime - now, 0.0),
            exhausted_subnets={
                s: u.boottime - now for s, u in self._exhausted.items() if u.boottime > now
            },
            subnet_room={s: u.amount for s, u in self._room.items() if u.boottime > now},
            eni_caps={e: u.amount for e, u in self._caps.items() if u.boottime > now},
            seconds_since_change=now - self._changed_at,
        )

    def exhausted(self, now: float) -> dict[SubnetId, float]:
        """Subnets that refused last, with the seconds until the next try (0: it is under way)."""
        return {s: max(u.boottime - now, 0.0) for s, u in self._exhausted.items()}

    def due_times(self, now: float) -> Iterable[float]:
        """Boot times after `now` at which a plan may differ for what is kept here."""
        ends = [self._throttled, self._growing, self._shrinking]
        ends += [*self._exhausted.values(), *self._room.values(), *self._caps.values()]
        times = [u.boottime for u in ends]
        # The hold time of the pool and the minimum life of an ENI (ipamd.pool.plan).
        times += [self._changed_at + 30.5, self._changed_at + 60.5]
        return [t for t in times if t > now]

    def subnets_seen(self, free: tuple[SubnetFree, ...], now: float) -> None:
        """Remember free counts; a measured rest that has grown bounds nothing any more."""
        for seen in free:
            self.subnets[seen.subnet_id] = SubnetSeen(free=seen, seen_boottime=now)
            held = self._room.get(seen.subnet_id)
            if held is not None and seen.free_addresses > held.amount:
                del self._room[seen.subnet_id]

    def succeeded(self, intent: Intent, now: float) -> None:
        """A call ended well: what held its kind back is over."""
        self._throttled = _Until()
        self._changed_at = now
        if intent.kind in GROWING:
            self._growing = _Until()
            self._exhausted.pop(intent.subnet_id, None)
            self._room.pop(intent.subnet_id, None)
        else:
            self._shrinking = _Until()

    def refused(self, intent: Intent, error: CloudError, now: float, chance: float) -> None:
        """A definite refusal: nothing was done, and asking at once again is of no use."""
        match error:
            case SubnetExhausted():
                self._subnet_refused(intent, now, chance)
            case Throttled():
                self._throttled = _later(self._throttled, backoff.THROTTLED, error, now, chance)
            case LimitReached() if intent.kind is IntentKind.ASSIGN and intent.eni_id is not None:
                self._caps[intent.eni_id] = _Until(
                    boottime=now + CAP_SECONDS, amount=intent.addresses // 2
                )
            case _:
                pacing = backoff.DENIED if isinstance(error, Denied) else backoff.TRANSIENT
                if intent.kind in GROWING:
                    self._growing = _later(self._growing, pacing, error, now, chance)
                else:
                    self._shrinking = _later(self._shrinking, pacing, error, now, chance)

    def _subnet_refused(self, intent: Intent, now: float, chance: float) -> None:
        """EC2 gives all that was asked for or nothing: ask once more for what is there."""
        seen = self.subnets.get(intent.subnet_id)
        own = 1 if intent.kind is IntentKind.CREATE else 0  # a new ENI's own address
        room = seen.free.free_addresses if seen else 0
        if room > own and intent.subnet_id not in self._room:
            self._room[intent.subnet_id] = _Until(boottime=now + ROOM_SECONDS, amount=room)
            return
        self._room.pop(intent.subnet_id, None)
        before = self._exhausted.get(intent.subnet_id, _Until())
        wait = backoff.EXHAUSTED.delay(before.failures + 1, chance)
        self._exhausted[intent.subnet_id] = _Until(
            boottime=now + wait, failures=before.failures + 1
        )


def _later(
    before: _Until, pacing: backoff.Backoff, error: CloudError, now: float, chance: float
) -> _Until:
    failures = before.failures + 1
    wait = max(pacing.delay(failures, chance), error.retry_after_seconds)
    return _Until(boottime=now + wait, failures=failures)
