"""The loop that keeps the pool at its targets: look, decide, act.

Wakes on demand (an attachment waits, an address was released, a call ended) and when the next known
moment comes (a cooldown ends, a retry is due); it makes no cloud call when nothing changed. Actions
run beside the loop, each with an intent in the store, so that one slow attach holds nothing up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Never

import structlog

from ipamd import backoff, clock
from ipamd.actions import Actions
from ipamd.allocations import Shortage
from ipamd.cloud import Capabilities, CloudSnapshot, EniStatus, NodeIdentity
from ipamd.cloud_child import Cloud
from ipamd.errors import CloudError, ForeignStore, StoreError, Throttled, Transient
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.model import AddressState, EniId
from ipamd.node import NOTE, NodeFacts, from_json
from ipamd.pool import attachments, observe, plan
from ipamd.pool.ledger import Change, IntentKind
from ipamd.pool.lifecycle import IllegalTransition
from ipamd.settings import Settings
from ipamd.view import build_view

log = structlog.get_logger()

RESYNC_SECONDS = (600.0, 900.0)
"""A look at the cloud this often even when all is quiet, drawn anew each time so that a fleet
spreads out: drift made by others is found within a quarter of an hour for 0.2 calls a minute."""

STORE_RETRY_SECONDS = 1.0

IDLE_SECONDS = 60.0
"""The longest sleep between two cycles that make no calls; a guard against a missed wake-up."""


class Reconciler:
    """Owns the pace of all cloud calls. `waiting` tells how many attachments wait."""

    def __init__(
        self,
        keeper: Keeper,
        cloud: Cloud,
        settings: Settings,
        metrics: Metrics,
        *,
        waiting: Callable[[], int],
    ) -> None:
        self._keeper = keeper
        self._cloud = cloud
        self._settings = settings
        self._metrics = metrics
        self._waiting = waiting
        self._wake = asyncio.Event()
        self._observe_at = 0.0
        self._failures = 0
        self.cloud_error = ""
        self.missing_allocated: tuple[str, ...] = ()
        self.has_observed = False
        self._has_resumed = False
        self.facts: NodeFacts | None = from_json(keeper.noted(NOTE))
        self.last_plan = plan.Plan(actions=(), summary="nothing planned yet")
        self.planned_boottime = self.started_boottime = clock.boottime()
        self.actions = Actions(keeper, cloud, metrics, wake=self.wake, look_again=self.look_soon)
        self._strays: dict[EniId, float] = {}  # -> boot time of the look that first saw it
        self._rest_until = 0.0
        # Until the cloud says what it can do: nothing that costs.
        self._capabilities = Capabilities(
            can_create_interfaces=False, has_prefixes=False, replaces_whole_interface=False
        )
        self.first_look_boottime: float | None = None
        self.last_look_boottime = 0.0

    def wake(self) -> None:
        """Run a cycle soon."""
        self._wake.set()

    def look_soon(self, seconds: float = 0.0) -> None:
        """Look at the cloud within `seconds`."""
        self._observe_at = min(self._observe_at, clock.boottime() + seconds)
        self.wake()

    @property
    def max_pods(self) -> int:
        """The cap on addresses in use; 0 while the node is unknown."""
        return self.facts.max_pods(self._settings) if self.facts else 0

    def limits(self) -> tuple[int, int]:
        """(ENIs, pods) at most; zeros while the node is unknown."""
        return (self.facts.max_enis(self._settings), self.max_pods) if self.facts else (0, 0)

    def targets(self) -> dict[str, str]:
        """The targets in force, under the names of their settings."""
        settings = self._settings
        if settings.warm_addresses or settings.minimum_addresses:
            return {
                "WARM_IP_TARGET": str(settings.warm_addresses),
                "MINIMUM_IP_TARGET": str(settings.minimum_addresses),
            }
        return {"WARM_ENI_TARGET": str(settings.warm_enis)}

    async def run(self) -> Never:
        """Reconcile for ever. Raises ForeignStore when the store turns out to be another node's."""
        async with asyncio.TaskGroup() as group:
            self.actions.group = group
            await self._learn_node()
            while True:
                self._wake.clear()
                await self._cycle()
                await self._sleep()

    def facts_needed(self) -> NodeFacts:
        """The node's facts; only called once they are known."""
        assert self.facts is not None
        return self.facts

    async def _learn_node(self) -> None:
        """Identity and limits: from the store at once, from the cloud when it answers."""
        while self.facts is None:
            try:
                await self._ask_who_we_are()
            except CloudError as e:
                await asyncio.sleep(self._cloud_failed(e))
            except StoreError as e:
                log.error("store_failed", error=str(e))
                await asyncio.sleep(1.0)

    async def _ask_who_we_are(self) -> CloudSnapshot:
        """Identity and limits, and the look at the cloud that confirmed them."""
        identity = await self._cloud.discover_node()
        limits = await self._cloud.limits()
        self._capabilities = await self._cloud.capabilities()
        snapshot = await self._cloud.snapshot()
        _require_own_primary(identity, snapshot)
        if self.facts is not None and self.facts.identity.instance_id != identity.instance_id:
            raise ForeignStore(
                f"the store is of instance {self.facts.identity.instance_id}, "
                f"this node is {identity.instance_id}"
            )
        before = self.facts.vpc_cidrs if self.facts else ()
        self._set_facts(NodeFacts(identity=identity, limits=limits, vpc_cidrs=before))
        return snapshot

    def _set_facts(self, facts: NodeFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            self._keeper.note(NOTE, facts.to_json())

    async def _cycle(self) -> None:
        now = clock.boottime()
        try:
            self._keeper.commit(
                attachments.expire(
                    self._keeper.ledger,
                    cooldown_seconds=self._settings.cooldown_seconds,
                    now=now,
                )
            )
            if now >= self._observe_at:
                await self._observe()
            # Not before the kernel was heard: a lost store knows no demand, only cooling.
            if self.has_observed and self._keeper.ledger.has_heard_node:
                self._plan_and_start()
        except StoreError as e:
            # Nothing was made visible; a later cycle tries again. Pods that run are not touched.
            log.error("store_failed", error=str(e))
            self._rest_until = clock.boottime() + STORE_RETRY_SECONDS

    async def _observe(self) -> None:
        began = clock.boottime()
        self._observe_at = began + random.uniform(*RESYNC_SECONDS)  # noqa: S311 - spreading load
        was_creating = self._is_creating()
        try:
            if self.has_observed:
                snapshot = await self._cloud.snapshot()
            else:
                snapshot = await self._ask_who_we_are()
        except CloudError as e:
            self._observe_at = clock.boottime() + self._cloud_failed(e)
            return
        self._take_in(snapshot, began, was_creating=was_creating)
        await self._measure(snapshot)

    def _take_in(self, snapshot: CloudSnapshot, began: float, *, was_creating: bool) -> None:
        """What one look changes, with no await between its answer and the ledger."""
        self._resume()
        now = clock.boottime()
        findings = observe.cloud(
            self._keeper.ledger, snapshot, touched=self.actions.touched_since(began), now=now
        )
        self._keeper.commit(findings.change)
        facts = self.facts_needed()
        self._set_facts(replace(facts, vpc_cidrs=snapshot.vpc_cidrs or facts.vpc_cidrs))
        # An ENI that is being created is loose for a moment: such a look says nothing of strays.
        seen = () if was_creating or self._is_creating() else findings.stray_enis
        self._strays = {e: self._strays.get(e, now) for e in seen}
        self.missing_allocated = tuple(str(a) for a in findings.missing_allocated)
        self._cloud_answered()
        if self.first_look_boottime is None:
            self.first_look_boottime = now
        self.last_look_boottime = now
        if findings.wants_second_look:
            self.look_soon(observe.SECOND_LOOK_SECONDS + 1)
        self._tell(findings)

    async def _measure(self, snapshot: CloudSnapshot) -> None:
        """Free counts of our subnets, for people and for requests that were refused."""
        subnets = tuple(sorted({e.subnet_id for e in snapshot.enis}))
        try:
            self.actions.pacer.subnets_seen(
                await self._cloud.subnet_free(subnets), clock.boottime()
            )
        except CloudError as e:
            log.warning("subnets_unmeasured", error=str(e))

    def _is_creating(self) -> bool:
        return any(i.kind is IntentKind.CREATE for i in self._keeper.ledger.intents.values())

    def _confirmed_strays(self) -> tuple[EniId, ...]:
        """ENIs of ours that two looks, half a minute apart, saw attached to nothing."""
        return tuple(
            e
            for e, since in self._strays.items()
            if self.last_look_boottime - since >= observe.SECOND_LOOK_SECONDS
            and e not in self._keeper.ledger.enis
        )

    def is_picture_certain(self, now: float) -> bool:
        """Whether a second look, half a minute after the first, has confirmed the cloud's picture.

        Asked by the first report of a lost store that names pods the picture does not hold; asks
        for that second look.
        """
        if self.first_look_boottime is None:
            return False
        confirmed_at = self.first_look_boottime + observe.SECOND_LOOK_SECONDS
        if self.last_look_boottime >= confirmed_at:
            return True
        self.look_soon(max(confirmed_at - now, 0.0))
        return False

    def _resume(self) -> None:
        """Once, when it is certain which instance we are: calls that were in flight go on."""
        if not self._has_resumed:
            self.actions.resume(self.facts_needed())
            self._has_resumed = True

    def _tell(self, findings: observe.CloudFindings) -> None:
        log.info(
            "cloud_observed",
            enis=len(self._keeper.ledger.enis),
            addresses=len(self._keeper.ledger.addresses),
            found=len(findings.found),
            missing=[str(a) for a in findings.missing],
            missing_allocated=list(self.missing_allocated),
            stray_enis=list(findings.stray_enis),
        )

    def _cloud_failed(self, error: CloudError) -> float:
        """Count a failed look, tell it when it is news, and return how long to wait."""
        self._failures += 1
        if str(error) != self.cloud_error:
            log.warning("cloud_failed", error=str(error), code=error.code)
        self.cloud_error = str(error)
        self._metrics.cloud_error(error.operation or "observe", error.code)
        chance = random.random()  # noqa: S311 - jitter
        pacing = backoff.THROTTLED if isinstance(error, Throttled) else backoff.TRANSIENT
        return max(pacing.delay(self._failures, chance), error.retry_after_seconds)

    def _cloud_answered(self) -> None:
        if self.cloud_error:
            log.info("cloud_recovered", after_failures=self._failures)
        self._failures, self.cloud_error, self.has_observed = 0, "", True

    def _plan_and_start(self) -> None:
        now = clock.boottime()
        view = build_view(
            self._keeper.ledger,
            self.facts_needed(),
            self._settings,
            self.actions.pacer.pace(now),
            waiting=self._waiting(),
            stray_enis=self._confirmed_strays(),
            can_create_interfaces=self._capabilities.can_create_interfaces,
            now=now,
        )
        made = plan.plan(view)
        if made.summary != self.last_plan.summary or made.actions:
            tell = log.info if made.actions else log.debug
            tell("planned", summary=made.summary, actions=len(made.actions))
            self.last_plan, self.planned_boottime = made, now
        for action in made.actions:
            if isinstance(action, plan.DeleteEni):
                self._strays.pop(action.eni_id, None)
            try:
                self.actions.start(action, self.facts_needed())
            except IllegalTransition as e:
                # A fault in a decision: the ledger refused it, and pods are better served by a
                # daemon that goes on than by one that ends over it at each start.
                log.error("action_refused", action=repr(action), error=str(e))

    async def _sleep(self) -> None:
        """Until woken, or until the next moment at which something is due."""
        now = clock.boottime()
        cooled = attachments.next_expiry(
            self._keeper.ledger, cooldown_seconds=self._settings.cooldown_seconds
        )
        due = [now + IDLE_SECONDS, self._observe_at, *self.actions.pacer.due_times(now)]
        due += [cooled] if cooled is not None else []
        # A due time in the past means "at once"; 10 ms keeps a mistake from eating the CPU.
        pause = max(min(due) - now, self._rest_until - now, 0.01)
        if self._rest_until > now:
            return await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return None

    def shortage(self) -> Shortage:
        """Why no address is available now: the subnet, the limits, the cloud or the node."""
        ledger, now = self._keeper.ledger, clock.boottime()
        cooled = attachments.next_expiry(ledger, cooldown_seconds=self._settings.cooldown_seconds)
        cooling_ends = max(cooled - now, 0.0) if cooled is not None else None
        exhausted = self.actions.pacer.exhausted(now)
        if exhausted:
            subnet_id, seconds = min(exhausted.items(), key=lambda item: item[1])
            retry = seconds if cooling_ends is None else min(seconds, cooling_ends)
            return Shortage(
                sentence=f"subnet {subnet_id} has no free address"
                + self._others(cooling_ends)
                + "; free some in the subnet or lower WARM_* targets of its nodes",
                retry_after_seconds=max(retry, 1.0),
                subnet_id=subnet_id,
            )
        return Shortage(
            sentence=self._why() + self._others(cooling_ends),
            retry_after_seconds=max(min(cooling_ends or 5.0, 5.0), 1.0),
        )

    def _why(self) -> str:
        ledger = self._keeper.ledger
        if self.facts is None or not self.has_observed:
            return f"the cloud has not answered yet ({self.cloud_error or 'asking'})"
        if len(ledger.allocations) >= self.max_pods:
            return f"the node is full: {len(ledger.allocations)} of max {self.max_pods} pods"
        if self.actions.last_error:
            return f"the last cloud call failed: {self.actions.last_error}"
        not_ready = [e.eni_id for e in ledger.enis.values() if e.is_managed and not e.is_ready]
        if not_ready:
            return f"ENI {', '.join(not_ready)} is not ready on the node yet (see ipamctl status)"
        return self.last_plan.summary

    @staticmethod
    def _others(cooling_ends: float | None) -> str:
        if cooling_ends is None:
            return ""
        return f"; the earliest cooling address is free in {cooling_ends:.0f} s"

    def report_accepted(self, change: Change) -> None:
        """A node report changed the ledger: plan again."""
        if change:
            self.wake()

    def problems(self) -> tuple[str, ...]:
        """Sentences for `ipamctl status`: what is wrong now and what to do."""
        ledger, now = self._keeper.ledger, clock.boottime()
        said = []
        if self.cloud_error:
            said.append(f"the cloud does not answer: {self.cloud_error}")
        if not ledger.has_heard_node:
            said.append("no report from vpc-cnid yet, nothing is handed out: is vpc-cnid running?")
        said += [
            f"subnet {subnet} is exhausted; next try in {seconds:.0f} s"
            for subnet, seconds in self.actions.pacer.exhausted(now).items()
        ]
        if self.actions.last_error:
            said.append(f"the last cloud call failed: {self.actions.last_error}")
        if self.missing_allocated:
            said.append(
                "used by pods but not in the cloud any more: " + ", ".join(self.missing_allocated)
            )
        quarantined = [str(a.address) for a in ledger.in_state(AddressState.QUARANTINED)]
        if quarantined:
            said.append("quarantined: " + ", ".join(sorted(quarantined)))
        said += [
            f"ENI {e.eni_id} is attached but not ready on the node"
            for e in ledger.enis.values()
            if e.is_managed and not e.is_ready and now - e.attached_boottime > 10
        ]
        return tuple(said)


def _require_own_primary(identity: NodeIdentity, snapshot: CloudSnapshot) -> None:
    """The metadata service is believed only where the cloud shows the same primary ENI on the same
    instance: in the name of another we would attach ENIs to it, and call our store foreign."""
    attached = [e.eni_id for e in snapshot.enis if e.status is EniStatus.ATTACHED]
    if identity.primary_eni_id not in attached:
        raise Transient(
            f"the metadata service says that this is {identity.instance_id} with primary ENI "
            f"{identity.primary_eni_id}, but the cloud shows on that instance "
            f"{', '.join(attached) or 'no ENI'}",
            operation="discover_node",
        )
