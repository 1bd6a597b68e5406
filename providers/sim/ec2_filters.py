"""Filters and paging of Describe calls, as the EC2 API Reference states them.

A filter matches when any of its values does (`*` and `?` are wildcards); all filters must match.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from providers.sim.ec2_errors import combination, invalid
from providers.sim.ec2_records import Attachment, Interface

Tags = Mapping[str, str]
Item = TypeVar("Item")

# MaxResults of DescribeNetworkInterfaces and DescribeSubnets is 5 to 1000, of
# DescribeInstanceTypes 5 to 100 (EC2 API Reference).
SMALLEST_PAGE = 5
LARGEST_PAGE = 1000
LARGEST_TYPE_PAGE = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a request says about paging."""

    max_results: int | None = None
    next_token: str | None = None


def _of_attachment(read: Callable[[Attachment], str]) -> Callable[[Interface, Tags], list[str]]:
    return lambda eni, _tags: [read(eni.attachment)] if eni.attachment else []


def _truth(value: bool) -> str:
    return "true" if value else "false"


_READERS: dict[str, Callable[[Interface, Tags], list[str]]] = {
    "addresses.primary": lambda eni, _: ["true"] + ["false"] * (len(eni.addresses) > 1),
    "addresses.private-ip-address": lambda eni, _: [str(address) for address in eni.addresses],
    "attachment.attachment-id": _of_attachment(lambda a: a.attachment_id),
    "attachment.delete-on-termination": _of_attachment(lambda a: _truth(a.deletes_on_termination)),
    "attachment.device-index": _of_attachment(lambda a: str(a.device_index)),
    "attachment.instance-id": _of_attachment(lambda a: a.instance_id),
    "attachment.network-card-index": _of_attachment(lambda a: str(a.network_card)),
    "attachment.status": _of_attachment(lambda a: a.status.value),
    "availability-zone": lambda eni, _: [eni.zone],
    "description": lambda eni, _: [eni.description],
    "group-id": lambda eni, _: list(eni.group_ids),
    "interface-type": lambda eni, _: [eni.interface_type],
    "ipv6-addresses.ipv6-address": lambda eni, _: [str(address) for address in eni.addresses_v6],
    "mac-address": lambda eni, _: [eni.mac],
    "network-interface-id": lambda eni, _: [eni.eni_id],
    "private-ip-address": lambda eni, _: [str(address) for address in eni.addresses],
    "requester-managed": lambda _eni, _: ["false"],
    "source-dest-check": lambda eni, _: [_truth(eni.has_source_check)],
    "status": lambda eni, _: [eni.status],
    "subnet-id": lambda eni, _: [eni.subnet_id],
    "tag-key": lambda _, tags: list(tags),
    "vpc-id": lambda eni, _: [eni.vpc_id],
}


def check_names(filters: Mapping[str, Sequence[str]]) -> None:
    """Refuse a filter that DescribeNetworkInterfaces has not, whatever there is to filter."""
    for name in filters:
        if name not in _READERS and not name.startswith("tag:"):
            raise invalid(f"The filter '{name}' is invalid")


def matches(eni: Interface, tags: Tags, filters: Mapping[str, Sequence[str]]) -> bool:
    """Whether the ENI passes every filter, whose names have been checked."""
    return all(
        any(matches_value(seen, values) for seen in _read(eni, tags, name))
        for name, values in filters.items()
    )


def matches_value(seen: str, values: Iterable[str]) -> bool:
    """Whether one value passes one filter."""
    return any(_pattern(value).fullmatch(seen) for value in values)


def cut(
    items: Sequence[Item],
    key: Callable[[Item], str],
    page: Page,
    *,
    named: bool,
    largest: int = LARGEST_PAGE,
) -> tuple[list[Item], str | None]:
    """One page of `items` ordered by `key`, and the token for the next one.

    The token is the last key given, so items deleted between two pages neither repeat nor hide
    others. `named`: the request named its items, which EC2 does not let be paged.
    """
    ordered = sorted(items, key=key)
    if page.max_results is None and page.next_token is None:
        return ordered, None
    if named:
        raise combination("Ids and MaxResults cannot be used in the same request")
    size = largest if page.max_results is None else page.max_results
    if not SMALLEST_PAGE <= size <= largest:
        raise invalid(f"Value ( {size} ) for parameter maxResults is invalid.")
    after = "" if page.next_token is None else _decode(page.next_token)
    rest = [item for item in ordered if key(item) > after]
    shown = rest[:size]
    return shown, _encode(key(shown[-1])) if len(rest) > size else None


def _read(eni: Interface, tags: Tags, name: str) -> list[str]:
    if name.startswith("tag:"):
        value = tags.get(name.removeprefix("tag:"))
        return [] if value is None else [value]
    return _READERS[name](eni, tags)


def _pattern(value: str) -> re.Pattern[str]:
    """EC2's wildcards as a pattern; brackets have no meaning there, unlike in fnmatch."""
    return re.compile(re.escape(value).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _encode(key: str) -> str:
    return base64.urlsafe_b64encode(key.encode()).decode()


def _decode(token: str) -> str:
    try:
        return base64.b64decode(token, altchars=b"-_", validate=True).decode()
    except (binascii.Error, ValueError) as error:
        raise invalid("Unable to parse pagination token") from error
