"""The addresses of one subnet: which are free, which EC2 keeps, who gets the next.

Owned by the emulator's state, one pool per subnet and family, no lock of its own, no moto. The
lowest free address goes first, so that a run repeats exactly and a freed address is reused at once:
a client that gives an address back too early meets its next owner immediately. Prefixes (/28 or
/80) go lowest block first too; only an aligned block with no address in use can be one.

Everything is kept as offsets from the subnet's base, addresses and blocks apart.
"""

from __future__ import annotations

import abc
import contextlib
import enum
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic, TypeVar

Address = TypeVar("Address", IPv4Address, IPv6Address)
Network = TypeVar("Network", IPv4Network, IPv6Network)

# Amazon VPC User Guide, "Subnet sizing": network, router, DNS, future use; and the last address.
# The same five are reserved in an IPv6 block ("Subnet sizing for IPv6").
RESERVED_AT_START = 4
RESERVED_AT_END = 1

# EC2 user guide, "Assigning prefixes to Amazon EC2 network interfaces".
PREFIX_LENGTH_V4 = 28
PREFIX_LENGTH_V6 = 80


class Refusal(enum.Enum):
    """Why a named address or prefix cannot be given."""

    OUTSIDE = "outside"
    RESERVED = "reserved"
    IN_USE = "in_use"


class ReservationType(enum.Enum):
    """Who assigns the addresses of a CIDR reservation (VPC user guide, "CIDR reservations")."""

    PREFIX = "prefix"  # EC2, as prefixes only
    EXPLICIT = "explicit"  # the caller, by name


class SubnetFull(Exception):
    """Fewer addresses are free than were asked for; nothing was taken."""


class NoFreeBlock(Exception):
    """Enough addresses are free, but not in whole aligned blocks; nothing was taken."""


class NotGiven(ValueError):
    """A named address or prefix cannot be given; nothing was taken."""

    def __init__(self, what: object, refusal: Refusal) -> None:
        super().__init__(f"{what}: {refusal.value}")
        self.what = what
        self.refusal = refusal


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken(Generic[Address, Network]):
    """What one request was given."""

    addresses: tuple[Address, ...] = ()
    prefixes: tuple[Network, ...] = ()


