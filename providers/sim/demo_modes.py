"""The demo's modes: how nodes hand out addresses, on which VPC, and how many pods show it. Pure.

Instance types are chosen small where a second ENI is to be reached with few pods. Targets are small
so that ENIs are made when the pods come; what the daemons' variables mean is in docs/settings.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

_COOLDOWN = {"IP_COOLDOWN_PERIOD": "30"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mode:
    """One way to give pods addresses.

    The n-th node lives in the n-th subnet. With `has_pod_subnets` its pods live in the subnet that
    stands as many places behind as there are nodes, by an ENIConfig. `enis_with_pods` ENIs of each
    node must get pods, with `first_pods` at the start and `most_pods` at most.
    """

    name: str
    summary: str
    instance_type: str
    env: Mapping[str, str]
    first_pods: int
    most_pods: int
    enis_with_pods: int
    subnets: tuple[Mapping[str, Any], ...]
    cidr_v6: str = ""
    has_pod_subnets: bool = False
    is_v6: bool = False


_SUBNETS = (
    MappingProxyType({"cidr": "10.0.0.0/24", "zone": "us-west-2a"}),
    MappingProxyType({"cidr": "10.0.1.0/24", "zone": "us-west-2b"}),
)
_POD_SUBNETS = (
    MappingProxyType({"cidr": "10.0.128.0/24", "zone": "us-west-2a"}),
    MappingProxyType({"cidr": "10.0.129.0/24", "zone": "us-west-2b"}),
)
_SUBNETS_V6 = tuple(
    MappingProxyType({**subnet, "cidr_v6": f"2001:db8:0:{number}::/64", "assigns_v6": True})
    for number, subnet in enumerate(_SUBNETS)
)

SECONDARY = Mode(
    name="secondary",
    summary="secondary addresses, assigned one by one",
    # Ten addresses per ENI, the first of them the ENI's own: the tenth pod needs a second ENI.
    instance_type="m5.large",
    env={"WARM_IP_TARGET": "2", **_COOLDOWN},
    first_pods=10,
    most_pods=18,
    enis_with_pods=2,
    subnets=_SUBNETS,
)
PREFIX = Mode(
    name="prefix",
    summary="/28 prefixes",
    # Two addresses per ENI: its own and one slot, which takes a prefix of 16.
    instance_type="t3.micro",
    env={"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1", **_COOLDOWN},
    first_pods=16,
    most_pods=20,
    enis_with_pods=2,
    subnets=_SUBNETS,
)
CUSTOM = Mode(
    name="custom",
    summary="custom networking: pods in a subnet and a security group of their own",
    # Three ENIs of four addresses: three pods on each of the two that take pods.
    instance_type="t3.small",
    env={"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "WARM_IP_TARGET": "1", **_COOLDOWN},
    first_pods=5,
    most_pods=6,
    enis_with_pods=2,
    subnets=(*_SUBNETS, *_POD_SUBNETS),
    has_pod_subnets=True,
)
IPV6 = Mode(
    name="ipv6",
    summary="IPv6, from one /80 prefix a node",
    instance_type="m5.large",
    env={
        "ENABLE_IPv4": "false",
        "ENABLE_IPv6": "true",
        "ENABLE_PREFIX_DELEGATION": "true",
        "WARM_PREFIX_TARGET": "1",
        **_COOLDOWN,
    },
    first_pods=10,
    most_pods=10,
    enis_with_pods=1,
    subnets=_SUBNETS_V6,
    cidr_v6="2001:db8::/56",
    is_v6=True,
)

MODES = {mode.name: mode for mode in (SECONDARY, PREFIX, CUSTOM, IPV6)}
