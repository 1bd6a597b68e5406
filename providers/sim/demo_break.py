"""The demo's steps that take a pod's routing away, and show how that looks from everywhere.

A VPC drops a packet that leaves by an ENI which does not have its source address, without a word
(EC2 User Guide, source/destination check); so does the fabric, and it can say what it dropped. Two
rules can be missed, one in each direction. Without the one that sends the packets of a secondary
ENI's pods to that ENI's own route table they leave by the primary ENI. Without the one that leads
to the pods' routes, which pods on the primary ENI need, what comes for them is sent out again, with
the source of whoever sent it (by IPv6; by IPv4 the node asks for the pod by ARP on its own wire,
and nobody answers). vpc-cnid would put a rule back, so it is stopped (SIGSTOP) meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from providers.sim import demo_looks, netns, ping
from providers.sim.demo_looks import NodeKernel, RoutingRule, short
from providers.sim.demo_run import CheckFailed, Seen, Step
from providers.sim.demo_steps import (
    AGREE,
    NODES,
    PING_ROUTER,
    placed_on,
    router_probe,
    wait_until_none,
)
from providers.sim.demo_world import (
    DemoWorld,
    Placement,
    at_once,
    identity_of,
    refuse_any,
    router_of,
)
from providers.sim.lab_node import Node
from providers.sim.ping import Probe

CUT = "without a routing rule a pod's packets are dropped by the {vpc}"
CUT_OFF = "without a routing rule a pod is cut off"
SPOOFED = "a packet from an address that is not the {eni}'s is dropped by the {vpc}"
REPAIR = "vpc-cnid puts the rule back and the pod is reachable again"
STATUS = "ipamctl status says that both nodes are well"

_PING_SECONDS = 0.5  # far above any round trip here; what is dropped is waited for this long
# vpc-cnid looks at the whole host every 10 s, on notices at once.
_REPAIR_SECONDS = 15.0


def cut_off(world: DemoWorld) -> Seen:
    """Delete the rule, ping, and ask the VPC what became of the packets."""
    victim = world.victim = _choose(world)
    node = world.lab.nodes[victim.node]
    probes = _probes(world, victim)
    with _stopped(node):
        _delete_rules(node, victim)
        world.lab.control.call("reset_dropped")
        lost = ping.ping_all(probes, _PING_SECONDS)
        unhurt, name = _unhurt(world, victim)
        kept = ping.ping_all([unhurt], _PING_SECONDS)
        dropped = world.dropped()
    if any(answer is not None for answer in lost):
        raise CheckFailed(f"{victim.name} still gets answers: {lost}")
    if kept == [None]:
        raise CheckFailed(f"{name} is cut off as well")
    return Seen(
        text=f"{victim.name} on {victim.node} got 0 of {len(lost)} answers, {name} still 1 of 1."
        f" {_fate(world, victim, probes, dropped)} vpc-cnid was held (SIGSTOP) meanwhile."
    )


def _fate(
    world: DemoWorld, victim: Placement, probes: list[Probe], dropped: list[dict[str, Any]]
) -> str:
    """What became of the packets, in a sentence. CheckFailed if the VPC should have dropped them
    and has not."""
    if victim.is_primary and not world.mode.is_v6:
        return "The node had no way to it for what came back."
    primary = identity_of(world.lab.nodes[victim.node]).eni_id
    sources = {probe.target for probe in probes} if victim.is_primary else {victim.address}
    packets = _packets(dropped, primary, sources)
    if packets < len(probes):
        raise CheckFailed(
            f"{len(probes)} packets of {victim.address} did not come through: {dropped}"
        )
    by = short(primary)
    if victim.is_primary:
        what = f"that had come for pods and were sent out again by {by}, with the sources"
    else:
        what = f"of {short(victim.eni_id)} that left by {by} (primary) with the source"
    whose = " and ".join(sorted(sources))
    return f"The {world.words.vpc} dropped {packets} packets {what} {whose}."


def _packets(dropped: list[dict[str, Any]], eni_id: str, sources: set[str]) -> int:
    """How many packets with one of these sources were dropped as they left the ENI."""
    return sum(
        row["packets"]
        for row in dropped
        if (row["eni_id"], row["kind"]) == (eni_id, "ip") and row["source"] in sources
    )


def spoof(world: DemoWorld) -> Seen:
    """Let a program on each node, and a pod, use an address of the subnet that nobody has."""
    world.lab.control.call("reset_dropped")
    said = at_once(lambda node: _spoof_on(world, node), world.nodes)
    return Seen(
        text=f"dropped and counted: {', '.join(said)}; a pod's own attempt got no answer either"
    )


def _spoof_on(world: DemoWorld, node: Node) -> str:
    identity, pod = identity_of(node), placed_on(world, node)[0]
    stolen = str(identity.subnet_cidr[-2])  # the last that a host can have
    places = ((node.netns_path, "lo"), (pod.netns_path, "eth0"))
    answers = at_once(lambda place: _ping_from(*place, stolen, str(identity.gateway)), places)
    packets = _packets(world.dropped(), identity.eni_id, {stolen})
    if answers != [None, None] or not packets:
        raise CheckFailed(f"{node.name} used {stolen}: {answers}, dropped: {world.dropped()}")
    return f"{packets} of {node.name} from {stolen}"


def _ping_from(netns_path: str, link: str, source: str, target: str) -> float | None:
    """Have an address for as long as an echo takes."""
    netns.run_in(netns_path, ["ip", "address", "add", f"{source}/32", "dev", link])
    try:
        return ping.ping(netns_path, source, target, _PING_SECONDS)
    finally:
        netns.run_in(netns_path, ["ip", "address", "del", f"{source}/32", "dev", link])


def _choose(world: DemoWorld) -> Placement:
    """The first pod on a secondary ENI; where no pod is on one, the first at all."""
    return next((one for one in world.placements if not one.is_primary), world.placements[0])


def _unhurt(world: DemoWorld, victim: Placement) -> tuple[Probe, str]:
    """Who still gets answers meanwhile: a pod of the same node on another ENI, or the node."""
    node = world.lab.nodes[victim.node]
    if victim.is_primary:
        probe = Probe(netns_path=node.netns_path, target=str(router_of(world, node)))
        return probe, f"{node.name} itself"
    for one in placed_on(world, node):
        if one.eni_id != victim.eni_id:
            return router_probe(world, node, one), f"{one.name} on {short(one.eni_id)}"
    raise CheckFailed(f"all pods of {victim.node} are on {victim.eni_id}")


def _probes(world: DemoWorld, victim: Placement) -> list[Probe]:
    """From the pod to its router and to a pod of the other node: both leave the node."""
    far = next(one for one in world.placements if one.node != victim.node)
    to_router = router_probe(world, world.lab.nodes[victim.node], victim)
    return [
        to_router,
        Probe(netns_path=victim.netns_path, source=victim.address, target=far.address),
    ]


def _vital_rules(kernel: NodeKernel, victim: Placement) -> tuple[RoutingRule, ...]:
    """The rules without which the pod cannot work."""
    if victim.is_primary:
        return kernel.rules_to_pod(victim.address)
    return kernel.rules_to_eni(victim.eni_link, victim.address)


def _delete_rules(node: Node, victim: Placement) -> None:
    rules = _vital_rules(demo_looks.node_kernel(node.netns_path), victim)
    if not rules:
        raise CheckFailed(f"no rule serves {victim.address}")
    for rule in rules:
        demo_looks.delete_rule(node.netns_path, rule)


@contextmanager
def _stopped(node: Node) -> Iterator[None]:
    """Hold the node's vpc-cnid: SIGSTOP now, SIGCONT at the end."""
    pid = node.cnid.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def repaired(world: DemoWorld) -> Seen:
    """Wait for vpc-cnid's own repair, then ping again."""
    victim = world.victim
    assert victim is not None
    node = world.lab.nodes[victim.node]
    began = time.monotonic()

    def faults() -> list[str]:
        rules = _vital_rules(demo_looks.node_kernel(node.netns_path), victim)
        return [] if rules else [f"after {_REPAIR_SECONDS:g} s the rule is still away"]

    refuse_any(wait_until_none(faults, _REPAIR_SECONDS))
    seconds = time.monotonic() - began
    world.lab.control.call("reset_dropped")
    to_router = [router_probe(world, node, one) for one in placed_on(world, node)]
    probes = [*_probes(world, victim), *to_router]
    answers = ping.ping_all(probes, _PING_SECONDS)
    lost = [probe.target for probe, answer in zip(probes, answers, strict=True) if answer is None]
    refuse_any([f"no answer from {', '.join(lost)}"] if lost else [])
    refuse_any(f"still dropped: {row}" for row in world.dropped())
    return Seen(
        text=f"the rule was back after {seconds:.1f} s; {len(probes)} of {len(probes)} answers"
        f" to {victim.name} and all pods of {victim.node}, nothing dropped"
    )


