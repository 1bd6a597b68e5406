"""A node on the emulated Azure with everything real between: TLS, azure-identity, IMDS, the SDK.

Time is virtual: it passes while the provider sleeps, and nowhere else. Writes take some of it, so
that each is awaited as a long-running operation.

    for node in azure_node("scale-set", directory):
        node.grow(3)
        node.provider.snapshot()
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from ipamd.api_calls import ApiCall
from ipamd.cloud import AddressChange, AddressOutcome, CloudEni
from ipamd.model import EniId, IPAddress, SubnetId
from providers.azure.config import AzureConfig
from providers.azure.provider import AzureProvider
from providers.sim.arm_compute_records import Instance
from providers.sim.arm_faults import ArmFaultKind
from providers.sim.http_door import Answer, Call
from tests.sim.azure.lab import AzureLab, Doors, config, serving

KINDS = ("vm", "scale-set")

PUT = {"vm": "NetworkInterfaces_CreateOrUpdate", "scale-set": "VirtualMachineScaleSetVMs_Update"}
READS = {
    "vm": ["NetworkInterfaces_Get"],
    "scale-set": [
        "VirtualMachineScaleSetVMs_Get",
        "NetworkInterfaces_ListVirtualMachineScaleSetVMNetworkInterfaces",
    ],
}
"""What one look at what is written takes, and its write."""

NIC_SECONDS = 3.0
INSTANCE_SECONDS = 20.0

CIDR = "10.8.0.0/23"
"""A NIC takes 256 configurations, so that the limit can only be met in more than a /24."""

OTHER_CIDRS = ("10.8.4.0/24", "10.8.5.0/24", "10.8.6.0/24")


@dataclass(slots=True, kw_only=True)
class AzureNode:
    """The provider, the cloud below it, and what it called and noted."""

    kind: str
    lab: AzureLab
    doors: Doors
    machine_id: str
    subnet_ids: tuple[str, ...]
    directory: Path
    calls: list[ApiCall] = field(default_factory=list)
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)
    during: list[Callable[[], None]] = field(default_factory=list)
    intruders: list[tuple[str, Callable[[], None]]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    provider: AzureProvider = field(init=False)
    _respond: Callable[[Call], Answer | None] = field(init=False)

    def __post_init__(self) -> None:
        self._respond = self.lab.world.respond
        self.lab.world.respond = self.respond  # type: ignore[assignment, method-assign]
        self.start()

    def start(self) -> None:
        """A process begins, with what an earlier one left on disk."""
        settings = AzureConfig(
            journal_path=self.directory / "azure-writes.json",
            arm_endpoint=self.doors.arm_url,
            metadata_endpoint=self.doors.imds_url,
            **self.options,
        )
        self.provider = AzureProvider(
            settings,
            tell=self.calls.append,
            note=self._note,
            monotonic=self.lab.clock,
            sleep=self.sleep,
            chance=lambda: 0.0,
        )

    def restart(self, **options: Any) -> None:
        """The process ends, and another begins; `options` are those of `AzureConfig`."""
        self.provider.close()
        self.options |= options
        self.start()

    def _note(self, event: str, /, **facts: object) -> None:
        self.notes.append((event, facts))

    def sleep(self, seconds: float) -> None:
        """Time passes; `during` is what others do in the next pauses, in order."""
        self.lab.advance(seconds)
        if self.during:
            self.during.pop(0)()

    @property
    def is_instance(self) -> bool:
        return self.kind == "scale-set"

    @property
    def nic_id(self) -> str:
        """The primary NIC as ARM writes its id."""
        return self.lab.nics(self.machine_id)[0].nic_id

    @property
    def target(self) -> str:
        """What a write replaces: the pattern of its path, for faults."""
        return self.machine_id if self.is_instance else self.nic_id

    @property
    def eni_id(self) -> EniId:
        return EniId(self.nic_id.lower())

    def subnet(self, place: int) -> SubnetId:
        """A subnet of the VNET as the provider names it; 0 is the node's."""
        return SubnetId(self.subnet_ids[place].lower())

    @property
    def instance(self) -> Instance:
        return self.lab.world.compute.instance(self.machine_id)

    def look(self) -> CloudEni:
        """The primary NIC as the provider shows it."""
        return self.provider.snapshot().enis[0]

    def change(self, **wanted: Any) -> AddressOutcome:
        return self.provider.apply(AddressChange(eni_id=self.eni_id, **wanted))

    def grow(self, count: int, token: str = "") -> tuple[IPAddress, ...]:
        return self.change(add=count, token=token).added

    def held(self, nic: int = 0) -> dict[str, str]:
        """What the cloud has on a NIC beside its own address, by configuration."""
        rows = self.lab.addresses(self.machine_id, nic)
        return {name: carried for name, carried in rows.items() if name != "ipconfig1"}

    def fault(self, kind: ArmFaultKind, method: str = "PUT", path: str = "", **more: Any) -> None:
        """The next such request, of the write target where no path is named, goes wrong."""
        self.lab.world.arm.faults.add(method, path or self.target, kind, **more)

    def make_instant(self) -> None:
        """Writes are over when they are answered."""
        self.lab.set(write_seconds=0)
        self.lab.compute(write_seconds=0)

    def puts(self) -> int:
        """How many writes were called for."""
        return self.counted()[PUT[self.kind]]

    def called(self) -> list[str]:
        return [call.api for call in self.calls]

    def counted(self) -> Counter[str]:
        return Counter(self.called())

    def edit_outside(self, edit: Callable[[Any, Any], None], **headers: str) -> None:
        """Another client reads what a write replaces, edits it and the primary NIC in it, and
        writes it back; returns when that is over."""
        body = self.document
        edit(body, self.nic_in(body))
        reply = self.lab.call("PUT", self.target, body, **headers)
        assert reply.status in (200, 202), reply.body
        self.lab.advance(INSTANCE_SECONDS if self.is_instance else NIC_SECONDS)

    def write_outside(self, *names: str, without: tuple[str, ...] = ()) -> None:
        """Another client adds and removes configurations."""

        def edit(body: Any, nic: Any) -> None:
            rows = nic["properties"]["ipConfigurations"]
            subnet = rows[0]["properties"]["subnet"]
            rows[:] = [row for row in rows if row["name"] not in without]
            rows += [config(name, subnet=subnet) for name in names]

        self.edit_outside(edit)

    @property
    def document(self) -> Any:
        """What a write replaces, as ARM shows it to anybody."""
        return self.lab.get(self.target).body

    def nic_in(self, document: Any) -> Any:
        """The primary NIC in what a write replaces."""
        if not self.is_instance:
            return document
        profile = document["properties"]["networkProfileConfiguration"]
        return profile["networkInterfaceConfigurations"][0]

    def before_next(self, method: str, act: Callable[[], None]) -> None:
        """Let others act when the next such request has arrived and was not looked at yet."""
        self.intruders.append((method, act))

    def respond(self, call: Call) -> Answer | None:
        """ARM, with what others do just before."""
        for intruder in self.intruders:
            if intruder[0] == call.method:
                self.intruders.remove(intruder)
                intruder[1]()
                break
        return self._respond(call)


