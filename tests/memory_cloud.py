"""A cloud in memory that says no as EC2 does: the plain second implementation of CloudProvider.

Synchronous like the real providers; `AsyncMemoryCloud` is its binding for virtual time, with a
delay per call and faults: `fail(method, error, when="before"|"after", times=n)`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

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
    Subnet,
)
from ipamd.errors import CloudError, LimitReached, NotFound, SubnetExhausted
from ipamd.model import EniId, IPAddress, SubnetId
from tests.builders import CIDR, PRIMARY, SUBNET, identity


class MemoryCloud:
    """One node in one subnet."""

    def __init__(
        self, cidr: IPv4Network = CIDR, *, max_enis: int = 3, addresses_per_eni: int = 10
    ) -> None:
        self.cidr = cidr
        self._limits = NodeLimits(max_enis=max_enis, addresses_per_eni=addresses_per_eni)
        hosts = list(cidr)
        self.free: list[IPv4Address] = hosts[4:-1]  # EC2 reserves the first four and the last
        self.enis: dict[EniId, CloudEni] = {}
        self.tokens: dict[str, EniId] = {}
        self.calls: Counter[str] = Counter()
        self.node = identity()
        self.enis[PRIMARY] = self._new_eni(PRIMARY, 0, 0)

    def capabilities(self) -> Capabilities:
        return Capabilities(
            can_create_interfaces=True, has_prefixes=False, replaces_whole_interface=False
        )

    def discover_node(self) -> NodeIdentity:
        return self.node

    def limits(self) -> NodeLimits:
        return self._limits

    def snapshot(self) -> CloudSnapshot:
        return CloudSnapshot(
            enis=tuple(self.enis.values()), vpc_cidrs=(IPv4Network("10.0.0.0/16"),)
        )

    def apply(self, change: AddressChange) -> AddressOutcome:
        eni = self._eni(change.eni_id)
        kept = tuple(a for a in eni.addresses if a not in change.remove)
        self.free += [a for a in eni.addresses if a in change.remove and isinstance(a, IPv4Address)]
        self.enis[eni.eni_id] = eni = replace(eni, addresses=kept)
        added = self._take(eni, change.add)
        self.enis[eni.eni_id] = replace(eni, addresses=kept + added)
        return AddressOutcome(eni_id=eni.eni_id, added=added)

    def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        for subnet_id in subnet_ids:
            if subnet_id != SUBNET:
                raise NotFound(f"no subnet {subnet_id}", subnet_id=subnet_id)
        return (Subnet(
                subnet_id=SUBNET,
                cidr=self.cidr,
                free_addresses=len(self.free),
                is_candidate=True,
            ),)

    def create_interface(self, request: InterfaceRequest) -> CloudEni:
        if request.token in self.tokens:
            return self.enis[self.tokens[request.token]]
        if request.subnet_id != SUBNET:
            raise NotFound(f"no subnet {request.subnet_id}", subnet_id=request.subnet_id)
        attached = [e for e in self.enis.values() if e.status is EniStatus.ATTACHED]
        if len(attached) >= self._limits.max_enis:
            raise LimitReached("AttachmentLimitExceeded")
        if any(e.device_index == request.device_index for e in attached):
            raise CloudError(f"device index {request.device_index} is taken")
        eni_id = EniId(f"eni-{len(self.tokens) + 1:017x}")
        eni = self._new_eni(eni_id, request.device_index, request.secondary_addresses)
        self.enis[eni_id] = eni
        self.tokens[request.token] = eni_id
        return eni

    def delete_interface(self, eni_id: EniId) -> None:
        eni = self.enis.get(eni_id)
        if eni is None:
            return
        if eni.is_primary:
            raise CloudError("OperationNotPermitted: the primary cannot be detached")
        del self.enis[eni_id]
        self.free += [
            a for a in (eni.primary_address, *eni.addresses) if isinstance(a, IPv4Address)
        ]

    def assigned(self) -> set[IPAddress]:
        return {a for e in self.enis.values() for a in e.addresses}

    def _eni(self, eni_id: EniId) -> CloudEni:
        if eni_id not in self.enis:
            raise NotFound(f"no ENI {eni_id}", eni_id=eni_id)
        return self.enis[eni_id]

    def _take(self, eni: CloudEni, count: int) -> tuple[IPv4Address, ...]:
        if len(eni.addresses) + count > self._limits.slots_per_eni:
            raise LimitReached("PrivateIpAddressLimitExceeded", eni_id=eni.eni_id)
        return self._pop(count)

    def _pop(self, count: int) -> tuple[IPv4Address, ...]:
        if count > len(self.free):
            raise SubnetExhausted(
                f"InsufficientFreeAddressesInSubnet: {len(self.free)} of {count}", subnet_id=SUBNET
            )
        taken, self.free = tuple(self.free[:count]), self.free[count:]
        return taken

    def _new_eni(self, eni_id: EniId, index: int, secondaries: int) -> CloudEni:
        if secondaries > self._limits.slots_per_eni:
            raise LimitReached("PrivateIpAddressLimitExceeded", eni_id=eni_id)
        primary, *others = self._pop(1 + secondaries)
        return CloudEni(
            eni_id=eni_id,
            mac=f"02:00:00:00:00:{index:02x}",
            status=EniStatus.ATTACHED,
            subnet_id=SUBNET,
            subnet_cidr=self.cidr,
            primary_address=primary,
            addresses=tuple(others),
            device_index=index,
            network_card=0,
            is_primary=index == 0,
            is_managed=True,
        )


@dataclass(slots=True, kw_only=True)
class Fault:
    """An error on a method, before or after its effect, so many times."""

    method: str
    error: CloudError
    when: str = "before"
    times: int = 1


class AsyncMemoryCloud:
    """A MemoryCloud behind delays and faults; it is an `ipamd.cloud_child.Cloud`."""

    def __init__(self, cloud: MemoryCloud, *, delay_seconds: float = 0.2) -> None:
        self.cloud = cloud
        self.delay_seconds = delay_seconds
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.on_call: Callable[[str], None] = lambda method: None

    def fail(self, method: str, error: CloudError, *, when: str = "before", times: int = 1) -> None:
        self.faults.append(Fault(method=method, error=error, when=when, times=times))

    async def _call(self, method: str, *arguments: Any) -> Any:
        self.calls[method] += 1
        self.on_call(method)
        await asyncio.sleep(self.delay_seconds)
        fault = next((f for f in self.faults if f.method in (method, "*") and f.times > 0), None)
        if fault is not None:
            fault.times -= 1
            if fault.when == "before":
                raise fault.error
        answer = getattr(self.cloud, method)(*arguments)
        if fault is not None:
            raise fault.error
        return answer

    async def capabilities(self) -> Capabilities:
        answer: Capabilities = await self._call("capabilities")
        return answer

    async def discover_node(self) -> NodeIdentity:
        answer: NodeIdentity = await self._call("discover_node")
        return answer

    async def limits(self) -> NodeLimits:
        answer: NodeLimits = await self._call("limits")
        return answer

    async def snapshot(self) -> CloudSnapshot:
        answer: CloudSnapshot = await self._call("snapshot")
        return answer

    async def apply(self, change: AddressChange) -> AddressOutcome:
        answer: AddressOutcome = await self._call("apply", change)
        return answer

    async def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        answer: tuple[Subnet, ...] = await self._call("subnets", subnet_ids)
        return answer

    async def create_interface(self, request: InterfaceRequest) -> CloudEni:
        answer: CloudEni = await self._call("create_interface", request)
        return answer

    async def delete_interface(self, eni_id: EniId) -> None:
        await self._call("delete_interface", eni_id)
