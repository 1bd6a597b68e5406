"""What the verbs need of others: ipamd's answers and the kernel's work, as Protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Protocol

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath.begun import Begun
from cni_shim.datapath.branch import Branch
from cni_shim.datapath.delegation import Delegation
from cni_shim.datapath.families import Address
from cni_shim.datapath.wiring import PodWiring, Wired
from cni_shim.spec import AttachmentKey, Pod


class Ipam(Protocol):
    """The calls that the verbs make; `ipam_client.IpamClient` makes them."""

    def allocate(
        self,
        request: pb.AllocateRequest,
        *,
        deadline_monotonic: float,
        meanwhile: Callable[[], None],
        is_over: Callable[[], bool],
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

    def begun(self, netns_fd: int) -> AbstractContextManager[Begun]:
        """See PodDatapath.begun."""

    def wire(self, netns_fd: int, wiring: PodWiring, begun: Begun) -> Wired:
        """See PodDatapath.wire."""

    def inspect(self, netns_fd: int, wiring: PodWiring) -> Wired | None:
        """See PodDatapath.inspect."""

    def check(self, netns_fd: int, wiring: PodWiring, *, pod_mac: str = "") -> tuple[str, ...]:
        """See PodDatapath.check."""

    def has_link(
        self, container_id: str, ifname: str, pod_namespace: str, pod_name: str, veth_prefix: str
    ) -> bool:
        """See PodDatapath.has_link."""

    def find_branch(
        self, container_id: str, ifname: str, pod_namespace: str, pod_name: str, veth_prefix: str
    ) -> Branch | None:
        """See PodDatapath.find_branch."""

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


class Delegates(Protocol):
    """The kernel work for pods of other plugins; `delegated_pods.DelegatedPods` does it."""

    def put(self, key: AttachmentKey, delegation: Delegation, *, is_repeat: bool) -> None:
        """See DelegatedPods.put."""

    def remove(self, key: AttachmentKey, addresses: Iterable[Address]) -> bool:
        """See DelegatedPods.remove."""

    def remove_unknown(self, addresses: Iterable[Address]) -> None:
        """See DelegatedPods.remove_unknown."""

    def check(self, delegation: Delegation) -> tuple[str, ...]:
        """See DelegatedPods.check."""

    def recall(self, key: AttachmentKey, delegation: Delegation) -> None:
        """See DelegatedPods.recall."""


class Policies(Protocol):
    """The network policy agent; `policy_agent.PolicyAgent` calls it."""

    def refuse_early(self, pod: Pod, key: AttachmentKey, *, deadline_monotonic: float) -> None:
        """See PolicyAgent.refuse_early."""

    def enforce(self, pod: Pod, key: AttachmentKey, *, deadline_monotonic: float) -> None:
        """See PolicyAgent.enforce."""

    def forget(
        self,
        pod: Pod,
        key: AttachmentKey,
        *,
        is_followed: Callable[[], bool],
        deadline_monotonic: float,
    ) -> None:
        """See PolicyAgent.forget."""


class NoPolicies:
    """Of a node without an agent."""

    def refuse_early(self, pod: Pod, key: AttachmentKey, *, deadline_monotonic: float) -> None:
        """Nothing is refused."""

    def enforce(self, pod: Pod, key: AttachmentKey, *, deadline_monotonic: float) -> None:
        """Every pod may start."""

    def forget(
        self,
        pod: Pod,
        key: AttachmentKey,
        *,
        is_followed: Callable[[], bool],
        deadline_monotonic: float,
    ) -> None:
        """Nobody knew of the pod."""
