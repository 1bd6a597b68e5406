"""One node in virtual time that can be hurt: pods that retry as kubelet does, a kernel that keeps
what it was given, a cloud with faults, and invariants looked at after every step.

Used by the fault scenarios and the crash tests. A step is one commit of the store or one step of
the cloud; `World.check` runs after each.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ipamd import clock
from ipamd.allocations import Allocations
from ipamd.arrivals import ArrivalLog
from ipamd.cloud import CloudEni, EniStatus
from ipamd.errors import AttachmentConflict, AttemptRevoked, IpamError
from ipamd.keeper import Keeper
from ipamd.live_config import LiveConfig
from ipamd.metrics import Metrics
from ipamd.model import AddressState, AttachmentKey, IPAddress, IPNetwork
from ipamd.pool import reports
from ipamd.pool.ledger import Change, Ledger
from ipamd.reconciler import Reconciler
from ipamd.store import Store
from ipamd.view import incoming
from tests import builders as b
from tests.memory_cloud import AsyncMemoryCloud

RETRY_SECONDS = 2.0
"""How soon a failed ADD is tried again, about as kubelet does for a failed sandbox."""

SETTLE_SECONDS = 3600.0
"""Longer than any back-off (half an hour)."""


class Crash(BaseException):
    """The process was killed here. No handler of the product may stop it."""


class Steps:
    """Counts steps and, if told so, kills the process at one of them."""

    def __init__(self, crash_at: int = 0) -> None:
        self.crash_at = crash_at
        self.count = 0
        self.crashed = asyncio.Event()
        self.names: list[str] = []
        self.watch: Callable[[], None] = lambda: None
        self.in_flight: Callable[[], list[Any]] = list
        self.landing: list[Any] = []  # calls that were on their way at the crash

    def step(self, name: str) -> None:
        """After something became durable or had its effect in the cloud."""
        self.alive()
        self.count += 1
        self.names.append(name)
        self.watch()
        if self.count == self.crash_at:
            self.crashed.set()
            self.landing = self.in_flight()
            raise Crash(f"after step {self.count}: {name}")

    def alive(self) -> None:
        """Raise if the process is dead already: nothing may happen in its name any more."""
        if self.crashed.is_set():
            raise Crash("dead")


class SteppingStore(Store):
    """A store whose every write is a step."""

    steps: Steps

    def commit(self, change: Change) -> None:
        self.steps.alive()
        super().commit(change)
        self.steps.step("store " + "+".join(_words(change)))


def _words(change: Change) -> list[str]:
    intents = [f"intent:{i.kind.value}" for i in change.put_intents]
    told = [
        name
        for name in ("put_allocations", "drop_allocations", "put_enis", "drop_enis", "drop_intents")
        if getattr(change, name)
    ]
    return intents + told or ["addresses"]


@dataclass(slots=True)
class Pod:
    """A pod as the kernel and kubelet see it."""

    key: AttachmentKey
    cookie: int
    addresses: tuple[IPAddress, ...] = ()
    asked_at: float = 0.0
    got_after: float | None = None
    failures: list[str] = field(default_factory=list)


class World:
    """The node: engine, pods, and the record of what was promised to whom."""

    def __init__(self, store: SteppingStore, cloud: AsyncMemoryCloud, **environ: str) -> None:
        self.cloud = cloud
        self.pods: dict[str, Pod] = {}
        self.deleting: dict[str, Pod] = {}
        self.freed: dict[IPAddress, float] = {}  # -> boot time at which its pod let go of it
        self.cleared: dict[IPAddress, float] = {}  # -> when its connections were last cleared
        self.checks = 0
        self.broken: list[str] = []  # an assertion inside a task may be caught on its way out
        self.environ = environ
        self._cookies = itertools.count(1)
        self.start_engine(store)

    def start_engine(self, store: SteppingStore) -> None:
        """A process begins: first, or again after a crash."""
        self.steps = store.steps
        self.steps.watch = self.check
        self.steps.in_flight = lambda: list(self.cloud.in_flight)
        self.cloud.cloud.on_step = lambda step: self.steps.step(f"cloud {step}")
        self.cloud.on_call = lambda method: self.steps.step(f"call {method}")
        self.keeper = Keeper(store)
        arrivals = ArrivalLog()
        self.reconciler = Reconciler(
            self.keeper,
            self.cloud,
            LiveConfig(b.settings(**self.environ)),
            Metrics(),
            waiting=lambda: self.allocations.waiting,
            pinned=lambda: self.allocations.pinned,
            arrivals=arrivals,
        )
        self.allocations = Allocations(
            self.keeper,
            rules=self.reconciler.rules,
            explain=self.reconciler.shortage,
            wake=self.reconciler.wake,
            arrivals=arrivals,
        )
        self.keeper.listen(self._on_commit)
        self.reconciler.listen(self._flush_soon)
        if self.keeper.ledger.enis:
            self.report()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The reconciler runs beside the block; its failure fails the block, a crash ends it."""
        task = asyncio.create_task(self.reconciler.run(), name="reconciler")
        try:
            yield
            if not self.steps.crashed.is_set():
                assert not task.done(), task.exception()
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError, Crash, BaseExceptionGroup):
                await task

    def _on_commit(self, change: Change, after: Ledger) -> None:
        self._check_growth(change, after)
        if any(not e.is_ready for e in change.put_enis):
            asyncio.get_running_loop().call_soon(self.report)

    def _flush_soon(self) -> None:
        asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """What vpc-cnid says once it cleared the connections that it was asked to."""
        if not self.steps.crashed.is_set():
            asked = self.reconciler.cooldowns.asked
            self.cleared |= dict.fromkeys((address for address, _ in asked), clock.boottime())
            self.reconciler.cleared(asked)

    def report(self) -> None:
        """What vpc-cnid says: all known ENIs ready, and the addresses of wired pods."""
        if self.steps.crashed.is_set():
            return
        with suppress(Crash):
            ledger = self.keeper.ledger
            self.keeper.commit(
                reports.readiness(ledger, dict.fromkeys(ledger.enis, True), now=clock.boottime())
            )
            seen = [_observed(p, a) for p in self.pods.values() for a in p.addresses]
            findings = reports.node(self.keeper.ledger, seen, now=clock.boottime(), now_unix=0.0)
            self.keeper.commit(findings.change)
            self.reconciler.wake()

    async def add(self, name: str, *, for_seconds: float = 3000.0) -> Pod:
        """An ADD that is tried until it succeeds, as a runtime and kubelet do."""
        pod = self.pods.get(name) or Pod(key=b.key(name), cookie=next(self._cookies))
        pod.asked_at = clock.boottime()
        self.pods[name] = pod
        async with asyncio.timeout(for_seconds):
            while True:
                request = b.request(name, cookie=pod.cookie, began=clock.boottime())
                try:
                    granted = await self.allocations.allocate(request, wait_seconds=25.0)
                except (AttemptRevoked, AttachmentConflict):
                    raise
                except IpamError as e:
                    pod.failures.append(str(e))
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                pod.addresses = granted.allocation.addresses
                pod.got_after = clock.boottime() - pod.asked_at
                self._check_granted(pod)
                return pod

    def delete(self, name: str) -> None:
        """A DEL: the wiring goes, then the address."""
        pod = self.pods.pop(name)
        now = clock.boottime()
        self.freed |= dict.fromkeys(pod.addresses, now)
        self.deleting[name] = pod
        self.allocations.release(pod.key)
        del self.deleting[name]

    def resume(self) -> list[str]:
        """After a restart the runtime repeats DELs that had no answer; names of pods to add again
        are returned."""
        for name in list(self.deleting):
            self.allocations.release(self.deleting.pop(name).key)
        return [name for name, pod in self.pods.items() if not pod.addresses]

    def _check_granted(self, pod: Pod) -> None:
        try:
            for address in pod.addresses:
                freed = self.freed.get(address)
                assert freed is None or clock.boottime() - freed >= 30.0, f"{address} is too fresh"
                is_clear = freed is None or self.cleared.get(address, -1.0) >= freed
                assert is_clear, f"I2: {address} still has connections of its former pod"
                is_stolen = address in self.cloud.cloud.taken_by_others()
                assert is_stolen or in_cloud(self.enis(), address), f"{address} is not ours"
        except AssertionError as e:
            self.broken.append(str(e))
            raise

    def check(self) -> None:
        """Every invariant that holds at every moment."""
        self.checks += 1
        try:
            self._check()
        except AssertionError as e:
            self.broken.append(f"{e} after {self.steps.names[-4:]}")
            raise

    def _check(self) -> None:
        ledger = self.keeper.ledger
        held = [a for n in ledger.allocations.values() for a in n.addresses]
        assert len(held) == len(set(held)), "I1: an address on two attachments"
        states = [ledger.addresses[a].state for a in held]
        assert all(s is AddressState.ALLOCATED for s in states), "a held address is not allocated"
        assert ledger.count(AddressState.ALLOCATED) == len(held), "allocated without a holder"
        for pod in self.pods.values():
            held_by = ledger.allocations.get(pod.key)
            if pod.addresses:
                assert held_by is not None, f"I1: the ledger forgot {pod.key}"
                assert held_by.addresses == pod.addresses, f"{pod.key} has another address"
        self._check_kept(ledger)

    def _check_kept(self, ledger: Ledger) -> None:
        kept = ledger.in_state(AddressState.ALLOCATED, AddressState.COOLING)
        lost = self.cloud.cloud.taken_by_others()
        for address in kept:
            there = in_cloud(self.enis(), address.address)
            assert there or address.address in lost, f"I2: {address} was given back"

    def _check_growth(self, change: Change, after: Ledger) -> None:
        """I8: no call is begun that could bring more than max pods (rounded up to a block)."""
        begun = [i for i in change.put_intents if i.is_open and incoming(i)]
        rules = self.reconciler.rules()
        if not begun or not rules.max_pods:
            return
        unit = 16 if rules.prefers_prefixes else 1
        ready = after.count(AddressState.ALLOCATED) + sum(
            # What a change of mode left of the other kind may be more than the mode could carry.
            a.address.version == 4
            and (a.prefix is not None) is rules.prefers_prefixes
            and after.enis[a.eni_id].takes_pods
            for a in after.in_state(AddressState.AVAILABLE, AddressState.PREPARING)
        )
        asked = sum(incoming(i) for i in after.intents.values())
        cap = -(-rules.max_pods // unit) * unit
        if ready + asked > cap:
            self.broken.append(
                f"I8: {ready} there and {asked} asked for, max pods {rules.max_pods}"
            )

    def enis(self) -> list[CloudEni]:
        """This node's ENIs as they are in the cloud, whatever Describe calls say."""
        return list(self.cloud.cloud.enis.values())

    def check_settled_pods(self) -> None:
        """Every pod has its addresses and nothing broke so far."""
        assert not self.broken, self.broken
        assert all(p.addresses for p in self.pods.values()), "a pod has no address"

    async def settle(self) -> None:
        """An hour of quiet, to its end: a probe of a back-off may be on its way just then."""
        await asyncio.sleep(SETTLE_SECONDS)
        async with asyncio.timeout(120.0):
            while self.keeper.ledger.intents:  # noqa: ASYNC110 - virtual time
                await asyncio.sleep(1.0)
        self.check_settled()

    def check_settled(self) -> None:
        """At the end of every story: nothing leaked, nothing missing, nothing left to do."""
        assert not self.broken, self.broken
        ledger = self.keeper.ledger
        assert not ledger.intents, f"intents are left: {ledger.intents}"
        loose = [e.eni_id for e in self.enis() if e.status is not EniStatus.ATTACHED]
        assert not loose, f"I4: ENIs attached to nothing: {loose}"
        assert {e.eni_id for e in self.enis()} == set(ledger.enis), "I4: the ledger misses an ENI"
        there = in_whole_cloud(self.enis())
        stolen = self.cloud.cloud.taken_by_others() - there  # a pod may hold it all the same
        assert in_ledger(ledger) - stolen == there, "I4: ledger and cloud differ"
        assert all(p.addresses for p in self.pods.values()), "a pod has no address"
        assert self.allocations.waiting == 0


def _observed(pod: Pod, address: IPAddress) -> reports.ObservedPod:
    return reports.ObservedPod(
        address=address,
        link_name="eni",
        key=pod.key,
        netns_cookie=pod.cookie,
        network_name="net",
        pod_namespace="default",
        pod_name=pod.key.container_id,
    )


def in_cloud(enis: list[CloudEni], address: IPAddress) -> bool:
    """Whether some ENI has the address, singly or in a prefix."""
    return any(
        address in e.addresses or any(address in p for p in e.prefixes if e.is_managed)
        for e in enis
    )


def in_whole_cloud(enis: list[CloudEni]) -> set[IPAddress | IPNetwork]:
    """Everything assigned to managed ENIs, prefixes as such."""
    return {x for e in enis if e.is_managed for x in (*e.addresses, *e.prefixes)}


def in_ledger(ledger: Ledger) -> set[IPAddress | IPNetwork]:
    """The same of the ledger."""
    return {a.prefix or a.address for a in ledger.addresses.values()}


def new_store(directory: Path, steps: Steps, name: str = "ipamd.db") -> SteppingStore:
    """An empty store that counts its steps."""
    store = SteppingStore.create(directory / name, boot_id="boot")
    assert isinstance(store, SteppingStore)
    store.steps = steps
    return store


def reopened(directory: Path, steps: Steps, name: str = "ipamd.db") -> SteppingStore:
    """The store as a new process finds it."""
    store = SteppingStore.open(directory / name, boot_id="boot")
    assert isinstance(store, SteppingStore)
    store.steps = steps
    return store
