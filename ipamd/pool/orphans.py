"""Which ENIs attached to nothing may be deleted, of any node of the cluster (pure).

Tables of what aws-node's agent does stand in tests/unit/test_orphans.py. Two things are ours: an
ENI must be an orphan in two rounds, and a round deletes a bounded number, oldest first, so that a
mistake in somebody's tags costs little before it is seen.
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from dataclasses import dataclass

from ipamd.cloud import Orphan
from ipamd.model import EniId, InstanceId

YOUNG_SECONDS = 300.0
"""An ENI that was made this recently may be about to be attached (aws-node's limit, too)."""

DELETES_PER_ROUND = 25
"""One round of an hour; a cluster that leaks more than 600 ENIs a day has another problem."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one round does: `seen` are the orphans that a later round may delete."""

    to_mark: tuple[EniId, ...]  # no creation time: have them say one, so that they can age
    to_delete: tuple[EniId, ...]  # oldest first
    seen: frozenset[EniId]


def judged(
    orphans: Iterable[Orphan],
    *,
    known: Container[EniId],
    own: InstanceId,
    seen_before: Container[EniId],
    now_unix: float,
) -> Round:
    """Judge one answer of the cloud.

    `known` are ENIs of the ledger and `own` is this instance, whose strays the reconciler removes.
    A creation time in the future is a young one: clocks of nodes differ.
    """
    foreign = [o for o in orphans if o.instance_id != own and o.eni_id not in known]
    old = sorted(
        (o.created_unix, o.eni_id)
        for o in foreign
        if o.created_unix is not None and now_unix - o.created_unix >= YOUNG_SECONDS
    )
    confirmed = [eni_id for _, eni_id in old if eni_id in seen_before]
    return Round(
        to_mark=tuple(o.eni_id for o in foreign if o.created_unix is None),
        to_delete=tuple(confirmed[:DELETES_PER_ROUND]),
        seen=frozenset(eni_id for _, eni_id in old),
    )
