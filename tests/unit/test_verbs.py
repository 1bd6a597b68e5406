"""ADD and DEL against an ipamd and a kernel that keep a diary and say no on demand."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest
from cni_shim.attempt import Attempt
from cni_shim.datapath.errors import AddressInUse, DatapathError, ForeignInterface
from cni_shim.datapath.pods import PodWiring, Wired
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.ipam_client import IpamdError
from cni_shim.spec import AttachmentKey, Verb
from cni_shim.verbs import Verbs
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from tests.cni_bench import KEY, Bench, R, away, hold_for_peer, refusal


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_an_add_allocates_wires_and_answers(bench: Bench) -> None:
    assert bench.add() == {"address": "10.0.0.5/32", "host": "eni123"}
    assert bench.diary == ["allocate 10.0.0.5", "wire 10.0.0.5 mark 2"]


def test_a_del_unwires_before_it_releases(bench: Bench) -> None:
    bench.add()
    bench.diary.clear()
    bench.delete()
    assert bench.diary == ["unwire 10.0.0.5 of web", "release 10.0.0.5"]


def test_a_repeated_add_of_what_stands_wires_nothing(bench: Bench) -> None:
    first = bench.add()
    bench.diary.clear()
    assert bench.add() == first
    assert bench.diary == []


def test_a_repeated_add_of_a_half_wired_pod_wires_it_anew(bench: Bench) -> None:
    bench.add()
    bench.datapath.links.clear()
    bench.diary.clear()
    bench.add()
    assert bench.diary == ["wire 10.0.0.5 mark 2"]


def test_another_namespace_under_the_key_has_the_old_one_torn_down_first(bench: Bench) -> None:
    bench.add()
    bench.datapath.cookie = 8
    bench.diary.clear()
    assert bench.add()["address"] == "10.0.0.6/32"
    assert bench.diary == [
        "unwire 10.0.0.5 of web",
        "release 10.0.0.5",
        "allocate 10.0.0.6",
        "wire 10.0.0.6 mark 2",
    ]


def test_an_address_the_kernel_uses_is_quarantined_and_the_next_one_taken(bench: Bench) -> None:
    bench.datapath.script["wire"] = [AddressInUse(IPv4Address("10.0.0.5"), "a route to veth9")]
    assert bench.add()["address"] == "10.0.0.6/32"
    assert "release 10.0.0.5 as foreign" in bench.diary


def test_when_every_address_is_used_the_error_names_the_last(bench: Bench) -> None:
    bench.datapath.script["wire"] = [
        AddressInUse(IPv4Address(f"10.0.0.{n}"), "a route") for n in range(5, 9)
    ]
    error = bench.refused(bench.add)
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
    assert "10.0.0.8" in error.details
    assert not bench.ipam.held


@pytest.mark.parametrize(
    "failure",
    [DatapathError("create veth", 12), ForeignInterface("eth0")],
    ids=["no memory", "foreign eth0"],
)
def test_a_wiring_that_fails_gives_the_address_back(bench: Bench, failure: DatapathError) -> None:
    bench.datapath.script["wire"] = [failure]
    error = bench.refused(bench.add)
    assert error.code is CniErrorCode.INTERFACE_SETUP
    assert not bench.ipam.held


def test_no_address_is_an_error_that_carries_ipamds_reason(bench: Bench) -> None:
    bench.ipam.script["allocate"] = [refusal(door.Status.RESOURCE_EXHAUSTED, R.NO_ADDRESS)]
    error = bench.refused(bench.add)
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
    assert "the reason" in error.details


def test_a_launcher_that_goes_while_ipamd_is_asked_gets_nothing_wired(bench: Bench) -> None:
    attempt = bench.attempt()
    bench.ipam.on_allocate = attempt.cancel
    bench.refused(lambda: bench.add(attempt))
    _wait(lambda: not bench.ipam.held)
    assert not bench.datapath.links
    assert not [line for line in bench.diary if line.startswith("wire")]


def test_a_repeated_add_that_is_cancelled_ends_what_the_first_wired(bench: Bench) -> None:
    """ipamd has the attachment in the last attempt's name, whose release ends it."""
    bench.add()
    attempt = bench.attempt()
    bench.ipam.on_allocate = attempt.cancel
    bench.refused(lambda: bench.add(attempt))
    _wait(lambda: not bench.ipam.held)
    assert not bench.datapath.links
    assert not bench.verbs.held()


