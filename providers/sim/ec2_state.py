"""The emulated EC2's memory of ENIs: the only place that changes it, and tells the fabric.

Called by the operations in `ec2_addresses` and `ec2_attachments` under the emulator's lock. Keeps
old versions for as long as some reader lags: IMDS shows the past, and so can Describe calls.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import MappingProxyType

from providers.sim.allocator import SubnetPool, SubnetPoolV6
from providers.sim.ec2_errors import no_instance, no_interface, no_subnet_cidr_v6
from providers.sim.ec2_records import AttachmentStatus, Interface, Machine, Subnet
from providers.sim.model import FabricListener, WiredEni
from providers.sim.wiring import Wire, rewire

View = Mapping[str, Interface]


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How slow the cloud is, in seconds. `visibility` is how far Describe calls lag."""

    attach_seconds: float = 0.0
    detach_seconds: float = 0.0
    imds_lag_seconds: float = 0.0
    visibility_seconds: float = 0.0

    def __post_init__(self) -> None:
        for name in ("attach", "detach", "imds_lag", "visibility"):
            if getattr(self, f"{name}_seconds") < 0:
                raise ValueError(f"{name}_seconds must not be negative")

    @property
    def longest_lag_seconds(self) -> float:
        """How long old versions must be kept."""
        return max(self.imds_lag_seconds, self.visibility_seconds)


class Names:
    """Ids and MACs that repeat with the seed and never within a run."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - repeatable ids, not secrets
        self._given: set[str] = set()

    def new_id(self, prefix: str) -> str:
        """`prefix` and 17 hex digits, EC2's long id format."""
        return self._fresh(lambda: f"{prefix}-{self._random.getrandbits(68):017x}")

    def new_mac(self) -> str:
        """A unicast, locally administered MAC; EC2's begin with 02, 06 or 0a, ours with 02."""
        return self._fresh(lambda: "02:" + self._random.randbytes(5).hex(":"))

    def _fresh(self, draw: Callable[[], str]) -> str:
        while (name := draw()) in self._given:
            continue
        self._given.add(name)
        return name


