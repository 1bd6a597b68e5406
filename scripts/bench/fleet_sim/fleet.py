"""One run: a load, one side, one account, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network
from typing import Never, Protocol

from providers.sim.allocator import SubnetPool
from scripts.bench.fleet_sim import virtual
from scripts.bench.fleet_sim.chance import Chance
from scripts.bench.fleet_sim.ec2 import Account, Buckets, Instance, Subnet
from scripts.bench.fleet_sim.kubelet import Agent, Kubelets
from scripts.bench.fleet_sim.loads import Load
from scripts.bench.fleet_sim.meter import Meter, Outcome

BOOT_SPREAD_SECONDS = 300.0


class RunningAgent(Agent, Protocol):
    """An agent with its own loop."""

    async def run(self) -> Never:
        """Work until cancelled."""


MakeAgent = Callable[[Account, Instance, Load, str], RunningAgent]


def run(load: Load, make_agent: MakeAgent, buckets: Buckets, *, seed: int) -> Outcome:
    """The figures of one side under one load."""
    return virtual.run(lambda: _run(load, make_agent, buckets, f"{seed}"), seed=f"{seed}")


async def _run(load: Load, make_agent: MakeAgent, buckets: Buckets, seed: str) -> Outcome:
    loop = asyncio.get_running_loop()
    meter = Meter(clock=loop.time)
    chance = Chance(seed)
    account = Account(clock=loop.time, buckets=buckets, chance=chance, meter=meter)
    agents: dict[int, Agent] = {}
    kubelets = Kubelets(agents, meter, seed=seed)
    began = loop.time() + load.lead_seconds
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_boot_and_run(account, load, number, make_agent, agents, seed))
            for number in range(load.nodes)
        ]
        loop.call_at(began - 0.001, _start_measuring, meter, chance, kubelets)
        await kubelets.play(load, began)
        kubelets.stop()
        outcome = meter.outcome(never_served=kubelets.never_served)
        for task in tasks:
            task.cancel()
    return outcome


def _start_measuring(meter: Meter, chance: Chance, kubelets: Kubelets) -> None:
    meter.start()
    chance.begin()
    kubelets.never_served.clear()


async def _boot_and_run(
    account: Account,
    load: Load,
    number: int,
    make_agent: MakeAgent,
    agents: dict[int, Agent],
    seed: str,
) -> None:
    await asyncio.sleep(BOOT_SPREAD_SECONDS * number / load.nodes)
    subnet = _subnet(account, number // load.node_type.nodes_per_subnet)
    instance = account.launch(f"i-{number:017x}", load.node_type, subnet)
    agent = agents[number] = make_agent(account, instance, load, seed)
    with suppress(asyncio.CancelledError):
        await agent.run()


def _subnet(account: Account, number: int) -> Subnet:
    """The number-th /20 of 10.0.0.0/8, made when it is first needed."""
    subnet_id = f"subnet-{number:017x}"
    if subnet_id not in account.subnets:
        base = int(IPv4Network("10.0.0.0/8").network_address) + number * 4096
        pool = SubnetPool(IPv4Network((base, 20)))
        account.subnets[subnet_id] = Subnet(subnet_id=subnet_id, pool=pool)
    return account.subnets[subnet_id]
