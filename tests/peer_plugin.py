"""aws-node's plugin as a client of rpc.CNIBackend, with a kernel that remembers what it wired.

The order of calls and what each error means to it are the plugin's: AddNetwork, wire; DelNetwork,
tear down; an error with `datastore: unknown pod` is a success. Time is the test's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import grpc
import grpc.aio
from compat import rpc_pb2 as pb
from compat import rpc_pb2_grpc as pb_grpc

from ipamd import cni_backend
from ipamd.metrics import Metrics
from ipamd.model import AddressState
from ipamd.store import Store
from tests import builders as b
from tests.engine import Engine, running
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud

MARGIN_SECONDS = 0.001


class ManualClock:
    """CLOCK_BOOTTIME in the test's hands."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class PodCall:
    """A pod as the runtime names it to the plugin."""

    container_id: str
    ifname: str = "eth0"
    network_name: str = "aws-cni"
    is_multi_nic: bool = False

    def add(self) -> pb.AddNetworkRequest:
        return pb.AddNetworkRequest(
            K8S_POD_NAME=f"pod-{self.container_id}",
            K8S_POD_NAMESPACE="default",
            K8S_POD_INFRA_CONTAINER_ID=self.container_id,
            Netns=f"/var/run/netns/{self.container_id}",
            IfName=self.ifname,
            NetworkName=self.network_name,
            ContainerID=self.container_id,
            ClientVersion="v1.20.4-eksbuild.1",
            RequiresMultiNICAttachment=self.is_multi_nic,
        )

    def delete(self, reason: str = "PodDeleted") -> pb.DelNetworkRequest:
        return pb.DelNetworkRequest(
            K8S_POD_NAME=f"pod-{self.container_id}",
            K8S_POD_NAMESPACE="default",
            K8S_POD_INFRA_CONTAINER_ID=self.container_id,
            Reason=reason,
            IfName=self.ifname,
            NetworkName=self.network_name,
            ContainerID=self.container_id,
            ClientVersion="v1.20.4-eksbuild.1",
        )


@dataclass
class Kernel:
    """Which pod each address is wired to, and when the node last had anything of an address."""

    clock: ManualClock
    cooldown_seconds: float
    wired: dict[str, str] = field(default_factory=dict)
    left_at: dict[str, float] = field(default_factory=dict)
    reuses: int = 0

    def wire(self, address: str, pod: str) -> None:
        """Fails the test where the address is another pod's, or was until a moment ago."""
        holder = self.wired.get(address, pod)
        assert holder == pod, f"{address} is still wired to {holder}"
        left = self.left_at.pop(address, None)
        if left is not None:
            self.reuses += 1
            waited = self.clock.now - left
            assert waited >= self.cooldown_seconds - MARGIN_SECONDS, f"{address} after {waited} s"
        self.wired[address] = pod

    def tear_down(self, address: str, pod: str) -> None:
        if self.wired.get(address) == pod:
            del self.wired[address]
            self.left_at[address] = self.clock.now


class TearDownFailed(Exception):
    """The plugin's DEL ends with an error; the runtime will repeat it."""


class Plugin:
    """ADD and DEL of one node."""

    def __init__(self, stub: pb_grpc.CNIBackendStub, kernel: Kernel) -> None:
        self.stub = stub
        self.kernel = kernel

    async def add(self, pod: PodCall) -> tuple[str, ...]:
        """The pod's addresses, wired."""
        reply = await self.stub.AddNetwork(pod.add())
        assert reply.Success
        addresses = tuple(m.IPv4Addr for m in reply.IPAllocationMetadata)
        for address in addresses:
            self.kernel.wire(address, pod.container_id)
        return addresses

    async def delete(self, pod: PodCall, *, fails: bool = False) -> tuple[str, ...]:
        """What ipamd answered, torn down; TearDownFailed where `fails` says so."""
        try:
            reply = await self.stub.DelNetwork(pod.delete())
        except grpc.aio.AioRpcError as e:
            if cni_backend.UNKNOWN_POD not in (e.details() or ""):
                raise
            return ()
        assert reply.Success
        addresses = tuple(m.IPv4Addr for m in reply.IPAllocationMetadata)
        if fails:
            raise TearDownFailed(addresses)
        for address in addresses:
            self.kernel.tear_down(address, pod.container_id)
        return addresses


class Backend:
    """A node that serves the plugin: engine, server and client, for one life of ipamd."""

    def __init__(self, engine: Engine, plugin: Plugin, channel: grpc.aio.Channel) -> None:
        self.engine = engine
        self.plugin = plugin
        self.stub = plugin.stub
        self.channel = channel

    async def pass_time(self, seconds: float) -> None:
        """Move the clock, and wait until the reconciler has seen what that ends."""
        self.plugin.kernel.clock.now += seconds
        self.engine.reconciler.wake()
        await self.settle()

    async def settle(self) -> None:
        """Until the loop has nothing left that is due at once."""
        for _ in range(20):
            await asyncio.sleep(0)

    async def idle(self, available: int) -> None:
        """Wait until so many addresses are available."""
        await until(lambda: self.engine.count(AddressState.AVAILABLE) >= available)


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop run until something holds; the sockets beside it take real time."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - nobody tells when
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(
    store: Store, cloud: MemoryCloud, socket: Path, kernel: Kernel, **environ: str
) -> AsyncIterator[Backend]:
    """One life of ipamd on a store, ended as by SIGKILL: nothing is written at its end."""
    environ = {"IP_COOLDOWN_PERIOD": str(int(kernel.cooldown_seconds)), **environ}
    with mock.patch("ipamd.clock.boottime", kernel.clock):
        engine = Engine(store, AsyncMemoryCloud(cloud, delay_seconds=0), **environ)
        servicer = cni_backend.CniBackend(
            engine.keeper,
            engine.allocations,
            engine.reconciler,
            Metrics(),
            b.settings(**environ),
        )
        server = await cni_backend.start(servicer, socket)
        try:
            async with running(engine), grpc.aio.insecure_channel(f"unix:{socket}") as channel:
                stub = pb_grpc.CNIBackendStub(channel)
                yield Backend(engine, Plugin(stub, kernel), channel)
        finally:
            await server.stop(0)
