"""The rows of the store: how each record of the ledger is written and read. Called by `store`.

Columns are in the order of the schema there. Reading raises ValueError for a row that cannot be.
"""

from __future__ import annotations

import sqlite3
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Any

from ipamd.model import (
    Address,
    AddressState,
    Allocation,
    AttachmentKey,
    AttemptId,
    ContainerId,
    Eni,
    EniId,
    IPAddress,
    IPNetwork,
    SubnetId,
    WiredBy,
)
from ipamd.pool.ledger import Change, Intent, IntentKind, Tombstone

Row = tuple[str | int | float | None, ...]


def write_drops(db: sqlite3.Connection, change: Change) -> None:
    """Delete what the change drops."""
    for address in change.drop_addresses:
        db.execute("DELETE FROM addresses WHERE address = ?", (str(address),))
    for eni_id in change.drop_enis:
        db.execute("DELETE FROM enis WHERE eni_id = ?", (eni_id,))
    for token in change.drop_intents:
        db.execute("DELETE FROM intents WHERE token = ?", (token,))
    for table, keys in (
        ("allocations", change.drop_allocations),
        ("tombstones", change.drop_tombstones),
    ):
        for key in keys:
            db.execute(
                f"DELETE FROM {table} WHERE container_id = ? AND ifname = ?",  # noqa: S608 - the two names above
                (key.container_id, key.ifname),
            )


def write_puts(db: sqlite3.Connection, change: Change) -> None:
    """Insert or replace what the change puts."""
    for table, rows in (
        ("addresses", [_address_row(a) for a in change.put_addresses]),
        ("enis", [_eni_row(e) for e in change.put_enis]),
        ("intents", [_intent_row(i) for i in change.put_intents]),
        ("tombstones", [_tombstone_row(t) for t in change.put_tombstones]),
    ):
        for row in rows:
            marks = ",".join("?" * len(row))
            db.execute(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", row)  # noqa: S608 - names above
    for allocation in change.put_allocations:
        # Not OR REPLACE: an address or generation under another key must fail here (I1).
        db.execute(
            "INSERT INTO allocations VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?) "
            "ON CONFLICT (container_id, ifname) DO UPDATE SET attempt_id = excluded.attempt_id, "
            "eni_id = excluded.eni_id",
            _allocation_row(allocation),
        )


def _address_row(a: Address) -> Row:
    return (
        str(a.address),
        a.eni_id,
        a.state.value,
        a.since_boottime,
        a.reason,
        _text(a.prefix),
    )


def _eni_row(e: Eni) -> Row:
    return (
        e.eni_id,
        e.mac,
        e.subnet_id,
        str(e.subnet_cidr),
        str(e.primary_address),
        e.device_index,
        e.network_card,
        int(e.is_primary),
        int(e.is_managed),
        int(e.is_ready),
        e.attached_boottime,
        int(e.is_excluded),
        e.interface_type,
        _text(e.subnet_cidr_v6),
        _text(e.primary_address_v6),
    )


def _intent_row(i: Intent) -> Row:
    return (
        i.token,
        i.kind.value,
        i.eni_id,
        i.subnet_id,
        i.addresses,
        i.device_index,
        i.network_card,
        i.began_boottime,
        i.reason,
        int(i.is_open),
        i.prefixes,
        i.prefixes_v6,
    )


def _tombstone_row(t: Tombstone) -> Row:
    addresses = " ".join(str(a) for a in t.addresses)
    return (t.key.container_id, t.key.ifname, t.attempt_id, t.made_boottime, addresses)


def _text(value: IPAddress | IPNetwork | None) -> str | None:
    return None if value is None else str(value)


def _of_version(n: Allocation, version: int) -> str | None:
    return next((str(a) for a in n.addresses if a.version == version), None)


def _allocation_row(n: Allocation) -> Row:
    return (
        n.key.container_id,
        n.key.ifname,
        _of_version(n, 4),
        _of_version(n, 6),
        n.eni_id,
        n.network_name,
        n.attempt_id,
        n.generation,
        str(n.netns_cookie),  # a cookie may use all 64 bits; SQLite integers are signed
        n.pod_namespace,
        n.pod_name,
        n.pod_uid,
        n.allocated_unix,
        n.wired_by.value,
    )


def address(row: tuple[str, str, str, float, str, str | None]) -> Address:
    """A row of `addresses`."""
    return Address(
        address=ip_address(row[0]),
        eni_id=EniId(row[1]),
        state=AddressState(row[2]),
        since_boottime=row[3],
        reason=row[4],
        prefix=ip_network(row[5]) if row[5] else None,
    )


def _key(container_id: str, ifname: str) -> AttachmentKey:
    return AttachmentKey(container_id=ContainerId(container_id), ifname=ifname)


def allocation(row: tuple[Any, ...]) -> Allocation:
    """A row of `allocations`."""
    return Allocation(
        key=_key(row[0], row[1]),
        addresses=tuple(ip_address(text) for text in row[2:4] if text),
        eni_id=EniId(row[4]),
        network_name=row[5],
        attempt_id=AttemptId(row[6]),
        generation=row[7],
        netns_cookie=int(row[8]),
        pod_namespace=row[9],
        pod_name=row[10],
        pod_uid=row[11],
        allocated_unix=row[12],
        wired_by=WiredBy(row[13]),
    )


def eni(row: tuple[Any, ...]) -> Eni:
    """A row of `enis`."""
    return Eni(
        eni_id=EniId(row[0]),
        mac=row[1],
        subnet_id=SubnetId(row[2]),
        subnet_cidr=IPv4Network(row[3]),
        primary_address=IPv4Address(row[4]),
        device_index=row[5],
        network_card=row[6],
        is_primary=bool(row[7]),
        is_managed=bool(row[8]),
        is_ready=bool(row[9]),
        attached_boottime=row[10],
        is_excluded=bool(row[11]),
        interface_type=row[12],
        subnet_cidr_v6=IPv6Network(row[13]) if row[13] else None,
        primary_address_v6=IPv6Address(row[14]) if row[14] else None,
    )


def intent(row: tuple[Any, ...]) -> Intent:
    """A row of `intents`."""
    return Intent(
        token=row[0],
        kind=IntentKind(row[1]),
        eni_id=EniId(row[2]) if row[2] else None,
        subnet_id=SubnetId(row[3]),
        addresses=row[4],
        device_index=row[5],
        network_card=row[6],
        began_boottime=row[7],
        reason=row[8],
        is_open=bool(row[9]),
        prefixes=row[10],
        prefixes_v6=row[11],
    )


def tombstone(row: tuple[str, str, str, float, str]) -> Tombstone:
    """A row of `tombstones`."""
    return Tombstone(
        key=_key(row[0], row[1]),
        attempt_id=AttemptId(row[2]),
        made_boottime=row[3],
        addresses=tuple(ip_address(text) for text in row[4].split()),
    )
