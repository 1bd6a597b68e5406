"""Parsed request parameters turned into what the operations take, or refused.

`Params` is the dict that moto's parser makes of a query by botocore's model: API names, lists and
nested dicts. Whatever would change addresses and is not emulated is refused by name here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

from providers.sim.allocator import PREFIX_LENGTH_V4, PREFIX_LENGTH_V6
from providers.sim.ec2_errors import combination, invalid, missing, unsupported
from providers.sim.ec2_filters import Page
from providers.sim.ec2_wishes import EFA_ONLY, NewInterface, WishV4, WishV6

Params = Mapping[str, Any]
Value = TypeVar("Value")
# group ids as requested, subnet id -> the ENI's group ids
GroupResolver = Callable[[list[str], str], tuple[str, ...]]

_NOT_EMULATED = (
    "EnablePrimaryIpv6",
    "PrimaryIpv6",
    "EnaSrdSpecification",
    "SecondaryInterfaces",
)
_V6_PARAMETERS = ("Ipv6Addresses", "Ipv6AddressCount", "Ipv6Prefixes", "Ipv6PrefixCount")
_INTERFACE_TYPES = ("interface", "efa", EFA_ONLY, "trunk")


def refuse_unsupported(params: Params) -> None:
    """Refuse parameters that would change addresses and are not emulated."""
    for name in _NOT_EMULATED:
        if params.get(name):
            raise unsupported(f"the parameter {name}")


def required(params: Params, name: str) -> Any:
    """The parameter's value, or MissingParameter."""
    if params.get(name) in (None, ""):
        raise missing(name)
    return params[name]


def new_interface(params: Params, resolve_groups: GroupResolver) -> NewInterface:
    """What CreateNetworkInterface (or one NetworkInterfaces entry of RunInstances) asks for."""
    subnet_id = required(params, "SubnetId")
    primary, named = _listed_addresses(params)
    says_v6 = any(params.get(name) is not None for name in _V6_PARAMETERS)
    return NewInterface(
        subnet_id=subnet_id,
        group_ids=resolve_groups(params.get("Groups") or [], subnet_id),
        description=params.get("Description") or "",
        interface_type=interface_type(params),
        primary=primary,
        wish=_wish(params, named, _each(params, "Ipv4Prefixes", "Ipv4Prefix")),
        wish_v6=_wish_v6(
            params,
            _each(params, "Ipv6Addresses", "Ipv6Address"),
            _each(params, "Ipv6Prefixes", "Ipv6Prefix"),
        )
        if says_v6
        else None,
    )


def assign_wish(params: Params) -> WishV4:
    """The addresses or prefixes that AssignPrivateIpAddresses asks for."""
    return _wish(params, list(addresses(params)), params.get("Ipv4Prefixes") or [])


def assign_wish_v6(params: Params) -> WishV6:
    """The addresses or prefixes that AssignIpv6Addresses asks for."""
    return _wish_v6(params, params.get("Ipv6Addresses") or [], params.get("Ipv6Prefixes") or [])


def addresses(params: Params) -> tuple[IPv4Address, ...]:
    """PrivateIpAddresses of Assign and Unassign: a list of plain strings."""
    return _unique(_address(text) for text in params.get("PrivateIpAddresses") or [])


def prefixes(params: Params) -> tuple[IPv4Network, ...]:
    """Ipv4Prefixes of Assign and Unassign: a list of plain strings."""
    return _unique(_prefix(text) for text in params.get("Ipv4Prefixes") or [])


def addresses_v6(params: Params) -> tuple[IPv6Address, ...]:
    """Ipv6Addresses of Assign and Unassign: a list of plain strings."""
    return _unique(_address_v6(text) for text in params.get("Ipv6Addresses") or [])


def prefixes_v6(params: Params) -> tuple[IPv6Network, ...]:
    """Ipv6Prefixes of Assign and Unassign: a list of plain strings."""
    return _unique(_prefix_v6(text) for text in params.get("Ipv6Prefixes") or [])


def interface_type(params: Params) -> str:
    """InterfaceType, `interface` by default."""
    kind = str(params.get("InterfaceType") or "interface")
    if kind not in _INTERFACE_TYPES:
        raise invalid(f"Value ({kind}) for parameter interfaceType is invalid.")
    return kind


