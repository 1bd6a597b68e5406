"""Subnets of the node's zone and their CIDR reservations."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Network

from ipamd.cloud import NodeIdentity, Subnet
from ipamd.errors import Denied, NotFound
from ipamd.model import SubnetId
from providers.aws import shapes
from providers.aws.client import Ec2, understood
from providers.aws.config import AwsConfig
from providers.aws.shapes import SubnetFacts
from providers.shared_reads import FRESH_SECONDS, SharedReads

RESERVATIONS_SECONDS = 3600.0
"""Reservations are made when a subnet is planned; an hour is soon enough for a new one."""


class Subnets:
    """What is known of subnets; safe to call from several threads."""

    def __init__(
        self,
        ec2: Ec2,
        reads: SharedReads,
        config: AwsConfig,
        identity: Callable[[], NodeIdentity],
    ) -> None:
        self._ec2 = ec2
        self._reads = reads
        self._config = config
        self._identity = identity
        self._known: dict[str, SubnetFacts] = {}  # for the CIDRs, which never change

    def seen(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        """The named subnets and, where discovery is on, every other candidate; in one call."""
        found = {f.subnet_id: self._subnet(f) for f in self._describe(subnet_ids)}
        missing = [s for s in subnet_ids if s not in found]
        if missing:
            raise NotFound(
                f"DescribeSubnets does not show {', '.join(missing)} in the node's zone and VPC",
                operation="DescribeSubnets",
                subnet_id=missing[0],
            )
        return tuple(s for s in found.values() if s.subnet_id in subnet_ids or s.is_candidate)

    def facts(self, subnet_id: str) -> SubnetFacts:
        """One subnet's CIDRs: from memory, or by looking once. Raises NotFound."""
        if subnet_id not in self._known:
            self._describe((SubnetId(subnet_id),))
        if subnet_id not in self._known:
            raise NotFound(f"EC2 does not know subnet {subnet_id}", subnet_id=subnet_id)
        return self._known[subnet_id]

    def learn(self, facts: SubnetFacts) -> SubnetFacts:
        """Remember the CIDRs of a subnet that were found elsewhere."""
        self._known[facts.subnet_id] = facts
        return facts

    def _subnet(self, facts: SubnetFacts) -> Subnet:
        return shapes.subnet(
            facts,
            cluster_name=self._config.cluster_name,
            primary_subnet_id=self._identity().primary_subnet_id,
            discovers=self._config.discovers_subnets,
        )

    def _describe(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[SubnetFacts, ...]:
        """With discovery all of the zone, else the named ones. A filter and not ids: one that has
        been deleted must not hide the others."""
        node = self._identity()
        filters: tuple[tuple[str, tuple[str, ...]], ...]
        if self._config.discovers_subnets:
            filters = (("vpc-id", (node.vpc_id,)), ("availability-zone", (node.zone,)))
        else:
            filters = (("subnet-id", tuple(sorted(subnet_ids))),)
        return self._reads.read(
            ("DescribeSubnets", filters), lambda: self._ask(filters), fresh_seconds=FRESH_SECONDS
        )

    def _ask(self, filters: tuple[tuple[str, tuple[str, ...]], ...]) -> tuple[SubnetFacts, ...]:
        api = "DescribeSubnets"
        facts = tuple(
            understood(api, shapes.subnet_facts, raw)
            for raw in self._ec2.pages(api, "Subnets", filters)
        )
        self._known |= {f.subnet_id: f for f in facts}
        return facts


class Reservations:
    """CIDR reservations by subnet, looked up once an hour."""

    def __init__(
        self, ec2: Ec2, subnets: Subnets, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._ec2 = ec2
        self._subnets = subnets
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known: dict[SubnetId, tuple[float, tuple[IPv4Network, ...]]] = {}

    def of(self, subnet_id: SubnetId) -> tuple[IPv4Network, tuple[IPv4Network, ...]]:
        """The subnet's CIDR and what of it is reserved; nothing where the policy forbids to look,
        which many do: aws-node never asks."""
        cidr = self._subnets.facts(subnet_id).cidr
        with self._lock:  # creations in parallel ask once
            looked, reserved = self._known.get(subnet_id, (float("-inf"), ()))
            if self._monotonic() - looked >= RESERVATIONS_SECONDS:
                reserved = self._ask(subnet_id)
                self._known[subnet_id] = (self._monotonic(), reserved)
        return cidr, reserved

    def _ask(self, subnet_id: SubnetId) -> tuple[IPv4Network, ...]:
        api = "GetSubnetCidrReservations"
        try:
            answer = self._ec2.call(api, {"SubnetId": subnet_id}, subnet_id=subnet_id)
        except Denied:
            return ()
        return understood(
            api,
            lambda raw: tuple(
                IPv4Network(r["Cidr"]) for r in raw.get("SubnetIpv4CidrReservations") or []
            ),
            answer,
        )
