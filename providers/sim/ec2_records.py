"""What the emulated EC2 knows about ENIs and the machines they hang on, as frozen values."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
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
    """One ENI. The first address is the primary one, for the life of the ENI."""

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

    @property
    def primary_address(self) -> IPv4Address:
        """The address that cannot be unassigned."""
        return self.addresses[0]

    @property
    def status(self) -> str:
        """NetworkInterfaceStatus: in-use from the attach call until detaching is over."""
        return "in-use" if self.attachment else "available"

    @property
    def is_wired(self) -> bool:
        """The machine has the device: from `attached` until detaching is over."""
        return (
            self.attachment is not None and self.attachment.status is not AttachmentStatus.ATTACHING
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subnet:
    """A subnet's fixed facts."""

    subnet_id: str
    vpc_id: str
    cidr: IPv4Network
    zone: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeLimits:
    """What an instance type allows; `interfaces_per_card[n]` is network card n's share."""

    addresses_per_interface: int
    interfaces_per_card: tuple[int, ...]

    @classmethod
    def of_network_info(cls, info: dict[str, Any]) -> TypeLimits:
        """From DescribeInstanceTypes' NetworkInfo. m5.large: 10 addresses, one card of 3."""
        cards = sorted(info["NetworkCards"], key=lambda card: card["NetworkCardIndex"])
        return cls(
            addresses_per_interface=info["Ipv4AddressesPerInterface"],
            interfaces_per_card=tuple(card["MaximumNetworkInterfaces"] for card in cards),
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
