"""Parsed request parameters turned into what the operations take, or refused.

`Params` is the dict that moto's parser makes of a query by botocore's model: API names, lists and
nested dicts. Whatever would change addresses and is not emulated is refused by name here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any

from providers.sim.ec2_addresses import Wish
from providers.sim.ec2_errors import combination, invalid, missing, unsupported
from providers.sim.ec2_filters import Page

Params = Mapping[str, Any]

_NOT_EMULATED = (
    "Ipv4Prefixes",
    "Ipv4PrefixCount",
    "Ipv6Prefixes",
    "Ipv6PrefixCount",
    "Ipv6Addresses",
    "Ipv6AddressCount",
    "EnablePrimaryIpv6",
    "PrimaryIpv6",
    "EnaSrdSpecification",
    "SecondaryInterfaces",
)
_INTERFACE_TYPES = ("interface", "efa", "trunk")


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


def new_interface_wish(params: Params) -> Wish:
    """The addresses that CreateNetworkInterface (or a RunInstances spec) asks for."""
    listed = params.get("PrivateIpAddresses") or []
    primaries = [item["PrivateIpAddress"] for item in listed if item.get("Primary")]
    if single := params.get("PrivateIpAddress"):
        primaries.append(single)
    if len(set(primaries)) > 1:
        raise combination("Only one primary private IP address can be specified.")
    named = [item["PrivateIpAddress"] for item in listed if not item.get("Primary")]
    named = [text for text in named if text not in primaries]
    return Wish(
        primary=_address(primaries[0]) if primaries else None,
        named=tuple(_address(text) for text in named),
        count=params.get("SecondaryPrivateIpAddressCount") or 0,
    )


def assign_wish(params: Params) -> Wish:
    """The addresses that AssignPrivateIpAddresses asks for."""
    return Wish(
        named=tuple(dict.fromkeys(addresses(params))),
        count=params.get("SecondaryPrivateIpAddressCount") or 0,
    )


def addresses(params: Params) -> tuple[IPv4Address, ...]:
    """PrivateIpAddresses of Assign and Unassign: a list of plain strings."""
    return tuple(_address(text) for text in params.get("PrivateIpAddresses") or [])


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


def _address(text: str) -> IPv4Address:
    try:
        return ipaddress.IPv4Address(text)
    except ValueError as error:
        raise invalid(f"invalid value for parameter address: {text}") from error