def test_a_wiring_that_failed_and_stands_goes_before_its_address(bench: Bench) -> None:
    def fail_half_way() -> None:
        bench.datapath.links["c1"] = "10.0.0.5"
        raise DatapathError("add rule 512", errno.ENOMEM)

    bench.datapath.during_wire = fail_half_way
    bench.refused(bench.add)
    assert bench.diary == ["allocate 10.0.0.5", "unwire 10.0.0.5 of web", "release 10.0.0.5"]
    assert not bench.datapath.links


def test_the_address_of_a_wiring_that_cannot_be_undone_stays_allocated(bench: Bench) -> None:
    bench.datapath.script["wire"] = [DatapathError("add rule 512", errno.ENOMEM)]
    bench.datapath.script["unwire"] = [DatapathError("delete link", errno.EBUSY)] * 2
    bench.refused(bench.add)
    assert list(bench.ipam.held) == ["c1"]


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.EINVAL, CniErrorCode.INVALID_NETNS),
        (errno.EMFILE, CniErrorCode.TRY_AGAIN_LATER),
    ],
    ids=["no network namespace", "no descriptor left"],
)
def test_only_what_is_no_network_namespace_is_called_so(
    bench: Bench, number: int, code: CniErrorCode
) -> None:
    bench.datapath.script["cookie"] = [DatapathError("open a netlink socket", number)]
    assert bench.refused(bench.add).code is code


def test_what_a_del_ends_while_ipamd_lists_is_not_recalled(bench: Bench) -> None:
    bench.add()
    bench.ipam.after_list = bench.delete
    bench.recall()
    assert not bench.verbs.held()


def test_what_a_verb_works_on_is_not_recalled(bench: Bench) -> None:
    bench.add()
    bench.verbs._cache.clear()
    with bench.verbs.locked(KEY, timeout_seconds=0):
        bench.recall()
    assert not bench.verbs.held()
    bench.recall()
    assert list(bench.verbs.held()) == [("c1", "eth0")]


def test_a_launcher_that_goes_while_wiring_is_undone_before_the_release(bench: Bench) -> None:
    attempt = bench.attempt()
    bench.datapath.during_wire = attempt.cancel
    bench.refused(lambda: bench.add(attempt))
    assert bench.diary == [
        "allocate 10.0.0.5",
        "wire 10.0.0.5 mark 2",
        "unwire 10.0.0.5 of web",
        "release 10.0.0.5",
    ]


def test_an_answer_that_could_not_be_delivered_is_undone(bench: Bench) -> None:
    attempt = bench.attempt()
    bench.add(attempt)
    bench.verbs.undo_locked(bench.request(), attempt)
    assert not bench.ipam.held
    assert not bench.datapath.links


def test_an_undelivered_answer_of_an_older_attempt_undoes_nothing(bench: Bench) -> None:
    old = bench.attempt()
    bench.add(old)
    bench.ipam.held["c1"].attempt_id = "f" * 16
    bench.verbs._cache[KEY].attempt_id = "f" * 16
    bench.verbs.undo_locked(bench.request(), old)
    assert bench.ipam.held


def test_a_del_whose_kernel_part_fails_keeps_the_address(bench: Bench) -> None:
    bench.add()
    bench.datapath.script["unwire"] = [DatapathError("delete link", 16)]
    error = bench.refused(bench.delete)
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
    assert "stays allocated" in error.details
    assert bench.ipam.held
    bench.delete()
    assert not bench.ipam.held


def test_a_del_while_ipamd_is_away_is_queued_and_succeeds(bench: Bench) -> None:
    bench.add()
    bench.ipam.script["release"] = [away()]
    bench.delete()
    assert bench.queued == [KEY]
    assert not bench.datapath.links


