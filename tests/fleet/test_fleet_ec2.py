"""The account that a fleet shares says no where EC2 does, and gives each address once."""

from __future__ import annotations

import asyncio

import pytest

from scripts.bench.fleet_sim import virtual
from scripts.bench.fleet_sim.ec2 import Ec2Error, Status
from tests.fleet.fleet_world import World, run


def raises_ec2(world: World, code: str) -> pytest.RaisesExc[Ec2Error]:
    return pytest.raises(Ec2Error, match=code)


async def attached(world: World, device_index: int, *, addresses: int = 0) -> str:
    eni = world.account.create(world.subnet, owner="i-0", addresses=addresses, prefixes=0)
    world.account.attach(eni.eni_id, "i-0", device_index)
    await asyncio.sleep(60)
    return eni.eni_id


def test_an_eni_takes_nine_addresses_or_prefixes_and_no_more() -> None:
    async def main(world: World) -> None:
        world.account.assign(world.primary, addresses=5)
        world.account.assign(world.primary, prefixes=4)
        with raises_ec2(world, "PrivateIpAddressLimitExceeded"):
            world.account.assign(world.primary, addresses=1)

    run(main)


def test_a_machine_takes_three_enis_at_different_indexes() -> None:
    async def main(world: World) -> None:
        await attached(world, 1)
        spare = world.account.create(world.subnet, owner="i-0", addresses=0, prefixes=0)
        with raises_ec2(world, "InvalidParameterValue"):
            world.account.attach(spare.eni_id, "i-0", 1)
        await attached(world, 2)
        with raises_ec2(world, "AttachmentLimitExceeded"):
            world.account.attach(spare.eni_id, "i-0", 3)

    run(main)


def test_attaching_takes_time_and_so_does_detaching() -> None:
    async def main(world: World) -> list[Status]:
        eni = world.account.create(world.subnet, owner="i-0", addresses=1, prefixes=0)
        seen = [world.account.status(eni)]
        world.account.attach(eni.eni_id, "i-0", 1)
        seen.append(world.account.status(eni))
        await asyncio.sleep(30)
        seen.append(world.account.status(eni))
        world.account.detach(eni.eni_id)
        seen.append(world.account.status(eni))
        with raises_ec2(world, "InvalidParameterValue"):
            world.account.delete(eni.eni_id)
        await asyncio.sleep(30)
        seen.append(world.account.status(eni))
        world.account.delete(eni.eni_id)
        return seen

    available, attaching, there, detaching = (
        Status.AVAILABLE,
        Status.ATTACHING,
        Status.ATTACHED,
        Status.DETACHING,
    )
    assert run(main) == [available, attaching, there, detaching, available]


def test_what_is_given_back_can_be_given_again() -> None:
    async def main(world: World) -> tuple[int, int, int]:
        before = world.subnet.pool.free_count
        eni_id = await attached(world, 1, addresses=9)
        between = world.subnet.pool.free_count
        world.account.detach(eni_id)
        await asyncio.sleep(30)
        world.account.delete(eni_id)
        return before, between, world.subnet.pool.free_count

    before, between, after = run(main)
    assert (before - between, after) == (10, before)


def test_a_full_subnet_gives_nothing_at_all() -> None:
    async def main(world: World) -> tuple[int, int]:
        world.account.assign(world.primary, addresses=5)
        left = world.subnet.pool.free_count
        with raises_ec2(world, "InsufficientFreeAddressesInSubnet"):
            world.account.create(world.subnet, owner="i-0", addresses=9, prefixes=0)
        return left, world.subnet.pool.free_count

    left, after = run(main, "10.0.0.0/28")
    assert left == after == 5


def test_a_subnet_without_a_whole_block_has_no_prefix() -> None:
    async def main(world: World) -> None:
        with raises_ec2(world, "InsufficientCidrBlocks"):
            world.account.assign(world.primary, prefixes=1)

    run(main, "10.0.0.0/27")


def test_the_same_token_makes_one_eni() -> None:
    async def main(world: World) -> bool:
        made = [
            world.account.create(world.subnet, owner="i-0", addresses=1, prefixes=0, token="t")
            for _ in range(2)
        ]
        return made[0] is made[1]

    assert run(main)


def test_a_throttled_call_is_counted_and_has_no_effect() -> None:
    async def main(world: World) -> tuple[int, int]:
        world.buckets.closed = {"AssignPrivateIpAddresses"}
        with raises_ec2(world, "RequestLimitExceeded"):
            await world.account.request(
                "i-0",
                "AssignPrivateIpAddresses",
                lambda: world.account.assign(world.primary, addresses=1),
            )
        return world.meter.calls.total(), world.meter.throttled

    assert run(main) == (1, 1)


def test_only_what_is_attached_to_nothing_for_a_while_is_loose() -> None:
    async def main(world: World) -> list[int]:
        world.account.create(world.subnet, owner="i-0", addresses=0, prefixes=0)
        await attached(world, 1)
        young = len(world.account.loose())
        await asyncio.sleep(300)
        return [young, len(world.account.loose()), len(world.account.loose(owner="i-1"))]

    assert run(main) == [0, 1, 0]


def test_a_wait_that_nothing_can_end_is_an_error() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing is left to happen"):
        virtual.run(main, seed="test")