def show_status(world: DemoWorld) -> Seen:
    """The screen of `ipamctl status` on the first node; the exit status of both."""
    ledgers = world.ledgers()
    refuse_any(
        f"{name}: exit status {one.exit_status}: {'; '.join(one.problems)}"
        for name, one in ledgers.items()
        if one.exit_status != 0
    )
    node = world.nodes[0]
    done = demo_looks.ipamctl(node.ipamd_socket)
    if done.returncode != 0:
        raise CheckFailed(f"ipamctl ended with {done.returncode}: {done.stdout}{done.stderr}")
    pools = "; ".join(f"{name}: {_pool(one)}" for name, one in ledgers.items())
    return Seen(text=f"exit status 0 on both. {pools}", screen=done.stdout)


def _pool(ledger: demo_looks.Ledger) -> str:
    """The states that have any address."""
    return ", ".join(f"{count} {state}" for state, count in sorted(ledger.pool.items()) if count)


def cutting(name: str) -> tuple[Step[DemoWorld], ...]:
    """The cut and its repair: what the cut comes to depends on the ENIs that the pods are on."""
    return (
        Step(name=name, act=cut_off, needs=(AGREE, PING_ROUTER)),
        Step(name=REPAIR, act=repaired, needs=(name,)),
    )


SPOOFING: tuple[Step[DemoWorld], ...] = (Step(name=SPOOFED, act=spoof, needs=(AGREE,)),)
STATUSES: tuple[Step[DemoWorld], ...] = (Step(name=STATUS, act=show_status, needs=(NODES,)),)
