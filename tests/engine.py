"""The pool engine (keeper, allocations, reconciler) on a memory cloud, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

from ipamd import clock
from ipamd.allocations import Allocations
from ipamd.arrivals import ArrivalLog
from ipamd.keeper import Keeper
from ipamd.live_config import LiveConfig
from ipamd.metrics import Metrics
from ipamd.model import AddressState
from ipamd.pool import reports
from ipamd.pool.attachments import Granted
from ipamd.pool.ledger import Change
from ipamd.reconciler import Reconciler
from ipamd.store import Store
from tests import builders as b
from tests.memory_cloud import AsyncMemoryCloud


class Engine:
    """One node's pool engine. The node side reports every ENI ready as soon as it is known."""

    def __init__(self, store: Store, cloud: AsyncMemoryCloud, **environ: str) -> None:
        self.cloud = cloud
        self.keeper = Keeper(store)
        self.is_node_up = True
        settings = b.settings(**environ)
        arrivals = ArrivalLog()
        self.reconciler = Reconciler(
            self.keeper,
            cloud,
            LiveConfig(settings),
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
        self.can_flush = True
        self.reconciler.listen(self._flush_soon)
        self.keeper.listen(lambda change, after: self._ready_enis(change))

    def _ready_enis(self, change: Change) -> None:
        if any(not e.is_ready for e in change.put_enis) and self.is_node_up:
            asyncio.get_running_loop().call_soon(self.report)

    def _flush_soon(self) -> None:
        if self.can_flush:
            asyncio.get_running_loop().call_soon(self.flush)

    def flush(self) -> None:
        """What vpc-cnid says once it cleared the connections that it was asked to."""
        self.reconciler.cleared(self.reconciler.cooldowns.asked)

    def report(self) -> None:
        """What vpc-cnid says once its host network stands: all ENIs ready, no unknown pods."""
        ledger = self.keeper.ledger
        self.keeper.commit(
            reports.readiness(ledger, dict.fromkeys(ledger.enis, True), now=clock.boottime())
        )
        used = [
            reports.ObservedPod(
                address=address,
                link_name="eni",
                key=a.key,
                netns_cookie=a.netns_cookie,
                network_name="net",
                pod_namespace="default",
                pod_name="p",
            )
            for a in self.keeper.ledger.allocations.values()
            for address in a.addresses
        ]
        findings = reports.node(self.keeper.ledger, used, now=clock.boottime(), now_unix=0.0)
        self.keeper.commit(findings.change)
        self.reconciler.wake()

    async def add(self, name: str, *, wait: float = 25.0, eni: str = "") -> Granted:
        """One ADD's Allocate."""
        request = b.request(name, cookie=abs(hash(name)) + 1, began=clock.boottime())
        return await self.allocations.allocate(replace(request, eni=eni), wait_seconds=wait)

    def count(self, state: AddressState) -> int:
        return self.keeper.ledger.count(state)

    def check(self) -> None:
        """The invariants that hold at every moment."""
        ledger = self.keeper.ledger
        held = [address for a in ledger.allocations.values() for address in a.addresses]
        assert len(held) == len(set(held)), "I1: an address on two attachments"
        for address in held:
            assert ledger.addresses[address].state is AddressState.ALLOCATED
        assert ledger.count(AddressState.ALLOCATED) == len(held)
        assigned = self.cloud.cloud.assigned()
        kept = ledger.in_state(AddressState.ALLOCATED, AddressState.COOLING)
        assert {a.address for a in kept} <= assigned, "I2: a used or cooling address was given back"
        if self.reconciler.max_pods:
            available = ledger.in_state(AddressState.AVAILABLE)
            ready = sum(ledger.enis[a.eni_id].takes_pods for a in available) + len(held)
            assert ready <= self.reconciler.max_pods, "I8: more than max_pods"


@asynccontextmanager
async def running(engine: Engine) -> AsyncIterator[Engine]:
    """The reconciler running beside the block; its failure fails the block."""
    engine.keeper.listen(lambda change, after: None)
    task = asyncio.create_task(engine.reconciler.run(), name="reconciler")
    if engine.keeper.ledger.enis:
        engine.report()
    try:
        yield engine
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def new_store(directory: Path, name: str = "ipamd.db") -> Store:
    return Store.create(directory / name, boot_id="boot")
