"""Subnet CIDR reservations: which part of a subnet EC2 keeps for prefixes, or for named addresses.

Our own and not moto's, which walks through every address of a reservation: a /80 has 2**48.
Source: VPC user guide, "Subnet CIDR reservations".
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from providers.sim.allocator import ReservationType
from providers.sim.ec2_errors import Ec2Error, invalid
from providers.sim.ec2_state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class CidrReservation:
    """One reservation."""

    reservation_id: str
    subnet_id: str
    cidr: IPv4Network | IPv6Network
    kind: ReservationType
    description: str = ""


class Reservations:
    """Every reservation of a region, by id; their effect is in the subnets' pools."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._by_id: dict[str, CidrReservation] = {}

    def create(self, subnet_id: str, cidr: str, kind: str, description: str) -> CidrReservation:
        """Reserve `cidr`, in which addresses may be in use already."""
        made = CidrReservation(
            reservation_id=self._state.names.new_id("scr"),
            subnet_id=subnet_id,
            cidr=_network(cidr),
            kind=_kind(kind),
            description=description,
        )
        self._check_place(made)
        match made.cidr:
            case IPv4Network():
                self._state.pool(subnet_id).reserve(made.cidr, made.kind)
            case IPv6Network():
                self._state.pool_v6(subnet_id).reserve(made.cidr, made.kind)
        self._by_id[made.reservation_id] = made
        return made

    def delete(self, reservation_id: str) -> CidrReservation:
        """End a reservation; what is in use there stays."""
        gone = self._by_id.pop(reservation_id, None)
        if gone is None:
            raise Ec2Error(
                "InvalidSubnetCidrReservationID.NotFound",
                f"The subnet-cidr-reservation ID '{reservation_id}' does not exist",
            )
        match gone.cidr:
            case IPv4Network():
                self._state.pool(gone.subnet_id).unreserve(gone.cidr)
            case IPv6Network():
                self._state.pool_v6(gone.subnet_id).unreserve(gone.cidr)
        return gone

    def of_subnet(self, subnet_id: str) -> list[CidrReservation]:
        """The subnet's reservations; an unknown subnet is refused."""
        self._state.subnet(subnet_id)
        return [one for one in self._by_id.values() if one.subnet_id == subnet_id]

    def _check_place(self, made: CidrReservation) -> None:
        subnet = self._state.subnet(made.subnet_id)
        blocks = [str(block) for block in (subnet.cidr, subnet.cidr_v6) if block is not None]
        if not any(_is_within(made.cidr, ipaddress.ip_network(block)) for block in blocks):
            raise invalid(f"Reservation CIDR should be within subnet CIDR block ({blocks[0]})")
        if any(made.cidr.overlaps(other.cidr) for other in self.of_subnet(made.subnet_id)):
            raise invalid(
                f"Reservation CIDR {made.cidr} has overlap with existing reserved CIDR block"
            )


def reservation_shape(
    one: CidrReservation, *, owner_id: str, tags: Mapping[str, str]
) -> dict[str, Any]:
    """SubnetCidrReservation."""
    return {
        "SubnetCidrReservationId": one.reservation_id,
        "SubnetId": one.subnet_id,
        "Cidr": str(one.cidr),
        "ReservationType": one.kind.value,
        "OwnerId": owner_id,
        "Description": one.description or None,
        "Tags": [{"Key": key, "Value": value} for key, value in tags.items()],
    }


def _is_within(inner: IPv4Network | IPv6Network, outer: IPv4Network | IPv6Network) -> bool:
    if isinstance(inner, IPv4Network):
        return isinstance(outer, IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, IPv6Network) and inner.subnet_of(outer)


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise invalid(f"Value ({text}) for parameter cidrBlock is invalid.") from error


def _kind(text: str) -> ReservationType:
    try:
        return ReservationType(text)
    except ValueError as error:
        raise invalid(f"Value ({text}) for parameter reservationType is invalid.") from error
