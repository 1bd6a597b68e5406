"""Both daemons with no more than the manifest gives them: its capabilities, mounts and settings.

The containers are made from scripts/deploy/vpc-ipamd.yaml, so that a right that is taken away there
is missing here.
"""

from __future__ import annotations

import ctypes
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from providers.sim import netns
from providers.sim.lab_process import Daemon
from tests.node import contained, hasty_cnid
from tests.node.ground import Ground, Site, until
from tests.node.test_old_connections import (
    RULES,
    SERVICE,
    address_of,
    hears,
    next_holder,
    nft,
    udp,
)
from tests.policy_agent import FakePolicyAgent

pytestmark = pytest.mark.netns

MANIFEST = contained.ROOT / "scripts/deploy/vpc-ipamd.yaml"
MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 0x1000, 0x4000, 0x40000, 0x100000
HASTY = (sys.executable, str(Path(hasty_cnid.__file__)))


def pod_spec() -> dict[str, Any]:
    """The pod of the manifest's DaemonSet."""
    documents = yaml.safe_load_all(MANIFEST.read_text())
    (found,) = [each for each in documents if each["kind"] == "DaemonSet"]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    """One container of it."""
    (found,) = [each for each in pod_spec()["containers"] if each["name"] == name]
    return dict(found)


class Contained:
    """A node whose daemons run as containers; the directories of its host are the test's."""

    def __init__(self, site: Site, host: Path) -> None:
        self.site = site
        self.host = host
        self.cache = host / "var/lib/cni/results"
        self.cache.mkdir(parents=True)

    def confine(self, name: str, daemon: Daemon, *, without: str = "") -> None:
        """Have a daemon start in its container; `without` is a capability that it misses."""
        given = container(name)
        capabilities = set(given["securityContext"]["capabilities"].get("add", ())) - {without}
        wanted = {
            "capabilities": sorted(capabilities),
            "mounts": [asdict(each) for each in self._volumes(given)],
        }
        daemon.env |= {each["name"]: each["value"] for each in given.get("env", ())}
        daemon.env["VPC_IPAMD_RUN_DIR"] = "/run/vpc-ipamd"
        daemon.env["HOME"] = "/tmp"
        daemon.argv = (sys.executable, contained.__file__, json.dumps(wanted), *daemon.argv)

    def _volumes(self, given: Mapping[str, Any]) -> Iterator[contained.Volume]:
        volumes = {each["name"]: each for each in pod_spec()["volumes"]}
        for mount in given["volumeMounts"]:
            volume = volumes[mount["name"]]
            yield contained.Volume(
                source=self._source(volume["hostPath"]) if "hostPath" in volume else "",
                target=mount["mountPath"],
                is_read_only=mount.get("readOnly", False),
                follows_host=mount.get("mountPropagation") == "HostToContainer",
            )

    def _source(self, host_path: Mapping[str, str]) -> str:
        """What stands on the node under a path: the kernel's own, or what the kubelet makes."""
        path = host_path["path"]
        if path == "/run/vpc-ipamd":
            return str(self.site.node.run_dir)
        if path in {"/proc/sys/net", "/run/netns"}:
            return path
        made = self.host / path.lstrip("/")
        if host_path["type"] == "FileOrCreate":
            made.parent.mkdir(parents=True, exist_ok=True)
            made.touch(mode=0o644)
        else:
            made.mkdir(parents=True, exist_ok=True)
        return str(made)

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of vpc-cnid's log with this event."""
        lines = self.site.node.cnid.log_path.read_text().splitlines()
        told = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in told if event.get("event") == name]


