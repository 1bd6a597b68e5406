"""The demo's steps that take a pod's routing away, and show how that looks from everywhere.

The rule that sends the packets of a secondary ENI's pods to that ENI's own route table is deleted,
so they leave by the primary ENI, with a source address that is not the primary's. A VPC drops such
packets without a word (EC2 User Guide, source/destination check); so does the fabric, and it can
say what it dropped. vpc-cnid would put the rule back, so it is stopped (SIGSTOP) meanwhile.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

from providers.sim import demo_looks, ping
from providers.sim.demo_run import CheckFailed, Seen, Step
from providers.sim.demo_steps import (
    AGREE,
    NODES,
    PING_ROUTER,
    placed_on,
    router_probe,
    wait_until_none,
)
from providers.sim.demo_world import DemoWorld, Placement, refuse_any
from providers.sim.lab_node import Node
from providers.sim.ping import Probe

CUT = "without its ENI's rule a pod's packets are dropped by the VPC"
REPAIR = "vpc-cnid puts the rule back and the pod is reachable again"
STATUS = "ipamctl status says that both nodes are well"

_PING_SECONDS = 0.5  # far above any round trip here; what is dropped is waited for this long
# vpc-cnid looks at the whole host every 10 s, on notices at once.
_REPAIR_SECONDS = 15.0


def cut_off(world: DemoWorld) -> Seen:
    """Delete the rule, ping, and ask the VPC what became of the packets."""
    victim = _choose(world)
    node = world.lab.nodes[victim.node]
    with _stopped(node):
        _delete_rules(node, victim)
        world.lab.control.call("reset_dropped")
        lost = ping.ping_all(_probes(world, victim), _PING_SECONDS)
        neighbour = _neighbour(world, victim)
        kept = ping.ping_all([router_probe(node, neighbour)], _PING_SECONDS)
        dropped = world.dropped()
    world.victim = victim
    if any(answer is not None for answer in lost):
        raise CheckFailed(f"{victim.name} still gets answers: {lost}")
    if kept == [None]:
        raise CheckFailed(f"{neighbour.name} on the primary ENI is cut off as well")
    packets = sum(
        row["packets"]
        for row in dropped
        if (row["eni_id"], row["kind"], row["source"]) == (neighbour.eni_id, "ip", victim.address)
    )
    if packets < len(lost):
        raise CheckFailed(
            f"{len(lost)} packets of {victim.address} did not come through: {dropped}"
        )
    return Seen(
        text=f"{victim.name} on {victim.node} got 0 of {len(lost)} answers, {neighbour.name} on the"
        f" primary ENI still 1 of 1. The VPC dropped {packets} packets that left by"
        f" {neighbour.eni_id} (primary) with the source {victim.address}, which is on"
        f" {victim.eni_id}. vpc-cnid was held (SIGSTOP) meanwhile."
    )


def _choose(world: DemoWorld) -> Placement:
    """The first pod on a secondary ENI."""
    for one in world.placements:
        if not one.is_primary:
            return one
    raise CheckFailed("no pod is on a secondary ENI")


def _neighbour(world: DemoWorld, victim: Placement) -> Placement:
    """A pod of the same node on the primary ENI."""
    for one in world.placements:
        if one.node == victim.node and one.is_primary:
            return one
    raise CheckFailed(f"no pod of {victim.node} is on the primary ENI")


def _probes(world: DemoWorld, victim: Placement) -> list[Probe]:
    """From the pod to its router and to a pod of the other node: both leave the node."""
    far = next(one for one in world.placements if one.node != victim.node)
    to_router = router_probe(world.lab.nodes[victim.node], victim)
    return [
        to_router,
        Probe(netns_path=victim.netns_path, source=victim.address, target=far.address),
    ]


def _delete_rules(node: Node, victim: Placement) -> None:
    kernel = demo_looks.node_kernel(node.netns_path)
    rules = kernel.rules_to_eni(victim.eni_link, victim.address)
    if not rules:
        raise CheckFailed(f"no rule sends {victim.address} to {victim.eni_link}'s table")
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
        kernel = demo_looks.node_kernel(node.netns_path)
        rules = kernel.rules_to_eni(victim.eni_link, victim.address)
        return [] if rules else [f"after {_REPAIR_SECONDS:g} s the rule is still away"]

    refuse_any(wait_until_none(faults, _REPAIR_SECONDS))
    seconds = time.monotonic() - began
    world.lab.control.call("reset_dropped")
    probes = [*_probes(world, victim), *(router_probe(node, p) for p in placed_on(world, node))]
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


STEPS: tuple[Step[DemoWorld], ...] = (
    Step(name=CUT, act=cut_off, needs=(AGREE, PING_ROUTER)),
    Step(name=REPAIR, act=repaired, needs=(CUT,)),
    Step(name=STATUS, act=show_status, needs=(NODES,)),
)
