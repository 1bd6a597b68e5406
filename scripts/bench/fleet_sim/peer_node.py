"""One node under aws-node: its start, its 5 s pool loop, and ADD and DEL as ipamd serves them.

The loop is sequential as in the original: while an ENI is being created nothing else happens. IMDS
is read from the emulated EC2 itself and never lags, which favours this side.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from typing import Never

from scripts.bench.fleet_sim import peer_policy as policy
from scripts.bench.fleet_sim.ec2 import Account, Ec2Error, Instance, Interface
from scripts.bench.fleet_sim.peer_calls import GaveUp, PeerCalls, cidrs_of
from scripts.bench.fleet_sim.peer_policy import Assign, PeerSettings, Snapshot
from scripts.bench.fleet_sim.peer_store import Cidr, PeerStore

CAPACITY_CODES = ("InsufficientCidrBlocks", "InsufficientFreeAddressesInSubnet")

LEAK_SCAN_SECONDS = 3600.0
LEAK_SCAN_SPREAD_SECONDS = 300.0


class PeerNode:
    """A node and its agent."""

    def __init__(
        self,
        account: Account,
        instance: Instance,
        settings: PeerSettings,
        *,
        seed: str,
        clock: Callable[[], float],
    ) -> None:
        chance = random.Random(f"{seed}/{instance.instance_id}")
        self._account = account
        self._instance = instance
        self._settings = settings
        self._chance = chance
        self._clock = clock
        self.store = PeerStore(chance)
        self._calls = PeerCalls(account, instance, chance, use_prefixes=settings.use_prefixes)
        self._shrunk_at = self._acted_at = clock()
        self._no_growth_until = 0.0
        self._changed = asyncio.Event()

    async def add(self, pod: str) -> bool:
        """AddNetwork: an address at once, or a failure at once."""
        return self.store.assign_pod(pod, self._clock())

    async def hope(self) -> None:
        """Until an address is there that no pod holds."""
        while self.store.assigned == self.store.total:
            await self._changed.wait()

    def delete(self, pod: str) -> None:
        """DelNetwork."""
        if self.store.unassign_pod(pod, self._clock()):
            self._say_changed()

    def _say_changed(self) -> None:
        self._changed.set()
        self._changed.clear()

    async def run(self) -> Never:
        """Start, then loop for ever, beside the hourly leak scan."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._scan_leaks())
            await self._boot()
            while True:
                await asyncio.sleep(policy.POOL_PAUSE_SECONDS)
                await self._update_pool()
                await asyncio.sleep(policy.POOL_PAUSE_SECONDS)
                await self._reconcile()
        raise AssertionError("the loop does not end")

    async def _boot(self) -> None:
        """nodeInit: one describe; each ENI is tagged where it is not, and set up."""
        while True:
            try:
                enis = await self._calls.describe_all()
                for eni in enis:
                    await self._calls.tag()
                    await self._set_up(eni)
                return
            except Ec2Error:
                await asyncio.sleep(10.0)  # the container restarts

    async def _update_pool(self) -> None:
        """updateIPPoolIfRequired."""
        now = self._clock()
        pool = self.store.snapshot(now)
        over = policy.items_over(self._settings, pool)
        if policy.is_too_low(self._settings, pool):
            if now >= self._no_growth_until:
                await self._grow(pool)
        elif over > 0 and now - self._shrunk_at > policy.SHRINK_SECONDS:
            await self._shrink(over)
            self._shrunk_at = self._acted_at = self._clock()
        if policy.looks_for_spare_eni(self._settings, pool):
            await self._free_spare()

    async def _grow(self, pool: Snapshot) -> None:
        step = policy.growth(self._settings, pool)
        try:
            if isinstance(step, Assign):
                await self._assign(step)
            elif step is not None:
                await self._set_up(await self._calls.create_eni(step.items))
        except Ec2Error as e:
            if e.code in CAPACITY_CODES:
                self._no_growth_until = self._clock() + policy.CAPACITY_PAUSE_SECONDS
            return
        except GaveUp:
            return
        if step is not None:
            self._acted_at = self._clock()

    async def _assign(self, step: Assign) -> None:
        """The whole, else one; on a full ENI what EC2 says is there."""
        try:
            try:
                cidrs = await self._calls.assign(step.eni_id, step.items)
            except Ec2Error as e:
                if e.code == "PrivateIpAddressLimitExceeded":
                    raise
                cidrs = await self._calls.assign(step.eni_id, 1)
        except Ec2Error as e:
            if e.code != "PrivateIpAddressLimitExceeded":
                raise
            cidrs = await self._calls.describe(step.eni_id)
        self._add(step.eni_id, cidrs)

    async def _set_up(self, eni: Interface) -> None:
        """setupENI: its look for an exclusion tag can fail, and then the ENI stays unknown."""
        await self._calls.describe_subnets()
        is_primary = eni.device_index == 0
        self.store.add_eni(eni.eni_id, is_primary=is_primary, now=self._clock())
        self._add(eni.eni_id, cidrs_of(eni))

    async def _shrink(self, over: int) -> None:
        """decreaseDatastorePool: first out of the store, then out of EC2."""
        for eni_id in self.store.eni_ids():
            if over <= 0:
                return
            cidrs = self.store.remove_free(eni_id, over)
            over -= len(cidrs)
            if cidrs:
                try:
                    await self._calls.unassign(eni_id, cidrs)
                except Ec2Error:
                    continue  # it stays in EC2; the reconcile finds it again

    async def _free_spare(self) -> None:
        eni_id = policy.spare_eni(self._settings, self.store.snapshot(self._clock()))
        if eni_id is not None:
            self.store.remove_eni(eni_id)
            await self._calls.free_eni(eni_id)

    async def _reconcile(self) -> None:
        """nodeIPPoolReconcile: IMDS against the store; EC2 is asked only where they differ."""
        if self._clock() - self._acted_at <= policy.RECONCILE_SECONDS:
            return
        attached = {e.eni_id: e for e in self._account.attached(self._instance.instance_id)}
        known = set(self.store.eni_ids())
        try:
            if attached.keys() - known:
                await self._calls.describe_all()
            for eni_id, eni in attached.items():
                if eni_id not in known:
                    await self._set_up(eni)
                elif self.store.cidrs(eni_id) != set(cidrs_of(eni)):
                    await self._agree(eni_id)
        except Ec2Error:
            return
        self._acted_at = self._clock()

    async def _agree(self, eni_id: str) -> None:
        seen = set(await self._calls.describe(eni_id))
        for cidr in self.store.cidrs(eni_id) - seen:
            self.store.remove(eni_id, cidr)
        self._add(eni_id, seen)

    def _add(self, eni_id: str, cidrs: Iterable[Cidr]) -> None:
        self.store.add(eni_id, cidrs)
        self._say_changed()

    async def _scan_leaks(self) -> Never:
        """cleanUpLeakedENIs: every node reads the whole VPC's loose ENIs once an hour."""
        while True:
            await asyncio.sleep(self._chance.random() * LEAK_SCAN_SPREAD_SECONDS)
            try:
                for eni_id in await self._calls.describe_loose():
                    await self._calls.delete(eni_id)
            except Ec2Error:
                pass
            await asyncio.sleep(LEAK_SCAN_SECONDS)
