"""Pods that start on Azure's nodes: the real provider, the emulated ARM, kubelet's retries.

Each test prints its figures (`pytest -s`); docs/pool.md has them.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from ipamd.model import AddressState
from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_faults import ArmFaultKind
from providers.sim.http_door import Answer, Call
from tests.azure_engine import Burst, Node, play
from tests.sim.azure.lab import AzureLab

QUIET = 400.0
"""A node that has been up for so long has its warm addresses, and its buckets of calls are full."""


def scale_set(lab: AzureLab) -> Instance:
    lab.compute(write_seconds=60.0)
    return lab.instance()


def virtual_machine(lab: AzureLab) -> Vm:
    lab.set(write_seconds=5.0)
    return lab.vm()


async def sixty_pods(node: Node, name: str) -> tuple[Burst, int]:
    """The burst, and the writes of addresses during it."""
    await asyncio.sleep(QUIET)
    assert node.available() <= 32
    since = node.lab.clock()
    burst = await node.burst(60, 2.0, 150.0)
    writes = len(node.cloud.wire.writes(since))
    print("\n" + node.figures(name, burst, writes))
    return burst, writes


def test_on_a_scale_set_sixty_pods_have_their_addresses_within_150_seconds(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        burst, writes = await sixty_pods(node, "scale set, 60 s per write, one in 15 s")
        assert len(burst.waits) == 60
        assert max(burst.ended) < 75.0, "one write, begun when the pace was known"
        assert writes <= 2, "and one for what is to be warm after it"
        since = node.lab.clock()
        await asyncio.sleep(1500.0)
        assert 32 <= node.available() < 48, "what was bought ahead is not kept"
        assert len(node.cloud.wire.writes(since)) <= 1

    play(tmp_path, scale_set, scenario)


def test_without_looking_ahead_they_wait_for_one_write_more(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        burst, writes = await sixty_pods(node, "the same without looking ahead")
        assert writes >= 2
        assert max(burst.ended) > 120.0

    nothing = mock.patch.multiple(
        "ipamd.pool.ahead", expected=lambda *seen: 0, reserve=lambda *seen: 0
    )
    with nothing:
        play(tmp_path, scale_set, scenario)


def test_on_a_virtual_machine_they_hardly_wait(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        burst, _ = await sixty_pods(node, "virtual machine, 5 s per write")
        assert len(burst.waits) == 60
        assert (burst.retries, max(burst.waits) < 8.0) == (0, True)

    play(tmp_path, virtual_machine, scenario)


@pytest.mark.parametrize("machine", [scale_set, virtual_machine])
def test_ten_minutes_of_throttling_stop_no_pod_that_the_pool_can_serve(
    tmp_path: Path, machine: Callable[[AzureLab], Instance | Vm]
) -> None:
    async def scenario(node: Node) -> None:
        await asyncio.sleep(QUIET)
        held = node.available()
        since = node.lab.clock()
        node.lab.world.arm.faults.add(
            "*",
            "*",
            ArmFaultKind.ERROR,
            status=429,
            code="TooManyRequests",
            retry_after_seconds=30,
            count=None,
        )
        burst = await node.burst(held + 6, 0.1, 600.0)
        assert sorted(burst.waits)[held - 1] == 0.0
        assert len(burst.waits) == held, "the others have to wait"
        asked = len(node.cloud.wire.sent_since(since))
        node.lab.world.arm.faults.clear()
        late = await node.burst(6, 2.0, 150.0, name="late")
        print(
            f"\n{machine.__name__}, throttled for 10 min: {held} pods served at once, "
            f"{asked} requests; then 6 pods within {max(late.ended):.0f} s"
        )
        assert len(late.waits) == 6
        assert asked < 60
        assert node.engine.count(AddressState.ALLOCATED) == held + 6

    play(tmp_path, machine, scenario)


def test_a_subnet_that_runs_out_is_asked_for_what_it_has_and_no_block(tmp_path: Path) -> None:
    def small(lab: AzureLab) -> Instance:
        lab.compute(write_seconds=60.0)
        return lab.instance(subnet_id=lab.small_subnet_id)  # a /28: 10 addresses for pods

    async def scenario(node: Node) -> None:
        await asyncio.sleep(QUIET)
        since = node.lab.clock()
        burst = await node.burst(14, 2.0, 240.0)
        print("\n" + node.figures("a full /28", burst, len(node.cloud.wire.writes(since))))
        assert len(burst.waits) == 10
        assert max(burst.ended) < 150.0
        assert any("is exhausted" in said for said in node.engine.reconciler.problems())

    play(tmp_path, small, scenario)


@pytest.mark.parametrize("status", [400, 409])
@pytest.mark.parametrize("machine", [scale_set, virtual_machine])
def test_where_blocks_are_refused_pods_get_single_addresses(
    tmp_path: Path, machine: Callable[[AzureLab], Instance | Vm], status: int
) -> None:
    said = {"error": {"code": "SubscriptionNotRegisteredForFeature", "message": "no blocks here"}}
    refusal = Answer(status=status, body=json.dumps(said).encode())

    def without_blocks(lab: AzureLab) -> Instance | Vm:
        respond = lab.world.respond

        def refuse(call: Call) -> Answer | None:
            asks = call.method == "PUT" and b"privateIPAddressPrefixLength" in call.body
            return refusal if asks else respond(call)

        lab.world.respond = refuse  # type: ignore[method-assign, assignment]
        return machine(lab)

    async def scenario(node: Node) -> None:
        since = node.lab.clock()
        burst = await node.burst(20, 2.0, 300.0)
        print("\n" + node.figures("no blocks", burst, len(node.cloud.wire.writes(since))))
        assert len(burst.waits) == 20
        # The refusal, then one write with single addresses for all: nothing is asked for piecemeal.
        assert max(burst.ended) < (90.0 if machine is scale_set else 25.0)

    play(tmp_path, without_blocks, scenario, ENABLE_PREFIX_DELEGATION="true")
