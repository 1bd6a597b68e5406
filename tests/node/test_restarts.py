"""ipamd starts again: with its store, without it, with a damaged one; and stops when told to."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from ipam_api.v1 import ipam_pb2 as pb
from ipam_api.v1 import ipam_pb2_grpc as pb_grpc

from providers.sim.lab import Lab
from providers.sim.lab_process import is_listening
from providers.sim.runtime import Pod
from tests.node.ground import Ground, Site, code_of, until
from tests.node.readings import LedgerFile
from tests.node.test_shortage import FULL_SUBNET, full_subnet, use_up

COOLDOWN = {"IP_COOLDOWN_PERIOD": "300"}  # what cools stays so for the whole test

pytestmark = pytest.mark.netns


def three_pods_and_a_cooling_address(site: Site) -> list[Pod]:
    pods = [site.add(f"pod-{number}") for number in range(4)]
    site.runtime.stop_pod(pods.pop())
    return pods


@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM"])
def test_a_restart_keeps_every_allocation_and_every_cooling_address(
    ground: Ground, how: str
) -> None:
    site = ground.started(env=COOLDOWN)
    three_pods_and_a_cooling_address(site)
    before = site.ledger()
    if how == "SIGTERM":
        assert site.node.ipamd.stop() == 0
    else:
        site.node.ipamd.kill()
    site.start_ipamd()
    until(lambda: site.status()[1].get("is_cloud_answering"), what="a look at the cloud")
    after = site.ledger()
    assert len(before.allocations) == 3 and len(before.in_state("cooling")) == 1
    assert after.epoch == before.epoch
    assert after.allocations == before.allocations
    assert after.in_state("cooling") == before.in_state("cooling")
    assert after.in_state("allocated") == before.in_state("allocated")


def deleted(store: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        store.with_name(store.name + suffix).unlink(missing_ok=True)


def overwritten_with_garbage(store: Path) -> None:
    """The log as well: SQLite would mend the file from it, every page may stand there."""
    deleted(store)
    store.write_bytes(b"\xde\xad\xbe\xef" * 4096)


def truncated(store: Path) -> None:
    """As a copy that ended early: some of the pages, and no log."""
    with closing(sqlite3.connect(store)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    content = store.read_bytes()
    deleted(store)
    store.write_bytes(content[: len(content) // 2 + 100])


def of_another_boot(store: Path) -> None:
    with closing(sqlite3.connect(store)) as db:
        db.execute("UPDATE meta SET value = 'another' WHERE name = 'boot_id'")
        db.commit()


@pytest.mark.parametrize(
    "damage",
    [deleted, overwritten_with_garbage, truncated, of_another_boot],
    ids=lambda f: f.__name__,
)
def test_a_store_of_no_use_gives_nothing_out_until_the_kernel_was_heard_and_adopts_what_runs(
    ground: Ground, damage: Callable[[Path], None]
) -> None:
    site = ground.started(env=COOLDOWN)
    pods = three_pods_and_a_cooling_address(site)
    before = site.ledger()
    site.node.cnid.kill()
    site.node.ipamd.kill()
    damage(site.store)

    site.start_ipamd()
    until(lambda: len(site.ledger().addresses) >= len(before.addresses), what="the first look")
    assert refusal_of_an_allocate(site) == (grpc.StatusCode.UNAVAILABLE, pb.ErrorDetail.NOT_READY)
    assert site.ledger().allocations == {}
    assert "no report from vpc-cnid yet" in site.problems()

    site.start_cnid()
    after = until(lambda: heard(site), what="the report of the kernel")
    assert after.epoch != before.epoch
    assert {k: (a.address, a.netns_cookie) for k, a in after.allocations.items()} == {
        k: (a.address, a.netns_cookie) for k, a in before.allocations.items()
    }
    idle_before = before.addresses.keys() - before.in_state("allocated").keys()
    assert idle_before <= after.in_state("cooling").keys()

    new = site.runtime.start_pod("new")
    assert new.add.is_ok, new.add
    assert new.add.addresses[0] not in before.addresses
    for pod in pods:
        assert site.can_reach_router(pod, before.allocations[pod.container_id].address)
        assert site.runtime.stop_pod(pod)[0].is_ok
        assert site.traces(pod) == []


def heard(site: Site) -> LedgerFile | None:
    ledger = site.ledger()
    return ledger if ledger.has_heard_node else None


def refusal_of_an_allocate(site: Site) -> tuple[grpc.StatusCode, int]:
    """What ipamd answers to an Allocate that waits for a second; vpc-cnid is not asked."""
    request = pb.AllocateRequest(
        key=pb.AttachmentKey(container_id="c1", ifname="eth0"),
        attempt_id="0123456789abcdef",
        netns_cookie=1,
        wait_seconds=1.0,
        began_boottime=time.clock_gettime(time.CLOCK_BOOTTIME),
    )
    with grpc.insecure_channel(f"unix:{site.node.ipamd_socket}") as channel:
        with pytest.raises(grpc.RpcError) as refused:
            pb_grpc.IpamStub(channel).Allocate(request, timeout=10.0)
        error = refused.value
        assert isinstance(error, grpc.Call)
        metadata = dict(error.trailing_metadata() or ())
        detail = pb.ErrorDetail.FromString(metadata["ipam-error-bin"])
        return error.code(), detail.reason


def test_ipamd_stops_on_sigterm_with_status_0_and_a_waiting_add_gets_its_answer(
    ground: Ground, lab: Lab
) -> None:
    assert lab.vpc is not None
    site = ground.started(subnet=FULL_SUBNET)
    with full_subnet(lab, lab.vpc.subnet_ids[FULL_SUBNET]), ThreadPoolExecutor() as pool:
        use_up(site)
        waiting = pool.submit(site.runtime_with(deadline_ms=6000).start_pod, "waiting")
        until(lambda: site.status()[1]["waiting_allocations"] == 1, what="the waiting ADD")
        assert site.node.ipamd.stop() == 0
        assert not is_listening(site.node.ipamd_socket)
        assert site.ipamctl("status").status == 2
        answer = waiting.result().add
    assert code_of(answer) == 11
    assert answer.seconds < 7.0


@pytest.mark.parametrize("daemon", ["ipamd", "vpc-cnid"])
def test_an_add_that_waits_outlasts_the_restart_of_a_daemon(
    ground: Ground, lab: Lab, daemon: str
) -> None:
    assert lab.vpc is not None
    subnet_id = lab.vpc.subnet_ids[FULL_SUBNET]
    site = ground.started(subnet=FULL_SUBNET)
    with full_subnet(lab, subnet_id), ThreadPoolExecutor() as pool:
        use_up(site)
        waiting = pool.submit(site.runtime.start_pod, "waiting")
        until(lambda: site.status()[1]["waiting_allocations"] == 1, what="the waiting ADD")
        if daemon == "ipamd":
            assert site.node.ipamd.stop() == 0
            site.start_ipamd()
        else:
            assert site.node.cnid.stop() == 0
            assert not is_listening(site.node.cni_socket)
            site.start_cnid()
        lab.control.call("free_addresses", subnet_id=subnet_id, count=4)
        answer = waiting.result().add
    assert answer.is_ok, answer
