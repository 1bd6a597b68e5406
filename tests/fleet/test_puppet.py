"""Blocking code on the virtual loop takes the loop's time, in one order, and ends with it."""

from __future__ import annotations

import asyncio

import pytest

from scripts.bench.fleet_sim import puppet
from tests.fleet.fleet_world import World, run


def test_a_sleep_takes_virtual_time() -> None:
    async def main(world: World) -> float:
        began = world.clock()
        await puppet.run(lambda: puppet.sleep(3600.0))
        return world.clock() - began

    assert run(main) == pytest.approx(3600.0, abs=0.01)


def test_functions_take_turns_by_the_clock() -> None:
    async def main(world: World) -> list[str]:
        said: list[str] = []

        def talk(name: str, pause: float) -> None:
            for n in range(3):
                puppet.sleep(pause)
                said.append(f"{name}{n}")

        await asyncio.gather(puppet.run(lambda: talk("a", 2.0)), puppet.run(lambda: talk("b", 3.0)))
        return said

    assert run(main) == ["a0", "b0", "a1", "b1", "a2", "b2"] or run(main) == [
        "a0",
        "b0",
        "a1",
        "a2",
        "b1",
        "b2",
    ]


def test_what_is_raised_where_it_waits_is_raised_in_the_function() -> None:
    async def refuse() -> None:
        raise ValueError("no")

    def ask() -> str:
        try:
            puppet.wait(refuse)
        except ValueError as e:
            return str(e)
        return "yes"

    async def main(world: World) -> str:
        return await puppet.run(ask)

    assert run(main) == "no"


def test_what_the_function_raises_comes_out() -> None:
    async def main(world: World) -> None:
        await puppet.run(lambda: 1 / 0)

    with pytest.raises(ZeroDivisionError):
        run(main)


def test_a_cancelled_function_unwinds() -> None:
    async def main(world: World) -> list[str]:
        said: list[str] = []

        def work() -> None:
            try:
                puppet.sleep(100.0)
            finally:
                said.append("undone")

        task = asyncio.create_task(puppet.run(work))
        await asyncio.sleep(1.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return said

    assert run(main) == ["undone"]


def test_a_lock_lets_one_in_at_a_time() -> None:
    async def main(world: World) -> int:
        lock, inside, most = puppet.Lock(), 0, 0

        def work() -> None:
            nonlocal inside, most
            with lock:
                inside += 1
                most = max(most, inside)
                puppet.sleep(1.0)
                inside -= 1

        await asyncio.gather(*(puppet.run(work) for _ in range(4)))
        return most

    assert run(main) == 1


def test_a_future_wakes_all_who_wait_for_it() -> None:
    async def main(world: World) -> list[str]:
        future: puppet.Future[str] = puppet.Future()

        def give() -> str:
            puppet.sleep(5.0)
            future.set_result("done")
            return "given"

        jobs = [puppet.run(future.result), puppet.run(future.result), puppet.run(give)]
        return list(await asyncio.gather(*jobs))

    assert run(main) == ["done", "done", "given"]
