"""aws-node's EC2 calls: the SDK's retries, and the sequence of calls of each operation.

Sequences: pkg/awsutils/awsutils.go of amazon-vpc-cni-k8s v1.23.1. Retries: the standard mode of
aws-sdk-go-v2 (3 attempts, up to 2^n s of full jitter, a quota of 500 tokens at 5 a retry).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from scripts.bench.fleet_sim.ec2 import THROTTLE, Account, Ec2Error, Instance, Interface, Status
from scripts.bench.fleet_sim.peer_store import Cidr

T = TypeVar("T")

SDK_ATTEMPTS = 3
SDK_QUOTA = 500
SDK_RETRY_COST = 5
OWN_TRIES = 12  # maxENIEC2APIRetries
DETACH_REST_SECONDS = 2.0  # between Detach and the first Delete
LONGEST_PAUSE_SECONDS = 60.0  # maxENIBackoffDelay


class GaveUp(Exception):
    """An operation ended without its effect; the pool loop tries again in its own time."""


class PeerCalls:
    """The EC2 client of one node."""

    def __init__(
        self, account: Account, instance: Instance, chance: random.Random, *, use_prefixes: bool
    ) -> None:
        self._account = account
        self._instance = instance
        self._chance = chance
        self._use_prefixes = use_prefixes
        self._quota = SDK_QUOTA

    async def describe_subnets(self) -> None:
        """The look for eligible subnets (creation), and for exclusion tags (set-up)."""
        await self._call("DescribeSubnets", lambda: None)

    async def describe_all(self) -> list[Interface]:
        """DescribeAllENIs: the list is IMDS's, the details one call."""
        return await self._call(
            "DescribeNetworkInterfaces", lambda: self._account.attached(self._instance.instance_id)
        )

    async def tag(self) -> None:
        """CreateTags on an ENI without our instance tag (the primary at boot)."""
        await self._call("CreateTags", lambda: None)

    async def describe(self, eni_id: str) -> list[Cidr]:
        """GetIPv4sFromEC2 / GetIPv4PrefixesFromEC2."""
        eni = await self._call("DescribeNetworkInterfaces", lambda: self._account.describe(eni_id))
        return cidrs_of(eni) if eni else []

    async def describe_loose(self) -> list[str]:
        """The leak scan: ENIs of the cluster that are attached to nothing, 5 min old or more."""
        return await self._call("DescribeNetworkInterfaces", self._account.loose)

    async def assign(self, eni_id: str, items: int) -> list[Cidr]:
        """AssignPrivateIpAddresses of /32s or /28s."""
        singles, blocks = await self._call(
            "AssignPrivateIpAddresses",
            lambda: self._account.assign(eni_id, **self._items(items)),
        )
        return [*singles, *blocks]

    async def unassign(self, eni_id: str, cidrs: tuple[Cidr, ...]) -> None:
        """UnassignPrivateIpAddresses of either kind."""
        kind = "prefixes" if self._use_prefixes else "addresses"
        await self._call(
            "UnassignPrivateIpAddresses",
            lambda: self._account.unassign(eni_id, **{kind: cidrs}),  # type: ignore[arg-type]
        )

    async def create_eni(self, items: int) -> Interface:
        """AllocENI and the wait for IMDS. Raises Ec2Error, or GaveUp when IMDS never shows it."""
        eni = await self._create(items)
        await self._attach(eni)
        try:
            await self._call("ModifyNetworkInterfaceAttribute", lambda: None)
        except Ec2Error:
            await self.free_eni(eni.eni_id)
            raise
        await self._wait_for_imds(eni)
        return eni

    async def free_eni(self, eni_id: str) -> None:
        """FreeENI: look up the attachment, detach, rest, delete. A failure leaves what is left."""
        try:
            eni = await self._call(
                "DescribeNetworkInterfaces", lambda: self._account.describe(eni_id)
            )
            if eni is None:
                return
            await self._patiently(0.2, lambda: self._detach(eni_id))
            await asyncio.sleep(DETACH_REST_SECONDS)
            await self.delete(eni_id)
        except (Ec2Error, GaveUp):
            return

    async def _create(self, items: int) -> Interface:
        try:
            await self.describe_subnets()
        except Ec2Error:
            await self.describe_subnets()  # the fall-back's own look for an exclusion tag
        instance = self._instance
        return await self._call(
            "CreateNetworkInterface",
            lambda: self._account.create(
                instance.subnet,
                owner=instance.instance_id,
                addresses=0 if self._use_prefixes else items,
                prefixes=items if self._use_prefixes else 0,
            ),
        )

    async def _attach(self, eni: Interface) -> None:
        instance = self._instance
        try:
            taken = await self._call("DescribeInstances", lambda: set(instance.interfaces))
            index = next(i for i in range(100) if i not in taken)
            await self._call(
                "AttachNetworkInterface",
                lambda: self._account.attach(eni.eni_id, instance.instance_id, index),
            )
        except Ec2Error:
            await self.delete(eni.eni_id)
            raise

    async def _wait_for_imds(self, eni: Interface) -> None:
        async def look() -> None:
            if self._account.status(eni) is not Status.ATTACHED:
                raise GaveUp(f"{eni.eni_id} is not in IMDS yet")

        await self._patiently(0.1, look)

    async def _detach(self, eni_id: str) -> None:
        await self._call("DetachNetworkInterface", lambda: self._account.detach(eni_id))

    async def delete(self, eni_id: str) -> None:
        """deleteENI: retried; one that cannot be deleted is leaked."""

        async def once() -> None:
            try:
                await self._call("DeleteNetworkInterface", lambda: self._account.delete(eni_id))
            except Ec2Error as e:
                if e.code != "InvalidNetworkInterfaceID.NotFound":
                    raise

        try:
            await self._patiently(0.5, once)
        except GaveUp:
            return

    def _items(self, items: int) -> dict[str, int]:
        return {"prefixes" if self._use_prefixes else "addresses": items}

    async def _patiently(self, first_seconds: float, once: Callable[[], Awaitable[None]]) -> None:
        """retry.NWithBackoff: 12 tries, doubling pauses up to 60 s with 15 % jitter."""
        pause = first_seconds
        for _ in range(OWN_TRIES):
            try:
                return await once()
            except (Ec2Error, GaveUp):
                await asyncio.sleep(pause * (1 + 0.15 * self._chance.random()))
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
        raise GaveUp(f"{OWN_TRIES} tries failed")

    async def _call(self, action: str, effect: Callable[[], T]) -> T:
        """One call with the SDK's retries, which only answer throttling here."""
        for attempt in range(1, SDK_ATTEMPTS + 1):
            try:
                answer = await self._account.request(self._instance.instance_id, action, effect)
            except Ec2Error as e:
                is_last = attempt == SDK_ATTEMPTS or self._quota < SDK_RETRY_COST
                if e.code != THROTTLE or is_last:
                    raise
                self._quota -= SDK_RETRY_COST
                await asyncio.sleep(self._chance.random() * 2**attempt)
            else:
                gained = SDK_RETRY_COST if attempt > 1 else 0
                self._quota = min(self._quota + gained + 1, SDK_QUOTA)
                return answer
        raise AssertionError("the last attempt returns or raises")


def cidrs_of(eni: Interface) -> list[Cidr]:
    """What an ENI carries for pods."""
    return [*eni.addresses, *eni.prefixes]
