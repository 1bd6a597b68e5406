"""The table of EC2 instance types: bundled, or refreshed into a file by `ipamctl max-pods`.

A text file that diffs well: comment lines, a header, then one tab-separated line a type, sorted.
Both the bundled file (made by scripts/gen) and a refreshed one are written by `to_text`, from
answers of DescribeInstanceTypes. A fallback for tools: the daemon asks EC2 for its own type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ipamd.errors import IpamError
from ipamd.sizing import InstanceType

BUNDLED = Path(__file__).parent / "data" / "instance_types.tsv"

COLUMNS = (
    "type",
    "vcpus",
    "hypervisor",  # "-": EC2 names none for bare metal
    "bare_metal",
    "default_card",
    "card_enis",  # ENIs by card index
    "ipv4_per_eni",
    "ipv6_per_eni",
)
ORIGIN = "# origin: "
NEAREST = 5
"""Names offered for one that is not known: fits a line."""


class TableError(IpamError):
    """A table file cannot be read or written; the text names the file and the line."""


class UnknownType(IpamError):
    """No such type in the table; the text names the nearest ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Instance types by name, in the file's order, and where they come from."""

    origin: str
    types: Mapping[str, InstanceType]

    def find(self, name: str) -> InstanceType:
        """The type of that name; UnknownType names the nearest ones."""
        if name in self.types:
            return self.types[name]
        near = nearest(name, self.types)
        hint = f"; nearest: {', '.join(near)}" if near else ""
        raise UnknownType(
            f"no instance type {name!r} among {len(self.types)} ({self.origin}){hint}"
        )


def nearest(name: str, names: Iterable[str]) -> list[str]:
    """The most similar names, best first."""
    import difflib  # 5 ms that only a mistake has to pay

    return difflib.get_close_matches(name.lower(), list(names), n=NEAREST, cutoff=0.5)


def load(path: Path = BUNDLED) -> Table:
    """Read a table. TableError when it is not there or not one."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise TableError(f"the table {path} cannot be read: {e}") from e
    return parse(text, name=str(path))


def parse(text: str, *, name: str) -> Table:
    """A table from its text (pure); `name` is what errors call it."""
    lines = text.splitlines()
    comments = [line for line in lines if line.startswith("#")]
    origin = next((c.removeprefix(ORIGIN) for c in comments if c.startswith(ORIGIN)), name)
    body = lines[len(comments) :]
    if not body or tuple(body[0].split("\t")) != COLUMNS:
        raise TableError(f"{name} is no table of instance types: no header {' '.join(COLUMNS)}")
    types = {}
    for number, line in enumerate(body[1:], len(comments) + 2):
        try:
            one = from_row(line)
        except ValueError as e:
            raise TableError(f"{name}, line {number}: {e}") from e
        types[one.name] = one
    return Table(origin=origin, types=types)


def from_row(line: str) -> InstanceType:
    """One line of a table. ValueError says what is wrong with it."""
    cells = line.split("\t")
    if len(cells) != len(COLUMNS):
        raise ValueError(f"{len(cells)} columns instead of {len(COLUMNS)}")
    name, vcpus, hypervisor, bare_metal, default_card, card_enis, ipv4, ipv6 = cells
    return InstanceType(
        name=name,
        vcpus=int(vcpus),
        hypervisor="" if hypervisor == "-" else hypervisor,
        is_bare_metal=bare_metal == "yes",
        default_card=int(default_card),
        card_enis=tuple(map(int, card_enis.split(","))),
        addresses_per_eni=int(ipv4),
        addresses_v6_per_eni=int(ipv6),
    )


def to_row(one: InstanceType) -> str:
    """The line of one type: m5.large, 2, nitro, no, 0, 3, 10, 10."""
    cells = (
        one.name,
        one.vcpus,
        one.hypervisor or "-",
        "yes" if one.is_bare_metal else "no",
        one.default_card,
        ",".join(map(str, one.card_enis)),
        one.addresses_per_eni,
        one.addresses_v6_per_eni,
    )
    return "\t".join(map(str, cells))


def to_text(table: Table) -> str:
    """The file of a table: equal tables give equal bytes."""
    head = (
        "# EC2 instance types and what their ENIs take. Made by a program; do not edit.",
        ORIGIN + table.origin,
        "\t".join(COLUMNS),
    )
    rows = (to_row(table.types[name]) for name in sorted(table.types))
    return "\n".join((*head, *rows)) + "\n"


def from_answer(raw: Mapping[str, Any]) -> InstanceType:
    """One element of DescribeInstanceTypes' `InstanceTypes`, as boto3 gives it."""
    network = raw["NetworkInfo"]
    default_card = network.get("DefaultNetworkCardIndex", 0)
    # Some partitions do not list the cards; then there is one.
    cards = network.get("NetworkCards") or [
        {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": network["MaximumNetworkInterfaces"]}
    ]
    enis = {card["NetworkCardIndex"]: card["MaximumNetworkInterfaces"] for card in cards}
    return InstanceType(
        name=raw["InstanceType"],
        vcpus=raw["VCpuInfo"]["DefaultVCpus"],
        hypervisor=raw.get("Hypervisor", ""),
        is_bare_metal=raw.get("BareMetal", False),
        default_card=default_card,
        card_enis=tuple(enis.get(card, 0) for card in range(max(enis) + 1)),
        addresses_per_eni=network["Ipv4AddressesPerInterface"],
        addresses_v6_per_eni=network.get("Ipv6AddressesPerInterface", 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a refresh brought: names, sorted."""

    new: tuple[str, ...]
    changed: tuple[str, ...]
    kept: tuple[str, ...]  # not in the answer: its region does not offer them


def merged(old: Table, fresh: Iterable[InstanceType], *, origin: str) -> tuple[Table, Changes]:
    """`old` with every type of `fresh` put over it, and what that changed (pure)."""
    by_name = {one.name: one for one in fresh}
    table = Table(origin=origin, types={**old.types, **by_name})
    known = by_name.keys() & old.types.keys()
    return table, Changes(
        new=tuple(sorted(by_name.keys() - old.types.keys())),
        changed=tuple(sorted(n for n in known if by_name[n] != old.types[n])),
        kept=tuple(sorted(old.types.keys() - by_name.keys())),
    )
