"""What a kubelet asks of its runtime, as calls that answer with values and raise `Refused`."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import grpc
from cri_api import runtime_pb2 as pb
from cri_api import runtime_pb2_grpc as pb_grpc

from tests.runtime.images import BOX

CALL_SECONDS = 60.0
NAMESPACE = "shop"


class Refused(Exception):
    """The runtime's no: gRPC's code and the text that a kubelet puts into the pod's event."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(f"{code.name}: {text}")
        self.code = code
        self.text = text


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox that was asked for and is there."""

    sandbox_id: str
    config: pb.PodSandboxConfig
    ip: str
    netns_path: str
    pid: int

    @property
    def name(self) -> str:
        """The pod's name."""
        return str(self.config.metadata.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """How a command in a container ended."""

    status: int
    stdout: str
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """A sandbox as the runtime lists it."""

    name: str
    attempt: int
    is_ready: bool


def pod_config(
    name: str,
    *,
    attempt: int = 0,
    hostname: str = "",
    host_port: int = 0,
    dns: pb.DNSConfig | None = None,
    annotations: Mapping[str, str] | None = None,
    cgroup_parent: str = "",
) -> pb.PodSandboxConfig:
    """What a kubelet says of a pod; `host_port` leads to the pod's port 80."""
    ports = [pb.PortMapping(container_port=80, host_port=host_port)] if host_port else []
    return pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(
            name=name, uid=f"uid-{name}", namespace=NAMESPACE, attempt=attempt
        ),
        hostname=hostname or name,
        dns_config=dns,
        port_mappings=ports,
        annotations=annotations,
        linux=pb.LinuxPodSandboxConfig(cgroup_parent=cgroup_parent),
    )


class Cri:
    """One runtime, by the path of its socket; survives the runtime's restarts."""

    def __init__(self, socket_path: Path, *, cgroup_parent: str) -> None:
        self._cgroup_parent = cgroup_parent
        # A connection refused while the runtime restarts must not be remembered for a second.
        options = [("grpc.min_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 100)]
        options += [("grpc.initial_reconnect_backoff_ms", 20)]
        self._channel = grpc.insecure_channel(f"unix:{socket_path}", options=options)
        self._stub = pb_grpc.RuntimeServiceStub(self._channel)

    def close(self) -> None:
        """End the connection."""
        self._channel.close()

    def config(self, name: str, **wishes: Any) -> pb.PodSandboxConfig:
        """A `pod_config` below this runtime's control group."""
        return pod_config(name, cgroup_parent=self._cgroup_parent, **wishes)

    def run(self, wanted: str | pb.PodSandboxConfig, *, seconds: float = CALL_SECONDS) -> Sandbox:
        """Start a sandbox, by its name where the rest does not matter."""
        config = self.config(wanted) if isinstance(wanted, str) else wanted
        request = pb.RunPodSandboxRequest(config=config)
        said = _called(self._stub.RunPodSandbox, request, seconds=seconds)
        return self.look(said.pod_sandbox_id, config)

    def look(self, sandbox_id: str, config: pb.PodSandboxConfig) -> Sandbox:
        """A sandbox that is there, with what its verbose status says of it."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        said = _called(self._stub.PodSandboxStatus, request)
        info = json.loads(said.info["info"])
        (path,) = (
            one["path"]
            for one in info["runtimeSpec"]["linux"]["namespaces"]
            if one["type"] == "network"
        )
        return Sandbox(
            sandbox_id=sandbox_id,
            config=config,
            ip=said.status.network.ip,
            netns_path=path,
            pid=info["pid"],
        )

    def cni_result(self, sandbox_id: str) -> dict[str, Any]:
        """What containerd made of the plugins' results."""
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id, verbose=True)
        info = json.loads(_called(self._stub.PodSandboxStatus, request).info["info"])
        result: dict[str, Any] = info["cniResult"]
        return result

    def stop(self, sandbox_id: str, *, seconds: float = CALL_SECONDS) -> None:
        """Stop a sandbox and take its network down."""
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        _called(self._stub.StopPodSandbox, request, seconds=seconds)

    def remove(self, sandbox_id: str, *, seconds: float = CALL_SECONDS) -> None:
        """Remove a stopped sandbox; nothing happens if there is none."""
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        _called(self._stub.RemovePodSandbox, request, seconds=seconds)

    def end(self, sandbox_id: str) -> None:
        """Stop and remove, as a kubelet does in the end."""
        self.stop(sandbox_id)
        self.remove(sandbox_id)

    def listed(self) -> dict[str, Listed]:
        """Every sandbox by its id."""
        said = _called(self._stub.ListPodSandbox, pb.ListPodSandboxRequest())
        return {
            one.id: Listed(
                name=one.metadata.name,
                attempt=one.metadata.attempt,
                is_ready=one.state == pb.SANDBOX_READY,
            )
            for one in said.items
        }

    def version(self) -> str:
        """The runtime's name and version."""
        said = _called(self._stub.Version, pb.VersionRequest())
        return f"{said.runtime_name} {said.runtime_version}"

    def network_condition(self) -> tuple[bool, str]:
        """Whether the network is ready, and the runtime's words for it."""
        said = _called(self._stub.Status, pb.StatusRequest())
        (one,) = (c for c in said.status.conditions if c.type == "NetworkReady")
        return one.status, one.message

    def loaded_conflists(self) -> tuple[str, ...]:
        """The texts of the network configurations that the runtime has read."""
        info = _called(self._stub.Status, pb.StatusRequest(verbose=True)).info
        networks = json.loads(info.get("cniconfig", "{}")).get("Networks") or ()
        return tuple(network["Config"]["Source"] for network in networks)

    def start_container(self, sandbox: Sandbox, *command: str) -> str:
        """A container of BOX that runs `command`; its id."""
        config = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name=f"c-{uuid.uuid4().hex[:8]}"),
            image=pb.ImageSpec(image=BOX),
            command=command,
            linux=pb.LinuxContainerConfig(),
        )
        request = pb.CreateContainerRequest(
            pod_sandbox_id=sandbox.sandbox_id, config=config, sandbox_config=sandbox.config
        )
        made: str = _called(self._stub.CreateContainer, request).container_id
        _called(self._stub.StartContainer, pb.StartContainerRequest(container_id=made))
        return made

    def execute(self, container_id: str, *command: str) -> Ran:
        """Run a command in a container and wait for its end."""
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=20)
        said = _called(self._stub.ExecSync, request)
        return Ran(status=said.exit_code, stdout=said.stdout.decode(), stderr=said.stderr.decode())


def _called(method: Any, request: Any, *, seconds: float = CALL_SECONDS) -> Any:
    try:
        return method(request, timeout=seconds, wait_for_ready=False)
    except grpc.RpcError as e:
        _refuse(e)


def _refuse(error: grpc.RpcError) -> NoReturn:
    raise Refused(error.code(), error.details() or "") from error
