"""The result of an ADD, and its shape in every version of the CNI specification.

Pure. Called by the ADD verb. A result is printed in exactly the config's version and holds nothing
that this version does not know: libcni leaves newer keys in when it converts, which stricter
readers refuse. Sources: CNI SPEC, "Success" (1.x) and "Result" (0.x), of each version.
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
)

from cni_shim.errors import CniError, CniErrorCode

RESULT_VERSIONS = ("0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
_BY_FAMILY = ("0.1.0", "0.2.0")  # ip4 and ip6 in place of interfaces and ips
_WITH_IP_VERSION = ("0.3.0", "0.3.1", "0.4.0")
_WITH_EXTRAS = ("1.1.0",)


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """A link that the ADD made; `sandbox` is the netns path, empty on the host."""

    name: str
    mac: str
    sandbox: str = ""
    mtu: int | None = None
    socket_path: str = ""
    pci_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ip:
    """An address; `interface` is an index into the result's interfaces."""

    address: IPv4Interface | IPv6Interface
    gateway: IPv4Address | IPv6Address | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route in the pod; the numbers from `mtu` on exist since 1.1.0."""

    dst: IPv4Network | IPv6Network
    gateway: IPv4Address | IPv6Address | None = None
    mtu: int | None = None
    advmss: int | None = None
    priority: int | None = None
    table: int | None = None
    scope: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns:
    """Resolver settings; empty means that the runtime's own count."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What an ADD made. Neighbours want [host veth, pod link with sandbox], in this order."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[Ip, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()

    def __post_init__(self) -> None:
        for ip in self.ips:
            if ip.interface is not None and not 0 <= ip.interface < len(self.interfaces):
                raise ValueError(f"{ip.address} names interface {ip.interface}, which is not there")


def to_json(result: Result, cni_version: str) -> bytes:
    """The document for stdout, newline included."""
    return json.dumps(to_document(result, cni_version)).encode() + b"\n"


def to_document(result: Result, cni_version: str) -> dict[str, object]:
    """The result in the shape of one version of `RESULT_VERSIONS`.

    `CniError` 1 for another version. 0.1.0 and 0.2.0 hold the first address of each family only,
    and refuse a result without any, as libcni does.
    """
    if cni_version not in RESULT_VERSIONS:
        raise CniError(
            CniErrorCode.INCOMPATIBLE_VERSION,
            "incompatible CNI versions",
            f"no result format of version {cni_version!a}",
        )
    if cni_version in _BY_FAMILY:
        return _by_family(result, cni_version)
    return _by_interface(result, cni_version)


def _by_interface(result: Result, version: str) -> dict[str, object]:
    document: dict[str, object] = {"cniVersion": version}
    if result.interfaces:
        document["interfaces"] = [_interface(each, version) for each in result.interfaces]
    if result.ips:
        document["ips"] = [_ip(each, version) for each in result.ips]
    if result.routes:
        document["routes"] = [_route(each, version) for each in result.routes]
    dns = _dns(result.dns)
    if dns or version in _WITH_IP_VERSION:
        document["dns"] = dns  # up to 0.4.0 libcni prints even the empty one
    return document


def _interface(interface: Interface, version: str) -> dict[str, object]:
    extras: dict[str, object] = {
        "mtu": interface.mtu,
        "socketPath": interface.socket_path,
        "pciID": interface.pci_id,
    }
    return _present(
        {"name": interface.name, "mac": interface.mac, "sandbox": interface.sandbox}
        | (extras if version in _WITH_EXTRAS else {})
    )


def _ip(ip: Ip, version: str) -> dict[str, object]:
    return _present(
        {
            "version": str(ip.address.version) if version in _WITH_IP_VERSION else None,
            "interface": ip.interface,
            "address": str(ip.address),
            "gateway": _text(ip.gateway),
        }
    )


def _route(route: Route, version: str) -> dict[str, object]:
    extras: dict[str, object] = {
        "mtu": route.mtu,
        "advmss": route.advmss,
        "priority": route.priority,
        "table": route.table,
        "scope": route.scope,
    }
    return _present(
        {"dst": str(route.dst), "gw": _text(route.gateway)}
        | (extras if version in _WITH_EXTRAS else {})
    )


def _dns(dns: Dns) -> dict[str, object]:
    return _present(
        {
            "nameservers": list(dns.nameservers),
            "domain": dns.domain,
            "search": list(dns.search),
            "options": list(dns.options),
        }
    )


def _by_family(result: Result, version: str) -> dict[str, object]:
    document: dict[str, object] = {"cniVersion": version}
    for key, family in (("ip4", 4), ("ip6", 6)):
        first = next((ip for ip in result.ips if ip.address.version == family), None)
        if first is not None:
            document[key] = _family(first, result.routes)
    if len(document) == 1:
        raise CniError(
            CniErrorCode.INCOMPATIBLE_VERSION,
            "the result has no address",
            f"version {version} cannot express that",
        )
    document["dns"] = _dns(result.dns)
    return document


def _family(ip: Ip, routes: tuple[Route, ...]) -> dict[str, object]:
    own = [_route(each, "0.2.0") for each in routes if each.dst.version == ip.address.version]
    return _present({"ip": str(ip.address), "gateway": _text(ip.gateway), "routes": own})


def _text(address: IPv4Address | IPv6Address | None) -> str | None:
    return None if address is None else str(address)


def _present(members: Mapping[str, object]) -> dict[str, object]:
    """Without what is unset. Zero stays: it is an interface index, a table and a scope."""
    return {key: value for key, value in members.items() if value not in (None, "", [])}
