"""EC2's answers as values of `ipamd.cloud`: pure. LookupError, ValueError, TypeError or
AttributeError where one is not as the API reference says; `client.understood` makes it Transient.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from ipamd.cloud import AddressOutcome, CloudEni, EniStatus, NodeLimits, Orphan, Subnet
from ipamd.model import EniId, InstanceId, IPNetwork, SubnetId
from ipamd.sizing import InstanceType
from providers.aws import tags as t

Raw = Mapping[str, Any]

NO_ADDRESS = IPv4Address("0.0.0.0")  # noqa: S104 - the absence of one, nothing listens there
NO_NETWORK = IPv4Network("0.0.0.0/32")
"""What an ENI without IPv4 shows: efa-only ones, and those of IPv6-only subnets. Never managed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetFacts:
    """What DescribeSubnets says of one subnet. CIDRs never change; IPv6 can come."""

    subnet_id: SubnetId
    cidr: IPv4Network
    cidr_v6: IPv6Network | None
    free_addresses: int
    tags: Mapping[str, str]


def subnet_facts(raw: Raw) -> SubnetFacts:
    """One subnet of DescribeSubnets."""
    return SubnetFacts(
        subnet_id=SubnetId(raw["SubnetId"]),
        cidr=IPv4Network(raw["CidrBlock"]) if raw.get("CidrBlock") else NO_NETWORK,
        cidr_v6=_subnet_cidr_v6(raw),
        free_addresses=int(raw["AvailableIpAddressCount"]),
        tags=t.from_list(raw.get("Tags")),
    )


def subnet_facts_of(subnet_id: SubnetId, cidrs: tuple[IPNetwork, ...]) -> SubnetFacts:
    """A subnet of which only the blocks are known, IPv4's among them."""
    return SubnetFacts(
        subnet_id=subnet_id,
        cidr=next(c for c in cidrs if isinstance(c, IPv4Network)),
        cidr_v6=next((c for c in cidrs if isinstance(c, IPv6Network)), None),
        free_addresses=0,
        tags={},
    )


def _subnet_cidr_v6(raw: Raw) -> IPv6Network | None:
    for block in raw.get("Ipv6CidrBlockAssociationSet") or []:
        if (block.get("Ipv6CidrBlockState") or {}).get("State", "associated") == "associated":
            return IPv6Network(block["Ipv6CidrBlock"])
    return None


def subnet(
    facts: SubnetFacts, *, cluster_name: str, primary_subnet_id: SubnetId, discovers: bool
) -> Subnet:
    """The subnet with what its tags allow. Without discovery only the primary ENI's is a candidate,
    and only role 0 counts (aws-node)."""
    is_primary = facts.subnet_id == primary_subnet_id
    says = t.eligibility(facts.tags, cluster_name, is_primary_subnet=is_primary)
    is_candidate = says.is_candidate if discovers else is_primary and not says.is_excluded
    return Subnet(
        subnet_id=facts.subnet_id,
        cidr=facts.cidr,
        free_addresses=facts.free_addresses,
        cidr_v6=facts.cidr_v6,
        # New ENIs need an IPv4 address of their own.
        is_candidate=is_candidate and facts.cidr != NO_NETWORK,
        is_excluded=says.is_excluded,
    )


def eni(raw: Raw, subnet: SubnetFacts, *, instance_id: str, manages_untagged: bool) -> CloudEni:
    """One network interface of DescribeNetworkInterfaces, in its subnet."""
    attachment = raw.get("Attachment") or {}
    index = int(attachment.get("DeviceIndex", -1))
    card = int(attachment.get("NetworkCardIndex", 0))
    is_primary = (index, card) == (0, 0)
    interface_type = raw.get("InterfaceType") or "interface"
    has_ipv4 = bool(raw.get("PrivateIpAddress"))
    return CloudEni(
        eni_id=EniId(raw["NetworkInterfaceId"]),
        mac=raw["MacAddress"].lower(),
        status=EniStatus(attachment.get("Status", "available")),
        subnet_id=SubnetId(raw["SubnetId"]),
        subnet_cidr=subnet.cidr,
        primary_address=IPv4Address(raw["PrivateIpAddress"]) if has_ipv4 else NO_ADDRESS,
        addresses=tuple(
            IPv4Address(a["PrivateIpAddress"])
            for a in raw.get("PrivateIpAddresses") or []
            if not a["Primary"]
        ),
        device_index=index,
        network_card=card,
        is_primary=is_primary,
        is_managed=has_ipv4
        and t.is_managed(
            t.from_list(raw.get("TagSet")),
            interface_type=interface_type,
            is_primary=is_primary,
            instance_id=instance_id,
            manages_untagged=manages_untagged,
        ),
        prefixes=_prefixes(raw),
        interface_type=interface_type,
        subnet_cidr_v6=subnet.cidr_v6,
        primary_address_v6=_primary_address_v6(raw),
    )


