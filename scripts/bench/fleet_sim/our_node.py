"""One node under our daemon: the real pool engine on the emulated account.

`ipamd.reconciler`, `ipamd.allocations` and `ipamd.keeper` run as in the daemon. Two things around
them are replaced: the store keeps nothing (durability is not measured here, and 500 databases would
measure the disk), and vpc-cnid is a delay after which a new ENI is reported ready.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Never

import structlog

from ipamd import clock, settings
from ipamd.allocations import Allocations
from ipamd.errors import NoAddressAvailable, NotReady
from ipamd.keeper import Keeper
from ipamd.live_config import LiveConfig
from ipamd.metrics import Metrics
from ipamd.model import AttachmentKey, AttemptId, ContainerId
from ipamd.pool import reports
from ipamd.pool.attachments import Request
from ipamd.pool.ledger import Change, Ledger
from ipamd.reconciler import Reconciler
from ipamd.store import Store
from providers.aws.config import AwsConfig
from scripts.bench.fleet_sim.ec2 import Account, Instance
from scripts.bench.fleet_sim.loads import Load
from scripts.bench.fleet_sim.our_cloud import VirtualCloud

ADD_WAIT_SECONDS = 25.0
"""How long vpc-cnid lets an ADD wait (cni_shim.add.ADD_WAIT_SECONDS)."""

READY_SECONDS = 0.05
"""From a new ENI in WatchNode to vpc-cnid's report that it is ready, assumed; the kernel's part of
it is a dozen netlink messages."""


FLUSH_SECONDS = 0.02
"""From a flush in WatchNode to vpc-cnid's report that it is done: a table of some thousand entries
(docs/pool.md)."""


class MemoryStore(Store):
    """A store without a disk."""

    def __init__(self) -> None:
        self._notes: dict[str, str] = {}

    def load(self) -> Ledger:
        """An empty ledger: every node of a run is new."""
        return Ledger(epoch="fleet", has_heard_node=False)

    def commit(self, change: Change) -> None:
        """Nothing to keep: the keeper holds the ledger."""

    def note(self, name: str, value: str) -> None:
        self._notes[name] = value

    def noted(self, name: str) -> str:
        return self._notes.get(name, "")


def quiet() -> None:
    """No log lines in this process: hours of 500 nodes would be millions."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL),
        cache_logger_on_first_use=True,
    )


class OurNode:
    """A node and its engine."""

    def __init__(self, account: Account, instance: Instance, load: Load) -> None:
        most = load.node_type.max_pods(use_prefixes=load.setting.use_prefixes)
        environ = dict(load.setting.environ) | {"VPC_IPAMD_MAX_PODS": str(most)}
        config = AwsConfig(uses_prefixes=load.setting.use_prefixes)
        self.keeper = Keeper(MemoryStore())
        self.reconciler = Reconciler(
            self.keeper,
            VirtualCloud(account, instance, config),
            LiveConfig(settings.load(environ).settings),
            Metrics(),
            waiting=lambda: self.allocations.waiting,
        )
        self.allocations = Allocations(
            self.keeper,
            rules=self.reconciler.rules,
            explain=self.reconciler.shortage,
            wake=self.reconciler.wake,
        )
        self.keeper.listen(self._set_up_enis)
        self.reconciler.listen(self._flush_soon)
        self._attempts = 0

    async def run(self) -> Never:
        await self.reconciler.run()

    async def add(self, pod: str) -> bool:
        """Allocate as vpc-cnid asks for it: waiting for a while, then failing."""
        self._attempts += 1
        request = Request(
            key=_key(pod),
            network_name="fleet",
            attempt_id=AttemptId(f"{self._attempts:016x}"),
            netns_cookie=self._attempts,
            pod_namespace="default",
            pod_name=pod,
            pod_uid="",
            began_boottime=clock.boottime(),
        )
        try:
            await self.allocations.allocate(request, wait_seconds=ADD_WAIT_SECONDS)
        except (NoAddressAvailable, NotReady):
            return False
        return True

    async def hope(self) -> None:
        """It waits inside of `add`."""

    def delete(self, pod: str) -> None:
        self.allocations.release(_key(pod))

    def _set_up_enis(self, change: Change, after: Ledger) -> None:
        if any(
            not after.enis[e.eni_id].is_ready for e in change.put_enis if e.eni_id in after.enis
        ):
            asyncio.get_running_loop().call_later(READY_SECONDS, self._report)

    def _flush_soon(self) -> None:
        asyncio.get_running_loop().call_later(FLUSH_SECONDS, self._flush)

    def _flush(self) -> None:
        self.reconciler.cleared(self.reconciler.cooldowns.asked)

    def _report(self) -> None:
        """What vpc-cnid reports once the links stand: every ENI ready, the pods that we know."""
        ledger = self.keeper.ledger
        change = reports.readiness(ledger, dict.fromkeys(ledger.enis, True), now=clock.boottime())
        self.keeper.commit(change)
        pods = [
            reports.ObservedPod(
                address=address,
                link_name="eni",
                key=held.key,
                netns_cookie=held.netns_cookie,
                network_name=held.network_name,
                pod_namespace=held.pod_namespace,
                pod_name=held.pod_name,
            )
            for held in ledger.allocations.values()
            for address in held.addresses
        ]
        found = reports.node(self.keeper.ledger, pods, now=clock.boottime(), now_unix=clock.unix())
        self.keeper.commit(found.change)
        self.reconciler.report_accepted(change.merged(found.change))


def _key(pod: str) -> AttachmentKey:
    return AttachmentKey(container_id=ContainerId(pod), ifname="eth0")
