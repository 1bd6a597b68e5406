"""Several attachments of one pod, as Multus asks for: each works, and each ends by itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from providers.sim import netns, ping
from providers.sim.runtime import Pod, Runtime
from tests.node.ground import CONFIG, Ground, Site, until
from tests.node.readings import ip_json, read_kernel
from tests.node.test_modes import IPV6, Mode

pytestmark = pytest.mark.netns

SECOND = {**CONFIG, "name": "second-net"}
IPV4 = Mode(subnet=0, env={}, prefix_length=32)
in_both_families = pytest.mark.parametrize("mode", [IPV4, IPV6], ids=["ipv4", "ipv6"])


class Several:
    """A pod whose eth0 stands, and networks to attach it to."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.first = site.runtime
        self.pod = self.first.new_pod("pod")
        netns.run_in(self.pod.netns_path, ["ip", "link", "set", "lo", "up"])
        self.eth0 = self.attach(self.first, "eth0")

    def network(self, config: Mapping[str, Any] = SECOND) -> Runtime:
        return self.site.runtime_with(config=config)

    def named(self, ifname: str) -> Pod:
        """The attachment of this name, as the runtime calls it."""
        return replace(self.pod, ifname=ifname)

    def attach(self, network: Runtime, ifname: str) -> str:
        """An attachment that must come up; its address."""
        call = network.call("ADD", self.named(ifname))
        assert call.exit_code == 0, f"{call}\n{self.site.node.cnid.log_tail()}"
        document = call.document or {}
        has_routes = bool(document.get("routes"))
        assert has_routes is (ifname == "eth0"), "only the first has the default route"
        return call.addresses[0]

    def default_links(self, address: str) -> list[str]:
        """The links of the default routes in main."""
        family = 6 if ":" in address else 4
        rows = ip_json(self.pod.netns_path, "route", "show", "default", family=family)
        return [row["dev"] for row in rows]

    def is_reached(self, address: str) -> bool:
        """Whether the address answers the node, and asks the router."""
        router = self.site.can_reach_router(self.pod, address)
        node = any(ping.ping(self.site.node.netns_path, None, address, 0.5) for _ in range(3))
        return router and node


def several(ground: Ground, mode: Mode = IPV4) -> Several:
    return Several(ground.started(subnet=mode.subnet, env=mode.env))


@in_both_families
def test_a_second_attachment_works_and_leaves_the_default_route_to_the_first(
    ground: Ground, mode: Mode
) -> None:
    pods = several(ground, mode)
    net1 = pods.attach(pods.network(), "net1")
    assert net1 != pods.eth0
    assert pods.default_links(net1) == ["eth0"]
    assert (pods.is_reached(pods.eth0), pods.is_reached(net1)) == (True, True)


@in_both_families
@pytest.mark.parametrize("gone", ["eth0", "net1"])
def test_the_end_of_one_leaves_the_other(ground: Ground, mode: Mode, gone: str) -> None:
    pods = several(ground, mode)
    second = pods.network()
    net1 = pods.attach(second, "net1")
    network = pods.first if gone == "eth0" else second
    assert network.call("DEL", pods.named(gone)).exit_code == 0
    kept, freed = (net1, pods.eth0) if gone == "eth0" else (pods.eth0, net1)
    assert pods.is_reached(kept)
    assert freed in pods.site.ledger().in_state("cooling")
    assert freed not in read_kernel(pods.site.node.netns_path).routes


def test_one_network_twice_and_names_of_full_length(ground: Ground) -> None:
    pods = several(ground)
    names = ["net1", "a-name-of-15-by"]
    addresses = [pods.attach(pods.first, name) for name in names]
    assert len({pods.eth0, *addresses}) == 3
    assert all(pods.is_reached(address) for address in (pods.eth0, *addresses))


def test_attachments_of_two_enis_leave_each_by_its_own(ground: Ground) -> None:
    """The fabric drops what leaves by another ENI than its source's; a far host sees both."""
    site = ground.started(env={"WARM_IP_TARGET": "12"})
    far = ground.site(subnet=2)
    until(lambda: len({r.eni_id for r in site.ledger().in_state("available").values()}) > 1)
    filled = [site.add(f"filler-{number}") for number in range(8)]
    pods = Several(site)
    net1 = pods.attach(pods.network(), "net1")
    rows = site.ledger().addresses
    assert len(filled) == 8 and rows[pods.eth0].eni_id != rows[net1].eni_id
    assert far.node.identity is not None
    target = str(far.node.identity.address)
    inside, outside = pods.pod.netns_path, far.node.netns_path
    for address in (pods.eth0, net1):
        assert ping.ping(inside, address, target) is not None
        assert ping.ping(outside, None, address) is not None


@in_both_families
def test_check_knows_each_attachment_and_misses_the_rule_of_a_further_one(
    ground: Ground, mode: Mode
) -> None:
    pods = several(ground, mode)
    second = pods.network()
    call = second.call("ADD", pods.named("net1"))
    assert call.document is not None
    net1 = call.addresses[0]

    whole = second.call("CHECK", pods.named("net1"), previous=call.document)
    family = "-6" if ":" in net1 else "-4"
    netns.run_in(pods.pod.netns_path, ["ip", family, "rule", "del", "from", net1])
    broken = second.call("CHECK", pods.named("net1"), previous=call.document)

    assert whole.exit_code == 0, whole
    assert f"no rule from {net1} to the table of net1" in broken.stdout


def test_a_repeat_of_a_further_add_answers_the_same(ground: Ground) -> None:
    pods = several(ground)
    second = pods.network()
    first, again = (second.call("ADD", pods.named("net1")) for _ in range(2))
    assert first.exit_code == 0
    assert first.document == again.document


def test_an_interface_that_comes_back_finds_no_rule_of_its_last_life(ground: Ground) -> None:
    """A DEL may come without the namespace, so the next ADD clears up in it."""
    pods = several(ground)
    second = pods.network()
    for _ in range(3):
        address = pods.attach(second, "net1")
        assert second.call("DEL", pods.named("net1")).exit_code == 0
    address = pods.attach(second, "net1")
    rules = ip_json(pods.pod.netns_path, "rule")
    assert [row["src"] for row in rules if row["src"] != "all"] == [address]


def test_beside_another_plugins_default_route_ours_takes_none(ground: Ground) -> None:
    """eth0 of a plugin that is not ours, with a default route by a gateway of its own."""
    site = ground.started()
    pod = site.runtime.new_pod("pod")
    for command in (
        "link add eth0 type veth peer name x0",
        "address add 192.0.2.2/24 dev eth0",
        "link set eth0 up",
        "link set x0 up",
        "route add default via 192.0.2.1 dev eth0",
    ):
        netns.run_in(pod.netns_path, ["ip", *command.split()])
    call = site.runtime.call("ADD", replace(pod, ifname="net1"))
    assert call.exit_code == 0, call
    rows = ip_json(pod.netns_path, "route", "show", "table", "main")
    assert [row["dst"] for row in rows if row["dev"] == "net1"] == []
    assert site.can_reach_router(pod, call.addresses[0])
