"""The demo's modes on Azure. Pure.

A VM's size does not limit its addresses (256 for each NIC), so in a show of seconds a second NIC
gets pods only while the first one is being changed: one write at a time. All modes have external
SNAT, as pods of a flat Azure network have: what answers a node's own address alone has to be
reached by the rules for just that.
"""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from providers.sim.demo_modes import Mode, NodePlan

_SUBNETS = (
    MappingProxyType({"cidr": "10.0.0.0/24", "zone": "1"}),
    MappingProxyType({"cidr": "10.0.1.0/24", "zone": "2"}),
)
_COMMON = {"AWS_VPC_K8S_CNI_EXTERNALSNAT": "true", "IP_COOLDOWN_PERIOD": "30"}
_BLOCKS = {"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}

_VM = NodePlan(
    instance_type="Standard_D2s_v5",
    kind="vm",
    gives="addresses",
    env={"WARM_IP_TARGET": "3", **_COMMON},
    first_pods=8,
    most_pods=8,
    enis_with_pods=1,
)
_TWO_NICS = replace(
    _VM,
    nics=2,
    env={"WARM_IP_TARGET": "1", **_COMMON},
    most_pods=20,
    enis_with_pods=2,
)
_VM_BLOCKS = replace(_VM, gives="prefixes", env={**_BLOCKS, **_COMMON})
_SCALE_SET = replace(_VM_BLOCKS, kind="scale-set", first_pods=18, most_pods=18)

MIXED = Mode(
    name="mixed",
    summary="a virtual machine with two NICs and single addresses, and an instance of a Uniform"
    " scale set with /28 blocks",
    nodes=(_TWO_NICS, _SCALE_SET),
    subnets=_SUBNETS,
)
VM = Mode(
    name="vm",
    summary="virtual machines, addresses one by one",
    nodes=(_VM, _VM),
    subnets=_SUBNETS,
)
VM_BLOCKS = Mode(
    name="vm-blocks",
    summary="virtual machines, /28 blocks",
    nodes=(_VM_BLOCKS, _VM_BLOCKS),
    subnets=_SUBNETS,
)
SCALE_SET = Mode(
    name="scale-set",
    summary="instances of a Uniform scale set, /28 blocks",
    nodes=(_SCALE_SET, _SCALE_SET),
    subnets=_SUBNETS,
)
TWO_NICS = Mode(
    name="two-nics",
    summary="virtual machines with two NICs, addresses one by one",
    nodes=(_TWO_NICS, _TWO_NICS),
    subnets=_SUBNETS,
)
MODES = (MIXED, VM, VM_BLOCKS, SCALE_SET, TWO_NICS)
"""The first is what is shown if none is asked for."""
