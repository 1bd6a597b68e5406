"""Prometheus metrics. Names that aws-node has for the same thing keep aws-node's name.

Gauges are computed when scraped, from the ledger that stands then; counters are kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ipamd.model import AddressState
from ipamd.pool.ledger import Ledger

ALLOCATE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 30.0)
"""Seconds: a served pool answers in 1 ms; an ENI attach takes 5-15 s; runtimes give up at 30 s+."""


class Metrics:
    """Counters and histograms of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._cloud_calls = Counter(
            "vpc_ipamd_cloud_actions_total",
            "Cloud actions that ended well",
            ["action"],
            registry=self.registry,
        )
        self._cloud_errors = Counter(
            "awscni_aws_api_error_count",
            "Cloud calls that failed",
            ["api", "error"],
            registry=self.registry,
        )
        self._allocate = Histogram(
            "vpc_ipamd_allocate_seconds",
            "Time in Allocate, waiting included",
            ["outcome"],
            buckets=ALLOCATE_BUCKETS,
            registry=self.registry,
        )
        self._release = Counter(
            "vpc_ipamd_releases_total", "Releases by outcome", ["outcome"], registry=self.registry
        )

    def cloud_done(self, action: str) -> None:
        """A cloud action ended well."""
        self._cloud_calls.labels(action).inc()

    def cloud_error(self, api: str, error: str) -> None:
        """A cloud call failed with this code."""
        self._cloud_errors.labels(api, error or "none").inc()

    def allocated(self, outcome: str, seconds: float) -> None:
        """An Allocate ended."""
        self._allocate.labels(outcome).observe(seconds)

    def released(self, outcome: str) -> None:
        """A Release ended."""
        self._release.labels(outcome).inc()

    def text(self) -> bytes:
        """The exposition format, as /metrics serves it."""
        return generate_latest(self.registry)


class LedgerCollector(Collector):
    """Gauges read from the ledger at scrape time; the ledger is a value, so any thread may."""

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        limits: Callable[[], tuple[int, int]],
        waiting: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._waiting = waiting

    def collect(self) -> Iterable[Metric]:
        """The gauges of this moment."""
        ledger = self._ledger()
        max_enis, max_pods = self._limits()
        states = GaugeMetricFamily(
            "vpc_ipamd_addresses", "Addresses by state; the sum is the total", labels=["state"]
        )
        for state in AddressState:
            states.add_metric([state.value], ledger.count(state))
        yield states
        simple = (
            ("awscni_eni_allocated", "ENIs attached", len(ledger.enis)),
            ("awscni_eni_max", "ENIs that can be attached", max_enis),
            ("awscni_total_ip_addresses", "Addresses on ENIs", len(ledger.addresses)),
            ("awscni_assigned_ip_addresses", "Addresses in use", len(ledger.allocations)),
            ("awscni_ip_max", "Addresses that can be in use", max_pods),
            ("vpc_ipamd_waiting_allocations", "Attachments that wait", self._waiting()),
        )
        for name, meaning, value in simple:
            yield GaugeMetricFamily(name, meaning, value=value)
