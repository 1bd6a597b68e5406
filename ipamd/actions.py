"""Cloud calls in flight: each has an intent in the store before it starts and an outcome after.

The reconciler decides what to do; this module does it, and turns the outcome (done, throttled,
subnet full, lost answer) into ledger changes and into a pace for the next plan.
"""

from __future__ import annotations

import asyncio
import random
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import assert_never

import structlog

from ipamd import backoff, clock
from ipamd.cloud import AddressChange, CloudEni, InterfaceRequest, SubnetFree
from ipamd.cloud_child import Cloud
from ipamd.errors import (
    CloudError,
    Denied,
    LimitReached,
    NotFound,
    StoreError,
    SubnetExhausted,
    Throttled,
    Transient,
)
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.model import Address, AddressState, Eni, EniId, IPAddress, SubnetId
from ipamd.node import NodeFacts
from ipamd.pool import observe
from ipamd.pool.ledger import Change, Intent, IntentKind
from ipamd.pool.plan import Action, AssignAddresses, CreateEni, DeleteEni, UnassignAddresses
from ipamd.view import Pace

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True)
class Record:
    """One action of the last plans, for `ipamctl status`."""

    verb: str
    subject: str
    reason: str
    state: str = "running"
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetSeen:
    """A subnet's free count and when it was seen."""

    free: SubnetFree
    seen_boottime: float


