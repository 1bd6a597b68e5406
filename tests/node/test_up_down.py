"""Every verb by every launcher while vpc-cnid, ipamd and the cloud are up or down."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from providers.sim.lab import Lab
from providers.sim.runtime import CniCall, Pod
from tests.node.conftest import launcher_of
from tests.node.ground import CONFIG, Ground, Site, code_of, details_of, until
from tests.node.readings import read_kernel
from tests.node.up_down_table import BEGIN, END, ROWS, Add, Check, Del, Gc, Row, Status, render

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "when-things-are-down.md"
ADD_DEADLINE_MS = 1600  # in place of the 10 and 29 s of the table


def test_the_document_has_the_table_that_is_tested() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert BEGIN + text.partition(BEGIN)[2].partition(END)[0] + END == render()


@pytest.mark.netns
def test_a_node_whose_ipamd_has_been_silent_for_a_minute_is_not_ready(ground: Ground) -> None:
    """A vpc-cnid that starts goes on from the heartbeat of the one before."""
    site = ground.started()
    site.node.ipamd.kill()
    site.node.cnid.kill()
    age_heartbeat(site)
    site.start_cnid()
    assert code_of(call_status(site)) == 50
    site.start_ipamd()
    until(lambda: call_status(site).exit_code == 0, what="a STATUS without an error")


@pytest.mark.netns
@pytest.mark.parametrize("kind", ["c", "python"])
@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_verb_is_answered_as_the_table_says(
    ground: Ground, lab: Lab, row: Row, kind: str
) -> None:
    site = ground.started(launcher=launcher_of(kind), env={"IP_COOLDOWN_PERIOD": "300"})
    ending = site.add("ending")
    address = site.ledger().allocations[ending.container_id].address
    lost = lose_delete(site)

    with taken_down(site, lab, row):
        check_version(site.runtime.call("VERSION"))
        check_status(site, row)
        check_check(site, ending, row)
        check_gc(site, ending, lost, row)
        starting = check_add(site, row)
        check_delete(site, ending, row)

    until(lambda: site.traces(ending) == [], what="the end of what the DEL named")
    assert call_gc(site).is_ok
    assert site.traces(lost) == []
    assert site.ledger().addresses[address].state == "cooling"
    assert row.add is Add.SERVED or site.traces(starting) == []
    again = site.add("again")
    assert site.can_reach_router(again, site.ledger().allocations[again.container_id].address)


@contextmanager
def taken_down(site: Site, lab: Lab, row: Row) -> Iterator[None]:
    """Inside only what the row names runs; after it everything does."""
    if not row.is_cnid_up:
        site.node.cnid.kill()
    if not row.is_ipamd_up:
        site.node.ipamd.kill()
    if not row.is_cloud_up:
        os.kill(lab.cloud.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(lab.cloud.pid, signal.SIGCONT)
        if not row.is_ipamd_up:
            site.start_ipamd()
        if not row.is_cnid_up:
            site.start_cnid()


def lose_delete(site: Site) -> Pod:
    """A pod whose namespace went without a DEL."""
    lost = site.add("lost")
    site.runtime.remove_namespace(lost)
    until(
        lambda: read_kernel(site.node.netns_path).veth_of(lost.container_id) is None,
        what="the end of the lost pod's link",
    )
    return lost


def call_gc(site: Site, *valid: Pod) -> CniCall:
    """GC as libcni 1.2.3 and later calls it."""
    named = [{"containerID": pod.container_id, "ifname": pod.ifname} for pod in valid] or None
    lists = {"cni.dev/valid-attachments": named, "cni.dev/attachments": named}
    runtime = site.runtime_with(
        config={**CONFIG, "cniVersion": "1.1.0", **lists}, deadline_ms=ADD_DEADLINE_MS
    )
    return runtime.call("GC")


def call_status(site: Site) -> CniCall:
    return site.runtime_with(config={**CONFIG, "cniVersion": "1.1.0"}).call("STATUS")


def check_status(site: Site, row: Row) -> None:
    """Whatever is down, a node that worked a minute ago is ready, and says so at once."""
    calls = [call_status(site) for _ in range(5)]
    assert [(call.exit_code, call.stdout) for call in calls] == [(0, "")] * 5, calls
    assert min(call.seconds for call in calls) < 0.1
    if row.status is Status.NO_CNID:
        age_heartbeat(site)
        assert code_of(call_status(site)) == 50


def age_heartbeat(site: Site) -> None:
    """As if the node had last worked 90 s ago."""
    then = time.time() - 90
    os.utime(site.node.run_dir / "heartbeat", (then, then))


def check_check(site: Site, pod: Pod, row: Row) -> None:
    if row.check is Check.DONE:
        call = site.runtime.check(pod)
        assert (call.exit_code, call.stdout) == (0, ""), call
        return
    call = site.runtime.check(pod)
    assert code_of(call) == 11
    assert details_of(call).startswith("vpc-cnid is not reachable")


def check_gc(site: Site, valid: Pod, lost: Pod, row: Row) -> None:
    call = call_gc(site, valid)
    left = {pod.name for pod in (valid, lost) if pod.container_id in site.ledger().allocations}
    if row.gc is Gc.DONE:
        assert (call.exit_code, call.stdout, left) == (0, "", {"ending"}), call
        return
    expected = "vpc-cnid" if row.gc is Gc.NO_CNID else "ipamd"
    assert (code_of(call), left) == (11, {"ending", "lost"})
    assert details_of(call).startswith(f"{expected} is not reachable")


def check_version(call: CniCall) -> None:
    assert call.exit_code == 0
    assert call.document is not None
    assert "1.1.0" in call.document["supportedVersions"]


def check_add(site: Site, row: Row) -> Pod:
    """One ADD; where it fails, the runtime's DEL must not."""
    runtime = site.runtime_with(deadline_ms=ADD_DEADLINE_MS)
    began = time.monotonic()
    started = runtime.start_pod("starting")
    if row.add is Add.SERVED:
        assert started.add.is_ok, started.add
        assert time.monotonic() - began < 1.0
        return started.pod
    assert code_of(started.add) == 11
    expected = "vpc-cnid" if row.add is Add.NO_CNID else "ipamd"
    assert details_of(started.add).startswith(f"{expected} is not reachable")
    assert started.cleanup is not None and started.cleanup.is_ok, started.cleanup
    return started.pod


def check_delete(site: Site, pod: Pod, row: Row) -> None:
    call = site.runtime.delete(pod)
    assert call.is_ok, call
    is_held = pod.container_id in site.ledger().allocations
    is_linked = read_kernel(site.node.netns_path).veth_of(pod.container_id) is not None
    queued = [p.name for p in (site.node.run_dir / "delete-queue").glob(f"{pod.container_id},*")]
    match row.delete:
        case Del.DONE:
            assert (is_held, is_linked, queued) == (False, False, [])
        case Del.RELEASE_QUEUED:
            assert (is_held, is_linked, len(queued)) == (True, False, 1)
        case Del.WHOLE_QUEUED:
            assert (is_held, is_linked, len(queued)) == (True, True, 1)