def test_a_del_that_ipamd_cannot_record_is_queued(bench: Bench) -> None:
    bench.add()
    bench.ipam.script["release"] = [refusal(door.Status.INTERNAL, R.STORE_FAILED)]
    bench.delete()
    assert bench.queued == [KEY]


def test_a_del_of_what_never_was_succeeds_and_leaves_a_tombstone(bench: Bench) -> None:
    bench.delete()
    assert bench.diary == ["unwire nothing of web"]


def test_a_del_after_a_restart_asks_the_ledger(bench: Bench) -> None:
    bench.add()
    bench.verbs._cache.clear()
    bench.diary.clear()
    bench.delete()
    assert bench.diary == ["unwire 10.0.0.5 of web", "release 10.0.0.5"]


def test_a_del_goes_on_without_the_ledgers_word(bench: Bench) -> None:
    bench.add()
    bench.verbs._cache.clear()
    bench.ipam.script["get"] = [away()]
    bench.delete()
    assert not bench.datapath.links
    assert (bench.queued, list(bench.ipam.held)) == ([KEY], ["c1"])


def ending(call: Callable[[], object]) -> tuple[threading.Thread, list[str]]:
    """The call on a thread of its own, and how it ended."""
    ends: list[str] = []

    def run() -> None:
        try:
            call()
            ends.append("success")
        except CniError as e:
            ends.append(e.msg)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, ends


def test_a_del_waits_until_an_add_of_its_key_is_undone(bench: Bench) -> None:
    started, go = threading.Event(), threading.Event()

    def hold() -> None:
        started.set()
        assert go.wait(10)

    bench.datapath.during_wire = hold
    adding, added = ending(bench.add)
    assert started.wait(10)
    deleting, deleted = ending(bench.delete)
    _wait(lambda: next(iter(bench.verbs._adding.values())).is_cancelled)
    go.set()
    adding.join(10)
    deleting.join(10)
    assert (added, deleted) == (["the ADD was cancelled"], ["success"])
    assert bench.diary[-3:] == [
        "unwire 10.0.0.5 of web",
        "release 10.0.0.5",
        "unwire nothing of web",
    ]


