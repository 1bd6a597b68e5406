"""Member paths and kinds of values: what the judges compare, in place of values.

The tables under `facts/` were made by us from public examples and recordings; README.md says how.
A path is `a.b[].c`, where `[]` stands for every element of a list. A kind is a word of `KINDS`,
some of them with a parameter after a colon; `a|b` means either, and inside `enum:` the words to
choose from.
"""

from __future__ import annotations

import csv
import datetime as dt
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

FACTS = Path(__file__).parent / "facts"

_GUID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_ID = re.compile(
    r"/subscriptions/[^/]+/resourceGroups/[^/]+/providers/([^/]+)((?:/[^/]+/[^/]+)+)", re.IGNORECASE
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One member of a request or an answer."""

    path: str
    kind: str


def rows(table: str) -> tuple[dict[str, str], ...]:
    """The rows of `facts/<table>.tsv`, by the names of its first line."""
    with (FACTS / f"{table}.tsv").open(newline="") as file:
        return tuple(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def facts(table: str, **where: str) -> tuple[Fact, ...]:
    """The facts of one example's part, or of one recorded shape."""
    found = [row for row in rows(table) if all(row[name] == word for name, word in where.items())]
    assert found, f"{table}.tsv has no rows where {where}"
    return tuple(Fact(path=row["path"], kind=row["kind"]) for row in found)


def members(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every member with its path: containers first, then what is in them."""
    if path:
        yield path, value
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from members(inner, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        for inner in value:
            yield from members(inner, f"{path}[]")


def leaves(value: Any) -> frozenset[str]:
    """The paths of everything but containers that hold something."""
    return frozenset(path for path, inner in members(value) if not _holds_something(inner))


def disagreements(wanted: tuple[Fact, ...], answer: Any) -> dict[str, str]:
    """By path, what an answer does not bear out: members that it lacks, and wrong kinds."""
    found: dict[str, list[Any]] = {}
    for path, value in members(answer):
        found.setdefault(path, []).append(value)
    problems = {fact.path: _problem(fact.kind, found.get(fact.path, [])) for fact in wanted}
    return {path: problem for path, problem in problems.items() if problem}


def excused(where: str) -> dict[str, str]:
    """By path or header, the reason why the emulator may differ there."""
    return {row["path"]: row["reason"] for row in rows("exceptions") if row["where"] == where}


def unforeseen(wanted: tuple[Fact, ...], answer: Any) -> frozenset[str]:
    """The leaves of an answer of which the facts say nothing."""
    known = {fact.path for fact in wanted}
    return frozenset(path for path in leaves(answer) if path not in known)


def is_kind(kind: str, value: Any) -> bool:
    """Is this a value of that kind?"""
    word, _, parameter = kind.partition(":")
    if word in _PARAMETRIC:
        return _PARAMETRIC[word](parameter, value)
    return any(KINDS[each](value) for each in kind.split("|"))


def resource_type(resource_id: str) -> str:
    """`Microsoft.Network/virtualNetworks/subnets` of a subnet's id; "" for what is no id."""
    matched = _ID.fullmatch(resource_id)
    if matched is None:
        return ""
    segments = matched[2].strip("/").split("/")
    return "/".join([matched[1], *segments[::2]])


def _problem(kind: str, values: list[Any]) -> str:
    if not values:
        return "is missing"
    wrong = [value for value in values if not is_kind(kind, value)]
    return f"{wrong[0]!r} is not of kind {kind}" if wrong else ""


def _holds_something(value: Any) -> bool:
    return isinstance(value, Mapping | list) and bool(value)


def _text(pattern: str) -> Callable[[Any], bool]:
    compiled = re.compile(pattern)
    return lambda value: isinstance(value, str) and compiled.fullmatch(value) is not None


def _parsed_by(parse: Callable[[str], object]) -> Callable[[Any], bool]:
    def fits(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(parse(value))
        except ValueError:
            return False

    return fits


KINDS: Mapping[str, Callable[[Any], bool]] = {
    "text": lambda value: isinstance(value, str) and value != "",
    "bool": lambda value: isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "list": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, Mapping),
    "guid": _text(_GUID),
    "etag": _text(rf'W/"{_GUID}"'),
    "count": _text(r'"\d+"'),  # the compute provider's etag: a counter in quotes
    "mac": _text(r"[0-9A-F]{2}(?:-[0-9A-F]{2}){5}"),
    "url": _text(r"https?://.+"),
    "address": _parsed_by(ip_address),
    "block": lambda value: KINDS["range"](value) and value.endswith("/28"),
    "range": lambda value: _parsed_by(ip_network)(value) and "/" in value,
    "date": _parsed_by(lambda text: dt.datetime.fromisoformat(text[:19] + text[-6:])),
    "id": lambda value: isinstance(value, str) and resource_type(value) != "",
}

_PARAMETRIC: Mapping[str, Callable[[str, Any], bool]] = {
    "is": lambda wanted, value: bool(value == wanted),
    "enum": lambda words, value: value in words.split("|"),
    "id": lambda wanted, value: (
        isinstance(value, str)
        and (resource_type(value).casefold() == wanted.casefold() if wanted else KINDS["id"](value))
    ),
}
