"""What ipamd's allocations mean to vpc-cnid: keys, addresses, whose wiring it is. Pure."""

from __future__ import annotations

from ipaddress import ip_address

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath.branch import BranchLink
from cni_shim.datapath.families import Address
from cni_shim.datapath.names import (
    PEER_FURTHER_IFNAME,
    STRICT_VETH_PREFIX,
    eni_mark,
    host_ifname,
)
from cni_shim.datapath.wiring import PairWish, PodWiring
from cni_shim.spec import AttachmentKey, CniRequest

PEER = "peer"
"""In Allocation.wired_by: aws-node's plugin wired the pod. That plugin unwires it, or we do where
the runtime has come to call vpc-cni for the DEL."""


def key_of(allocation: pb.Allocation) -> AttachmentKey:
    """The attachment that holds it."""
    return AttachmentKey(container_id=allocation.key.container_id, ifname=allocation.key.ifname)


def pb_key(key: AttachmentKey) -> pb.AttachmentKey:
    """The key as the messages have it."""
    return pb.AttachmentKey(container_id=key.container_id, ifname=key.ifname)


def is_further(allocation: pb.Allocation, first: pb.Allocation) -> bool:
    """Whether it is one of the interfaces that aws-node's plugin made beside a pod's first."""
    return (
        allocation.wired_by == PEER
        and allocation.key.container_id == first.key.container_id
        and allocation.key.ifname.startswith(PEER_FURTHER_IFNAME)
        and allocation.key.ifname != first.key.ifname
        and allocation.network_name == first.network_name
    )


def addresses_of(allocation: pb.Allocation) -> tuple[Address, ...]:
    """The pod's addresses, one of each family that the node serves, IPv4 first."""
    return tuple(map(ip_address, allocation.addresses or (allocation.address,)))


def pair_of(request: CniRequest, key: AttachmentKey) -> PairWish:
    """What of the wiring does not depend on the allocation."""
    return PairWish(
        container_id=key.container_id,
        ifname=key.ifname,
        host_ifname=host_ifname(
            request.config.veth_prefix,
            container_id=key.container_id,
            ifname=key.ifname,
            pod_namespace=request.pod.namespace,
            pod_name=request.pod.name,
        ),
        mtu=request.config.mtu,
    )


def wiring_of(
    request: CniRequest, key: AttachmentKey, allocation: pb.Allocation, *, egress_version: int = 0
) -> PodWiring:
    """What stands, or is to stand, in the kernel for an allocation; with a node-local address of a
    family that it does not have, where one is given."""
    mark = 0
    if allocation.device_index > 0:
        mark = eni_mark(device_index=allocation.device_index, network_card=allocation.network_card)
    return PodWiring(
        container_id=key.container_id,
        ifname=key.ifname,
        network_name=request.network_name,
        pod_namespace=request.pod.namespace,
        pod_name=request.pod.name,
        addresses=addresses_of(allocation),
        mark=mark,
        mtu=request.config.mtu,
        veth_prefix=request.config.veth_prefix,
        egress_version=egress_version,
    )


def branch_wiring_of(request: CniRequest, key: AttachmentKey, link: BranchLink) -> PodWiring:
    """What stands, or is to stand, in the kernel for a pod with an ENI of its own."""
    return PodWiring(
        container_id=key.container_id,
        ifname=key.ifname,
        network_name=request.network_name,
        pod_namespace=request.pod.namespace,
        pod_name=request.pod.name,
        addresses=link.branch.addresses,
        mark=0,
        mtu=request.config.mtu,
        veth_prefix=STRICT_VETH_PREFIX if link.branch.is_strict else request.config.veth_prefix,
        branch=link,
    )
