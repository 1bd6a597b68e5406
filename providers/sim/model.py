"""The contract between the emulated EC2 and whatever gives its ENIs a real wire.

The emulator calls, the fabric implements. Calls come one at a time (the emulator holds its lock),
after the emulator's own state has changed and before the API call that caused it is answered. An
exception from a listener is recorded as a fabric failure; the cloud's state stands.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class WiredEni:
    """An attached ENI as its wire needs it.

    `addresses` includes the primary address, first; `prefixes` are its /28s and /80s, whose
    addresses it may all use; `addresses_v6` its IPv6 addresses outside prefixes.
    """

    eni_id: str
    mac: str
    instance_id: str
    device_index: int
    subnet_cidr: IPv4Network
    primary_address: IPv4Address
    addresses: tuple[IPv4Address, ...]
    has_source_check: bool
    prefixes: tuple[IPv4Network | IPv6Network, ...] = ()
    addresses_v6: tuple[IPv6Address, ...] = ()
    subnet_cidr_v6: IPv6Network | None = None

    def __post_init__(self) -> None:
        if not self.addresses or self.addresses[0] != self.primary_address:
            raise ValueError(f"{self.eni_id}: the first address must be the primary one")


class FabricListener(Protocol):
    """Hears which ENIs have a wire, and what they may send."""

    def plug(self, eni: WiredEni, netns_path: str) -> None:
        """Make the ENI appear in the namespace at `netns_path` (a path or a name)."""

    def unplug(self, eni_id: str) -> None:
        """Make the ENI disappear from its namespace."""

    def readdress(self, eni: WiredEni) -> None:
        """Take over the addresses and the source check of an ENI that is plugged."""


class Fabric(FabricListener, Protocol):
    """A namespace that plays the VPC: routers, wires, and the check of every source."""

    def create(self) -> None:
        """Make the namespace."""

    def destroy(self) -> None:
        """Remove the namespace with all its wires; an absent one is no error."""

    def add_subnet(self, cidr: IPv4Network, cidr_v6: IPv6Network | None = None) -> None:
        """Bring up the subnet's router at base + 1, for IPv6 at fe80:ec2::1 on every wire."""

    def dropped(self) -> list[dict[str, Any]]:
        """What was dropped: dicts of eni_id, kind ("ip" | "mac" | "arp"), source, packets."""

    def reset_dropped(self) -> None:
        """Start counting drops at zero."""

    def listening_socket(self, address: str, port: int) -> socket.socket:
        """A listening TCP socket made inside the namespace, with `address` put on its lo."""
