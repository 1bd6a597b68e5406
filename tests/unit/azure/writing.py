"""One node's writing half on ARM in memory, as the tests arrange it."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from ipamd.cloud import AddressChange
from ipamd.model import EniId, IPAddress, IPNetwork
from providers.azure.journal import Journal
from providers.azure.writer import Writer
from tests.unit.azure.memory_arm import INSTANCE, NIC, NIC_ENI, MemoryArm, VirtualClock


def a(text: str) -> IPv4Address:
    return IPv4Address(text)


@dataclass
class Scene:
    """One node, its ARM and its writer; `eni_id` is its NIC."""

    path: Path
    eni_id: EniId
    clock: VirtualClock = field(default_factory=VirtualClock)
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.arm = MemoryArm(self.clock)
        if self.eni_id == NIC_ENI:
            self.arm.add_nic()
        else:
            self.arm.add_instance("Primary", "second")
        self.writer = self.new_writer()

    @property
    def put(self) -> str:
        return "put_nic" if self.eni_id == NIC_ENI else "put_instance"

    @property
    def read(self) -> str:
        return "nic" if self.eni_id == NIC_ENI else "instance"

    @property
    def target(self) -> str:
        return (NIC if self.eni_id == NIC_ENI else INSTANCE).lower()

    def new_writer(self) -> Writer:
        """As a process that starts."""
        self.journal = Journal(self.path, note=self.note)
        return Writer(self.arm, self.journal, clock=self.clock.clock(), note=self.note)

    def note(self, event: str, /, **facts: object) -> None:
        self.notes.append((event, facts))

    def change(self, **wanted: Any) -> AddressChange:
        return AddressChange(**{"eni_id": self.eni_id, "token": "t1", **wanted})

    def add(self, count: int = 1, **wanted: Any) -> tuple[IPAddress, ...]:
        return self.writer.apply(self.change(add=count, **wanted)).added

    def add_blocks(self, count: int, **wanted: Any) -> tuple[IPNetwork, ...]:
        return self.writer.apply(self.change(add_prefixes=count, **wanted)).added_prefixes

    def remove(self, *addresses: IPAddress, **wanted: Any) -> None:
        self.writer.apply(self.change(remove=addresses, **wanted))

    def held(self) -> list[str]:
        return self.arm.held(self.eni_id)

    def idle(self) -> None:
        """Until nothing moves."""
        self.clock.now += 1000
        self.arm.held(self.eni_id)
