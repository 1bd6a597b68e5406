"""GC: what the runtime does not know any more goes, and nothing else."""

from __future__ import annotations

import pytest
from cni_shim.datapath.errors import DatapathError
from cni_shim.errors import CniErrorCode
from cni_shim.gc import stale_of
from cni_shim.spec import AttachmentKey
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from tests.cni_bench import KEY, Bench, R, away, hold_for_peer, refusal


@pytest.fixture
def bench() -> Bench:
    return Bench()


def hold(bench: Bench, *names: str, network: str = "net", wired_by: str = "") -> None:
    """Attachments in the ledger whose namespaces are gone, and their links with them."""
    for number, name in enumerate(names, start=len(bench.ipam.held) + 10):
        bench.ipam.held[name] = pb.Allocation(
            key=pb.AttachmentKey(container_id=name, ifname="eth0"),
            generation=number,
            network_name=network,
            address=f"10.0.0.{number}",
            addresses=[f"10.0.0.{number}"],
            pod_name=name,
            wired_by=wired_by,
        )


@pytest.mark.parametrize(
    ("valid", "left"),
    [
        pytest.param((), [], id="nothing-valid"),
        pytest.param(("a",), ["a"], id="one-valid"),
        pytest.param(("a", "b", "c"), ["a", "b", "c"], id="all-valid"),
        pytest.param(("x", "y"), [], id="unknown-ids"),
        pytest.param(("c", "x"), ["c"], id="known-and-unknown"),
    ],
)
def test_what_is_not_named_is_released(
    bench: Bench, valid: tuple[str, ...], left: list[str]
) -> None:
    hold(bench, "a", "b", "c")
    bench.collect(*valid)
    assert list(bench.ipam.held) == left


def test_what_is_stale_goes_the_way_of_a_del(bench: Bench) -> None:
    hold(bench, "a")
    bench.collect()
    assert bench.diary == ["unwire 10.0.0.10 of a", "release 10.0.0.10"]


def test_another_networks_attachments_stay(bench: Bench) -> None:
    hold(bench, "a", network="other")
    bench.collect()
    assert list(bench.ipam.held) == ["a"]


def test_another_networks_ids_keep_nothing(bench: Bench) -> None:
    hold(bench, "a")
    hold(bench, "b", network="other")
    bench.collect("b")
    assert list(bench.ipam.held) == ["b"]


def test_another_interface_of_a_valid_container_is_released(bench: Bench) -> None:
    hold_for_peer(bench, ifname="net1", network_name="net")
    bench.ipam.held["c1/net1"].wired_by = ""
    hold(bench, "c1")
    bench.collect("c1")
    assert list(bench.ipam.held) == ["c1"]


def test_what_the_peer_wired_is_never_touched(bench: Bench) -> None:
    hold_for_peer(bench, network_name="net")
    bench.collect()
    assert (bench.diary, list(bench.ipam.held)) == ([], ["c1"])


def test_what_another_plugin_wired_loses_its_rules_and_its_address(bench: Bench) -> None:
    hold(bench, "a", wired_by="main-plugin")
    bench.collect()
    assert bench.diary == ["remove rules of 10.0.0.10", "release 10.0.0.10"]


def test_a_namespace_that_lives_beats_the_list(bench: Bench) -> None:
    bench.add()
    hold(bench, "a")
    bench.collect()
    assert list(bench.ipam.held) == ["c1"]
    assert bench.datapath.links == {"c1": "10.0.0.5"}


def test_the_living_namespace_of_another_plugins_pod_beats_the_list(bench: Bench) -> None:
    hold(bench, "a", "b", wired_by="main-plugin")
    bench.ipam.held["a"].netns_cookie = 21
    bench.ipam.held["b"].netns_cookie = 22
    bench.living = {7, 21}
    bench.collect()
    assert list(bench.ipam.held) == ["a"]


def test_gc_goes_on_after_an_error_and_tells_all_at_its_end(bench: Bench) -> None:
    hold(bench, "a", "b", "c", "d")
    bench.datapath.script["unwire"] = [DatapathError("delete link", 16), None, None, None]
    bench.ipam.script["release"] = [None, refusal(door.Status.INTERNAL, R.STORE_FAILED)]
    error = bench.refused(bench.collect)
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
    assert "2 of 4" in error.msg
    assert "a/eth0" in error.details
    assert "c/eth0" in error.details
    assert list(bench.ipam.held) == ["a", "c"]


def test_a_gc_after_an_error_finishes_the_work(bench: Bench) -> None:
    hold(bench, "a")
    bench.datapath.script["unwire"] = [DatapathError("delete link", 16)]
    bench.refused(bench.collect)
    bench.collect()
    assert not bench.ipam.held


def test_very_many_errors_are_cut_short(bench: Bench) -> None:
    hold(bench, *(f"c{n}" for n in range(30)))
    bench.datapath.script["has_link"] = [DatapathError("list links", 105)] * 30
    error = bench.refused(bench.collect)
    assert error.msg.startswith("30 of 30")
    assert error.details.endswith("see the log")


def test_an_attachment_that_a_verb_works_on_is_left_to_it_and_told(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cni_shim.gc.BUSY_SECONDS", 0.02)
    hold(bench, "c1", "d")
    with bench.verbs.locked(KEY, timeout_seconds=1):
        error = bench.refused(bench.collect)
    assert "c1/eth0" in error.details
    assert list(bench.ipam.held) == ["c1"]


def test_what_came_back_since_the_list_stays(bench: Bench) -> None:
    hold(bench, "a")
    listed = bench.ipam.list(deadline_monotonic=0)
    bench.ipam.held["a"].generation += 1
    bench.ipam.list = lambda *, deadline_monotonic: listed  # type: ignore[method-assign]
    bench.collect()
    assert list(bench.ipam.held) == ["a"]


def test_without_ipamds_list_nothing_is_released(bench: Bench) -> None:
    hold(bench, "a")
    bench.ipam.script["list"] = [away()]
    assert bench.refused(bench.collect).code is CniErrorCode.TRY_AGAIN_LATER
    assert bench.diary == ["list refused"]


def test_a_second_gc_has_nothing_to_do(bench: Bench) -> None:
    hold(bench, "a")
    bench.collect()
    bench.diary.clear()
    bench.collect()
    assert bench.diary == []


def test_a_del_after_gc_succeeds(bench: Bench) -> None:
    bench.add()
    bench.datapath.links.clear()
    bench.collect()
    bench.delete()
    assert not bench.ipam.held


def test_an_attachment_of_an_unknown_network_is_nobodys_to_collect() -> None:
    unnamed = pb.Allocation(key=pb.AttachmentKey(container_id="a", ifname="eth0"))
    assert stale_of((unnamed,), "net", frozenset[AttachmentKey]()) == ()
