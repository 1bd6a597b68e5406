"""Machines for the tests of the metadata service and the wireserver, without any ARM."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from typing import Any

from providers.sim.azure_machines import Machine, MachineNic
from providers.sim.http_door import Call

GROUP = "/subscriptions/sub/resourceGroups/rg/providers"
PRIMARY = "10.0.1.4"


def nic(
    name: str = "nic-0",
    addresses: tuple[str, ...] = (PRIMARY, "10.0.1.5"),
    blocks: tuple[str, ...] = (),
    *,
    is_primary: bool = True,
) -> MachineNic:
    return MachineNic(
        nic_id=f"{GROUP}/Microsoft.Network/networkInterfaces/{name}",
        mac="00:0d:3a:32:85:70" if is_primary else "00:0d:3a:32:85:71",
        is_primary=is_primary,
        subnet_cidr=IPv4Network("10.0.1.0/24"),
        addresses=tuple(map(IPv4Address, addresses)),
        blocks=tuple(map(IPv4Network, blocks)),
    )


def machine(name: str = "vm1", nics: tuple[MachineNic, ...] = (nic(),), **changes: Any) -> Machine:
    values: dict[str, Any] = {
        "machine_id": f"{GROUP}/Microsoft.Compute/virtualMachines/{name}",
        "name": name,
        "host_name": f"{name}-host",
        "scale_set": "",
        "vm_id": "0c5e47be-9f10-432d-a4a8-2d6bf15e6ae1",
        "vm_size": "Standard_D4s_v5",
        "location": "westeurope",
        "zone": "1",
        "subscription": "sub",
        "resource_group": "rg",
        "nics": nics,
        "tags": {"pool": "a"},
    }
    return Machine(**(values | changes))


@dataclass(slots=True)
class FixedMachines:
    """Machines as the test says: now, and `lag` seconds ago."""

    now: tuple[Machine, ...] = (machine(),)
    past: dict[float, tuple[Machine, ...]] = field(default_factory=dict)

    def all_machines(self, lag_seconds: float = 0.0) -> tuple[Machine, ...]:
        return self.past.get(lag_seconds, self.now)


def asked(path: str, peer: str = PRIMARY, method: str = "GET", **headers: str) -> Call:
    """A request as a machine makes it; a header's name is given with _ for -."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Call(method=method, path=path, headers=given, body=b"", peer=peer)
