"""The delete queue's worker, on a real queue, a ledger that goes away and a kernel in memory."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from cni_shim import frames, spec
from cni_shim.delete_queue import DeleteQueue
from cni_shim.errors import CniError
from cni_shim.queue_worker import QueueWorker
from cni_shim.spec import AttachmentKey, CniRequest, Verb
from cni_shim.verbs import Verbs
from structlog.testing import capture_logs

from tests.cni_bench import KEY, Bench, away

IPAM_ONLY = {
    "cniVersion": "1.0.0",
    "name": "net",
    "type": "ptp",
    "ipam": {"type": "vpc-cni-ipam"},
    "prevResult": {"cniVersion": "1.0.0", "ips": [{"address": "10.0.0.5/24"}]},
}
ENV = {
    "CNI_COMMAND": "DEL",
    "CNI_CONTAINERID": KEY.container_id,
    "CNI_IFNAME": KEY.ifname,
    "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
    "CNI_PATH": "/opt/cni/bin",
}


class Queued(Bench):
    """The bench, with a queue on disk in the place of the diary's."""

    def __init__(self, run_dir: Path) -> None:
        super().__init__()
        self.home = run_dir / "delete-queue"
        self.worker = QueueWorker(DeleteQueue(run_dir))
        self.verbs = Verbs(
            self.ipam,
            self.datapath,
            delegates=self.delegates,
            queue_release=self.worker.put,
            finish_queued=self.worker.finish,
        )
        self.worker.serve(self.verbs)

    def delete_while_away(self, config: object = IPAM_ONLY) -> CniRequest:
        """A DEL whose every call of ipamd fails."""
        self.ipam.script = {"get": [away()] * 9, "release": [away()] * 9}
        request = spec.parse(lambda name: ENV.get(name, ""), json.dumps(config).encode())
        self.verbs.delete(request, KEY, deadline_monotonic=time.monotonic() + 5)
        return request

    def come_back(self) -> None:
        self.ipam.script.clear()
        self.diary.clear()
        self.worker.drain()

    def entry(self) -> Path:
        return self.home / "c1,eth0"


@pytest.fixture
def bench(tmp_path: Path) -> Queued:
    return Queued(tmp_path)


def test_a_del_while_ipamd_is_away_waits_and_is_done_on_its_return(bench: Queued) -> None:
    bench.add()
    bench.delete_while_away()
    assert (bench.worker.pending, list(bench.ipam.held)) == (1, ["c1"])
    bench.come_back()
    assert (bench.worker.pending, bench.ipam.held, bench.entry().exists()) == (0, {}, False)


def test_a_drain_that_finds_nobody_leaves_the_entry_as_it_is(bench: Queued) -> None:
    bench.delete_while_away()
    before = bench.entry().stat()
    with capture_logs() as logs:
        for _ in range(3):
            bench.worker.drain()
    after = bench.entry().stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert logs == [], "what lasts is not told again every second"
    assert bench.worker.pending == 1


def test_the_entry_of_a_launcher_is_left_as_it_came(bench: Queued, tmp_path: Path) -> None:
    env = tuple(frames.EnvVar(name=name, value=value) for name, value in ENV.items())
    sent = frames.pack_request(frames.Request(deadline_ms=1, env=env, stdin=b"no config"))
    DeleteQueue(tmp_path).put(sent)
    bench.worker.load()
    bench.ipam.script = {"get": [away()] * 9}
    bench.worker.drain()
    assert bench.entry().read_bytes() == sent


def test_a_queued_del_keeps_the_configuration_whole(bench: Queued) -> None:
    request = bench.delete_while_away()
    kept = frames.parse_request(bench.entry().read_bytes())
    again = spec.parse(kept.value, kept.stdin)
    assert json.loads(kept.stdin) == IPAM_ONLY
    assert again == replace(request, allows_own_netns=again.allows_own_netns)


@pytest.mark.parametrize("is_restarted", [False, True], ids=["same vpc-cnid", "next vpc-cnid"])
def test_a_queued_del_for_another_plugins_pod_removes_its_rules_though_the_store_was_lost(
    tmp_path: Path, is_restarted: bool
) -> None:
    bench = Queued(tmp_path)
    bench.delete_while_away()
    if is_restarted:
        bench = Queued(tmp_path)
        bench.worker.load()
    bench.come_back()
    assert "remove unknown 10.0.0.5" in bench.diary
    assert bench.worker.pending == 0


class Crash(RuntimeError):
    """What nobody expected."""


def test_an_entry_that_crashes_is_set_aside_and_the_others_are_done(
    bench: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.delete_while_away()
    other = AttachmentKey(container_id="c2", ifname="eth0")
    bench.worker.put(replace(bench.request(Verb.DEL), key=other))

    def crash(key: AttachmentKey, addresses: object) -> bool:
        raise Crash(f"{key} {addresses}")

    monkeypatch.setattr(bench.delegates, "remove", crash)  # the other is of a main plugin
    with capture_logs():
        bench.come_back()
    assert (bench.home / "damaged/c1,eth0").exists()
    assert (bench.worker.pending, bench.entry().exists()) == (0, False)


def test_what_is_set_aside_after_a_crash_is_under_the_keys_lock(
    bench: Queued, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a DEL that comes between the crash and the move would be set aside in its place."""
    bench.delete_while_away()
    busy = []

    def set_aside(key: AttachmentKey, reason: str) -> None:
        busy.append((key, reason, bench.verbs.is_busy(key)))

    def crash(*args: object, **kwargs: object) -> bool:
        raise Crash("here")

    monkeypatch.setattr(bench.worker._queue, "set_aside", set_aside)
    monkeypatch.setattr(bench.verbs, "delete_held", crash)
    with capture_logs():
        bench.worker.drain()
    assert busy == [(KEY, "Crash: here", True)]


def test_an_add_does_the_queued_del_first(bench: Queued) -> None:
    bench.add()
    bench.delete_while_away()
    bench.ipam.script.clear()
    bench.diary.clear()
    bench.add()
    assert bench.diary == [
        "unwire 10.0.0.5 of web",
        "release 10.0.0.5",
        "allocate 10.0.0.6",
        "wire 10.0.0.6 mark 2",
    ]


def test_an_add_is_refused_while_its_queued_del_cannot_be_done(bench: Queued) -> None:
    bench.add()
    bench.delete_while_away()
    with pytest.raises(CniError, match="still queued"):
        bench.add()
