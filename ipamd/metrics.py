"""What ipamd counts. Names that aws-node has for the same thing are aws-node's name.

Gauges are computed when read, from the ledger that stands then; counters are kept here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ipamd.api_calls import ApiCall
from ipamd.exposition import Counter, Family, Histogram, Registry, gauge, gauges
from ipamd.model import AddressState, IPNetwork
from ipamd.pool.ledger import Ledger

ALLOCATE_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 30.0)
"""Seconds: a served pool answers in 1 ms; an ENI attach takes 5-15 s; runtimes give up at 30 s+."""

API_BOUNDS_MS = (25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)
"""Milliseconds: EC2 answers most calls in 50-500 ms; the time-out is 10 s (HTTP_TIMEOUT)."""


class ApiMetrics:
    """Calls to the cloud's API, as the cloud child reports them."""

    def __init__(self, registry: Registry) -> None:
        self._calls = Counter("awscni_ec2api_req_count", "Calls to EC2 by API", ("fn",))
        self._errors = Counter(
            "awscni_ec2api_error_count", "Calls to EC2 that failed, by API", ("fn",)
        )
        self._codes = Counter(
            "awscni_aws_api_error_count",
            "Calls to EC2 that failed, by API and code",
            ("api", "error"),
        )
        self._latency = Histogram(
            "awscni_aws_api_latency_ms",
            "Time of calls to EC2 in milliseconds",
            ("api", "error", "status"),
            bounds=API_BOUNDS_MS,
        )
        self._throttles = Counter(
            "vpc_ipamd_api_throttles_total", "Calls that EC2 refused for their rate", ("api",)
        )
        self._waited = Counter(
            "vpc_ipamd_api_budget_wait_seconds_total",
            "Time that calls waited for the node's own budget",
            ("api",),
        )
        self._held_back = Counter(
            "vpc_ipamd_api_budget_refusals_total",
            "Calls that were not made because the node's own budget was spent",
            ("api",),
        )
        registry.register(self._calls, self._errors, self._codes, self._latency)
        registry.register(self._throttles, self._waited, self._held_back)

    def called(self, call: ApiCall) -> None:
        """One call ended, or was held back."""
        if not call.is_sent:
            self._held_back.inc(call.api)
            return
        self._calls.inc(call.api)
        is_error = bool(call.code)
        # aws-node's words for the labels; 0 is no answer at all.
        self._latency.observe(
            call.api, str(is_error).lower(), str(call.status or ""), amount=call.seconds * 1e3
        )
        if call.waited_seconds:
            self._waited.inc(call.api, by=call.waited_seconds)
        if is_error:
            self._errors.inc(call.api)
            self._codes.inc(call.api, call.code)
        if call.is_throttled:
            self._throttles.inc(call.api)


class Metrics:
    """Counters and histograms of one process."""

    def __init__(self) -> None:
        self.registry = Registry()
        self._api = ApiMetrics(self.registry)
        self._actions = Counter(
            "vpc_ipamd_cloud_actions_total", "Cloud actions that ended well", ("action",)
        )
        self._action_errors = Counter(
            "vpc_ipamd_cloud_action_errors_total",
            "Cloud actions and looks that failed, by the call and its code",
            ("api", "error"),
        )
        self._allocate = Histogram(
            "vpc_ipamd_allocate_seconds",
            "Time in Allocate, waiting included",
            ("outcome",),
            bounds=ALLOCATE_BOUNDS,
        )
        self._release = Counter("vpc_ipamd_releases_total", "Releases by outcome", ("outcome",))
        self.registry.register(self._actions, self._action_errors, self._allocate, self._release)

    def cloud_done(self, action: str) -> None:
        """A cloud action ended well."""
        self._actions.inc(action)

    def cloud_error(self, api: str, error: str) -> None:
        """A cloud action or look failed at this call with this code."""
        self._action_errors.inc(api, error or "none")

    def api_called(self, call: ApiCall) -> None:
        """A call to the cloud's API ended."""
        self._api.called(call)

    def allocated(self, outcome: str, seconds: float) -> None:
        """An Allocate ended."""
        self._allocate.observe(outcome, amount=seconds)

    def released(self, outcome: str) -> None:
        """A Release ended."""
        self._release.inc(outcome)

    def text(self) -> bytes:
        """The exposition format, as /metrics serves it."""
        return self.registry.text()


class LedgerCollector:
    """Gauges read from the ledger when asked; the ledger is a value, so any thread may."""

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        limits: Callable[[], tuple[int, int]],
        waiting: Callable[[], int],
    ) -> None:
        self._ledger = ledger
        self._limits = limits
        self._waiting = waiting

    def collect(self) -> Iterator[Family]:
        """The gauges of this moment."""
        ledger = self._ledger()
        max_enis, max_pods = self._limits()
        yield gauges(
            "vpc_ipamd_addresses",
            "Addresses by state; the sum is the total",
            "state",
            {state.value: ledger.count(state) for state in AddressState},
        )
        prefixes = {a.prefix for a in ledger.addresses.values() if a.prefix is not None}
        simple = (
            ("awscni_eni_allocated", "ENIs attached", len(ledger.enis)),
            ("awscni_eni_max", "ENIs that can be attached", max_enis),
            ("awscni_total_ip_addresses", "Addresses on ENIs", len(ledger.addresses)),
            ("awscni_total_ipv4_prefixes", "Prefixes on ENIs", _ipv4(prefixes)),
            ("awscni_assigned_ip_addresses", "Addresses in use", len(ledger.allocations)),
            ("awscni_ip_max", "Addresses that can be in use", max_pods),
            ("vpc_ipamd_waiting_allocations", "Attachments that wait", self._waiting()),
        )
        for name, meaning, value in simple:
            yield gauge(name, meaning, value)


def _ipv4(prefixes: set[IPNetwork]) -> int:
    return sum(p.version == 4 for p in prefixes)