@pytest.fixture(scope="module")
def propagation() -> Iterator[None]:
    """Namespaces that are mounted later show in containers, as on any host with systemd."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = str(netns.NETNS_DIR).encode()
    assert libc.mount(path, path, b"none", MS_BIND | MS_REC, None) == 0
    assert libc.mount(b"none", path, b"none", MS_SHARED, None) == 0
    yield
    # Where the directory's own mount is shared, what is below goes there too, unless told apart.
    assert libc.mount(b"none", path, b"none", MS_PRIVATE | MS_REC, None) == 0
    libc.umount2(path, netns.MNT_DETACH)


@pytest.fixture
def host() -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="vpc-host-"))
    yield directory
    shutil.rmtree(directory)


def confined(ground: Ground, host: Path, *, without: str = "", **env: str) -> Contained:
    """A node with both daemons in their containers, not yet started."""
    made = Contained(ground.site(env=env), host)
    made.site.node.cnid.argv = HASTY
    made.confine("ipamd", made.site.node.ipamd)
    made.confine("vpc-cnid", made.site.node.cnid, without=without)
    return made


@pytest.fixture
def node(ground: Ground, host: Path, propagation: None) -> Contained:
    # Twelve addresses do not fit on one ENI of the instance type.
    made = confined(ground, host, WARM_IP_TARGET="12", IP_COOLDOWN_PERIOD="1")
    made.site.start()
    made.site.settle(available=12)
    return made


def status_of(daemon: Daemon) -> dict[str, str]:
    lines = Path(f"/proc/{daemon.pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_daemons_have_the_rights_of_the_manifest_and_no_other(node: Contained) -> None:
    for daemon, names in (
        (node.site.node.ipamd, ()),
        (node.site.node.cnid, ("NET_ADMIN", "NET_RAW", "SYS_ADMIN")),
    ):
        status = status_of(daemon)
        rights = {int(status[f"Cap{kind}"], 16) for kind in ("Bnd", "Prm", "Eff")}
        assert rights == {sum(1 << contained.NUMBERS[name] for name in names)}
        assert status["NoNewPrivs"] == "1"


def test_pods_come_and_go_on_both_enis(node: Contained) -> None:
    site = node.site
    pods = [site.add(f"pod-{number}") for number in range(11)]
    ledger = site.ledger()
    assert len({ledger.addresses[address_of(site, pod)].eni_id for pod in pods}) == 2
    for pod in pods:
        assert site.can_reach_router(pod, address_of(site, pod))
        assert site.runtime.check(pod).is_ok
    for pod in pods:
        assert all(call.is_ok for call in site.runtime.stop_pod(pod))
        assert site.traces(pod) == []


def test_the_host_network_stands_and_is_mended(node: Contained) -> None:
    site = node.site
    path = site.node.netns_path
    wanted = netns.run_in(path, ["nft", "list", "table", "inet", "vpc-ipamd"])
    assert "snat ip to" in wanted
    links = json.loads(netns.run_in(path, ["ip", "-json", "link"]))
    enis = [link["ifname"] for link in links if link["ifname"].startswith("e")]
    assert len(enis) == 2
    for name in enis:
        assert sysctl(path, f"ipv4/conf/{name}/rp_filter") == "2"
    assert sysctl(path, "ipv4/ip_forward") == "1"
    netns.run_in(path, ["nft", "flush", "ruleset"])
    until(lambda: netns.run_in(path, ["nft", "list", "ruleset"]) == wanted, what="the table")


def sysctl(path: str, name: str) -> str:
    return netns.call_in(path, lambda: Path("/proc/sys/net", name).read_text().strip())


def test_connections_are_cleared_before_an_address_is_used_again(node: Contained) -> None:
    site = node.site
    nft(site, RULES)
    client, old = site.add("client"), site.add("old")
    address = address_of(site, old)
    nft(
        site,
        f"add rule ip services destinations ip daddr {SERVICE[0]}"
        f" udp dport {SERVICE[1]} dnat to {address}",
    )
    with closing(udp(client)) as asking:
        with closing(udp(old, (address, SERVICE[1]))) as server:
            asking.sendto(b"question", SERVICE)
            assert server.recv(100) == b"question"
        site.runtime.stop_pod(old)
        nft(site, "flush chain ip services destinations")
        with closing(udp(next_holder(site, address), (address, SERVICE[1]))) as server:
            asking.sendto(b"question", SERVICE)
            assert not hears(server)
    assert sum(event["entries"] for event in node.events("connections_cleared")) >= 1


def test_a_lost_del_is_found_by_mounts_and_cache_alone(node: Contained) -> None:
    """The runtime's socket is not mounted, and no process of the node can be seen."""
    site = node.site
    lives, lost = site.add("lives"), site.add("lost")
    for pod in (lives, lost):
        (node.cache / f"vpc-ipamd-{pod.container_id}-eth0").write_text("{}")
    until(lambda: node.events("attached"))
    site.runtime.remove_namespace(lost)
    (node.cache / f"vpc-ipamd-{lost.container_id}-eth0").unlink()
    until(lambda: lost.container_id not in site.ledger().allocations, what="the release")
    assert lives.container_id in site.ledger().allocations
    assert site.can_reach_router(lives, address_of(site, lives))


