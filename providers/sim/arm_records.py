"""What the emulated Microsoft.Network remembers: VNETs, subnets, NICs and their configurations.

Values; `arm_state` keeps them and changes them. Ids are as they were first written; the `key` of a
resource is its id lower-cased, because ARM compares ids without regard to case. `document` is what
the client sent, without the fields that only the service may set: unknown fields stay in it.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

from providers.sim.allocator import SubnetPool
from providers.sim.arm_errors import JsonObject
from providers.sim.model import WiredEni

# The length of a block on a NIC, and no other (Microsoft.Network, "privateIPAddressPrefixLength").
BLOCK_LENGTH = 28


class State(enum.Enum):
    """`provisioningState`, in ARM's words."""

    SUCCEEDED = "Succeeded"
    UPDATING = "Updating"
    DELETING = "Deleting"
    FAILED = "Failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vnet:
    """A virtual network; its subnets are records of their own."""

    vnet_id: str
    location: str
    prefixes: tuple[IPv4Network, ...]
    etag: str
    guid: str
    document: JsonObject = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The id to compare with."""
        return self.vnet_id.lower()

    @property
    def name(self) -> str:
        """The last part of the id."""
        return self.vnet_id.rsplit("/", 1)[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A subnet and its book of addresses.

    `shows_configurations` False: GET has no `ipConfigurations`, as for large subnets.
    `is_counted` False: usages say -1, unknown. `has_prefix_list`: its CIDR is in
    `addressPrefixes` and not in `addressPrefix`.
    """

    subnet_id: str
    cidr: IPv4Network
    pool: SubnetPool
    state: State = State.SUCCEEDED
    shows_configurations: bool = True
    is_counted: bool = True
    has_prefix_list: bool = False
    document: JsonObject = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The id to compare with."""
        return self.subnet_id.lower()

    @property
    def name(self) -> str:
        """The last part of the id."""
        return self.subnet_id.rsplit("/", 1)[1]

    @property
    def vnet_key(self) -> str:
        """The key of the VNET it is part of."""
        return self.key.rsplit("/subnets/", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class NicConfig:
    """One ipConfiguration: an address (`cidr` is a /32) or a block (a /28)."""

    name: str
    subnet_key: str
    cidr: IPv4Network
    is_primary: bool
    is_static: bool
    document: JsonObject
    state: State = State.SUCCEEDED

    @property
    def is_block(self) -> bool:
        """Whether it holds sixteen addresses."""
        return self.cidr.prefixlen == BLOCK_LENGTH

    @property
    def address(self) -> IPv4Address:
        """The address, or the first of the block."""
        return self.cidr.network_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Nic:
    """A network interface of a VM, of a scale set's instance, or of nobody.

    `configs`: the primary one first, then in the order of their making. `mac` is as ARM writes it
    ("00-0D-3A-..."), empty until the first attach. `netns_path` empty: it has no wire.
    `operation_id`: the write that is under way, if any.
    """

    nic_id: str
    location: str
    etag: str
    guid: str
    document: JsonObject
    configs: tuple[NicConfig, ...]
    state: State = State.SUCCEEDED
    mac: str = ""
    vm_id: str = ""
    device_index: int = 0
    netns_path: str = ""
    operation_id: str = ""

    @property
    def key(self) -> str:
        """The id to compare with, and the ENI id that the fabric knows."""
        return self.nic_id.lower()

    @property
    def name(self) -> str:
        """The last part of the id."""
        return self.nic_id.rsplit("/", 1)[1]

    @property
    def is_of_scale_set(self) -> bool:
        """Whether it belongs to a Uniform instance: it has no type, no location and no PUT."""
        return "/virtualmachinescalesets/" in self.key

    @property
    def primary(self) -> NicConfig:
        """The primary configuration."""
        return next(config for config in self.configs if config.is_primary)

    def config(self, name: str) -> NicConfig | None:
        """The configuration of that name, in any case; None when there is none."""
        found = (one for one in self.configs if one.name.lower() == name.lower())
        return next(found, None)

    def settled(self, state: State = State.SUCCEEDED) -> Nic:
        """The NIC when its write is over: in `state`, every configuration usable."""
        configs = tuple(replace(config, state=State.SUCCEEDED) for config in self.configs)
        return replace(self, configs=configs, state=state, operation_id="")

    @property
    def link_mac(self) -> str:
        """The MAC as machines write it: lower case, with colons."""
        return self.mac.lower().replace("-", ":")

    @property
    def usable(self) -> tuple[NicConfig, ...]:
        """What is `Succeeded`, and the primary configuration always."""
        return tuple(one for one in self.configs if one.state is State.SUCCEEDED or one.is_primary)

    def wired(self, subnet_cidr: IPv4Network) -> WiredEni | None:
        """The NIC as the fabric needs it; None when it has no wire."""
        if not self.vm_id or not self.netns_path:
            return None
        usable = self.usable
        properties = self.document.get("properties", {})
        return WiredEni(
            eni_id=self.key,
            mac=self.link_mac,
            instance_id=self.vm_id.lower(),
            device_index=self.device_index,
            subnet_cidr=subnet_cidr,
            primary_address=self.primary.address,
            addresses=tuple(one.address for one in usable if not one.is_block),
            has_source_check=not properties.get("enableIPForwarding", False),
            prefixes=tuple(one.cidr for one in usable if one.is_block),
        )
