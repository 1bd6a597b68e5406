"""What can be done to the host's network: values that `diff` decides on and `host` carries out."""

from __future__ import annotations

from dataclasses import dataclass

from cni_shim.datapath.families import AddressOnLink
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.ruleset import Firewall


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteSysctl:
    """Write /proc/sys/net/<name>, unless it is `value` or one of `also_right` already."""

    eni_id: str
    name: str
    value: str
    also_right: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SetLink:
    """Bring an ENI's link up, with its MTU where it is to have another than it came with."""

    eni_id: str
    ifindex: int
    mtu: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AddAddress:
    """Add an address to an ENI's link."""

    eni_id: str
    ifindex: int
    address: AddressOnLink


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveAddress:
    """Remove an address from a link."""

    eni_id: str
    ifindex: int
    address: AddressOnLink


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRoute:
    """Add a route; `replaces`: another one to the same destination stands in its place."""

    eni_id: str
    route: Route
    replaces: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRoute:
    """Remove a route of ours."""

    eni_id: str
    route: Route


@dataclass(frozen=True, slots=True, kw_only=True)
class AddRule:
    """Add a rule."""

    eni_id: str
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveRule:
    """Remove a rule of ours."""

    eni_id: str
    rule: Rule


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplaceFirewall:
    """Put our nft table in place, or (None) take it away.

    Concerns every secondary ENI, and the primary where connections are moved to it.
    """

    eni_id: str
    firewall: Firewall | None
    concerns_primary: bool = False


# `eni_id` is the ENI that is not ready without the action; empty: the whole node, or nobody's.
Action = (
    WriteSysctl
    | SetLink
    | AddAddress
    | RemoveAddress
    | AddRoute
    | RemoveRoute
    | AddRule
    | RemoveRule
    | ReplaceFirewall
)