def azure_node(kind: str, directory: Path, *, nics: int = 1, **options: Any) -> Iterator[AzureNode]:
    """A node of one kind in a subnet of its own VNET; `options` are those of `AzureConfig`."""
    lab = AzureLab()
    lab.set(write_seconds=NIC_SECONDS)
    lab.compute(write_seconds=INSTANCE_SECONDS)
    vnet = lab.world.make_vnet("10.8.0.0/16", [CIDR, *OTHER_CIDRS])
    if kind == "vm":
        machine_id = lab.vm(subnet_id=vnet.subnet_ids[0], nics=nics).vm_id
    else:
        machine_id = lab.instance(subnet_id=vnet.subnet_ids[0], nics=nics).instance_id
    lab.advance(1.0)
    with serving(lab, directory) as doors, mock.patch.dict(os.environ, doors.environment):
        node = AzureNode(
            kind=kind,
            lab=lab,
            doors=doors,
            machine_id=machine_id,
            subnet_ids=vnet.subnet_ids,
            directory=directory,
            options=options,
        )
        yield node
        node.provider.close()


def looked(kind: str, directory: Path, *, nics: int = 1) -> Iterator[AzureNode]:
    """A node that has looked around; what it calls from here on is counted."""
    for node in azure_node(kind, directory, nics=nics):
        node.look()
        node.calls.clear()
        yield node


def texts(addresses: Iterable[IPAddress]) -> set[str]:
    """Addresses as `AzureNode.held` has them."""
    return set(map(str, addresses))


on_vm = pytest.mark.parametrize("node", ["vm"], indirect=True)
on_instance = pytest.mark.parametrize("node", ["scale-set"], indirect=True)
