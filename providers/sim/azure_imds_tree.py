"""The values of the metadata service as pure data: /metadata/instance of one machine.

Shapes: "Azure Instance Metadata Service", sections "Network metadata" and "Instance metadata". Of
compute there is what a node agent can use; names are as documented, all leaves are strings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Any

from providers.sim.azure_machines import Machine, MachineNic


@dataclass(frozen=True, slots=True, kw_only=True)
class Falsehoods:
    """What the service says wrongly: `values` by path (empty: gone), and NICs it does not list.

    `hidden` has ids and MACs in lower case.
    """

    values: Mapping[str, str] = field(default_factory=dict)
    hidden: frozenset[str] = frozenset()


def instance_tree(
    machine: Machine, lists_blocks: str | None, falsehoods: Falsehoods = Falsehoods()
) -> dict[str, Any]:
    """{"compute": {...}, "network": {"interface": [...]}} as the service tells it."""
    shown = [nic for nic in machine.nics if not _names(nic) & falsehoods.hidden]
    tree: dict[str, Any] = {
        "compute": _compute(machine),
        "network": {"interface": [_interface(nic, lists_blocks) for nic in shown]},
    }
    for path, value in falsehoods.values.items():
        _falsify(tree, path, value)
    return tree


def node_at(tree: Mapping[str, Any], path: str) -> Any:
    """The value at a path of names and list places, of any case; None where there is none."""
    node: Any = tree
    for step in _steps(path):
        key = _key(node, step)
        if key is None:
            return None
        node = node[key]
    return node


def _names(nic: MachineNic) -> frozenset[str]:
    return frozenset({nic.nic_id.lower(), nic.mac, nic.mac.replace(":", "")})


def _compute(machine: Machine) -> dict[str, Any]:
    return {
        "azEnvironment": "AzurePublicCloud",
        "location": machine.location,
        "name": machine.name,
        "osType": "Linux",
        "provider": "Microsoft.Compute",
        "resourceGroupName": machine.resource_group,
        "resourceId": machine.machine_id,
        "subscriptionId": machine.subscription,
        "tags": ";".join(f"{key}:{value}" for key, value in machine.tags.items()),
        "tagsList": [{"name": key, "value": value} for key, value in machine.tags.items()],
        "vmId": machine.vm_id,
        "vmScaleSetName": machine.scale_set,
        "vmSize": machine.vm_size,
        "zone": machine.zone,
    }


def _interface(nic: MachineNic, lists_blocks: str | None) -> dict[str, Any]:
    subnet = nic.subnet_cidr
    return {
        "ipv4": {
            "ipAddress": [
                {"privateIpAddress": str(address), "publicIpAddress": ""}
                for address in (*nic.addresses, *_of_blocks(nic, lists_blocks))
            ],
            "subnet": [{"address": str(subnet.network_address), "prefix": str(subnet.prefixlen)}],
        },
        "ipv6": {"ipAddress": []},
        "macAddress": nic.mac.replace(":", "").upper(),
    }


def _of_blocks(nic: MachineNic, lists_blocks: str | None) -> list[IPv4Address]:
    match lists_blocks:
        case "all":
            return [address for block in nic.blocks for address in block]
        case "first":
            return [block.network_address for block in nic.blocks]
        case _:
            return []


def _falsify(tree: dict[str, Any], path: str, value: str) -> None:
    """Put `value` where `path` leads, or take away what is there; a path to nowhere is ignored."""
    *above, last = _steps(path)
    parent = node_at(tree, "/".join(above))
    if parent is None or (key := _key(parent, last, is_new=bool(value))) is None:
        return
    if value:
        parent[key] = value
    else:
        del parent[key]


def _steps(path: str) -> list[str]:
    return [step for step in path.strip("/").split("/") if step]


def _key(node: Any, step: str, *, is_new: bool = False) -> str | int | None:
    if isinstance(node, list):
        return int(step) if step.isdecimal() and int(step) < len(node) else None
    if not isinstance(node, dict):
        return None
    known = next((key for key in node if key.lower() == step.lower()), None)
    return step if known is None and is_new else known
