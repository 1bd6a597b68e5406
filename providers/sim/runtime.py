"""A container runtime, as far as a CNI plugin sees one: namespaces and calls, no containers.

It follows containerd's order of calls, seen on containerd 1.6 (libcni 1.1): after a failed ADD one
DEL at once, with the namespace and without prevResult; at a pod's end three DELs, the first with
namespace and prevResult, then, the namespace gone, two with an empty CNI_NETNS. When the first one
fails, the end of the pod fails, everything stays, and the next try starts over. A call that takes
too long gets SIGKILL. The environment holds what the CNI specification names and nothing else of
ours but VPC_CNI_RUN_DIR, which takes the place of the path compiled into the launcher.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.sim import netns

Started = Callable[[subprocess.Popen[bytes]], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod sandbox: an empty network namespace and the names that Kubernetes has for it."""

    namespace: str
    name: str
    uid: str
    container_id: str
    netns_name: str
    netns_path: str
    ifname: str = "eth0"

    @property
    def cni_args(self) -> str:
        """CNI_ARGS as containerd fills it."""
        pairs = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": self.namespace,
            "K8S_POD_NAME": self.name,
            "K8S_POD_INFRA_CONTAINER_ID": self.container_id,
            "K8S_POD_UID": self.uid,
        }
        return ";".join(f"{key}={value}" for key, value in pairs.items())


