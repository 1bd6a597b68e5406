"""Where an ENI's own address goes in a subnet that has CIDR reservations: outside of them.

EC2 chooses any free address, also one inside a block that is reserved for prefixes, which then has
no room for one prefix less (amazon-vpc-cni-k8s issues 2313, 3087). Pure: the choice depends on the
token alone, so that a repeated creation sends equal parameters.
"""

from __future__ import annotations

import hashlib
from ipaddress import IPv4Address, IPv4Network

TRIES = 4
"""Candidates before EC2 chooses: in a subnet whose open part is half full, one in 16 creations gets
that far."""


def open_ranges(
    cidr: IPv4Network, reservations: tuple[IPv4Network, ...]
) -> tuple[tuple[int, int], ...]:
    """(first, last) of the ranges outside all reservations and EC2's own five addresses, in order.

    EC2 keeps the first four of a subnet and the last (VPC guide, "Subnet sizing"). Example:
    10.0.0.0/24 with 10.0.0.64/26 reserved -> .4 to .63 and .128 to .254.
    """
    first, end = int(cidr.network_address) + 4, int(cidr.broadcast_address) - 1
    ranges = []
    for block in sorted(b for b in reservations if b.overlaps(cidr)):
        if first < int(block.network_address):
            ranges.append((first, min(int(block.network_address) - 1, end)))
        first = max(first, int(block.broadcast_address) + 1)
    if first <= end:
        ranges.append((first, end))
    return tuple(ranges)


def candidates(
    token: str, cidr: IPv4Network, reservations: tuple[IPv4Network, ...]
) -> tuple[IPv4Address, ...]:
    """Up to TRIES addresses for an ENI, in the order to try; none where all is reserved."""
    ranges = open_ranges(cidr, reservations)
    room = sum(last - first + 1 for first, last in ranges)
    if room == 0:
        return ()
    digest = hashlib.sha256(token.encode()).digest()
    start, step = (int.from_bytes(digest[i : i + 8]) for i in (0, 8))
    # Neighbours in time must not choose neighbours in space: their tries would meet.
    chosen = {_nth(ranges, (start + k * (step | 1)) % room): None for k in range(TRIES)}
    return tuple(chosen)


def _nth(ranges: tuple[tuple[int, int], ...], n: int) -> IPv4Address:
    for first, last in ranges:
        if n <= last - first:
            return IPv4Address(first + n)
        n -= last - first + 1
    raise IndexError(n)
