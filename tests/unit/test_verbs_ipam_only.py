"""ADD, DEL, CHECK and GC for another plugin's pods, in order, and what a failure leaves."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

import pytest
from cni_shim.datapath.errors import AddressInUse, DatapathError
from cni_shim.errors import CniErrorCode
from cni_shim.ipam_only import IpamOnly
from cni_shim.results import Result
from cni_shim.spec import AttachmentKey, CniRequest, Verb

from tests.cni_bench import KEY, Bench, away

PTP = IpamOnly(main_type="ptp", eni="eni-1")


class Delegated(Bench):
    """The same bench, asked by a main plugin."""

    def request(self, verb: Verb = Verb.ADD) -> CniRequest:
        return replace(super().request(verb), ipam_only=PTP)


@pytest.fixture
def bench() -> Delegated:
    return Delegated()


def told(result: Result) -> dict[str, object]:
    return {
        "ips": [(str(ip.address), str(ip.gateway), ip.interface) for ip in result.ips],
        "routes": [(str(route.dst), route.gateway) for route in result.routes],
        "interfaces": result.interfaces,
    }


def test_an_add_pins_the_eni_puts_the_rules_and_answers_addresses_alone(bench: Delegated) -> None:
    bench.ipam.networks = ("10.0.0.", "2001:db8::")
    assert told(bench.result()) == {
        "ips": [("10.0.0.5/24", "10.0.0.1", None), ("2001:db8::5/64", "fe80:ec2::1", None)],
        "routes": [("0.0.0.0/0", None), ("::/0", None)],
        "interfaces": (),
    }
    assert (bench.diary, bench.ipam.asked) == (["allocate 10.0.0.5", "put"], ["eni-1"])


def test_ours_as_main_plugin_asks_for_any_eni() -> None:
    bench = Bench()
    bench.add()
    assert (bench.ipam.asked, bench.delegates.standing) == ([""], {})


def test_a_del_removes_the_rules_before_it_releases(bench: Delegated) -> None:
    bench.result()
    bench.diary.clear()
    bench.delete()
    assert bench.diary == ["remove rules of 10.0.0.5", "release 10.0.0.5"]


def test_a_del_by_a_config_of_the_other_mode_goes_by_the_ledger(bench: Delegated) -> None:
    bench.result()
    bench.diary.clear()
    main = replace(bench.request(Verb.DEL), ipam_only=None)
    bench.verbs.delete(main, KEY, deadline_monotonic=time.monotonic() + 5)
    assert bench.diary == ["remove rules of 10.0.0.5", "release 10.0.0.5"]


def test_a_del_whose_rules_stay_keeps_the_address(bench: Delegated) -> None:
    bench.result()
    bench.delegates.is_stuck = True
    error = bench.refused(bench.delete)
    assert (error.code, list(bench.ipam.held)) == (CniErrorCode.TRY_AGAIN_LATER, ["c1"])
    bench.delegates.is_stuck = False
    bench.delete()
    assert not bench.ipam.held


def test_an_address_that_the_node_uses_is_quarantined_and_the_next_one_taken(
    bench: Delegated,
) -> None:
    bench.delegates.refusals = [AddressInUse(IPv4Address("10.0.0.5"), "a route to veth9")]
    assert str(bench.result().ips[0].address) == "10.0.0.6/24"
    assert "release 10.0.0.5 as foreign" in bench.diary


def test_rules_that_cannot_be_put_give_the_address_back(bench: Delegated) -> None:
    bench.delegates.refusals = [DatapathError("add rule 1536", 12)]
    assert bench.refused(bench.result).code is CniErrorCode.INTERFACE_SETUP
    assert not bench.ipam.held


def test_an_answer_that_could_not_be_delivered_is_undone(bench: Delegated) -> None:
    attempt = bench.attempt()
    bench.result(attempt)
    bench.verbs.undo_locked(bench.request(), attempt)
    assert (bench.ipam.held, bench.delegates.standing) == ({}, {})


def test_a_repeated_add_puts_what_is_missing_and_answers_the_same(bench: Delegated) -> None:
    first = bench.result()
    bench.diary.clear()
    assert bench.result() == first
    assert bench.diary == ["put again"]


def test_a_config_that_became_one_of_a_main_plugin_has_the_old_links_removed_first(
    bench: Delegated,
) -> None:
    bench.verbs.add(replace(bench.request(), ipam_only=None), 3, bench.attempt())
    bench.diary.clear()
    bench.result()
    assert bench.diary == [
        "unwire 10.0.0.5 of web",
        "release 10.0.0.5",
        "allocate 10.0.0.6",
        "put",
    ]


def test_a_del_that_a_lost_store_does_not_know_goes_by_the_runtimes_word(bench: Delegated) -> None:
    previous: Mapping[str, object] = {"ips": [{"address": "10.0.0.9/24"}]}
    request = replace(bench.request(Verb.DEL), prev_result=previous)
    bench.verbs.delete(request, KEY, deadline_monotonic=time.monotonic() + 5)
    assert bench.diary == ["remove rules of the key", "remove unknown 10.0.0.9"]


@pytest.mark.parametrize("is_recalled", [True, False], ids=["recalled", "just restarted"])
def test_a_late_del_takes_no_rules_of_the_next_holder_of_its_address(
    bench: Delegated, is_recalled: bool
) -> None:
    bench.result()
    if not is_recalled:
        bench.verbs._cache.clear()
    bench.diary.clear()
    previous: Mapping[str, object] = {"ips": [{"address": "10.0.0.5/24"}, {"address": "10.0.0.9"}]}
    late = AttachmentKey(container_id="c0", ifname="eth0")
    request = replace(bench.request(Verb.DEL), key=late, prev_result=previous)
    bench.verbs.delete(request, late, deadline_monotonic=time.monotonic() + 5)
    assert bench.diary == ["remove rules of the key", "remove unknown 10.0.0.9"]


def test_a_late_del_waits_for_the_ledgers_word(bench: Delegated) -> None:
    previous: Mapping[str, object] = {"ips": [{"address": "10.0.0.9/24"}]}
    bench.ipam.script["list"] = [away()]
    request = replace(bench.request(Verb.DEL), prev_result=previous)
    bench.verbs.delete(request, KEY, deadline_monotonic=time.monotonic() + 5)
    assert (bench.diary[-2:], bench.queued) == (["list refused", "queue"], [KEY])


def test_a_del_while_ipamd_is_away_after_a_restart_touches_no_address_by_hearsay(
    bench: Delegated,
) -> None:
    bench.result()
    bench.verbs._cache.clear()
    bench.ipam.script["get"] = [away()]
    bench.diary.clear()
    bench.delete()
    assert bench.diary == ["get refused", "remove rules of the key", "queue"]


def test_check_compares_rules_and_addresses(bench: Delegated) -> None:
    bench.result()
    previous = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth0", "sandbox": "/run/netns/p"}],
        "ips": [{"address": "10.0.0.5/24", "interface": 0}],
    }
    bench.check(previous)
    bench.delegates.problems = ("missing: add rule 1536",)
    error = bench.refused(lambda: bench.check(previous))
    assert (error.code, "add rule 1536" in error.details) == (CniErrorCode.CHECK_MISMATCH, True)


def test_a_restart_recalls_what_stands_for_other_plugins(bench: Delegated) -> None:
    bench.result()
    bench.delegates.standing.clear()
    bench.recall()
    (delegation,) = bench.delegates.standing.values()
    assert ([str(a) for a in delegation.addresses], delegation.table) == (["10.0.0.5"], 2)


def test_rules_of_what_a_del_ends_while_ipamd_lists_do_not_come_back(bench: Delegated) -> None:
    bench.result()
    bench.ipam.after_list = bench.delete
    bench.recall()
    assert not bench.delegates.standing


def test_gc_ends_what_the_runtime_does_not_name(bench: Delegated) -> None:
    bench.result()
    bench.collect("another")
    assert (bench.ipam.held, bench.delegates.standing) == ({}, {})


def test_gc_keeps_what_the_runtime_names(bench: Delegated) -> None:
    bench.result()
    bench.collect("c1")
    assert list(bench.delegates.standing) == [AttachmentKey(container_id="c1", ifname="eth0")]
