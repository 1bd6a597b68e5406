"""IPAM for another plugin's network: its config, the result that mains accept, and CHECK. Pure.

Called by `spec.parse` and the verbs where the config's `type` is another plugin's and its
`ipam.type` is ours. The main plugin (ptp, bridge, ipvlan) makes links and routes from our answer:
addresses with their subnet's prefix length and the router as gateway, and a default route without
one. What upstream's plugins refuse is a gateway outside of the subnet, and a /32 or /128 (seen with
containernetworking-plugins 1.1.1); `"prefix": "host"` is for mains that want just that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
)

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath.delegation import BRIDGE, Delegation
from cni_shim.datapath.families import ANYWHERE, Address, AddressOnLink, host_on_link
from cni_shim.errors import CniError, CniErrorCode, shown
from cni_shim.results import Ip, Result, Route

OUR_NAMES = frozenset({"vpc-cni", "vpc-cni-ipam"})
"""The launcher's two names; it is one program, and the config says what it is asked to be."""

MAIN_PLUGIN = "main-plugin"
"""In Allocation.wired_by: another plugin wires the pod, and we are its IPAM."""

_FOREIGN_MAC = frozenset({"macvlan", "macvtap"})
_KEYS = frozenset({"type", "eni", "prefix"})
_DEFAULT_BRIDGE = "cni0"  # of the bridge plugin


@dataclass(frozen=True, slots=True, kw_only=True)
class IpamOnly:
    """What the main plugin's config says: whose addresses (`eni`: "primary", an ENI's id or name),
    of which prefix length, and what it wires pods with."""

    main_type: str
    eni: str = "primary"
    is_prefix_host: bool = False
    bridge: str = ""


def is_ipam_only(config: Mapping[str, object]) -> bool:
    """Whether a main plugin asks us for addresses alone."""
    ipam = config.get("ipam")
    return (
        isinstance(ipam, dict) and _is_ours(ipam.get("type")) and not _is_ours(config.get("type"))
    )


def _is_ours(name: object) -> bool:
    return isinstance(name, str) and name in OUR_NAMES


def parse(config: Mapping[str, object]) -> IpamOnly | None:
    """The wish of a main plugin; None where we are the main plugin.

    Raises `CniError` 2 for keys that we do not know and for plugins that cannot work in a VPC, 7
    for unusable values.
    """
    ipam = config.get("ipam")
    if not is_ipam_only(config) or not isinstance(ipam, dict):
        return None
    main_type = config.get("type")
    if not isinstance(main_type, str) or not main_type:
        raise _bad_value("type", main_type, "the main plugin's name")
    if main_type in _FOREIGN_MAC:
        raise CniError(
            CniErrorCode.UNSUPPORTED_FIELD,
            f'unsupported key "type" with value "{main_type}"',
            "its pods have MACs of their own, and a VPC drops what is not from the ENI's MAC; use "
            "ptp, bridge or ipvlan",
        )
    for key, value in ipam.items():
        if key not in _KEYS:
            raise CniError(
                CniErrorCode.UNSUPPORTED_FIELD,
                f"unsupported key {shown(f'ipam.{key}')} with value {shown(json.dumps(value))}",
                'of ours the ipam object holds "eni" and "prefix"',
            )
    return IpamOnly(
        main_type=main_type,
        eni=_parse_eni(ipam.get("eni", "primary")),
        is_prefix_host=_parse_prefix(ipam.get("prefix", "subnet")),
        bridge=_parse_bridge(config) if main_type == BRIDGE else "",
    )


def parse_leniently(config: Mapping[str, object]) -> IpamOnly | None:
    """For DEL and GC, which the ledger decides, whatever the config has become."""
    return IpamOnly(main_type=str(config.get("type", ""))) if is_ipam_only(config) else None


def _parse_eni(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise _bad_value("ipam.eni", value, '"primary", or the id or name of an ENI of the node')
    return value


def _parse_prefix(value: object) -> bool:
    if value not in ("subnet", "host"):
        raise _bad_value("ipam.prefix", value, '"subnet" or "host"')
    return value == "host"


def _parse_bridge(config: Mapping[str, object]) -> str:
    value = config.get("bridge") or _DEFAULT_BRIDGE
    if not isinstance(value, str) or len(value) > 15:  # IFNAMSIZ less its NUL
        raise _bad_value("bridge", value, "the name of the bridge's link")
    return value


def _bad_value(key: str, value: object, expected: str) -> CniError:
    return CniError(
        CniErrorCode.INVALID_NETWORK_CONFIG,
        f"{key} has an unusable value",
        f"{key}={shown(json.dumps(value))}: {expected}",
    )


def delegation_of(wish: IpamOnly | None, allocation: pb.Allocation) -> Delegation:
    """What is to stand on the host for an allocation; the plugin may be unknown (None)."""
    return Delegation(
        addresses=_addresses(allocation),
        table=allocation.route_table_id,
        main_type=wish.main_type if wish else "",
        bridge=wish.bridge if wish else "",
    )


def result_of(wish: IpamOnly, allocation: pb.Allocation) -> Result:
    """The answer to the main plugin: addresses that name no interface, and default routes."""
    addresses = _addresses(allocation)
    ips = (_ip(address, allocation, is_host=wish.is_prefix_host) for address in addresses)
    return Result(
        ips=tuple(ips),
        routes=tuple(Route(dst=ANYWHERE[address.version]) for address in addresses),
    )


def _ip(address: Address, allocation: pb.Allocation, *, is_host: bool) -> Ip:
    """With a /32 the default route is a link's: no gateway can be on it."""
    if is_host:
        return Ip(address=host_on_link(address))
    is_v4 = address.version == 4
    cidr = allocation.subnet_cidr if is_v4 else allocation.subnet_cidr_v6
    gateway = allocation.gateway if is_v4 else allocation.gateway_v6
    return Ip(address=_on_subnet(address, cidr), gateway=ip_address(gateway))


def _on_subnet(address: Address, cidr: str) -> AddressOnLink:
    length = IPv4Network(cidr).prefixlen if address.version == 4 else IPv6Network(cidr).prefixlen
    if isinstance(address, IPv4Address):
        return IPv4Interface((address, length))
    return IPv6Interface((address, length))


def _addresses(allocation: pb.Allocation) -> tuple[Address, ...]:
    return tuple(map(ip_address, allocation.addresses or (allocation.address,)))


def previous_addresses(prev_result: Mapping[str, object] | None) -> tuple[Address, ...]:
    """The addresses of a prevResult of any version; what cannot be read is passed over."""
    found: list[IPv4Address | IPv6Address] = []
    ips = (prev_result or {}).get("ips")
    families = [{"address": (prev_result or {}).get(k)} for k in ("ip4", "ip6")]
    for entry in [*(ips if isinstance(ips, list) else ()), *families]:
        value = entry.get("address") if isinstance(entry, dict) else None
        text = value.get("ip") if isinstance(value, dict) else value
        try:
            found.append(ip_interface(str(text)).ip)
        except ValueError:
            continue
    return tuple(found)
