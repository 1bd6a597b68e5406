"""aws-node's plugin as a test can run it: rpc.CNIBackend for the address, iproute2 for the pod.

The links, routes and rules are those that the real plugin makes (amazon-vpc-cni-k8s
docs/cni-proposal.md and cmd/routed-eni-cni-plugin): host veth named by pod, /32 in the main table,
rule 512 to the pod and, off the primary ENI, rule 1536 from it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import grpc
from compat import rpc_pb2 as pb
from compat import rpc_pb2_grpc as pb_grpc

from providers.sim import netns
from providers.sim.runtime import Pod
from tests.node.ground import Site

GATEWAY = "169.254.1.1"
MAIN_TABLE = 254


class PeerPlugin:
    """ADD and DEL on one node, through the socket that its ipamd serves for this plugin."""

    def __init__(self, site: Site, socket: Path) -> None:
        self._site = site
        self._socket = socket

    def add(self, name: str) -> tuple[Pod, str]:
        """A pod with an address, wired."""
        pod = self._site.runtime.new_pod(name)
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            reply = pb_grpc.CNIBackendStub(channel).AddNetwork(
                pb.AddNetworkRequest(
                    K8S_POD_NAME=pod.name,
                    K8S_POD_NAMESPACE=pod.namespace,
                    K8S_POD_INFRA_CONTAINER_ID=pod.container_id,
                    Netns=pod.netns_path,
                    IfName=pod.ifname,
                    NetworkName="aws-cni",
                    ContainerID=pod.container_id,
                    ClientVersion="v1.20.4",
                ),
                timeout=30,
            )
        assert reply.Success
        (given,) = reply.IPAllocationMetadata
        self._wire(pod, given.IPv4Addr, given.RouteTableId)
        return pod, given.IPv4Addr

    def delete(self, pod: Pod) -> tuple[str, ...]:
        """The pod's end; what ipamd answered."""
        with grpc.insecure_channel(f"unix:{self._socket}") as channel:
            reply = pb_grpc.CNIBackendStub(channel).DelNetwork(
                pb.DelNetworkRequest(
                    K8S_POD_NAME=pod.name,
                    K8S_POD_NAMESPACE=pod.namespace,
                    Reason="PodDeleted",
                    IfName=pod.ifname,
                    NetworkName="aws-cni",
                    ContainerID=pod.container_id,
                ),
                timeout=30,
            )
        assert reply.Success
        for given in reply.IPAllocationMetadata:
            self._unwire(pod, given.IPv4Addr, given.RouteTableId)
        self._site.runtime.remove_namespace(pod)
        return tuple(given.IPv4Addr for given in reply.IPAllocationMetadata)

    def _wire(self, pod: Pod, address: str, table: int) -> None:
        veth, host = _veth(pod), self._site.node.netns_path
        _ip(host, f"link add {veth} type veth peer name {pod.ifname} netns {pod.netns_name}")
        _ip(host, f"link set {veth} up")
        _ip(pod.netns_path, "link set lo up")
        _ip(pod.netns_path, f"link set {pod.ifname} up")
        _ip(pod.netns_path, f"address add {address}/32 dev {pod.ifname}")
        _ip(pod.netns_path, f"route add {GATEWAY} dev {pod.ifname} scope link")
        _ip(pod.netns_path, f"route add default via {GATEWAY}")
        (shown,) = json.loads(netns.run_in(host, ["ip", "-json", "link", "show", veth]))
        _ip(
            pod.netns_path,
            f"neigh add {GATEWAY} lladdr {shown['address']} dev {pod.ifname} nud permanent",
        )
        _ip(host, f"route add {address}/32 dev {veth} scope link")
        _ip(host, f"rule add priority 512 to {address} lookup main")
        if table != MAIN_TABLE:
            _ip(host, f"rule add priority 1536 from {address} lookup {table}")

    def _unwire(self, pod: Pod, address: str, table: int) -> None:
        host = self._site.node.netns_path
        _ip(host, f"rule del priority 512 to {address} lookup main")
        if table != MAIN_TABLE:
            _ip(host, f"rule del priority 1536 from {address} lookup {table}")
        _ip(host, f"link del {_veth(pod)}")


def _veth(pod: Pod) -> str:
    return "eni" + hashlib.sha1(f"{pod.namespace}.{pod.name}".encode()).hexdigest()[:11]


def _ip(path: str, words: str) -> None:
    netns.run_in(path, ["ip", *words.split()])