def test_a_del_ends_an_add_of_its_key_that_waits_for_an_address(bench: Bench) -> None:
    asked, revoked = threading.Event(), threading.Event()
    release = bench.ipam.release

    def wait() -> None:
        asked.set()
        assert revoked.wait(10)
        raise refusal(door.Status.ABORTED, R.ATTEMPT_REVOKED)

    def revoke(request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        if request.attempt_id:
            revoked.set()
        return release(request, deadline_monotonic=deadline_monotonic)

    bench.ipam.on_allocate = wait
    bench.ipam.release = revoke  # type: ignore[method-assign]
    adding, added = ending(bench.add)
    assert asked.wait(10)
    bench.delete()
    adding.join(10)
    assert added == ["a DEL overtook this ADD"]
    assert not bench.ipam.held


def test_a_del_leaves_adds_of_other_keys_alone(bench: Bench) -> None:
    other = Attempt(
        AttachmentKey(container_id="c2", ifname="eth0"),
        bench.ipam,
        deadline_monotonic=time.monotonic() + 10,
    )
    bench.ipam.on_allocate = bench.delete
    bench.add(other)
    assert not other.is_cancelled


def test_a_key_that_stays_busy_is_an_error_to_try_again(bench: Bench) -> None:
    with bench.verbs.locked(KEY, timeout_seconds=1):
        error = bench.refused(
            lambda: bench.verbs.delete(
                bench.request(Verb.DEL), KEY, deadline_monotonic=time.monotonic() + 0.05
            )
        )
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
    assert "c1/eth0" in error.details


def test_a_key_is_unheld_only_where_ipamd_says_so_and_no_verb_is_at_work(bench: Bench) -> None:
    with bench.verbs.unheld("c1", "eth0") as is_unheld, bench.verbs.unheld("c1", "eth0") as again:
        assert (is_unheld, again) == (True, False)
        assert bench.verbs.is_busy(KEY)
    bench.add()
    with bench.verbs.unheld("c1", "eth0") as is_unheld:
        assert not is_unheld
    bench.delete()
    bench.ipam.script["get"] = [away()]
    with bench.verbs.unheld("c1", "eth0") as is_unheld:
        assert not is_unheld


def _wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_an_answer_that_was_lost_is_given_back(bench: Bench) -> None:
    plain = bench.ipam.allocate

    def lose(
        request: pb.AllocateRequest,
        *,
        deadline_monotonic: float,
        meanwhile: Callable[[], None],
        is_over: Callable[[], bool],
    ) -> pb.AllocateReply:
        plain(request, deadline_monotonic=deadline_monotonic, meanwhile=meanwhile, is_over=is_over)
        raise IpamdError(door.Status.DEADLINE_EXCEEDED, "no answer", None)

    bench.ipam.allocate = lose  # type: ignore[method-assign]
    assert bench.refused(bench.add).code is CniErrorCode.TRY_AGAIN_LATER
    _wait(lambda: not bench.ipam.held)


def test_an_unforeseen_failure_of_the_wiring_is_undone(bench: Bench) -> None:
    def fail() -> None:
        raise OSError(24, "too many open files")

    bench.datapath.during_wire = fail
    with pytest.raises(OSError, match="too many"):
        bench.add()
    assert not bench.ipam.held
    assert not bench.datapath.links


def test_a_refused_add_undoes_nothing(bench: Bench) -> None:
    bench.ipam.script["allocate"] = [refusal(door.Status.RESOURCE_EXHAUSTED, R.NO_ADDRESS)]
    bench.refused(bench.add)
    assert bench.diary == ["allocate refused"]


def test_a_queued_del_done_before_the_add_does_not_refuse_it() -> None:
    began: list[float] = []
    bench = Bench()
    verbs = Verbs(
        bench.ipam,
        bench.datapath,
        delegates=bench.delegates,
        queue_release=bench._queue,
        finish_queued=lambda key: began.append(time.clock_gettime(time.CLOCK_BOOTTIME)),
    )
    attempt = bench.attempt()
    verbs.add(bench.request(), 3, attempt)
    assert attempt.began_boottime >= began[0]


def test_a_repeat_that_cannot_be_inspected_is_unwired_before_its_address_goes(
    bench: Bench,
) -> None:
    bench.add()
    bench.diary.clear()

    def torn(netns_fd: int, wiring: PodWiring) -> Wired | None:
        raise DatapathError("list routes", 4)

    bench.datapath.inspect = torn  # type: ignore[method-assign]
    assert bench.refused(bench.add).code is CniErrorCode.INTERFACE_SETUP
    assert bench.diary == ["unwire 10.0.0.5 of web", "release 10.0.0.5"]


V4 = {"address": "10.0.0.5/32", "gateway": "169.254.1.1", "default": "0.0.0.0/0"}
V6 = {"address": "2001:db8::5/128", "gateway": "fe80::1", "default": "::/0"}


@pytest.mark.parametrize(
    ("networks", "expected"),
    [(("10.0.0.",), [V4]), (("2001:db8::",), [V6]), (("10.0.0.", "2001:db8::"), [V4, V6])],
    ids=["ipv4", "ipv6", "both"],
)
def test_the_answer_has_each_familys_address_gateway_and_default_route(
    bench: Bench, networks: tuple[str, ...], expected: list[dict[str, str]]
) -> None:
    bench.ipam.networks = networks
    result = bench.result()
    assert [
        {"address": str(ip.address), "gateway": str(ip.gateway), "default": str(route.dst)}
        for ip, route in zip(result.ips, result.routes, strict=True)
    ] == expected
    assert [str(route.gateway) for route in result.routes] == [e["gateway"] for e in expected]
    assert [ip.interface for ip in result.ips] == [1] * len(expected)


def test_both_families_of_an_attachment_come_and_go_together(bench: Bench) -> None:
    bench.ipam.networks = ("10.0.0.", "2001:db8::")
    bench.add()
    bench.delete()
    assert bench.diary == [
        "allocate 10.0.0.5",
        "wire 10.0.0.5 and 2001:db8::5 mark 2",
        "unwire 10.0.0.5 and 2001:db8::5 of web",
        "release 10.0.0.5",
    ]


def test_an_ipamd_that_names_one_address_only_is_understood(bench: Bench) -> None:
    bench.add()
    del bench.ipam.held["c1"].addresses[:]
    bench.verbs._cache.clear()
    bench.delete()
    assert bench.diary[-2:] == ["unwire 10.0.0.5 of web", "release 10.0.0.5"]


def test_a_del_of_what_the_peer_wired_removes_it_before_it_releases(bench: Bench) -> None:
    hold_for_peer(bench)
    bench.delete()
    assert bench.diary == ["unwire peer's 10.0.0.9 of shop.old", "release 10.0.0.9"]


def test_an_attachment_without_names_has_those_of_the_del(bench: Bench) -> None:
    hold_for_peer(bench, pod_namespace="", pod_name="")
    bench.delete()
    assert bench.diary == ["unwire peer's 10.0.0.9 of default.web", "release 10.0.0.9"]


def test_a_del_of_the_peers_whose_kernel_part_fails_keeps_the_address(bench: Bench) -> None:
    hold_for_peer(bench)
    bench.datapath.script["unwire"] = [DatapathError("delete rule 512", 16)]
    error = bench.refused(bench.delete)
    assert (error.code, list(bench.ipam.held)) == (CniErrorCode.TRY_AGAIN_LATER, ["c1"])
    bench.delete()
    bench.delete()
    assert bench.diary == [
        "unwire refused",
        "unwire peer's 10.0.0.9 of shop.old",
        "release 10.0.0.9",
        "unwire nothing of web",
    ]


def test_a_del_ends_the_further_interfaces_of_a_pod_of_the_peers_first(bench: Bench) -> None:
    hold_for_peer(bench)
    hold_for_peer(bench, ifname="mNicIf1", addresses=["10.0.8.9"])
    hold_for_peer(bench, ifname="mNicIf2", addresses=["10.0.9.9"], network_name="another")
    bench.delete()
    assert bench.diary == [
        "unwire peer's 10.0.8.9 of shop.old",
        "unwire peer's 10.0.0.9 of shop.old",
        "release 10.0.8.9",
        "release 10.0.0.9",
    ]
    assert list(bench.ipam.held) == ["c1/mNicIf2"]


@pytest.mark.parametrize("call", ["get", "list"])
def test_without_the_ledgers_word_nothing_of_the_peers_is_touched_or_released(
    bench: Bench, call: str
) -> None:
    hold_for_peer(bench)
    bench.recall()
    bench.ipam.script[call] = [away()]
    bench.delete()
    assert (bench.queued, list(bench.ipam.held)) == ([KEY], ["c1"])
    assert bench.diary == [f"{call} refused", "unwire nothing of web", "queue"]


def test_a_late_del_spares_the_next_holder_of_an_address_of_the_peers(bench: Bench) -> None:
    hold_for_peer(bench)
    bench.recall()
    bench.ipam.held.clear()  # aws-node's plugin was called for the DEL, and released it
    bench.delete()
    assert bench.diary == ["unwire nothing of web"]


@pytest.mark.parametrize("cookie", [7, 0], ids=["same-namespace", "other-namespace"])
def test_an_add_of_what_the_peer_wired_is_refused_and_changes_nothing(
    bench: Bench, cookie: int
) -> None:
    hold_for_peer(bench, netns_cookie=cookie)
    error = bench.refused(bench.add)
    assert (error.code, "10.0.0.9" in error.details) == (CniErrorCode.INTERFACE_SETUP, True)
    assert (bench.diary, list(bench.ipam.held)) == ([], ["c1"])
