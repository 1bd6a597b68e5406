"""What the emulated cloud draws by chance: API latency and the times that ENIs take.

The n-th attach of a node in the load takes equally long whoever asks for it, and so does its n-th
call of each API: all sides of a comparison meet the same cloud.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A log-normal time: half of all draws are below `median_seconds`, 99 of 100 below `p99`."""

    median_seconds: float
    p99_seconds: float

    def draw(self, chance: random.Random) -> float:
        """One draw in seconds, never above twice the 99th percentile."""
        # 2.326: the 99th percentile of the normal distribution in standard deviations.
        sigma = math.log(self.p99_seconds / self.median_seconds) / 2.326
        drawn = chance.lognormvariate(math.log(self.median_seconds), sigma)
        return min(drawn, 2 * self.p99_seconds)


ATTACH = Spread(median_seconds=2.5, p99_seconds=10.0)
"""From AttachNetworkInterface to `attached` and to IMDS. aws-node's docs/eni-and-ip-target.md says
up to 10 s; the median is assumed."""

DETACH = Spread(median_seconds=1.2, p99_seconds=5.0)
"""From DetachNetworkInterface to `available`. aws-node waits 2 s before it deletes, and retries;
both figures are assumed."""

READ = Spread(median_seconds=0.08, p99_seconds=0.4)
"""Latency of a Describe call, assumed."""

WRITE = Spread(median_seconds=0.25, p99_seconds=1.0)
"""Latency of any other call, assumed."""


class Chance:
    """The draws of one run."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._sequences: dict[str, random.Random] = {}

    def begin(self) -> None:
        """The load starts: what was drawn before it moves nothing of what comes."""
        self._sequences.clear()
        self._seed += "/load"

    def latency(self, action: str, instance_id: str) -> float:
        """Seconds that the next call of an API by this instance takes."""
        spread = READ if action.startswith("Describe") else WRITE
        return spread.draw(self._next(action, instance_id))

    def attach_seconds(self, instance_id: str) -> float:
        """How long the next attach of this instance takes."""
        return ATTACH.draw(self._next("attach", instance_id))

    def detach_seconds(self, instance_id: str) -> float:
        """How long its next detach takes."""
        return DETACH.draw(self._next("detach", instance_id))

    def _next(self, kind: str, instance_id: str) -> random.Random:
        name = f"{self._seed}/{kind}/{instance_id}"
        if name not in self._sequences:
            self._sequences[name] = random.Random(name)
        return self._sequences[name]
