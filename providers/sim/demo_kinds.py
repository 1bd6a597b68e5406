"""The demo's look at what is special in each mode: of which kind the pods' addresses are, and where
they come from, by the cloud's own books."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network

from providers.sim.demo_looks import Cloud, CloudEni, counted, short
from providers.sim.demo_run import CheckFailed, Seen, Step, Table
from providers.sim.demo_steps import AGREE
from providers.sim.demo_world import CloudSide, DemoWorld, Look, identity_of, refuse_any
from providers.sim.lab_node import Node

KIND = "the addresses are of the kind and from the place that the mode asks for"
_PREFIX_LENGTH = 28  # EC2 user guide, "Prefix delegation"; Azure, "Multiple IP addresses"


def look_at_kind(world: DemoWorld) -> Seen:
    """Each node by the look of what it gives; nodes that give the same are looked at together."""
    cloud = world.cloud()
    by_look: dict[str, list[Node]] = {}
    for node in world.nodes:
        by_look.setdefault(world.plans[node.name].gives, []).append(node)
    seen = [
        look_of(world.side, gives)(world, cloud, tuple(nodes)) for gives, nodes in by_look.items()
    ]
    tables = [one.table for one in seen if one.table is not None]
    return Seen(text="; ".join(one.text for one in seen), table=next(iter(tables), None))


def look_of(side: CloudSide, gives: str) -> Look:
    """The look at what a node gives its pods; KeyError if there is none."""
    return side.look(gives) or _LOOKS[gives]


def _addresses(world: DemoWorld, cloud: Cloud, nodes: tuple[Node, ...]) -> Seen:
    enis, pods, name = enis_of(cloud, nodes), _pods(world, nodes), world.words.eni
    refuse_any(f"{eni.eni_id} has prefixes: {eni.prefixes}" for eni in enis if eni.prefixes)
    assigned = sum(len(_assigned(world, eni)) for eni in enis)
    return Seen(
        text=f"{pods} pods use {assigned} secondary addresses of {counted(len(enis), name)};"
        f" no {name} has a prefix"
    )


def _prefixes(world: DemoWorld, cloud: Cloud, nodes: tuple[Node, ...]) -> Seen:
    enis, name = enis_of(cloud, nodes), world.words.eni
    refuse_any(
        f"{eni.eni_id} has the secondary addresses {assigned}"
        for eni in enis
        if (assigned := _assigned(world, eni))
    )
    table = prefix_table(world, nodes, enis, _PREFIX_LENGTH)
    used = {(row[0], row[2]) for row in table.rows if row[-1] != "0"}
    return Seen(
        text=f"{counted(len(table.rows), 'prefix')} on {counted(len(enis), name)}, {len(used)} of"
        f" the {name}s with pods; no {name} has a secondary address",
        table=table,
    )


def enis_of(cloud: Cloud, nodes: tuple[Node, ...]) -> tuple[CloudEni, ...]:
    """The ENIs of these nodes, node by node."""
    return tuple(eni for node in nodes for eni in cloud.of_instance(identity_of(node).instance_id))


def _assigned(world: DemoWorld, eni: CloudEni) -> tuple[str, ...]:
    """What was assigned to it one by one for pods."""
    return tuple(one for one in eni.addresses[1:] if one not in world.theirs)


def _pods(world: DemoWorld, nodes: tuple[Node, ...]) -> int:
    names = {node.name for node in nodes}
    return sum(one.node in names for one in world.pods)


def prefix_table(
    world: DemoWorld, nodes: tuple[Node, ...], enis: tuple[CloudEni, ...], length: int
) -> Table:
    """Every prefix with the pods in it. CheckFailed if a pod is in none, or one is no /<length>."""
    names = {identity_of(node).instance_id: node.name for node in nodes}
    rows = []
    for eni in enis:
        for prefix in map(ip_network, eni.prefixes):
            if prefix.prefixlen != length:
                raise CheckFailed(f"{eni.eni_id} has the prefix {prefix}, not a /{length}")
            pods = sum(
                one.eni_id == eni.eni_id and ip_address(one.address) in prefix
                for one in world.placements
            )
            rows.append((names[eni.instance_id], str(eni.device_index), short(eni.eni_id),
                         str(prefix), str(pods)))  # fmt: skip
    counted, pods = sum(int(row[-1]) for row in rows), _pods(world, nodes)
    if counted != pods:
        raise CheckFailed(f"{counted} of {pods} pods are in a prefix")
    return Table(head=("node", "index", world.words.eni, "prefix", "pods"), rows=tuple(rows))


_LOOKS: Mapping[str, Look] = {"addresses": _addresses, "prefixes": _prefixes}

STEPS: tuple[Step[DemoWorld], ...] = (Step(name=KIND, act=look_at_kind, needs=(AGREE,)),)
