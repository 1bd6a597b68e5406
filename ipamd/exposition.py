"""Counters and histograms, and the text in which Prometheus reads them.

Written here and not taken from prometheus_client: that gives every counter a name of its own
making (`..._total`, `..._created`), under which no dashboard made for aws-node finds it, and takes
4 MB and 45 ms of a daemon's start for its HTTP server. Format: Prometheus documentation,
"Text-based format", version 0.0.4. Samples may be added and read in any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import inf, isinf
from typing import Protocol

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One line: `suffix` is what follows the family's name."""

    value: float
    labels: Mapping[str, str]
    suffix: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Family:
    """All samples of one name at one moment. `kind`: counter, gauge or histogram."""

    name: str
    meaning: str
    kind: str
    samples: tuple[Sample, ...]


def gauge(name: str, meaning: str, value: float) -> Family:
    """A gauge without labels."""
    return gauges(name, meaning, "", {"": value})


def gauges(name: str, meaning: str, label: str, values: Mapping[str, float]) -> Family:
    """A gauge with one label; an empty label is none."""
    samples = (
        Sample(value=value, labels={label: text} if label else {}) for text, value in values.items()
    )
    return Family(name=name, meaning=meaning, kind="gauge", samples=tuple(samples))


class Counter:
    """Sums by the values of its labels; they only grow."""

    def __init__(self, name: str, meaning: str, labels: Labels) -> None:
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._lock = threading.Lock()
        self._sums: dict[Labels, float] = {}

    def inc(self, *values: str, by: float = 1.0) -> None:
        """Add to the sum of these values of the labels."""
        _require_same_count(self._labels, values)
        with self._lock:
            self._sums[values] = self._sums.get(values, 0.0) + by

    def collect(self) -> Iterator[Family]:
        """The sums of this moment."""
        with self._lock:
            sums = dict(self._sums)
        samples = (
            Sample(value=value, labels=dict(zip(self._labels, values, strict=True)))
            for values, value in sums.items()
        )
        yield Family(name=self._name, meaning=self._meaning, kind="counter", samples=tuple(samples))


class Newest:
    """A gauge that keeps the newest value of each label, for names that are somebody else's.

    `most` bounds how many; what is new beyond them is left out.
    """

    def __init__(self, name: str, meaning: str, label: str, *, most: int) -> None:
        self._name = name
        self._meaning = meaning
        self._label = label
        self._most = most
        self._lock = threading.Lock()
        self._values: dict[str, float] = {}

    def set(self, text: str, value: float) -> None:
        """This is the value now."""
        with self._lock:
            if text in self._values or len(self._values) < self._most:
                self._values[text] = value

    def collect(self) -> Iterator[Family]:
        """The values of this moment."""
        with self._lock:
            values = dict(self._values)
        yield gauges(self._name, self._meaning, self._label, values)


class Histogram:
    """Counts by upper bounds, and the sum, by the values of its labels."""

    def __init__(
        self, name: str, meaning: str, labels: Labels, *, bounds: tuple[float, ...]
    ) -> None:
        if list(bounds) != sorted(set(bounds)):
            raise ValueError(f"{name}: the bounds must rise")
        self._name = name
        self._meaning = meaning
        self._labels = labels
        self._bounds = (*bounds, inf)
        self._lock = threading.Lock()
        self._series: dict[Labels, list[float]] = {}  # counts by bound, not added up; the sum last

    def observe(self, *values: str, amount: float) -> None:
        """Count one observation under these values of the labels."""
        _require_same_count(self._labels, values)
        slot = next(i for i, bound in enumerate(self._bounds) if amount <= bound)
        with self._lock:
            series = self._series.setdefault(values, [0.0] * (len(self._bounds) + 1))
            series[slot] += 1
            series[-1] += amount

    def collect(self) -> Iterator[Family]:
        """The counts of this moment."""
        with self._lock:
            series = {values: list(counts) for values, counts in self._series.items()}
        samples = (
            sample
            for values, counts in series.items()
            for sample in self._samples(dict(zip(self._labels, values, strict=True)), counts)
        )
        yield Family(
            name=self._name, meaning=self._meaning, kind="histogram", samples=tuple(samples)
        )

    def _samples(self, labels: Mapping[str, str], counts: list[float]) -> Iterator[Sample]:
        so_far = 0.0
        for bound, count in zip(self._bounds, counts, strict=False):
            so_far += count
            within = {**labels, "le": _number(bound)}
            yield Sample(value=so_far, labels=within, suffix="_bucket")
        yield Sample(value=so_far, labels=labels, suffix="_count")
        yield Sample(value=counts[-1], labels=labels, suffix="_sum")


class Collector(Protocol):
    """Whatever has something to tell at each reading."""

    def collect(self) -> Iterable[Family]:
        """The families of this moment."""


class Registry:
    """What is told, in the order in which it was registered."""

    def __init__(self) -> None:
        self._collectors: list[Collector] = []

    def register(self, *collectors: Collector) -> None:
        """Ask these at every reading."""
        self._collectors.extend(collectors)

    def text(self) -> bytes:
        """Everything, as /metrics serves it."""
        families = (family for one in self._collectors for family in one.collect())
        return render(families).encode()


def render(families: Iterable[Family]) -> str:
    """The text format (pure). Example line: pool{state="available"} 3"""
    return "".join(line for family in families for line in _lines(family))


def _lines(family: Family) -> Iterator[str]:
    meaning = family.meaning.replace("\\", r"\\").replace("\n", r"\n")
    yield f"# HELP {family.name} {meaning}\n# TYPE {family.name} {family.kind}\n"
    for sample in family.samples:
        inside = ",".join(f'{name}="{_escaped(text)}"' for name, text in sample.labels.items())
        labels = f"{{{inside}}}" if inside else ""
        yield f"{family.name}{sample.suffix}{labels} {_number(sample.value)}\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    """Whole numbers without a point: 3, 0.5, +Inf."""
    if isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return str(int(value)) if value == int(value) else repr(value)


def _require_same_count(labels: Labels, values: tuple[str, ...]) -> None:
    if len(labels) != len(values):
        raise ValueError(f"labels {labels} cannot have the values {values}")
