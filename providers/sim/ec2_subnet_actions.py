"""The EC2 actions on subnets and their CIDR reservations; the subnets themselves are moto's."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import Any

from moto.core.responses import ActionResult

from providers.sim import ec2_filters as filters
from providers.sim import ec2_requests as requests
from providers.sim.ec2_actions import InterfaceActions, result_of
from providers.sim.ec2_errors import Ec2Error, invalid, unsupported
from providers.sim.ec2_moto import ACCOUNT_ID, overlay
from providers.sim.ec2_reservations import CidrReservation, reservation_shape


class SubnetActions(InterfaceActions):
    """One request; the actions on subnets added."""

    def create_subnet(self) -> ActionResult:
        """CreateSubnet; a subnet without IPv4 is not emulated."""
        if self.params.get("Ipv6Native"):
            raise unsupported("the parameter Ipv6Native")
        return super().create_subnet()

    def describe_subnets(self) -> ActionResult:
        """DescribeSubnets, with exact free counts and paging."""
        asked = self.params
        counts = requests.filters(asked).get("available-ip-address-count")
        self.params = {
            **asked,
            "Filters": [
                item
                for item in asked.get("Filters") or []
                if item["Name"] != "available-ip-address-count"
            ],
        }
        subnets = [self._as_shown(one) for one in result_of(super().describe_subnets())["Subnets"]]
        if counts is not None:
            subnets = [one for one in subnets if str(one.available_ip_address_count) in counts]
        shown, token = filters.cut(
            subnets,
            lambda subnet: str(subnet.id),
            requests.page(asked),
            named=bool(asked.get("SubnetIds")),
        )
        return ActionResult({"Subnets": shown, "NextToken": token})

    def delete_subnet(self) -> ActionResult:
        """DeleteSubnet, refused while an ENI lives in it."""
        subnet_id = requests.required(self.params, "SubnetId")
        if any(eni.subnet_id == subnet_id for eni in self._state.interfaces.values()):
            raise Ec2Error(
                "DependencyViolation",
                f"The subnet '{subnet_id}' has dependencies and cannot be deleted.",
            )
        return super().delete_subnet()

    def create_subnet_cidr_reservation(self) -> ActionResult:
        """CreateSubnetCidrReservation."""
        subnet_id = requests.required(self.params, "SubnetId")
        cidr = requests.required(self.params, "Cidr")
        kind = requests.required(self.params, "ReservationType")
        self.error_on_dryrun()
        description = self.params.get("Description") or ""
        made = self._backend.cidr_reservations.create(subnet_id, cidr, kind, description)
        if tags := requests.tags_for(self.params, "subnet-cidr-reservation"):
            self._backend.create_tags([made.reservation_id], tags)
        return ActionResult({"SubnetCidrReservation": self._reservation(made)})

    def get_subnet_cidr_reservations(self) -> ActionResult:
        """GetSubnetCidrReservations, in pages if asked."""
        subnet_id = requests.required(self.params, "SubnetId")
        self.error_on_dryrun()
        found = [
            one
            for one in self._backend.cidr_reservations.of_subnet(subnet_id)
            if self._passes(one, requests.filters(self.params))
        ]
        page = requests.page(self.params)
        shown, token = filters.cut(found, lambda one: one.reservation_id, page, named=False)
        is_v4 = {one.reservation_id: isinstance(one.cidr, IPv4Network) for one in shown}
        return ActionResult(
            {
                "SubnetIpv4CidrReservations": [
                    self._reservation(one) for one in shown if is_v4[one.reservation_id]
                ],
                "SubnetIpv6CidrReservations": [
                    self._reservation(one) for one in shown if not is_v4[one.reservation_id]
                ],
                "NextToken": token,
            }
        )

    def delete_subnet_cidr_reservation(self) -> ActionResult:
        """DeleteSubnetCidrReservation."""
        reservation_id = requests.required(self.params, "SubnetCidrReservationId")
        self.error_on_dryrun()
        gone = self._reservation(self._backend.cidr_reservations.delete(reservation_id))
        self._backend.tags.pop(reservation_id, None)
        return ActionResult({"DeletedSubnetCidrReservation": gone})

    def _passes(self, one: CidrReservation, wanted: dict[str, list[str]]) -> bool:
        tags = self._backend.tags_of(one.reservation_id)
        seen = {
            "reservationType": [one.kind.value],
            "subnet-id": [one.subnet_id],
            "tag-key": list(tags),
        }
        seen |= {f"tag:{key}": [value] for key, value in tags.items()}
        for name in wanted:
            if name not in seen and not name.startswith("tag:"):
                raise invalid(f"The filter '{name}' is invalid")
        return all(
            any(filters.matches_value(value, values) for value in seen.get(name, []))
            for name, values in wanted.items()
        )

    def _reservation(self, one: CidrReservation) -> dict[str, Any]:
        tags = self._backend.tags_of(one.reservation_id)
        return reservation_shape(one, owner_id=ACCOUNT_ID, tags=tags)

    def _as_shown(self, subnet: Any) -> Any:
        """With our free count, and IPv6 blocks in the API's shape: moto 5.2.5 nests their state
        once too often, and boto3 reads "{'State': 'associated'}"."""
        free = self._state.pool(subnet.id).free_count
        blocks = [
            {**block, "ipv6CidrBlockState": block["ipv6CidrBlockState"]["state"]}
            for block in subnet.ipv6_cidr_block_association_set
        ]
        return overlay(
            subnet, available_ip_address_count=free, ipv6_cidr_block_association_set=blocks
        )
