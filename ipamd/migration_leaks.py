"""Allocations of aws-node's checkpoint whose pods are gone, found by what the kernel carries.

Two reports of the node that agree, half a minute apart, end such an allocation; its address cools
like any other. A report names every address that a rule or a route to a veth still leads to, so
that a pod whose rules were flushed is no leak.
"""

from __future__ import annotations

from collections.abc import Container

import structlog

from ipamd.keeper import Keeper
from ipamd.model import AttachmentKey, IPAddress
from ipamd.pool import attachments, migrate
from ipamd.pool.observe import SECOND_LOOK_SECONDS

log = structlog.get_logger()


class Leaks:
    """What earlier reports of this process did not show."""

    def __init__(self, keeper: Keeper) -> None:
        self._keeper = keeper
        self._since: dict[AttachmentKey, float] = {}

    def heard(self, used: Container[IPAddress], *, now: float) -> None:
        """Take in one complete report of the addresses in use. Raises StoreError."""
        unseen = migrate.unseen(self._keeper.ledger, used)
        self._since = {key: self._since.get(key, now) for key in unseen}
        for key in [k for k, since in self._since.items() if now - since >= SECOND_LOOK_SECONDS]:
            released = attachments.release(self._keeper.ledger, key, now=now)
            self._keeper.commit(released.change)
            del self._since[key]
            addresses = released.allocation.addresses if released.allocation else ()
            log.warning("leaked_allocation_freed", key=str(key), addresses=[*map(str, addresses)])
