"""CHECK and GC on a whole node: the kernel is damaged by hand, DELs are lost, pods live on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from providers.sim import netns
from providers.sim.lab import Lab
from providers.sim.runtime import CniCall, Pod
from tests.node.ground import CONFIG, Ground, Site, code_of, details_of, until
from tests.node.readings import read_kernel
from tests.shim.launchers import CompilerMissing, launcher_command

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def site(lab: Lab) -> Iterator[Site]:
    """One node for all; each test has pods of its own."""
    try:
        launcher = launcher_command("c")
    except CompilerMissing:
        launcher = launcher_command("python")
    made = Ground(lab, launcher)
    yield made.started(env={"IP_COOLDOWN_PERIOD": "0"})
    made.close()


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_a_pod_as_its_add_left_it_passes(site: Site, version: str) -> None:
    runtime = site.runtime_with(config={**CONFIG, "cniVersion": version})
    pod = runtime.start_pod("sound").pod
    call = runtime.check(pod)
    assert (call.exit_code, call.stdout, call.stderr) == (0, "", "")
    runtime.stop_pod(pod)


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("ip -n {pod} route del default", "no route to 0.0.0.0/0"),
        ("ip -n {pod} address flush dev eth0", "{address}"),
        ("ip -n {pod} link set eth0 down", "eth0"),
        ("ip -n {node} link set {veth} down", "{veth}"),
        ("ip -n {pod} link del eth0", "eth0"),
    ],
    ids=["route", "address", "pod-end-down", "host-end-down", "link"],
)
def test_what_was_damaged_is_told(site: Site, command: str, words: str) -> None:
    """None of it is what vpc-cnid mends by itself, which would be a race."""
    pod = site.add("damaged")
    facts = facts_of(site, pod)
    damage(command.format(**facts))
    call = site.runtime.check(pod)
    assert code_of(call) == 103, call
    assert words.format(**facts) in details_of(call)
    site.runtime.stop_pod(pod)


def facts_of(site: Site, pod: Pod) -> dict[str, str]:
    veth = read_kernel(site.node.netns_path).veth_of(pod.container_id)
    assert veth is not None
    return {
        "pod": pod.netns_path,
        "node": site.node.netns_path,
        "veth": veth.name,
        "address": site.ledger().allocations[pod.container_id].address,
    }


def damage(command: str) -> None:
    _, _, path, *arguments = command.split()
    netns.run_in(path, ["ip", *arguments])


def test_a_check_in_another_namespace_is_a_mismatch(site: Site) -> None:
    pod, other = site.add("one"), site.add("other")
    moved = replace(pod, netns_path=other.netns_path)
    call = site.runtime.check(moved)
    assert code_of(call) == 103
    assert "another network namespace" in details_of(call)
    for each in (pod, other):
        site.runtime.stop_pod(each)


def gc(site: Site, *valid: Pod, network: str = "vpc-ipamd") -> CniCall:
    named = [{"containerID": pod.container_id, "ifname": pod.ifname} for pod in valid] or None
    lists = {"cni.dev/valid-attachments": named, "cni.dev/attachments": named}
    config = {**CONFIG, "cniVersion": "1.1.0", "name": network, **lists}
    return site.runtime_with(config=config).call("GC")


def lose(site: Site, pod: Pod) -> None:
    """Its namespace goes, and no DEL comes."""
    netns.delete(pod.netns_name)
    until(
        lambda: read_kernel(site.node.netns_path).veth_of(pod.container_id) is None,
        what="the end of the link",
    )


def test_gc_frees_lost_pods_and_spares_the_named_the_living_and_other_networks(site: Site) -> None:
    named, living, lost = site.add("named"), site.add("living"), site.add("lost")
    elsewhere = site.runtime_with(config={**CONFIG, "name": "other-net"}).start_pod("elsewhere").pod
    lose(site, lost)
    lose(site, elsewhere)
    assert gc(site, named).is_ok
    held = site.ledger().allocations
    assert {p.name for p in (named, living, lost, elsewhere) if p.container_id in held} == {
        "named",
        "living",
        "elsewhere",
    }
    assert site.can_reach_router(living, held[living.container_id].address)
    assert "stale_but_alive" in site.node.cnid.log_path.read_text(encoding="utf-8")
    assert gc(site, network="other-net").is_ok
    assert elsewhere.container_id not in site.ledger().allocations
    for pod in (named, living):
        site.runtime.stop_pod(pod)
