"""What the emulated Microsoft.Compute remembers: VMs, scale sets and their instances.

Values; `arm_compute_state` keeps them. Ids are as they were first written, `key` is the id
lower-cased. `document` is what a client may change; unknown fields stay in it.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from providers.sim.arm_errors import JsonObject
from providers.sim.arm_records import State


class Power(enum.Enum):
    """Whether a VM runs; NICs come and go only when it is deallocated."""

    RUNNING = "running"
    DEALLOCATED = "deallocated"


class Mode(enum.Enum):
    """Orchestration of a scale set. Machines of a Flexible one are plain VMs with plain NICs."""

    UNIFORM = "Uniform"
    FLEXIBLE = "Flexible"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """A VM. Its NICs are those whose `vm_id` is its id. `scale_set_id`: of a Flexible set."""

    vm_id: str
    guid: str
    size: str
    etag: str
    scale_set_id: str = ""
    zone: str = ""
    power: Power = Power.RUNNING
    state: State = State.SUCCEEDED
    netns_path: str = ""
    client_ids: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    document: JsonObject = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The id to compare with."""
        return self.vm_id.lower()

    @property
    def name(self) -> str:
        """The last part of the id."""
        return self.vm_id.rsplit("/", 1)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleSet:
    """A scale set. `document` has properties.virtualMachineProfile, what new instances are like."""

    set_id: str
    size: str
    mode: Mode
    etag: str
    document: JsonObject
    next_number: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The id to compare with."""
        return self.set_id.lower()

    @property
    def name(self) -> str:
        """The last part of the id."""
        return self.set_id.rsplit("/", 1)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """An instance of a Uniform scale set. `host_name` empty: the set's name and its number.

    `document` has its tags and properties, above all networkProfileConfiguration, the model that
    its NICs are made by. `has_own_model`: it was written to since it was made or upgraded.
    """

    instance_id: str  # ARM id; the last part is Azure's "instanceId"
    guid: str
    size: str
    etag: str
    document: JsonObject
    zone: str = ""
    host_name: str = ""
    has_own_model: bool = False
    state: State = State.SUCCEEDED
    netns_path: str = ""
    client_ids: tuple[str, ...] = ()

    @property
    def key(self) -> str:
        """The id to compare with."""
        return self.instance_id.lower()

    @property
    def number(self) -> str:
        """What Azure calls instanceId: "3"."""
        return self.instance_id.rsplit("/", 1)[1]

    @property
    def set_id(self) -> str:
        """The id of its scale set."""
        return self.instance_id.rsplit("/", 2)[0]

    @property
    def name(self) -> str:
        """Its resource name: the set's and its number."""
        return f"{self.set_id.rsplit('/', 1)[1]}_{self.number}"

    @property
    def computer_name(self) -> str:
        """What its operating system calls itself."""
        return self.host_name or f"{self.name.rsplit('_', 1)[0]}{int(self.number):06d}"

    @property
    def model(self) -> JsonObject:
        """networkProfileConfiguration."""
        properties: JsonObject = self.document["properties"]
        model: JsonObject = properties["networkProfileConfiguration"]
        return model