@pytest.mark.parametrize("name", ["vpc-cnid", "ipamd"])
def test_a_daemon_comes_back_after_a_kill(node: Contained, name: str) -> None:
    site = node.site
    pod = site.add("before")
    if name == "ipamd":
        site.restart_ipamd()
    else:
        site.node.cnid.kill()
        site.start_cnid()
    assert site.can_reach_router(pod, address_of(site, pod))
    after = site.add("after")
    assert site.can_reach_router(after, address_of(site, after))
    assert all(call.is_ok for call in site.runtime.stop_pod(pod))


@pytest.mark.parametrize("name", ["readiness", "liveness"])
def test_the_probes_of_vpc_cnid_pass_in_its_container(node: Contained, name: str) -> None:
    command = container("vpc-cnid")[f"{name}Probe"]["exec"]["command"]
    assert command[0] == "install-cni"
    start = node.site.node.cnid.argv[:3]
    launcher = contained.ROOT / "cni-shim/launcher/vpc_cni.py"
    install = (sys.executable, "-m", "cni_shim.install", "--launcher", str(launcher))
    argv = [*start, *install, *command[1:]]

    def run() -> str:
        done = subprocess.run(
            argv,
            env=node.site.node.cnid.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        return "" if done.returncode == 0 else f"{done.returncode}: {done.stdout}{done.stderr}"

    assert netns.call_in(node.site.node.netns_path, run) == ""


@pytest.mark.parametrize("without", ["", "NET_RAW"], ids=["as given", "without NET_RAW"])
def test_the_chains_of_aws_node_are_taken_away(
    ground: Ground, host: Path, propagation: None, without: str
) -> None:
    """Those of iptables-legacy with NET_RAW alone; what may be seen goes without it, too."""
    made = confined(ground, host, without=without)
    path = made.site.node.netns_path
    for kind in ("legacy", "nft"):
        iptables = [f"iptables-{kind}", "-w", "-t", "nat"]
        netns.run_in(path, [*iptables, "-N", "AWS-SNAT-CHAIN-0"])
        netns.run_in(path, [*iptables, "-A", "POSTROUTING", "-j", "AWS-SNAT-CHAIN-0"])
    made.site.start()
    until(lambda: made.events("peer_chains_removed"), what="the take-over")
    left = {
        kind
        for kind in ("legacy", "nft")
        if "AWS-SNAT-CHAIN" in netns.run_in(path, [f"iptables-{kind}-save", "-t", "nat"])
    }
    assert left == ({"legacy"} if without else set())
    unseen = "".join(str(event["why"]) for event in made.events("peer_chains_unseen"))
    assert ("needs CAP_NET_RAW" in unseen) == bool(without)


def test_the_network_policy_agent_is_told_of_pods(
    ground: Ground, host: Path, propagation: None
) -> None:
    made = confined(ground, host, NETWORK_POLICY_ENFORCING_MODE="strict")
    agent = FakePolicyAgent(host / "var/run/aws-node/npa.sock")
    agent.start()
    try:
        made.site.start()
        made.site.add("web")
        assert agent.diary == ["enforce default/web strict 1"]
    finally:
        agent.stop()


@pytest.mark.parametrize("missing", ["NET_ADMIN", "SYS_ADMIN"])
def test_neither_right_can_be_spared(
    ground: Ground, host: Path, propagation: None, missing: str
) -> None:
    """Else the tests above would prove nothing."""
    made = confined(ground, host, without=missing)
    made.site.start_ipamd()
    made.site.node.cnid.start()
    add = made.site.runtime_with(deadline_ms=5000).start_pod("web").add
    assert not add.is_ok
    assert "Operation not permitted" in made.site.node.cnid.log_tail()
