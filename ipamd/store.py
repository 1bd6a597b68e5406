"""The durable ledger: SQLite in WAL mode, one writer, one transaction per change.

Called from the event loop, without a thread: a commit on the tmpfs where the store lives takes
0.05-0.25 ms, less than the hop to a thread, and with no await inside it no cancellation can tear
memory from disk and no other task can see half a change.

`synchronous=NORMAL`: in WAL mode a killed process loses nothing that was committed; only a power
cut could, and no pod outlives that. The file is bound to instance and boot: another boot means
other pods.
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from ipamd import store_rows as rows
from ipamd.errors import Corrupt, ForeignStore, StoreError, UnknownVersion
from ipamd.pool.ledger import Change, Ledger

T = TypeVar("T")
K = TypeVar("K")

SCHEMA_VERSION = "2"

_SCHEMA = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE enis (
  eni_id TEXT PRIMARY KEY, mac TEXT, subnet_id TEXT, subnet_cidr TEXT, primary_address TEXT,
  device_index INTEGER, network_card INTEGER, is_primary INTEGER, is_managed INTEGER,
  is_ready INTEGER, attached_boottime REAL, is_excluded INTEGER, interface_type TEXT,
  subnet_cidr_v6 TEXT, primary_address_v6 TEXT) WITHOUT ROWID;
CREATE TABLE addresses (
  address TEXT PRIMARY KEY, eni_id TEXT NOT NULL, state TEXT NOT NULL, since_boottime REAL NOT NULL,
  reason TEXT NOT NULL, prefix TEXT) WITHOUT ROWID;
CREATE TABLE allocations (
  container_id TEXT, ifname TEXT, ipv4 TEXT UNIQUE, ipv6 TEXT UNIQUE, eni_id TEXT NOT NULL,
  network_name TEXT, attempt_id TEXT, generation INTEGER NOT NULL UNIQUE, netns_cookie TEXT,
  pod_namespace TEXT, pod_name TEXT, pod_uid TEXT, allocated_unix REAL, wired_by TEXT NOT NULL,
  PRIMARY KEY (container_id, ifname)) WITHOUT ROWID;
CREATE TABLE intents (
  token TEXT PRIMARY KEY, kind TEXT NOT NULL, eni_id TEXT, subnet_id TEXT, addresses INTEGER,
  device_index INTEGER, network_card INTEGER, began_boottime REAL, reason TEXT, is_open INTEGER,
  prefixes INTEGER, prefixes_v6 INTEGER) WITHOUT ROWID;
CREATE TABLE tombstones (
  container_id TEXT, ifname TEXT, attempt_id TEXT, made_boottime REAL, addresses TEXT,
  PRIMARY KEY (container_id, ifname)) WITHOUT ROWID;
"""


