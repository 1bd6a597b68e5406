"""The emulated Azure's memory of VNETs, subnets and NICs: the only place that changes it.

Called by the handlers in `arm_network` (and those of Microsoft.Compute) under `lock`. Tells the
fabric whenever the usable addresses of an attached NIC change; its ENI id is the NIC's ARM id,
lower-cased. Nothing is ever written to disk.
"""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from providers.sim.allocator import SubnetPool
from providers.sim.arm_behaviour import Behaviour
from providers.sim.arm_errors import no_parent, no_resource
from providers.sim.arm_operations import Operations
from providers.sim.arm_records import Nic, Subnet, Vnet
from providers.sim.model import FabricListener
from providers.sim.wiring import Wire, rewire

Clock = Callable[[], float]
# Where everything is: any region would do, since nothing here depends on it.
LOCATION = "westeurope"


class Guids:
    """GUIDs, etags and MACs that repeat with the seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable ids, not secrets

    def new(self) -> str:
        """A GUID, lower-case."""
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def new_etag(self) -> str:
        """An etag as Microsoft.Network writes it."""
        return f'W/"{self.new()}"'

    def new_mac(self) -> str:
        """A MAC as Microsoft.Network writes it; Azure's begin with 00-0D-3A."""
        return "00-0D-3A-" + self._random.randbytes(3).hex("-").upper()


