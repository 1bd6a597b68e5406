"""Tags of ENIs and subnets: aws-node's, so that either agent finds and understands the other's."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass

TAG_INSTANCE = "node.k8s.amazonaws.com/instance_id"
TAG_CREATED = "node.k8s.amazonaws.com/createdAt"
TAG_NO_MANAGE = "node.k8s.amazonaws.com/no_manage"
TAG_CLUSTER = "cluster.k8s.amazonaws.com/name"
TAG_OWNER = "eks:eni:owner"
OWNER = "amazon-vpc-cni"
DESCRIPTION = "aws-K8S-"
"""What the description of an ENI starts with that an agent of this kind made."""

TAG_SUBNET_ROLE = "kubernetes.io/role/cni"
TAG_SUBNET_CLUSTER = "cni.networking.k8s.aws/cluster/"

UNMANAGED_TYPES = frozenset({"trunk", "efa", "efa-only", "branch"})

Tags = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Eligibility:
    """What a subnet's tags say of it."""

    is_candidate: bool  # new ENIs may be made in it
    is_excluded: bool  # pods get no addresses of it


def eligibility(tags: Tags, cluster_name: str, *, is_primary_subnet: bool) -> Eligibility:
    """aws-node's rules of subnet discovery.

    Role 0 excludes any subnet. The primary ENI's needs no role, every other one any role but 0. A
    subnet that names clusters is only for those. Example: role 1 with a cluster tag of another
    cluster -> neither candidate nor excluded.
    """
    role = tags.get(TAG_SUBNET_ROLE)
    if role == "0":
        return Eligibility(is_candidate=False, is_excluded=True)
    clusters = [key for key in tags if key.startswith(TAG_SUBNET_CLUSTER)]
    is_for_us = not clusters or TAG_SUBNET_CLUSTER + cluster_name in clusters
    has_role = is_primary_subnet or role is not None
    return Eligibility(is_candidate=has_role and is_for_us, is_excluded=False)


def is_managed(
    tags: Tags,
    *,
    interface_type: str,
    is_primary: bool,
    instance_id: str,
    manages_untagged: bool = True,
) -> bool:
    """Whether an ENI is ours to use (aws-node's rules: no_manage, then the instance tag, then
    MANAGE_UNTAGGED_ENI).

    The primary always is. Trunk and EFA interfaces never are; they only count against the limit.
    """
    if is_primary:
        return True
    if interface_type in UNMANAGED_TYPES:
        return False
    no_manage = tags.get(TAG_NO_MANAGE)
    if no_manage is not None:
        return no_manage != "true"
    owner = tags.get(TAG_INSTANCE)
    return manages_untagged if owner is None else owner == instance_id


def new_eni_tags(
    *, instance_id: str, cluster_name: str, created_unix: float, extra: Tags
) -> dict[str, str]:
    """The tags of an ENI that we make; `extra` (ADDITIONAL_ENI_TAGS) never replaces one of ours."""
    ours = {TAG_INSTANCE: instance_id, TAG_CREATED: created_text(created_unix)}
    if cluster_name:
        ours |= {TAG_CLUSTER: cluster_name, TAG_OWNER: OWNER}
    return {**extra, **ours}


def created_text(unix: float) -> str:
    """The creation tag's form (RFC 3339). Example: 0 -> 1970-01-01T00:00:00Z."""
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def created_unix(text: str | None) -> float | None:
    """The time in a creation tag; None where there is none or it is no time."""
    try:
        made = dt.datetime.fromisoformat(text or "")
    except ValueError:
        return None
    return made.replace(tzinfo=made.tzinfo or dt.UTC).timestamp()


def token_unix(token: str) -> float:
    """The wall time inside a token "<unix seconds in hex>-<random>"; 0 for any other form."""
    try:
        return float(int(token.split("-", 1)[0], 16))
    except ValueError:
        return 0.0


def as_list(tags: Tags) -> list[dict[str, str]]:
    """Tags in EC2's form."""
    return [{"Key": key, "Value": value} for key, value in tags.items()]


def from_list(raw: list[dict[str, str]] | None) -> dict[str, str]:
    """Tags from EC2's form; an absent list has none."""
    return {t["Key"]: t.get("Value", "") for t in raw or []}
