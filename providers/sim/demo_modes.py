"""What a mode of the demo is: how nodes hand out addresses, on which VPC, and how many pods show
it. Pure. The modes themselves: `demo_ec2_modes`, `demo_azure_modes`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """One node of a mode: its machine, its daemons' variables, and the pods that show it.

    `kind` and `nics` are the lab's, empty and 1 where there is no choice. `gives` says where pods'
    addresses come from and which look is taken at them (`demo_kinds`). `enis_with_pods` of the
    node's ENIs must get pods, with `first_pods` at the start and `most_pods` at most.
    """

    instance_type: str
    gives: str
    env: Mapping[str, str]
    first_pods: int
    most_pods: int
    enis_with_pods: int
    kind: str = ""
    nics: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to give pods addresses.

    The n-th node lives in the n-th subnet. With `has_pod_subnets` its pods live in the subnet that
    stands as many places behind as there are nodes, by an ENIConfig.
    """

    name: str
    summary: str
    nodes: tuple[NodePlan, NodePlan]
    subnets: tuple[Mapping[str, Any], ...]
    cidr_v6: str = ""
    has_pod_subnets: bool = False
    is_v6: bool = False

    def __post_init__(self) -> None:
        if len(self.subnets) < len(self.nodes) * (2 if self.has_pod_subnets else 1):
            raise ValueError(f"{self.name} has {len(self.subnets)} subnets, too few")
