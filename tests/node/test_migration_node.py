"""A whole node goes to aws-node and comes back: real daemons, real links, real files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Container
from ipaddress import IPv4Address, ip_address
from itertools import permutations
from pathlib import Path

import pytest

from providers.sim import netns
from providers.sim.model import WiredEni
from providers.sim.runtime import Pod
from tests.netns.peer_agent import PeerAgent
from tests.netns.streams import Flow, Streams
from tests.node.ground import Ground, Site, until
from tests.node.peer_plugin import PeerPlugin
from tests.node.readings import ip_json

pytestmark = pytest.mark.netns

FULL_ENI = 9
"""Addresses for pods on an ENI of an m5.large: 10 less its own."""


class PeerSite:
    """A node whose ipamd serves aws-node's plugin beside vpc-cnid."""

    def __init__(self, ground: Ground, **environ: str) -> None:
        self.site: Site = ground.site(env=environ)
        run_dir = self.site.node.run_dir
        self.checkpoint = run_dir / "ipam.json"
        self.environ = {
            "AWS_VPC_K8S_CNI_BACKING_STORE": str(self.checkpoint),
            "VPC_IPAMD_PEER_SOCKET": str(run_dir / "aws.sock"),
            "VPC_IPAMD_CNI_BACKEND_SOCKET": str(run_dir / "plugin.sock"),
        }
        self.site.node.ipamd.env |= self.environ
        self.plugin = PeerPlugin(self.site, run_dir / "plugin.sock")

    def stop(self) -> None:
        assert self.site.node.cnid.stop() == 0
        assert self.site.node.ipamd.stop() == 0

    def migrate(self, *words: str) -> tuple[int, str]:
        """`ipamctl migrate` with the daemon's environment."""
        done = subprocess.run(
            [sys.executable, "-m", "ipamd.cli.main", "migrate", *words],
            env=self.site.node.ipamd.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout + done.stderr

    def held(self) -> dict[str, str]:
        """Container -> address, from the store's file."""
        return {c: row.address for c, row in self.site.ledger().allocations.items()}

    def named(self, addresses: Container[str]) -> list[str]:
        """Every rule, and every route outside the local table, that has one of the addresses."""
        path = self.site.node.netns_path
        rules = [
            (f"rule{r['priority']}", r["src"], r.get("dst", "")) for r in ip_json(path, "rule")
        ]
        routes = [
            (str(r.get("table", "main")), r["dst"], r.get("dev", ""))
            for r in ip_json(path, "route", "show", "table", "all")
        ]
        found = [words for words in (*rules, *routes) if words[1] in addresses]
        found += [words for words in rules if words[2] in addresses]
        return [" ".join(words) for words in found if words[0] != "local"]

    def reach(self, pods: dict[str, Pod]) -> dict[str, bool]:
        """Whether each pod's address has an answer from the router."""
        return {address: self.site.can_reach_router(pod, address) for address, pod in pods.items()}


@pytest.mark.parametrize("pods", [3, 8], ids=["on one ENI", "on two ENIs"])
def test_a_node_that_goes_to_aws_node_and_comes_back_keeps_every_allocation(
    ground: Ground, pods: int
) -> None:
    node = PeerSite(ground, IP_COOLDOWN_PERIOD="2", WARM_IP_TARGET="3")
    site = node.site
    site.start()
    theirs = {address: pod for pod, address in map(node.plugin.add, _names("peer", pods))}
    ours = [site.add(name) for name in _names("own", pods)]
    before = node.held()
    pods_of = theirs | {before[pod.container_id]: pod for pod in ours}
    assert node.reach(pods_of) == dict.fromkeys(pods_of, True)
    epoch = site.ledger().epoch

    node.stop()
    assert node.reach(pods_of) == dict.fromkeys(pods_of, True)
    status, said = node.migrate("back", "-o", "json")
    assert status == 0, said
    written = json.loads(node.checkpoint.read_text())["allocations"]
    assert {e["containerID"]: e["ipv4"] for e in written} == before
    assert {e["networkName"] for e in written} == {"aws-cni"}

    site.start()
    until(lambda: site.ledger().has_heard_node, what="a report of the kernel")
    assert site.ledger().epoch != epoch
    assert node.held() == before
    assert node.reach(pods_of) == dict.fromkeys(pods_of, True)
    for address, pod in theirs.items():
        assert node.plugin.delete(pod) == (address,)
    for pod in ours:
        assert all(call.is_ok for call in site.runtime.stop_pod(pod))
        assert site.traces(pod) == []
    assert node.held() == {}


@pytest.mark.parametrize(
    ("pods", "is_ipamd_away"),
    [(FULL_ENI + 3, False), (3, True)],
    ids=["on two ENIs", "while ipamd is away"],
)
def test_pods_that_aws_node_wired_are_deleted_through_vpc_cni_and_leave_nothing(
    ground: Ground, pods: int, *, is_ipamd_away: bool
) -> None:
    node = PeerSite(
        ground, IP_COOLDOWN_PERIOD="2", WARM_IP_TARGET="3", MINIMUM_IP_TARGET=str(2 * FULL_ENI)
    )
    site = node.site
    site.start()
    site.settle(available=2 * FULL_ENI)
    theirs = {address: pod for pod, address in map(node.plugin.add, _names("peer", pods))}
    kinds = {"rule512", "main"} | ({"rule1536"} if pods > FULL_ENI else set())
    assert {text.split()[0] for text in node.named(theirs)} == kinds
    node.stop()
    status, said = node.migrate("back")
    assert status == 0, said
    site.start()
    until(lambda: site.ledger().has_heard_node, what="a report of the kernel")
    assert sorted(node.held().values()) == sorted(theirs)

    if is_ipamd_away:
        assert site.node.ipamd.stop() == 0
    for pod in theirs.values():
        assert all(call.is_ok for call in site.runtime.stop_pod(pod))
    if is_ipamd_away:
        site.start_ipamd()
    until(lambda: node.held() == {}, what="the end of every allocation")
    assert node.named(theirs) == []

    until(
        lambda: set(theirs) <= set(site.ledger().in_state("available")),
        what="the end of their cooldown",
    )
    assert site.ledger().in_state("quarantined") == {}
    ours = [site.add(name) for name in _names("own", 2 * FULL_ENI)]
    addresses = node.held()
    assert set(theirs) <= set(addresses.values())
    pods_of = {addresses[pod.container_id]: pod for pod in ours}
    assert node.reach(pods_of) == dict.fromkeys(pods_of, True)


def _names(start: str, count: int) -> list[str]:
    return [f"{start}-{number}" for number in range(count)]


def wired_enis(site: Site) -> tuple[WiredEni, ...]:
    """The node's ENIs as the kernel has them; the lab's subnet is the first."""
    identity = site.node.identity
    assert identity is not None
    links = ip_json(site.node.netns_path, "address", "show")
    enis = {row["ifname"]: row["addr_info"] for row in links if row["ifname"].startswith("eth")}
    return tuple(
        WiredEni(
            eni_id=link,
            mac="",
            instance_id=identity.instance_id,
            device_index=int(link.removeprefix("eth")),
            subnet_cidr=identity.subnet_cidr,
            primary_address=IPv4Address(found[0]["local"]),
            addresses=(IPv4Address(found[0]["local"]),),
            has_source_check=True,
        )
        for link, found in enis.items()
    )


def cnid(site: Site, *words: str) -> tuple[int, str]:
    """A step of the way back, as an operator runs it on the node."""
    done = netns.call_in(
        site.node.netns_path,
        lambda: subprocess.run(
            [sys.executable, "-m", "cni_shim", *words],
            env=site.node.cnid.env,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        ),
    )
    return done.returncode, done.stdout + done.stderr


def talking(pods: dict[str, Pod]) -> Streams:
    """Every pod asks every other."""
    return Streams(
        [
            Flow(
                name=f"{one} -> {other}",
                client_netns=pods[one].netns_path,
                client=ip_address(one),
                server_netns=pods[other].netns_path,
                server=ip_address(other),
            )
            for one, other in permutations(pods, 2)
        ]
    )


def test_links_rules_and_chains_change_hands_with_the_addresses_and_no_packet_is_lost(
    ground: Ground,
) -> None:
    node = PeerSite(ground, IP_COOLDOWN_PERIOD="2", MINIMUM_IP_TARGET=str(2 * FULL_ENI))
    site, path = node.site, node.site.node.netns_path
    agent = PeerAgent("nft", wired_enis(site))
    netns.call_in(path, agent.set_up)
    assert netns.call_in(path, agent.chains) != []
    site.start()
    until(lambda: netns.call_in(path, agent.chains) == [], what="the end of aws-node's chains")
    site.settle(available=FULL_ENI + 2)
    theirs = {address: pod for pod, address in map(node.plugin.add, _names("peer", 2))}
    ours = [site.add(name) for name in _names("own", FULL_ENI)]
    addresses = node.held()
    own = {addresses[pod.container_id] for pod in ours}
    some = theirs | {addresses[p.container_id]: p for p in (ours[0], ours[-1])}
    assert len({site.ledger().addresses[address].eni_id for address in some}) == 2

    with talking(some) as streams:
        assert cnid(site, "--restore-peer")[0] == 2  # vpc-cnid runs
        node.stop()
        assert cnid(site, "--remove-ours")[0] == 2  # pods have their routes in our table alone
        status, said = cnid(site, "--restore-peer", "-o", "json")
        assert (status, json.loads(said)["pods_with_rules_of_their_own"]) == (0, len(ours)), said
        status, said = cnid(site, "--remove-ours")
        assert (status, "aws-node's SNAT is not seen" in said) == (2, True), said
        assert node.migrate("back")[0] == 0
        netns.call_in(path, PeerAgent("nft", wired_enis(site)).set_up)
        assert cnid(site, "--remove-ours", "-o", "json")[0] == 0
        streams.pass_time()
        assert "vpc-ipamd" not in netns.run_in(path, ["nft", "list", "tables"])
        rules = ip_json(path, "rule")
        assert not [rule for rule in rules if str(rule.get("table")) == "5120"]
        assert {rule.get("dst") for rule in rules if rule["priority"] == 512} >= set(
            addresses.values()
        )
    assert streams.lost == {}

    with talking(some) as streams:
        site.start()
        until(lambda: netns.call_in(path, agent.chains) == [], what="the end of aws-node's chains")
        until(
            lambda: not [text for text in node.named(own) if "rule" in text],
            what="the end of our pods' own rules",
        )
    assert streams.lost == {}
    for pod in ours:
        assert all(call.is_ok for call in site.runtime.stop_pod(pod))
        assert site.traces(pod) == []


def test_ipamd_does_not_start_on_a_checkpoint_that_it_cannot_read(ground: Ground) -> None:
    node = PeerSite(ground)
    node.checkpoint.write_text('{"version": "vpc-cni-ipam/7", "allocations": []}')
    node.site.node.ipamd.start()
    until(lambda: not node.site.node.ipamd.is_running, what="the end of the start")
    assert node.site.node.ipamd.stop() == 2
    said = node.site.node.ipamd.log_tail()
    assert "its version is 'vpc-cni-ipam/7'" in said
    assert not Path(node.site.node.ipamd_socket).exists()
    node.checkpoint.unlink()
    node.site.start()
    assert node.site.add("first").container_id in node.held()
