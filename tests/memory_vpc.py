"""Subnets in memory: who has which address, whole /28s, and the refusals of EC2's words."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from ipamd.cloud import Subnet
from ipamd.errors import NoPrefixFree, NotFound, SubnetExhausted
from ipamd.model import EniId, IPAddress, IPNetwork, SubnetId
from tests.builders import CIDR, SUBNET


@dataclass(slots=True)
class MemorySubnet:
    """One subnet. `free` is in ascending order; the lowest goes first, so reuse is immediate."""

    subnet_id: SubnetId = SUBNET
    cidr: IPv4Network = CIDR
    cidr_v6: IPv6Network | None = None
    is_candidate: bool = True
    is_excluded: bool = False
    free: list[IPv4Address] = field(default_factory=list)
    prefixes_v6_given: int = 0

    def __post_init__(self) -> None:
        self.free = list(self.cidr)[4:-1]  # EC2 reserves the first four and the last

    def seen(self) -> Subnet:
        """As DescribeSubnets tells it."""
        return Subnet(
            subnet_id=self.subnet_id,
            cidr=self.cidr,
            cidr_v6=self.cidr_v6,
            free_addresses=len(self.free),
            is_candidate=self.is_candidate,
            is_excluded=self.is_excluded,
        )

    def take(self, count: int) -> tuple[IPv4Address, ...]:
        """All or nothing."""
        if count > len(self.free):
            raise SubnetExhausted(
                f"InsufficientFreeAddressesInSubnet: {len(self.free)} of {count}",
                subnet_id=self.subnet_id,
            )
        taken, self.free[:] = tuple(self.free[:count]), self.free[count:]
        return taken

    def take_prefixes(self, count: int) -> tuple[IPv4Network, ...]:
        """The lowest wholly free, aligned blocks; all or nothing."""
        free = set(self.free)
        blocks = (
            [block for block in self.cidr.subnets(new_prefix=28) if free.issuperset(block)]
            if self.cidr.prefixlen <= 28
            else []
        )
        if len(blocks) < count:
            raise NoPrefixFree(
                f"InsufficientCidrBlocks: {len(blocks)} of {count}", subnet_id=self.subnet_id
            )
        gone = {a for block in blocks[:count] for a in block}
        self.free[:] = [a for a in self.free if a not in gone]
        return tuple(blocks[:count])

    def take_prefixes_v6(self, count: int) -> tuple[IPv6Network, ...]:
        """The next /80s, never the same twice."""
        if self.cidr_v6 is None and count:
            raise NotFound(f"{self.subnet_id} has no IPv6 CIDR", subnet_id=self.subnet_id)
        assert self.cidr_v6 is not None or not count
        made = []
        for _ in range(count):
            self.prefixes_v6_given += 1
            base = int(self.cidr_v6.network_address) + (self.prefixes_v6_given << 48)  # type: ignore[union-attr]
            made.append(IPv6Network((base, 80)))
        return tuple(made)

    def give_back(self, items: tuple[IPAddress | IPNetwork, ...]) -> None:
        """Addresses and prefixes are free at once."""
        for item in items:
            if isinstance(item, IPv4Address):
                self.free.append(item)
            elif isinstance(item, IPv4Network):
                self.free += list(item)
        self.free.sort()

    def fragment(self) -> None:
        """A neighbour takes one free address of every block, so that no /28 is left."""
        free = set(self.free)
        for block in self.cidr.subnets(new_prefix=28):
            inside = [a for a in block if a in free]
            if len(inside) == 16:
                self.free.remove(inside[7])


@dataclass(slots=True)
class MemoryVpc:
    """The subnets that nodes share. `holders` says which ENI made which token."""

    subnets: dict[SubnetId, MemorySubnet] = field(default_factory=dict)
    next_eni: int = 1

    def add(self, subnet: MemorySubnet) -> MemorySubnet:
        """A further subnet."""
        self.subnets[subnet.subnet_id] = subnet
        return subnet

    def subnet(self, subnet_id: SubnetId) -> MemorySubnet:
        """InvalidSubnetID.NotFound where there is none."""
        if subnet_id not in self.subnets:
            raise NotFound(f"no subnet {subnet_id}", subnet_id=subnet_id)
        return self.subnets[subnet_id]

    def new_eni_id(self) -> EniId:
        """Ids never repeat."""
        self.next_eni += 1
        return EniId(f"eni-{self.next_eni:017x}")
