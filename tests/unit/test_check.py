"""CHECK: what differs between ledger, prevResult and kernel is told, and nothing else is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import pytest
from cni_shim.datapath.errors import DatapathError
from cni_shim.errors import CniErrorCode
from cni_shim.results import to_document
from ipam_api.v1 import ipam_pb2 as pb

from tests.cni_bench import KEY, Bench, away, hold_for_peer

Document = dict[str, Any]


@pytest.fixture
def bench() -> Bench:
    return Bench()


def added(bench: Bench, version: str = "1.0.0") -> Document:
    """The result of an ADD as the runtime will hand it over."""
    document = dict(to_document(bench.result(), version))
    bench.diary.clear()
    return document


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0", "0.2.0"])
@pytest.mark.parametrize("networks", [("10.0.0.",), ("2001:db8::",), ("10.0.0.", "2001:db8::")])
def test_an_attachment_as_its_add_left_it_passes_in_every_version(
    bench: Bench, version: str, networks: tuple[str, ...]
) -> None:
    bench.ipam.networks = networks
    bench.check(added(bench, version))
    assert bench.diary == []  # from memory: ipamd is not asked


def test_an_attachment_that_is_not_cached_is_asked_for(bench: Bench) -> None:
    document = added(bench)
    bench.verbs._cache.clear()
    bench.check(document)


def test_ipamd_away_is_no_verdict(bench: Bench) -> None:
    document = added(bench)
    bench.verbs._cache.clear()
    bench.ipam.script["get"] = [away()]
    error = bench.refused(lambda: bench.check(document))
    assert error.code is CniErrorCode.TRY_AGAIN_LATER


def test_a_silent_ipamd_leaves_time_for_the_answer(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = added(bench)
    bench.verbs._cache.clear()
    patience: list[float] = []

    def hang(key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        patience.append(deadline_monotonic - time.monotonic())
        raise away()

    monkeypatch.setattr(bench.ipam, "get", hang)
    bench.refused(lambda: bench.check(document, seconds=5.0))
    assert patience[0] <= 4.0


def test_ipamd_away_does_not_matter_for_what_is_cached(bench: Bench) -> None:
    document = added(bench)
    bench.ipam.script["get"] = [away()]
    bench.check(document)


def test_an_attachment_without_an_address_is_a_mismatch(bench: Bench) -> None:
    document = added(bench)
    bench.verbs._cache.clear()
    bench.ipam.held.clear()
    error = bench.refused(lambda: bench.check(document))
    assert (error.code, error.details) == (CniErrorCode.CHECK_MISMATCH, str(KEY))


@pytest.mark.parametrize(
    "prev_result", [None, {"ips": "?"}, {"ips": [{"address": "?"}]}], ids=["none", "text", "bad"]
)
def test_a_check_wants_a_prev_result_that_can_be_read(
    bench: Bench, prev_result: Mapping[str, object] | None
) -> None:
    bench.add()
    error = bench.refused(lambda: bench.check(prev_result))
    assert error.code is CniErrorCode.INVALID_NETWORK_CONFIG


def tuned(document: Document) -> None:
    document["interfaces"][1]["mac"] = "0A:00:00:00:00:99"


def more_links(document: Document) -> None:
    document["interfaces"].append({"name": "ifb0", "mac": ""})
    document["interfaces"].append({"name": "net1", "mac": "", "sandbox": "/run/netns/p"})
    document["ips"].append({"address": "192.168.0.9/24", "interface": 3})
    document["routes"].append({"dst": "192.168.1.0/24"})


def unnumbered(document: Document) -> None:
    del document["ips"][0]["interface"]


@pytest.mark.parametrize("change", [tuned, more_links, unnumbered])
def test_what_later_plugins_did_is_no_fault(
    bench: Bench, change: Callable[[Document], None]
) -> None:
    document = added(bench)
    change(document)
    bench.check(document)


def test_the_mac_that_tuning_gave_is_what_the_kernel_is_asked_for(bench: Bench) -> None:
    document = added(bench)
    tuned(document)
    bench.check(document)
    assert bench.datapath.macs_asked == ["0a:00:00:00:00:99"]


def without_pod_link(document: Document) -> None:
    document["interfaces"][1]["name"] = "eth1"


def without_sandbox(document: Document) -> None:
    del document["interfaces"][1]["sandbox"]


def without_addresses(document: Document) -> None:
    document["ips"] = []


def of_another_pod(document: Document) -> None:
    document["ips"][0]["address"] = "10.0.0.77/32"


def on_the_host_link(document: Document) -> None:
    document["ips"][0]["interface"] = 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_pod_link, "no interface eth0 with a sandbox"),
        (without_sandbox, "no interface eth0 with a sandbox"),
        (without_addresses, "does not have 10.0.0.5"),
        (of_another_pod, "does not have 10.0.0.5"),
        (on_the_host_link, "has 10.0.0.5 on another interface"),
    ],
)
def test_a_prev_result_without_what_is_ours_is_a_mismatch(
    bench: Bench, change: Callable[[Document], None], words: str
) -> None:
    document = deepcopy(added(bench))
    change(document)
    error = bench.refused(lambda: bench.check(document))
    assert error.code is CniErrorCode.CHECK_MISMATCH
    assert words in error.details


def test_everything_that_differs_is_told_at_once(bench: Bench) -> None:
    document = added(bench)
    without_pod_link(document)
    bench.datapath.missing = ("there is no rule for it", "the default route is gone")
    details = bench.refused(lambda: bench.check(document)).details
    for words in (str(KEY), "no interface eth0", "no rule for it", "the default route is gone"):
        assert words in details


def test_a_kernel_without_the_link_is_a_mismatch(bench: Bench) -> None:
    document = added(bench)
    bench.datapath.links.clear()
    error = bench.refused(lambda: bench.check(document))
    assert (error.code, "the link is gone" in error.details) == (CniErrorCode.CHECK_MISMATCH, True)


def test_another_namespace_than_the_adds_is_a_mismatch(bench: Bench) -> None:
    document = added(bench)
    bench.datapath.cookie = 8
    error = bench.refused(lambda: bench.check(document))
    assert error.code is CniErrorCode.CHECK_MISMATCH
    assert "another network namespace" in error.details


@pytest.mark.parametrize("call", ["cookie", "check"])
def test_a_kernel_that_cannot_be_read_is_no_verdict(bench: Bench, call: str) -> None:
    document = added(bench)
    bench.datapath.script[call] = [DatapathError("list links", 105)]
    error = bench.refused(lambda: bench.check(document))
    assert error.code is CniErrorCode.TRY_AGAIN_LATER


def test_of_what_the_peer_wired_only_the_records_are_compared(bench: Bench) -> None:
    hold_for_peer(bench)
    document: Document = {
        "interfaces": [{"name": "eth0", "mac": "", "sandbox": "/run/netns/p"}],
        "ips": [{"address": "10.0.0.9/32", "interface": 0}],
    }
    bench.check(document)
    document["ips"][0]["address"] = "10.0.0.10/32"
    assert "10.0.0.9" in bench.refused(lambda: bench.check(document)).details


def test_a_check_waits_for_a_verb_of_its_key(bench: Bench) -> None:
    document = added(bench)
    with bench.verbs.locked(KEY, timeout_seconds=1):
        error = bench.refused(lambda: bench.check(document, seconds=0.05))
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
