"""The wanted host network, as values. Pure.

The server builds a `DesiredHost` from ipamd's WatchNode messages; `diff` compares it with what
`host` observed. Complete: what is not named is not wanted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from cni_shim.datapath import names
from cni_shim.datapath.families import (
    AF_INET,
    AF_INET6,
    ANYWHERE,
    FAMILIES,
    LEAST_MTU_V6,
    Address,
    AddressOnLink,
    Network,
    host_network,
    host_on_link,
)
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.policy import HostPolicy

# EC2's jumbo frame size inside a VPC (EC2 User Guide, "Network MTU for your EC2 instance").
DEFAULT_ENI_MTU = 9001

NO_POLICY = HostPolicy()

# A VPC's router in every subnet (EC2 User Guide, "IPv6"), and the IP protocol number of ICMPv6.
ROUTER_V6 = IPv6Address("fe80:ec2::1")
_ICMPV6 = 58

# Loose: an answer may come in by another ENI than the route to its sender names.
LOOSE_RP_FILTER = "2"


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredEni:
    """One managed ENI. Its link is found by MAC: names change, and the link may come later.

    Without `gateway_v6` (the router's link-local address) the ENI's IPv6 is left alone.
    """

    eni_id: str
    mac: str
    primary_address: IPv4Address
    subnet_cidr: IPv4Network
    gateway: IPv4Address
    device_index: int
    route_table_id: int
    is_primary: bool
    network_card: int = 0
    subnet_cidr_v6: IPv6Network | None = None
    primary_address_v6: IPv6Address | None = None
    gateway_v6: IPv6Address | None = None

    def __post_init__(self) -> None:
        if not self.is_primary and self.route_table_id in {0, 253, 254, 255, names.POD_TABLE}:
            raise ValueError(f"{self.eni_id}: table {self.route_table_id} is not an ENI's")

    @property
    def has_v6(self) -> bool:
        """Whether its pods may have IPv6 addresses."""
        return self.gateway_v6 is not None

    @property
    def primary_addresses(self) -> tuple[Address, ...]:
        """Its own address of each family that is ours to see to."""
        if self.gateway_v6 is None or self.primary_address_v6 is None:
            return (self.primary_address,)
        return (self.primary_address, self.primary_address_v6)

    @property
    def gateways(self) -> tuple[Address, ...]:
        """Its subnet's router in each family."""
        return (self.gateway,) if self.gateway_v6 is None else (self.gateway, self.gateway_v6)

    @property
    def mark(self) -> int:
        """The packet mark of its pods; 0 for the primary ENI. ValueError where it can have none."""
        if self.is_primary:
            return 0
        return names.eni_mark(device_index=self.device_index, network_card=self.network_card)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredHost:
    """The whole wanted host network. `vpc_cidrs`: the VPC's networks, of both families. `eni_mtu`
    is what secondary ENIs' links are to have, None for what they came with."""

    enis: tuple[DesiredEni, ...]
    eni_mtu: int | None = DEFAULT_ENI_MTU
    vpc_cidrs: tuple[Network, ...] = ()
    policy: HostPolicy = NO_POLICY

    def __post_init__(self) -> None:
        if self.policy.has_snat and not any(network.version == 4 for network in self.vpc_cidrs):
            raise ValueError("SNAT is asked for, but no IPv4 network of the VPC is named")
        if self.has_v6 and self.eni_mtu is not None and self.eni_mtu < LEAST_MTU_V6:
            raise ValueError(f"an ENI's MTU is {self.eni_mtu}, but IPv6 needs {LEAST_MTU_V6}")

    @property
    def has_v6(self) -> bool:
        """Whether any ENI serves IPv6."""
        return any(eni.has_v6 for eni in self.enis)

    @property
    def families(self) -> tuple[int, ...]:
        """The address families that pods use, by an ENI or by the node's egress."""
        has_v6 = self.has_v6 or self.policy.has_v6_egress
        return (AF_INET, AF_INET6) if has_v6 else (AF_INET,)


@dataclass(frozen=True, slots=True, kw_only=True)
class EniReadiness:
    """Whether the kernel really has everything an ENI needs; `message` says why not.

    `ifindex` and `mtu` are those of its link, 0 without one; a link that came back is no news by
    itself.
    """

    eni_id: str
    is_ready: bool
    link_name: str
    message: str
    ifindex: int = field(default=0, compare=False)
    mtu: int = field(default=0, compare=False)


def can_serve_pods(eni: DesiredEni) -> bool:
    """Whether pods on this ENI can be told apart by a mark."""
    try:
        return eni.mark >= 0
    except ValueError:
        return False


def pod_rules(desired: DesiredHost) -> tuple[Rule, ...]:
    """The rule, one a family, that finds every pod. No match in the pod table: the next rule."""
    return tuple(
        Rule(priority=names.POD_RULE_PRIORITY, table=names.POD_TABLE, family=family)
        for family in desired.families
    )


def host_rules(desired: DesiredHost) -> tuple[Rule, ...]:
    """The rules that are of no one ENI: to pods, and to main for what is not a pod's ENI's."""
    policy = desired.policy
    connections = (
        Rule(
            priority=names.CONNECTION_RULE_PRIORITY,
            table=names.MAIN_TABLE,
            mark=policy.connmark,
            mask=policy.connmark,
            family=family,
        )
        for family in desired.families
        if policy.moves_connections
    )
    external = (
        Rule(priority=names.EXTERNAL_RULE_PRIORITY, table=names.MAIN_TABLE, destination=network)
        for network in policy.external_services
    )
    return (*pod_rules(desired), *connections, *external, *local_rules(desired))


def local_rules(desired: DesiredHost) -> tuple[Rule, ...]:
    """With strict branch ENIs: where the rule for the node's own addresses goes. What the router
    tells of itself by ICMPv6 must still reach the node before all else."""
    if not desired.policy.has_strict_branches:
        return ()
    moved = (
        Rule(priority=names.MOVED_LOCAL_RULE_PRIORITY, table=names.LOCAL_TABLE, family=family)
        for family in desired.families
    )
    if not desired.has_v6:
        return tuple(moved)
    from_router = Rule(
        priority=names.LOCAL_RULE_PRIORITY,
        table=names.LOCAL_TABLE,
        source=host_network(ROUTER_V6),
        ip_protocol=_ICMPV6,
        family=AF_INET6,
    )
    return (*moved, from_router)


def eni_rules(eni: DesiredEni) -> tuple[Rule, ...]:
    """The rules of a secondary ENI: by the mark of its pods, and by its own addresses."""
    if eni.is_primary:
        return ()
    families = (AF_INET, AF_INET6) if eni.has_v6 else (AF_INET,)
    by_mark = (
        Rule(
            priority=names.MARK_RULE_PRIORITY,
            table=eni.route_table_id,
            mark=eni.mark,
            mask=names.MARK_MASK,
            family=family,
        )
        for family in families
    )
    by_address = (
        Rule(
            priority=names.ENI_RULE_PRIORITY,
            table=eni.route_table_id,
            source=host_network(address),
            family=FAMILIES[address.version],
        )
        for address in eni.primary_addresses
    )
    return (*by_mark, *by_address)


def eni_routes(eni: DesiredEni, ifindex: int) -> tuple[Route, ...]:
    """The routes in a secondary ENI's table: its gateways on the link, then everything by them.

    Everything, the ENI's own subnet too, goes by the gateway: a VPC has no broadcast domain, and a
    connected route in main would send other sources out by this ENI, to be dropped.
    """
    if eni.is_primary:
        return ()
    table = eni.route_table_id
    on_link = (
        Route(table=table, destination=host_network(gateway), gateway=None, ifindex=ifindex)
        for gateway in eni.gateways
    )
    defaults = (
        Route(table=table, destination=ANYWHERE[g.version], gateway=g, ifindex=ifindex)
        for g in eni.gateways
    )
    return (*on_link, *defaults)


def eni_addresses(eni: DesiredEni) -> tuple[AddressOnLink, ...]:
    """All that a secondary ENI's link has of the families that are ours to see to, IPv6 link-local
    addresses aside. Empty for the primary: its are not our business."""
    return () if eni.is_primary else tuple(host_on_link(a) for a in eni.primary_addresses)
