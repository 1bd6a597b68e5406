"""What the emulated EC2 knows about ENIs and the machines they hang on, as frozen values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any


class AttachmentStatus(enum.Enum):
    """EC2's words (AttachmentStatus); `detached` is an ENI without an attachment here."""

    ATTACHING = "attaching"
    ATTACHED = "attached"
    DETACHING = "detaching"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """An ENI's tie to a machine. `settles_unix` is when attaching or detaching is over."""

    attachment_id: str
    instance_id: str
    device_index: int
    network_card: int
    status: AttachmentStatus
    attached_unix: float
    settles_unix: float
    deletes_on_termination: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """One ENI. The first address is the primary one, for the life of the ENI.

    An EFA-only ENI has no address at all.
    """

    eni_id: str
    mac: str
    subnet_id: str
    vpc_id: str
    zone: str
    description: str
    interface_type: str
    group_ids: tuple[str, ...]
    has_source_check: bool
    addresses: tuple[IPv4Address, ...]
    attachment: Attachment | None
    prefixes: tuple[IPv4Network, ...] = ()
    addresses_v6: tuple[IPv6Address, ...] = ()
    prefixes_v6: tuple[IPv6Network, ...] = ()

    @property
    def primary_address(self) -> IPv4Address:
        """The address that cannot be unassigned; IndexError on an EFA-only ENI."""
        return self.addresses[0]

    @property
    def slots(self) -> int:
        """IPv4 slots in use: a prefix counts as one address (EC2 guide, "Assigning prefixes")."""
        return len(self.addresses) + len(self.prefixes)

    @property
    def slots_v6(self) -> int:
        """IPv6 slots in use."""
        return len(self.addresses_v6) + len(self.prefixes_v6)

    @property
    def has_prefixes(self) -> bool:
        """Only some types may carry it."""
        return bool(self.prefixes or self.prefixes_v6)

    def holds(self, address: IPv4Address | IPv6Address) -> bool:
        """Whether packets to `address` come here."""
        if address in self.addresses or address in self.addresses_v6:
            return True
        prefixes = self.prefixes if address.version == 4 else self.prefixes_v6
        return any(address in prefix for prefix in prefixes)

    @property
    def status(self) -> str:
        """NetworkInterfaceStatus: in-use from the attach call until detaching is over."""
        return "in-use" if self.attachment else "available"

    @property
    def is_wired(self) -> bool:
        """The machine has the device: from `attached` until detaching is over.

        An EFA-only ENI is no network device.
        """
        return self.is_attached and bool(self.addresses)

    @property
    def is_attached(self) -> bool:
        """The machine knows the ENI: from `attached` until detaching is over."""
        return (
            self.attachment is not None and self.attachment.status is not AttachmentStatus.ATTACHING
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A subnet's facts. `assigns_v6`: a new ENI gets an IPv6 address unless it says otherwise."""

    subnet_id: str
    vpc_id: str
    cidr: IPv4Network
    zone: str
    cidr_v6: IPv6Network | None = None
    assigns_v6: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeLimits:
    """What an instance type allows; `interfaces_per_card[n]` is network card n's share."""

    addresses_per_interface: int
    interfaces_per_card: tuple[int, ...]
    addresses_v6_per_interface: int
    takes_prefixes: bool

    @classmethod
    def of_type(cls, info: dict[str, Any]) -> TypeLimits:
        """From one InstanceTypes entry of DescribeInstanceTypes. m5.large: 10 and 10, (3,), True.

        Prefixes need the Nitro system (EC2 guide, "Assigning prefixes"); bare metal types run on
        it and name no hypervisor.
        """
        network = info["NetworkInfo"]
        cards = sorted(network["NetworkCards"], key=lambda card: card["NetworkCardIndex"])
        return cls(
            addresses_per_interface=network["Ipv4AddressesPerInterface"],
            interfaces_per_card=tuple(card["MaximumNetworkInterfaces"] for card in cards),
            addresses_v6_per_interface=network["Ipv6AddressesPerInterface"],
            takes_prefixes=info.get("Hypervisor") == "nitro" or bool(info.get("BareMetal")),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """An instance that runs. `netns_path` is where its ENIs are plugged; empty means nowhere."""

    instance_id: str
    instance_type: str
    name: str
    zone: str
    vpc_id: str
    image_id: str
    limits: TypeLimits
    launched_unix: float
    netns_path: str = ""
