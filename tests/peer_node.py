"""A node that aws-node's agent has run on, in virtual time: its pods, its checkpoint, its cloud.

The kernel is a table of pod addresses. What aws-node's plugin wired has no name in it (vpc-cnid
reads names from the links that it made itself); `life` runs one process of ipamd, from the real
start of its store to its end, with reports of that kernel every few seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, cast
from unittest import mock

from ipam_api.v1 import ipam_pb2 as pb

from ipamd import app, clock, grpc_server, migration
from ipamd.cloud import AddressChange, InterfaceRequest
from ipamd.metrics import Metrics
from ipamd.migration_format import Entry, text_of
from ipamd.migration_leaks import Leaks
from ipamd.model import Allocation, AttachmentKey, IPAddress
from ipamd.pool.attachments import Request
from ipamd.settings import Settings
from ipamd.store import Store
from tests import builders as b
from tests.engine import Engine
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud

REPORT_SECONDS = 2.0


class Crash(BaseException):
    """The process was killed here. No handler of the product may stop it."""


class Writes:
    """Counts the writes of the store and kills the process before or after one of them."""

    def __init__(self, crash_at: int = 0, when: str = "after") -> None:
        self.crash_at = crash_at
        self.when = when
        self.count = 0
        self.has_crashed = False

    @contextmanager
    def patched(self) -> Iterator[None]:
        """Both kinds of write of every Store are counted within the block."""
        with (
            mock.patch.object(Store, "commit", self._counted(Store.commit)),
            mock.patch.object(Store, "note", self._counted(Store.note)),
            mock.patch.object(migration, "_write", self._counted(migration._write)),
        ):
            yield

    def _counted(self, write: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            if self.has_crashed:
                raise Crash("dead")
            self.count += 1
            is_here = self.count == self.crash_at
            self._crash_if(is_here and self.when == "before")
            write(*arguments)
            self._crash_if(is_here)

        return counted

    def _crash_if(self, is_here: bool) -> None:
        if is_here:
            self.has_crashed = True
            raise Crash(f"{self.when} write {self.count}")


class OnNode(Engine):
    """An engine that hears the kernel of its node through the real door."""

    def __init__(self, store: Store, cloud: MemoryCloud, **environ: str) -> None:
        super().__init__(store, AsyncMemoryCloud(cloud), **environ)
        self.servicer = grpc_server.IpamServicer(
            self.keeper, self.allocations, self.reconciler, Metrics(), Leaks(self.keeper)
        )

    def report(self) -> None:
        """Reports are the node's, see PeerNode."""

    async def hear(self, request: pb.ReportNodeRequest) -> pb.ReportNodeReply:
        return await self.servicer.ReportNode(request, cast("grpc_server.Context", None))


Story = Callable[["PeerNode", OnNode], Awaitable[None]]


