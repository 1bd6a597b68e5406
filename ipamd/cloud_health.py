"""Whether the cloud answers our looks: told when it is news, counted, and waited out."""

from __future__ import annotations

import random

import structlog

from ipamd import backoff
from ipamd.errors import CloudError, Denied, Throttled
from ipamd.metrics import Metrics

log = structlog.get_logger()


class CloudHealth:
    """Owned by the reconciler. `error` is what the last look failed with, empty after a good one,
    `is_denied` whether that was a right or an identity that is missing; `has_answered` whether any
    look ever succeeded."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._failures = 0
        self._told: tuple[str, str] | None = None  # the failure that was logged last
        self.error = ""
        self.is_denied = False
        self.has_answered = False

    @property
    def is_good(self) -> bool:
        """Whether the last look was answered."""
        return self.has_answered and not self.error

    def failed(self, error: CloudError) -> float:
        """Count a failed look, tell it when it is news, and return how long to wait."""
        self._failures += 1
        # By the code, since the words may differ each time ("the next one is due in 7.8 s").
        news = (error.operation, error.code or str(error))
        if news != self._told:
            log.warning("cloud_failed", error=str(error), code=error.code)
        self.error, self._told = str(error), news
        self.is_denied = isinstance(error, Denied)
        self._metrics.cloud_error(error.operation or "observe", error.code)
        chance = random.random()  # noqa: S311 - jitter
        pacing = backoff.THROTTLED if isinstance(error, Throttled) else backoff.TRANSIENT
        return max(pacing.delay(self._failures, chance), error.retry_after_seconds)

    def answered(self) -> None:
        """A look succeeded."""
        if self.error:
            log.info("cloud_recovered", after_failures=self._failures)
        self._failures, self._told, self.error, self.has_answered = 0, None, "", True
        self.is_denied = False
