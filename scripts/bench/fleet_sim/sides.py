"""The three sides of the comparison, each run under one load by name."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from providers.sim.buckets import RequestBuckets
from scripts.bench.fleet_sim import fleet, loads, oracle, peer_policy
from scripts.bench.fleet_sim.ec2 import Account, Instance
from scripts.bench.fleet_sim.loads import Load
from scripts.bench.fleet_sim.meter import Outcome
from scripts.bench.fleet_sim.our_cloud import waiting_in_virtual_time
from scripts.bench.fleet_sim.our_node import OurNode
from scripts.bench.fleet_sim.peer_node import PeerNode


def ours(load: Load, seed: int) -> Outcome:
    """Our pool engine."""
    with waiting_in_virtual_time():
        return fleet.run(load, _our_node, RequestBuckets(), seed=seed)


def peer(load: Load, seed: int) -> Outcome:
    """aws-node's algorithm."""
    return fleet.run(load, _peer_node, RequestBuckets(), seed=seed)


def bound(load: Load, seed: int) -> Outcome:
    """The oracle."""
    return oracle.run(load, seed=seed)


SIDES: dict[str, Callable[[Load, int], Outcome]] = {"ours": ours, "peer": peer, "oracle": bound}


def run(name: str, side: str, *, nodes: int, seed: int, seconds: float | None) -> Outcome:
    """One side under one load; what a worker process does."""
    return SIDES[side](loads.make(name, nodes=nodes, seed=seed, seconds=seconds), seed)


def _our_node(account: Account, instance: Instance, load: Load, seed: str) -> OurNode:
    del seed  # its jitter is the run's own
    return OurNode(account, instance, load)


def _peer_node(account: Account, instance: Instance, load: Load, seed: str) -> PeerNode:
    return PeerNode(
        account,
        instance,
        peer_policy.from_environ(load.setting.environ, load.node_type),
        seed=seed,
        clock=asyncio.get_running_loop().time,
    )