def _prefixes(raw: Raw) -> tuple[IPv4Network | IPv6Network, ...]:
    v4 = [IPv4Network(p["Ipv4Prefix"]) for p in raw.get("Ipv4Prefixes") or []]
    v6 = [IPv6Network(p["Ipv6Prefix"]) for p in raw.get("Ipv6Prefixes") or []]
    return (*v4, *v6)


def _primary_address_v6(raw: Raw) -> IPv6Address | None:
    """The one marked as primary, else the first: few ENIs have the mark, which cannot be undone."""
    given = raw.get("Ipv6Addresses") or []
    marked = [a for a in given if a.get("IsPrimaryIpv6")]
    return IPv6Address((marked or given)[0]["Ipv6Address"]) if given else None


def limits(raw: Raw) -> NodeLimits:
    """One type of DescribeInstanceTypes. Prefixes need Nitro, which bare metal is."""
    network = raw["NetworkInfo"]
    default = int(network.get("DefaultNetworkCardIndex", 0))
    cards = {
        int(c["NetworkCardIndex"]): int(c["MaximumNetworkInterfaces"])
        for c in network.get("NetworkCards") or []
    } or {default: int(network["MaximumNetworkInterfaces"])}
    return NodeLimits(
        max_enis=cards[default],
        addresses_per_eni=int(network["Ipv4AddressesPerInterface"]),
        has_prefixes=raw.get("Hypervisor") == "nitro" or bool(raw.get("BareMetal")),
        default_card=default,
        card_enis=tuple(cards.get(i, 0) for i in range(max(cards) + 1)) if len(cards) > 1 else (),
    )


def limits_of(known: InstanceType) -> NodeLimits:
    """The limits of a type in the bundled table."""
    return NodeLimits(
        max_enis=known.max_enis,
        addresses_per_eni=known.addresses_per_eni,
        has_prefixes=known.has_prefixes,
        default_card=known.default_card,
        card_enis=known.card_enis if len(known.card_enis) > 1 else (),
    )


def outcome(eni_id: EniId, answers: list[Raw]) -> AddressOutcome:
    """What AssignPrivateIpAddresses and AssignIpv6Addresses say they assigned, all together."""
    added = [
        IPv4Address(a["PrivateIpAddress"])
        for answer in answers
        for a in answer.get("AssignedPrivateIpAddresses") or []
    ]
    prefixes_v4 = [
        IPv4Network(p["Ipv4Prefix"])
        for answer in answers
        for p in answer.get("AssignedIpv4Prefixes") or []
    ]
    prefixes_v6 = [
        IPv6Network(p) for answer in answers for p in answer.get("AssignedIpv6Prefixes") or []
    ]
    return AddressOutcome(
        eni_id=eni_id, added=tuple(added), added_prefixes=(*prefixes_v4, *prefixes_v6)
    )


def orphan(raw: Raw) -> Orphan | None:
    """An unattached network interface that an agent of this kind made; None for any other."""
    tags = t.from_list(raw.get("TagSet"))
    if raw.get("Attachment") or not raw.get("Description", "").startswith(t.DESCRIPTION):
        return None
    return Orphan(
        eni_id=EniId(raw["NetworkInterfaceId"]),
        instance_id=InstanceId(tags[t.TAG_INSTANCE]),
        created_unix=t.created_unix(tags.get(t.TAG_CREATED)),
    )
