"""The cloud as one of our engines sees it: `ipamd.cloud_child.Cloud` on the emulated account.

Makes the same EC2 calls in the same order as providers.aws.provider, and sorts errors by the
provider's own table; tests/fleet/test_our_cloud.py compares both call by call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ipamd import clock
from ipamd.cloud import (
    AddressChange,
    AddressOutcome,
    Capabilities,
    CloudEni,
    CloudSnapshot,
    EniStatus,
    InterfaceRequest,
    NodeIdentity,
    NodeLimits,
    Orphan,
    Subnet,
)
from ipamd.errors import NotFound, Throttled, Transient
from ipamd.model import EniId, InstanceId, SubnetId
from providers.aws.errors import classify
from scripts.bench.fleet_sim.ec2 import THROTTLE, Account, Ec2Error, Instance, Interface, Status

T = TypeVar("T")

POLL_SECONDS, STATE_SECONDS = (0.3, 0.5, 1.0, 2.0), 60.0


class OurCloud:
    """One node's provider."""

    def __init__(self, account: Account, instance: Instance) -> None:
        self._account = account
        self._instance = instance
        self._known_subnets: set[str] = set()

    async def capabilities(self) -> Capabilities:
        return Capabilities(
            can_create_interfaces=True, has_prefixes=True, replaces_whole_interface=False
        )

    async def discover_node(self) -> NodeIdentity:
        """IMDS alone."""
        instance, primary = self._instance, self._instance.interfaces[0]
        return NodeIdentity(
            instance_id=InstanceId(instance.instance_id),
            instance_type=instance.node_type.name,
            region="eu-west-1",
            zone="eu-west-1a",
            vpc_id="vpc-0",
            primary_eni_id=EniId(primary.eni_id),
            primary_mac=_mac(primary),
            primary_subnet_id=SubnetId(instance.subnet.subnet_id),
            security_group_ids=("sg-0",),
        )

    async def limits(self) -> NodeLimits:
        await self._call("DescribeInstanceTypes", lambda: None)
        node_type = self._instance.node_type
        return NodeLimits(
            max_enis=node_type.max_enis,
            addresses_per_eni=node_type.addresses_per_eni,
            has_prefixes=True,
        )

    async def snapshot(self) -> CloudSnapshot:
        """DescribeNetworkInterfaces twice: attached to us; ours by tag and attached to nothing."""
        me = self._instance.instance_id
        attached = await self._call("DescribeNetworkInterfaces", self._mine)
        loose = await self._call(
            "DescribeNetworkInterfaces", lambda: self._account.loose(older_seconds=0.0, owner=me)
        )
        enis = {e.eni_id: e for e in attached}
        for eni_id in loose:
            found = self._account.describe(eni_id)
            if found is not None:
                enis.setdefault(eni_id, found)
        return CloudSnapshot(
            enis=tuple([await self._eni(e) for e in enis.values()]),
            vpc_cidrs=(self._instance.subnet.pool.cidr.supernet(new_prefix=8),),
        )

    async def apply(self, change: AddressChange) -> AddressOutcome:
        eni_id = change.eni_id
        if change.remove or change.remove_prefixes:
            await self._call(
                "UnassignPrivateIpAddresses",
                lambda: self._account.unassign(
                    eni_id,
                    addresses=change.remove,  # type: ignore[arg-type]  # IPv4 here
                    prefixes=change.remove_prefixes,  # type: ignore[arg-type]
                ),
            )
        if not change.add and not change.add_prefixes:
            return AddressOutcome(eni_id=eni_id, added=())
        added, prefixes = await self._call(
            "AssignPrivateIpAddresses",
            lambda: self._account.assign(
                eni_id, addresses=change.add, prefixes=change.add_prefixes
            ),
        )
        return AddressOutcome(eni_id=eni_id, added=added, added_prefixes=prefixes)

    async def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        """DescribeSubnets, once for all."""
        return await self._call("DescribeSubnets", lambda: tuple(map(self._subnet, subnet_ids)))

    async def create_interface(self, request: InterfaceRequest) -> CloudEni:
        """Create (idempotent by token), attach, protect, wait; undone when attaching fails."""
        made = await self._call(
            "CreateNetworkInterface",
            lambda: self._account.create(
                self._account.subnets[request.subnet_id],
                owner=self._instance.instance_id,
                addresses=request.secondary_addresses,
                prefixes=request.prefixes,
                token=request.token,
            ),
        )
        try:
            await self._attach(made, request.device_index)
            await self._call("ModifyNetworkInterfaceAttribute", lambda: None)
            await self._wait(made, Status.ATTACHED)
            return await self._eni(made)
        except (Transient, Throttled) as e:
            raise Transient(str(e), operation=e.operation, code=e.code, eni_id=made.eni_id) from e

    async def delete_interface(self, eni_id: EniId) -> None:
        try:
            eni = await self._describe_one(eni_id)
            if eni is not None and eni.instance_id:
                if self._account.status(eni) is not Status.DETACHING:
                    await self._call("DetachNetworkInterface", lambda: self._account.detach(eni_id))
                await self._wait(eni, Status.AVAILABLE)
            await self._call("DeleteNetworkInterface", lambda: self._account.delete(eni_id))
        except NotFound:
            return

    async def orphans(self) -> tuple[Orphan, ...]:
        """The cleaner is off in every run."""
        return ()

    async def mark_created(self, eni_id: EniId, unix: float) -> None:
        """The cleaner is off in every run."""

    async def delete_orphan(self, eni_id: EniId) -> None:
        """The cleaner is off in every run."""

    async def _attach(self, made: Interface, device_index: int) -> None:
        found = await self._describe_one(made.eni_id)
        if found is not None and found.instance_id:
            return
        me = self._instance.instance_id
        await self._call(
            "AttachNetworkInterface", lambda: self._account.attach(made.eni_id, me, device_index)
        )

    async def _wait(self, eni: Interface, wanted: Status) -> None:
        deadline = clock.boottime() + STATE_SECONDS
        pauses = list(POLL_SECONDS)
        while True:
            await self._describe_one(eni.eni_id)
            if self._account.status(eni) is wanted:
                return
            if clock.boottime() > deadline:
                raise Transient(f"{eni.eni_id} is not {wanted.value}")
            await asyncio.sleep(pauses.pop(0) if len(pauses) > 1 else pauses[0])

    async def _describe_one(self, eni_id: str) -> Interface | None:
        return await self._call("DescribeNetworkInterfaces", lambda: self._account.describe(eni_id))

    def _mine(self) -> list[Interface]:
        return list(self._instance.interfaces.values())

    def _subnet(self, subnet_id: str) -> Subnet:
        pool = self._account.subnets[subnet_id].pool
        return Subnet(
            subnet_id=SubnetId(subnet_id),
            cidr=pool.cidr,
            free_addresses=pool.free_count,
            is_candidate=True,
        )

    async def _eni(self, eni: Interface) -> CloudEni:
        """The answer's ENI; a subnet's CIDR is asked for once."""
        if eni.subnet.subnet_id not in self._known_subnets:
            await self._call("DescribeSubnets", lambda: None)
            self._known_subnets.add(eni.subnet.subnet_id)
        return CloudEni(
            eni_id=EniId(eni.eni_id),
            mac=_mac(eni),
            status=EniStatus(self._account.status(eni).value),
            subnet_id=SubnetId(eni.subnet.subnet_id),
            subnet_cidr=eni.subnet.pool.cidr,
            primary_address=eni.primary_address,
            addresses=tuple(eni.addresses),
            prefixes=tuple(eni.prefixes),
            device_index=eni.device_index,
            network_card=0,
            is_primary=eni.device_index == 0,
            is_managed=True,
        )

    async def _call(self, action: str, effect: Callable[[], T]) -> T:
        try:
            return await self._account.request(self._instance.instance_id, action, effect)
        except Ec2Error as e:
            status = 503 if e.code == THROTTLE else 400
            kind = classify(e.code, str(e), status)
            raise kind(str(e), operation=action, code=e.code) from e


def _mac(eni: Interface) -> str:
    number = int(eni.eni_id.removeprefix("eni-"), 16)
    return ":".join(f"{b:02x}" for b in (0x02, *number.to_bytes(5, "big")))
