"""Kill -9 at every durable step: each workflow is stopped after every store write and every cloud
step in turn, started again, and has to converge with nothing leaked and no address on two pods.

A call that was on its way when the process died is lost, has landed already, or lands late, after
the next process has begun to look around; each is tried. The number of points is printed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from ipamd.model import SubnetId
from tests import virtual_time
from tests.memory_cloud import AsyncMemoryCloud, MemoryCloud
from tests.memory_vpc import MemorySubnet
from tests.sturdy.world import Crash, Steps, World, new_store, reopened

Story = Callable[[World], Awaitable[None]]

PREFIX = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}
FATES = ("lost", "landed", "late")
LATE_SECONDS = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """`before` happens undisturbed; `story` is cut at each step; `then` are other settings that the
    process of the story starts with."""

    story: Story
    environ: dict[str, str] = field(default_factory=dict)
    before: Story | None = None
    then: dict[str, str] | None = None
    cloud: Callable[[], MemoryCloud] = MemoryCloud


async def pods(world: World, first: int, count: int) -> None:
    await asyncio.gather(*(world.add(f"p{n}") for n in range(first, first + count)))


def adding(count: int, first: int = 0) -> Story:
    async def story(world: World) -> None:
        await asyncio.sleep(10.0)
        await pods(world, first, count)
        await asyncio.sleep(20.0)

    return story


def deleting(count: int, wait: float) -> Story:
    async def story(world: World) -> None:
        for n in range(count):
            world.delete(f"p{n}")
        await asyncio.sleep(wait)

    return story


async def replacing(world: World) -> None:
    for n in range(6):
        world.delete(f"p{n}")
        await world.add(f"q{n}")
        await asyncio.sleep(8.0)


async def changing(world: World) -> None:
    """After a change of mode: old pods go, new ones come, what is idle of the old kind leaves."""
    await asyncio.sleep(60.0)
    for n in range(4):
        world.delete(f"p{n}")
        await world.add(f"q{n}")
    await asyncio.sleep(150.0)


async def healing(world: World) -> None:
    """No /28 is free at first; neighbours leave later."""
    await pods(world, 0, 3)
    world.cloud.cloud.vpc.subnets[SubnetId("subnet-01")].free.extend(
        list(IPv4Network("10.0.0.0/24"))[128:240]
    )
    await asyncio.sleep(400.0)


def fragmented() -> MemoryCloud:
    cloud = MemoryCloud()
    subnet = cloud.vpc.subnets[SubnetId("subnet-01")]
    del subnet.free[124:]
    subnet.fragment()
    return cloud


def with_ipv6() -> MemoryCloud:
    return MemoryCloud(cidr_v6=IPv6Network("2001:db8:0:1::/64"))


def with_a_second_subnet() -> MemoryCloud:
    cloud = MemoryCloud()
    cloud.vpc.add(MemorySubnet(SubnetId("subnet-0a"), IPv4Network("10.0.8.0/24")))
    return cloud


ENICONFIG = """
apiVersion: crd.k8s.amazonaws.com/v1alpha1
kind: ENIConfig
metadata: {name: default}
spec: {subnet: subnet-0a, securityGroups: [sg-0a]}
"""

WORKFLOWS = {
    "grow by address": Workflow(environ={"WARM_IP_TARGET": "3"}, story=adding(8)),
    "grow by prefix": Workflow(environ=PREFIX, story=adding(20)),
    "grow by ENI": Workflow(story=adding(14)),
    "shrink": Workflow(
        environ={"WARM_IP_TARGET": "2"}, before=adding(14), story=deleting(12, 200.0)
    ),
    "shrink prefixes": Workflow(environ=PREFIX, before=adding(40), story=deleting(38, 300.0)),
    "release": Workflow(environ={"WARM_IP_TARGET": "2"}, before=adding(6), story=replacing),
    "change to prefixes": Workflow(before=adding(12), then=PREFIX, story=changing),
    "change from prefixes": Workflow(environ=PREFIX, before=adding(12), then={}, story=changing),
    "fall back and heal": Workflow(environ=PREFIX, cloud=fragmented, story=healing),
    "ipv6": Workflow(
        environ={"ENABLE_IPv6": "true", "ENABLE_IPv4": "false", **PREFIX},
        cloud=with_ipv6,
        story=adding(40),
    ),
    "custom networking": Workflow(
        environ={
            "AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true",
            "VPC_IPAMD_ENICONFIG_FILE": "{directory}/eniconfig.yaml",
            "WARM_IP_TARGET": "2",
        },
        cloud=with_a_second_subnet,
        story=adding(11),
    ),
}


async def visit(workflow: Workflow, directory: Path, crash_at: int, fate: str) -> tuple[bool, bool]:
    """One life with a crash at one step. (whether it was reached, whether a call was on its way)"""
    (directory / "eniconfig.yaml").write_text(ENICONFIG)
    environ = {k: v.format(directory=directory) for k, v in workflow.environ.items()}
    steps = Steps()
    store = new_store(directory, steps)
    world = World(store, AsyncMemoryCloud(workflow.cloud()), **environ)
    if workflow.before is not None:
        async with world.running():
            await workflow.before(world)
        world.check_settled_pods()
    if workflow.then is not None:
        world.environ = workflow.then
        store.close()
        store = reopened(directory, steps)
        world.start_engine(store)
    steps.count, steps.crash_at = 0, crash_at
    async with world.running():
        crashed = await until_crash(world, workflow.story(world))
    store.close()
    if crashed:
        await _next_life(world, directory, steps.landing, fate)
    return crashed, bool(steps.landing)


async def until_crash(world: World, story: Awaitable[None]) -> bool:
    """Whether the story was cut by a crash; what else ends it is raised."""
    task = asyncio.ensure_future(story)
    crash = asyncio.create_task(world.steps.crashed.wait())
    await asyncio.wait({task, crash}, return_when=asyncio.FIRST_COMPLETED)
    for one in (task, crash):
        one.cancel()
    ended = await asyncio.gather(task, crash, return_exceptions=True)
    if not world.steps.crashed.is_set() and isinstance(ended[0], BaseException):
        raise ended[0]
    assert isinstance(ended[0], Crash | asyncio.CancelledError | None)
    return world.steps.crashed.is_set()


async def _next_life(world: World, directory: Path, landing: list[Any], fate: str) -> None:
    """The process starts again; the runtime repeats what had no answer."""
    world.cloud.cloud.on_step = lambda step: None  # it lands unseen
    if fate == "landed":
        world.cloud.land(landing)
    store = reopened(directory, Steps())
    world.start_engine(store)
    async with world.running():
        if fate == "late":
            loop = asyncio.get_running_loop()
            loop.call_later(LATE_SECONDS, world.cloud.land, landing)
        await asyncio.gather(*(world.add(name) for name in world.resume()))
        await world.settle()
    store.close()


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_kill_at_any_step_loses_nothing(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    points = with_calls = lives = 0
    is_reached = had_calls = True
    for crash_at in range(1, 1000):
        for fate in FATES:
            directory = tmp_path / f"{crash_at}-{fate}"
            directory.mkdir()
            is_reached, had_calls = virtual_time.run(
                lambda loop, d=directory, f=fate, k=crash_at: visit(WORKFLOWS[name], d, k, f)  # type: ignore[misc]
            )
            lives += is_reached
            if not had_calls:
                break  # nothing was on its way: every fate is the same
        if not is_reached:
            break
        points, with_calls = points + 1, with_calls + had_calls
    with capsys.disabled():
        print(f"\n  {name}: {points} crash points, {with_calls} amid calls, {lives} lives")
    assert points >= 10
    assert with_calls >= 1
