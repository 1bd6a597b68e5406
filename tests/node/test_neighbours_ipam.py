"""Ours as the IPAM of Debian's ptp and bridge, on whole nodes: who reaches whom, and what stays."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cri_api import runtime_pb2 as cri

from providers.sim import netns, ping
from providers.sim.runtime import Pod
from tests.cni_chain import DEBIAN_PLUGINS, Chain, Network, plugin_directory
from tests.node.conftest import launcher_of
from tests.node.ground import Ground, Site, code_of, details_of, until
from tests.node.readings import ip_json
from tests.node.test_lost_dels import Watched
from tests.node.test_modes import IPV6
from tests.node.test_restarts import deleted, heard

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(not DEBIAN_PLUGINS.is_dir(), reason="containernetworking-plugins is absent"),
]

PROTOCOL = "120"  # of our rules and routes for what other plugins wire
TWO_ENIS = {"WARM_IP_TARGET": "12"}  # an m5.large's ENI has room for nine
PTP = {"type": "ptp"}
BRIDGE = {"type": "bridge", "isGateway": True}
both_mains = pytest.mark.parametrize("main", [PTP, BRIDGE], ids=["ptp", "bridge"])


@pytest.fixture
def binaries(tmp_path: Path) -> Path:
    """CNI_PATH: main plugins start us from there, so it must be one program."""
    return plugin_directory(tmp_path / "cni", Path(launcher_of("c")[-1]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Attached:
    """A pod of another plugin's network."""

    chain: Chain
    pod: Pod
    address: str


class Mains:
    """Pods of main plugins on one node."""

    def __init__(self, site: Site, binaries: Path) -> None:
        self.site = site
        self.binaries = binaries

    def chain(self, main: Mapping[str, Any], *, deadline_ms: int = 0, **ipam: Any) -> Chain:
        plugin = {**main, "ipam": {"type": "vpc-cni-ipam", **ipam}}
        network = Network(plugins=[plugin], name=f"net-{main['type']}")
        return Chain(self.site.node, self.binaries, network, deadline_ms=deadline_ms)

    def attach(self, main: Mapping[str, Any], name: str = "pod", **ipam: Any) -> Attached:
        """A pod that must start."""
        chain, pod = self.chain(main, **ipam), self.site.runtime.new_pod(name)
        call = chain.add(pod)
        assert call.exit_code == 0, f"{call}\n{self.site.node.cnid.log_tail()}"
        return Attached(chain=chain, pod=pod, address=call.addresses[0])

    def second_eni(self) -> str:
        """The id of an ENI beside the primary."""
        identity = self.site.node.identity
        assert identity is not None
        found = {row.eni_id for row in self.site.ledger().addresses.values()} - {identity.eni_id}
        return min(found)

    def eni_of(self, attached: Attached) -> str:
        return self.site.ledger().addresses[attached.address].eni_id

    def rules(self, address: str) -> list[str]:
        """The rules that name an address, as priority, direction and table."""
        family = 6 if ":" in address else 4
        return sorted(
            f"{row['priority']} {'from' if row.get('src') == address else 'to'} {row['table']}"
            for row in ip_json(self.site.node.netns_path, "rule", family=family)
            if address in (row.get("src"), row.get("dst")) and row.get("protocol") == PROTOCOL
        )

    def routes(self) -> list[str]:
        """The destinations of our routes over other plugins' links."""
        rows = ip_json(self.site.node.netns_path, "route", "show", "table", "all")
        return [row["dst"] for row in rows if str(row.get("protocol")) == PROTOCOL]


def started(ground: Ground, binaries: Path) -> Mains:
    return Mains(ground.started(), binaries)


def with_two_enis(ground: Ground, binaries: Path) -> Mains:
    site = ground.started(env=TWO_ENIS)
    until(lambda: len(enis_of(site)) > 1, what="a second ENI")
    return Mains(site, binaries)


