"""Pods that end without a DEL, on a whole node whose vpc-cnid looks for them every 0.15 s.

The runtime's list is a CRI socket of the test's, libcni's cache a directory of its files; links,
namespaces and the ledger are real.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from cri_api import runtime_pb2 as cri

from providers.sim import netns
from providers.sim.runtime import Pod
from tests.cni_chain import DEBIAN_PLUGINS, Chain, Network, plugin_directory
from tests.fake_runtime import FakeRuntime
from tests.node import hasty_cnid
from tests.node.conftest import launcher_of
from tests.node.ground import Ground, until
from tests.node.readings import ip_json, read_kernel

pytestmark = pytest.mark.netns


class Watched:
    """A node with a hasty vpc-cnid, and the sources that the test keeps."""

    def __init__(self, ground: Ground, directory: Path) -> None:
        self.cache = directory / "results"
        self.cache.mkdir()
        self.runtime = FakeRuntime(directory / "cri.sock")
        self.site = ground.site(
            env={
                "VPC_IPAMD_CRI_SOCKETS": str(self.runtime.path),
                "VPC_IPAMD_CNI_CACHE_DIR": str(self.cache),
                "VPC_IPAMD_LOG_LEVEL": "debug",
                "IP_COOLDOWN_PERIOD": "300",
            }
        )
        self.site.node.cnid.argv = (sys.executable, str(Path(hasty_cnid.__file__)))
        self.site.start()

    def add(self, name: str) -> Pod:
        """A pod that runs, as all the sources say."""
        pod = self.site.add(name)
        (self.cache / f"vpc-ipamd-{pod.container_id}-eth0").write_text("{}")
        self.runtime.sandboxes[pod.container_id] = cri.SANDBOX_READY
        return pod

    def forget(self, pod: Pod) -> None:
        """What the runtime knows of a pod goes."""
        self.runtime.sandboxes.pop(pod.container_id, None)
        (self.cache / f"vpc-ipamd-{pod.container_id}-eth0").unlink(missing_ok=True)

    def lose(self, pod: Pod) -> None:
        """The pod ends, and no DEL comes."""
        self.forget(pod)
        self.site.runtime.remove_namespace(pod)

    def is_held(self, pod: Pod) -> bool:
        return pod.container_id in self.site.ledger().allocations

    def events(self, name: str) -> list[dict[str, object]]:
        """The lines of vpc-cnid's log with this event."""
        lines = self.site.node.cnid.log_path.read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in told if event.get("event") == name]

    def looks(self, count: int) -> None:
        """Wait for so many more looks."""
        wanted = len(self.events("leaks_looked_for")) + count
        until(lambda: len(self.events("leaks_looked_for")) >= wanted, what=f"{count} looks")

    def until_released(self, pod: Pod) -> None:
        until(lambda: not self.is_held(pod), what="the release")

    def runs(self, pod: Pod) -> bool:
        held = self.site.ledger().allocations.get(pod.container_id)
        return held is not None and self.site.can_reach_router(pod, held.address)


@pytest.fixture
def watched(ground: Ground) -> Iterator[Watched]:
    directory = Path(tempfile.mkdtemp(prefix="vpc-lost-"))
    made = Watched(ground, directory)
    yield made
    made.runtime.close()
    shutil.rmtree(directory)


def test_a_pod_that_ended_without_a_del_gives_its_address_back(watched: Watched) -> None:
    lives, lost = watched.add("lives"), watched.add("lost")
    address = watched.site.ledger().allocations[lost.container_id].address
    watched.looks(1)
    watched.lose(lost)
    watched.until_released(lost)
    assert address in watched.site.ledger().in_state("cooling"), "as after a DEL"
    assert watched.site.traces(lost) == []
    assert watched.runs(lives)
    (told,) = watched.events("leak_released")
    assert (told["address"], told["rule"], told["pod"]) == (address, "gone", "default/lost")
    assert len(watched.events("leak_candidate")) == 1
    assert "lost DEL, gone" in watched.site.node.ipamd.log_path.read_text()


