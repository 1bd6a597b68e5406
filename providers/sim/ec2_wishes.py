"""What a request asks of a subnet, as values: addresses or prefixes, named or counted.

Checked here as far as it goes without state. Sources stand in docs/emulated-ec2.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Generic

from providers.sim.allocator import Address, Network
from providers.sim.ec2_errors import combination, invalid
from providers.sim.ec2_records import Subnet

EFA_ONLY = "efa-only"


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish(Generic[Address, Network]):
    """What a request asks for in one family. EC2 lets it use one of the four only."""

    named: tuple[Address, ...] = ()
    count: int = 0
    prefixes: tuple[Network, ...] = ()
    prefix_count: int = 0

    def __post_init__(self) -> None:
        if self.count < 0 or self.prefix_count < 0:
            raise invalid("The number of addresses must not be negative.")

    @property
    def slots(self) -> int:
        """How many slots of an ENI it fills: a prefix counts as one address."""
        return len(self.named) + self.count + len(self.prefixes) + self.prefix_count

    @property
    def has_prefixes(self) -> bool:
        """Only some types may carry them."""
        return bool(self.prefixes or self.prefix_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class WishV4(Wish[IPv4Address, IPv4Network]):
    """A wish for secondary addresses or /28 prefixes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WishV6(Wish[IPv6Address, IPv6Network]):
    """A wish for IPv6 addresses or /80 prefixes."""


NO_WISH_V4 = WishV4()
NO_WISH_V6 = WishV6()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewInterface:
    """What CreateNetworkInterface was asked for, checked as far as it goes without state.

    `wish` counts the secondary addresses. `wish_v6` None: the request says nothing of IPv6, so the
    subnet's setting decides.
    """

    subnet_id: str
    group_ids: tuple[str, ...]
    description: str = ""
    interface_type: str = "interface"
    primary: IPv4Address | None = None
    wish: WishV4 = NO_WISH_V4
    wish_v6: WishV6 | None = None

    def __post_init__(self) -> None:
        if self.interface_type == EFA_ONLY and (self.primary or self.wish.slots or self.wish_v6):
            raise combination("An EFA-only network interface does not support IP addresses.")

    @property
    def slots(self) -> int:
        """IPv4 slots, the primary address included."""
        return 0 if self.interface_type == EFA_ONLY else 1 + self.wish.slots

    def v6_in(self, subnet: Subnet) -> WishV6:
        """What it asks of IPv6 once the subnet's setting is known."""
        if self.wish_v6 is not None:
            return self.wish_v6
        assigns = subnet.assigns_v6 and self.interface_type != EFA_ONLY
        return WishV6(count=1) if assigns else NO_WISH_V6
