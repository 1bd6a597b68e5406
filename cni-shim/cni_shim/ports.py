"""What the verbs need of others: ipamd's answers and the kernel's work, as Protocols."""

from __future__ import annotations

from typing import Protocol

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath.families import Address
from cni_shim.datapath.wiring import PodWiring, Wired


class Ipam(Protocol):
    """The calls that the verbs make; `ipam_client.IpamClient` makes them over gRPC."""

    def allocate(
        self, request: pb.AllocateRequest, *, deadline_monotonic: float
    ) -> pb.AllocateReply:
        """See IpamClient.allocate."""

    def release(self, request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        """See IpamClient.release."""

    def get(self, key: pb.AttachmentKey, *, deadline_monotonic: float) -> pb.Allocation | None:
        """See IpamClient.get."""

    def list(self, *, deadline_monotonic: float) -> pb.ListReply:
        """See IpamClient.list."""


class Datapath(Protocol):
    """The kernel work that the verbs ask for; `datapath.pods.PodDatapath` does it."""

    def netns_cookie(self, netns_fd: int) -> int:
        """See PodDatapath.netns_cookie."""

    def wire(self, netns_fd: int, wiring: PodWiring) -> Wired:
        """See PodDatapath.wire."""

    def inspect(self, netns_fd: int, wiring: PodWiring) -> Wired | None:
        """See PodDatapath.inspect."""

    def unwire(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        veth_prefix: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        """See PodDatapath.unwire."""

    def unwire_peers(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        """See PodDatapath.unwire_peers."""
