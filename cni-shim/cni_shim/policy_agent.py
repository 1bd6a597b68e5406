"""aws-node's network policy agent: told of a pod before it starts, and after it has gone.

The agent (aws-network-policy-agent) attaches its programs to the pod's host veth, which it finds by
the pod's name; so it is told of the eth0 of pods that have a name and that vpc-cni itself wires.
The contract is proto/compat/rpc.proto (rpc.NPBackend); amazon-vpc-cni-k8s v1.23.1 calls it in the
same places. Without a mode nobody is contacted, and grpc, which nothing else here needs, is not
loaded: 10 MB.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

import structlog
from google.protobuf.message import Message

from cni_shim.errors import CniError, CniErrorCode
from cni_shim.spec import AttachmentKey, Pod
from cni_shim.wanted import WantedNetwork

if TYPE_CHECKING:
    import grpc
    from compat import rpc_pb2_grpc

log = structlog.get_logger()

STRICT: Final = "strict"
ENFORCING = ("standard", STRICT)
"""The modes in which the agent is told; "none" and no mode at all are alike."""

CALL_SECONDS = 2.0
"""For connecting and the answer together; aws-node's plugin waits as long to connect, then for
ever."""


# The defaults wait up to 20 s before trying again to connect; a restart of the agent takes one.
_CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    ("grpc.enable_http_proxy", 0),
)


class _Reply(Protocol):
    Success: bool


class PolicyAgent:
    """Calls over one channel, which is made when the first pod needs it. Safe from any thread."""

    def __init__(self, socket_path: Path, wanted: WantedNetwork) -> None:
        self._socket_path = socket_path
        self._wanted = wanted
        self._lock = threading.Lock()
        self._stub: rpc_pb2_grpc.NPBackendStub | None = None
        self._is_absence_told = False
        self._later: list[tuple[Pod, Callable[[], bool]]] = []

    def refuse_early(self, pod: Pod, key: AttachmentKey, *, deadline_monotonic: float) -> None:
        """Raise CniError 11 where `enforce` would for want of an agent: a pod that is tried again
        and again must not take an address each time, as each then cools."""
        mode = self._mode(pod, key, deadline_monotonic)
        if mode == STRICT and not self._is_there():
            raise self._absent()

    def enforce(self, pod: Pod, key: AttachmentKey, *, deadline_monotonic: float) -> None:
        """Return once the pod may start. Raises CniError 11 with what the agent said; then it may
        know of the pod or not. Repeating it is harmless."""
        mode = self._mode(pod, key, deadline_monotonic)
        if not mode:
            return
        if not self._is_there():
            if mode == STRICT:
                raise self._absent()
            self._tell_absence()
            return
        self._is_absence_told = False
        failure = self._call_enforce(pod, mode, _patience(deadline_monotonic))
        if failure:
            raise CniError(
                CniErrorCode.TRY_AGAIN_LATER,
                "the network policy agent did not take the pod",
                f"{failure}; NETWORK_POLICY_ENFORCING_MODE is {mode}: see the log of "
                "aws-network-policy-agent on this node",
            )

    def forget(
        self,
        pod: Pod,
        key: AttachmentKey,
        *,
        is_followed: Callable[[], bool],
        deadline_monotonic: float,
    ) -> None:
        """The pod is gone. Raises nothing: what the agent keeps must not keep an address.

        The agent knows pods by name alone, so it is not told while `is_followed` says that another
        sandbox of the pod stands: a runtime may delete an old one after the next has come up.
        """
        if not _is_its_pod(pod, key):
            return
        with self._lock:
            network = self._wanted.known
            if network is None:
                self._later.append((pod, is_followed))
                return
        if network.policy.network_policy_mode in ENFORCING and not is_followed():
            self._forget(pod, deadline_monotonic)

    def catch_up(self, mode: str) -> None:
        """Do what `forget` put off; called with ipamd's first word, before any ADD has it."""
        if mode in ENFORCING:
            self._stubbed()  # grpc takes 0.1 s to load, which no pod should wait for
        deadline = time.monotonic() + CALL_SECONDS
        with self._lock:
            pods, self._later = self._later, []
        for pod, is_followed in pods if mode in ENFORCING else ():
            if not is_followed():
                self._forget(pod, deadline)

    def _forget(self, pod: Pod, deadline_monotonic: float) -> None:
        if not self._is_there():
            return
        failure = self._call_delete(pod, _patience(deadline_monotonic))
        if failure:
            log.warning("policy_stays", pod=f"{pod.namespace}/{pod.name}", error=failure)

    def _mode(self, pod: Pod, key: AttachmentKey, deadline_monotonic: float) -> str:
        """The mode where the agent must hear of this pod, else empty."""
        network = self._wanted.now(deadline_monotonic=deadline_monotonic)
        mode = network.policy.network_policy_mode
        return mode if mode in ENFORCING and _is_its_pod(pod, key) else ""

    def _is_there(self) -> bool:
        return os.path.exists(self._socket_path)  # noqa: PTH110 - a tenth of Path.exists

    def _tell_absence(self) -> None:
        if not self._is_absence_told:
            self._is_absence_told = True
            log.warning(
                "policy_agent_absent",
                socket=str(self._socket_path),
                hint="pods start without network policies until aws-network-policy-agent runs",
            )

    def _absent(self) -> CniError:
        return CniError(
            CniErrorCode.TRY_AGAIN_LATER,
            "there is no network policy agent on this node",
            f"{self._socket_path} does not exist, and NETWORK_POLICY_ENFORCING_MODE=strict starts "
            "no pod without its policies; run aws-network-policy-agent here, or set the mode to "
            "standard or none",
        )

    def _call_enforce(self, pod: Pod, mode: str, seconds: float) -> str:
        from compat import rpc_pb2  # late: most nodes have no agent

        request = rpc_pb2.EnforceNpRequest(
            K8S_POD_NAME=pod.name,
            K8S_POD_NAMESPACE=pod.namespace,
            NETWORK_POLICY_MODE=mode,
            InterfaceCount=1,
        )
        return self._failure(self._stubbed().EnforceNpToPod, request, seconds)

    def _call_delete(self, pod: Pod, seconds: float) -> str:
        from compat import rpc_pb2

        request = rpc_pb2.DeleteNpRequest(K8S_POD_NAME=pod.name, K8S_POD_NAMESPACE=pod.namespace)
        return self._failure(self._stubbed().DeletePodNp, request, seconds)

    def _failure(self, method: Callable[..., _Reply], request: Message, seconds: float) -> str:
        """Call, and say what went wrong; empty for a success. An agent that restarts is awaited."""
        import grpc

        try:
            reply = method(request, timeout=seconds, wait_for_ready=True)
        except grpc.RpcError as e:
            return f"{self._socket_path} {_words(e, seconds)}"
        return "" if reply.Success else f"{self._socket_path} answered without success"

    def _stubbed(self) -> rpc_pb2_grpc.NPBackendStub:
        with self._lock:
            if self._stub is None:
                import grpc  # late: most nodes have no agent
                from compat import rpc_pb2_grpc

                channel = grpc.insecure_channel(
                    f"unix:{self._socket_path}", options=_CHANNEL_OPTIONS
                )
                self._stub = rpc_pb2_grpc.NPBackendStub(channel)
            return self._stub


def _words(error: grpc.RpcError, seconds: float) -> str:
    import grpc

    assert isinstance(error, grpc.Call)
    if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"gave no answer in {seconds:.1f} s"
    return f"failed with {error.code().name}: {error.details()}"


def _is_its_pod(pod: Pod, key: AttachmentKey) -> bool:
    """Whether the agent would find the pod's veth."""
    return bool(pod.name and pod.namespace) and key.ifname == "eth0"


def _patience(deadline_monotonic: float) -> float:
    return max(min(CALL_SECONDS, deadline_monotonic - time.monotonic()), 0.001)
