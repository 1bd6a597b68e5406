"""One account in virtual time with one m5.large, for tests of either side."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from ipaddress import IPv4Network
from typing import Any, TypeVar

from providers.sim.allocator import SubnetPool
from scripts.bench.fleet_sim import virtual
from scripts.bench.fleet_sim.chance import Chance
from scripts.bench.fleet_sim.ec2 import Account, Instance, Subnet
from scripts.bench.fleet_sim.meter import Meter
from scripts.bench.fleet_sim.shapes import M5_LARGE

T = TypeVar("T")


class Open:
    """Buckets that never run dry, until `closed` names actions that always do."""

    def __init__(self) -> None:
        self.closed: set[str] = set()

    def take(self, action: str, now: float) -> bool:
        return action not in self.closed


class World:
    def __init__(self, cidr: str = "10.0.0.0/24") -> None:
        self.clock = asyncio.get_running_loop().time
        self.buckets = Open()
        self.meter = Meter(clock=self.clock)
        self.account = Account(
            clock=self.clock, buckets=self.buckets, chance=Chance("test"), meter=self.meter
        )
        self.subnet = Subnet(subnet_id="subnet-0", pool=SubnetPool(IPv4Network(cidr)))
        self.account.subnets["subnet-0"] = self.subnet
        self.instance: Instance = self.account.launch("i-0", M5_LARGE, self.subnet)

    @property
    def primary(self) -> str:
        return self.instance.interfaces[0].eni_id

    def calls(self) -> Counter[str]:
        """The calls since the last look, which forgets them."""
        seen = Counter(self.meter.calls)
        self.meter.calls.clear()
        return seen


def run(main: Callable[[World], Coroutine[Any, Any, T]], cidr: str = "10.0.0.0/24") -> T:
    """Run `main(world)` in virtual time."""

    async def begin() -> T:
        return await main(World(cidr))

    return virtual.run(begin, seed="test")