class Store:
    """One open store file. Every method raises a StoreError subclass and nothing else."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._db = connection

    @classmethod
    def open(cls, path: Path, *, boot_id: str) -> Store:
        """Open an existing store of this boot.

        Raises Corrupt, UnknownVersion or ForeignStore, and StoreError when there is none.
        """
        if not path.exists():
            raise StoreError(f"no store at {path} (see VPC_IPAMD_STORE_DIR and VPC_IPAMD_RUN_DIR)")
        store = cls(path, _connect(path))
        try:
            with _store_errors(path):
                store._check(boot_id)
        except StoreError:
            store.close()
            raise
        return store

    @classmethod
    def create(cls, path: Path, *, boot_id: str) -> Store:
        """A new, empty store with a new epoch. What stood at `path` is moved aside, not deleted."""
        set_aside(path)
        store = cls(path, _connect(path))
        with _store_errors(path):
            store._db.executescript(_SCHEMA)
            with store._transaction() as db:
                db.executemany(
                    "INSERT INTO meta VALUES (?, ?)",
                    [
                        ("schema_version", SCHEMA_VERSION),
                        ("epoch", uuid.uuid4().hex),
                        ("boot_id", boot_id),
                        ("has_heard_node", "0"),
                        ("next_generation", "1"),
                    ],
                )
        return store

    def close(self) -> None:
        """Close the file; a write-ahead log left behind is replayed by the next open."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()

    def note(self, name: str, value: str) -> None:
        """Keep a fact beside the ledger (identity and limits, for a start without a cloud)."""
        with _store_errors(self.path), self._transaction() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", ("note." + name, value))

    def noted(self, name: str) -> str:
        """A fact kept by `note`, or an empty string."""
        return self._meta().get("note." + name, "")

    def load(self) -> Ledger:
        """The ledger as last committed."""
        with _store_errors(self.path):
            meta = self._meta()
            try:
                return Ledger(
                    epoch=meta["epoch"],
                    has_heard_node=meta["has_heard_node"] == "1",
                    next_generation=int(meta["next_generation"]),
                    addresses=_by(lambda a: a.address, rows.address, self._all("addresses")),
                    allocations=_by(lambda a: a.key, rows.allocation, self._all("allocations")),
                    enis=_by(lambda e: e.eni_id, rows.eni, self._all("enis")),
                    intents=_by(lambda i: i.token, rows.intent, self._all("intents")),
                    tombstones=_by(lambda t: t.key, rows.tombstone, self._all("tombstones")),
                )
            except (KeyError, ValueError) as e:
                raise Corrupt(f"store {self.path} holds a row that cannot be: {e}") from e

    def _all(self, table: str) -> Iterable[Any]:
        return self._db.execute(f"SELECT * FROM {table}")  # noqa: S608 - a name of the schema

    def commit(self, change: Change) -> None:
        """Write one change in one transaction. On an error nothing of it is in the store."""
        with _store_errors(self.path), self._transaction() as db:
            rows.write_drops(db, change)
            rows.write_puts(db, change)
            if change.has_heard_node is not None:
                _set_meta(db, "has_heard_node", str(int(change.has_heard_node)))
            if change.next_generation is not None:
                _set_meta(db, "next_generation", str(change.next_generation))

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield self._db
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):  # the first error is the one to tell
                self._db.execute("ROLLBACK")
            raise

    def _meta(self) -> dict[str, str]:
        with _store_errors(self.path):
            return dict(self._db.execute("SELECT name, value FROM meta").fetchall())

    def _check(self, boot_id: str) -> None:
        verdict = self._db.execute("PRAGMA quick_check").fetchone()[0]
        if verdict != "ok":
            raise Corrupt(f"store {self.path} fails its check: {verdict}")
        meta = dict(self._db.execute("SELECT name, value FROM meta").fetchall())
        version = meta.get("schema_version", "none")
        if version != SCHEMA_VERSION:
            raise UnknownVersion(
                f"store {self.path} has schema version {version}, this build reads {SCHEMA_VERSION}"
            )
        if meta.get("boot_id") != boot_id:
            raise ForeignStore(f"store {self.path} is of another boot; its pods are gone")


def _by(
    key: Callable[[T], K], read: Callable[[Any], T], found: Iterable[Any]
) -> MappingProxyType[K, T]:
    return MappingProxyType({key(record): record for record in map(read, found)})


def set_aside(path: Path) -> Path | None:
    """Move an unusable store and its log to `<name>.unusable-<time>`; None if there is none."""
    target = path.with_name(f"{path.name}.unusable-{time.time_ns() // 1_000_000}")
    moved = None
    for suffix in ("-wal", "-shm", ""):
        source = path.with_name(path.name + suffix)
        if source.exists():
            try:
                source.rename(target.with_name(target.name + suffix))
            except OSError as e:
                raise StoreError(f"cannot move the unusable store {source} aside: {e}") from e
            moved = target
    return moved


def _connect(path: Path) -> sqlite3.Connection:
    with _store_errors(path):
        # check_same_thread: the store is opened before the loop runs and closed after it.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=NORMAL")
            path.chmod(0o600)
        except (sqlite3.DatabaseError, OSError):
            connection.close()
            raise
        return connection


@contextlib.contextmanager
def _store_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.DatabaseError as e:
        if not _is_of_the_disk(e):
            raise Corrupt(f"store {path}: {e}") from e
        raise StoreError(
            f"store {path}: {e}; check the free space and the permissions of {path.parent}"
        ) from e
    except OSError as e:
        raise StoreError(f"store {path}: {e}") from e


_DISK_ERRORS = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def _is_of_the_disk(error: sqlite3.DatabaseError) -> bool:
    """Whether the surroundings failed and the file may be whole. A read that ends early is the
    file's own fault: somebody cut it (https://sqlite.org/rescode.html)."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code != sqlite3.SQLITE_IOERR_SHORT_READ and code & 0xFF in _DISK_ERRORS


def _set_meta(db: sqlite3.Connection, name: str, value: str) -> None:
    db.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