class _Pool(abc.ABC, Generic[Address, Network]):
    """The addresses of one subnet in one family."""

    def __init__(self, cidr: Network, prefix_length: int) -> None:
        self.cidr: Network = cidr
        self._block_size = 1 << (cidr.max_prefixlen - prefix_length)
        self._base = int(cidr.network_address)
        self._first = RESERVED_AT_START
        self._end = cidr.num_addresses - RESERVED_AT_END
        self._taken: set[int] = set()
        self._taken_in: Counter[int] = Counter()  # block -> how many of its addresses
        self._blocks: set[int] = set()
        self._reserved: dict[Network, ReservationType] = {}
        self._lowest = self._first  # never above the lowest offset that could be given

    @property
    def free_count(self) -> int:
        """AvailableIpAddressCount: without what `prefix` reservations still hold.

        A /24 with nothing in it has 251. That a `prefix` reservation counts from its making, and an
        `explicit` one does not, is moto's belief.
        """
        return self._free() - self._free_within(ReservationType.PREFIX)

    def refusal(self, address: Address) -> Refusal | None:
        """Why `address` cannot be taken now; None when it can."""
        if address not in self.cidr:
            return Refusal.OUTSIDE
        offset = int(address) - self._base
        if not self._first <= offset < self._end:
            return Refusal.RESERVED
        is_free = offset not in self._taken and offset // self._block_size not in self._blocks
        return None if is_free else Refusal.IN_USE

    def prefix_refusal(self, prefix: Network) -> Refusal | None:
        """Why `prefix` cannot be taken now; None when it can. Its length must be the family's."""
        base = int(prefix.network_address) - self._base
        if not 0 <= base < self.cidr.num_addresses:
            return Refusal.OUTSIDE
        block = base // self._block_size
        if not self._is_ours(block):
            return Refusal.RESERVED
        return None if self._is_free(block) else Refusal.IN_USE

    def take(self, count: int) -> tuple[Address, ...]:
        """The `count` lowest free addresses, all or none (`SubnetFull`)."""
        offsets: list[int] = []
        candidate = self._lowest
        while len(offsets) < count:
            candidate = self._next_free(candidate)
            if candidate >= self._end:
                raise SubnetFull(f"{self.cidr}: {count} wanted, {len(offsets)} free")
            offsets.append(candidate)
            candidate += 1
        self._add(offsets)
        self._lowest = candidate if offsets else self._lowest
        return tuple(self._address(offset) for offset in offsets)

    def take_prefixes(self, count: int, beside: int = 0) -> tuple[Network, ...]:
        """The `count` lowest free blocks, those in `prefix` reservations first; all or none.

        `SubnetFull` when there are too few addresses for them and for `beside` others,
        `NoFreeBlock` when they are strewn.
        """
        free = self._free() - self._free_within(ReservationType.EXPLICIT)
        if count * self._block_size + beside > free:
            raise SubnetFull(f"{self.cidr}: {count} blocks wanted, {free} addresses free")
        blocks: list[int] = []
        candidates = self._candidate_blocks()
        while len(blocks) < count:
            block = next((one for one in candidates if self._is_free(one)), None)
            if block is None:
                raise NoFreeBlock(f"{self.cidr}: {count} blocks wanted, {len(blocks)} free")
            blocks.append(block)
        self._blocks.update(blocks)
        return tuple(self._prefix(block) for block in blocks)

    def take_named(self, addresses: Iterable[Address]) -> tuple[Address, ...]:
        """Take these addresses, all or none (`NotGiven`)."""
        wanted = tuple(addresses)
        for place, address in enumerate(wanted):
            refusal = Refusal.IN_USE if address in wanted[:place] else self.refusal(address)
            if refusal is not None:
                raise NotGiven(address, refusal)
        self._add(int(address) - self._base for address in wanted)
        return wanted

    def take_named_prefixes(self, prefixes: Iterable[Network]) -> tuple[Network, ...]:
        """Take these prefixes, all or none (`NotGiven`)."""
        wanted = tuple(prefixes)
        for place, prefix in enumerate(wanted):
            refusal = Refusal.IN_USE if prefix in wanted[:place] else self.prefix_refusal(prefix)
            if refusal is not None:
                raise NotGiven(prefix, refusal)
        self._blocks.update(self._block(prefix) for prefix in wanted)
        return wanted

    def take_all(
        self,
        *,
        named: tuple[Address, ...] = (),
        prefixes: tuple[Network, ...] = (),
        count: int = 0,
        prefix_count: int = 0,
    ) -> Taken[Address, Network]:
        """Named ones first, then so many others; all of it or, with an error, nothing."""
        with contextlib.ExitStack() as undo:
            undo.callback(self.release, self.take_named(named))
            undo.callback(self.release_prefixes, self.take_named_prefixes(prefixes))
            blocks = self.take_prefixes(prefix_count, beside=count)
            undo.callback(self.release_prefixes, blocks)
            addresses = self.take(count)
            undo.pop_all()
        return Taken(addresses=named + addresses, prefixes=prefixes + blocks)

    def release(self, addresses: Iterable[Address]) -> None:
        """Give addresses back; one that is free already is an error of the caller (KeyError)."""
        for address in addresses:
            offset = int(address) - self._base
            self._taken.remove(offset)
            self._taken_in[offset // self._block_size] -= 1
            self._lowest = min(self._lowest, offset)

    def release_prefixes(self, prefixes: Iterable[Network]) -> None:
        """Give prefixes back; one that is free already is an error of the caller (KeyError)."""
        for prefix in prefixes:
            block = self._block(prefix)
            self._blocks.remove(block)
            self._lowest = min(self._lowest, block * self._block_size)

    def reserve(self, cidr: Network, kind: ReservationType) -> None:
        """Keep automatic addresses away from `cidr`; what is in use there stays."""
        self._reserved[cidr] = kind

    def unreserve(self, cidr: Network) -> None:
        """End a reservation; what is free there can be given again."""
        del self._reserved[cidr]
        self._lowest = self._first

    def free_blocks(self) -> int:
        """How many whole aligned blocks are free, wherever they are."""
        return sum(map(self._is_free, range(self.cidr.num_addresses // self._block_size)))

    def whole_blocks(self) -> Iterator[Network]:
        """The free blocks, lowest first."""
        for block in range(self.cidr.num_addresses // self._block_size):
            if self._is_free(block):
                yield self._prefix(block)

    def _free(self) -> int:
        held = len(self._taken) + len(self._blocks) * self._block_size
        return self._end - self._first - held

    def _free_within(self, kind: ReservationType) -> int:
        """Free addresses inside the reservations of one type."""
        return sum(self._free_in(cidr) for cidr, one in self._reserved.items() if one is kind)

    def _free_in(self, cidr: Network) -> int:
        span = self._span(cidr)
        usable = min(span.stop, self._end) - max(span.start, self._first)
        blocks = sum(block * self._block_size in span for block in self._blocks)
        held = sum(offset in span for offset in self._taken) + blocks * self._block_size
        return max(0, usable) - held

    def _next_free(self, candidate: int) -> int:
        """The lowest offset from `candidate` on that may be given; none: `_end` or more."""
        while candidate < self._end:
            block = candidate // self._block_size
            if block in self._blocks:
                candidate = (block + 1) * self._block_size
            elif (span := self._reserved_span(candidate)) is not None:
                candidate = span.stop
            elif candidate in self._taken:
                candidate += 1
            else:
                return candidate
        return candidate

    def _candidate_blocks(self) -> Iterator[int]:
        """The blocks EC2 may choose from: in `prefix` reservations, then outside all of them."""
        for cidr in sorted(self._reserved):
            if self._reserved[cidr] is ReservationType.PREFIX:
                span = self._span(cidr)
                yield from range(-(-span.start // self._block_size), span.stop // self._block_size)
        for block in range(self.cidr.num_addresses // self._block_size):
            if not any(self._prefix(block).overlaps(cidr) for cidr in self._reserved):
                yield block

    def _is_ours(self, block: int) -> bool:
        """Whether the block has none of the five addresses that EC2 keeps."""
        size = self._block_size
        return block * size >= self._first and (block + 1) * size <= self._end

    def _is_free(self, block: int) -> bool:
        return self._is_ours(block) and block not in self._blocks and not self._taken_in[block]

    def _add(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            self._taken.add(offset)
            self._taken_in[offset // self._block_size] += 1

    def _reserved_span(self, offset: int) -> range | None:
        spans = map(self._span, self._reserved)
        return next((span for span in spans if offset in span), None)

    def _span(self, cidr: Network) -> range:
        start = int(cidr.network_address) - self._base
        return range(start, start + cidr.num_addresses)

    def _block(self, prefix: Network) -> int:
        return (int(prefix.network_address) - self._base) // self._block_size

    @abc.abstractmethod
    def _address(self, offset: int) -> Address: ...

    @abc.abstractmethod
    def _prefix(self, block: int) -> Network: ...


class SubnetPool(_Pool[IPv4Address, IPv4Network]):
    """The IPv4 addresses and /28 prefixes of one subnet."""

    def __init__(self, cidr: IPv4Network) -> None:
        super().__init__(cidr, PREFIX_LENGTH_V4)

    def _address(self, offset: int) -> IPv4Address:
        return IPv4Address(self._base + offset)

    def _prefix(self, block: int) -> IPv4Network:
        return IPv4Network((self._base + block * self._block_size, PREFIX_LENGTH_V4))


class SubnetPoolV6(_Pool[IPv6Address, IPv6Network]):
    """The IPv6 addresses and /80 prefixes of one subnet."""

    def __init__(self, cidr: IPv6Network) -> None:
        super().__init__(cidr, PREFIX_LENGTH_V6)

    def _address(self, offset: int) -> IPv6Address:
        return IPv6Address(self._base + offset)

    def _prefix(self, block: int) -> IPv6Network:
        return IPv6Network((self._base + block * self._block_size, PREFIX_LENGTH_V6))
