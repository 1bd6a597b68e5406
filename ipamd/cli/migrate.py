"""`ipamctl migrate`: what a take-over from aws-node would adopt, and the way back to it.

Exit status of `check`: 0 every entry can be adopted, 1 some cannot (their addresses are only held),
2 the checkpoint cannot be read. Of `back`: 0 handed back, 1 handed back, but aws-node will not know
everything that is listed, 2 nothing was done, or the writing failed half way, which the message
says and which a repeat mends. Needs no daemon: ipamd must be stopped for `back`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ipamd import clock, migration
from ipamd.cli.status import table
from ipamd.errors import IpamError, SettingsError, StoreError
from ipamd.model import Address, Allocation
from ipamd.peer_socket import answers, refuse_beside_peer
from ipamd.pool import migrate
from ipamd.pool.migrate import HandBack
from ipamd.run_lock import only_one
from ipamd.settings import Settings, load
from ipamd.store import Store


def run(arguments: argparse.Namespace) -> int:
    """Run one of them; what it finds goes to stdout, why it cannot to stderr."""
    try:
        settings = load(os.environ).settings
        checkpoint = arguments.checkpoint or settings.peer_checkpoint
        if arguments.way == "check":
            return _check(settings, checkpoint, arguments.output)
        return _back(settings, checkpoint, arguments)
    except IpamError as e:
        sys.stderr.write(f"ipamctl: {e}\n")
    except OSError as e:
        sys.stderr.write(
            f"ipamctl: cannot write aws-node's checkpoint: {e}\nThe way back is half done: neither "
            "agent may start before this command has ended well\n"
        )
    return 2


def _check(settings: Settings, checkpoint: Path, output: str) -> int:
    found, taken = migration.preview(checkpoint)
    is_running = settings.peer_socket is not None and answers(settings.peer_socket)
    if output == "json":
        document = {
            "checkpoint": str(checkpoint),
            "is_aws_node_running": is_running,
            "network_cards": sorted(found.files),
            "adopted": [_attachment(a) for a in taken.adopted],
            "unusable": [
                {
                    "addresses": [str(a) for a in u.entry.addresses],
                    "network_card": u.network_card,
                    "why": u.why,
                }
                for u in taken.unusable
            ],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        lines = [f"{checkpoint}: {len(taken.adopted)} allocations can be adopted\n"]
        if not found.files:
            lines = [f"{checkpoint}: no such file, so there is nothing to take over\n"]
        lines.append(_rows(taken.adopted))
        lines += [f"held, not adopted: {u}\n" for u in taken.unusable]
        if is_running:
            lines.append("aws-node runs: ipamd will not start before it is removed\n")
        sys.stdout.write("".join(lines))
    return 1 if taken.unusable else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What `back` did or would do."""

    checkpoint: Path
    is_written: bool
    back: HandBack
    allocations: tuple[Allocation, ...]
    cooling_seconds: float  # until aws-node may start: it knows no cooldown
    queued_deletes: int

    @property
    def needs_attention(self) -> bool:
        """Whether aws-node will not know something that is in use."""
        return bool(self.back.unplaced)


