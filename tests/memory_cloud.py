"""A cloud in memory that says no as EC2 does: the plain second implementation of CloudProvider.

Synchronous like the real providers; `AsyncMemoryCloud` is its binding for virtual time, with a
delay per call and faults: `fail(method, error, when="before"|"after", times=n)`. `on_step` is
called after each EC2 call's worth of effect, inside a creation too: a test may raise there.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from ipamd.cloud import (
    AddressChange,
    AddressOutcome,
    Capabilities,
    CloudEni,
    CloudSnapshot,
    EniHint,
    EniStatus,
    Hint,
    InterfaceRequest,
    NodeIdentity,
    NodeLimits,
    Orphan,
    Subnet,
)
from ipamd.errors import CloudError, LimitReached, NotFound, Transient
from ipamd.model import EniId, IPAddress, SubnetId
from tests.builders import CIDR, SUBNET, identity
from tests.memory_vpc import MemorySubnet, MemoryVpc

VPC_CIDRS = (IPv4Network("10.0.0.0/16"),)


class MemoryCloud:
    """One node in one VPC; give several nodes the same `vpc` to have them compete."""

    def __init__(
        self,
        cidr: IPv4Network = CIDR,
        *,
        max_enis: int = 3,
        addresses_per_eni: int = 10,
        has_prefixes: bool = True,
        card_enis: tuple[int, ...] = (),
        cidr_v6: IPv6Network | None = None,
        vpc: MemoryVpc | None = None,
        node: NodeIdentity | None = None,
    ) -> None:
        self.cidr = cidr
        self._limits = NodeLimits(
            max_enis=max_enis,
            addresses_per_eni=addresses_per_eni,
            has_prefixes=has_prefixes,
            card_enis=card_enis,
        )
        self.able = Capabilities(
            can_create_interfaces=True, has_prefixes=True, replaces_whole_interface=False
        )
        self.vpc = vpc or MemoryVpc()
        if SUBNET not in self.vpc.subnets:
            self.vpc.add(MemorySubnet(SUBNET, cidr, cidr_v6))
        self.enis: dict[EniId, CloudEni] = {}
        self.vpc_cidrs: tuple[IPv4Network, ...] = VPC_CIDRS
        self.tokens: dict[str, EniId] = {}
        self.made: dict[str, InterfaceRequest] = {}
        self.calls: Counter[str] = Counter()
        self.node = node or identity()
        self.on_step: Callable[[str], None] = lambda step: None
        self.orphan_enis: dict[EniId, Orphan] = {}
        self._taken: set[IPAddress] = set()
        self._attach_is_lost = 0
        first = self._new_eni(self.node.primary_eni_id, self.node.primary_subnet_id)
        self.enis[first.eni_id] = replace(
            first,
            mac=self.node.primary_mac,
            status=EniStatus.ATTACHED,
            device_index=0,
            is_primary=True,
        )

    @property
    def free(self) -> list[Any]:
        """The free addresses of the node's own subnet, to be changed in place."""
        return self.vpc.subnets[SUBNET].free

    def capabilities(self) -> Capabilities:
        return self.able

    def discover_node(self) -> NodeIdentity:
        return self.node

    def limits(self) -> NodeLimits:
        return self._limits

    def snapshot(self) -> CloudSnapshot:
        return CloudSnapshot(enis=tuple(self.enis.values()), vpc_cidrs=self.vpc_cidrs)

    def hint(self) -> Hint:
        enis = tuple(
            EniHint(
                eni_id=e.eni_id,
                items=tuple(sorted(str(x) for x in (*e.addresses, *e.prefixes))),
            )
            for e in self.snapshot().enis
            if e.status is EniStatus.ATTACHED
        )
        return Hint(enis=enis, vpc_cidrs=self.vpc_cidrs)

    def apply(self, change: AddressChange) -> AddressOutcome:
        if change.remove or change.remove_prefixes:
            self._remove(change)
            self.on_step("unassign")
        before = self._eni(change.eni_id)
        kinds: tuple[Callable[[], None], ...] = (
            lambda: self._assign(change.eni_id, change.add),
            lambda: self._assign_prefixes(change.eni_id, change.add_prefixes, 0),
            lambda: self._assign_prefixes(change.eni_id, 0, change.add_prefixes_v6),
        )
        for assign in kinds:
            try:
                assign()
            except CloudError:
                if self.enis[change.eni_id] == before:
                    raise
                break  # what the earlier calls gave is the answer
        after = self.enis[change.eni_id]
        outcome = AddressOutcome(
            eni_id=change.eni_id,
            added=after.addresses[len(before.addresses) :],
            added_prefixes=after.prefixes[len(before.prefixes) :],
        )
        if outcome.added or outcome.added_prefixes:
            self.on_step("assign")
        return outcome

    def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        for subnet_id in subnet_ids:
            self.vpc.subnet(subnet_id)
        return tuple(
            s.seen()
            for s in self.vpc.subnets.values()
            if s.subnet_id in subnet_ids or s.is_candidate
        )

    def create_interface(self, request: InterfaceRequest) -> CloudEni:
        eni_id = self._created(request)
        eni = self.enis[eni_id]
        if eni.status is EniStatus.AVAILABLE:
            try:
                self._attach(eni, request)
            except LimitReached:
                self.delete_interface(eni_id)  # attaching failed for good
                raise
        if self.enis[eni_id].status is not EniStatus.ATTACHED:
            self._attach_is_lost -= 1
            if self._attach_is_lost <= 0:
                self._settle_attach(eni_id)
            raise Transient(f"{eni_id} is not attached after 60 s", eni_id=eni_id)
        self.on_step("protect")
        return self.enis[eni_id]

    def lose_attach(self, tries: int) -> None:
        """The next attach is answered and does not happen until it was waited for so often."""
        self._attach_is_lost = tries

    def delete_interface(self, eni_id: EniId) -> None:
        eni = self.enis.get(eni_id)
        if eni is None:
            return
        if eni.is_primary:
            raise CloudError("OperationNotPermitted: the primary cannot be detached")
        if eni.status is not EniStatus.AVAILABLE:
            self.enis[eni_id] = replace(eni, status=EniStatus.AVAILABLE, device_index=-1)
            self.on_step("detach")
        self._free(self.enis.pop(eni_id))
        self.on_step("delete")

    def orphans(self) -> tuple[Orphan, ...]:
        own = (
            Orphan(eni_id=e.eni_id, instance_id=self.node.instance_id, created_unix=0.0)
            for e in self.enis.values()
            if e.status is EniStatus.AVAILABLE
        )
        return (*own, *self.orphan_enis.values())

    def mark_created(self, eni_id: EniId, unix: float) -> None:
        if eni_id not in self.orphan_enis:
            raise NotFound(f"no ENI {eni_id}", eni_id=eni_id)
        self.orphan_enis[eni_id] = replace(self.orphan_enis[eni_id], created_unix=unix)

    def delete_orphan(self, eni_id: EniId) -> None:
        held = self.enis.get(eni_id)
        if held is not None and held.status is not EniStatus.AVAILABLE:
            raise CloudError(f"InvalidParameterValue: {eni_id} is currently in use", eni_id=eni_id)
        if held is not None:
            self._free(self.enis.pop(eni_id))
        self.orphan_enis.pop(eni_id, None)

    def assigned(self) -> set[IPAddress]:
        """Every address that pods may have, those inside /28s included."""
        single = {a for e in self.enis.values() for a in e.addresses}
        blocks = {a for e in self.enis.values() for p in e.prefixes if p.version == 4 for a in p}
        return single | blocks

    def taken_by_others(self) -> set[IPAddress]:
        """What somebody took from our ENIs behind our back (see `steal`)."""
        return self._taken

    def steal(self, address: IPAddress) -> None:
        """Somebody unassigns an address by hand."""
        holder = next(e for e in self.enis.values() if address in e.addresses)
        self._remove(AddressChange(eni_id=holder.eni_id, remove=(address,)))
        self._taken.add(address)

    def _created(self, request: InterfaceRequest) -> EniId:
        if request.token in self.tokens:
            if self.made[request.token] != request:
                raise CloudError("IdempotentParameterMismatch")
            eni_id = self.tokens[request.token]
            if eni_id not in self.enis:
                raise NotFound(f"{eni_id} was deleted", eni_id=eni_id)
            return eni_id
        if request.secondary_addresses and request.prefixes:
            raise CloudError("InvalidParameterCombination: addresses and prefixes")
        slots = request.secondary_addresses + request.prefixes
        if slots > self._limits.slots_per_eni:
            raise LimitReached("PrivateIpAddressLimitExceeded")
        eni = self._new_eni(self.vpc.new_eni_id(), request.subnet_id)
        try:
            added = self.vpc.subnet(request.subnet_id).take(request.secondary_addresses)
            prefixes = self._take_prefixes(eni, request.prefixes, request.prefixes_v6)
        except CloudError:
            self._free(eni)  # all or nothing
            raise
        self.enis[eni.eni_id] = replace(eni, addresses=added, prefixes=prefixes)
        self.tokens[request.token] = eni.eni_id
        self.made[request.token] = request
        self.on_step("create")
        return eni.eni_id

    def _attach(self, eni: CloudEni, request: InterfaceRequest) -> None:
        card = request.network_card
        there = [
            e
            for e in self.enis.values()
            if e.status is not EniStatus.AVAILABLE and e.network_card == card
        ]
        if len(there) >= self._limits.enis_of_card(card):
            raise LimitReached("AttachmentLimitExceeded")
        if any(e.device_index == request.device_index for e in there):
            raise LimitReached(f"device index {request.device_index} is taken")
        self.enis[eni.eni_id] = replace(
            eni,
            status=EniStatus.ATTACHING,
            device_index=request.device_index,
            network_card=card,
        )
        if not self._attach_is_lost:
            self._settle_attach(eni.eni_id)
        self.on_step("attach")

    def _settle_attach(self, eni_id: EniId) -> None:
        self.enis[eni_id] = replace(self.enis[eni_id], status=EniStatus.ATTACHED)

    def _eni(self, eni_id: EniId) -> CloudEni:
        if eni_id not in self.enis:
            raise NotFound(f"no ENI {eni_id}", eni_id=eni_id)
        return self.enis[eni_id]

    def _assign(self, eni_id: EniId, count: int) -> None:
        eni = self.enis[eni_id]
        self.enis[eni_id] = replace(eni, addresses=eni.addresses + self._take(eni, count))

    def _assign_prefixes(self, eni_id: EniId, count: int, count_v6: int) -> None:
        eni = self.enis[eni_id]
        more = self._take_prefixes(eni, count, count_v6)
        self.enis[eni_id] = replace(eni, prefixes=eni.prefixes + more)

    def _take(self, eni: CloudEni, count: int) -> tuple[IPAddress, ...]:
        self._require_slots(eni, count)
        return self.vpc.subnet(eni.subnet_id).take(count)

    def _take_prefixes(
        self, eni: CloudEni, count: int, count_v6: int
    ) -> tuple[IPv4Network | IPv6Network, ...]:
        if (count or count_v6) and not self._limits.has_prefixes:
            raise CloudError("InvalidParameterValue: the instance type has no prefixes")
        self._require_slots(eni, count)
        subnet = self.vpc.subnet(eni.subnet_id)
        return subnet.take_prefixes(count) + subnet.take_prefixes_v6(count_v6)

    def _require_slots(self, eni: CloudEni, count: int) -> None:
        used = len(eni.addresses) + sum(p.version == 4 for p in eni.prefixes)
        if used + count > self._limits.slots_per_eni:
            raise LimitReached("PrivateIpAddressLimitExceeded", eni_id=eni.eni_id)

    def _remove(self, change: AddressChange) -> None:
        eni = self._eni(change.eni_id)
        gone = tuple(a for a in eni.addresses if a in change.remove)
        blocks = tuple(p for p in eni.prefixes if p in change.remove_prefixes)
        self.vpc.subnet(eni.subnet_id).give_back(gone + blocks)
        self.enis[eni.eni_id] = replace(
            eni,
            addresses=tuple(a for a in eni.addresses if a not in gone),
            prefixes=tuple(p for p in eni.prefixes if p not in blocks),
        )

    def _free(self, eni: CloudEni) -> None:
        items = (eni.primary_address, *eni.addresses, *eni.prefixes)
        self.vpc.subnet(eni.subnet_id).give_back(items)

    def _new_eni(self, eni_id: EniId, subnet_id: SubnetId) -> CloudEni:
        subnet = self.vpc.subnet(subnet_id)
        return CloudEni(
            eni_id=eni_id,
            mac=f"02:00:00:00:00:{self.vpc.next_eni:02x}",
            status=EniStatus.AVAILABLE,
            subnet_id=subnet_id,
            subnet_cidr=subnet.cidr,
            primary_address=subnet.take(1)[0],
            addresses=(),
            device_index=-1,
            network_card=0,
            is_primary=False,
            is_managed=True,
            subnet_cidr_v6=subnet.cidr_v6,
        )


