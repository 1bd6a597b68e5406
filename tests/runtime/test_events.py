"""What containerd calls at each event of a pod's life, and what is left of the pod each time.

The calls are those of containerd 1.6 (libcni 1.1); they are asserted as well as their effects, so
that another version that calls otherwise is noticed and read before its users find out.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import grpc
import pytest

from tests.node.ground import until
from tests.node.readings import pod_addresses
from tests.runtime.calls import Tap
from tests.runtime.containerd import unmount
from tests.runtime.cri import Refused
from tests.runtime.world import World, conflist

pytestmark = pytest.mark.netns

ADD = "ADD netns"
DEL = "DEL netns prevResult"
DEL_AFTER_FAILED_ADD = "DEL netns"
DEL_WITHOUT_NETNS = "DEL no netns"
ID_DIGITS = 64


def test_a_sandbox_starts_with_one_add_and_its_address_works(world: World) -> None:
    sandbox = world.cri.run("web")
    (add,) = world.tap.calls(sandbox.sandbox_id)
    assert str(add) == ADD
    assert len(add.container_id) == ID_DIGITS
    assert "K8S_POD_NAME=web" in add.env["CNI_ARGS"].split(";")
    assert world.site.ledger().allocations[sandbox.sandbox_id].address == sandbox.ip
    assert pod_addresses(sandbox.netns_path) == (sandbox.ip,)
    assert world.can_reach_router(sandbox)
    assert world.disagreements() == []


def test_the_annotations_of_the_pod_come_along(world: World) -> None:
    world.cri.run(world.cri.config("web", annotations={"example.com/team": "shop"}))
    (add,) = world.tap.calls()
    given = add.stdin["runtimeConfig"]["io.kubernetes.cri.pod-annotations"]
    assert given == {"example.com/team": "shop"}


def test_the_runtime_keeps_our_whole_result(world: World) -> None:
    result = world.cri.cni_result(world.cri.run("web").sandbox_id)
    ours = {name: one for name, one in result["Interfaces"].items() if name != "lo"}
    assert set(ours) - {"eth0"}, "the host's end is listed, too"
    assert ours["eth0"]["Sandbox"], "and told apart from the pod's end by its sandbox"
    assert [one["Sandbox"] for name, one in ours.items() if name != "eth0"] == [""]


def test_a_stop_takes_the_network_down_and_every_further_call_changes_nothing(world: World) -> None:
    sandbox = world.cri.run("web")
    world.tap.forget()
    world.cri.stop(sandbox.sandbox_id)
    assert world.tap.said(sandbox.sandbox_id) == [DEL]
    assert world.traces_on_node(sandbox.sandbox_id) == []

    again = world.cri.run(world.cri.config("web", attempt=1))
    world.tap.forget()
    world.cri.stop(sandbox.sandbox_id)
    assert world.tap.said(sandbox.sandbox_id) == [DEL_WITHOUT_NETNS]
    world.tap.forget()
    world.cri.remove(sandbox.sandbox_id)
    assert world.tap.said(sandbox.sandbox_id) == [DEL_WITHOUT_NETNS]
    assert world.can_reach_router(again), "late calls for the old sandbox left the new one alone"


def test_the_network_of_a_removed_sandbox_is_cooling_and_its_netns_gone(world: World) -> None:
    sandbox = world.cri.run("web")
    world.cri.end(sandbox.sandbox_id)
    assert world.site.ledger().addresses[sandbox.ip].state == "cooling"
    assert not Path(sandbox.netns_path).exists()
    assert world.traces(sandbox.sandbox_id) == []


def test_status_restarts_and_reloads_call_nothing(world: World) -> None:
    sandbox = world.cri.run("web")
    world.tap.forget()
    world.cri.network_condition()
    world.containerd.daemon.restart()
    world.containerd.await_ready()
    world.containerd.configure(conflist(name="vpc-ipamd", disableCheck=False))
    world.cri.network_condition()
    assert world.tap.calls() == []
    assert world.can_reach_router(sandbox)
    world.cri.end(sandbox.sandbox_id)
    assert world.tap.said() == [DEL, DEL_WITHOUT_NETNS], "the result outlived the restart"


def test_a_containerd_that_was_killed_finds_its_sandboxes_and_ends_them(world: World) -> None:
    sandbox = world.cri.run("web")
    world.containerd.daemon.kill()
    assert world.can_reach_router(sandbox)
    world.containerd.start()
    assert world.cri.listed()[sandbox.sandbox_id].is_ready
    world.cri.end(sandbox.sandbox_id)
    assert world.traces(sandbox.sandbox_id) == []


def test_an_empty_pool_is_told_to_the_pod_with_our_message_and_details(world: World) -> None:
    short = {"env": {"VPC_CNI_DEADLINE_MS": "2500"}}
    with world.empty_pool(), world.tap.going_wrong(ADD=short):
        refused = world.failed_run("unlucky")
        assert refused.code is grpc.StatusCode.UNKNOWN
        assert 'plugin type="vpc-cni" failed (add): ' in refused.text
        assert "RequestLimitExceeded" in refused.text, "details: what the cloud said"
        calls = world.tap.calls()[-2:]
        assert [str(call) for call in calls] == [ADD, DEL_AFTER_FAILED_ADD]
        assert world.traces(calls[0].container_id) == []
    assert world.cri.run("unlucky").ip, "its name is free at once"


@pytest.mark.parametrize(
    ("prints", "words"),
    [("", "netplugin failed"), ("not even JSON", "error parsing its diagnostic message")],
    ids=["nothing", "garbage"],
)
def test_an_add_without_an_error_document_gets_one_del_and_its_name_is_free(
    world: World, prints: str, words: str
) -> None:
    with world.tap.going_wrong(ADD={"prints": prints, "status": 1}):
        assert words in world.failed_run("unlucky").text
    assert world.tap.said() == [ADD, DEL_AFTER_FAILED_ADD]
    assert world.cri.listed() == {}
    assert world.cri.run("unlucky").ip


def test_where_add_and_its_del_fail_the_sandbox_stays_until_a_del_works(world: World) -> None:
    broken = {"prints": "", "status": 1}
    with world.tap.going_wrong(ADD=broken, DEL=broken):
        world.failed_run("unlucky")
        ((sandbox_id, left),) = world.cri.listed().items()
        assert not left.is_ready
        assert "is reserved" in world.failed_run("unlucky").text
        with pytest.raises(Refused):
            world.cri.stop(sandbox_id)
    world.tap.forget()
    world.cri.end(sandbox_id)
    assert world.tap.said(sandbox_id)[0] == DEL_AFTER_FAILED_ADD
    assert world.traces(sandbox_id) == []
    assert world.cri.run("unlucky").ip


def test_a_del_that_fails_is_sent_again_with_all_it_had(world: World) -> None:
    sandbox = world.cri.run("web")
    world.tap.forget()
    with world.tap.going_wrong(DEL={"prints": "", "status": 1}):
        with pytest.raises(Refused):
            world.cri.stop(sandbox.sandbox_id)
        with pytest.raises(Refused):
            world.cri.remove(sandbox.sandbox_id)
        held = world.site.ledger().allocations[sandbox.sandbox_id]
        assert held.address == sandbox.ip, "nobody else can get it meanwhile"
    world.cri.end(sandbox.sandbox_id)
    said = world.tap.said(sandbox.sandbox_id)
    assert said == [DEL, DEL, DEL, DEL_WITHOUT_NETNS]
    assert world.traces(sandbox.sandbox_id) == []


def test_a_client_that_gives_up_kills_the_plugin_and_nothing_of_the_pod_stays(world: World) -> None:
    began = time.monotonic()
    with world.empty_pool():
        before = len(world.tap.calls())
        assert world.failed_run("slow", seconds=1.0).code is grpc.StatusCode.DEADLINE_EXCEEDED
        until(lambda: len(world.tap.calls()) == before + 2, what="the DEL after the kill")
        add, delete = world.tap.calls()[before:]
        assert [str(add), str(delete)] == [ADD, DEL_AFTER_FAILED_ADD]
        assert not Path(f"/proc/{add.pid}").exists(), "the launcher was killed"
        until(lambda: world.traces(add.container_id) == [], what="the end of the sandbox")
        until(lambda: world.site.status()[1]["waiting_allocations"] == 0, what="nobody waiting")
    assert world.cri.run("slow").ip, "the same name works at once"
    assert time.monotonic() - began < 20.0


def test_a_client_that_gives_up_on_a_silent_daemon_gets_its_pod_at_the_next_try(
    world: World,
) -> None:
    """vpc-cnid reads the ADD only after its launcher has died."""
    allocated = set(world.site.ledger().allocations)
    os.kill(world.node.cnid.pid, signal.SIGSTOP)
    try:
        refused = world.failed_run("slow", seconds=0.7)
    finally:
        os.kill(world.node.cnid.pid, signal.SIGCONT)
    assert refused.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert world.run_soon("slow").ip
    until(lambda: len(world.site.ledger().allocations) == len(allocated) + 1, what="one address")


def test_a_namespace_that_others_unmounted_is_told_as_gone_and_the_address_comes_back(
    world: World,
) -> None:
    sandbox = world.cri.run("web")
    world.tap.forget()
    unmount(Path(sandbox.netns_path))
    Path(sandbox.netns_path).unlink()
    world.cri.end(sandbox.sandbox_id)
    assert world.tap.said(sandbox.sandbox_id)[0] == "DEL no netns prevResult"
    assert world.traces(sandbox.sandbox_id) == []


def test_a_killed_pause_process_changes_nothing_until_the_stop(world: World) -> None:
    sandbox = world.cri.run("web")
    world.tap.forget()
    os.kill(sandbox.pid, signal.SIGKILL)
    until(lambda: not world.cri.listed()[sandbox.sandbox_id].is_ready, what="a sandbox not ready")
    assert world.tap.calls() == []
    assert world.site.ledger().allocations[sandbox.sandbox_id].address == sandbox.ip
    world.cri.end(sandbox.sandbox_id)
    assert world.tap.said(sandbox.sandbox_id) == [DEL, DEL_WITHOUT_NETNS]
    assert world.traces(sandbox.sandbox_id) == []


def test_a_chain_adds_forward_and_deletes_backward(world: World) -> None:
    second = Tap(world.containerd.bin_dir, "second", None)
    try:
        world.containerd.configure(conflist("second"))
        sandbox = world.cri.run("web")
        world.cri.stop(sandbox.sandbox_id)
        ours, theirs = (tap.calls(sandbox.sandbox_id) for tap in (world.tap, second))
        assert [c.verb for c in theirs] == ["ADD", "DEL"] == [c.verb for c in ours]
        assert theirs[0].stdin["prevResult"]["ips"][0]["address"].startswith(f"{sandbox.ip}/")
        assert ours[0].order < theirs[0].order < theirs[1].order < ours[1].order
        world.cri.remove(sandbox.sandbox_id)
    finally:
        world.containerd.clear()
        second.remove()


def test_a_chain_whose_second_plugin_fails_takes_our_add_back(world: World) -> None:
    second = Tap(world.containerd.bin_dir, "second", None)
    try:
        world.containerd.configure(conflist("second"))
        with second.going_wrong(ADD={"prints": "", "status": 1}):
            assert 'type="second" failed (add)' in world.failed_run("web").text
        assert world.tap.said() == [ADD, DEL_AFTER_FAILED_ADD]
        assert world.traces(world.tap.calls()[0].container_id) == []
    finally:
        second.remove()


def test_a_chain_whose_second_plugin_is_missing_holds_our_address_until_it_is_repaired(
    world: World,
) -> None:
    """libcni deletes from the end and stops at the first error: ours is never called."""
    world.containerd.configure(conflist("missing"))
    assert 'find plugin "missing"' in world.failed_run("web").text
    assert world.tap.said() == [ADD]
    ((sandbox_id, left),) = world.cri.listed().items()
    assert not left.is_ready
    assert sandbox_id in world.site.ledger().allocations
    world.containerd.configure(conflist())
    world.cri.end(sandbox_id)
    assert world.traces(sandbox_id) == []


@pytest.mark.parametrize("config", [None, "{", '{"name": "x"}'], ids=["absent", "cut", "empty"])
def test_without_a_usable_conflist_the_node_is_not_ready_and_running_pods_stay(
    world: World, config: str | None
) -> None:
    sandbox = world.cri.run("web")
    world.containerd.configure(config)
    is_ready, message = world.cri.network_condition()
    assert not is_ready
    assert "cni plugin not initialized" in message
    assert "cni plugin not initialized" in world.failed_run("other").text
    assert world.can_reach_router(sandbox)


def test_a_missing_plugin_fails_adds_only_and_its_return_mends_them(world: World) -> None:
    away = world.tap.path.rename(world.tap.path.with_name(".away"))
    try:
        assert world.cri.network_condition()[0], "the runtime does not look before it calls"
        assert 'find plugin "vpc-cni"' in world.failed_run("web").text
    finally:
        away.rename(world.tap.path)
    assert world.cri.run("web-2").ip
