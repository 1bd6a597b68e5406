"""Assigning and unassigning addresses and prefixes on one ENI: one EC2 call per kind."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from ipamd.cloud import AddressChange, AddressOutcome
from ipamd.errors import CloudError, NotFound, Transient
from ipamd.model import EniId
from providers.aws import shapes
from providers.aws.client import Ec2, understood

Describe = Callable[[EniId], dict[str, Any] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Removal:
    """One unassign call: the members that it names and where a description lists what is held."""

    api: str
    parameter: str
    values: tuple[str, ...]
    held_in: str
    held_as: str


def apply(ec2: Ec2, change: AddressChange, *, describe: Describe) -> AddressOutcome:
    """Unassign, then assign.

    Several kinds are several calls. When a later one is refused, what the earlier ones gave is the
    answer: an error would hide it, and the next plan asks for the rest again. A lost answer is an
    error in any case.
    """
    for removal in _removals(change):
        _unassign(ec2, change.eni_id, removal, describe)
    answers: list[shapes.Raw] = []
    for api, parameter, count in _additions(change):
        try:
            answers.append(
                ec2.call(
                    api,
                    {"NetworkInterfaceId": change.eni_id, parameter: count},
                    eni_id=change.eni_id,
                )
            )
        except Transient:
            raise
        except CloudError:
            if not answers:
                raise
            break
    return understood("Assign", lambda raw: _outcome(change, raw), answers)


def _additions(change: AddressChange) -> tuple[tuple[str, str, int], ...]:
    wanted = (
        ("AssignPrivateIpAddresses", "SecondaryPrivateIpAddressCount", change.add),
        ("AssignPrivateIpAddresses", "Ipv4PrefixCount", change.add_prefixes),
        ("AssignIpv6Addresses", "Ipv6PrefixCount", change.add_prefixes_v6),
    )
    return tuple(one for one in wanted if one[2])


def _outcome(change: AddressChange, answers: list[shapes.Raw]) -> AddressOutcome:
    """EC2 gives all that a call asked for or nothing: a call whose answer names none is odd."""
    got = shapes.outcome(change.eni_id, answers)
    if len(answers) > bool(got.added) + len({p.version for p in got.added_prefixes}):
        raise ValueError("no address and no prefix is named")
    return got


def _removals(change: AddressChange) -> tuple[_Removal, ...]:
    v4, v6 = "UnassignPrivateIpAddresses", "UnassignIpv6Addresses"
    rows = (
        (v4, "PrivateIpAddresses", IPv4Address, "PrivateIpAddresses", "PrivateIpAddress"),
        (v4, "Ipv4Prefixes", IPv4Network, "Ipv4Prefixes", "Ipv4Prefix"),
        (v6, "Ipv6Addresses", IPv6Address, "Ipv6Addresses", "Ipv6Address"),
        (v6, "Ipv6Prefixes", IPv6Network, "Ipv6Prefixes", "Ipv6Prefix"),
    )
    leaving = (*change.remove, *change.remove_prefixes)
    made = (
        _Removal(
            api=api,
            parameter=parameter,
            values=tuple(str(one) for one in leaving if type(one) is kind),
            held_in=held_in,
            held_as=held_as,
        )
        for api, parameter, kind, held_in, held_as in rows
    )
    return tuple(one for one in made if one.values)


def _unassign(ec2: Ec2, eni_id: EniId, removal: _Removal, describe: Describe) -> None:
    """One unassign. EC2 refuses the whole call when one item is not on the ENI (any more)."""
    values = removal.values
    while values:
        try:
            ec2.call(
                removal.api,
                {"NetworkInterfaceId": eni_id, removal.parameter: list(values)},
                eni_id=eni_id,
            )
        except NotFound:
            return
        except CloudError as e:
            if e.code != "InvalidParameterValue":
                raise
            held = _held(describe(eni_id) or {}, removal)
            left = tuple(v for v in values if v in held)
            if left == values:
                raise
            values = left
        else:
            return


def _held(raw: dict[str, Any], removal: _Removal) -> frozenset[str]:
    return understood(
        "DescribeNetworkInterfaces",
        lambda raw: frozenset(one[removal.held_as] for one in raw.get(removal.held_in) or []),
        raw,
    )
