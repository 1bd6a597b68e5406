"""One account's EC2 in virtual time: subnets, ENIs, limits, request buckets, latency.

Shared by all nodes of a run. `Account.request` is the wire: it counts, waits, throttles, and lets
one effect happen. Addresses come from the emulated cloud's own allocator, request rates from its
published buckets; what is here is only what 500 nodes need of EC2.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol, TypeVar

from providers.sim.allocator import NoFreeBlock, SubnetFull, SubnetPool
from scripts.bench.fleet_sim.chance import Chance
from scripts.bench.fleet_sim.meter import Meter
from scripts.bench.fleet_sim.shapes import PREFIX_ADDRESSES, NodeType

T = TypeVar("T")

THROTTLE = "RequestLimitExceeded"


class Ec2Error(Exception):
    """A refusal in EC2's words."""

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


class Buckets(Protocol):
    """The account's request buckets."""

    def take(self, action: str, now: float) -> bool:
        """Whether a request may pass at `now`; it has then spent its token."""


class Status(enum.Enum):
    """The attachment status in EC2's words."""

    AVAILABLE = "available"
    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


@dataclass(slots=True, kw_only=True)
class Subnet:
    """A subnet and who owns its addresses."""

    subnet_id: str
    pool: SubnetPool


@dataclass(slots=True, kw_only=True)
class Interface:
    """An ENI. `settles_at` is when attaching or detaching ends."""

    eni_id: str
    subnet: Subnet
    primary_address: IPv4Address
    owner: str  # the instance that made it, as its tag says; empty: launched with the machine
    created_at: float
    addresses: dict[IPv4Address, None] = field(default_factory=dict)
    prefixes: dict[IPv4Network, None] = field(default_factory=dict)
    instance_id: str = ""
    device_index: int = -1
    is_settling: bool = False
    settles_at: float = 0.0

    @property
    def items(self) -> int:
        """Slots in use beside the primary address."""
        return len(self.addresses) + len(self.prefixes)


@dataclass(slots=True, kw_only=True)
class Instance:
    """A machine with its ENIs by device index."""

    instance_id: str
    node_type: NodeType
    subnet: Subnet
    interfaces: dict[int, Interface] = field(default_factory=dict)
    leaving: list[Interface] = field(default_factory=list)  # they detach


