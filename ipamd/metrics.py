"""Prometheus metrics. Names that aws-node has for the same thing keep aws-node's name.

Gauges are computed when scraped, from the ledger that stands then; counters are kept here.
"""

from __future__ import annotations

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ipamd.api_calls import ApiCall
from ipamd.model import AddressState
from ipamd.pool.ledger import Ledger

ALLOCATE_BUCKETS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 30.0)
"""Seconds: a served pool answers in 1 ms; an ENI attach takes 5-15 s; runtimes give up at 30 s+."""


API_BUCKETS_MS = (25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)
"""Milliseconds: EC2 answers most calls in 50-500 ms; the time-out is 10 s (HTTP_TIMEOUT)."""


class PlainCounter(Collector):
    """A counter whose samples have exactly its name, as aws-node's have: the client library would
    append `_total`, and every dashboard that is made for aws-node would stay empty."""

    def __init__(
        self, name: str, meaning: str, labels: tuple[str, ...], registry: CollectorRegistry
    ) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._lock = threading.Lock()
        self._counts: Tally[tuple[str, ...]] = Tally()
        registry.register(self)

    def inc(self, *values: str) -> None:
        """One more for these values of the labels."""
        with self._lock:
            self._counts[values] += 1

    def collect(self) -> Iterable[Metric]:
        """The counts of this moment. Untyped: the text format wants counters to be `_total`."""
        metric = Metric(self._name, self._meaning, "unknown")
        with self._lock:
            counts = dict(self._counts)
        for values, count in counts.items():
            metric.add_sample(self._name, dict(zip(self._labels, values, strict=True)), count)
        yield metric


class ApiMetrics:
    """Calls to the cloud's API, as the cloud child reports them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._calls = PlainCounter(
            "awscni_ec2api_req_count", "Calls to EC2 by API", ("fn",), registry
        )
        self._errors = PlainCounter(
            "awscni_ec2api_error_count", "Calls to EC2 that failed, by API", ("fn",), registry
        )
        self._codes = PlainCounter(
            "awscni_aws_api_error_count",
            "Calls to EC2 that failed, by API and code",
            ("api", "error"),
            registry,
        )
        self._latency = Histogram(
            "awscni_aws_api_latency_ms",
            "Time of calls to EC2 in milliseconds",
            ["api", "error", "status"],
            buckets=API_BUCKETS_MS,
            registry=registry,
        )
        self._throttles = Counter(
            "vpc_ipamd_api_throttles_total",
            "Calls that EC2 refused for their rate",
            ["api"],
            registry=registry,
        )
        self._waited = Counter(
            "vpc_ipamd_api_budget_wait_seconds_total",
            "Time that calls waited for the node's own budget",
            ["api"],
            registry=registry,
        )
        self._held_back = Counter(
            "vpc_ipamd_api_budget_refusals_total",
            "Calls that were not made because the node's own budget was spent",
            ["api"],
            registry=registry,
        )

    def called(self, call: ApiCall) -> None:
        """One call ended, or was held back."""
        if not call.is_sent:
            self._held_back.labels(call.api).inc()
            return
        self._calls.inc(call.api)
        is_error = bool(call.code)
        # aws-node's words for the labels; 0 is no answer at all.
        labels = (call.api, str(is_error).lower(), str(call.status or ""))
        self._latency.labels(*labels).observe(call.seconds * 1e3)
        self._waited.labels(call.api).inc(call.waited_seconds)
        if is_error:
            self._errors.inc(call.api)
            self._codes.inc(call.api, call.code)
        if call.is_throttled:
            self._throttles.labels(call.api).inc()


class Metrics:
    """Counters and histograms of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._api = ApiMetrics(self.registry)
        self._cloud_calls = Counter(
            "vpc_ipamd_cloud_actions_total",
            "Cloud actions that ended well",
            ["action"],
            registry=self.registry,
        )
        self._cloud_errors = Counter(
            "vpc_ipamd_cloud_action_errors_total",
            "Cloud actions and looks that failed, by the call and its code",
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
        """A cloud action or look failed at this call with this code."""
        self._cloud_errors.labels(api, error or "none").inc()

    def api_called(self, call: ApiCall) -> None:
        """A call to the cloud's API ended."""
        self._api.called(call)

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
