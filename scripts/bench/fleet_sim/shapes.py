"""The instance types, settings and loads that are compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

KUBELET_CAP = 110
"""Kubernetes' recommended and kubelet's default maximum of pods on a node."""

HOST_NETWORK_PODS = 2
"""aws-node and kube-proxy: in the max-pods formula, but without an address of their own."""

PREFIX_ADDRESSES = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """An EC2 instance type. Limits: EC2 guide, "IP addresses per network interface"."""

    name: str
    max_enis: int
    addresses_per_eni: int
    nodes_per_subnet: int  # of a /20, so that no subnet runs out under any setting

    @property
    def slots(self) -> int:
        """Secondary addresses or prefixes on one ENI."""
        return self.addresses_per_eni - 1

    def max_pods(self, *, use_prefixes: bool) -> int:
        """ENIs x slots (x 16) + 2, at most 110. m5.large: 29, with prefixes 110."""
        each = self.slots * (PREFIX_ADDRESSES if use_prefixes else 1)
        return min(self.max_enis * each + HOST_NETWORK_PODS, KUBELET_CAP)


M5_LARGE = NodeType(name="m5.large", max_enis=3, addresses_per_eni=10, nodes_per_subnet=30)
C5_4XLARGE = NodeType(name="c5.4xlarge", max_enis=8, addresses_per_eni=30, nodes_per_subnet=16)
NODE_TYPES = (M5_LARGE, C5_4XLARGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One environment, given to both agents as it is."""

    name: str
    environ: Mapping[str, str]

    @property
    def use_prefixes(self) -> bool:
        """Whether addresses come as /28."""
        return self.environ.get("ENABLE_PREFIX_DELEGATION") == "true"


DEFAULT = Setting(name="default", environ={})
TARGETS = Setting(name="targets", environ={"WARM_IP_TARGET": "5", "MINIMUM_IP_TARGET": "10"})
PREFIXES = Setting(
    name="prefixes", environ={"ENABLE_PREFIX_DELEGATION": "true", "WARM_PREFIX_TARGET": "1"}
)
SETTINGS = (DEFAULT, TARGETS, PREFIXES)
