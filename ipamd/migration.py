"""Taking a node over from aws-node's agent, and handing it back: files, notes and their order.

The decisions are in `ipamd.pool.migrate`. What has been taken in is noted in the store by a
fingerprint of the checkpoint, after the allocations themselves: a crash in between takes the same
file in again, which changes nothing. A checkpoint of another fingerprint means that aws-node's
agent ran since, and that our store does not know what it gave out: such a store is set aside like
a lost one. Runs before ipamd serves, and in `ipamctl migrate`.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from ipamd import clock
from ipamd.errors import StoreError
from ipamd.migration_format import Entry, parse, text_of
from ipamd.pool import migrate
from ipamd.pool.ledger import Ledger
from ipamd.pool.migrate import HandBack, TakenIn
from ipamd.store import Store

log = structlog.get_logger()

TAKEN = "peer_checkpoint"
"""The note that names the fingerprint of the checkpoint that was taken in."""

HANDOVER = "handed_back"
"""The note of `ipamctl migrate back`: BEGUN before the checkpoint is written, DONE after."""
BEGUN, DONE = "begun", "done"

NONE = "none"
"""The fingerprint of no file at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What stands on disk: the allocations by network card."""

    files: Mapping[int, tuple[Entry, ...]]
    fingerprint: str


class UnreadableCheckpoint(StoreError):
    """aws-node's checkpoint cannot be read, so that it is not known which addresses are in use."""


def path_of(checkpoint: Path, network_card: int) -> Path:
    """The file of one card. Example: ipam.json, ipam-nic-1.json."""
    if network_card == 0:
        return checkpoint
    return checkpoint.with_name(f"{checkpoint.stem}-nic-{network_card}{checkpoint.suffix}")


def _paths(checkpoint: Path) -> dict[int, Path]:
    """The files that are there, by network card."""
    name = re.compile(re.escape(checkpoint.stem) + r"-nic-(\d+)" + re.escape(checkpoint.suffix))
    try:
        names = sorted(path.name for path in checkpoint.parent.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    found = {0: checkpoint} if checkpoint.name in names else {}
    cards = {int(m[1]): checkpoint.with_name(n) for n in names if (m := name.fullmatch(n))}
    return found | cards


def read(checkpoint: Path) -> Checkpoint:
    """The checkpoint of every card; no file is an empty one. Raises UnreadableCheckpoint."""
    files, digest, place = {}, hashlib.sha256(), checkpoint
    try:
        for card, place in sorted(_paths(checkpoint).items()):
            content = place.read_bytes()
            digest.update(f"{card} {len(content)} ".encode() + content)
            files[card] = parse(content.decode())
    except (OSError, ValueError) as e:
        raise UnreadableCheckpoint(
            f"cannot read aws-node's checkpoint {place}: {e}. It names the addresses of running "
            "pods, so nothing is handed out before it can be read. Mend it, or move it away if no "
            "pod of aws-node runs on this node (docs/migration.md)"
        ) from e
    return Checkpoint(files=files, fingerprint=digest.hexdigest() if files else NONE)


def take_over(store: Store, checkpoint: Path, *, boot_id: str) -> Store:
    """The store to go on with, holding what aws-node's agent had given out.

    Raises UnreadableCheckpoint, and StoreError where the node is half handed back; nothing may be
    handed out then. Closes `store` when it returns another one.
    """
    handover = store.noted(HANDOVER)
    if handover == BEGUN:
        raise StoreError(
            "`ipamctl migrate back` was begun on this node and has not ended: run it again. Then "
            "start aws-node, or ipamd, which takes the node over anew"
        )
    found = read(checkpoint)
    taken = store.noted(TAKEN)
    if not handover and found.fingerprint in (taken, NONE):
        if not taken:
            store.note(TAKEN, NONE)
        return store
    if handover or taken or store.load().has_heard_node:
        log.warning("store_outdated", reason=handover or "aws-node ran since", path=str(store.path))
        store.close()
        store = Store.create(store.path, boot_id=boot_id)
    _take_in(store, found)
    return store


def _take_in(store: Store, found: Checkpoint) -> None:
    taken = migrate.take_in(store.load(), found.files, now=clock.boottime())
    store.commit(taken.change)
    store.note(TAKEN, found.fingerprint)
    log.info(
        "checkpoint_taken_in",
        adopted=len(taken.adopted),
        unusable=[str(u) for u in taken.unusable],
        cards=sorted(found.files),
    )


def preview(checkpoint: Path) -> tuple[Checkpoint, TakenIn]:
    """What a new store would adopt; changes nothing. Raises UnreadableCheckpoint."""
    found = read(checkpoint)
    ledger = Ledger(epoch="", has_heard_node=False)
    return found, migrate.take_in(ledger, found.files, now=clock.boottime())


def give_back(store: Store, back: HandBack, checkpoint: Path) -> None:
    """Write the checkpoint of every card, so that ipamd serves no more from this store.

    From the first note on ipamd refuses to start, until the last note has it begin anew from the
    checkpoint. Files of cards that we know nothing of are emptied: they would name old pods.
    """
    store.note(HANDOVER, BEGUN)
    checkpoint.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    for card in sorted({*back.files, *_paths(checkpoint)}):
        _write(path_of(checkpoint, card), text_of(back.files.get(card, ())))
    store.note(HANDOVER, DONE)


def _write(path: Path, text: str) -> None:
    """Replace a file so that a crash leaves the old or the new one whole, and the new one last."""
    draft = path.with_name(f".{path.name}.vpc-ipamd")
    with suppress(FileNotFoundError):
        draft.unlink()
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(descriptor)
    draft.replace(path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
