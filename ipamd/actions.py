"""Cloud calls in flight: each has an intent in the store before it starts and an outcome after.

The reconciler decides what to do; this module does it, and turns the outcome (done, throttled,
subnet full, lost answer) into ledger changes and into a pace for the next plan.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import assert_never

import structlog

from ipamd import backoff, clock
from ipamd.cloud import AddressChange, CloudEni, InterfaceRequest
from ipamd.cloud_child import Cloud
from ipamd.errors import (
    Busy,
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
from ipamd.model import Address, AddressState, EniId, SubnetId
from ipamd.node import NodeFacts
from ipamd.pacer import GROWING, Pacer
from ipamd.pool import observe
from ipamd.pool.ledger import Change, Intent, IntentKind
from ipamd.pool.observe import Exclusions
from ipamd.pool.plan import Action, AssignAddresses, CreateEni, DeleteEni, UnassignAddresses

log = structlog.get_logger()

LOOK_SECONDS = 60.0
"""Refusals that say our picture is stale bring a look, but not more often than this."""

STORE_RETRY_SECONDS = 1.0


CHANGE_TRIES = 3
"""Of a change of addresses without an answer, where it can be repeated: more, and the cloud is what
is wrong, of which looks tell."""

REPEAT_SECONDS = 600.0
"""An older change of an earlier process has come to its end: as long as a change has where changes
take longest, five times the slowest that is designed for (120 s on a scale set)."""


@dataclass(slots=True, kw_only=True)
class Record:
    """One action of the last plans, for `ipamctl status`."""

    verb: str
    subject: str
    reason: str
    state: str = "running"
    error: str = ""
    began_boottime: float = 0.0
    ended_boottime: float = 0.0  # 0 while it runs

    def seconds(self, now: float) -> float:
        """How long it has been running, or took."""
        return max((self.ended_boottime or now) - self.began_boottime, 0.0)


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
        self._look_allowed_at = 0.0
        self.pacer = Pacer()
        self.repeats_changes = False  # the cloud knows by its token what a change has added
        self.last_error = ""
        self._told: tuple[IntentKind, str] | None = None  # the failure that was logged last
        self.records: list[Record] = []
        self.deleted: set[EniId] = set()  # ids never come back (an ENI's id is its own for ever)
        self._order = itertools.count(1)
        self._touched: dict[EniId, int] = {}
        self.exclusions = Exclusions()
        self.security_group_ids: tuple[str, ...] = ()  # custom networking's; empty: the primary's

    def begin_look(self) -> int:
        """A mark for `touched_since`, taken before a look at the cloud is asked for. Marks and
        touches are counted and not timed: two of them at one instant still have an order."""
        return next(self._order)

    def touched_since(self, mark: int) -> frozenset[EniId]:
        """ENIs that a call may have changed since; a look begun before that proves nothing."""
        return frozenset(eni_id for eni_id, when in self._touched.items() if when > mark)

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
        token or id), and leave the rest to the next look, which shows what it did. Where writes are
        slow and have names, the look may come before the write's end, and show nothing of it: there
        assigns and unassigns are repeated, too, which wait for that end."""
        now = clock.boottime()
        for intent in tuple(self._keeper.ledger.intents.values()):
            if intent.kind in (IntentKind.CREATE, IntentKind.DELETE):
                self._launch(intent, facts)
            elif self._is_repeatable(intent) and now - intent.began_boottime < REPEAT_SECONDS:
                self._keeper.commit(Change(put_addresses=self._doubted(intent)))
                self._launch(intent, facts, failures=1)
            else:
                self._keeper.commit(self._lost(intent))

    def _is_repeatable(self, intent: Intent) -> bool:
        is_change = intent.kind in (IntentKind.ASSIGN, IntentKind.UNASSIGN)
        return self.repeats_changes and is_change and intent.is_open

    def _launch(self, intent: Intent, facts: NodeFacts, *, failures: int = 0) -> None:
        record = Record(
            verb=intent.kind.value,
            subject=intent.eni_id or f"device index {intent.device_index}",
            reason=intent.reason,
            began_boottime=intent.began_boottime,
        )
        self.records = [*self.records[-15:], record]
        self.group.create_task(
            self._run(intent, facts, record, failures), name=f"{intent.kind.value}-{intent.token}"
        )

    def _leaving(self, action: UnassignAddresses | DeleteEni) -> tuple[Address, ...]:
        ledger = self._keeper.ledger
        if isinstance(action, UnassignAddresses):
            single, whole = set(action.addresses), set(action.prefixes)
            leaving = [
                a
                for a in ledger.on_eni(action.eni_id)
                if a.address in single or (a.prefix is not None and a.prefix in whole)
            ]
        else:
            leaving = list(ledger.on_eni(action.eni_id))
        return tuple(
            replace(a, state=AddressState.UNASSIGNING, since_boottime=clock.boottime())
            for a in leaving
        )

    async def _run(self, intent: Intent, facts: NodeFacts, record: Record, failures: int) -> None:
        """One action to its end. Creations and deletions are repeated until they are settled, what
        changes addresses a few times where that can be. `failures`: of its earlier tries."""
        while True:
            self._touch(intent.eni_id)
            try:
                make_change = await self._perform(intent, facts)
            except CloudError as e:
                error = e
            except Exception as e:  # whatever it was, it must not end the daemon: its effect is
                log.exception("cloud_action_crashed", action=intent.kind.value)  # unknown
                error = Transient(f"{type(e).__name__}: {e}", operation=intent.kind.value)
            else:
                await self._settle(make_change)
                return self._succeeded(intent, record)
            finally:
                self._touch(intent.eni_id)
            self._failed(intent, record, error)
            # A creation that was begun is not given up for a throttle: its ENI would hang loose.
            is_begun = failures > 0 and isinstance(error, Throttled)
            if not isinstance(error, Transient) and not is_begun:
                return await self._refused(intent, error)
            failures += 1
            is_in_doubt = intent.kind in (IntentKind.ASSIGN, IntentKind.UNASSIGN)
            if is_in_doubt and not (self._is_repeatable(intent) and failures < CHANGE_TRIES):
                self.pacer.unanswered(clock.boottime(), _chance())
                await self._settle(lambda: self._lost(intent))
                return self._look_again()
            if is_in_doubt:
                await self._settle(lambda: Change(put_addresses=self._doubted(intent)))
            pacing = backoff.REPEATED if intent.kind in GROWING else backoff.TRANSIENT
            pause = pacing.delay(failures, _chance())
            await asyncio.sleep(max(pause, error.retry_after_seconds))
            record.state, record.ended_boottime = "running", 0.0

    async def _refused(self, intent: Intent, error: CloudError) -> None:
        """Nothing was done, for a reason that asking again at once does not cure."""
        now = clock.boottime()
        if isinstance(error, SubnetExhausted):
            await self._measure(intent.subnet_id)
        self.pacer.refused(intent, error, now, _chance())
        await self._settle(lambda: self._given_up(intent))
        if self._waits_for_a_look(intent.eni_id):
            self._look_again()
        elif _is_picture_stale(intent, error) and now >= self._look_allowed_at:
            self._look_allowed_at = now + LOOK_SECONDS
            self._look_again()
        self._wake()

    def _lost(self, intent: Intent) -> Change:
        """The call may have had its effect: a look will tell, and no later refusal can."""
        return Change(
            put_intents=(replace(intent, is_open=False),), put_addresses=self._doubted(intent)
        )

    def _doubted(self, intent: Intent) -> tuple[Address, ...]:
        """What a call without an answer may have given back: no refusal of a later one proves that
        it has not."""
        leaving = () if intent.kind is IntentKind.ASSIGN else self._unassigning(_eni_of(intent))
        return tuple(replace(a, reason=observe.IN_DOUBT) for a in leaving)

    def _given_up(self, intent: Intent) -> Change:
        """The intent goes. What was to be given back is still ours and cools, as after any use,
        unless it may be gone in part: then it waits for two looks that show it."""
        if intent.kind in GROWING:
            return Change(drop_intents=(intent.token,))
        leaving = self._unassigning(_eni_of(intent))
        state, reason = AddressState.COOLING, ""
        if _is_partly_done(intent, leaving):
            state, reason = AddressState.QUARANTINED, observe.UNCONFIRMED
        now = clock.boottime()
        kept = (replace(a, state=state, since_boottime=now, reason=reason) for a in leaving)
        return Change(put_addresses=tuple(kept), drop_intents=(intent.token,))

    def _waits_for_a_look(self, eni_id: EniId | None) -> bool:
        rows = self._keeper.ledger.addresses.values()
        return any(a.eni_id == eni_id and a.reason == observe.UNCONFIRMED for a in rows)

    async def _settle(self, make_change: Callable[[], Change]) -> None:
        """Commit an outcome, however long the store refuses: an intent without a task behind it
        would hold its ENI for ever. The change is made anew for each try."""
        while True:
            try:
                return self._keeper.commit(make_change())
            except StoreError as e:
                log.error("store_failed", error=str(e))
                await asyncio.sleep(STORE_RETRY_SECONDS)

    def _touch(self, eni_id: EniId | None) -> None:
        if eni_id is not None:
            self._touched[eni_id] = next(self._order)

    async def _perform(self, intent: Intent, facts: NodeFacts) -> Callable[[], Change]:
        """Make the call; returns what makes its outcome a change of the ledger as it is then."""
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
            seen = await self._cloud.subnets((subnet_id,))
            self.pacer.subnets_seen(seen, clock.boottime(), _chance(), is_refusal=True)
        except CloudError as e:
            log.warning("subnet_unmeasured", subnet=subnet_id, error=str(e))

    async def _assign(self, intent: Intent) -> Callable[[], Change]:
        eni_id = _eni_of(intent)
        outcome = await self._cloud.apply(
            AddressChange(
                eni_id=eni_id,
                add=intent.addresses,
                add_prefixes=intent.prefixes,
                add_prefixes_v6=intent.prefixes_v6,
                token=intent.token,
            )
        )
        return lambda: observe.assigned(
            self._keeper.ledger,
            intent,
            eni_id,
            outcome.added,
            outcome.added_prefixes,
            now=clock.boottime(),
        )

    async def _unassign(self, intent: Intent) -> Callable[[], Change]:
        eni_id = _eni_of(intent)
        leaving = self._unassigning(eni_id)
        await self._cloud.apply(
            AddressChange(
                eni_id=eni_id,
                remove=tuple(a.address for a in leaving if a.prefix is None),
                remove_prefixes=tuple({a.prefix: None for a in leaving if a.prefix is not None}),
            )
        )
        return lambda: Change(
            drop_addresses=tuple(a.address for a in leaving), drop_intents=(intent.token,)
        )

    async def _create(self, intent: Intent, facts: NodeFacts) -> Callable[[], Change]:
        eni = await self._cloud.create_interface(
            InterfaceRequest(
                token=intent.token,
                subnet_id=intent.subnet_id,
                security_group_ids=self.security_group_ids or facts.identity.security_group_ids,
                secondary_addresses=intent.addresses,
                prefixes=intent.prefixes,
                prefixes_v6=intent.prefixes_v6,
                device_index=intent.device_index,
                network_card=intent.network_card,
                reason=intent.reason,
            )
        )
        self._touch(eni.eni_id)
        return lambda: self._created(intent, eni)

    def _created(self, intent: Intent, eni: CloudEni) -> Change:
        now = clock.boottime()
        change = observe.assigned(
            self._keeper.ledger, intent, eni.eni_id, eni.addresses, eni.prefixes, now=now
        )
        known = observe.known_eni(self._keeper.ledger, eni, self.exclusions, now)
        return replace(change, put_enis=(known,))

    async def _delete(self, intent: Intent) -> Callable[[], Change]:
        eni_id = _eni_of(intent)
        await self._cloud.delete_interface(eni_id)
        return lambda: Change(
            drop_addresses=tuple(a.address for a in self._unassigning(eni_id)),
            drop_enis=(eni_id,),
            drop_intents=(intent.token,),
        )

    def _unassigning(self, eni_id: EniId) -> tuple[Address, ...]:
        return tuple(
            a for a in self._keeper.ledger.on_eni(eni_id) if a.state is AddressState.UNASSIGNING
        )

    def _succeeded(self, intent: Intent, record: Record) -> None:
        if intent.kind is IntentKind.DELETE:
            self.deleted.add(_eni_of(intent))
        now = clock.boottime()
        record.state, record.ended_boottime = "done", now
        self.last_error, self._told = "", None
        self.pacer.succeeded(intent, now)
        self._metrics.cloud_done(intent.kind.value, record.seconds(now))
        log.info(
            "cloud_action_done",
            action=intent.kind.value,
            eni=intent.eni_id,
            addresses=intent.addresses,
            prefixes=intent.prefixes + intent.prefixes_v6,
            reason=intent.reason,
        )
        self._wake()

    def _failed(self, intent: Intent, record: Record, error: CloudError) -> None:
        record.state, record.error = "failed", str(error)
        record.ended_boottime = clock.boottime()
        # By the code, since EC2's words differ each time (an encoded message for a refusal).
        news = (intent.kind, error.code or str(error))
        if news != self._told:
            self._told = news
            log.warning(
                "cloud_action_failed",
                action=intent.kind.value,
                eni=intent.eni_id,
                error=str(error),
            )
        self.last_error = str(error)
        self._metrics.cloud_error(error.operation or intent.kind.value, error.code)


