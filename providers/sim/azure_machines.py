"""What the metadata service and the wireserver know of the machines, and how they ask for it.

`azure_world` keeps it up to date; nothing here knows of ARM's resources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineNic:
    """A NIC as its machine has it. `addresses` are single ones, the primary first.

    `mac` has colons and is lower case; `nic_id` is ARM's id.
    """

    nic_id: str
    mac: str
    is_primary: bool
    subnet_cidr: IPv4Network
    addresses: tuple[IPv4Address, ...]
    blocks: tuple[IPv4Network, ...] = ()

    def __post_init__(self) -> None:
        if not self.addresses:
            raise ValueError(f"{self.nic_id}: a NIC has a primary address")


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """A VM or an instance of a scale set; `machine_id` is its ARM id.

    `scale_set` is empty for a standalone VM. `nics` begins with the primary one. `client_ids` are
    those of its user-assigned identities; every machine has a system-assigned one besides.
    `host_name` is what its operating system calls itself.
    """

    machine_id: str
    name: str
    host_name: str
    scale_set: str
    vm_id: str
    vm_size: str
    location: str
    zone: str
    subscription: str
    resource_group: str
    nics: tuple[MachineNic, ...]
    client_ids: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def primary_address(self) -> IPv4Address | None:
        """The only source that the platform's services answer."""
        primary = next((nic for nic in self.nics if nic.is_primary), None)
        return primary.addresses[0] if primary else None


class Machines(Protocol):
    """Every machine, now and a little while ago."""

    def all_machines(self, lag_seconds: float = 0.0) -> tuple[Machine, ...]:
        """The machines that exist now, as they were `lag_seconds` ago."""


def asking(machines: Machines, peer: str) -> Machine | None:
    """The machine whose primary address this is; None for any other source."""
    source = IPv4Address(peer)
    return next((m for m in machines.all_machines() if m.primary_address == source), None)
