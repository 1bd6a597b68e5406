"""IPv4 and IPv6 in one set of types, and the kernel's numbers for them. Pure."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network
AddressOnLink = IPv4Interface | IPv6Interface

# linux/socket.h. UNSPEC in a dump asks for every family that the kernel has.
AF_UNSPEC, AF_INET, AF_INET6 = 0, 2, 10
FAMILIES = {4: AF_INET, 6: AF_INET6}  # by ipaddress's version

# RFC 8200, section 5: below it the kernel takes IPv6 off the link.
LEAST_MTU_V6 = 1280

ANYWHERE: dict[int, Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}


# An ADD asks for both of these several times, with one address, and each costs 5 us to make.
_OF_LATE = 64


@lru_cache(_OF_LATE)
def host_network(address: Address) -> Network:
    """Exactly this address: its /32 or /128."""
    return IPv4Network(address) if isinstance(address, IPv4Address) else IPv6Network(address)


@lru_cache(_OF_LATE)
def host_on_link(address: Address) -> AddressOnLink:
    """The address as a link has it, with nothing of its subnet: /32 or /128."""
    if isinstance(address, IPv4Address):
        return IPv4Interface((address, 32))
    return IPv6Interface((address, 128))
