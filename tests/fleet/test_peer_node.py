"""aws-node's agent around the policy: its calls, its clocks, its store.

Facts: pkg/awsutils/awsutils.go and pkg/ipamd/datastore/data_store.go of amazon-vpc-cni-k8s v1.23.1.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.bench.fleet_sim import peer_policy
from scripts.bench.fleet_sim.ec2 import Ec2Error
from scripts.bench.fleet_sim.peer_calls import PeerCalls
from scripts.bench.fleet_sim.peer_node import PeerNode
from scripts.bench.fleet_sim.peer_store import PeerStore
from scripts.bench.fleet_sim.shapes import M5_LARGE
from tests.fleet.fleet_world import World, run


def calls_of(world: World) -> PeerCalls:
    return PeerCalls(world.account, world.instance, random.Random("test"), use_prefixes=False)


def node(world: World, **environ: str) -> PeerNode:
    settings = peer_policy.from_environ(environ, M5_LARGE)
    return PeerNode(world.account, world.instance, settings, seed="test", clock=world.clock)


@asynccontextmanager
async def running(agent: PeerNode) -> AsyncIterator[PeerNode]:
    task = asyncio.create_task(agent.run())
    try:
        yield agent
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_one_usable_eni_costs_six_calls_with_its_set_up() -> None:
    async def main(world: World) -> Counter[str]:
        agent = calls_of(world)
        await agent.create_eni(9)
        await agent.describe_subnets()
        return world.calls()

    assert run(main) == {
        "DescribeSubnets": 2,
        "CreateNetworkInterface": 1,
        "DescribeInstances": 1,
        "AttachNetworkInterface": 1,
        "ModifyNetworkInterfaceAttribute": 1,
    }


def test_freeing_an_eni_costs_three_calls_when_it_detaches_in_time() -> None:
    async def main(world: World) -> Counter[str]:
        agent = calls_of(world)
        eni = await agent.create_eni(9)
        world.calls()
        await agent.free_eni(eni.eni_id)
        return world.calls()

    seen = run(main)
    assert seen.pop("DeleteNetworkInterface") >= 1  # one more for each time it is still in use
    assert seen == {"DescribeNetworkInterfaces": 1, "DetachNetworkInterface": 1}


def test_the_sdk_tries_three_times_when_throttled() -> None:
    async def main(world: World) -> int:
        world.buckets.closed = {"AssignPrivateIpAddresses"}
        with pytest.raises(Ec2Error, match="RequestLimitExceeded"):
            await calls_of(world).assign(world.primary, 1)
        return world.calls()["AssignPrivateIpAddresses"]

    assert run(main) == 3


def test_an_eni_that_cannot_be_attached_is_deleted() -> None:
    async def main(world: World) -> int:
        world.buckets.closed = {"AttachNetworkInterface"}
        with pytest.raises(Ec2Error, match="RequestLimitExceeded"):
            await calls_of(world).create_eni(9)
        return len(world.account.interfaces)

    assert run(main) == 1


def test_a_default_node_comes_to_rest_with_one_full_eni() -> None:
    async def main(world: World) -> tuple[int, int]:
        async with running(node(world)) as agent:
            await asyncio.sleep(120)
            return len(agent.store.eni_ids()), agent.store.total

    assert run(main) == (1, 9)


def test_the_pool_grows_by_one_step_in_five_seconds() -> None:
    async def main(world: World) -> list[int]:
        totals = []
        async with running(node(world, WARM_IP_TARGET="3")) as agent:
            for name in range(3):
                await asyncio.sleep(15)
                assert await agent.add(f"pod-{name}")
                totals.append(agent.store.total)
            await asyncio.sleep(15)
            return [*totals, agent.store.total]

    assert run(main) == [3, 4, 5, 6]


def test_a_shrink_comes_thirty_seconds_after_the_last_one() -> None:
    async def main(world: World) -> list[int]:
        async with running(node(world, WARM_IP_TARGET="1")) as agent:
            for name in range(4):
                await asyncio.sleep(20)
                await agent.add(f"pod-{name}")
            await asyncio.sleep(20)
            world.calls()
            unassigned = []
            for name in range(2):
                agent.delete(f"pod-{name}")
                await asyncio.sleep(10)
                unassigned.append(world.calls()["UnassignPrivateIpAddresses"])
            await asyncio.sleep(30)
            unassigned.append(world.calls()["UnassignPrivateIpAddresses"])
            return unassigned

    assert run(main) == [1, 0, 1]


def test_growth_pauses_two_minutes_after_a_capacity_error() -> None:
    async def main(world: World) -> list[int]:
        world.account.assign(world.primary, addresses=9)
        async with running(node(world, WARM_IP_TARGET="12")):
            asked = []
            for _ in range(3):
                await asyncio.sleep(100)
                asked.append(world.calls()["CreateNetworkInterface"])
            return asked

    assert run(main, "10.0.0.0/28") == [1, 1, 1]


def test_what_a_failed_unassign_left_comes_back_with_the_reconcile() -> None:
    async def main(world: World) -> list[int]:
        async with running(node(world, WARM_IP_TARGET="1")) as agent:
            for name in range(4):
                await asyncio.sleep(20)
                await agent.add(f"pod-{name}")
            world.buckets.closed = {"UnassignPrivateIpAddresses"}
            agent.delete("pod-0")
            await asyncio.sleep(40)
            totals = [agent.store.total]
            world.buckets.closed = {"AssignPrivateIpAddresses"}
            await asyncio.sleep(90)
            totals.append(agent.store.total)
            return totals

    smaller, again = run(main)
    assert smaller == 4
    assert again >= smaller


def store(*cidrs: IPv4Address | IPv4Network) -> PeerStore:
    made = PeerStore(random.Random("test"))
    made.add_eni("eni-1", is_primary=True, now=0.0)
    made.add("eni-1", cidrs)
    return made


def test_an_address_is_not_handed_out_for_thirty_seconds_after_its_release() -> None:
    pool = store(IPv4Address("10.0.0.10"))
    assert pool.assign_pod("a", now=0.0)
    assert pool.unassign_pod("a", now=100.0)
    assert not pool.assign_pod("b", now=130.0)
    assert pool.assign_pod("b", now=130.1)


def test_all_sixteen_addresses_of_a_prefix_are_used() -> None:
    pool = store(IPv4Network("10.0.0.16/28"))
    served = [pool.assign_pod(f"pod-{n}", now=0.0) for n in range(17)]
    assert served == [True] * 16 + [False]


def test_the_same_pod_gets_the_same_address_again() -> None:
    pool = store(IPv4Address("10.0.0.10"), IPv4Address("10.0.0.11"))
    assert pool.assign_pod("a", now=0.0)
    assert pool.assign_pod("a", now=1.0)
    assert pool.assigned == 1


def test_cooling_addresses_count_as_available_and_may_leave() -> None:
    pool = store(IPv4Address("10.0.0.10"))
    pool.assign_pod("a", now=0.0)
    pool.unassign_pod("a", now=100.0)
    assert pool.snapshot(101.0).available == 1
    assert pool.remove_free("eni-1", 1) == (IPv4Address("10.0.0.10"),)


def test_a_release_of_an_unknown_pod_changes_nothing() -> None:
    pool = store(IPv4Address("10.0.0.10"))
    assert not pool.unassign_pod("a", now=0.0)
    assert (pool.total, pool.assigned) == (1, 0)


@given(st.lists(st.tuples(st.sampled_from(["add", "end", "shrink", "grow"]), st.integers(0, 9))))
def test_the_sums_are_those_of_the_items(steps: list[tuple[str, int]]) -> None:
    pool = store(*(IPv4Network((0x0A000000 + 16 * n, 28)) for n in range(3)))
    for now, (verb, number) in enumerate(steps):
        match verb:
            case "add":
                pool.assign_pod(f"pod-{number}", now=40.0 * now)
            case "end":
                pool.unassign_pod(f"pod-{number}", now=40.0 * now)
            case "shrink":
                pool.remove_free("eni-1", number % 3)
            case "grow":
                pool.add("eni-1", [IPv4Network((0x0A000000 + 16 * number, 28))])
    seen = pool.snapshot(40.0 * len(steps))
    assert seen.total == 16 * len(pool.cidrs("eni-1"))
    free = len(pool.remove_free("eni-1", 100))
    assert seen.free_items == free
    assert 0 <= seen.assigned <= seen.total