def _is_partly_done(intent: Intent, leaving: tuple[Address, ...]) -> bool:
    """Whether a refusal leaves open what was done: a deletion detaches first, each kind of address
    is a call of its own, and the answer of an earlier call may have been lost."""
    kinds = {(a.address.version, a.prefix is None) for a in leaving}
    return (
        intent.kind is IntentKind.DELETE
        or len(kinds) > 1
        or any(a.reason == observe.IN_DOUBT for a in leaving)
    )


def _is_picture_stale(intent: Intent, error: CloudError) -> bool:
    """Whether the refusal says that the cloud is not as the ledger has it."""
    if intent.kind is IntentKind.DELETE and not isinstance(error, Throttled | Busy):
        return True  # it may have got half way: what hangs loose is seen by looks alone
    if isinstance(error, Throttled | SubnetExhausted | Denied | Busy):
        return False
    return isinstance(error, LimitReached | NotFound) or intent.kind is IntentKind.CREATE


def _chance() -> float:
    return random.random()  # noqa: S311 - jitter, not a secret


def _eni_of(intent: Intent) -> EniId:
    assert intent.eni_id is not None
    return intent.eni_id


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
        case AssignAddresses():
            return replace(
                blank,
                eni_id=action.eni_id,
                subnet_id=action.subnet_id,
                addresses=action.addresses,
                prefixes=action.prefixes,
                prefixes_v6=action.prefixes_v6,
            )
        case CreateEni():
            return replace(
                blank,
                kind=IntentKind.CREATE,
                subnet_id=action.subnet_id,
                addresses=action.addresses,
                prefixes=action.prefixes,
                prefixes_v6=action.prefixes_v6,
                device_index=action.device_index,
                network_card=action.network_card,
            )
        case UnassignAddresses(eni_id=eni_id):
            return replace(blank, kind=IntentKind.UNASSIGN, eni_id=eni_id)
        case DeleteEni(eni_id=eni_id):
            return replace(blank, kind=IntentKind.DELETE, eni_id=eni_id)
        case _ as unreachable:
            assert_never(unreachable)