def _back(settings: Settings, checkpoint: Path, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        report = _report(settings, checkpoint, arguments.network_name, is_written=False)
    else:
        with _stopped(settings):
            report = _report(settings, checkpoint, arguments.network_name, is_written=True)
            _wait(0.0 if arguments.no_wait else report.cooling_seconds)
    sys.stdout.write(_json(report) if arguments.output == "json" else _text(report))
    return 1 if report.needs_attention else 0


@contextlib.contextmanager
def _stopped(settings: Settings) -> Iterator[None]:
    """Hold ipamd's place, so that it cannot start meanwhile. Raises SettingsError where it runs."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(only_one(settings.run_dir))
        except SettingsError as e:
            raise SettingsError(
                f"{e}; stop ipamd first: it would give out addresses that the checkpoint lacks"
            ) from e
        refuse_beside_peer(settings.peer_socket)
        yield


def _report(settings: Settings, checkpoint: Path, network_name: str, *, is_written: bool) -> Report:
    """Read the store, write the checkpoint if it is to be written, and say what that means."""
    with contextlib.closing(_open(settings)) as store:
        if store.noted(migration.HANDOVER) == migration.DONE:
            raise StoreError(
                f"{store.path} was handed back already; start aws-node, or ipamd, which takes the "
                "node over anew"
            )
        ledger = store.load()
        back = migrate.hand_back(ledger, network_name=network_name)
        if is_written:
            migration.give_back(store, back, checkpoint)
    ends = (a.since_boottime + settings.cooldown_seconds for a in back.cooling)
    return Report(
        checkpoint=checkpoint,
        is_written=is_written,
        back=back,
        allocations=tuple(sorted(ledger.allocations.values(), key=lambda a: a.generation)),
        cooling_seconds=max((end - clock.boottime() for end in ends), default=0.0),
        queued_deletes=_queued(settings.run_dir),
    )


def _open(settings: Settings) -> Store:
    return Store.open(settings.store_dir / "ipamd.db", boot_id=clock.boot_id())


def _queued(run_dir: Path) -> int:
    """Deletes that wait for ipamd (vpc-cnid's queue): one file each."""
    try:
        return sum(path.is_file() for path in (run_dir / "delete-queue").iterdir())
    except OSError:
        return 0


def _wait(seconds: float) -> None:
    if seconds > 0:
        sys.stderr.write(
            f"waiting {seconds:.0f} s until released addresses have cooled: aws-node would give "
            "them out at once\n"
        )
        time.sleep(seconds)


def _attachment(held: Allocation) -> dict[str, object]:
    return {
        "container_id": held.key.container_id,
        "ifname": held.key.ifname,
        "network_name": held.network_name,
        "addresses": [str(a) for a in held.addresses],
        "pod_namespace": held.pod_namespace,
        "pod_name": held.pod_name,
        "wired_by": held.wired_by.value,
    }


def _json(report: Report) -> str:
    """{"checkpoint", "is_written", "files": {path: entries}, "allocations": [attachment],
    "unplaced": [address], "held": [address], "cooling_seconds", "queued_deletes"}."""
    back = report.back
    files = {
        str(migration.path_of(report.checkpoint, card)): len(entries)
        for card, entries in sorted(back.files.items())
    }
    document = {
        "checkpoint": str(report.checkpoint),
        "is_written": report.is_written,
        "files": files,
        "allocations": [_attachment(a) for a in report.allocations],
        "unplaced": [str(x) for a in back.unplaced for x in a.addresses],
        "held": _texts(back.foreign),
        "cooling_seconds": round(max(report.cooling_seconds, 0.0), 1),
        "queued_deletes": report.queued_deletes,
    }
    return json.dumps(document, indent=2) + "\n"


def _texts(addresses: Iterable[Address]) -> list[str]:
    return [str(a.address) for a in addresses]


def _text(report: Report) -> str:
    back = report.back
    word = "holds" if report.is_written else "would hold"
    said = [f"{report.checkpoint} {word} {len(report.allocations)} allocations\n"]
    said.append(_rows(report.allocations))
    said += [
        f"! {address}: the cloud does not show it on this node; aws-node will forget its pod\n"
        for held in back.unplaced
        for address in held.addresses
    ]
    said += [
        f"{address}: used on the node by something unknown; an entry keeps it from pods\n"
        for address in _texts(back.foreign)
    ]
    if report.queued_deletes:
        said.append(
            f"{report.queued_deletes} deletes are queued: aws-node drops those pods when it "
            "starts and finds no link of theirs\n"
        )
    if report.is_written:
        said.append("ipamd serves no more from its store; start aws-node now\n")
    return "".join(said)


def _rows(allocations: Iterable[Allocation]) -> str:
    rows = [
        (
            " ".join(map(str, a.addresses)),
            f"{a.pod_namespace}/{a.pod_name}" if a.pod_name else "-",
            a.key.container_id[:13],
            a.key.ifname,
            a.wired_by.value,
        )
        for a in allocations
    ]
    return table(("address", "pod", "container", "interface", "wired by"), rows) if rows else ""
