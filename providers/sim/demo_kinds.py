"""The demo's look at what is special in each mode: of which kind the pods' addresses are, and where
they come from, by the cloud's own books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from ipaddress import ip_address, ip_network

from providers.sim import demo_http, netns
from providers.sim.demo_looks import Cloud, CloudEni
from providers.sim.demo_modes import CUSTOM, IPV6, PREFIX, SECONDARY
from providers.sim.demo_run import CheckFailed, Seen, Step, Table
from providers.sim.demo_steps import AGREE, placed_on
from providers.sim.demo_world import DemoWorld, identity_of, refuse_any

KIND = "the addresses are of the kind and from the place that the mode asks for"
_PREFIX_LENGTH, _PREFIX_LENGTH_V6 = 28, 80  # EC2 user guide, "Prefix delegation"


def look_at_kind(world: DemoWorld) -> Seen:
    """The look of the world's mode."""
    return _LOOKS[world.mode.name](world, world.cloud())


def _secondary(world: DemoWorld, cloud: Cloud) -> Seen:
    enis = _enis(world, cloud)
    refuse_any(f"{eni.eni_id} has prefixes: {eni.prefixes}" for eni in enis if eni.prefixes)
    assigned = sum(len(eni.addresses) - 1 for eni in enis)
    return Seen(
        text=f"{len(world.pods)} pods use {assigned} secondary addresses of {len(enis)} ENIs;"
        " no ENI has a prefix"
    )


def _prefix(world: DemoWorld, cloud: Cloud) -> Seen:
    enis = _enis(world, cloud)
    refuse_any(
        f"{eni.eni_id} has the secondary addresses {eni.addresses[1:]}"
        for eni in enis
        if len(eni.addresses) > 1
    )
    table = _prefix_table(world, enis, _PREFIX_LENGTH)
    used = {(row[0], row[2]) for row in table.rows if row[-1] != "0"}
    return Seen(
        text=f"{len(table.rows)} prefixes on {len(enis)} ENIs, {len(used)} of the ENIs with pods;"
        " no ENI has a secondary address",
        table=table,
    )


def _custom(world: DemoWorld, cloud: Cloud) -> Seen:
    rows = []
    for number, node in enumerate(world.nodes):
        primary, *others = cloud.of_instance(identity_of(node).instance_id)
        if len(primary.addresses) > 1 or primary.prefixes:
            raise CheckFailed(f"{primary.eni_id} is {node.name}'s primary ENI and has addresses")
        refuse_any(_misplaced(world, number, others))
        counts = Counter(one.eni_id for one in placed_on(world, node))
        rows += [
            (node.name, eni.eni_id, cloud.cidrs[eni.subnet_id], str(counts[eni.eni_id]))
            for eni in (primary, *others)
        ]
    return Seen(
        text=f"all {len(world.pods)} pods are on ENIs in the ENIConfig's subnet with its security"
        f" group {world.pod_security_group}; the primary ENIs have no address but their own",
        table=Table(head=("node", "ENI", "subnet", "pods"), rows=tuple(rows)),
    )


def _misplaced(world: DemoWorld, number: int, enis: list[CloudEni]) -> list[str]:
    """ENIs of the n-th node that are not where its ENIConfig says."""
    wanted = world.pod_subnet_id(number), frozenset({world.pod_security_group})
    fabric = str(netns.NETNS_DIR / world.lab.fabric_name)
    faults = []
    for eni in enis:
        groups = netns.call_in(fabric, partial(demo_http.security_groups, eni.eni_id))
        if (eni.subnet_id, groups) != wanted:
            faults.append(f"{eni.eni_id} is in {eni.subnet_id} with {sorted(groups)}")
    return faults


def _ipv6(world: DemoWorld, cloud: Cloud) -> Seen:
    enis = _enis(world, cloud)
    for node in world.nodes:
        own = cloud.of_instance(identity_of(node).instance_id)
        if len(own) != 1 or len(own[0].prefixes) != 1 or len(own[0].addresses) != 1:
            seen = [(eni.eni_id, eni.addresses, eni.prefixes) for eni in own]
            raise CheckFailed(f"{node.name} has {seen}, not one ENI with an address and one prefix")
    table = _prefix_table(world, enis, _PREFIX_LENGTH_V6)
    return Seen(
        text=f"{len(world.pods)} pods with an IPv6 address and no IPv4 one; each node has one ENI"
        " with its own IPv4 address and one /80",
        table=table,
    )


def _enis(world: DemoWorld, cloud: Cloud) -> tuple[CloudEni, ...]:
    return tuple(
        eni for node in world.nodes for eni in cloud.of_instance(identity_of(node).instance_id)
    )


def _prefix_table(world: DemoWorld, enis: tuple[CloudEni, ...], length: int) -> Table:
    """Every prefix with the pods in it. CheckFailed if a pod is in none, or one is no /<length>."""
    names = {identity_of(node).instance_id: node.name for node in world.nodes}
    rows = []
    for eni in enis:
        for prefix in map(ip_network, eni.prefixes):
            if prefix.prefixlen != length:
                raise CheckFailed(f"{eni.eni_id} has the prefix {prefix}, not a /{length}")
            pods = sum(
                one.eni_id == eni.eni_id and ip_address(one.address) in prefix
                for one in world.placements
            )
            rows.append((names[eni.instance_id], str(eni.device_index), eni.eni_id, str(prefix),
                         str(pods)))  # fmt: skip
    counted = sum(int(row[-1]) for row in rows)
    if counted != len(world.placements):
        raise CheckFailed(f"{counted} of {len(world.placements)} pods are in a prefix")
    return Table(head=("node", "index", "ENI", "prefix", "pods"), rows=tuple(rows))


_LOOKS: Mapping[str, Callable[[DemoWorld, Cloud], Seen]] = {
    SECONDARY.name: _secondary,
    PREFIX.name: _prefix,
    CUSTOM.name: _custom,
    IPV6.name: _ipv6,
}

STEPS: tuple[Step[DemoWorld], ...] = (Step(name=KIND, act=look_at_kind, needs=(AGREE,)),)