class Actions:
    """Runs actions in the reconciler's task group and remembers what their outcomes forbid."""

    group: asyncio.TaskGroup

    def __init__(
        self,
        keeper: Keeper,
        cloud: Cloud,
        metrics: Metrics,
        *,
        wake: Callable[[], None],
        look_again: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._cloud = cloud
        self._metrics = metrics
        self._wake = wake
        self._look_again = look_again
        self._failures = 0
        self._paused_until = 0.0
        self._exhausted: dict[SubnetId, tuple[float, int]] = {}  # -> (until, failures in a row)
        self._room: dict[SubnetId, int] = {}
        self._changed_at = 0.0
        self.subnets: dict[SubnetId, SubnetSeen] = {}
        self.last_error = ""
        self.records: list[Record] = []

    def pace(self, now: float) -> Pace:
        """What earlier outcomes forbid at `now`."""
        return Pace(
            paused_seconds=max(self._paused_until - now, 0.0),
            exhausted_subnets={
                subnet: until - now for subnet, (until, _) in self._exhausted.items() if until > now
            },
            seconds_since_change=now - self._changed_at,
            subnet_room=dict(self._room),
        )

    def exhausted(self, now: float) -> dict[SubnetId, float]:
        """Subnets that refused last, with the seconds until the next try (0: it is under way)."""
        return {subnet: max(until - now, 0.0) for subnet, (until, _) in self._exhausted.items()}

    def due_times(self, now: float) -> Iterable[float]:
        """Boot times after `now` at which a pause ends and a plan may differ."""
        times = [self._paused_until, self._changed_at + 30.5, self._changed_at + 60.5]
        times += [until for until, _ in self._exhausted.values()]
        return [t for t in times if t > now]

    def subnets_seen(self, free: tuple[SubnetFree, ...], now: float) -> None:
        """Remember free counts; a subnet with room again is not exhausted."""
        for seen in free:
            self.subnets[seen.subnet_id] = SubnetSeen(free=seen, seen_boottime=now)

    def start(self, action: Action, facts: NodeFacts) -> None:
        """Record the intent, then make the call beside the loop. Raises StoreError."""
        intent = _intent(action, clock.boottime())
        change = Change(put_intents=(intent,))
        if isinstance(action, UnassignAddresses | DeleteEni):
            change = replace(change, put_addresses=self._leaving(action))
        self._keeper.commit(change)
        self._launch(intent, facts)

    def resume(self, facts: NodeFacts) -> None:
        """Take up what an earlier process left: repeat creations and deletions (both idempotent by
        token or id), and leave assigns to the next look, which shows what they did."""
        for intent in tuple(self._keeper.ledger.intents.values()):
            if intent.kind in (IntentKind.CREATE, IntentKind.DELETE):
                self._launch(intent, facts)
            else:
                self._keeper.commit(Change(put_intents=(replace(intent, is_open=False),)))

    def _launch(self, intent: Intent, facts: NodeFacts) -> None:
        record = Record(
            verb=intent.kind.value,
            subject=intent.eni_id or f"device index {intent.device_index}",
            reason=intent.reason,
        )
        self.records = [*self.records[-15:], record]
        self.group.create_task(
            self._run(intent, facts, record), name=f"{intent.kind.value}-{intent.token}"
        )

    def _leaving(self, action: UnassignAddresses | DeleteEni) -> tuple[Address, ...]:
        ledger = self._keeper.ledger
        if isinstance(action, UnassignAddresses):
            leaving = [ledger.addresses[a] for a in action.addresses if a in ledger.addresses]
        else:
            leaving = list(ledger.on_eni(action.eni_id))
        return tuple(
            replace(a, state=AddressState.UNASSIGNING, since_boottime=clock.boottime())
            for a in leaving
        )

    async def _run(self, intent: Intent, facts: NodeFacts, record: Record) -> None:
        """One action to its end. Creations and deletions are repeated until they are settled."""
        failures = 0
        while True:
            try:
                change = await self._perform(intent, facts)
            except Transient as e:
                failures += 1
                self._failed(intent, record, e)
                if intent.kind in (IntentKind.ASSIGN, IntentKind.UNASSIGN):
                    self._commit(Change(put_intents=(replace(intent, is_open=False),)))
                    self._look_again()
                    return
                await asyncio.sleep(backoff.TRANSIENT.delay(failures, _chance()))
                record.state = "running"
            except CloudError as e:
                self._failed(intent, record, e)
                if isinstance(e, SubnetExhausted):
                    await self._measure(intent.subnet_id)
                self._react(intent, e)
                self._commit(Change(drop_intents=(intent.token,)))
                self._wake()
                return
            else:
                self._commit(change)
                self._succeeded(intent, record)
                return

    async def _perform(self, intent: Intent, facts: NodeFacts) -> Change:
        match intent.kind:
            case IntentKind.ASSIGN:
                return await self._assign(intent)
            case IntentKind.UNASSIGN:
                return await self._unassign(intent)
            case IntentKind.CREATE:
                return await self._create(intent, facts)
            case IntentKind.DELETE:
                return await self._delete(intent)
            case _ as unreachable:
                assert_never(unreachable)

    async def _measure(self, subnet_id: SubnetId) -> None:
        """How much room a subnet that refused has: EC2 gives all that was asked for or nothing."""
        try:
            self.subnets_seen(await self._cloud.subnet_free((subnet_id,)), clock.boottime())
        except CloudError as e:
            log.warning("subnet_unmeasured", subnet=subnet_id, error=str(e))

    async def _assign(self, intent: Intent) -> Change:
        eni_id = _eni_of(intent)
        outcome = await self._cloud.apply(AddressChange(eni_id=eni_id, add=intent.addresses))
        return observe.assigned(
            self._keeper.ledger, intent, eni_id, outcome.added, now=clock.boottime()
        )

    async def _unassign(self, intent: Intent) -> Change:
        eni_id = _eni_of(intent)
        leaving = self._unassigning(eni_id)
        await self._cloud.apply(AddressChange(eni_id=eni_id, remove=leaving))
        return Change(drop_addresses=leaving, drop_intents=(intent.token,))

    async def _create(self, intent: Intent, facts: NodeFacts) -> Change:
        eni = await self._cloud.create_interface(
            InterfaceRequest(
                token=intent.token,
                subnet_id=intent.subnet_id,
                security_group_ids=facts.identity.security_group_ids,
                secondary_addresses=intent.addresses,
                device_index=intent.device_index,
                network_card=intent.network_card,
                reason=intent.reason,
            )
        )
        now = clock.boottime()
        change = observe.assigned(self._keeper.ledger, intent, eni.eni_id, eni.addresses, now=now)
        return replace(change, put_enis=(_attached(eni, now),))

    async def _delete(self, intent: Intent) -> Change:
        eni_id = _eni_of(intent)
        await self._cloud.delete_interface(eni_id)
        return Change(
            drop_addresses=self._unassigning(eni_id),
            drop_enis=(eni_id,),
            drop_intents=(intent.token,),
        )

    def _unassigning(self, eni_id: EniId) -> tuple[IPAddress, ...]:
        return tuple(
            a.address
            for a in self._keeper.ledger.on_eni(eni_id)
            if a.state is AddressState.UNASSIGNING
        )

    def _commit(self, change: Change) -> None:
        try:
            self._keeper.commit(change)
        except StoreError as e:
            # The intent stays in the store as it was: the next look or the next start settles it.
            log.error("store_failed", error=str(e))
            self._look_again()

    def _succeeded(self, intent: Intent, record: Record) -> None:
        record.state = "done"
        self._failures, self.last_error = 0, ""
        self._changed_at = clock.boottime()
        if intent.kind in (IntentKind.ASSIGN, IntentKind.CREATE):
            self._exhausted.pop(intent.subnet_id, None)
            self._room.pop(intent.subnet_id, None)
        self._metrics.cloud_done(intent.kind.value)
        log.info(
            "cloud_action_done",
            action=intent.kind.value,
            eni=intent.eni_id,
            addresses=intent.addresses,
            reason=intent.reason,
        )
        self._wake()

    def _failed(self, intent: Intent, record: Record, error: CloudError) -> None:
        record.state, record.error = "failed", str(error)
        if str(error) != self.last_error:
            log.warning(
                "cloud_action_failed",
                action=intent.kind.value,
                eni=intent.eni_id,
                error=str(error),
            )
        self.last_error = str(error)
        self._metrics.cloud_error(error.operation or intent.kind.value, error.code)

    def _react(self, intent: Intent, error: CloudError) -> None:
        """How the pace changes after a definite refusal."""
        now = clock.boottime()
        match error:
            case SubnetExhausted():
                _, failures = self._exhausted.get(intent.subnet_id, (0.0, 0))
                seen = self.subnets.get(intent.subnet_id)
                room = seen.free.free_addresses if seen else 0
                if room > 0 and intent.subnet_id not in self._room:
                    self._room[intent.subnet_id] = room  # ask once more, for what is there
                    return
                self._room.pop(intent.subnet_id, None)
                wait = backoff.EXHAUSTED.delay(failures + 1, _chance())
                self._exhausted[intent.subnet_id] = (now + wait, failures + 1)
            case Throttled():
                self._pause(now, backoff.THROTTLED, error)
            case Denied():
                self._pause(now, backoff.DENIED, error)
            case LimitReached() | NotFound():
                self._pause(now, backoff.TRANSIENT, error)
                self._look_again()  # our view is stale
            case _:
                self._pause(now, backoff.TRANSIENT, error)

    def _pause(self, now: float, pacing: backoff.Backoff, error: CloudError) -> None:
        self._failures += 1
        wait = max(pacing.delay(self._failures, _chance()), error.retry_after_seconds)
        self._paused_until = now + wait


def _chance() -> float:
    return random.random()  # noqa: S311 - jitter, not a secret


def _eni_of(intent: Intent) -> EniId:
    assert intent.eni_id is not None
    return intent.eni_id


def _attached(eni: CloudEni, now: float) -> Eni:
    return Eni(
        eni_id=eni.eni_id,
        mac=eni.mac,
        subnet_id=eni.subnet_id,
        subnet_cidr=eni.subnet_cidr,
        primary_address=eni.primary_address,
        device_index=eni.device_index,
        network_card=eni.network_card,
        is_primary=eni.is_primary,
        is_managed=eni.is_managed,
        is_ready=False,
        attached_boottime=now,
    )


def _intent(action: Action, now: float) -> Intent:
    # The token starts with the wall time, from which a repeated create makes the same creation tag.
    token = f"{int(clock.unix()):x}-{uuid.uuid4().hex[:20]}"
    blank = Intent(
        token=token,
        kind=IntentKind.ASSIGN,
        eni_id=None,
        subnet_id=SubnetId(""),
        addresses=0,
        device_index=-1,
        network_card=0,
        began_boottime=now,
        reason=action.reason,
    )
    match action:
        case AssignAddresses(eni_id=eni_id, subnet_id=subnet_id, addresses=addresses):
            return replace(blank, eni_id=eni_id, subnet_id=subnet_id, addresses=addresses)
        case CreateEni():
            return replace(
                blank,
                kind=IntentKind.CREATE,
                subnet_id=action.subnet_id,
                addresses=action.addresses,
                device_index=action.device_index,
                network_card=action.network_card,
            )
        case UnassignAddresses(eni_id=eni_id):
            return replace(blank, kind=IntentKind.UNASSIGN, eni_id=eni_id)
        case DeleteEni(eni_id=eni_id):
            return replace(blank, kind=IntentKind.DELETE, eni_id=eni_id)
        case _ as unreachable:
            assert_never(unreachable)
