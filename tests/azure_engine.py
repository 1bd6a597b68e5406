"""The pool engine over the real Azure provider and the emulated ARM, all in virtual time.

The provider blocks in a thread that the loop steps (`scripts.bench.fleet_sim.puppet`); its requests
are answered in process, and the emulator's clock is the loop's. Pods are started as kubelet and
containerd start them: an ADD waits its bounded time, fails with code 11, and comes back as another
sandbox of the same pod.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from unittest import mock
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken
from azure.core.pipeline.transport import HttpTransport
from cni_shim.add import ADD_WAIT_SECONDS

from ipamd.cloud_child import InProcessCloud
from ipamd.errors import NoAddressAvailable
from ipamd.model import AddressState, IPAddress
from providers import shared_reads
from providers.azure.config import AzureConfig
from providers.azure.provider import AzureProvider
from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.http_door import RESET, Answer, Call
from scripts.bench.fleet_sim import puppet
from tests import builders as b
from tests.engine import Engine, new_store, running
from tests.memory_cloud import AsyncMemoryCloud
from tests.sim.azure.lab import AzureLab
from tests.sim.lab import START_UNIX, ManualClock
from tests.unit.azure.arm_fakes import Answer as SdkAnswer
from tests.virtual_time import VirtualLoop, run

KUBELET_SECONDS = (5.0, 15.0)
"""From a failed sandbox to the next: 10 s, half more or less (pkg/kubelet/pod_workers.go)."""


class LoopClock(ManualClock):
    """The emulator's clock is the loop's."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def __call__(self) -> float:
        return START_UNIX + self._loop.time()


class Wire(HttpTransport[Any, Any]):
    """azure-core's transport to an emulator in this process; `sent` is who asked for what, when."""

    def __init__(self, lab: AzureLab) -> None:
        self._lab = lab
        self.sent: list[tuple[float, str, str]] = []
        self.on_step: Callable[[str], None] = lambda step: None  # beside each write

    def send(self, request: Any, **options: Any) -> Any:
        url = urlsplit(request.url)
        self.sent.append((self._lab.clock(), request.method, url.path))
        content = request.content or b""
        call = Call(
            method=request.method,
            path=f"{url.path}?{url.query}",
            headers={name.lower(): str(value) for name, value in request.headers.items()}
            | {"host": url.netloc},
            body=content if isinstance(content, bytes) else str(content).encode(),
            peer="127.0.0.1",
        )
        self._step(request.method, "PUT sent")
        answer = _answered(self._lab.world.respond(call))
        self._step(request.method, "PUT done")
        made = SdkAnswer(answer.status, answer.body)
        made.headers = dict(answer.headers)
        made.request = request
        return made

    def _step(self, method: str, what: str) -> None:
        if method == "PUT":
            self.on_step(what)

    def writes(self, since: float = 0.0) -> list[float]:
        """When addresses were written."""
        return [when for when, method, _ in self.sent if method == "PUT" and when >= since]

    def sent_since(self, since: float) -> list[tuple[float, str, str]]:
        """Every request since a time of the emulator."""
        return [one for one in self.sent if one[0] >= since]

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        """Nothing to close."""

    def __exit__(self, *args: object) -> None:
        """Nothing to close."""


class _Metadata:
    """What urllib3's PoolManager is to the provider, answered by the emulator's IMDS."""

    def __init__(self, lab: AzureLab) -> None:
        self._lab = lab

    def request(self, method: str, url: str, *, headers: dict[str, str], **more: Any) -> Any:
        asked = urlsplit(url)
        sent = {name.lower(): value for name, value in headers.items()}
        path = f"{asked.path}?{asked.query}"
        call = Call(method=method, path=path, headers=sent, body=b"", peer="127.0.0.1")
        answer = _answered(self._lab.world.imds.respond(call))
        return SimpleNamespace(status=answer.status, data=answer.body)

    def clear(self) -> None:
        """Nothing to close."""


def _answered(answer: Answer | None) -> Answer:
    assert answer is not None and answer is not RESET, "the emulator hung up"
    return answer


@dataclass(slots=True)
class _Credential:
    token: str

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        return AccessToken(self.token, int(time.time()) + 86400)