def page(params: Params) -> Page:
    """MaxResults and NextToken."""
    return Page(max_results=params.get("MaxResults"), next_token=params.get("NextToken"))


def filters(params: Params) -> dict[str, list[str]]:
    """Filters as name to values."""
    return {item["Name"]: list(item.get("Values") or []) for item in params.get("Filters") or []}


def tags_for(params: Params, resource_type: str) -> dict[str, str]:
    """The tags that TagSpecifications gives to one resource type."""
    return {
        tag["Key"]: tag.get("Value", "")
        for spec in params.get("TagSpecifications") or []
        if spec.get("ResourceType") == resource_type
        for tag in spec.get("Tags") or []
    }


def _listed_addresses(params: Params) -> tuple[IPv4Address | None, list[IPv4Address]]:
    """The primary address that is named, if one is, and the secondary ones."""
    listed = params.get("PrivateIpAddresses") or []
    primaries = [item["PrivateIpAddress"] for item in listed if item.get("Primary")]
    if single := params.get("PrivateIpAddress"):
        primaries.append(single)
    if len(set(primaries)) > 1:
        raise combination("Only one primary private IP address can be specified.")
    named = [item["PrivateIpAddress"] for item in listed if not item.get("Primary")]
    others = [_address(text) for text in named if text not in primaries]
    return (_address(primaries[0]) if primaries else None), others


def _wish(params: Params, named: list[IPv4Address], prefix_texts: list[str]) -> WishV4:
    """CreateNetworkInterface names the pairs that exclude each other; a bare primary is none."""
    wish = WishV4(
        named=tuple(named),
        count=params.get("SecondaryPrivateIpAddressCount") or 0,
        prefixes=tuple(map(_prefix, prefix_texts)),
        prefix_count=params.get("Ipv4PrefixCount") or 0,
    )
    if _kinds(wish) > 1:
        raise combination(
            "Only one of private IP addresses, their count, IPv4 prefixes and their count can be "
            "specified."
        )
    return wish


def _wish_v6(params: Params, texts: list[str], prefix_texts: list[str]) -> WishV6:
    """At most one of the four; code and text as in aws/karpenter-provider-aws #2187."""
    wish = WishV6(
        named=_unique(map(_address_v6, texts)),
        count=params.get("Ipv6AddressCount") or 0,
        prefixes=tuple(map(_prefix_v6, prefix_texts)),
        prefix_count=params.get("Ipv6PrefixCount") or 0,
    )
    if _kinds(wish) > 1:
        raise invalid(
            "You can and can only specify one of ipv6-addresses or ipv6-addresses-count  "
            "ipv6-prefix and ipv6-prefix-count."
        )
    return wish


def _kinds(wish: WishV4 | WishV6) -> int:
    return sum(map(bool, (wish.named, wish.count, wish.prefixes, wish.prefix_count)))


def _each(params: Params, name: str, member: str) -> list[str]:
    return [item[member] for item in params.get(name) or []]


def _unique(values: Iterable[Value]) -> tuple[Value, ...]:
    return tuple(dict.fromkeys(values))


def _address(text: str) -> IPv4Address:
    return _parsed(IPv4Address, text, "address")


def _address_v6(text: str) -> IPv6Address:
    return _parsed(IPv6Address, text, "address")


def _prefix(text: str) -> IPv4Network:
    prefix = _parsed(IPv4Network, text, "Ipv4Prefix")
    if prefix.prefixlen != PREFIX_LENGTH_V4:
        raise invalid(f"invalid value for parameter Ipv4Prefix: {text}")
    return prefix


def _prefix_v6(text: str) -> IPv6Network:
    prefix = _parsed(IPv6Network, text, "Ipv6Prefix")
    if prefix.prefixlen != PREFIX_LENGTH_V6:
        raise invalid(f"invalid value for parameter Ipv6Prefix: {text}")
    return prefix


def _parsed(parse: Callable[[str], Value], text: str, name: str) -> Value:
    try:
        return parse(text)
    except ValueError as error:
        raise invalid(f"invalid value for parameter {name}: {text}") from error
