"""The demo's step that kills the daemons, as the out-of-memory killer would."""

from __future__ import annotations

from providers.sim import ping
from providers.sim.demo_run import CheckFailed, Seen, Step
from providers.sim.demo_steps import AGREE, placed_on, router_probe, wait_well
from providers.sim.demo_world import DemoWorld, at_once, refuse_any
from providers.sim.lab_node import Node
from providers.sim.lab_process import is_listening
from providers.sim.ping import Probe

KILLED = "daemons killed with kill -9 take up where they were, and no pod notices"

_PING_SECONDS = 1.0


def kill_daemons(world: DemoWorld) -> Seen:
    """Kill all four, ping meanwhile, start them, compare the ledgers, and start a pod on each."""
    before = {name: one.holders for name, one in world.ledgers().items()}
    at_once(_kill, world.nodes)
    probes = [*_to_routers(world), *_to_far_pods(world)]
    answers = ping.ping_all(probes, _PING_SECONDS)
    refuse_any(
        f"no answer from {probe.target} to {probe.source} while the daemons were away"
        for probe, answer in zip(probes, answers, strict=True)
        if answer is None
    )
    at_once(lambda node: node.start(), world.nodes)
    wait_well(world)
    after = {name: one.holders for name, one in world.ledgers().items()}
    if after != before:
        raise CheckFailed(f"the allocations were {before} and are {after}")
    world.start_pods([(node.name, "late-0") for node in world.nodes])
    late = ", ".join(f"{one.address} on {one.node}" for one in world.pods[-len(world.nodes) :])
    held = sum(len(holders) for holders in after.values())
    return Seen(
        text=f"{len(probes)} of {len(probes)} answers while ipamd and vpc-cnid of both nodes were"
        f" dead; they came back with the same {held} allocations, and gave further pods {late}"
    )


def _kill(node: Node) -> None:
    node.ipamd.kill()
    node.cnid.kill()
    if listening := [p for p in (node.ipamd_socket, node.cni_socket) if is_listening(p)]:
        raise CheckFailed(f"{node.name}: somebody still listens on {listening}")


def _to_routers(world: DemoWorld) -> list[Probe]:
    return [
        router_probe(world, node, one) for node in world.nodes for one in placed_on(world, node)
    ]


def _to_far_pods(world: DemoWorld) -> list[Probe]:
    """From every pod to one of the other node."""
    first = {one.node: one for one in reversed(world.placements)}
    return [
        Probe(netns_path=one.netns_path, source=one.address, target=far.address)
        for one in world.placements
        for far in first.values()
        if far.node != one.node
    ]


STEPS: tuple[Step[DemoWorld], ...] = (Step(name=KILLED, act=kill_daemons, needs=(AGREE,)),)
