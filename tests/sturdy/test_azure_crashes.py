"""Kill -9 on Azure: the engine, the real provider with its journal, and the emulated ARM.

As for EC2, each story is stopped after store writes and beside every write of addresses, started
again, and has to converge: the ledger, the journal and the cloud agree, no address is on two pods,
and nothing of others is gone. What an address's allocation alone adds is left to EC2's stories.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from ipamd.cloud import CloudEni, EniStatus
from ipamd.model import EniId, IPAddress
from providers import shared_reads
from providers.sim.arm_compute_records import Instance, Vm
from scripts.bench.fleet_sim import puppet
from tests import builders as b
from tests import virtual_time
from tests.azure_engine import AzureCloud, LoopClock
from tests.memory_cloud import AsyncMemoryCloud
from tests.sim.azure.lab import AzureLab, config
from tests.sturdy.test_crashes import until_crash
from tests.sturdy.world import Steps, World, new_store, reopened
from tests.virtual_time import VirtualLoop

Machine = Instance | Vm
FOREIGN = "somebody-elses"
PLAIN = {"store put_allocations", "store addresses", "store drop_allocations"}
"""Steps that no cloud call is about."""


class AzureTruth:
    """What `World` looks at: a machine's NICs as they are, whatever a look would say."""

    def __init__(self, lab: AzureLab, machine_id: str) -> None:
        self._lab, self._machine_id = lab, machine_id
        self.on_step: Callable[[str], None] = lambda step: None

    @property
    def enis(self) -> dict[EniId, CloudEni]:
        return {EniId(nic.key): _eni(nic) for nic in self._lab.nics(self._machine_id)}

    def taken_by_others(self) -> set[IPAddress]:
        return set()


def _eni(nic: Any) -> CloudEni:
    own = [c for c in nic.configs[1:] if c.name != FOREIGN]
    return CloudEni(
        eni_id=EniId(nic.key),
        mac=nic.mac,
        status=EniStatus.ATTACHED,
        subnet_id=b.SUBNET,
        subnet_cidr=b.CIDR,
        primary_address=nic.configs[0].address,
        addresses=tuple(c.address for c in own if not c.is_block),
        prefixes=tuple(c.cidr for c in own if c.is_block),
        device_index=0,
        network_card=0,
        is_primary=True,
        is_managed=True,
    )


class Process(AzureCloud):
    """One life of the provider, over what outlives it: the lab and the journal."""

    def __init__(self, lab: AzureLab, machine_id: str, directory: Path, loop: VirtualLoop) -> None:
        super().__init__(lab, machine_id, directory, loop)
        self.truth = AzureTruth(lab, machine_id)
        self.on_call: Callable[[str], None] = lambda method: None
        self.in_flight: list[Any] = []
        self.wire.on_step = self._step

    def _step(self, step: str) -> None:
        self.truth.on_step(step)

    @property
    def cloud(self) -> Any:
        return self.truth


def scale_set(lab: AzureLab) -> Machine:
    lab.compute(write_seconds=60.0)
    instance = lab.instance()
    lab.write_model(instance, config(FOREIGN))  # it is under way when the node starts
    return instance


def virtual_machine(lab: AzureLab) -> Machine:
    lab.set(write_seconds=5.0)
    return lab.vm()


async def growing(world: World) -> None:
    await asyncio.sleep(70.0)
    await asyncio.gather(*(world.add(f"p{n}") for n in range(36)))
    await asyncio.sleep(20.0)


async def shrinking(world: World) -> None:
    for name in list(world.pods):
        world.delete(name)
    await asyncio.sleep(900.0)


STORIES: dict[str, tuple[Callable[[AzureLab], Machine], bool]] = {
    "a scale set grows": (scale_set, False),
    "a scale set shrinks": (scale_set, True),
    "a NIC grows": (virtual_machine, False),
    "a NIC shrinks": (virtual_machine, True),
}


async def visit(
    story: str, directory: Path, crash_at: int, loop: VirtualLoop
) -> tuple[bool, list[str]]:
    """One life with a crash at one step: whether it was reached, and the names of the steps."""
    make, is_shrinking = STORIES[story]
    lab = AzureLab(clock=LoopClock(loop))
    machine = make(lab)
    machine_id = machine.instance_id if isinstance(machine, Instance) else machine.vm_id
    steps = Steps()
    store = new_store(directory, steps)
    process = Process(lab, machine_id, directory, loop)
    world = World(store, cast("AsyncMemoryCloud", process), VPC_IPAMD_CLOUD="azure")
    if is_shrinking:
        async with world.running():
            await growing(world)
    steps.count, steps.crash_at = 0, crash_at
    steps.names.clear()
    ran: Awaitable[None] = shrinking(world) if is_shrinking else growing(world)
    async with world.running():
        crashed = await until_crash(world, ran)
        journal = directory / "azure-writes.json"
        noted = journal.read_bytes() if journal.exists() else None
    store.close()
    if crashed:
        # A thread that is unwound tidies up, which a killed one does not.
        journal.unlink(missing_ok=True)
        if noted is not None:
            journal.write_bytes(noted)
        await next_life(world, directory, Process(lab, machine_id, directory, loop))
        names = [c.name for c in lab.nics(machine_id)[0].configs]
        assert (FOREIGN in names) is (make is scale_set), "somebody else's address is gone"
    return crashed, steps.names


async def next_life(world: World, directory: Path, process: Process) -> None:
    world.cloud = cast("AsyncMemoryCloud", process)
    store = reopened(directory, Steps())
    world.start_engine(store)
    async with world.running():
        await asyncio.gather(*(world.add(name) for name in world.resume()))
        await world.settle()
    store.close()


def live(story: str, directory: Path, crash_at: int) -> tuple[bool, list[str]]:
    directory.mkdir()
    with mock.patch.object(shared_reads, "Future", puppet.Future):
        return virtual_time.run(lambda loop: visit(story, directory, crash_at, loop))


@pytest.mark.parametrize("story", STORIES)
def test_a_kill_at_any_step_of_a_write_loses_nothing(
    story: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, names = live(story, tmp_path / "whole", 0)
    points = [n for n, name in enumerate(names, 1) if name not in PLAIN]
    for crash_at in points:
        is_reached, _ = live(story, tmp_path / str(crash_at), crash_at)
        assert is_reached
    with capsys.disabled():
        print(f"\n  {story}: {len(points)} crash points")
    assert {"cloud PUT sent", "cloud PUT done"} <= {names[n - 1] for n in points}
    assert len(points) >= 4
