"""How traffic leaves the node, as values. Pure.

ipamd says it (`HostPolicy` of the proto, from aws-node's variables); `desired` carries it; `chains`
and `desired` turn it into nft chains and routing rules. The default asks for nothing at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from cni_shim.datapath import names

# Node-local addresses of the family that pods do not have, the same on every node: those of the
# AWS agent's egress plugin (amazon-vpc-cni-k8s, cmd/egress-cni-plugin).
V4_EGRESS_RANGE = IPv4Network("169.254.172.0/22")
V6_EGRESS_RANGE = IPv6Network("fd00::ac:00/118")

EGRESS_RANGES: dict[int, IPv4Network | IPv6Network] = {4: V4_EGRESS_RANGE, 6: V6_EGRESS_RANGE}

# The AWS agent's connection mark.
DEFAULT_CONNMARK = 0x80


def is_egress(address: IPv4Address | IPv6Address) -> bool:
    """Whether it is a node-local address of the family that pods do not have."""
    return address in EGRESS_RANGES[address.version]


class PortChoice(Enum):
    """How the source port of an SNATed connection is chosen: aws-node's words."""

    PRNG = "prng"
    HASHRANDOM = "hashrandom"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class SnatDestination:
    """A service that answers the node's own address alone. No protocol: every one; port 0: all."""

    network: IPv4Network
    protocol: str = ""
    port: int = 0

    def __post_init__(self) -> None:
        if self.protocol not in {"", "tcp", "udp"}:
            raise ValueError(f"protocol {self.protocol!r}: want tcp, udp or nothing")
        if not 0 <= self.port <= 0xFFFF:
            raise ValueError(f"port {self.port}: want 0 to 65535")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPolicy:
    """How traffic leaves the node.

    `has_snat`: pods leave the VPC with the primary ENI's address; else with their own.
    `has_node_port_support`: connections that come in by the primary ENI are answered by it.
    `connmark`: mark, and mask, of connections that belong to the primary ENI.
    `external_services`: always routed by the main table.
    `always_snat`: SNATed also without `has_snat`.
    `has_strict_branches`: pods with an ENI of their own reach even the node by it, so the rule for
    the node's own addresses comes after theirs.
    """

    has_snat: bool = False
    excluded_from_snat: tuple[IPv4Network, ...] = ()
    port_choice: PortChoice = PortChoice.PRNG
    has_node_port_support: bool = False
    connmark: int = DEFAULT_CONNMARK
    external_services: tuple[IPv4Network, ...] = ()
    always_snat: tuple[SnatDestination, ...] = ()
    has_v4_egress: bool = False
    has_v6_egress: bool = False
    disables_tcp_early_demux: bool = False
    has_strict_branches: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.connmark <= 0xFFFFFFFF or self.connmark & names.MARK_MASK:
            raise ValueError(
                f"connection mark {self.connmark:#x}: want 32 bits, none of {names.MARK_MASK:#x},"
                " which name a pod's ENI"
            )

    @property
    def moves_connections(self) -> bool:
        """Whether any connection is made to leave by the primary ENI, whatever pod it is of."""
        return (
            self.has_node_port_support
            or self.has_snat
            or bool(self.always_snat)
            or self.has_v4_egress
            or self.has_v6_egress
        )
