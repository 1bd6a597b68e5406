"""The demo on Azure: what is this cloud's own, and the looks that only it has."""

from __future__ import annotations

import http.client
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from providers.sim import demo_arm, demo_dns, netns
from providers.sim.demo_arm import Arm, Document
from providers.sim.demo_http import http as ask
from providers.sim.demo_looks import key, short
from providers.sim.demo_run import CheckFailed, Seen, Step
from providers.sim.demo_steps import AGREE, one_on_each_eni
from providers.sim.demo_world import (
    DemoWorld,
    Look,
    Words,
    at_once,
    identity_of,
    refuse_any,
)
from providers.sim.lab_node import Node

PLATFORM = "pods resolve names and ask the metadata service, which see the pod's node"
OTHERS = "what an administrator has on the {eni}s is as it was"

WIRESERVER = "168.63.129.16"  # Azure docs, "What is IP address 168.63.129.16?"
# A change of a NIC takes Azure about 5 s, of a scale set's instance a minute; one is enough to see
# who waits.
WRITE_SECONDS = 1.0

Result = TypeVar("Result")


class AzureSide:
    """See `demo_world.CloudSide`."""

    name = "azure"
    words = Words(
        eni="NIC", vpc="VNET", a_vpc="a VNET", api="ARM", waited_for="a change of their NIC"
    )
    slow_seconds = WRITE_SECONDS / 2

    def __init__(self) -> None:
        self._theirs: dict[str, Document] = {}  # resource id -> what was not ours at the start

    def begin(self, world: DemoWorld) -> str:
        """Nothing; writes become slow once the administrator has made theirs."""
        return f"ARM is at {world.lab.said['arm']}; a change of a NIC takes {WRITE_SECONDS:g} s"

    def node_env(self, world: DemoWorld, number: int) -> Mapping[str, str]:
        """How long a change takes here, to plan by; scale sets have the tokens they have."""
        del world, number
        return {"AZURE_WRITE_SECONDS": f"{WRITE_SECONDS:.0f}"}

    def before_daemons(self, world: DemoWorld) -> None:
        """Have an administrator put things of their own on every NIC."""
        for resources in at_once(lambda node: _make_theirs(world, node), world.nodes):
            self._theirs |= resources
        world.theirs = frozenset(
            address for eni in world.cloud().enis for address in eni.addresses[1:]
        )
        if len(world.theirs) != len(world.cloud().enis):
            raise CheckFailed(f"the administrator's addresses are {sorted(world.theirs)}")
        world.lab.control.call("set_delays", write_seconds=WRITE_SECONDS)

    def own_id(self, node: Node) -> str:
        """By the metadata service: the machine's ARM id."""
        machine = netns.call_in(node.netns_path, demo_arm.own_machine)
        return key(str(machine["resourceId"]))

    def look(self, gives: str) -> Look | None:
        """None: single addresses and blocks are what EC2 has, too."""
        del gives
        return None

    def look_at_theirs(self, world: DemoWorld) -> Seen:
        """Everything that is not ours on every NIC, once nobody writes any more."""
        for node in world.nodes:
            found = _in(node, partial(_all_theirs, world, node))
            refuse_any(
                f"{short(resource_id)}: {difference}"
                for resource_id, document in found.items()
                for difference in demo_arm.differences(self._theirs[resource_id], document)
            )
        cloud = world.cloud()
        gone = world.theirs - {address for eni in cloud.enis for address in eni.addresses}
        refuse_any(f"the administrator's {address} is gone" for address in sorted(gone))
        return Seen(
            text=f"on {len(cloud.enis)} NICs the configuration {demo_arm.CONFIG!r} has its address"
            f" ({', '.join(sorted(world.theirs))}); tags, network security groups and a field that"
            " no client knows are there, too"
        )


def _make_theirs(world: DemoWorld, node: Node) -> dict[str, Document]:
    def make() -> dict[str, Document]:
        arm = _arm(world)
        for resource_id in _resources(world, node):
            arm.put(resource_id, demo_arm.with_theirs(arm.settled(resource_id)))
        return _all_theirs(world, node, arm)

    return _in(node, make)


def _all_theirs(world: DemoWorld, node: Node, arm: Arm | None = None) -> dict[str, Document]:
    """To be called inside the node's namespace."""
    asking = arm or _arm(world)
    return {
        resource_id: demo_arm.theirs(asking.settled(resource_id))
        for resource_id in _resources(world, node)
    }


def _resources(world: DemoWorld, node: Node) -> tuple[str, ...]:
    """The ids of what has to be written to change the node's NICs."""
    instance_id = identity_of(node).instance_id
    if demo_arm.is_instance(instance_id):
        return (instance_id,)
    return tuple(eni.eni_id for eni in world.cloud().of_instance(instance_id))


def _arm(world: DemoWorld) -> Arm:
    """ARM with the identity of the machine in whose namespace this is called."""
    said = world.lab.said
    return Arm(endpoint=said["arm"], ca=said["ca"], token=demo_arm.own_token())


def _in(node: Node, body: Callable[[], Result]) -> Result:
    return netns.call_in(node.netns_path, body)


def ask_platform(world: DemoWorld) -> Seen:
    """From a pod on each NIC: the other node's name by DNS, its own node by the metadata service.

    Both answer a machine's primary address alone. The port of the wireserver that is no pod's
    business shows it: there a pod comes with its own address, and gets no answer.
    """
    askers = one_on_each_eni(world)
    machines = {node.name: str(_in(node, demo_arm.own_machine)["name"]) for node in world.nodes}
    for one in askers:
        far = next(node for node in world.nodes if node.name != one.node)
        found = netns.call_in(
            one.netns_path, partial(demo_dns.resolve, machines[far.name], WIRESERVER)
        )
        told = netns.call_in(one.netns_path, demo_arm.own_machine)
        if found != identity_of(far).address:
            raise CheckFailed(f"{one.name} on {one.node}: {far.name} is {found} by DNS")
        if told["name"] != machines[one.node]:
            raise CheckFailed(f"{one.name} on {one.node}: the metadata service sees {told['name']}")
        if netns.call_in(one.netns_path, _wireserver_answers):
            raise CheckFailed(f"{one.name} on {one.node}: the wireserver answers a pod's address")
    refuse_any(f"dropped: {row}" for row in world.dropped())
    where = ", ".join(f"{one.name} by {one.node}'s {one.eni_link}" for one in askers)
    return Seen(
        text=f"{where}: {WIRESERVER}:53 knows the other node, 169.254.169.254:80 the own one; both"
        f" answer a node's own address alone. {WIRESERVER}:80 saw the pod and said nothing."
    )


def _wireserver_answers() -> bool:
    try:
        ask("GET", f"http://{WIRESERVER}/?comp=versions")
    except (OSError, http.client.HTTPException):
        return False
    return True


def _look_at_theirs(world: DemoWorld) -> Seen:
    assert isinstance(world.side, AzureSide)
    return world.side.look_at_theirs(world)


PODS: tuple[Step[DemoWorld], ...] = (Step(name=PLATFORM, act=ask_platform, needs=(AGREE,)),)
END: tuple[Step[DemoWorld], ...] = (Step(name=OTHERS, act=_look_at_theirs, needs=(AGREE,)),)