@dataclass
class PeerNode:
    """The node. `kernel` maps a pod address to the key on its link, None on aws-node's links."""

    directory: Path
    environ: dict[str, str]
    cloud: MemoryCloud
    kernel: dict[IPAddress, AttachmentKey | None] = field(default_factory=dict)
    now: float = 0.0

    @property
    def checkpoint(self) -> Path:
        return self.directory / "aws-node" / "ipam.json"

    @property
    def settings(self) -> Settings:
        return b.settings(
            **self.environ,
            VPC_IPAMD_RUN_DIR=str(self.directory),
            VPC_IPAMD_STORE_DIR=str(self.directory),
            AWS_VPC_K8S_CNI_BACKING_STORE=str(self.checkpoint),
        )

    def save(self, entries: tuple[Entry, ...], card: int = 0) -> None:
        """As aws-node's agent does after each change."""
        self.checkpoint.parent.mkdir(exist_ok=True)
        migration.path_of(self.checkpoint, card).write_text(text_of(entries))

    def open_store(self) -> Store:
        """As a start of ipamd opens it."""
        return app._ready_store(self.settings)

    def report(self, engine: OnNode) -> pb.ReportNodeRequest:
        """All ENIs ready, and every address of the kernel."""
        request = pb.ReportNodeRequest(epoch=engine.keeper.ledger.epoch)
        for eni_id in engine.keeper.ledger.enis:
            request.enis.add(eni_id=eni_id, is_ready=True)
        for address, key in self.kernel.items():
            seen = request.addresses.add(address=str(address), link_name="eni1")
            if key is not None:
                seen.key.container_id, seen.key.ifname = key.container_id, key.ifname
                seen.netns_cookie, seen.network_name = 7, "vpc-ipamd"
                seen.pod_namespace, seen.pod_name = "default", key.container_id
        return request

    async def add(self, engine: OnNode, name: str) -> IPAddress:
        """A pod that vpc-cnid wires; fails the test where its address is another pod's."""
        request = self.request(name)
        granted = await engine.allocations.allocate(request, wait_seconds=60.0)
        address = granted.allocation.address
        assert self.kernel.get(address, request.key) == request.key, f"{address} is in use"
        assert address in self.cloud.assigned()
        self.kernel[address] = request.key
        return address

    def request(self, name: str) -> Request:
        return b.request(name, cookie=7, began=clock.boottime())

    def delete(self, engine: OnNode, key: AttachmentKey) -> None:
        """A DEL, whoever wired the pod."""
        held = engine.keeper.ledger.allocations[key]
        for address in held.addresses:
            self.kernel.pop(address, None)
        engine.allocations.release(key)

    async def life(self, story: Story, writes: Writes | None = None) -> bool:
        """One process, until the story ends (True) or it is killed (False)."""
        writes = writes or Writes()
        with writes.patched():
            try:
                store = self.open_store()
            except Crash:
                return False
            try:
                return await self._live(OnNode(store, self.cloud, **self.environ), story, writes)
            finally:
                store.close()

    async def _live(self, engine: OnNode, story: Story, writes: Writes) -> bool:
        tasks = [
            asyncio.ensure_future(story(self, engine)),
            asyncio.ensure_future(engine.reconciler.run()),
            asyncio.ensure_future(self._reporting(engine)),
        ]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        has_ended = tasks[0].done() and not writes.has_crashed
        for task in tasks:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        faults = [o for o in outcomes if isinstance(o, Exception)]
        if faults and not writes.has_crashed:
            raise faults[0]
        assert has_ended or writes.has_crashed
        return has_ended

    async def _reporting(self, engine: OnNode) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            await engine.hear(self.report(engine))


def entry(address: IPAddress, container_id: str) -> Entry:
    """As aws-node's agent writes it for a pod of one interface."""
    return Entry(
        network_name="aws-cni",
        container_id=container_id,
        ifname="eth0",
        addresses=(address,),
        allocated_unix_ns=1_700_000_000_000_000_000 + int(address),
        pod_namespace="default",
        pod_name=f"pod-{container_id}",
        interfaces=1,
    )


MODES = {
    "secondary": {"WARM_IP_TARGET": "3"},
    "prefixes": {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"},
}


def peer_node(directory: Path, mode: str, *, pods: int = 8) -> tuple[PeerNode, tuple[Entry, ...]]:
    """Two ENIs as aws-node left them, with pods on both, and their entries in the checkpoint."""
    cloud = MemoryCloud(IPv4Network("10.0.0.0/24"))
    is_prefix = mode == "prefixes"
    cloud.apply(
        AddressChange(eni_id=b.PRIMARY, add=0 if is_prefix else 5, add_prefixes=int(is_prefix))
    )
    cloud.create_interface(
        InterfaceRequest(
            token="peer",
            subnet_id=b.SUBNET,
            security_group_ids=("sg-01",),
            secondary_addresses=0 if is_prefix else 5,
            prefixes=int(is_prefix),
            device_index=1,
            network_card=0,
            reason="aws-node",
        )
    )
    node = PeerNode(directory, {**MODES[mode], "IP_COOLDOWN_PERIOD": "30"}, cloud)
    used = sorted(cloud.assigned(), key=int)[:: 1 if mode == "secondary" else 4][:pods]
    entries = tuple(entry(address, f"peer-{number}") for number, address in enumerate(used))
    node.kernel = dict.fromkeys(used)
    node.save(entries)
    return node, entries


def held_by(allocations: dict[AttachmentKey, Allocation]) -> dict[str, IPAddress]:
    """Container -> address."""
    return {key.container_id: a.address for key, a in allocations.items()}