@dataclass(slots=True, kw_only=True)
class Fault:
    """An error on a method, before or after its effect, so many times or until a time."""

    method: str
    error: CloudError
    when: str = "before"
    times: int = 1
    until: float = float("inf")


class AsyncMemoryCloud:
    """A MemoryCloud behind delays and faults; it is an `ipamd.cloud_child.Cloud`.

    `lag_seconds` is how old a snapshot is (EC2 is eventually consistent).
    """

    def __init__(self, cloud: MemoryCloud, *, delay_seconds: float = 0.2) -> None:
        self.cloud = cloud
        self.delay_seconds = delay_seconds
        self.lag_seconds = 0.0
        self.faults: list[Fault] = []
        self.calls: Counter[str] = Counter()
        self.on_call: Callable[[str], None] = lambda method: None
        self.in_flight: list[tuple[str, tuple[Any, ...]]] = []  # asked for, not yet done
        self._past: list[tuple[float, CloudSnapshot]] = []

    def land(self, calls: list[tuple[str, tuple[Any, ...]]]) -> None:
        """Have calls of a process that died take their effect; nobody hears the answers."""
        for method, arguments in calls:
            with suppress(CloudError):
                getattr(self.cloud, method)(*arguments)

    def fail(
        self,
        method: str,
        error: CloudError,
        *,
        when: str = "before",
        times: int = 1,
        until: float = float("inf"),
    ) -> None:
        """`until` is a time of the loop."""
        self.faults.append(Fault(method=method, error=error, when=when, times=times, until=until))

    async def _call(self, method: str, *arguments: Any) -> Any:
        self.calls[method] += 1
        self.in_flight.append((method, arguments))
        try:
            self.on_call(method)
            await asyncio.sleep(self.delay_seconds)
        finally:
            self.in_flight.remove((method, arguments))
        now = asyncio.get_running_loop().time()
        fault = next((f for f in self.faults if self._applies(f, method, now)), None)
        if fault is not None:
            fault.times -= 1
            if fault.when == "before":
                raise fault.error
        try:
            answer = getattr(self.cloud, method)(*arguments)
        finally:
            self._remember(now)
        if method == "snapshot":
            answer = self._late(answer, now)
        if fault is not None:
            raise fault.error
        return answer

    @staticmethod
    def _applies(fault: Fault, method: str, now: float) -> bool:
        return fault.method in (method, "*") and fault.times > 0 and now < fault.until

    def _remember(self, now: float) -> None:
        self._past = [(t, s) for t, s in self._past if t > now - 120.0]
        self._past.append((now, self.cloud.snapshot()))

    def _late(self, answer: CloudSnapshot, now: float) -> CloudSnapshot:
        """The newest picture that is at least `lag_seconds` old; the oldest kept before that."""
        if not self.lag_seconds:
            return answer
        old = [s for t, s in self._past if t <= now - self.lag_seconds]
        return old[-1] if old else self._past[0][1]

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

    async def hint(self) -> Hint:
        answer: Hint = await self._call("hint")
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

    async def orphans(self) -> tuple[Orphan, ...]:
        answer: tuple[Orphan, ...] = await self._call("orphans")
        return answer

    async def mark_created(self, eni_id: EniId, unix: float) -> None:
        await self._call("mark_created", eni_id, unix)

    async def delete_orphan(self, eni_id: EniId) -> None:
        await self._call("delete_orphan", eni_id)