class AzureCloud(InProcessCloud):
    """The provider as the event loop calls it."""

    def __init__(self, lab: AzureLab, machine_id: str, directory: Path, loop: VirtualLoop) -> None:
        self.lab, self.machine_id = lab, machine_id
        self.wire = Wire(lab)
        pool = mock.patch("providers.azure.imds.urllib3.PoolManager", return_value=_Metadata(lab))
        with pool:
            provider = AzureProvider(
                AzureConfig(journal_path=directory / "azure-writes.json"),
                credential=_Credential(lab.token),
                monotonic=loop.time,
                sleep=puppet.sleep,
                chance=random.random,
                transport=self.wire,
            )
        super().__init__(provider)

    async def _call(self, method: str, *arguments: Any, seconds: float | None = None) -> Any:
        del seconds  # nothing hangs here
        return await puppet.run(lambda: getattr(self._provider, method)(*arguments))

    @property
    def cloud(self) -> AzureCloud:
        """What `Engine.check` asks for what is assigned."""
        return self

    def assigned(self) -> set[IPAddress]:
        """Every address that pods may have, those inside blocks included."""
        shown = self.lab.addresses(self.machine_id).values()
        return {address for text in shown for address in IPv4Network(text)}


@dataclass(slots=True)
class Burst:
    """Pods that start, and what became of them. Times are seconds from the first pod on."""

    began: float
    waits: list[float] = field(default_factory=list)
    ended: list[float] = field(default_factory=list)
    retries: int = 0


@dataclass(slots=True, kw_only=True)
class Node:
    """One node, its engine and its cloud."""

    engine: Engine
    cloud: AzureCloud
    lab: AzureLab

    def available(self) -> int:
        return self.engine.count(AddressState.AVAILABLE)

    async def burst(
        self, pods: int, per_second: float, seconds: float, *, name: str = "pod"
    ) -> Burst:
        """So many pods at a pace; returns after `seconds`, whatever became of them."""
        loop = asyncio.get_running_loop()
        burst = Burst(began=loop.time())
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._pod(f"{name}{n}", n / per_second, burst))
                for n in range(pods)
            ]
            await asyncio.sleep(seconds)
            for task in tasks:
                task.cancel()
        return burst

    async def _pod(self, name: str, starts: float, burst: Burst) -> None:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(starts)
        began = loop.time()
        for sandbox in itertools.count():
            key = f"{name}-{sandbox}"
            request = b.request(key, cookie=abs(hash(key)) + 1, began=loop.time())
            request = replace(request, pod_name=name)
            try:
                await self.engine.allocations.allocate(request, wait_seconds=ADD_WAIT_SECONDS)
            except NoAddressAvailable:
                burst.retries += 1
                self.engine.allocations.release(request.key)  # containerd's DEL
                await asyncio.sleep(random.uniform(*KUBELET_SECONDS))
            else:
                burst.waits.append(loop.time() - began)
                burst.ended.append(loop.time() - burst.began)
                return

    def figures(self, name: str, burst: Burst, writes: int) -> str:
        """One line for people."""
        waits = sorted(burst.waits)
        p95 = waits[int(0.95 * (len(waits) - 1))]
        return (
            f"{name}: {len(waits)} pods served, the last {max(burst.ended):.1f} s after the first "
            f"came; waits median {statistics.median(waits):.1f} s, p95 {p95:.1f} s, "
            f"max {waits[-1]:.1f} s; {burst.retries} retries after code 11; {writes} writes; "
            f"{len(self.cloud.assigned()) - 1} addresses at the end"
        )


def play(
    directory: Path,
    make: Callable[[AzureLab], Instance | Vm],
    scenario: Callable[[Node], Awaitable[None]],
    **environ: str,
) -> None:
    """Run a scenario on a machine of an emulated Azure whose buckets are the real ones."""
    store = new_store(directory)

    async def main(loop: VirtualLoop) -> None:
        lab = AzureLab(clock=LoopClock(loop))
        lab.world.set_buckets("real")
        machine = make(lab)
        machine_id = machine.instance_id if isinstance(machine, Instance) else machine.vm_id
        cloud = AzureCloud(lab, machine_id, directory, loop)
        engine = Engine(store, cast("AsyncMemoryCloud", cloud), VPC_IPAMD_CLOUD="azure", **environ)
        engine.keeper.listen(lambda change, after: engine.check())
        async with running(engine):
            await scenario(Node(engine=engine, cloud=cloud, lab=lab))

    try:
        with mock.patch.object(shared_reads, "Future", puppet.Future):
            run(main)
    finally:
        store.close()
