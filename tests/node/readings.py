"""What a node says about itself when none of its daemons is asked: the store's file and the kernel.

The judge of these tests. It reads the file with SQLite alone and the kernel with iproute2, and
shares no code with what it judges.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from providers.sim import netns

ALIAS_START = "vpc-ipamd/1/"
POD_TABLE = "5120"
PROTOCOL = "119"
STATES = ("preparing", "available", "allocated", "cooling", "quarantined", "unassigning")


@dataclass(frozen=True, slots=True, kw_only=True)
class AddressRow:
    """One address of the ledger."""

    address: str
    eni_id: str
    state: str
    since_boottime: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AllocationRow:
    """One allocation of the ledger, by its first address."""

    container_id: str
    ifname: str
    address: str
    generation: int
    netns_cookie: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerFile:
    """A store as its file holds it; allocations by container id."""

    meta: Mapping[str, str]
    addresses: Mapping[str, AddressRow]
    allocations: Mapping[str, AllocationRow]
    open_intents: int

    @property
    def epoch(self) -> str:
        """The store's identity."""
        return self.meta["epoch"]

    @property
    def has_heard_node(self) -> bool:
        """Whether a report of the kernel was taken in."""
        return self.meta["has_heard_node"] == "1"

    def in_state(self, state: str) -> dict[str, AddressRow]:
        """The addresses in one state."""
        return {text: row for text, row in self.addresses.items() if row.state == state}


def read_ledger(path: Path) -> LedgerFile:
    """The file's last committed state, log included. sqlite3.Error when it is no database."""
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as db:
        db.execute("BEGIN")  # all tables as of one moment
        addresses = db.execute("SELECT address, eni_id, state, since_boottime FROM addresses")
        rows = [
            AddressRow(address=a, eni_id=e, state=s, since_boottime=t) for a, e, s, t in addresses
        ]
        allocations = db.execute(
            "SELECT container_id, ifname, coalesce(ipv4, ipv6), generation, netns_cookie"
            " FROM allocations"
        )
        held = [
            AllocationRow(
                container_id=c, ifname=i, address=a, generation=g, netns_cookie=int(cookie)
            )
            for c, i, a, g, cookie in allocations
        ]
        return LedgerFile(
            meta=dict(db.execute("SELECT name, value FROM meta").fetchall()),
            addresses={row.address: row for row in rows},
            allocations={row.container_id: row for row in held},
            open_intents=db.execute("SELECT count(*) FROM intents").fetchone()[0],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostVeth:
    """A link of ours on the node; the container id is from its alias, empty before it has one."""

    name: str
    container_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """What stands on a node for pods. Routes are address -> link; rules those that name one."""

    veths: tuple[HostVeth, ...]
    routes: Mapping[str, str]
    named_by_rules: frozenset[str]

    def veth_of(self, container_id: str) -> HostVeth | None:
        """The link of one container."""
        return next((v for v in self.veths if v.container_id == container_id), None)


def read_kernel(node_netns: str) -> Kernel:
    """Every link, pod route and rule with an address on the node."""
    links = ip_json(node_netns, "link", "show")
    routes = [
        row
        for family in (4, 6)
        for row in ip_json(node_netns, "route", "show", "table", "all", family=family)
    ]
    rules = [row for family in (4, 6) for row in ip_json(node_netns, "rule", family=family)]
    return Kernel(
        veths=tuple(
            HostVeth(name=link["ifname"], container_id=_container_of(link))
            for link in links
            if _is_ours(link)
        ),
        routes={r["dst"]: r["dev"] for r in routes if _is_pods(r)},
        named_by_rules=frozenset(
            text
            for rule in rules
            for text in (rule.get("src", ""), rule.get("dst", ""))
            if _is_one(text)
        ),
    )


def ip_json(path: str, *arguments: str, family: int = 4) -> list[dict[str, Any]]:
    """`ip -json ...` inside a namespace, of one family."""
    said = netns.run_in(path, ["ip", f"-{family}", "-json", *arguments])
    return [row for row in json.loads(said or "[]") if row]


def pod_addresses(pod_netns: str) -> tuple[str, ...]:
    """The addresses on eth0 of a pod; none where it has no eth0."""
    rows = ip_json(pod_netns, "address", "show")
    return tuple(
        info["local"] for row in rows if row["ifname"] == "eth0" for info in row["addr_info"]
    )


def has_default_route(pod_netns: str) -> bool:
    """Whether the pod can send anywhere: the step of its set-up next to the last."""
    return any(route["dst"] == "default" for route in ip_json(pod_netns, "route", "show"))


def _container_of(link: Mapping[str, Any]) -> str:
    alias = str(link.get("ifalias", ""))
    return alias.removeprefix(ALIAS_START).split("/")[2] if alias.startswith(ALIAS_START) else ""


def _is_ours(link: Mapping[str, Any]) -> bool:
    """By its alias; one that has none yet by its name: the test's veths begin with `eni`."""
    return bool(_container_of(link)) or link["ifname"].startswith("eni")


def _is_pods(route: Mapping[str, Any]) -> bool:
    """In our table, or one of ours to a single address in main, where `per-pod` has them."""
    if str(route.get("table")) == POD_TABLE:
        return True
    is_main = "table" not in route and route.get("protocol") == PROTOCOL
    return is_main and _is_one(route["dst"]) and "gateway" not in route


def _is_one(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
