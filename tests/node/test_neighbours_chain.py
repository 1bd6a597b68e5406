"""Ours as main plugin before Debian's portmap, bandwidth, tuning, firewall and sbr: what each does
with our result, seen in the kernel, and that nothing of it stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from providers.sim import netns
from providers.sim.runtime import Pod
from tests.cni_chain import DEBIAN_PLUGINS, Chain, Network, plugin_directory
from tests.node.ground import CONFIG, Ground, Site, code_of, details_of, until
from tests.node.readings import ip_json

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not DEBIAN_PLUGINS.is_dir(), reason="containernetworking-plugins is absent"),
]

OURS = {key: CONFIG[key] for key in ("type", "vethPrefix", "mtu")}
PORTMAP = {"type": "portmap", "snat": True, "capabilities": {"portMappings": True}}
BANDWIDTH = {"type": "bandwidth", "capabilities": {"bandwidth": True}}
TUNING = {
    "type": "tuning",
    "sysctl": {"net.ipv4.conf.eth0.log_martians": "1"},
    "mtu": 1400,
    "promisc": True,
}
FIREWALL = {"type": "firewall", "backend": "iptables"}
SBR = {"type": "sbr"}
# containerd writes these keys with capitals, other runtimes do not; plugins take both.
TO_HTTP: dict[str, Any] = {
    "portMappings": [{"HostPort": 18080, "ContainerPort": 80, "Protocol": "tcp"}]
}
SLOW: dict[str, Any] = {
    "bandwidth": {
        "ingressRate": 8_000_000,
        "ingressBurst": 8_000_000,
        "egressRate": 0,
        "egressBurst": 0,
    }
}


class Ours:
    """A node with our network and one neighbour behind us."""

    def __init__(self, site: Site, directory: Path, neighbour: Mapping[str, Any]) -> None:
        self.site = site
        binaries = plugin_directory(directory / "cni", Path(site.launcher[-1]))
        self.chain = Chain(site.node, binaries, Network(plugins=[OURS, neighbour]))

    def attach(self, **runtime_config: Any) -> tuple[Pod, str]:
        pod = self.site.runtime.new_pod("pod")
        netns.run_in(pod.netns_path, ["ip", "link", "set", "lo", "up"])
        call = self.chain.add(pod, **runtime_config)
        assert call.exit_code == 0, f"{call}\n{self.site.node.cnid.log_tail()}"
        return pod, call.addresses[0]

    def host(self, *command: str) -> str:
        """What a program says on the node."""
        return netns.run_in(self.site.node.netns_path, list(command))

    def end(self, pod: Pod, **runtime_config: Any) -> None:
        """CHECK, then DEL twice; each must be a success."""
        self.check(pod, **runtime_config)
        for has_netns in (True, False):
            ended = self.chain.delete(pod, has_netns=has_netns, **runtime_config)
            assert ended.exit_code == 0, ended

    def check(self, pod: Pod, **runtime_config: Any) -> None:
        """CHECK of the whole chain must be a success."""
        checked = self.chain.check(pod, **runtime_config)
        assert checked.exit_code == 0, checked


def with_neighbour(ground: Ground, directory: Path, neighbour: Mapping[str, Any]) -> Ours:
    return Ours(ground.started(), directory, neighbour)


def test_the_result_has_the_order_and_the_index_that_neighbours_look_for(
    ground: Ground, tmp_path: Path
) -> None:
    ours = with_neighbour(ground, tmp_path, PORTMAP)
    pod, address = ours.attach()
    result = ours.chain.result(pod)
    host, inside = result["interfaces"]
    links = {row["ifname"] for row in ip_json(ours.site.node.netns_path, "link", "show")}
    assert (host["name"] in links, "sandbox" in host) == (True, False)
    assert (inside["name"], inside["sandbox"]) == ("eth0", pod.netns_path)
    assert [(ip["address"], ip["interface"]) for ip in result["ips"]] == [(f"{address}/32", 1)]


@contextmanager
def http_server(pod: Pod) -> Iterator[None]:
    """Port 80 of the pod answers with an empty directory's listing."""
    server = netns.popen_in(
        pod.netns_path,
        [sys.executable, "-m", "http.server", "80", "--directory", "/run/netns"],
        env={"PATH": "/usr/bin"},
    )
    try:
        until(lambda: is_listening_on_80(pod), what="a server in the pod")
        yield
    finally:
        server.terminate()
        server.wait()


def is_listening_on_80(pod: Pod) -> bool:
    return ":80 " in netns.run_in(pod.netns_path, ["ss", "-tln"])


def fetched(netns_path: str, url: str) -> str:
    """The status of a GET from a namespace, empty where nobody answers."""
    script = (
        "import sys, urllib.request as r\n"
        "try: print(r.urlopen(sys.argv[1], timeout=2).status)\n"
        "except OSError: pass\n"
    )

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-I", "-c", script, url],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        return done.stdout.strip()

    return netns.call_in(netns_path, run)


