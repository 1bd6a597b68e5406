"""Where moto meets our rules: subclasses of its backend and its responses, nothing patched.

moto parses the query by botocore's model, keeps VPCs, subnets, security groups, tags and instances,
and turns results into XML. Everything about ENIs and addresses is ours: `SimResponse` overrides the
actions, `SimBackend` answers the few questions that other parts of moto ask about ENIs, and moto's
own ENI model is never used. One backend per emulator, so emulators in one process share nothing.

tests/sim/test_moto_canary.py names the internals of moto 5.2.5 that this rests on.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from moto.core.request import Request
from moto.ec2.models import EC2Backend
from moto.ec2.models.instance_types import INSTANCE_TYPES

from providers.sim.ec2_errors import Ec2Error, invalid, no_interface
from providers.sim.ec2_records import Subnet, TypeLimits
from providers.sim.ec2_reservations import Reservations
from providers.sim.ec2_state import State

ACCOUNT_ID = "123456789012"
REGION = "us-west-2"


@dataclass(slots=True, kw_only=True, eq=False)
class PrimaryNic:
    """What moto's Instance needs of its primary ENI: an address that never changes."""

    eni_id: str
    private_ip_address: str
    subnet: Any
    public_ip: str | None = None
    public_ip_auto_assign: bool = False
    delete_on_termination: bool = False  # terminating releases ENIs by our rules, not moto's
    device_index: int = 0
    instance: Any = None
    attachment_id: str | None = None
    attach_time: Any = None
    status: str = "in-use"

    def start(self) -> None:
        """StartInstances changes nothing about a private address."""

    def stop(self) -> None:
        """StopInstances changes nothing about a private address."""


class SimBackend(EC2Backend):
    """moto's EC2 backend, with the questions about ENIs answered from our state."""

    def __init__(self, seed: int) -> None:
        super().__init__(REGION, ACCOUNT_ID)
        self.state = State(seed, self.find_subnet)
        self.cidr_reservations = Reservations(self.state)

    def _load_amis(self) -> None:
        """None of moto's 1299 images: no call here needs one, and they cost 0.1 s per backend."""

    def find_subnet(self, subnet_id: str) -> Subnet:
        """The subnet's facts; moto raises InvalidSubnetID.NotFound."""
        subnet = self.get_subnet(subnet_id)
        blocks_v6 = subnet.ipv6_cidr_block_association_set
        return Subnet(
            subnet_id=subnet.id,
            vpc_id=subnet.vpc_id,
            cidr=IPv4Network(subnet.cidr_block),
            zone=subnet.availability_zone,
            cidr_v6=IPv6Network(blocks_v6[0]["ipv6CidrBlock"]) if blocks_v6 else None,
            assigns_v6=subnet.assign_ipv6_address_on_creation,
        )

    def subnet_ids(self) -> list[str]:
        """Every subnet that a caller made; the default VPC's are left out."""
        default = self.default_vpc.id
        return [subnet.id for subnet in self.describe_subnets() if subnet.vpc_id != default]

    def vpc_cidrs(self, vpc_id: str) -> list[str]:
        """The VPC's IPv4 blocks, the first one first."""
        vpc = self.get_vpc(vpc_id)
        return [str(block["cidr_block"]) for block in vpc.get_cidr_block_association_set()]

    def vpc_cidrs_v6(self, vpc_id: str) -> list[str]:
        """The VPC's IPv6 blocks."""
        blocks = self.get_vpc(vpc_id).get_cidr_block_association_set(ipv6=True)
        return [str(block["cidr_block"]) for block in blocks]

    def add_vpc_cidr_v6(self, vpc_id: str, cidr: IPv6Network) -> None:
        """Give the VPC this IPv6 block; the API lets Amazon choose one, and moto throws dice."""
        association = self.get_vpc(vpc_id).associate_vpc_cidr_block("", True)  # noqa: FBT003
        association["cidr_block"] = str(cidr)

    def zone_id(self, zone: str) -> str:
        """The id of a zone, which is the same in every account."""
        (found,) = self.describe_availability_zones(zone_names=[zone])
        return str(found.zone_id)

    def resolve_groups(self, group_ids: list[str], subnet_id: str) -> tuple[str, ...]:
        """The groups of an ENI: those named, each of which must be the VPC's, or the default."""
        vpc_id = self.find_subnet(subnet_id).vpc_id
        if not group_ids:
            default = self.get_default_security_group(vpc_id)
            return (default.id,) if default else ()
        for group_id in group_ids:
            if group_id not in self.groups[vpc_id]:
                raise Ec2Error(
                    "InvalidGroup.NotFound", f"The security group '{group_id}' does not exist"
                )
        return tuple(dict.fromkeys(group_ids))

    def group_name(self, group_id: str) -> str:
        """A group's name; empty once the group is gone."""
        group = self.get_security_group_from_id(group_id)
        return str(group.name) if group else ""

    def tags_of(self, resource_id: str) -> dict[str, str]:
        """A resource's tags, without making an empty entry for one that has none."""
        return dict(self.tags[resource_id]) if resource_id in self.tags else {}

    def limits_of(self, instance_type: str) -> TypeLimits:
        """The limits of a type in moto's table; an unknown type is refused."""
        if instance_type not in INSTANCE_TYPES:
            raise invalid(f"Invalid value '{instance_type}' for InstanceType.")
        return TypeLimits.of_type(INSTANCE_TYPES[instance_type])

    def get_network_interface(self, eni_id: str) -> Any:
        """Asked by moto's Instance when it starts with a given primary ENI."""
        interface = self.state.interface(eni_id)
        return PrimaryNic(
            eni_id=eni_id,
            private_ip_address=str(interface.primary_address),
            subnet=self.get_subnet(interface.subnet_id),
        )

    def describe_network_interfaces(self, filters: Any = None) -> list[Any]:
        """Asked by moto's CreateTags, only to learn whether the ENI exists."""
        eni_id = (filters or {}).get("network-interface-id", "")
        if eni_id not in self.state.interfaces:
            raise no_interface(eni_id)
        return [self.state.interface(eni_id)]


class _Overlay:
    """A moto object with some of its attributes replaced, for one answer."""

    def __init__(self, under: Any, over: dict[str, Any]) -> None:
        self.__dict__.update(over)
        self._under = under

    def __getattr__(self, name: str) -> Any:
        return getattr(self._under, name)


def overlay(under: Any, **over: Any) -> Any:
    """`under`, showing `over` instead where both have an attribute.

    moto's serializer finds some values by the name of the object's class (InstanceId is `id` of an
    Instance), so the overlay's class has that name too.
    """
    return type(type(under).__name__, (_Overlay,), {})(under, over)


def moto_request(url: str, headers: dict[str, str], body: bytes) -> Request:
    """A request as moto's responses take it."""
    return Request.from_primitives("POST", url, headers, body)
