"""The sizes of VMs that the emulated Azure has, with how many NICs each takes.

Source: "Sizes for virtual machines in Azure", the tables' column of network interfaces. A size has
no limit of addresses: that is the NIC's.
"""

from __future__ import annotations

from providers.sim.arm_errors import JsonObject

NETWORK_INTERFACES = {
    "Standard_B2s": 3,
    "Standard_B4ms": 4,
    "Standard_D2s_v3": 2,
    "Standard_D2s_v5": 2,
    "Standard_D4s_v3": 2,
    "Standard_D4s_v5": 2,
    "Standard_D8s_v3": 4,
    "Standard_D8s_v5": 4,
    "Standard_D16s_v5": 8,
    "Standard_D32s_v5": 8,
    "Standard_DS1_v2": 2,
    "Standard_DS2_v2": 2,
    "Standard_DS3_v2": 4,
    "Standard_E4s_v5": 2,
    "Standard_F4s_v2": 2,
    "Standard_F8s_v2": 4,
}
DEFAULT_SIZE = "Standard_D4s_v5"


def check_nics(size: str, count: int) -> None:
    """ValueError for an unknown size, or one that does not take so many NICs."""
    if size not in NETWORK_INTERFACES:
        known = ", ".join(NETWORK_INTERFACES)
        raise ValueError(f"the emulated Azure has no size {size}; it has {known}")
    if not 1 <= count <= NETWORK_INTERFACES[size]:
        raise ValueError(f"{size} takes 1 to {NETWORK_INTERFACES[size]} NICs, not {count}")


def sku(size: str, location: str) -> JsonObject:
    """A row of the list of SKUs."""
    return {
        "resourceType": "virtualMachines",
        "name": size,
        "tier": "Standard",
        "size": size.removeprefix("Standard_"),
        "locations": [location],
        "locationInfo": [{"location": location, "zones": ["1", "2", "3"], "zoneDetails": []}],
        "capabilities": [
            {"name": "MaxNetworkInterfaces", "value": str(NETWORK_INTERFACES[size])},
            {"name": "AcceleratedNetworkingEnabled", "value": "True"},
        ],
        "restrictions": [],
    }
