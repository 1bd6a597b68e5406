"""The loads: which pod starts and ends when, on which node. Pure, from a seed; times in seconds
after the load's start, negative for pods that are there before it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from scripts.bench.fleet_sim.shapes import (
    HOST_NETWORK_PODS,
    NODE_TYPES,
    SETTINGS,
    NodeType,
    Setting,
)

BOOT_SECONDS = 1500.0
"""Nodes start this long before the first thing that matters, spread over the first 300 s; pods of
before come from 300 s to 1,000 s on, so that buckets are full and pools at rest then."""

ARRIVAL_SECONDS = (-1200.0, -500.0)

HISTORY_SECONDS = 1200.0
"""Churn is under way for so long before it is measured: a pool that has seen only its mean number
of pods is no pool of a running cluster."""

FOREVER = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod's life. `ends_at` is FOREVER where the run ends first."""

    node: int
    starts_at: float
    ends_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Everything that happens to a fleet in one run."""

    name: str
    kind: str
    node_type: NodeType
    setting: Setting
    nodes: int
    seconds: float  # from the load's start to the end of the run
    pods: tuple[Pod, ...]
    lead_seconds: float  # from the start of the first node to the load's start
    pods_per_node: int  # of the burst, or the level around which the others move


@dataclass(frozen=True, slots=True, kw_only=True)
class _Room:
    """A fleet that is to be filled."""

    nodes: int
    pods_per_node: int  # at most, those with an address of their own
    chance: random.Random
    seconds: float
    history_seconds: float


def burst(room: _Room) -> Iterator[Pod]:
    """Nodes with warm pools and no pods; then three quarters of each node's pods at once."""
    for node in range(room.nodes):
        for _ in range(level_of("burst", room.pods_per_node)):
            yield Pod(node=node, starts_at=0.0, ends_at=FOREVER)


def rolling(room: _Room) -> Iterator[Pod]:
    """Two rollouts, 20 min apart, of every pod in four batches 30 s apart: new pods first, the
    replaced ones 10 s later. Each node's rollout begins at a random time within 10 min."""
    level = level_of("rolling", room.pods_per_node)
    for node in range(room.nodes):
        begins = [room.chance.uniform(0, 600) + 1200 * round_ for round_ in range(2)]
        for slot in range(level):
            batch = 30.0 * (4 * slot // level)
            changes = [begin + batch for begin in begins]
            first = room.chance.uniform(*ARRIVAL_SECONDS)
            for start, end in zip([first, *changes], [*changes, FOREVER], strict=True):
                yield Pod(node=node, starts_at=start, ends_at=end + 10.0)


LIFE_SECONDS = 1200.0
"""Mean life of a pod under churn: 20 min, as of batch jobs and frequent deployments."""


def churn(room: _Room) -> Iterator[Pod]:
    """Poisson arrivals and exponential lives around half of each node's pods; an arrival that
    finds its node full goes elsewhere and is left out."""
    level = level_of("churn", room.pods_per_node)
    for node in range(room.nodes):
        ends: list[float] = []
        for _ in range(level):
            ends.append(room.chance.expovariate(1 / LIFE_SECONDS) - room.history_seconds)
            start = room.chance.uniform(*ARRIVAL_SECONDS) - room.history_seconds
            yield Pod(node=node, starts_at=start, ends_at=ends[-1])
        now = -room.history_seconds
        while (now := now + room.chance.expovariate(level / LIFE_SECONDS)) < room.seconds:
            ends = [end for end in ends if end > now]
            if len(ends) < room.pods_per_node:
                ends.append(now + room.chance.expovariate(1 / LIFE_SECONDS))
                yield Pod(node=node, starts_at=now, ends_at=ends[-1])


_SHARE = {"burst": 0.75, "rolling": 0.6, "churn": 0.5}
_SECONDS = {"burst": 1800.0, "rolling": 2400.0, "churn": 3600.0}
_MAKERS: dict[str, Callable[[_Room], Iterator[Pod]]] = {
    "burst": burst,
    "rolling": rolling,
    "churn": churn,
}


def level_of(kind: str, pods_per_node: int) -> int:
    """Pods per node. m5.large has 27: burst 20, rolling 16, churn 13."""
    return int(_SHARE[kind] * pods_per_node)


def names() -> list[str]:
    """All loads as kind/type/setting."""
    return [
        f"{kind}/{node_type.name}/{setting.name}"
        for kind in _MAKERS
        for node_type in NODE_TYPES
        for setting in SETTINGS
    ]


def make(name: str, *, nodes: int, seed: int, seconds: float | None = None) -> Load:
    """The load of that name; `seconds` shortens it. Raises KeyError for an unknown name."""
    kind, type_name, setting_name = name.split("/")
    node_type = {t.name: t for t in NODE_TYPES}[type_name]
    setting = {s.name: s for s in SETTINGS}[setting_name]
    length = min(seconds or _SECONDS[kind], _SECONDS[kind])
    most = node_type.max_pods(use_prefixes=setting.use_prefixes) - HOST_NETWORK_PODS
    room = _Room(
        nodes=nodes,
        pods_per_node=most,
        chance=random.Random(f"{seed}/{name}"),
        seconds=length,
        history_seconds=min(HISTORY_SECONDS, length / 2),
    )
    made = (p for p in _MAKERS[kind](room) if p.starts_at < length)
    pods = sorted(made, key=lambda p: (p.starts_at, p.node))
    return Load(
        name=name,
        kind=kind,
        node_type=node_type,
        setting=setting,
        nodes=nodes,
        seconds=length,
        pods=tuple(pods),
        lead_seconds=BOOT_SECONDS + (room.history_seconds if kind == "churn" else 0.0),
        pods_per_node=level_of(kind, most),
    )
