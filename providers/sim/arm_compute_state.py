"""The emulated Microsoft.Compute's memory, and how its options are set.

Lives beside `ArmState`, whose lock guards it and which keeps the NICs of all machines.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

from providers.sim.arm_compute_records import Instance, ScaleSet, Vm
from providers.sim.arm_errors import no_resource
from providers.sim.arm_state import ArmState

Record = TypeVar("Record")


class Style(enum.Enum):
    """How a client of Microsoft.Compute can follow an operation."""

    BOTH = "both"  # Azure-AsyncOperation and Location
    ASYNC = "async"  # Azure-AsyncOperation alone, as recorded (azure-cli, test_vmss_update)
    LOCATION = "location"  # Location alone


class SecondWrite(enum.Enum):
    """What happens to a PUT of an instance while another one is under way (unverified)."""

    PREEMPTS = "preempts"  # the first operation fails with OperationPreempted
    CONFLICTS = "conflicts"  # the second is refused with 409


class FullAt(enum.Enum):
    """When a full subnet shows on the scale-set path (unverified)."""

    PUT = "put"  # 400 at once
    END = "end"  # accepted; the operation fails


@dataclass(frozen=True, slots=True, kw_only=True)
class ComputeBehaviour:
    """Microsoft.Compute's delays, in seconds, and its choices.

    `write_seconds`: how long a write of an instance is under way. `put_status`: 200 or 202.
    `refuses_gallery_images`: a PUT of an instance that still names an image by id is refused, as
    for an identity without rights on the gallery (AKS #1819). `newest_nic_version`: the newest
    api-version of the NIC view; empty: any (unverified; the SDK asks for 2018-10-01).
    `etags_since`: the api-version from which instances have an etag and obey If-Match.
    """

    write_seconds: float = 0.0
    retry_after_seconds: int = 0
    put_status: int = 200
    style: Style = Style.ASYNC
    second_write: SecondWrite = SecondWrite.PREEMPTS
    full_at: FullAt = FullAt.END
    refuses_gallery_images: bool = False
    newest_nic_version: str = ""
    etags_since: str = "2024-07-01"

    def __post_init__(self) -> None:
        if self.put_status not in (200, 202):
            raise ValueError(f"a PUT of an instance answers 200 or 202, not {self.put_status}")
        if self.write_seconds < 0 or self.retry_after_seconds < 0:
            raise ValueError("seconds must not be negative")


class ComputeState:
    """VMs, scale sets and instances by key (id, lower-cased), oldest first."""

    def __init__(self, arm: ArmState, behaviour: ComputeBehaviour | None = None) -> None:
        self.arm = arm
        self.behaviour = behaviour or ComputeBehaviour()
        self._vms: dict[str, Vm] = {}
        self._sets: dict[str, ScaleSet] = {}
        self._instances: dict[str, Instance] = {}
        self._etags = 0

    @property
    def vms(self) -> Mapping[str, Vm]:
        """Every VM, those of Flexible sets included."""
        return MappingProxyType(self._vms)

    @property
    def sets(self) -> Mapping[str, ScaleSet]:
        """Every scale set."""
        return MappingProxyType(self._sets)

    @property
    def instances(self) -> Mapping[str, Instance]:
        """Every instance of a Uniform set."""
        return MappingProxyType(self._instances)

    def machines(self) -> list[Vm | Instance]:
        """Every VM and every instance."""
        return [*self._vms.values(), *self._instances.values()]

    def new_etag(self) -> str:
        """An etag as Microsoft.Compute writes it: a number in quotes."""
        self._etags += 1
        return f'"{self._etags}"'

    def vm(self, vm_id: str) -> Vm:
        """The VM of that id in any case, or 404."""
        return _found(self._vms, vm_id)

    def scale_set(self, set_id: str) -> ScaleSet:
        """The scale set of that id in any case, or 404."""
        return _found(self._sets, set_id)

    def instance(self, instance_id: str) -> Instance:
        """The instance of that id in any case, or 404."""
        return _found(self._instances, instance_id)

    def instances_of(self, scale_set: ScaleSet) -> list[Instance]:
        """The instances of a set, oldest first."""
        return [one for one in self._instances.values() if one.set_id.lower() == scale_set.key]

    def put(self, record: Vm | ScaleSet | Instance) -> None:
        """Record a new or changed one."""
        match record:
            case Vm():
                self._vms[record.key] = record
            case ScaleSet():
                self._sets[record.key] = record
            case Instance():
                self._instances[record.key] = record

    def drop(self, machine_id: str) -> None:
        """Forget a VM or an instance; an instance's NICs go with it, a VM's are detached."""
        if (vm := self._vms.pop(machine_id.lower(), None)) is not None:
            for nic in self.arm.attached_to(vm.vm_id):
                self.arm.detach(nic.nic_id)
            return
        instance = self.instance(machine_id)
        del self._instances[instance.key]
        for nic in self.arm.attached_to(instance.instance_id):
            self.arm.drop_nic(nic.nic_id)

    def reset(self) -> None:
        """Forget everything. The NICs are forgotten by the state of Microsoft.Network."""
        self._vms.clear()
        self._sets.clear()
        self._instances.clear()


def _found(records: Mapping[str, Record], resource_id: str) -> Record:
    found = records.get(resource_id.lower())
    if found is None:
        raise no_resource(resource_id)
    return found
