"""The metadata service as a reason to look: read often, at no API call, and never believed.

It lags our own changes and has been seen to lose interfaces (amazon-vpc-cni-k8s issues 1011 and
1967), so a difference from the ledger only brings a look at the cloud, once for each picture. The
VPC's networks come from it, as in aws-node, which polls them every 30 s: no API that the agent's
role allows tells them. See `ipamd.pool.hint.VpcNetworks` for how far they are believed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import structlog

from ipamd import clock
from ipamd.cloud import EniHint, Hint
from ipamd.cloud_child import Cloud
from ipamd.errors import CloudError
from ipamd.keeper import Keeper
from ipamd.model import IPNetwork
from ipamd.pool.hint import differs

log = structlog.get_logger()

HINT_SECONDS = (60.0, 90.0)
"""How often the metadata service is read. aws-node reads it every 60 s."""

CALM_SECONDS = 60.0
"""The metadata service lags our own calls by seconds: no comparison so soon after one."""


class Hints:
    """When the metadata service was read, and which of its pictures were looked into."""

    def __init__(
        self,
        keeper: Keeper,
        cloud: Cloud,
        *,
        networks_read: Callable[[tuple[IPNetwork, ...]], None],
    ) -> None:
        self._keeper = keeper
        self._cloud = cloud
        self._networks_read = networks_read
        self._judged: tuple[EniHint, ...] = ()
        self.due_boottime = 0.0

    async def asks_for_a_look(self, *, seconds_since_change: float) -> bool:
        """Whether the cloud should be looked at, for what the metadata service shows now."""
        now = clock.boottime()
        self.due_boottime = now + random.uniform(*HINT_SECONDS)  # noqa: S311 - spreading load
        was_calm = seconds_since_change >= CALM_SECONDS and not self._keeper.ledger.intents
        try:
            hint: Hint = await self._cloud.hint()
        except CloudError as e:
            log.debug("no_hint", error=str(e))
            return False
        self._networks_read(hint.vpc_cidrs)
        ledger, enis = self._keeper.ledger, hint.enis
        if not was_calm or ledger.intents or enis == self._judged or not differs(ledger, enis):
            return False
        self._judged = enis
        log.info("hint_differs", enis=[h.eni_id for h in enis])
        return True
