"""The wanted host network, as values. Pure.

The server builds a `DesiredHost` from ipamd's WatchNode messages; `diff` compares it with what
`host` observed. Complete: what is not named is not wanted.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cni_shim.datapath import names
from cni_shim.datapath.messages import Route, Rule

# EC2's jumbo frame size inside a VPC (EC2 User Guide, "Network MTU for your EC2 instance").
DEFAULT_ENI_MTU = 9001

# Loose: an answer may come in by another ENI than the route to its sender names.
LOOSE_RP_FILTER = "2"

_ANYWHERE = IPv4Network("0.0.0.0/0")


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredEni:
    """One managed ENI. Its link is found by MAC: names change, and the link may come later."""

    eni_id: str
    mac: str
    primary_address: IPv4Address
    subnet_cidr: IPv4Network
    gateway: IPv4Address
    device_index: int
    route_table_id: int
    is_primary: bool
    network_card: int = 0

    def __post_init__(self) -> None:
        if not self.is_primary and self.route_table_id in {0, 253, 254, 255, names.POD_TABLE}:
            raise ValueError(f"{self.eni_id}: table {self.route_table_id} is not an ENI's")

    @property
    def mark(self) -> int:
        """The packet mark of its pods; 0 for the primary ENI. ValueError where it can have none."""
        if self.is_primary:
            return 0
        return names.eni_mark(device_index=self.device_index, network_card=self.network_card)


@dataclass(frozen=True, slots=True, kw_only=True)
class DesiredHost:
    """The whole wanted host network."""

    enis: tuple[DesiredEni, ...]
    eni_mtu: int = DEFAULT_ENI_MTU


@dataclass(frozen=True, slots=True, kw_only=True)
class EniReadiness:
    """Whether the kernel really has everything an ENI needs; `message` says why not."""

    eni_id: str
    is_ready: bool
    link_name: str
    message: str


def can_serve_pods(eni: DesiredEni) -> bool:
    """Whether pods on this ENI can be told apart by a mark."""
    try:
        return eni.mark >= 0
    except ValueError:
        return False


def pod_rule() -> Rule:
    """The one rule that finds every pod. No match in the pod table falls through to the next."""
    return Rule(priority=names.POD_RULE_PRIORITY, table=names.POD_TABLE)


def eni_rules(eni: DesiredEni) -> tuple[Rule, ...]:
    """The rules of a secondary ENI: by the mark of its pods, and by its own address."""
    if eni.is_primary:
        return ()
    return (
        Rule(
            priority=names.MARK_RULE_PRIORITY,
            table=eni.route_table_id,
            mark=eni.mark,
            mask=names.MARK_MASK,
        ),
        Rule(
            priority=names.ENI_RULE_PRIORITY,
            table=eni.route_table_id,
            source=IPv4Network(eni.primary_address),
        ),
    )


def eni_routes(eni: DesiredEni, ifindex: int) -> tuple[Route, ...]:
    """The routes in a secondary ENI's table: its gateway on the link, then everything by it.

    Everything, the ENI's own subnet too, goes by the gateway: a VPC has no broadcast domain, and a
    connected route in main would send other sources out by this ENI, to be dropped.
    """
    if eni.is_primary:
        return ()
    table = eni.route_table_id
    return (
        Route(table=table, destination=IPv4Network(eni.gateway), gateway=None, ifindex=ifindex),
        Route(table=table, destination=_ANYWHERE, gateway=eni.gateway, ifindex=ifindex),
    )


def eni_address(eni: DesiredEni) -> IPv4Interface | None:
    """The only IPv4 address a secondary ENI's link has; None: the primary's is not our business."""
    return None if eni.is_primary else IPv4Interface((eni.primary_address, 32))