def test_the_del_that_comes_late_after_all_succeeds(watched: Watched) -> None:
    watched.add("lives")
    lost = watched.add("lost")
    watched.lose(lost)
    watched.until_released(lost)
    assert watched.site.runtime.delete(lost, has_netns=False).is_ok


def test_three_looks_are_enough(watched: Watched) -> None:
    watched.add("lives")
    lost = watched.add("lost")
    watched.looks(2)
    watched.lose(lost)
    before = len(watched.events("leaks_looked_for"))
    watched.until_released(lost)
    took = len(watched.events("leaks_looked_for")) - before
    waiting = hasty_cnid.WAITS.confirm / hasty_cnid.WAITS.between
    assert took <= 3 + waiting, "the half minute between the looks is over"


def test_the_runtime_is_asked_and_the_daemon_has_no_grpc(watched: Watched) -> None:
    watched.add("a")
    watched.looks(2)
    asked = watched.runtime.asked
    watched.looks(2)
    loaded = Path(f"/proc/{watched.site.node.cnid.pid}/maps").read_text()
    assert watched.runtime.asked > asked
    assert "_upb/_message" in loaded  # protobuf's library: it is vpc-cnid's memory that is read
    assert "cygrpc" not in loaded


def test_a_pod_whose_sandbox_was_forgotten_goes_with_its_network(watched: Watched) -> None:
    """Its namespace stands: the runtime lost the sandbox with ADD and DEL both failed."""
    lives, lost = watched.add("lives"), watched.add("lost")
    watched.forget(lost)
    watched.until_released(lost)
    assert watched.site.traces(lost) == []
    assert watched.events("leak_released")[0]["rule"] == "forgotten"
    assert watched.runs(lives)


def everybody_in_turn_lies_about(watched: Watched, pod: Pod) -> Iterator[str]:
    """The name of each lie, while it lasts."""
    listed = watched.runtime.sandboxes
    stored = {path: path.read_text() for path in watched.cache.iterdir()}
    name = f"vpc-ipamd-{pod.container_id}-eth0"
    lists = {
        "an empty list": {},
        "a list without it": {i: s for i, s in listed.items() if i != pod.container_id},
        "stopped in the list": listed | {pod.container_id: cri.SANDBOX_NOTREADY},
    }
    for lie, sandboxes in lists.items():
        watched.runtime.sandboxes = sandboxes
        yield lie
    watched.runtime.sandboxes = listed
    caches = {"no entry of it": {name}, "an empty cache": {path.name for path in stored}}
    for lie, missing in caches.items():
        for path, text in stored.items():
            path.write_text(text) if path.name not in missing else path.unlink(missing_ok=True)
        yield lie
    shutil.rmtree(watched.cache)
    yield "no cache"
    watched.runtime.close()
    yield "no runtime"


def cut_off(watched: Watched, pod: Pod) -> None:
    """Remove the host's end of the pod's pair by hand."""
    site = watched.site
    veth = read_kernel(site.node.netns_path).veth_of(pod.container_id)
    assert veth is not None
    command = ["nsenter", f"--net={site.node.netns_path}", "ip", "link", "del", veth.name]
    subprocess.run(command, check=True)


def test_a_pod_that_runs_is_never_touched_whoever_forgets_it(watched: Watched) -> None:
    pods = [watched.add("lives"), watched.add("lied-about")]
    watched.looks(12)
    for lie in everybody_in_turn_lies_about(watched, pods[1]):
        watched.looks(12)
        assert all(map(watched.runs, pods)), lie
    assert watched.events("leak_released") == []


