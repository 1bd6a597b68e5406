"""The demo's modes on EC2. Pure.

Instance types are chosen small where a second ENI is to be reached with few pods. Targets are small
so that ENIs are made when the pods come; what the daemons' variables mean is in docs/settings.md.
"""

from __future__ import annotations

from types import MappingProxyType

from providers.sim.demo_modes import Mode, NodePlan

_COOLDOWN = {"IP_COOLDOWN_PERIOD": "30"}

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

_SECONDARY = NodePlan(
    # Ten addresses per ENI, the first of them the ENI's own: the tenth pod needs a second ENI.
    instance_type="m5.large",
    gives="addresses",
    env={"WARM_IP_TARGET": "2", **_COOLDOWN},
    first_pods=10,
    most_pods=18,
    enis_with_pods=2,
)
SECONDARY = Mode(
    name="secondary",
    summary="secondary addresses, assigned one by one",
    nodes=(_SECONDARY, _SECONDARY),
    subnets=_SUBNETS,
)
_PREFIX = NodePlan(
    # Two addresses per ENI: its own and one slot, which takes a prefix of 16.
    instance_type="t3.micro",
    gives="prefixes",
    env={"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1", **_COOLDOWN},
    first_pods=16,
    most_pods=20,
    enis_with_pods=2,
)
PREFIX = Mode(name="prefix", summary="/28 prefixes", nodes=(_PREFIX, _PREFIX), subnets=_SUBNETS)
_CUSTOM = NodePlan(
    # Three ENIs of four addresses: three pods on each of the two that take pods.
    instance_type="t3.small",
    gives="custom",
    env={"AWS_VPC_K8S_CNI_CUSTOM_NETWORK_CFG": "true", "WARM_IP_TARGET": "1", **_COOLDOWN},
    first_pods=5,
    most_pods=6,
    enis_with_pods=2,
)
CUSTOM = Mode(
    name="custom",
    summary="custom networking: pods in a subnet and a security group of their own",
    nodes=(_CUSTOM, _CUSTOM),
    subnets=(*_SUBNETS, *_POD_SUBNETS),
    has_pod_subnets=True,
)
_IPV6 = NodePlan(
    instance_type="m5.large",
    gives="ipv6",
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
)
IPV6 = Mode(
    name="ipv6",
    summary="IPv6, from one /80 prefix a node",
    nodes=(_IPV6, _IPV6),
    subnets=_SUBNETS_V6,
    cidr_v6="2001:db8::/56",
    is_v6=True,
)

MODES = (SECONDARY, PREFIX, CUSTOM, IPV6)
"""The first is what is shown if none is asked for."""
