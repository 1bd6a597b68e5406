"""The loop that deletes ENIs which nodes of this cluster left behind, attached to nothing.

Every node runs the loop, and those that are a cleaner do the work: so far the nodes that
VPC_IPAMD_ORPHAN_CLEANUP says so of. What may be deleted is decided in `ipamd.pool.orphans`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Never

import structlog

from ipamd import clock
from ipamd.cloud_child import Cloud
from ipamd.errors import CloudError, Throttled
from ipamd.keeper import Keeper
from ipamd.metrics import Metrics
from ipamd.model import EniId, InstanceId
from ipamd.pool import orphans
from ipamd.pool.orphans import Round

log = structlog.get_logger()

ROUND_SECONDS = 3600.0
"""As often as aws-node's agent looks."""

JITTER_SECONDS = 300.0
"""Drawn anew for each round, the first included: nodes that start together do not ask together."""


class OrphanCleaner:
    """Asks `is_cleaner` before each round, and `instance_id`, which is None while unknown."""

    def __init__(
        self,
        keeper: Keeper,
        cloud: Cloud,
        metrics: Metrics,
        *,
        is_cleaner: Callable[[], bool],
        instance_id: Callable[[], InstanceId | None],
    ) -> None:
        self._keeper = keeper
        self._cloud = cloud
        self._metrics = metrics
        self._is_cleaner = is_cleaner
        self._instance_id = instance_id
        self._seen: frozenset[EniId] = frozenset()

    async def run(self) -> Never:
        """A round after up to 5 minutes, and then every hour."""
        pause = 0.0
        while True:
            await asyncio.sleep(pause + random.uniform(0.0, JITTER_SECONDS))  # noqa: S311 - jitter
            await self.round()
            pause = ROUND_SECONDS

    async def round(self) -> None:
        """One look and what it leads to. A cloud that refuses ends the round, never the loop."""
        own = self._instance_id()
        if not self._is_cleaner() or own is None:
            self._seen = frozenset()  # whoever cleaned meanwhile looked twice itself
            return
        try:
            found = await self._cloud.orphans()
        except CloudError as e:
            self._failed("orphans", e)
            return
        judged = orphans.judged(
            found,
            known=self._keeper.ledger.enis,
            own=own,
            seen_before=self._seen,
            now_unix=clock.unix(),
        )
        self._seen = judged.seen
        await self._act(judged)

    async def _act(self, judged: Round) -> None:
        marked, deleted = 0, 0
        try:
            for eni_id in judged.to_mark:
                marked += await self._mark(eni_id)
            for eni_id in judged.to_delete:
                deleted += await self._delete(eni_id)
        except Throttled as e:
            self._failed("orphan_cleanup", e)  # the next round is early enough
        if judged.to_mark or judged.seen:
            log.info("orphans_judged", seen=len(judged.seen), marked=marked, deleted=deleted)

    async def _mark(self, eni_id: EniId) -> bool:
        try:
            await self._cloud.mark_created(eni_id, clock.unix())
        except Throttled:
            raise
        except CloudError as e:
            self._failed("mark_created", e, eni_id)
            return False
        return True

    async def _delete(self, eni_id: EniId) -> bool:
        try:
            await self._cloud.delete_orphan(eni_id)
        except Throttled:
            raise
        except CloudError as e:
            self._failed("delete_orphan", e, eni_id)
            return False
        log.warning("orphan_deleted", eni=eni_id)
        self._metrics.cloud_done("delete_orphan")
        return True

    def _failed(self, call: str, error: CloudError, eni_id: str = "") -> None:
        self._metrics.cloud_error(error.operation or call, error.code)
        log.warning("orphan_call_failed", call=call, eni=eni_id, error=str(error), code=error.code)