class State:
    """ENIs, machines and address pools, with the past that lagging readers see."""

    def __init__(self, seed: int, find_subnet: Callable[[str], Subnet]) -> None:
        self.names = Names(seed)
        self.delays = Delays()
        self.machines: dict[str, Machine] = {}
        self.listener: FabricListener | None = None
        self.fabric_failures: list[str] = []
        self.tenants: dict[str, list[IPv4Address]] = {}
        self._find_subnet = find_subnet
        self._interfaces: dict[str, Interface] = {}
        self._pools: dict[str, SubnetPool] = {}
        self._pools_v6: dict[str, SubnetPoolV6] = {}
        self._past: deque[tuple[float, View]] = deque()

    @property
    def interfaces(self) -> View:
        """Every ENI as it is now, by id."""
        return MappingProxyType(self._interfaces)

    def subnet(self, subnet_id: str) -> Subnet:
        """The subnet's facts; refused as EC2 does when there is none."""
        return self._find_subnet(subnet_id)

    def pool(self, subnet_id: str) -> SubnetPool:
        """The subnet's addresses; the pool begins with the first question about it."""
        if subnet_id not in self._pools:
            self._pools[subnet_id] = SubnetPool(self.subnet(subnet_id).cidr)
        return self._pools[subnet_id]

    def pool_v6(self, subnet_id: str) -> SubnetPoolV6:
        """The subnet's IPv6 addresses; refused when it has no IPv6 block."""
        if subnet_id not in self._pools_v6:
            cidr = self.subnet(subnet_id).cidr_v6
            if cidr is None:
                raise no_subnet_cidr_v6(subnet_id)
            self._pools_v6[subnet_id] = SubnetPoolV6(cidr)
        return self._pools_v6[subnet_id]

    def interface(self, eni_id: str) -> Interface:
        """The ENI, or InvalidNetworkInterfaceID.NotFound."""
        if eni_id not in self._interfaces:
            raise no_interface(eni_id)
        return self._interfaces[eni_id]

    def machine(self, instance_id: str) -> Machine:
        """The machine, or InvalidInstanceID.NotFound."""
        if instance_id not in self.machines:
            raise no_instance(instance_id)
        return self.machines[instance_id]

    def put(self, interface: Interface, now: float) -> None:
        """Record a new or changed ENI, and wire it accordingly."""
        before = self._interfaces.get(interface.eni_id)
        self._remember(now)
        self._interfaces[interface.eni_id] = interface
        self._wire(before, interface)

    def drop(self, interface: Interface, now: float) -> None:
        """Forget an ENI; its wire is cut and its addresses are free again."""
        self._remember(now)
        del self._interfaces[interface.eni_id]
        self._wire(interface, None)
        self.pool(interface.subnet_id).release(interface.addresses)
        self.pool(interface.subnet_id).release_prefixes(interface.prefixes)
        if interface.slots_v6:
            self.pool_v6(interface.subnet_id).release(interface.addresses_v6)
            self.pool_v6(interface.subnet_id).release_prefixes(interface.prefixes_v6)

    def view(self, now: float, lag_seconds: float) -> View:
        """All ENIs as they were `lag_seconds` ago, as far back as the longest lag set then."""
        if lag_seconds <= 0:
            return self.interfaces
        for until, version in self._past:
            if until > now - lag_seconds:
                return version
        return self.interfaces

    def attached_to(self, instance_id: str, view: View | None = None) -> list[Interface]:
        """The machine's ENIs in `view` (default: now), by card and device index."""
        found = [
            (interface.attachment.network_card, interface.attachment.device_index, interface)
            for interface in (self.interfaces if view is None else view).values()
            if interface.attachment and interface.attachment.instance_id == instance_id
        ]
        return [row[2] for row in sorted(found, key=lambda row: row[:2])]

    def machine_at(self, address: IPv4Address) -> Machine | None:
        """The machine one of whose ENIs has `address`, alone or in a prefix: who sent a packet."""
        for interface in self._interfaces.values():
            if interface.attachment and interface.holds(address):
                return self.machines.get(interface.attachment.instance_id)
        return None

    def next_settling_unix(self) -> float | None:
        """When the next attach or detach is over; None when none is under way that will be."""
        due = [
            interface.attachment.settles_unix
            for interface in self._interfaces.values()
            if interface.attachment
            and interface.attachment.status is not AttachmentStatus.ATTACHED
            and math.isfinite(interface.attachment.settles_unix)
        ]
        return min(due, default=None)

    def _remember(self, now: float) -> None:
        """Keep the version that ends now, and forget those no reader can see any more.

        Each entry is (the time it ended, the version), oldest first.
        """
        horizon = now - self.delays.longest_lag_seconds
        while self._past and self._past[0][0] <= horizon:
            self._past.popleft()
        if self.delays.longest_lag_seconds > 0:
            self._past.append((now, MappingProxyType(dict(self._interfaces))))

    def _wire(self, before: Interface | None, after: Interface | None) -> None:
        """Tell the fabric what changed between two versions of one ENI."""
        if self.listener is None:
            return
        if failure := rewire(self.listener, self._wired(before), self._wired(after)):
            self.fabric_failures.append(failure)

    def _wired(self, interface: Interface | None) -> Wire | None:
        if interface is None or interface.attachment is None or not interface.is_wired:
            return None
        machine = self.machines.get(interface.attachment.instance_id)
        if machine is None or not machine.netns_path:
            return None
        subnet = self.subnet(interface.subnet_id)
        eni = WiredEni(
            eni_id=interface.eni_id,
            mac=interface.mac,
            instance_id=interface.attachment.instance_id,
            device_index=interface.attachment.device_index,
            subnet_cidr=subnet.cidr,
            primary_address=interface.primary_address,
            addresses=interface.addresses,
            has_source_check=interface.has_source_check,
            prefixes=interface.prefixes + interface.prefixes_v6,
            addresses_v6=interface.addresses_v6,
            subnet_cidr_v6=subnet.cidr_v6,
        )
        return eni, machine.netns_path
