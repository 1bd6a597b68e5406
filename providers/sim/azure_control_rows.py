"""Rows and options of the control socket, made of the emulated Azure's records: pure.

Rows have every key of EC2's (`control_calls`); further keys are Azure's own.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from typing import Any

from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_records import Nic, Subnet
from providers.sim.arm_state import ArmState


def eni_row(state: ArmState, nic: Nic) -> dict[str, Any]:
    """A NIC; "configs" and "state" are Azure's own."""
    properties = nic.document.get("properties", {})
    return {
        "eni_id": nic.nic_id,
        "mac": nic.link_mac,
        "subnet_id": state.subnet(nic.primary.subnet_key).subnet_id,
        "status": "attached" if nic.vm_id else "available",
        "instance_id": nic.vm_id,
        "device_index": nic.device_index if nic.vm_id else -1,
        "deletes_on_termination": nic.is_of_scale_set,
        "has_source_check": not properties.get("enableIPForwarding", False),
        "interface_type": "interface",
        "network_card": 0 if nic.vm_id else -1,
        "addresses": [str(one.address) for one in nic.configs if not one.is_block],
        "prefixes": [str(one.cidr) for one in nic.configs if one.is_block],
        "addresses_v6": [],
        "prefixes_v6": [],
        "state": nic.state.value,
        "configs": [
            {
                "name": one.name,
                "cidr": str(one.cidr),
                "is_primary": one.is_primary,
                "state": one.state.value,
            }
            for one in nic.configs
        ],
    }


def subnet_row(state: ArmState, subnet: Subnet) -> dict[str, Any]:
    """A subnet, and how much of it is free."""
    return {
        "subnet_id": subnet.subnet_id,
        "cidr": str(subnet.cidr),
        "cidr_v6": "",
        "free": subnet.pool.free_count,
        "free_blocks": subnet.pool.free_blocks(),
        "tenants": len(state.tenants.get(subnet.key, ())),
    }


def machine_row(machine: Vm | Instance) -> dict[str, Any]:
    """A machine; "kind", "scale_set" and "state" are Azure's own."""
    is_vm = isinstance(machine, Vm)
    scale_set = machine.scale_set_id if isinstance(machine, Vm) else machine.set_id
    return {
        "instance_id": machine.vm_id if isinstance(machine, Vm) else machine.instance_id,
        "name": machine.name,
        "instance_type": machine.size,
        "netns_path": machine.netns_path,
        "kind": "vm" if is_vm else "scale-set",
        "scale_set": scale_set.rsplit("/", 1)[-1],
        "state": machine.state.value,
    }


def typed(current: object, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as the fields of a dataclass take them; ValueError for a field it has not."""
    assert is_dataclass(current)
    known = {one.name for one in fields(current)} - {"faults"}
    if strange := set(values) - known:
        raise ValueError(f"no option {min(strange)}; there are {', '.join(sorted(known))}")
    return {
        name: type(had)(value) if isinstance(had := getattr(current, name), enum.Enum) else value
        for name, value in values.items()
    }


def plain(current: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON has them, enums by their value."""
    return {
        name: value.value if isinstance(value, enum.Enum) else value
        for name, value in asdict(current).items()
    }
