"""The addresses of one subnet: which are free, which EC2 keeps, who gets the next.

Owned by the emulator's state, one per subnet, no lock of its own. The lowest free address goes
first, so that a run repeats exactly and a freed address is reused at once: a client that gives an
address back too early meets its next owner immediately.

Addresses are kept as offsets from the base, so a /28 prefix can later be taken as sixteen offsets
from a multiple of sixteen without changing what is here.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network

# Amazon VPC User Guide, "Subnet sizing": network, router, DNS, future use; and the last address.
RESERVED_AT_START = 4
RESERVED_AT_END = 1


class Refusal(enum.Enum):
    """Why a named address cannot be given."""

    OUTSIDE = "outside"
    RESERVED = "reserved"
    IN_USE = "in_use"


class SubnetFull(Exception):
    """Fewer addresses are free than were asked for; nothing was taken."""


class SubnetPool:
    """The addresses of one subnet."""

    def __init__(self, cidr: IPv4Network) -> None:
        self.cidr = cidr
        self._base = int(cidr.network_address)
        self._first = RESERVED_AT_START
        self._end = cidr.num_addresses - RESERVED_AT_END
        self._taken: set[int] = set()
        self._lowest = self._first  # never above the lowest free offset

    @property
    def free_count(self) -> int:
        """Free addresses; a /24 with nothing in it has 251."""
        return self._end - self._first - len(self._taken)

    def refusal(self, address: IPv4Address) -> Refusal | None:
        """Why `address` cannot be taken now; None when it can."""
        if address not in self.cidr:
            return Refusal.OUTSIDE
        offset = int(address) - self._base
        if not self._first <= offset < self._end:
            return Refusal.RESERVED
        return Refusal.IN_USE if offset in self._taken else None

    def take(self, count: int) -> tuple[IPv4Address, ...]:
        """The `count` lowest free addresses, all or none (`SubnetFull`)."""
        if count > self.free_count:
            raise SubnetFull(f"{self.cidr}: {count} wanted, {self.free_count} free")
        offsets: list[int] = []
        candidate = self._lowest
        while len(offsets) < count:
            if candidate not in self._taken:
                offsets.append(candidate)
            candidate += 1
        self._taken.update(offsets)
        self._lowest = candidate if offsets else self._lowest
        return tuple(IPv4Address(self._base + offset) for offset in offsets)

    def take_named(self, addresses: Iterable[IPv4Address]) -> None:
        """Take these addresses, each of which must have no `refusal`."""
        wanted = tuple(addresses)
        for address in wanted:
            if (refusal := self.refusal(address)) is not None:
                raise ValueError(f"{address} of {self.cidr}: {refusal.value}")
        self._taken.update(int(address) - self._base for address in wanted)

    def release(self, addresses: Iterable[IPv4Address]) -> None:
        """Give addresses back; one that is free already is an error of the caller (KeyError)."""
        for address in addresses:
            offset = int(address) - self._base
            self._taken.remove(offset)
            self._lowest = min(self._lowest, offset)