def test_a_host_port_leads_to_the_pod_from_outside_and_from_the_node(
    ground: Ground, tmp_path: Path
) -> None:
    ours = with_neighbour(ground, tmp_path, PORTMAP)
    far = ground.site()
    node = ours.site.node
    assert node.identity is not None
    url = f"http://{node.identity.address}:18080/"
    pod, _ = ours.attach(**TO_HTTP)
    with http_server(pod):
        assert fetched(far.node.netns_path, url) == "200"
        assert fetched(node.netns_path, "http://127.0.0.1:18080/") == "200"
        checked = ours.chain.check(pod, **TO_HTTP)
        # portmap 1.1.1 misses its IPv6 chain for a pod that has no IPv6 address; our part is right.
        assert checked.exit_code == 0 or "ipv6 dnat" in details_of(checked)
        for has_netns in (True, False):
            assert ours.chain.delete(pod, has_netns=has_netns, **TO_HTTP).exit_code == 0
        assert fetched(far.node.netns_path, url) == ""
    assert "18080" not in ours.host("iptables-save", "-t", "nat")


def test_a_rate_stands_on_our_host_link_and_goes_with_it(ground: Ground, tmp_path: Path) -> None:
    ours = with_neighbour(ground, tmp_path, BANDWIDTH)
    pod, _ = ours.attach(**SLOW)
    link = ours.chain.result(pod)["interfaces"][0]["name"]
    assert "tbf" in ours.host("tc", "qdisc", "show", "dev", link)
    ours.end(pod, **SLOW)
    assert "tbf" not in ours.host("tc", "qdisc", "show")


def test_a_tuned_pod_keeps_its_network(ground: Ground, tmp_path: Path) -> None:
    ours = with_neighbour(ground, tmp_path, TUNING)
    pod, address = ours.attach()
    (link,) = ip_json(pod.netns_path, "link", "show", "eth0")
    martians = Path("/proc/sys/net/ipv4/conf/eth0/log_martians")
    assert (link["mtu"], "PROMISC" in link["flags"]) == (1400, True)
    assert netns.call_in(pod.netns_path, lambda: martians.read_text().strip()) == "1"
    assert ours.site.can_reach_router(pod, address)
    ours.end(pod)


def test_the_firewalls_rules_for_a_pod_come_and_go(ground: Ground, tmp_path: Path) -> None:
    ours = with_neighbour(ground, tmp_path, FIREWALL)
    pod, address = ours.attach()
    assert f"-s {address}/32" in ours.host("iptables-save", "-t", "filter")
    assert ours.site.can_reach_router(pod, address)
    ours.end(pod)
    assert address not in ours.host("iptables-save", "-t", "filter")


def test_source_based_routing_moves_our_routes_to_a_table_that_works(
    ground: Ground, tmp_path: Path
) -> None:
    ours = with_neighbour(ground, tmp_path, SBR)
    pod, address = ours.attach()
    rules = ip_json(pod.netns_path, "rule")
    (table,) = {row["table"] for row in rules if row.get("src") == address}
    routes = ip_json(pod.netns_path, "route", "show", "table", table)
    assert "default" in {row["dst"] for row in routes}
    assert ours.site.can_reach_router(pod, address)
    ours.check(pod)
    assert ours.chain.delete(pod).exit_code == 0  # without a namespace sbr itself fails


def test_a_changed_mac_costs_the_pod_its_gateway_and_check_says_so(
    ground: Ground, tmp_path: Path
) -> None:
    """The kernel forgets the permanent neighbours of a link whose MAC changes."""
    ours = with_neighbour(ground, tmp_path, {"type": "tuning", "mac": "0e:00:00:00:00:07"})
    pod, address = ours.attach()
    assert not ours.site.can_reach_router(pod, address)
    checked = ours.chain.check(pod)
    assert (code_of(checked), "169.254.1.1" in details_of(checked)) == (103, True), checked


@pytest.mark.parametrize(
    "neighbour", [PORTMAP, BANDWIDTH, TUNING, FIREWALL, SBR], ids=lambda n: str(n["type"])
)
def test_after_the_chains_del_the_node_is_as_before(
    ground: Ground, tmp_path: Path, neighbour: Mapping[str, Any]
) -> None:
    ours = with_neighbour(ground, tmp_path, neighbour)
    before = links_and_rules(ours.site)
    pod, address = ours.attach(**TO_HTTP, **SLOW)
    ours.chain.delete(pod, has_netns=True, **TO_HTTP, **SLOW)
    assert links_and_rules(ours.site) == before
    assert address in ours.site.ledger().in_state("cooling")


def links_and_rules(site: Site) -> tuple[list[str], list[str]]:
    links = ip_json(site.node.netns_path, "link", "show")
    rules = ip_json(site.node.netns_path, "rule")
    return sorted(row["ifname"] for row in links), [str(row) for row in rules]
