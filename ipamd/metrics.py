"""What ipamd counts. Names that aws-node has for the same thing are aws-node's name.

Gauges are computed when read, from the ledger that stands then; counters are kept here.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterator

from ipamd import clock
from ipamd.api_calls import ApiCall
from ipamd.exposition import Counter, Family, Histogram, Newest, Registry, gauge, gauges
from ipamd.model import AddressState, IPNetwork
from ipamd.pool.ledger import IntentKind, Ledger

ALLOCATE_BOUNDS = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.25, 1.0, 5.0, 15.0, 30.0)
"""Seconds: a served pool answers in 1 ms; an ENI attach takes 5-15 s; runtimes give up at 30 s+."""

API_BOUNDS_MS = (25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10000.0)
"""Milliseconds: EC2 answers most calls in 50-500 ms; the time-out is 10 s (HTTP_TIMEOUT)."""

ACTION_BOUNDS = (0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 600.0)
"""Seconds: EC2 assigns in 0.2-1 s and attaches in 5-15; a NIC of Azure is written in 5 s, a scale
set's instance in tens of seconds to minutes; a change has 600 s (ipamd.app.APPLY_SECONDS)."""

MOST_BUCKETS = 32
"""Allowances that the cloud names: three of ARM's and a handful of policies in recorded answers."""

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


class ApiMetrics:
    """Calls to the cloud's API, as the cloud child reports them."""

    def __init__(self, registry: Registry) -> None:
        self._calls = Counter("awscni_ec2api_req_count", "Calls to the cloud by API", ("fn",))
        self._errors = Counter(
            "awscni_ec2api_error_count", "Calls to the cloud that failed, by API", ("fn",)
        )
        self._codes = Counter(
            "awscni_aws_api_error_count",
            "Calls to the cloud that failed, by API and code",
            ("api", "error"),
        )
        self._latency = Histogram(
            "awscni_aws_api_latency_ms",
            "Time of calls to the cloud in milliseconds",
            ("api", "error", "status"),
            bounds=API_BOUNDS_MS,
        )
        self._throttles = Counter(
            "vpc_ipamd_api_throttles_total", "Calls that the cloud refused for their rate", ("api",)
        )
        self._busy = Counter(
            "vpc_ipamd_api_busy_total",
            "Calls that were refused because what they are for is being changed",
            ("api",),
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
        self._left = Newest(
            "vpc_ipamd_api_remaining",
            "Calls that the cloud's last answer said are left, by its name of the allowance",
            "bucket",
            most=MOST_BUCKETS,
        )
        self._rests = Rests()
        registry.register(self._throttles, self._busy, self._waited, self._held_back)
        registry.register(self._left, self._rests)

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
            self._codes.inc(call.api, _code(call.code))
        if call.is_throttled:
            self._throttles.inc(call.api)
        if call.is_busy:
            self._busy.inc(call.api)
        for left in call.left:
            self._left.set(left.bucket, left.calls)
        if call.resting:
            self._rests.begin(call.resting, call.rest_seconds)


class Rests:
    """How long the calls of a bucket are still held back after a throttle."""

    def __init__(self, now: Callable[[], float] = clock.boottime) -> None:
        self._now = now
        self._until: dict[str, float] = {}

    def begin(self, bucket: str, seconds: float) -> None:
        """Nothing of this bucket is sent for so long."""
        until = self._now() + seconds
        self._until = {**self._until, bucket: max(self._until.get(bucket, until), until)}

    def collect(self) -> Iterator[Family]:
        """What is left of each rest; 0 once it is over."""
        now = self._now()
        yield gauges(
            "vpc_ipamd_api_paused_seconds",
            "How long calls are still held back after the cloud throttled one",
            "bucket",
            {bucket: max(until - now, 0.0) for bucket, until in self._until.items()},
        )


def _code(text: str) -> str:
    """An error code as a label: a word, or what cannot be one."""
    return text if _CODE.fullmatch(text) else "odd"


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
        self._action_seconds = Histogram(
            "vpc_ipamd_cloud_action_seconds",
            "Time of cloud actions that ended well, until what they brought could be used",
            ("action",),
            bounds=ACTION_BOUNDS,
        )
        self.registry.register(self._actions, self._action_errors, self._action_seconds)
        self.registry.register(self._allocate, self._release)

    def cloud_done(self, action: str, seconds: float | None = None) -> None:
        """A cloud action ended well, after so long where that is known."""
        self._actions.inc(action)
        if seconds is not None:
            self._action_seconds.observe(action, amount=max(seconds, 0.0))

    def cloud_error(self, api: str, error: str) -> None:
        """A cloud action or look failed at this call with this code."""
        self._action_errors.inc(api, _code(error or "none"))

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
        running = collections.Counter(i.kind for i in ledger.intents.values() if i.is_open)
        yield gauges(
            "vpc_ipamd_cloud_actions_running",
            "Cloud actions that were begun and have not ended",
            "action",
            {kind.value: running[kind] for kind in IntentKind},
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
