"""Our metrics' text, read back by Prometheus' own client library."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from ipamd.exposition import Counter, Family, Histogram, Registry, Sample, gauge, render

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r"), max_size=12)


def samples(text: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples of a text, by name and labels."""
    return {
        (s.name, tuple(sorted(s.labels.items()))): s.value
        for family in text_string_to_metric_families(text)
        for s in family.samples
    }


def test_a_counter_has_exactly_its_name() -> None:
    counter = Counter("awscni_ec2api_req_count", "Calls", ("fn",))
    counter.inc("A")
    counter.inc("A", by=2)
    counter.inc("B")
    assert render(counter.collect()) == (
        "# HELP awscni_ec2api_req_count Calls\n"
        "# TYPE awscni_ec2api_req_count counter\n"
        'awscni_ec2api_req_count{fn="A"} 3\n'
        'awscni_ec2api_req_count{fn="B"} 1\n'
    )


def test_a_gauge_without_labels() -> None:
    assert render([gauge("up", "Is it\nup?", 0.5)]) == (
        "# HELP up Is it\\nup?\n# TYPE up gauge\nup 0.5\n"
    )


def test_a_histogram_counts_up_to_each_bound() -> None:
    histogram = Histogram("t", "Time", ("who",), bounds=(1.0, 2.5))
    for amount in (0.5, 1.0, 2.0, 9.0):
        histogram.observe("x", amount=amount)
    assert render(histogram.collect()).splitlines()[2:] == [
        't_bucket{who="x",le="1"} 2',
        't_bucket{who="x",le="2.5"} 3',
        't_bucket{who="x",le="+Inf"} 4',
        't_count{who="x"} 4',
        't_sum{who="x"} 12.5',
    ]


def test_labels_and_values_must_match() -> None:
    with pytest.raises(ValueError, match="cannot have the values"):
        Counter("c", "", ("a", "b")).inc("1")


def test_bounds_must_rise() -> None:
    with pytest.raises(ValueError, match="the bounds must rise"):
        Histogram("h", "", (), bounds=(2.0, 1.0))


def test_a_registry_asks_at_every_reading() -> None:
    class Rising:
        value = 0.0

        def collect(self) -> list[Family]:
            self.value += 1
            return [gauge("g", "", self.value)]

    registry = Registry()
    registry.register(Rising())
    assert [registry.text().splitlines()[-1], registry.text().splitlines()[-1]] == [b"g 1", b"g 2"]


@given(st.dictionaries(st.sampled_from("abc"), TEXT), st.floats(allow_nan=False), TEXT)
def test_prometheus_reads_back_what_was_written(
    labels: dict[str, str], value: float, meaning: str
) -> None:
    sample = Sample(value=value, labels=labels)
    family = Family(name="m", meaning=meaning, kind="gauge", samples=(sample,))
    assert samples(render([family])) == {("m", tuple(sorted(labels.items()))): value}
