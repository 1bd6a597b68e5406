"""What is known of the node itself, kept in the store so that a start needs no cloud."""

from __future__ import annotations

import functools
import json
from dataclasses import asdict, dataclass
from ipaddress import ip_network

from ipamd import sizing
from ipamd.cloud import CloudSnapshot, EniStatus, NodeIdentity, NodeLimits
from ipamd.errors import Transient
from ipamd.model import EniId, InstanceId, IPNetwork, SubnetId
from ipamd.pool.choice import Rules
from ipamd.pool.observe import Exclusions
from ipamd.settings import Settings
from ipamd.sizing import CAP_PODS_LARGE, PodNetwork

NOTE = "node"


@functools.lru_cache(maxsize=8)  # asked for by every Allocate; it changes with the settings only
def _pod_addresses(limits: NodeLimits, network: PodNetwork) -> int:
    return sizing.max_pods(limits, network).pod_addresses


def exclusions(settings: Settings, excluded_subnets: frozenset[SubnetId]) -> Exclusions:
    """Which ENIs of ours carry no new pods, by settings and subnet tags."""
    return Exclusions(
        primary=settings.has_custom_networking,
        secondary=not settings.has_ipv4,
        subnets=excluded_subnets,
        other_cards=not settings.has_multi_nic,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFacts:
    """Identity and limits of the instance, and the CIDRs of its VPC."""

    identity: NodeIdentity
    limits: NodeLimits
    vpc_cidrs: tuple[IPNetwork, ...]

    def max_enis(self, settings: Settings, *, network_card: int = 0) -> int:
        """MAX_ENI where it is set and lower, else the limit of the card (see NodeLimits)."""
        limit = self.limits.enis_of_card(network_card)
        return min(settings.max_enis, limit) if settings.max_enis else limit

    def uses_prefixes(self, settings: Settings) -> bool:
        """ENABLE_PREFIX_DELEGATION, where the instance type has prefixes (as in aws-node)."""
        return settings.use_prefixes and self.limits.has_prefixes

    def max_pods(self, settings: Settings) -> int:
        """VPC_IPAMD_MAX_PODS where set, else what the ENIs can carry.

        m5.large: 3 ENIs of 9 slots carry 27 pods, 432 with prefixes, 18 with custom networking,
        whose primary ENI carries none. A /80 carries more than any kubelet: the larger of the
        recommended caps, 250.
        """
        if settings.max_pods:
            return settings.max_pods
        if not settings.has_ipv4:
            return CAP_PODS_LARGE
        network = PodNetwork(
            prefixes=settings.use_prefixes,
            custom_networking=settings.has_custom_networking,
            pod_eni=settings.has_pod_eni,
            max_enis=settings.max_enis,
        )
        return _pod_addresses(self.limits, network)

    def rules(self, settings: Settings) -> Rules:
        """What handing out depends on."""
        versions = (4,) * settings.has_ipv4 + (6,) * settings.has_ipv6
        return Rules(
            max_pods=self.max_pods(settings),
            versions=versions,
            prefers_prefixes=self.uses_prefixes(settings),
        )

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
            limits=NodeLimits(**{**raw["limits"], "card_enis": tuple(raw["limits"]["card_enis"])}),
            vpc_cidrs=tuple(ip_network(c) for c in raw["vpc_cidrs"]),
        )
    except (ValueError, KeyError, TypeError):
        return None


def require_own_primary(identity: NodeIdentity, snapshot: CloudSnapshot) -> None:
    """The metadata service is believed only where the cloud shows the same primary ENI on the same
    instance: in the name of another we would attach ENIs to it, and call our store foreign."""
    attached = [e.eni_id for e in snapshot.enis if e.status is EniStatus.ATTACHED]
    if identity.primary_eni_id not in attached:
        raise Transient(
            f"the metadata service says that this is {identity.instance_id} with primary ENI "
            f"{identity.primary_eni_id}, but the cloud shows on that instance "
            f"{', '.join(attached) or 'no ENI'}",
            operation="discover_node",
        )
