"""The nouns of the core, immutable, used by the daemon, the planner, the store and the tools.

All times are seconds. `*_boottime` is CLOCK_BOOTTIME, which neither a clock step nor a suspend can
bend: cooldowns are measured on it. `*_unix` is wall time, for people and logs only.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NewType

EniId = NewType("EniId", str)
SubnetId = NewType("SubnetId", str)
InstanceId = NewType("InstanceId", str)
ContainerId = NewType("ContainerId", str)
AttemptId = NewType("AttemptId", str)

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network

TRUNK = "trunk"
"""EC2's InterfaceType of an ENI that carries branch ENIs."""


class AddressState(enum.Enum):
    """Where an address stands. Exactly one holds; the sum over all is the total."""

    PREPARING = "preparing"  # in the cloud; its ENI is not yet reported ready on the node
    AVAILABLE = "available"
    ALLOCATED = "allocated"
    COOLING = "cooling"  # released; not handed out again and not given back before its time
    QUARANTINED = "quarantined"  # seen where it should not be, or missing in the cloud
    UNASSIGNING = "unassigning"  # an intent to give it back stands in the store


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class AttachmentKey:
    """One network on one container (CNI SPEC, "attachment"): what ADD and DEL name."""

    container_id: ContainerId
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}/{self.ifname}"


_CONTAINER_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,252}")
_IFNAME = re.compile(r"[^/:\s]{1,15}")


def attachment_key(container_id: str, ifname: str) -> AttachmentKey:
    """A key of names from outside; ValueError for names that CNI does not allow."""
    if not _CONTAINER_ID.fullmatch(container_id):
        raise ValueError(f"container_id {container_id!r} is not a CNI container id")
    if not _IFNAME.fullmatch(ifname) or ifname in (".", ".."):
        raise ValueError(f"ifname {ifname!r} is not an interface name")
    return AttachmentKey(container_id=ContainerId(container_id), ifname=ifname)


class WiredBy(enum.Enum):
    """Who makes the links and rules of an attachment."""

    US = "us"
    PEER = "peer"  # aws-node's plugin, through rpc.CNIBackend: its links are not ours to sweep
    MAIN_PLUGIN = "main-plugin"  # ptp, bridge and the like; we are its IPAM and make rules alone


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """What an attachment holds: one address of each family of the node, all of one ENI.

    `addresses` are one or two, IPv4 first. `generation` never repeats within a store.
    """

    key: AttachmentKey
    addresses: tuple[IPAddress, ...]
    eni_id: EniId
    network_name: str
    attempt_id: AttemptId
    generation: int
    netns_cookie: int
    pod_namespace: str
    pod_name: str
    pod_uid: str
    allocated_unix: float
    wired_by: WiredBy = WiredBy.US

    def __post_init__(self) -> None:
        versions = [a.version for a in self.addresses]
        if versions not in ([4], [6], [4, 6]):
            raise ValueError(f"{self.key} cannot hold {self.addresses}")

    @property
    def address(self) -> IPAddress:
        """The first address: what logs and single-family callers name."""
        return self.addresses[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """One assignable address and its state. `since_boottime` is when the state began.

    `prefix` is the block that it came with, None for a secondary address assigned singly. All 16
    addresses of a /28 are in the ledger; of a /80 those that were opened so far.
    """

    address: IPAddress
    eni_id: EniId
    state: AddressState
    since_boottime: float
    reason: str = ""
    prefix: IPNetwork | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Eni:
    """An ENI as the ledger knows it: the cloud's facts, and whether the node has it ready."""

    eni_id: EniId
    mac: str
    subnet_id: SubnetId
    subnet_cidr: IPv4Network
    primary_address: IPv4Address
    device_index: int
    network_card: int
    is_primary: bool
    is_managed: bool
    is_ready: bool
    attached_boottime: float
    is_excluded: bool = False  # carries no new pods: custom networking's primary, a tagged subnet
    interface_type: str = "interface"
    subnet_cidr_v6: IPv6Network | None = None
    primary_address_v6: IPv6Address | None = None

    @property
    def takes_pods(self) -> bool:
        """Whether new pods may get its addresses, once it is ready."""
        return self.is_managed and not self.is_excluded

    @property
    def is_trunk(self) -> bool:
        """Whether it carries branch ENIs of pods with their own security groups."""
        return self.interface_type == TRUNK

    @property
    def gateway(self) -> IPv4Address:
        """The subnet's router: base + 1, reserved in every subnet (VPC guide, Subnet sizing)."""
        return self.subnet_cidr.network_address + 1

    @property
    def gateway_v6(self) -> IPv6Address | None:
        """The router's link-local address, the same in every subnet (VPC guide; aws-node)."""
        return IPv6Address("fe80:ec2::1") if self.subnet_cidr_v6 else None

    @property
    def route_table_id(self) -> int:
        """254 (main) for the primary ENI; index + 1 on card 0, else 10000 + 100 * card + index.

        The numbers are aws-node's, so that both agents read each other's rules. Example: device
        index 1 on card 0 -> table 2; index 1 on card 1 -> table 10101.
        """
        if self.is_primary:
            return 254
        if self.network_card == 0:
            return self.device_index + 1
        return 10000 + 100 * self.network_card + self.device_index
