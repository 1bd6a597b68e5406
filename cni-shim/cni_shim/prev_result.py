"""A result as a runtime hands it back, in the shape of any version, as a `Result`. Pure.

Called by CHECK. The keys say which shape it is, not the version beside them: runtimes convert
results between versions, and some send an empty version or none. What our results do not hold
(members of newer versions, of other plugins) is passed over.
Sources: CNI SPEC, "Success" (1.x) and "Result" (0.x), of each version.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network

from cni_shim.errors import CniError, CniErrorCode, shown
from cni_shim.results import Dns, Interface, Ip, Result, Route

Object = Mapping[str, object]


def parse(document: Object) -> Result:
    """The result in `document`. Raises `CniError` 7 where its parts are of no version's shape."""
    try:
        if "ip4" in document or "ip6" in document:
            return _by_family(document)
        return _by_interface(document)
    except ValueError as e:
        raise CniError(
            CniErrorCode.INVALID_NETWORK_CONFIG, "prevResult cannot be read", shown(str(e))
        ) from e


def names_interfaces(document: Object) -> bool:
    """Whether it is of a version that tells interfaces at all; 0.1.0 and 0.2.0 do not."""
    return "ip4" not in document and "ip6" not in document


def _by_interface(document: Object) -> Result:
    return Result(
        interfaces=tuple(_interface(each) for each in _objects(document, "interfaces")),
        ips=tuple(_ip(each) for each in _objects(document, "ips")),
        routes=tuple(_route(each) for each in _objects(document, "routes")),
        dns=_dns(document),
    )


def _by_family(document: Object) -> Result:
    families = [_object(document[key]) for key in ("ip4", "ip6") if document.get(key) is not None]
    return Result(
        ips=tuple(_family_ip(each) for each in families),
        routes=tuple(_route(route) for each in families for route in _objects(each, "routes")),
        dns=_dns(document),
    )


def _interface(members: Object) -> Interface:
    return Interface(
        name=_text(members, "name"),
        mac=_text(members, "mac"),
        sandbox=_text(members, "sandbox"),
        mtu=_number(members, "mtu"),
        socket_path=_text(members, "socketPath"),
        pci_id=_text(members, "pciID"),
    )


def _ip(members: Object) -> Ip:
    return Ip(
        address=ip_interface(_text(members, "address")),
        gateway=_gateway(members, "gateway"),
        interface=_number(members, "interface"),
    )


def _family_ip(members: Object) -> Ip:
    return Ip(address=ip_interface(_text(members, "ip")), gateway=_gateway(members, "gateway"))


def _route(members: Object) -> Route:
    return Route(
        dst=ip_network(_text(members, "dst"), strict=False),
        gateway=_gateway(members, "gw"),
        mtu=_number(members, "mtu"),
        advmss=_number(members, "advmss"),
        priority=_number(members, "priority"),
        table=_number(members, "table"),
        scope=_number(members, "scope"),
    )


def _dns(document: Object) -> Dns:
    members = _object(document.get("dns") or {})
    return Dns(
        nameservers=tuple(_texts(members, "nameservers")),
        domain=_text(members, "domain"),
        search=tuple(_texts(members, "search")),
        options=tuple(_texts(members, "options")),
    )


def _gateway(members: Object, key: str) -> IPv4Address | IPv6Address | None:
    text = _text(members, key)
    return ip_address(text) if text else None


def _objects(members: Object, key: str) -> Iterator[Object]:
    """The objects of a list; Go writes an empty one as null."""
    for each in _list(members, key):
        yield _object(each)


def _texts(members: Object, key: str) -> Iterator[str]:
    for each in _list(members, key):
        if not isinstance(each, str):
            raise ValueError(f"{key} holds {each!r}")
        yield each


def _list(members: Object, key: str) -> list[object]:
    value = members.get(key)
    if value is not None and not isinstance(value, list):
        raise ValueError(f"{key} is no list")
    return value or []


def _object(value: object) -> Object:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r} is no object")
    return value


def _text(members: Object, key: str) -> str:
    value = members.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is {value!r}")
    return value or ""


def _number(members: Object, key: str) -> int | None:
    value = members.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        raise ValueError(f"{key} is {value!r}")
    return value
