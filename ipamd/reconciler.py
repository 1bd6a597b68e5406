"""The loop that keeps the pool at its targets: look, decide, act.

Wakes on demand (an attachment waits, an address was released, a call ended) and when the next known
moment comes (a cooldown ends, a retry is due); it makes no cloud call when nothing changed. Actions
run beside the loop, each with an intent in the store, so that one slow attach holds nothing up.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Never

import structlog

from ipamd import clock, explain
from ipamd.actions import STORE_RETRY_SECONDS, Actions
from ipamd.allocations import Shortage
from ipamd.arrivals import ArrivalLog
from ipamd.cloud import Capabilities, CloudSnapshot
from ipamd.cloud_child import Cloud
from ipamd.cloud_health import CloudHealth
from ipamd.cooldowns import Cooldowns
from ipamd.errors import CloudError, ForeignStore, StoreError
from ipamd.hints import Hints
from ipamd.keeper import Keeper
from ipamd.live_config import LiveConfig
from ipamd.metrics import Metrics
from ipamd.model import EniId, IPNetwork, SubnetId
from ipamd.node import NOTE, NodeFacts, exclusions, from_json, require_own_primary
from ipamd.pool import attachments, blocks, observe, plan
from ipamd.pool.ahead import NOBODY, writes_of
from ipamd.pool.choice import Rules
from ipamd.pool.cooling import Cooldown
from ipamd.pool.hint import VpcNetworks
from ipamd.pool.ledger import Change, IntentKind
from ipamd.pool.lifecycle import IllegalTransition
from ipamd.questions import Questions
from ipamd.settings import Settings
from ipamd.view import QUIET_SECONDS, Situation, build_view, candidates, last_activity

log = structlog.get_logger()

SUBNETS_STALE_SECONDS = 1800.0
"""Growth in a subnet whose free count is older than this has it counted again."""

UNSETTLED_LOOK_SECONDS = 2.0
"""A call with a lost answer on an ENI that changed during the look: its ENI grows no more until a
look has settled it, and pods may wait for that."""

IDLE_SECONDS = 60.0
"""The longest sleep between two cycles that make no calls; a guard against a missed wake-up."""


class Reconciler:
    """Owns the pace of all cloud calls.

    `waiting` tells how many attachments wait, `pinned` how many of them for addresses of one ENI;
    `unserved_pods` how many pods are bound to this node and have no address yet, from whoever
    watches them (nobody does so far). `arrivals` is the log of who came lately.
    """

    def __init__(
        self,
        keeper: Keeper,
        cloud: Cloud,
        config: LiveConfig,
        metrics: Metrics,
        *,
        waiting: Callable[[], int],
        pinned: Callable[[], Mapping[EniId, int]] = dict,
        unserved_pods: Callable[[], int] = lambda: 0,
        arrivals: ArrivalLog | None = None,
    ) -> None:
        self._keeper = keeper
        self._cloud = cloud
        self._config = config
        self._metrics = metrics
        self._waiting = waiting
        self._pinned = pinned
        self._unserved_pods = unserved_pods
        self._arrivals = arrivals or ArrivalLog()
        self._wake = asyncio.Event()
        self._listeners: list[Callable[[], None]] = []
        self.cooldowns = Cooldowns(
            keeper, cooldown_seconds=lambda: self.settings.cooldown_seconds, tell=self._tell_node
        )
        self._observe_at = 0.0
        self._hints = Hints(keeper, cloud, networks_read=self._networks_read)
        self._questions = Questions(self._answered)
        self.health = CloudHealth(metrics)
        self.missing_allocated: tuple[str, ...] = ()
        self._has_resumed = False
        self.facts: NodeFacts | None = from_json(keeper.noted(NOTE))
        self._networks = VpcNetworks(known=self.facts.vpc_cidrs if self.facts else ())
        self.last_plan = plan.Plan(actions=(), summary="nothing planned yet")
        self.planned_boottime = self.started_boottime = clock.boottime()
        self.actions = Actions(keeper, cloud, metrics, wake=self.wake, look_again=self.look_soon)
        self._strays: dict[EniId, float] = {}  # -> boot time of the look that first saw it
        self._rest_until = 0.0
        # Until the cloud says what it can do: nothing that costs.
        self._capabilities = Capabilities(
            can_create_interfaces=False, has_prefixes=False, replaces_whole_interface=False
        )
        self._resync_chance = 1.0
        self.first_look_boottime: float | None = None
        self.last_look_boottime = 0.0

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` when what the node is told has changed, the ledger aside."""
        self._listeners.append(listener)

    def _tell_node(self) -> None:
        for listener in self._listeners:
            listener()

    def cleared(self, cooldowns: Iterable[Cooldown]) -> None:
        """vpc-cnid has cleared the connections of these: their time may be over already."""
        self.cooldowns.clear(cooldowns)
        self.wake()

    def wake(self) -> None:
        """Run a cycle soon."""
        self._wake.set()

    def look_soon(self, seconds: float = 0.0) -> None:
        """Look at the cloud within `seconds`."""
        self._observe_at = min(self._observe_at, clock.boottime() + seconds)
        self.wake()

    @property
    def settings(self) -> Settings:
        """What is in force now: a node's own targets may change while we run."""
        return self._config.settings

    @property
    def derived(self) -> tuple[str, ...]:
        """A sentence for each setting that nobody set and that was derived."""
        return self._config.derived

    @property
    def max_pods(self) -> int:
        """The cap on addresses in use; 0 while the node is unknown."""
        return self.facts.max_pods(self.settings) if self.facts else 0

    def rules(self) -> Rules:
        """What handing out depends on; nothing is handed out while the node is unknown."""
        return self.facts.rules(self.settings) if self.facts else Rules(max_pods=0)

    def limits(self) -> tuple[int, int]:
        """(ENIs, pods) at most; zeros while the node is unknown."""
        return (self.facts.max_enis(self.settings), self.max_pods) if self.facts else (0, 0)

    async def run(self) -> Never:
        """Reconcile for ever. Raises ForeignStore when the store turns out to be another node's."""
        async with asyncio.TaskGroup() as group:
            self.actions.group = self._questions.group = group
            while True:
                self._wake.clear()
                await self._cycle()
                await self._sleep()

    def facts_needed(self) -> NodeFacts:
        """The node's facts; only called once they are known."""
        assert self.facts is not None
        return self.facts

    async def _ask_who_we_are(self) -> CloudSnapshot:
        """Identity and limits, and the look at the cloud that confirmed them."""
        identity = await self._cloud.discover_node()
        limits = await self._cloud.limits()
        self._know(await self._cloud.capabilities())
        snapshot = await self._cloud.snapshot()
        require_own_primary(identity, snapshot)
        if self.facts is not None and self.facts.identity.instance_id != identity.instance_id:
            raise ForeignStore(
                f"the store is of instance {self.facts.identity.instance_id}, "
                f"this node is {identity.instance_id}"
            )
        before = self.facts.vpc_cidrs if self.facts else ()
        self._set_facts(NodeFacts(identity=identity, limits=limits, vpc_cidrs=before))
        return snapshot

    def _know(self, capabilities: Capabilities) -> None:
        """What the cloud can do, and how fast."""
        self._capabilities = capabilities
        self._config.learn(capabilities)
        self.actions.repeats_changes = capabilities.replaces_whole_interface
        pacer = self.actions.pacer
        pacer.counts_are_hints = capabilities.write_seconds > 0
        pacer.write_interval_seconds = capabilities.write_interval_seconds
        self.look_soon(self._resync_seconds)  # the first look was begun without knowing

    def _set_facts(self, facts: NodeFacts) -> None:
        if facts != self.facts:
            self.facts = facts
            self._keeper.note(NOTE, facts.to_json())
            self._tell_node()

    def _networks_read(self, shown: tuple[IPNetwork, ...]) -> None:
        """The metadata service was asked for the VPC's networks."""
        self._networks = self._networks.after(shown, now=clock.boottime())
        facts = self.facts_needed()
        if self._networks.known != facts.vpc_cidrs:
            log.info("vpc_networks_changed", networks=[str(c) for c in self._networks.known])
            self._set_facts(replace(facts, vpc_cidrs=self._networks.known))

    async def _cycle(self) -> None:
        now = clock.boottime()
        self._config.refresh()
        self.actions.security_group_ids = self._config.security_group_ids
        try:
            self._keeper.commit(attachments.expired_tombstones(self._keeper.ledger, now=now))
            self.cooldowns.step(now)
            await self._learn(now)
            # Not before the kernel was heard: a lost store knows no demand, only cooling.
            if self.health.has_answered and self._keeper.ledger.has_heard_node:
                self._open_more()
                self._plan_and_start()
        except ForeignStore:
            raise  # no later cycle makes it ours
        except StoreError as e:
            self._rest(e)

    def _rest(self, error: StoreError) -> None:
        """Nothing was made visible; a later cycle tries again. Pods that run are not touched."""
        log.error("store_failed", error=str(error))
        self._rest_until = clock.boottime() + STORE_RETRY_SECONDS

    async def _learn(self, now: float) -> None:
        """What is due to be asked. Only the first look is waited for: an answer may take a minute,
        and pods may need the pool to grow meanwhile."""
        if not self.health.has_answered:
            if now >= self._observe_at:
                await self._observe()
            return
        if now >= self._hints.due_boottime:
            self._questions.ask("hint", self._take_hint)
        if now >= self._observe_at:
            self._questions.ask("look", self._observe)
        if self.actions.pacer.to_measure(now):
            self._questions.ask("measure", self._measure_scarce)

    def _answered(self, error: StoreError | None) -> None:
        if error is not None:
            self._rest(error)
        self.wake()

    async def _take_hint(self) -> None:
        changed = self.actions.pacer.pace(clock.boottime()).seconds_since_change
        if await self._hints.asks_for_a_look(seconds_since_change=changed):
            self.look_soon()

    async def _observe(self) -> None:
        self._resync_chance = random.random()  # noqa: S311 - spreading load
        self._observe_at = clock.boottime() + self._resync_seconds
        try:
            await self._look()
        except CloudError as e:
            self.look_soon(self.health.failed(e))
        except StoreError:
            self.look_soon(STORE_RETRY_SECONDS)
            raise

    @property
    def _resync_seconds(self) -> float:
        """Until the next look without a reason; drawn anew for each, so that a fleet spreads."""
        shortest, longest = self._capabilities.resync_seconds
        return shortest + (longest - shortest) * self._resync_chance

    async def _look(self) -> None:
        mark = self.actions.begin_look()
        was_creating = self._is_creating()
        if self.health.has_answered:
            snapshot = await self._cloud.snapshot()
        else:
            snapshot = await self._ask_who_we_are()
        # Before the look is taken in: the tags of its subnets say which ENIs may carry pods.
        await self._measure(tuple(sorted({e.subnet_id for e in snapshot.enis})))
        self._take_in(snapshot, mark, was_creating=was_creating)

    def _take_in(self, snapshot: CloudSnapshot, mark: int, *, was_creating: bool) -> None:
        """What one look changes, with no await between its answer and the ledger."""
        self._resume()
        now = clock.boottime()
        self.actions.exclusions = exclusions(self.settings, self.actions.pacer.excluded_subnets())
        findings = observe.cloud(
            self._keeper.ledger,
            snapshot,
            exclusions=self.actions.exclusions,
            touched=self.actions.touched_since(mark),
            now=now,
        )
        self._keeper.commit(findings.change)
        self._networks_read(snapshot.vpc_cidrs)
        # An ENI that is being created is loose for a moment: such a look says nothing of strays.
        seen = () if was_creating or self._is_creating() else findings.stray_enis
        missing = tuple(str(a) for a in findings.missing_allocated)
        is_news = missing != self.missing_allocated or not set(seen) <= set(self._strays)
        self._strays = {e: self._strays.get(e, now) for e in seen}
        self.missing_allocated = missing
        self.health.answered()
        if self.first_look_boottime is None:
            self.first_look_boottime = now
        self.last_look_boottime = now
        if findings.wants_second_look or is_news:
            self.look_soon(observe.SECOND_LOOK_SECONDS + 1)
        if findings.unsettled:
            self.look_soon(UNSETTLED_LOOK_SECONDS)
        self._tell(findings)

    async def _measure(self, subnets: tuple[SubnetId, ...]) -> None:
        """Free counts and tags of subnets. A failure leaves what was known before: to stop here
        would keep attached ENIs from being adopted (amazon-vpc-cni-k8s issue 3833)."""
        try:
            self.actions.pacer.subnets_seen(
                await self._cloud.subnets(subnets),
                clock.boottime(),
                random.random(),  # noqa: S311
            )
        except CloudError as e:
            log.warning("subnets_unmeasured", error=str(e))

    async def _measure_scarce(self) -> None:
        """A subnet that runs low is asked about again from time to time."""
        now = clock.boottime()
        due = self.actions.pacer.to_measure(now)
        if due:
            self.actions.pacer.measuring(due, now, random.random())  # noqa: S311 - jitter
            await self._measure(due)

    def _open_more(self) -> None:
        """Addresses of a /80 enter the ledger as they are needed."""
        if self.settings.has_ipv6:
            ledger, now = self._keeper.ledger, clock.boottime()
            self._keeper.commit(blocks.opened(ledger, max_pods=self.max_pods, now=now))

    def _is_creating(self) -> bool:
        return any(i.kind is IntentKind.CREATE for i in self._keeper.ledger.intents.values())

    def _confirmed_strays(self) -> tuple[EniId, ...]:
        """ENIs of ours that two looks, half a minute apart, saw attached to nothing."""
        return tuple(
            e
            for e, since in self._strays.items()
            if self.last_look_boottime - since >= observe.SECOND_LOOK_SECONDS
            and e not in self._keeper.ledger.enis
            and e not in self.actions.deleted
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

    def _plan_and_start(self) -> None:
        summaries, calls = [], 0
        for card in self._cards():
            made = self._plan(card)
            summaries.append(made.summary if card == 0 else f"card {card}: {made.summary}")
            calls += len(made.actions)
            for action in made.actions:
                self._start(action)
                self._count_again(action)
        self._tell_plan("; ".join(summaries), calls)

    def _cards(self) -> tuple[int, ...]:
        """Network cards that have a pool of their own."""
        cards = self.facts_needed().limits.card_enis if self.settings.has_multi_nic else ()
        return (0, *range(1, len(cards)))

    def _plan(self, card: int) -> plan.Plan:
        now = clock.boottime()
        facts, pacer = self.facts_needed(), self.actions.pacer
        known = {subnet_id: seen.free for subnet_id, seen in pacer.subnets.items()}
        pinned, writes = self._pinned(), writes_of(self._capabilities)
        unserved = self._waiting() + (self._arrivals.away(now) if writes.is_slow else 0)
        # Pods that are bound here and attachments that wait are the same pods, seen twice.
        waiting = max(unserved, self._unserved_pods()) - sum(pinned.values())
        looks_ahead = card == 0 and writes.is_slow
        situation = Situation(
            pace=pacer.pace(now),
            waiting=waiting if card == 0 else 0,
            pinned=pinned,
            stray_enis=self._confirmed_strays() if card == 0 else (),
            candidate_subnets=candidates(known, facts, self._config.subnet_id),
            can_create_interfaces=self._capabilities.can_create_interfaces
            and self._config.can_create,
            network_card=card,
            arrivals=self._arrivals.seen(now, writes) if looks_ahead else NOBODY,
            writes=writes,
            gives_enis_back=self._capabilities.can_create_interfaces,
        )
        return plan.plan(build_view(self._keeper.ledger, facts, self.settings, situation, now=now))

    def _tell_plan(self, summary: str, calls: int) -> None:
        if calls or summary != self.last_plan.summary:
            tell = log.info if calls else log.debug
            tell("planned", summary=summary, calls=calls)
            self.last_plan = plan.Plan(actions=(), summary=summary)
            self.planned_boottime = clock.boottime()

    def _count_again(self, action: plan.Action) -> None:
        """A subnet that is grown in and was not counted for long, beside the growth itself."""
        if not isinstance(action, plan.AssignAddresses | plan.CreateEni):
            return
        pacer, now = self.actions.pacer, clock.boottime()
        seen = pacer.subnets.get(action.subnet_id)
        if seen is not None and now - seen.seen_boottime >= SUBNETS_STALE_SECONDS:
            pacer.subnets[action.subnet_id] = replace(seen, seen_boottime=now)  # once is enough
            self.actions.group.create_task(self._measure((action.subnet_id,)), name="measure")

    def _start(self, action: plan.Action) -> None:
        try:
            self.actions.start(action, self.facts_needed())
        except IllegalTransition as e:
            # A fault in a decision: the ledger refused it, and pods are better served by a
            # daemon that goes on than by one that ends over it at each start.
            log.error("action_refused", action=repr(action), error=str(e))

    async def _sleep(self) -> None:
        """Until woken, or until the next moment at which something is due."""
        now = clock.boottime()
        due = [now + IDLE_SECONDS, *self.actions.pacer.due_times(now), *self.cooldowns.due_times()]
        # What is being asked wakes us when it is answered.
        due += [self._observe_at] if "look" not in self._questions else []
        due += [self._hints.due_boottime] if "hint" not in self._questions else []
        calm = last_activity(self._keeper.ledger) + QUIET_SECONDS + 0.5  # targets are exact then
        due += [calm] if calm > now else []
        # A due time in the past means "at once"; 10 ms keeps a mistake from eating the CPU.
        pause = max(min(due) - now, self._rest_until - now, 0.01)
        if self._rest_until > now:
            return await asyncio.sleep(pause)
        try:
            async with asyncio.timeout(pause):
                await self._wake.wait()
        except TimeoutError:
            return None

    def shortage(self, eni_id: EniId | None = None) -> Shortage:
        """Why no address is available now: the subnet, the limits, the cloud or the node; of one
        ENI where the attachment insists on it."""
        return explain.shortage(self._condition(), eni_id)

    def problems(self) -> tuple[str, ...]:
        """Sentences for `ipamctl status`: what is wrong now and what to do."""
        return explain.problems(self._condition())

    def _condition(self) -> explain.Condition:
        now = clock.boottime()
        return explain.Condition(
            ledger=self._keeper.ledger,
            facts=self.facts,
            max_pods=self.max_pods,
            cooldown_seconds=self.settings.cooldown_seconds,
            has_observed=self.health.has_answered,
            cloud_error=self.health.error,
            last_error=self.actions.last_error,
            plan_summary=self.last_plan.summary,
            exhausted=self.actions.pacer.exhausted(now),
            prefixless=self.actions.pacer.prefixless(now),
            missing_allocated=self.missing_allocated,
            settings_problems=explain.of_settings(self._config.problems, self.settings, self.facts),
            now=now,
            is_denied=self.health.is_denied,
            paused_seconds=self.actions.pacer.growth_pause(now),
        )

    def report_accepted(self, change: Change) -> None:
        """A node report changed the ledger: plan again."""
        if change:
            self.wake()
