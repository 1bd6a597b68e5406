"""From ipamd's NodeNetwork to the wanted host network. Pure.

ValueError, with the field's name and what stood in it, where ipamd sent what cannot be: the caller
then leaves the host as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import TypeVar

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath.desired import DesiredEni, DesiredHost
from cni_shim.datapath.policy import DEFAULT_CONNMARK, HostPolicy, PortChoice, SnatDestination

T = TypeVar("T")


def desired_host(network: pb.NodeNetwork, *, eni_mtu: int | None) -> DesiredHost:
    """The wanted host network. An ipamd that names no policy gets none."""
    return DesiredHost(
        eni_mtu=eni_mtu,
        enis=tuple(map(_eni, network.enis)),
        vpc_cidrs=_all("vpc_cidrs", ip_network, network.vpc_cidrs),
        policy=_policy(network.policy) if network.HasField("policy") else HostPolicy(),
    )


def _policy(policy: pb.HostPolicy) -> HostPolicy:
    return HostPolicy(
        has_snat=not policy.external_snat,
        excluded_from_snat=_all("exclude_snat_cidrs", IPv4Network, policy.exclude_snat_cidrs),
        port_choice=_one("randomize_snat", PortChoice, policy.randomize_snat or "prng"),
        has_node_port_support=policy.node_port_support,
        connmark=policy.connmark or DEFAULT_CONNMARK,
        external_services=_all(
            "external_service_cidrs", IPv4Network, policy.external_service_cidrs
        ),
        always_snat=tuple(
            SnatDestination(
                network=_one("always_snat", IPv4Network, to.cidr),
                protocol=to.protocol,
                port=to.port,
            )
            for to in policy.always_snat
        ),
        has_v4_egress=policy.v4_egress,
        has_v6_egress=policy.v6_egress,
        disables_tcp_early_demux=policy.disable_tcp_early_demux,
        has_strict_branches=policy.pod_eni_mode == "strict",
    )


def _eni(eni: pb.NodeEni) -> DesiredEni:
    v6 = eni.subnet_cidr_v6, eni.primary_address_v6, eni.gateway_v6
    return DesiredEni(
        eni_id=eni.eni_id,
        mac=eni.mac,
        primary_address=_one("primary_address", IPv4Address, eni.primary_address),
        subnet_cidr=_one("subnet_cidr", IPv4Network, eni.subnet_cidr),
        gateway=_one("gateway", IPv4Address, eni.gateway),
        device_index=eni.device_index,
        route_table_id=eni.route_table_id,
        is_primary=eni.is_primary,
        network_card=eni.network_card,
        subnet_cidr_v6=_one("subnet_cidr_v6", IPv6Network, v6[0]) if v6[0] else None,
        primary_address_v6=_one("primary_address_v6", IPv6Address, v6[1]) if v6[1] else None,
        gateway_v6=_one("gateway_v6", IPv6Address, v6[2]) if v6[2] else None,
    )


def _all(field: str, parse: Callable[[str], T], texts: Iterable[str]) -> tuple[T, ...]:
    return tuple(_one(field, parse, text) for text in texts)


def _one(field: str, parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as e:
        raise ValueError(f"ipamd sent {text!r} as {field}, which cannot be: {e}") from e
