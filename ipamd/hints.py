"""The metadata service as a reason to look: read often, at no API call, and never believed.

It lags our own changes and has been seen to lose interfaces (amazon-vpc-cni-k8s issues 1011 and
1967), so a difference from the ledger only brings a look at the cloud, once for each picture.
"""

from __future__ import annotations

import random

import structlog

from ipamd import clock
from ipamd.cloud import EniHint
from ipamd.cloud_child import Cloud
from ipamd.errors import CloudError
from ipamd.keeper import Keeper
from ipamd.pool.hint import differs

log = structlog.get_logger()

HINT_SECONDS = (60.0, 90.0)
"""How often the metadata service is read. aws-node reads it every 60 s."""

CALM_SECONDS = 60.0
"""The metadata service lags our own calls by seconds: no comparison so soon after one."""


class Hints:
    """When the metadata service was read, and which of its pictures were looked into."""

    def __init__(self, keeper: Keeper, cloud: Cloud) -> None:
        self._keeper = keeper
        self._cloud = cloud
        self._judged: tuple[EniHint, ...] = ()
        self.due_boottime = 0.0

    async def asks_for_a_look(self, *, seconds_since_change: float) -> bool:
        """Whether the cloud should be looked at, for what the metadata service shows now."""
        now = clock.boottime()
        self.due_boottime = now + random.uniform(*HINT_SECONDS)  # noqa: S311 - spreading load
        if seconds_since_change < CALM_SECONDS or self._keeper.ledger.intents:
            return False
        try:
            hint = await self._cloud.hint()
        except CloudError as e:
            log.debug("no_hint", error=str(e))
            return False
        ledger = self._keeper.ledger
        if ledger.intents or hint == self._judged or not differs(ledger, hint):
            return False
        self._judged = hint
        log.info("hint_differs", enis=[h.eni_id for h in hint])
        return True
