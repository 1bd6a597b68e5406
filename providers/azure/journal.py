"""The writes that are under way, on disk: noted before they are sent, gone when they have ended.

A process that starts knows by it which write an earlier one left in flight, by what names, and
where its outcome can be read. Without it our next write could displace our own last one (compute
answers OperationPreempted), and the reason of a failure, which stands nowhere but at the operation
URL, would be lost. The URL may hold a signature: the file is for root alone, and the URL never
reaches the log.

What cannot be read is set aside with a word in the log: the names on the NIC tell the rest.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from ipamd.errors import Busy
from ipamd.model import EniId
from providers.azure.configs import ODD
from providers.azure.merge import Goal
from providers.azure.names import Kind, is_ours

VERSION = 1


class Note(Protocol):
    """A line in the log: what happened, and its facts."""

    def __call__(self, event: str, /, **facts: object) -> None:
        """Write it."""


def silent(event: str, /, **facts: object) -> None:
    """For who has no log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """One configuration of one NIC by its name, in lower case where it is to go."""

    eni_id: EniId
    name: str
    kind: Kind = Kind.ADDRESS


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One write: `operation_url` is "" until ARM has answered, and where it named none."""

    target_id: str
    adding: tuple[Named, ...] = ()
    removing: tuple[Named, ...] = ()
    etag: str = ""
    operation_url: str = ""

    @property
    def goals(self) -> tuple[Goal, ...]:
        """What the write is for, one goal for each NIC that it changes."""
        enis = dict.fromkeys(named.eni_id for named in (*self.adding, *self.removing))
        return tuple(
            Goal(
                eni_id=eni_id,
                adding=adding,
                removing=frozenset(n.name for n in self.removing if n.eni_id == eni_id),
                missing=adding,
            )
            for eni_id in enis
            for adding in [tuple((n.name, n.kind) for n in self.adding if n.eni_id == eni_id)]
        )


def write_of(target_id: str, goals: Iterable[Goal], etag: str) -> Write:
    """The note of a write for these goals."""
    goals = tuple(goals)
    return Write(
        target_id=target_id,
        adding=tuple(
            Named(eni_id=goal.eni_id, name=name, kind=kind)
            for goal in goals
            for name, kind in goal.missing
        ),
        removing=tuple(
            Named(eni_id=goal.eni_id, name=name) for goal in goals for name in sorted(goal.removing)
        ),
        etag=etag,
    )


class Journal:
    """The file and what it says; safe to call from several threads."""

    def __init__(
        self,
        path: Path,
        *,
        note: Note = silent,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._note = note
        self._unix = unix
        self._lock = threading.Lock()
        self._writes: dict[str, Write] = {}
        self._stuck: frozenset[Named] = frozenset()
        self._load()

    def write(self, target_id: str) -> Write | None:
        """The write of a target that is under way."""
        with self._lock:
            return self._writes.get(target_id)

    def writes(self) -> tuple[Write, ...]:
        """All that are under way."""
        with self._lock:
            return tuple(self._writes.values())

    def begin(self, write: Write) -> None:
        """Note a write, durably, before it is sent. Busy when that cannot be: it must not be."""
        with self._lock:
            before = self._writes
            self._writes = {**before, write.target_id: write}
            try:
                self._save()
            except OSError as e:
                self._writes = before
                raise Busy(
                    f"cannot note a write in {self._path}, so it is not sent: {e}",
                    code="JournalFailed",
                    retry_after_seconds=RETRY_SECONDS,
                ) from e

    def answered(self, target_id: str, operation_url: str) -> None:
        """Where the outcome of the write can be read."""
        with self._lock:
            write = self._writes[target_id]
            self._writes[target_id] = replace(write, operation_url=operation_url)
            self._save_or_note()

    def end(self, target_id: str) -> None:
        """The write has ended, or was never taken."""
        with self._lock:
            if self._writes.pop(target_id, None) is not None:
                self._save_or_note()

    def stuck(self, eni_id: EniId) -> frozenset[str]:
        """Keys of what failed writes left on a NIC: of no use to anybody, to go with the next."""
        with self._lock:
            return frozenset(named.name for named in self._stuck if named.eni_id == eni_id)

    def set_stuck(self, eni_id: EniId, keys: frozenset[str]) -> None:
        """What is left behind on a NIC from now on."""
        with self._lock:
            others = frozenset(named for named in self._stuck if named.eni_id != eni_id)
            stuck = others | {Named(eni_id=eni_id, name=key) for key in keys}
            if stuck != self._stuck:
                self._stuck = stuck
                self._save_or_note()

    def leaving(self, eni_id: EniId) -> frozenset[str]:
        """Keys of what a write that is under way removes from a NIC."""
        with self._lock:
            return frozenset(
                named.name
                for write in self._writes.values()
                for named in write.removing
                if named.eni_id == eni_id
            )

    def adding(self, eni_id: EniId) -> frozenset[str]:
        """Keys of what a write that is under way adds to a NIC."""
        with self._lock:
            return frozenset(
                named.name.lower()
                for write in self._writes.values()
                for named in write.adding
                if named.eni_id == eni_id
            )

    def _load(self) -> None:
        try:
            self._writes, self._stuck = _parsed(self._path.read_bytes())
        except FileNotFoundError:
            return  # nothing was ever under way
        except (OSError, RecursionError, *ODD) as e:
            self._set_aside(e)

    def _set_aside(self, why: Exception) -> None:
        name = f"{self._path.name}.unusable-{int(self._unix() * 1000)}"
        aside = self._path.with_name(name)
        try:
            self._path.rename(aside)
        except OSError as e:
            self._note("azure_journal_unusable", path=str(self._path), error=f"{why}; {e}")
        else:
            self._note("azure_journal_set_aside", path=str(aside), error=str(why))

    def _save_or_note(self) -> None:
        """What is not on disk is asked for again by the next process, which finds it ended."""
        try:
            self._save()
        except OSError as e:
            self._note("azure_journal_failed", path=str(self._path), error=str(e))

    def _save(self) -> None:
        content = json.dumps(_content(self._writes.values(), self._stuck), indent=1).encode()
        draft = self._path.with_name(self._path.name + ".new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(draft, "wb", opener=lambda path, _: os.open(path, flags, 0o600)) as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(self._path)
        _sync_directory(self._path.parent)


RETRY_SECONDS = 10.0
"""A full or read-only disk does not mend by itself; ipamd's store says the same more loudly."""


