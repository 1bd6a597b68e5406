"""What is known of the node itself, kept in the store so that a start needs no cloud."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from ipaddress import IPv4Network

from ipamd.cloud import NodeIdentity, NodeLimits
from ipamd.model import EniId, InstanceId, SubnetId
from ipamd.settings import Settings

NOTE = "node"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Identity and limits of the instance, and the CIDRs of its VPC."""

    identity: NodeIdentity
    limits: NodeLimits
    vpc_cidrs: tuple[IPv4Network, ...]

    def max_enis(self, settings: Settings) -> int:
        """MAX_ENI where it is set and lower, else the instance type's limit."""
        limit = self.limits.max_enis
        return min(settings.max_enis, limit) if settings.max_enis else limit

    def max_pods(self, settings: Settings) -> int:
        """VPC_IPAMD_MAX_PODS where set, else all slots of all ENIs. m5.large: 3 x 9 = 27."""
        return settings.max_pods or self.max_enis(settings) * self.limits.slots_per_eni

    def to_json(self) -> str:
        """The form kept in the store."""
        fields = asdict(self) | {"vpc_cidrs": [str(c) for c in self.vpc_cidrs]}
        return json.dumps(fields)


def from_json(text: str) -> NodeFacts | None:
    """Facts from the store; None where there are none or an older build wrote other fields."""
    if not text:
        return None
    try:
        raw = json.loads(text)
        identity = raw["identity"]
        return NodeFacts(
            identity=NodeIdentity(
                **{
                    **identity,
                    "instance_id": InstanceId(identity["instance_id"]),
                    "primary_eni_id": EniId(identity["primary_eni_id"]),
                    "primary_subnet_id": SubnetId(identity["primary_subnet_id"]),
                    "security_group_ids": tuple(identity["security_group_ids"]),
                }
            ),
            limits=NodeLimits(**raw["limits"]),
            vpc_cidrs=tuple(IPv4Network(c) for c in raw["vpc_cidrs"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
