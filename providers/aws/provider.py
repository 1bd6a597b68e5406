"""EC2 behind `ipamd.cloud.CloudProvider`: one node's view, put together from its parts.

`client` makes calls, `shapes` reads answers, `interfaces` makes and removes ENIs, `subnets` knows
where they may be, `tags` is the language shared with aws-node.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network
from math import inf
from typing import Any

from ipamd import instance_types
from ipamd.api_calls import ApiCall
from ipamd.cloud import (
    AddressChange,
    AddressOutcome,
    Capabilities,
    CloudEni,
    CloudSnapshot,
    EniHint,
    Hint,
    InterfaceRequest,
    NodeIdentity,
    NodeLimits,
    Orphan,
    Subnet,
)
from ipamd.errors import CloudError, Denied, NotFound, Transient
from ipamd.model import EniId, InstanceId, IPNetwork, SubnetId
from providers.aws import addresses, shapes
from providers.aws import tags as t
from providers.aws.client import Ec2, understood
from providers.aws.config import AwsConfig
from providers.aws.imds import Imds
from providers.aws.interfaces import Interfaces
from providers.aws.purse import Purse
from providers.aws.shapes import SubnetFacts
from providers.aws.subnets import Reservations, Subnets
from providers.shared_reads import SharedReads

DESCRIBE = "DescribeNetworkInterfaces"


class AwsProvider:
    """One node's view of EC2. Thread-safe."""

    def __init__(
        self,
        config: AwsConfig,
        *,
        tell: Callable[[ApiCall], None] | None = None,
        purse: Purse | None = None,
    ) -> None:
        self._config = config
        self._node: NodeIdentity | None = None
        self._node_lock = threading.Lock()
        self._imds = Imds()
        self._reads = SharedReads()
        self._ec2 = Ec2(
            region=lambda: self._identity().region,
            timeout_seconds=config.api_timeout_seconds,
            purse=purse or Purse(),
            tell=tell or _nobody,
        )
        self._subnets = Subnets(self._ec2, self._reads, config, self._identity)
        self._interfaces = Interfaces(
            self._ec2,
            self._imds,
            Reservations(self._ec2, self._subnets),
            config,
            identity=self._identity,
            shown=self._eni,
        )

    def close(self) -> None:
        """Close the connections; the child ends without it, tests do not."""
        self._ec2.close()
        self._imds.close()

    def capabilities(self) -> Capabilities:
        """EC2 creates ENIs at run time and changes addresses one by one."""
        return Capabilities(
            can_create_interfaces=True, has_prefixes=True, replaces_whole_interface=False
        )

    def discover_node(self) -> NodeIdentity:
        """Who we are, from IMDS. Each value is checked: a wrong answer is a Transient error."""
        need = self._imds.need
        mac = need("meta-data/mac", r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
        tree = f"meta-data/network/interfaces/macs/{mac}"
        groups = need(f"{tree}/security-group-ids", r"(sg-[0-9a-f]+\s*)+")
        self._node = NodeIdentity(
            instance_id=InstanceId(need("meta-data/instance-id", r"i-[0-9a-f]+")),
            instance_type=need("meta-data/instance-type", r"[a-z0-9-]+\.[a-z0-9-]+"),
            region=need("meta-data/placement/region", r"[a-z0-9-]+"),
            zone=need("meta-data/placement/availability-zone", r"[a-z0-9-]+"),
            vpc_id=need(f"{tree}/vpc-id", r"vpc-[0-9a-f]+"),
            primary_eni_id=EniId(need(f"{tree}/interface-id", r"eni-[0-9a-f]+")),
            primary_mac=mac,
            primary_subnet_id=SubnetId(need(f"{tree}/subnet-id", r"subnet-[0-9a-f]+")),
            security_group_ids=tuple(groups.split()),
        )
        return self._node

    def limits(self) -> NodeLimits:
        """The limits of this node's type; they never change, so an answer stays fresh."""
        wanted = self._identity().instance_type
        key = ("DescribeInstanceTypes", wanted)
        return self._reads.read(key, lambda: self._limits_of(wanted), fresh_seconds=inf)

    def _limits_of(self, wanted: str) -> NodeLimits:
        """DescribeInstanceTypes; the bundled table where the policy forbids it (aws-node asks for
        no type that is in its own table)."""
        api = "DescribeInstanceTypes"
        try:
            answer = self._ec2.call(api, {"InstanceTypes": [wanted]})
        except Denied:
            known = instance_types.load().types.get(wanted)
            if known is None:
                raise
            return shapes.limits_of(known)
        types = understood(api, lambda raw: list(raw["InstanceTypes"]), answer)
        if not types:
            raise NotFound(f"EC2 does not know the instance type {wanted}", operation=api)
        return understood(api, shapes.limits, types[0])

    def snapshot(self) -> CloudSnapshot:
        """DescribeNetworkInterfaces twice (attached to us; ours by tag and attached to nothing)."""
        return self._reads.read("snapshot", self._look)

    def _look(self) -> CloudSnapshot:
        own = self._identity().instance_id
        attached = [self._attached(raw) for raw in self._describe(("attachment.instance-id", own))]
        loose = [
            self._eni(raw)
            for raw in self._describe((f"tag:{t.TAG_INSTANCE}", own), ("status", "available"))
        ]
        # One that is detached between the two is in both; it is what it was first.
        enis = {eni.eni_id: eni for eni in loose + attached}
        return CloudSnapshot(enis=tuple(enis.values()), vpc_cidrs=self._vpc_cidrs())

    def _vpc_cidrs(self) -> tuple[IPNetwork, ...]:
        tree = f"meta-data/network/interfaces/macs/{self._identity().primary_mac}"
        return (
            *self._imds.networks(f"{tree}/vpc-ipv4-cidr-blocks"),
            *self._imds.networks(f"{tree}/vpc-ipv6-cidr-blocks"),
        )

    def _attached(self, raw: dict[str, Any]) -> CloudEni:
        """An ENI of this node; the primary one tells what new ones should be like."""
        eni = self._eni(raw)
        if eni.is_primary:
            self._interfaces.tracking = dict(raw.get("ConnectionTrackingConfiguration") or {})
        return eni

    def hint(self) -> Hint:
        """IMDS, the tree of this machine's interfaces; an ENI that goes meanwhile is left out."""
        tree = "meta-data/network/interfaces/macs"
        found = []
        for mac in (self._imds.get(f"{tree}/") or "").split():
            root = f"{tree}/{mac.strip('/')}"
            eni_id = self._imds.get(f"{root}/interface-id")
            if eni_id is not None:
                found.append(EniHint(eni_id=EniId(eni_id), items=self._hinted(root)))
        return Hint(enis=tuple(sorted(found)), vpc_cidrs=self._vpc_cidrs())

    def _hinted(self, root: str) -> tuple[str, ...]:
        addresses = (self._imds.get(f"{root}/local-ipv4s") or "").split()[1:]  # the primary first
        for key in ("ipv4-prefix", "ipv6-prefix"):
            addresses += (self._imds.get(f"{root}/{key}") or "").split()
        return tuple(sorted(addresses))

    def apply(self, change: AddressChange) -> AddressOutcome:
        """Unassign first (it makes room), then assign; the answer names the new ones only."""
        with self._reads.changing():
            return addresses.apply(self._ec2, change, describe=self._interfaces.describe)

    def subnets(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[Subnet, ...]:
        """DescribeSubnets of the zone, or of the named ones where discovery is off."""
        return self._subnets.seen(subnet_ids)

    def create_interface(self, request: InterfaceRequest) -> CloudEni:
        """See `interfaces.Interfaces.create`."""
        with self._reads.changing():
            return self._interfaces.create(request)

    def delete_interface(self, eni_id: EniId) -> None:
        """See `interfaces.Interfaces.delete`."""
        with self._reads.changing():
            self._interfaces.delete(eni_id)

    def orphans(self) -> tuple[Orphan, ...]:
        """DescribeNetworkInterfaces over the VPC: made by an agent like this one, attached to
        nothing, and of this cluster where CLUSTER_NAME says which."""
        filters = [
            ("tag-key", t.TAG_INSTANCE),
            ("status", "available"),
            ("vpc-id", self._identity().vpc_id),
            ("description", t.DESCRIPTION + "*"),
        ]
        if self._config.cluster_name:
            filters.append((f"tag:{t.TAG_CLUSTER}", self._config.cluster_name))
        found = (understood(DESCRIBE, shapes.orphan, raw) for raw in self._describe(*filters))
        return tuple(one for one in found if one is not None)

    def mark_created(self, eni_id: EniId, unix: float) -> None:
        """CreateTags."""
        self._ec2.call(
            "CreateTags",
            {"Resources": [eni_id], "Tags": t.as_list({t.TAG_CREATED: t.created_text(unix)})},
            eni_id=eni_id,
        )

    def delete_orphan(self, eni_id: EniId) -> None:
        """DeleteNetworkInterface, which EC2 refuses for one that is attached."""
        with self._reads.changing():
            try:
                self._ec2.call(
                    "DeleteNetworkInterface", {"NetworkInterfaceId": eni_id}, eni_id=eni_id
                )
            except NotFound:
                return
            except Transient as e:
                if e.code == "InvalidParameterValue":
                    # Its text says "in use": no race of ours, somebody has attached it.
                    raise CloudError(
                        str(e), operation=e.operation, code=e.code, eni_id=eni_id
                    ) from e
                raise

    def _identity(self) -> NodeIdentity:
        with self._node_lock:
            return self._node or self.discover_node()

    def _subnet_of(self, raw: dict[str, Any]) -> SubnetFacts:
        """The subnet of an ENI. Policies made for older releases of aws-node do not allow
        DescribeSubnets; a CIDR, which never changes, may come from the metadata service too."""
        subnet_id = understood(DESCRIBE, lambda raw: SubnetId(raw["SubnetId"]), raw)
        try:
            return self._subnets.facts(subnet_id)
        except Denied:
            tree = f"meta-data/network/interfaces/macs/{str(raw.get('MacAddress', '')).lower()}"
            v4 = self._imds.networks(f"{tree}/subnet-ipv4-cidr-block")
            v6 = self._imds.networks(f"{tree}/subnet-ipv6-cidr-blocks")
            if not isinstance(next(iter(v4), None), IPv4Network):
                raise
            return self._subnets.learn(shapes.subnet_facts_of(subnet_id, v4 + v6))

    def _describe(self, *filters: tuple[str, str]) -> Iterator[dict[str, Any]]:
        wanted = [(name, (value,)) for name, value in filters]
        return self._ec2.pages(DESCRIBE, "NetworkInterfaces", wanted)

    def _eni(self, raw: dict[str, Any]) -> CloudEni:
        facts = self._subnet_of(raw)
        return understood(
            DESCRIBE,
            lambda raw: shapes.eni(
                raw,
                facts,
                instance_id=self._identity().instance_id,
                manages_untagged=self._config.manages_untagged_enis,
            ),
            raw,
        )


def _nobody(call: ApiCall) -> None:
    """Tell nobody of a call."""