@dataclass(frozen=True, slots=True, kw_only=True)
class CniCall:
    """One finished call. `exit_code` is negative (-9) where a signal ended the plugin."""

    command: str
    exit_code: int
    stdout: str
    stderr: str
    seconds: float
    was_timed_out: bool

    @property
    def document(self) -> dict[str, Any] | None:
        """What the plugin printed, a result or an error object; None if that is no JSON object."""
        try:
            parsed = json.loads(self.stdout)
        except ValueError:
            return None
        return parsed if isinstance(parsed, dict) else None

    @property
    def is_ok(self) -> bool:
        """What a runtime takes for success; of an ADD it wants an address on the interface too."""
        if self.exit_code != 0:
            return False
        return self.command != "ADD" or bool(self.addresses)

    @property
    def addresses(self) -> tuple[str, ...]:
        """The addresses of an ADD's result, without their prefix lengths."""
        entries = (self.document or {}).get("ips", []) if self.exit_code == 0 else []
        return tuple(str(entry["address"]).split("/")[0] for entry in entries)

    def __str__(self) -> str:
        end = "timed out" if self.was_timed_out else f"ended with {self.exit_code}"
        return (
            f"{self.command} {end} after {self.seconds:.3f} s: {self.stdout} {self.stderr}".strip()
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PodStart:
    """How the start of a pod went; `cleanup` is the DEL that followed a failed ADD."""

    pod: Pod
    add: CniCall
    cleanup: CniCall | None


class Runtime:
    """Calls one plugin on one node. Safe to use from several threads for different pods."""

    def __init__(
        self,
        *,
        node_netns: str,
        plugin: Sequence[str],
        config: Mapping[str, Any],
        run_dir: str,
        timeout_seconds: float = 60.0,
    ) -> None:
        """`plugin` is the command line, its program an absolute path; `config` the plugin's part
        of a conflist with `name` and `cniVersion` added, as it goes to stdin."""
        self._node_netns = node_netns
        self._plugin = tuple(plugin)
        self._config = dict(config)
        self._run_dir = run_dir
        self._timeout_seconds = timeout_seconds
        self._results: dict[str, dict[str, Any]] = {}  # by container id, as libcni's cache
        self._namespaces: set[str] = set()

    def new_pod(self, name: str, namespace: str = "default") -> Pod:
        """Make the pod's namespace, empty with lo down, as containerd does before ADD."""
        netns_name = f"cni-{uuid.uuid4()}"
        self._namespaces.add(netns_name)
        return Pod(
            namespace=namespace,
            name=name,
            uid=str(uuid.uuid4()),
            container_id=secrets.token_hex(32),
            netns_name=netns_name,
            netns_path=netns.create(netns_name),
        )

    def start_pod(
        self, name: str, namespace: str = "default", *, on_start: Started | None = None
    ) -> PodStart:
        """New namespace, ADD; where that fails DEL at once, then the namespace goes."""
        pod = self.new_pod(name, namespace)
        add = self.add(pod, on_start=on_start)
        if add.is_ok:
            return PodStart(pod=pod, add=add, cleanup=None)
        cleanup = self.delete(pod)
        if cleanup.is_ok:
            self.remove_namespace(pod)
        return PodStart(pod=pod, add=add, cleanup=cleanup)

    def stop_pod(self, pod: Pod, *, on_start: Started | None = None) -> tuple[CniCall, ...]:
        """The pod's end: three DELs, or only the first where that fails; then call it again."""
        first = self.delete(pod, on_start=on_start)
        if not first.is_ok:
            return (first,)
        self.remove_namespace(pod)
        return (first, *(self.delete(pod, has_netns=False) for _ in range(2)))

    def add(self, pod: Pod, *, on_start: Started | None = None) -> CniCall:
        """One ADD; a good result is remembered as the prevResult of the DEL to come."""
        call = self.call("ADD", pod, on_start=on_start)
        if call.is_ok and call.document is not None:
            self._results[pod.container_id] = call.document
        return call

    def delete(
        self, pod: Pod, *, has_netns: bool = True, on_start: Started | None = None
    ) -> CniCall:
        """One DEL, with prevResult until one has worked."""
        previous = self._results.get(pod.container_id)
        call = self.call("DEL", pod, has_netns=has_netns, previous=previous, on_start=on_start)
        if call.is_ok:
            self._results.pop(pod.container_id, None)
        return call

    def check(self, pod: Pod) -> CniCall:
        """One CHECK, with the result of the pod's ADD."""
        return self.call("CHECK", pod, previous=self._results.get(pod.container_id))

    def remove_namespace(self, pod: Pod) -> None:
        """Remove the pod's namespace; idempotent."""
        netns.delete(pod.netns_name)
        self._namespaces.discard(pod.netns_name)

    def close(self) -> None:
        """Remove the namespaces of all pods that still run, without calling the plugin."""
        for name in tuple(self._namespaces):
            netns.delete(name)
        self._namespaces.clear()

    def call(
        self,
        command: str,
        pod: Pod | None = None,
        *,
        has_netns: bool = True,
        previous: dict[str, Any] | None = None,
        on_start: Started | None = None,
    ) -> CniCall:
        """Any verb once. Without a pod (VERSION, STATUS, GC) its variables are absent.

        `on_start` gets the running plugin, for tests that kill it.
        """
        config = self._config if previous is None else {**self._config, "prevResult": previous}
        env = self._environment(command, pod, has_netns=has_netns)
        stdin = json.dumps(config, sort_keys=True).encode()
        return netns.call_in(self._node_netns, lambda: self._run(command, env, stdin, on_start))

    def _environment(self, command: str, pod: Pod | None, *, has_netns: bool) -> dict[str, str]:
        env = {
            "CNI_COMMAND": command,
            "CNI_PATH": str(Path(self._plugin[-1]).parent),
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "VPC_CNI_RUN_DIR": self._run_dir,
        }
        if pod is not None:
            env |= {
                "CNI_CONTAINERID": pod.container_id,
                "CNI_NETNS": pod.netns_path if has_netns else "",
                "CNI_IFNAME": pod.ifname,
                "CNI_ARGS": pod.cni_args,
            }
        return env

    def _run(
        self, command: str, env: dict[str, str], stdin: bytes, on_start: Started | None
    ) -> CniCall:
        pipe = subprocess.PIPE
        began = time.monotonic()
        with subprocess.Popen(
            self._plugin, env=env, cwd="/", stdin=pipe, stdout=pipe, stderr=pipe
        ) as process:
            if on_start is not None:
                on_start(process)
            was_timed_out = False
            try:
                out, err = process.communicate(stdin, timeout=self._timeout_seconds)
            except subprocess.TimeoutExpired:
                was_timed_out = True
                process.kill()
                out, err = process.communicate()
        return CniCall(
            command=command,
            exit_code=process.returncode,
            stdout=out.decode(errors="replace"),
            stderr=err.decode(errors="replace"),
            seconds=time.monotonic() - began,
            was_timed_out=was_timed_out,
        )