def _sync_directory(path: Path) -> None:
    """A rename is durable once its directory is (fsync(2))."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _content(writes: Iterable[Write], stuck: Iterable[Named]) -> dict[str, Any]:
    return {
        "version": VERSION,
        "writes": [
            {
                "target": write.target_id,
                "etag": write.etag,
                "operation_url": write.operation_url,
                "adding": [_named_content(named) for named in write.adding],
                "removing": [_named_content(named) for named in write.removing],
            }
            for write in writes
        ],
        "stuck": sorted((_named_content(named) for named in stuck), key=str),
    }


def _named_content(named: Named) -> dict[str, str]:
    return {"eni": named.eni_id, "name": named.name, "kind": named.kind.value}


def _parsed(content: bytes) -> tuple[dict[str, Write], frozenset[Named]]:
    said = json.loads(content)
    if said["version"] != VERSION:
        raise ValueError(f"version {said['version']!r}; this build reads {VERSION}")
    writes = [
        Write(
            target_id=_text(one["target"]),
            etag=_text(one["etag"]),
            operation_url=_text(one["operation_url"]),
            adding=tuple(_named(named) for named in one["adding"]),
            removing=tuple(_named(named) for named in one["removing"]),
        )
        for one in said["writes"]
    ]
    stuck = frozenset(_named(named) for named in said["stuck"])
    return {write.target_id: write for write in writes}, stuck


def _named(said: dict[str, Any]) -> Named:
    name = _text(said["name"])
    if not is_ours(name):
        raise ValueError(f"{name!r} is no name that this daemon writes")
    return Named(eni_id=EniId(_text(said["eni"])), name=name, kind=Kind(said["kind"]))


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} is no text")
    return value