def test_a_pod_that_runs_is_never_touched_though_its_link_or_mount_is_gone(
    watched: Watched,
) -> None:
    """With the link, it is cut off; the address is its own all the same."""
    lives, linkless, mountless = (watched.add(n) for n in ("lives", "linkless", "mountless"))
    watched.looks(12)
    cut_off(watched, linkless)
    process = netns.popen_in(mountless.netns_path, ["/bin/sleep", "60"], env={}, cwd="/")
    try:
        watched.site.runtime.remove_namespace(mountless)
        watched.looks(12)
        assert all(map(watched.is_held, (lives, linkless, mountless)))
    finally:
        process.kill()
        process.wait()
    assert watched.events("leak_released") == []


def test_a_restart_of_vpc_cnid_starts_the_suspicion_anew(watched: Watched) -> None:
    watched.add("lives")
    lost = watched.add("lost")
    watched.lose(lost)
    until(lambda: watched.events("leak_candidate"), what="a candidate")
    watched.site.node.cnid.kill()
    watched.site.start_cnid()
    watched.until_released(lost)
    assert len(watched.events("leak_candidate")) == 2


def test_while_ipamd_is_away_nothing_is_done_and_then_all(watched: Watched) -> None:
    lives, lost = watched.add("lives"), watched.add("lost")
    watched.looks(1)
    watched.site.node.ipamd.kill()
    watched.lose(lost)
    until(lambda: watched.events("leaks_not_looked_for"), what="a look without ipamd")
    watched.site.start_ipamd()
    watched.until_released(lost)
    assert watched.runs(lives)


def test_pods_that_come_and_go_under_the_search_are_left_alone(watched: Watched) -> None:
    """ADDs and DELs in flight at every moment of a look; none fails, none loses its address."""
    watched.add("lives")

    def life(number: int) -> bool:
        for _ in range(6):
            pod = watched.add(f"pod-{number}")
            if not watched.runs(pod):
                return False
            watched.forget(pod)
            if not all(call.is_ok for call in watched.site.runtime.stop_pod(pod)):
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(life, range(4)))
    assert watched.events("leak_released") == []


def test_where_it_is_told_to_log_only_nothing_is_released(ground: Ground) -> None:
    directory = Path(tempfile.mkdtemp(prefix="vpc-lost-"))
    watched = Watched(ground, directory)
    watched.site.node.cnid.env["VPC_IPAMD_LOST_DELS"] = "log"
    watched.site.node.cnid.restart()
    watched.add("lives")
    lost = watched.add("lost")
    watched.lose(lost)
    until(lambda: watched.events("leak_confirmed"), what="a confirmed leak")
    watched.looks(3)
    watched.runtime.close()
    shutil.rmtree(directory)
    assert watched.is_held(lost)


@pytest.mark.skipif(not DEBIAN_PLUGINS.is_dir(), reason="containernetworking-plugins is absent")
@pytest.mark.parametrize(
    "main", [{"type": "ptp"}, {"type": "bridge", "isGateway": True}], ids=["ptp", "bridge"]
)
def test_a_pod_that_another_plugin_wired_gives_its_address_back(
    watched: Watched, tmp_path: Path, main: dict[str, object]
) -> None:
    """No link names it: by its namespace's cookie, the cache and the list."""
    binaries = plugin_directory(tmp_path / "cni", Path(launcher_of("c")[-1]))
    network = Network(plugins=[{**main, "ipam": {"type": "vpc-cni-ipam"}}], name="other")
    chain = Chain(watched.site.node, binaries, network)
    pods = [watched.site.runtime.new_pod(name) for name in ("lives", "lost")]
    for pod in pods:
        assert chain.add(pod).exit_code == 0
        (watched.cache / f"other-{pod.container_id}-eth0").write_text("{}")
        watched.runtime.sandboxes[pod.container_id] = cri.SANDBOX_READY
    lives, lost = pods
    watched.looks(12)
    (watched.cache / f"other-{lost.container_id}-eth0").unlink()
    watched.lose(lost)
    address = watched.site.ledger().allocations[lost.container_id].address
    watched.until_released(lost)
    rules = ip_json(watched.site.node.netns_path, "rule")
    assert address not in {row.get("src") for row in rules}
    assert watched.runs(lives)
