"""Kill -9 on Azure: the engine, the real provider with its journal, and the emulated ARM.

As for EC2, each story is stopped after store writes, beside every write of addresses and after each
change of the journal (noted before it is sent; on its way; over, and not yet in the store), started
again, and has to converge: the ledger, the journal and the cloud agree, no address is on two pods,
no write of ours has displaced another, and nothing of others is gone. The process that starts again
is stopped at each of its steps too. What an address's allocation alone adds is EC2's stories'.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from unittest import mock

import pytest

from ipamd.cloud import CloudEni, EniStatus
from ipamd.model import EniId, IPAddress
from providers import shared_reads
from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_faults import Applies, ArmFaultKind
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
        journal = self._provider._journal  # type: ignore[attr-defined]
        save = journal._save

        def saving() -> None:
            save()
            self._step("journal")

        journal._save = saving

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


async def a_part_failing(world: World) -> None:
    """The first write of the burst fails, and half of it is applied all the same."""
    await asyncio.sleep(70.0)
    lab = cast("Process", world.cloud).lab
    lab.world.arm.faults.add(
        "PUT",
        "*",
        ArmFaultKind.OPERATION_FAILS,
        code="InternalExecutionError",
        applies=Applies.PART,
    )
    await asyncio.gather(*(world.add(f"p{n}") for n in range(36)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """`before` happens undisturbed, `acts` is cut at each step."""

    make: Callable[[AzureLab], Machine]
    acts: Callable[[World], Awaitable[None]] = growing
    before: Callable[[World], Awaitable[None]] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)


BLOCKS = {"ENABLE_PREFIX_DELEGATION": "true"}

STORIES = {
    "a scale set grows": Story(make=scale_set),
    "a scale set grows by blocks": Story(make=scale_set, environ=BLOCKS),
    "a scale set grows in part": Story(make=scale_set, acts=a_part_failing),
    "a scale set shrinks": Story(make=scale_set, before=growing, acts=shrinking),
    "a NIC grows": Story(make=virtual_machine),
    "a NIC grows in part": Story(make=virtual_machine, acts=a_part_failing),
    "a NIC shrinks": Story(make=virtual_machine, before=growing, acts=shrinking),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lived:
    """Whether each life ended at its step, and the steps of the last one that was to end at one."""

    crashed: tuple[bool, ...]
    names: list[str]


async def visit(
    story: Story, directory: Path, crashes_at: tuple[int, ...], loop: VirtualLoop
) -> Lived:
    """Lives one after the other, each ending at a step (0: not), and one that is not disturbed."""
    lab = AzureLab(clock=LoopClock(loop))
    machine = story.make(lab)
    machine_id = machine.instance_id if isinstance(machine, Instance) else machine.vm_id
    steps = Steps()
    store = new_store(directory, steps)
    process = Process(lab, machine_id, directory, loop)
    cloud = cast("AsyncMemoryCloud", process)
    world = World(store, cloud, VPC_IPAMD_CLOUD="azure", **story.environ)
    if story.before is not None:
        async with world.running():
            await story.before(world)
    steps.count = 0
    steps.names.clear()
    acts, crashed, names = story.acts, [], steps.names
    for crash_at in crashes_at:
        steps.crash_at = crash_at
        crashed.append(await one_life(world, directory, acts))
        store.close()
        if not crashed[-1]:
            return Lived(crashed=tuple(crashed), names=steps.names)
        names, steps, acts = steps.names, Steps(), settling
        store = reopened(directory, steps)
        world.cloud = cast("AsyncMemoryCloud", Process(lab, machine_id, directory, loop))
        world.start_engine(store)
    assert not await one_life(world, directory, settling)
    store.close()
    check_cloud(lab, machine_id, story)
    return Lived(crashed=tuple(crashed), names=names)


async def one_life(world: World, directory: Path, acts: Callable[[World], Awaitable[None]]) -> bool:
    """Whether it was cut by a crash."""
    journal = directory / "azure-writes.json"
    async with world.running():
        crashed = await until_crash(world, acts(world))
        noted = journal.read_bytes() if journal.exists() else None
    if crashed:
        # A thread that is unwound tidies up, which a killed one does not.
        journal.unlink(missing_ok=True)
        if noted is not None:
            journal.write_bytes(noted)
    return crashed


async def settling(world: World) -> None:
    """What a process does that starts again."""
    await asyncio.gather(*(world.add(name) for name in world.resume()))
    await world.settle()


def check_cloud(lab: AzureLab, machine_id: str, story: Story) -> None:
    names = [c.name for c in lab.nics(machine_id)[0].configs]
    assert (FOREIGN in names) is (story.make is scale_set), "somebody else's address is gone"
    operations = lab.world.state.operations._operations.values()
    displaced = [one for one in operations if one.error and "Preempted" in one.error.code]
    assert not displaced, "a write has displaced one that was under way"


def live(name: str, directory: Path, *crashes_at: int) -> Lived:
    directory.mkdir()
    with mock.patch.object(shared_reads, "Future", puppet.Future):
        return virtual_time.run(lambda loop: visit(STORIES[name], directory, crashes_at, loop))


def points_of(lived: Lived) -> list[int]:
    """Steps that are about a call."""
    return [n for n, name in enumerate(lived.names, 1) if name not in PLAIN]


@pytest.mark.parametrize("story", STORIES)
def test_a_kill_at_any_step_of_a_write_loses_nothing(
    story: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = live(story, tmp_path / "whole", 0)
    points = points_of(whole)
    for crash_at in points:
        assert live(story, tmp_path / str(crash_at), crash_at).crashed == (True,)
    with capsys.disabled():
        print(f"\n  {story}: {len(points)} crash points")
    at = [whole.names[n - 1] for n in points]
    assert {"cloud PUT sent", "cloud PUT done"} <= set(at)
    assert at.count("cloud journal") >= 3


@pytest.mark.parametrize("story", ["a scale set grows", "a NIC shrinks"])
def test_a_kill_of_the_process_that_takes_up_a_write_loses_nothing(
    story: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first life ends with its write on its way: the journal knows its URL."""
    names = live(story, tmp_path / "whole", 0).names
    first = names.index("cloud PUT done") + 2
    assert names[first - 1] == "cloud journal"
    points = points_of(live(story, tmp_path / "second", first, 0))
    for crash_at in points:
        lived = live(story, tmp_path / str(crash_at), first, crash_at)
        assert lived.crashed == (True, True)
    with capsys.disabled():
        print(f"\n  {story}, then starts again: {len(points)} crash points")
    assert points