class ArmState:
    """VNETs, subnets and NICs by key (id, lower-cased), and the operations on them."""

    def __init__(self, clock: Clock, seed: int = 0, behaviour: Behaviour | None = None) -> None:
        self.clock = clock
        self.lock = threading.RLock()
        self.behaviour = behaviour or Behaviour()
        self.listener: FabricListener | None = None
        self.fabric_failures: list[str] = []
        self.guids = Guids(seed)
        self.operations = Operations(self.guids.new)
        self.tenants: dict[str, list[IPv4Address]] = {}  # subnet key -> what others hold there
        self._vnets: dict[str, Vnet] = {}
        self._subnets: dict[str, Subnet] = {}
        self._nics: dict[str, Nic] = {}

    @property
    def vnets(self) -> Mapping[str, Vnet]:
        """Every VNET, by key."""
        return MappingProxyType(self._vnets)

    @property
    def subnets(self) -> Mapping[str, Subnet]:
        """Every subnet, by key."""
        return MappingProxyType(self._subnets)

    @property
    def nics(self) -> Mapping[str, Nic]:
        """Every NIC, those of scale sets included, by key, oldest first."""
        return MappingProxyType(self._nics)

    def settle(self, now: float | None = None) -> None:
        """Let every operation that is due have its effect."""
        self.operations.settle(self.clock() if now is None else now)

    def reset(self) -> None:
        """Forget everything; wires are cut, operations have no effect any more."""
        self.operations.forget()
        for key in list(self._nics):
            self.drop_nic(key)
        self._subnets.clear()
        self._vnets.clear()
        self.tenants.clear()
        self.fabric_failures.clear()

    def add_vnet(
        self, vnet_id: str, cidrs: tuple[str, ...], subnets: Mapping[str, str] | None = None
    ) -> Vnet:
        """A new VNET; `subnets`: name to CIDR. ValueError when a CIDR is wrong."""
        vnet = Vnet(
            vnet_id=vnet_id,
            location=LOCATION,
            prefixes=tuple(IPv4Network(cidr) for cidr in cidrs),
            etag=self.guids.new_etag(),
            guid=self.guids.new(),
        )
        self._vnets[vnet.key] = vnet
        for name, cidr in (subnets or {}).items():
            self.add_subnet(f"{vnet_id}/subnets/{name}", cidr)
        return vnet

    def add_subnet(self, subnet_id: str, cidr: str) -> Subnet:
        """A new subnet of a VNET that exists; ValueError when it is not within it, or overlaps."""
        network = IPv4Network(cidr)
        subnet = Subnet(subnet_id=subnet_id, cidr=network, pool=SubnetPool(network))
        vnet = self.vnet(subnet.vnet_key)
        if not any(network.subnet_of(prefix) for prefix in vnet.prefixes):
            raise ValueError(f"{cidr} is not within the VNET {vnet.name}")
        if any(network.overlaps(other.cidr) for other in self.subnets_of(vnet)):
            raise ValueError(f"{cidr} overlaps another subnet of the VNET {vnet.name}")
        self._subnets[subnet.key] = subnet
        return subnet

    def put_subnet(self, subnet: Subnet) -> None:
        """Record a changed subnet; the VNET has a new etag."""
        self._subnets[subnet.key] = subnet
        vnet = self._vnets[subnet.vnet_key]
        self._vnets[vnet.key] = replace(vnet, etag=self.guids.new_etag())

    def vnet(self, vnet_id: str) -> Vnet:
        """The VNET of that id in any case, or 404."""
        found = self._vnets.get(vnet_id.lower())
        if found is None:
            raise no_resource(vnet_id)
        return found

    def subnet(self, subnet_id: str) -> Subnet:
        """The subnet of that id in any case, or 404: its own, or its VNET's."""
        found = self._subnets.get(subnet_id.lower())
        if found is None:
            parent = subnet_id.lower().rsplit("/subnets/", 1)[0]
            raise no_resource(subnet_id) if parent in self._vnets else no_parent(subnet_id)
        return found

    def nic(self, nic_id: str) -> Nic:
        """The NIC of that id in any case, or 404."""
        found = self._nics.get(nic_id.lower())
        if found is None:
            raise no_resource(nic_id)
        return found

    def subnets_of(self, vnet: Vnet) -> list[Subnet]:
        """The subnets of a VNET, oldest first."""
        return [one for one in self._subnets.values() if one.vnet_key == vnet.key]

    def nics_in(self, subnet: Subnet) -> list[Nic]:
        """The NICs with a configuration in a subnet, oldest first."""
        return [one for one in self._nics.values() if one.primary.subnet_key == subnet.key]

    def attached_to(self, vm_id: str) -> list[Nic]:
        """The NICs of a VM or of a scale set's instance, by device index."""
        key = vm_id.lower()
        found = [one for one in self._nics.values() if one.vm_id.lower() == key]
        return sorted(found, key=lambda nic: nic.device_index)

    def put_nic(self, nic: Nic) -> None:
        """Record a new or changed NIC, and wire it accordingly. The pools are not touched."""
        before = self._nics.get(nic.key)
        self._nics[nic.key] = nic
        self._wire(before, nic)

    def drop_nic(self, nic_id: str) -> None:
        """Forget a NIC; its wire is cut and its addresses are free again."""
        nic = self.nic(nic_id)
        del self._nics[nic.key]
        self._wire(nic, None)
        for config in nic.configs:
            self.release(config.subnet_key, config.cidr)

    def attach(
        self, nic_id: str, vm_id: str, *, device_index: int = 0, netns_path: str = ""
    ) -> Nic:
        """Give a NIC to a VM; it has a MAC from the first time on. `netns_path` empty: no wire."""
        nic = self.nic(nic_id)
        attached = replace(
            nic,
            vm_id=vm_id,
            device_index=device_index,
            netns_path=netns_path,
            mac=nic.mac or self.guids.new_mac(),
            etag=self.guids.new_etag(),
        )
        self.put_nic(attached)
        return attached

    def detach(self, nic_id: str) -> None:
        """Take a NIC from its VM; its MAC stays."""
        nic = self.nic(nic_id)
        etag = self.guids.new_etag()
        self.put_nic(replace(nic, vm_id="", netns_path="", device_index=0, etag=etag))

    def release(self, subnet_key: str, cidr: IPv4Network) -> None:
        """Give one address (/32) or block (/28) back to its subnet."""
        pool = self.subnet(subnet_key).pool
        if cidr.prefixlen == cidr.max_prefixlen:
            pool.release([cidr.network_address])
        else:
            pool.release_prefixes([cidr])

    def held_in(self, vnet: Vnet) -> int:
        """How much of the VNET's limit is used: addresses, and blocks as `behaviour` says."""
        block = 1 if self.behaviour.counts_blocks_once else 16
        keys = {subnet.key for subnet in self.subnets_of(vnet)}
        others = sum(len(self.tenants.get(key, ())) for key in keys)
        configs = (config for nic in self._nics.values() for config in nic.configs)
        ours = (block if one.is_block else 1 for one in configs if one.subnet_key in keys)
        return others + sum(ours)

    def _wire(self, before: Nic | None, after: Nic | None) -> None:
        """Tell the fabric what changed between two versions of one NIC."""
        if self.listener is None:
            return
        if failure := rewire(self.listener, self._wired(before), self._wired(after)):
            self.fabric_failures.append(failure)

    def _wired(self, nic: Nic | None) -> Wire | None:
        if nic is None or (eni := nic.wired(self._subnets[nic.primary.subnet_key].cidr)) is None:
            return None
        return eni, nic.netns_path
