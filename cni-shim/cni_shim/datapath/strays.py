"""Addresses of the ENIs' subnets that the node itself has on a link. Pure.

The kernel takes what is for such an address for the node, before any rule of ours: a pod that had
it would be cut off. Who puts them there means well: cloud-init on Azure, or a distribution's own
tools on EC2, give the node every address that the metadata service lists.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network

from cni_shim.datapath.answers import Link, LinkAddress
from cni_shim.datapath.desired import DesiredEni
from cni_shim.datapath.families import Address


@dataclass(frozen=True, slots=True, kw_only=True)
class StrayAddress:
    """An address that could be a pod's, and the node's link that has it."""

    address: Address
    link_name: str


def stray_addresses(
    links: Iterable[Link], addresses: Iterable[LinkAddress], enis: tuple[DesiredEni, ...]
) -> tuple[StrayAddress, ...]:
    """All of them, in the order of the addresses. ENIs' own and their routers' are none: a bridge
    of another plugin may have a router's."""
    names = {link.ifindex: link.ifname for link in links}
    networks = [network for eni in enis for network in _subnets(eni)]
    known = {a for eni in enis for a in (*eni.primary_addresses, *eni.gateways)}
    return tuple(
        StrayAddress(address=found.address.ip, link_name=names.get(found.ifindex, ""))
        for found in addresses
        if found.address.ip not in known
        and any(found.address.ip in network for network in networks)
    )


def _subnets(eni: DesiredEni) -> tuple[IPv4Network | IPv6Network, ...]:
    v6 = () if eni.subnet_cidr_v6 is None else (eni.subnet_cidr_v6,)
    return (eni.subnet_cidr, *v6)