def enis_of(site: Site) -> set[str]:
    """The ENIs with addresses that can be handed out."""
    return {row.eni_id for row in site.ledger().in_state("available").values()}


def unreached(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Pairs of namespace and address without an answer; one lost echo is not yet a no."""
    return [
        pair for pair in pairs if not any(ping.ping(pair[0], None, pair[1], 0.5) for _ in range(3))
    ]


def node_address(site: Site) -> str:
    assert site.node.identity is not None
    return str(site.node.identity.address)


@both_mains
def test_pods_on_both_enis_reach_each_other_our_pods_and_hosts_of_every_subnet(
    ground: Ground, binaries: Path, main: Mapping[str, Any]
) -> None:
    """The fabric drops what leaves by another ENI than its source address's, as a VPC does."""
    mains = with_two_enis(ground, binaries)
    near, elsewhere = ground.site(), ground.site(subnet=2)
    pods = [
        mains.attach(main, f"{eni}-{number}", eni=eni)
        for eni in ("primary", mains.second_eni())
        for number in range(2)
    ]
    ours = mains.site.add("ours")
    our_address = mains.site.ledger().allocations[ours.container_id].address
    hosts = [(s.node.netns_path, node_address(s)) for s in (near, elsewhere, mains.site)]
    theirs = [(a.pod.netns_path, a.address) for a in pods]
    everyone = [*theirs, (ours.netns_path, our_address), *hosts]

    there = [(path, other) for path, own in theirs for _, other in everyone if own != other]
    back = [(path, address) for path, own in everyone for _, address in theirs if own != address]
    assert unreached(there + back) == []


@both_mains
def test_an_address_is_of_the_primary_unless_the_config_names_an_eni(
    ground: Ground, binaries: Path, main: Mapping[str, Any]
) -> None:
    mains = with_two_enis(ground, binaries)
    assert mains.site.node.identity is not None
    second = mains.second_eni()
    unnamed, named = mains.attach(main, "a"), mains.attach(main, "b", eni=second)
    found = (mains.eni_of(unnamed), mains.eni_of(named))
    assert found == (mains.site.node.identity.eni_id, second)
    assert "1536 from 2" in mains.rules(named.address)


@both_mains
def test_the_way_of_a_pod_ends_with_its_del_and_its_address_cools(
    ground: Ground, binaries: Path, main: Mapping[str, Any]
) -> None:
    mains = with_two_enis(ground, binaries)
    gone = mains.attach(main, "gone", eni=mains.second_eni())
    kept = mains.attach(main, "kept", eni=mains.second_eni())
    assert gone.chain.check(gone.pod).exit_code == 0

    assert gone.chain.delete(gone.pod).exit_code == 0
    assert gone.chain.delete(gone.pod, has_netns=False).exit_code == 0

    assert (mains.rules(gone.address), gone.address in mains.routes()) == ([], False)
    assert mains.rules(kept.address) != []
    assert gone.address in mains.site.ledger().in_state("cooling")


@both_mains
def test_what_somebody_takes_away_is_missed_by_check_and_comes_back(
    ground: Ground, binaries: Path, main: Mapping[str, Any]
) -> None:
    mains = with_two_enis(ground, binaries)
    pod = mains.attach(main, eni=mains.second_eni())
    whole = mains.rules(pod.address), mains.routes()
    mains.site.node.cnid.kill()
    mains.site.start_cnid()
    until(lambda: mains.site.status()[1].get("is_node_reporting"), what="a report")

    take_rules_away(mains, pod.address)
    checked = pod.chain.check(pod.pod)  # before or after it came back
    until(lambda: (mains.rules(pod.address), mains.routes()) == whole, what="every rule and route")

    assert checked.exit_code == 0 or "missing: add rule 1536" in details_of(checked)
    assert pod.chain.check(pod.pod).exit_code == 0


def take_rules_away(mains: Mains, address: str) -> None:
    path = mains.site.node.netns_path
    netns.run_in(path, ["ip", "rule", "del", "from", address])


@both_mains
def test_a_lost_store_gives_no_address_of_such_a_pod_away(
    ground: Ground, binaries: Path, main: Mapping[str, Any]
) -> None:
    mains = started(ground, binaries)
    site = mains.site
    pod = mains.attach(main)
    forget_everything(site)

    new = [site.add(f"new-{number}") for number in range(3)]

    held = site.ledger()
    assert held.addresses[pod.address].state == "quarantined"
    assert pod.address not in {held.allocations[p.container_id].address for p in new}
    assert unreached([(pod.pod.netns_path, node_address(site))]) == []
    assert pod.chain.delete(pod.pod).exit_code == 0
    assert (mains.rules(pod.address), mains.routes()) == ([], [])


def forget_everything(site: Site) -> None:
    """Both daemons die and the store is lost; returns when the kernel was reported."""
    site.node.cnid.kill()
    site.node.ipamd.kill()
    deleted(site.store)
    site.start_ipamd()
    site.start_cnid()
    until(lambda: heard(site), what="the report of the kernel")


def test_a_del_while_ipamd_is_away_takes_the_rules_and_frees_the_address_later(
    ground: Ground, binaries: Path
) -> None:
    mains = started(ground, binaries)
    pod = mains.attach(PTP)
    mains.site.node.ipamd.kill()

    assert pod.chain.delete(pod.pod).exit_code == 0
    assert mains.rules(pod.address) == []
    mains.site.start_ipamd()

    until(lambda: pod.address in mains.site.ledger().in_state("cooling"), what="the queued release")


def test_a_full_eni_is_named_to_the_user(ground: Ground, binaries: Path) -> None:
    mains = started(ground, binaries)
    site = mains.site
    for number in range(9):
        site.add(f"pod-{number}")
    chain, pod = mains.chain(PTP, deadline_ms=3000), site.runtime.new_pod("late")
    call = chain.add(pod)
    assert code_of(call) == 11
    assert site.node.identity is not None
    assert f"ENI {site.node.identity.eni_id} is full: 9 pods" in details_of(call)


def test_a_plugin_that_fails_after_our_add_leaves_no_address_behind(
    ground: Ground, binaries: Path
) -> None:
    """A link of the pod's name makes ptp fail, which then calls our DEL."""
    mains = started(ground, binaries)
    chain, pod = mains.chain(PTP), mains.site.runtime.new_pod("pod")
    netns.run_in(pod.netns_path, ["ip", "link", "add", "eth0", "type", "veth"])
    assert chain.add(pod).exit_code != 0
    assert mains.site.ledger().in_state("allocated") == {}


REFUSED: dict[str, tuple[Mapping[str, Any], Mapping[str, Any], int, str]] = {
    "macvlan": ({"type": "macvlan", "master": "eth0"}, {}, 2, 'key "type" with value "macvlan"'),
    "an ENI of another node": (PTP, {"eni": "eni-none"}, 7, "'eni-none' is not one of this node"),
    "a key of nobody's": (PTP, {"subnet": "10.0.0.0/8"}, 2, "'ipam.subnet'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_vpc_would_drop_is_refused_and_nothing_is_left(
    ground: Ground, binaries: Path, case: str
) -> None:
    main, ipam, code, text = REFUSED[case]
    mains = started(ground, binaries)
    chain, pod = mains.chain(main, **ipam), mains.site.runtime.new_pod("pod")
    call = chain.add(pod)
    assert (code_of(call), text in details_of(call)) == (code, True), call
    assert chain.delete(pod).exit_code == 0
    assert mains.site.ledger().in_state("allocated") == {}
    assert [row["ifname"] for row in ip_json(pod.netns_path, "link", "show")] == ["lo"]


def test_ipvlan_is_served_by_protocol_with_one_rule_and_no_route(
    ground: Ground, binaries: Path
) -> None:
    """This kernel may have no ipvlan, so we are called as that plugin would call us."""
    mains = with_two_enis(ground, binaries)
    config = {
        "cniVersion": "1.0.0",
        "name": "net-ipvlan",
        "type": "ipvlan",
        "master": "eth1",
        "mode": "l3",
        "ipam": {"type": "vpc-cni-ipam", "eni": mains.second_eni(), "prefix": "host"},
    }
    runtime = mains.site.node.runtime([str(binaries / "vpc-cni-ipam")], config)
    pod = runtime.new_pod("pod")
    call = runtime.add(pod)
    address = call.addresses[0]
    assert call.document == {
        "cniVersion": "1.0.0",
        "ips": [{"address": f"{address}/32"}],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    assert mains.rules(address) == ["1536 from 2"]
    assert mains.routes() == []
    previous = {**call.document, "interfaces": [{"name": "eth0", "sandbox": pod.netns_path}]}
    assert runtime.call("CHECK", pod, previous=previous).exit_code == 0
    assert runtime.delete(pod).exit_code == 0
    assert mains.rules(address) == []


def test_a_rule_of_ours_alone_keeps_an_address_from_others(ground: Ground, binaries: Path) -> None:
    """Under ipvlan nothing else in the kernel says that the address is in use."""
    mains = started(ground, binaries)
    site = mains.site
    config = {
        "cniVersion": "1.0.0",
        "name": "net-ipvlan",
        "type": "ipvlan",
        "ipam": {"type": "vpc-cni-ipam"},
    }
    runtime = site.node.runtime([str(binaries / "vpc-cni-ipam")], config)
    pod = runtime.new_pod("pod")
    address = runtime.add(pod).addresses[0]
    assert mains.rules(address) == ["1536 from 5120"]
    forget_everything(site)
    site.add("new")
    assert site.ledger().addresses[address].state == "quarantined"


@pytest.fixture
def watched(ground: Ground) -> Iterator[Watched]:
    """Its directory has a short path: a socket address holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="vpc-lost-") as directory:
        made = Watched(ground, Path(directory))
        with closing(made.runtime):
            yield made


@both_mains
def test_a_lost_del_costs_neither_the_address_nor_a_rule_for_long(
    watched: Watched, binaries: Path, main: Mapping[str, Any]
) -> None:
    mains = Mains(watched.site, binaries)
    kept = mains.attach(main, "kept")
    lost = mains.attach(main, "lost")
    for attached in (kept, lost):
        watched.runtime.sandboxes[attached.pod.container_id] = cri.SANDBOX_READY
        (watched.cache / f"net-{attached.pod.container_id}-eth0").write_text("{}")
    watched.looks(2)

    watched.runtime.sandboxes.pop(lost.pod.container_id)
    (watched.cache / f"net-{lost.pod.container_id}-eth0").unlink()
    watched.site.runtime.remove_namespace(lost.pod)

    until(
        lambda: lost.address in watched.site.ledger().in_state("cooling"), what="the lost address"
    )
    assert mains.rules(lost.address) == []
    assert lost.address not in mains.routes()
    assert unreached([(kept.pod.netns_path, node_address(watched.site))]) == []


def test_ipv6_pods_of_ptp_reach_their_node_another_host_and_each_other(
    ground: Ground, binaries: Path
) -> None:
    site = ground.started(subnet=IPV6.subnet, env=IPV6.env)
    far = ground.site(subnet=IPV6.subnet)
    mains = Mains(site, binaries)
    one, other = mains.attach(PTP, "one"), mains.attach(PTP, "other")
    assert mains.rules(one.address) == ["1536 from 5120", "512 to main"]
    assert far.node.identity is not None
    assert (
        unreached(
            [
                (one.pod.netns_path, other.address),
                (one.pod.netns_path, str(far.node.identity.address_v6)),
                (far.node.netns_path, one.address),
                (site.node.netns_path, one.address),
            ]
        )
        == []
    )
    assert one.chain.check(one.pod).exit_code == 0
    assert one.chain.delete(one.pod).exit_code == 0
    assert mains.rules(one.address) == []