class Account:
    """All of EC2 that the fleet sees."""

    def __init__(
        self, *, clock: Callable[[], float], buckets: Buckets, chance: Chance, meter: Meter
    ) -> None:
        self._clock = clock
        self._buckets = buckets
        self._chance = chance
        self.meter = meter
        self.interfaces: dict[str, Interface] = {}
        self.instances: dict[str, Instance] = {}
        self.subnets: dict[str, Subnet] = {}
        self._tokens: dict[str, Interface] = {}
        self._made = 0

    async def request(self, caller: str, action: str, effect: Callable[[], T]) -> T:
        """One API call of an instance: its latency, then its effect or a refusal (Ec2Error)."""
        self.meter.calls[action] += 1
        await asyncio.sleep(self._chance.latency(action, caller))
        if not self._buckets.take(action, self._clock()):
            self.meter.throttled += 1
            raise Ec2Error(THROTTLE, "Request limit exceeded.")
        return effect()

    def launch(self, instance_id: str, node_type: NodeType, subnet: Subnet) -> Instance:
        """Start a machine with its first ENI; costs no call here."""
        instance = Instance(instance_id=instance_id, node_type=node_type, subnet=subnet)
        eni = self._new(subnet, owner="")
        eni.instance_id, eni.device_index = instance_id, 0
        instance.interfaces[0] = eni
        self.instances[instance_id] = instance
        return instance

    def status(self, eni: Interface) -> Status:
        """The status now; what was to settle by now has."""
        if eni.is_settling and self._clock() >= eni.settles_at:
            self._settle(eni)
        if not eni.instance_id:
            return Status.AVAILABLE
        if not eni.is_settling:
            return Status.ATTACHED
        is_leaving = eni in self.instances[eni.instance_id].leaving
        return Status.DETACHING if is_leaving else Status.ATTACHING

    def describe(self, eni_id: str) -> Interface | None:
        """The ENI, its status settled."""
        eni = self.interfaces.get(eni_id)
        if eni is not None:
            self.status(eni)
        return eni

    def attached(self, instance_id: str) -> list[Interface]:
        """The ENIs of a machine that are attached, by device index."""
        enis = sorted(self.instances[instance_id].interfaces.items())
        return [e for _, e in enis if self.status(e) is Status.ATTACHED]

    def loose(self, *, older_seconds: float = 300.0, owner: str = "") -> list[str]:
        """ENIs that agents made (or one did) and that are attached to nothing."""
        before = self._clock() - older_seconds
        return [
            e.eni_id
            for e in self.interfaces.values()
            if e.owner
            and owner in ("", e.owner)
            and e.created_at <= before
            and self.status(e) is Status.AVAILABLE
        ]

    def hanging_on(self, instance_id: str) -> list[Interface]:
        """The ENIs of a machine in any state of attachment, those that detach included."""
        instance = self.instances[instance_id]
        known = [*instance.interfaces.values(), *instance.leaving]
        return [e for e in known if self.status(e) is not Status.AVAILABLE]

    def create(
        self, subnet: Subnet, *, owner: str, addresses: int, prefixes: int, token: str = ""
    ) -> Interface:
        """CreateNetworkInterface; the same token gives the same ENI."""
        if token and token in self._tokens:
            return self._tokens[token]
        node_type = self.instances[owner].node_type
        _check_slots(node_type, addresses + prefixes)
        eni = self._new(subnet, owner=owner)
        try:
            self._give(eni, addresses, prefixes)
        except Ec2Error:
            self._drop(eni)
            raise
        self.meter.hold(1)
        if token:
            self._tokens[token] = eni
        return eni

    def attach(self, eni_id: str, instance_id: str, device_index: int) -> None:
        """AttachNetworkInterface; done `Chance.attach_seconds` later."""
        eni, instance = self._needed(eni_id), self.instances[instance_id]
        if eni.instance_id:
            raise Ec2Error("InvalidNetworkInterface.InUse", f"{eni_id} is attached")
        if device_index in instance.interfaces:
            raise Ec2Error("InvalidParameterValue", f"device index {device_index} is taken")
        if len(instance.interfaces) >= instance.node_type.max_enis:
            raise Ec2Error("AttachmentLimitExceeded", f"{len(instance.interfaces)} interfaces")
        eni.instance_id, eni.device_index = instance_id, device_index
        instance.interfaces[device_index] = eni
        self._begin(eni, self._chance.attach_seconds(instance_id))

    def detach(self, eni_id: str) -> None:
        """DetachNetworkInterface; `available` after `Chance.detach_seconds`."""
        eni = self._needed(eni_id)
        if self.status(eni) is not Status.ATTACHED or eni.device_index == 0:
            raise Ec2Error("OperationNotPermitted", f"{eni_id} cannot be detached")
        instance = self.instances[eni.instance_id]
        instance.leaving.append(instance.interfaces.pop(eni.device_index))
        self._begin(eni, self._chance.detach_seconds(eni.instance_id))

    def delete(self, eni_id: str) -> None:
        """DeleteNetworkInterface of an ENI that is attached to nothing."""
        eni = self._needed(eni_id)
        if self.status(eni) is not Status.AVAILABLE:
            raise Ec2Error("InvalidParameterValue", f"{eni_id} is currently in use")
        self.meter.hold(-1)
        self._take_back(eni, tuple(eni.addresses), tuple(eni.prefixes))
        self._drop(eni)

    def assign(
        self, eni_id: str, *, addresses: int = 0, prefixes: int = 0
    ) -> tuple[tuple[IPv4Address, ...], tuple[IPv4Network, ...]]:
        """AssignPrivateIpAddresses: what is new, or nothing and an error."""
        eni = self._needed(eni_id)
        _check_slots(self._type_of(eni), eni.items + addresses + prefixes)
        return self._give(eni, addresses, prefixes)

    def unassign(
        self,
        eni_id: str,
        *,
        addresses: Iterable[IPv4Address] = (),
        prefixes: Iterable[IPv4Network] = (),
    ) -> None:
        """UnassignPrivateIpAddresses: all of these, or an error when one is not there."""
        eni = self._needed(eni_id)
        leaving, blocks = tuple(addresses), tuple(prefixes)
        if any(a not in eni.addresses for a in leaving) or any(
            p not in eni.prefixes for p in blocks
        ):
            raise Ec2Error("InvalidParameterValue", f"not all of them are on {eni_id}")
        self._take_back(eni, leaving, blocks)

    def _new(self, subnet: Subnet, *, owner: str) -> Interface:
        self._made += 1
        try:
            (primary,) = subnet.pool.take(1)
        except SubnetFull as e:
            raise Ec2Error("InsufficientFreeAddressesInSubnet", str(e)) from e
        eni = Interface(
            eni_id=f"eni-{self._made:017x}",
            subnet=subnet,
            primary_address=primary,
            owner=owner,
            created_at=self._clock(),
        )
        self.interfaces[eni.eni_id] = eni
        return eni

    def _drop(self, eni: Interface) -> None:
        eni.subnet.pool.release([eni.primary_address])
        del self.interfaces[eni.eni_id]

    def _give(
        self, eni: Interface, addresses: int, prefixes: int
    ) -> tuple[tuple[IPv4Address, ...], tuple[IPv4Network, ...]]:
        """One kind or the other, as EC2 takes it; all or nothing."""
        try:
            blocks = eni.subnet.pool.take_prefixes(prefixes) if prefixes else ()
            singles = eni.subnet.pool.take(addresses) if addresses else ()
        except SubnetFull as e:
            raise Ec2Error("InsufficientFreeAddressesInSubnet", str(e)) from e
        except NoFreeBlock as e:
            raise Ec2Error("InsufficientCidrBlocks", str(e)) from e
        eni.addresses.update(dict.fromkeys(singles))
        eni.prefixes.update(dict.fromkeys(blocks))
        self.meter.hold(len(singles) + PREFIX_ADDRESSES * len(blocks))
        return singles, blocks

    def _take_back(
        self, eni: Interface, addresses: tuple[IPv4Address, ...], prefixes: tuple[IPv4Network, ...]
    ) -> None:
        for address in addresses:
            del eni.addresses[address]
        for prefix in prefixes:
            del eni.prefixes[prefix]
        eni.subnet.pool.release(addresses)
        eni.subnet.pool.release_prefixes(prefixes)
        self.meter.hold(-len(addresses) - PREFIX_ADDRESSES * len(prefixes))

    def _begin(self, eni: Interface, seconds: float) -> None:
        eni.is_settling, eni.settles_at = True, self._clock() + seconds

    def _settle(self, eni: Interface) -> None:
        eni.is_settling = False
        instance = self.instances[eni.instance_id]
        if eni in instance.leaving:
            instance.leaving.remove(eni)
            eni.instance_id, eni.device_index = "", -1

    def _needed(self, eni_id: str) -> Interface:
        eni = self.describe(eni_id)
        if eni is None:
            raise Ec2Error("InvalidNetworkInterfaceID.NotFound", eni_id)
        return eni

    def _type_of(self, eni: Interface) -> NodeType:
        return self.instances[eni.instance_id or eni.owner].node_type


def _check_slots(node_type: NodeType, items: int) -> None:
    if items > node_type.slots:
        raise Ec2Error(
            "PrivateIpAddressLimitExceeded", "Number of private addresses will exceed limit."
        )
