"""A list of plugins run as libcni runs it, on a node of the lab.

ADD goes forward, each plugin with its predecessor's result as prevResult; CHECK forward and DEL
backward, all with the last result (CNI SPEC 1.0, "Section 3: Execution of Network
Configurations"). The plugins are programs in one directory, which is CNI_PATH too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from providers.sim.lab_node import Node
from providers.sim.runtime import CniCall, Pod

DEBIAN_PLUGINS = Path("/usr/lib/cni")  # of containernetworking-plugins
OUR_NAMES = ("vpc-cni", "vpc-cni-ipam")


def plugin_directory(directory: Path, launcher: Path) -> Path:
    """The distribution's plugins and our launcher under both its names."""
    directory.mkdir(exist_ok=True)
    for plugin in DEBIAN_PLUGINS.iterdir():
        (directory / plugin.name).symlink_to(plugin)
    for name in OUR_NAMES:
        (directory / name).symlink_to(launcher)
    return directory


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A conflist: its plugins' objects, in order."""

    plugins: Sequence[Mapping[str, Any]]
    name: str = "vpc-ipamd"
    version: str = "1.0.0"


class Chain:
    """One network on one node; remembers each attachment's result, as libcni's cache."""

    def __init__(
        self, node: Node, directory: Path, network: Network, *, deadline_ms: int = 0
    ) -> None:
        """`deadline_ms` lowers our launcher's own deadlines."""
        self._lower = ("/usr/bin/env", f"VPC_CNI_DEADLINE_MS={deadline_ms}") if deadline_ms else ()
        self._node = node
        self._directory = directory
        self._network = network
        self._results: dict[tuple[str, str], dict[str, Any]] = {}

    def add(self, pod: Pod, **runtime_config: Any) -> CniCall:
        """The last plugin's call, or the first that failed. No DEL follows by itself."""
        calls: list[CniCall] = []
        for plugin in self._network.plugins:
            previous = calls[-1].document if calls else None
            calls.append(self._call("ADD", pod, plugin, previous, runtime_config))
            if calls[-1].exit_code:
                return calls[-1]
        assert calls[-1].document is not None, calls[-1]
        self._results[pod.container_id, pod.ifname] = calls[-1].document
        return calls[-1]

    def check(self, pod: Pod, **runtime_config: Any) -> CniCall:
        """The last plugin's call, or the first that failed."""
        return self._each("CHECK", pod, self._network.plugins, runtime_config)

    def delete(self, pod: Pod, *, has_netns: bool = True, **runtime_config: Any) -> CniCall:
        """The first plugin's call, or that of the later one that failed."""
        plugins = tuple(reversed(self._network.plugins))
        call = self._each("DEL", pod, plugins, runtime_config, has_netns=has_netns)
        if not call.exit_code:
            self._results.pop((pod.container_id, pod.ifname), None)
        return call

    def _each(
        self,
        command: str,
        pod: Pod,
        plugins: Sequence[Mapping[str, Any]],
        runtime_config: Mapping[str, object],
        *,
        has_netns: bool = True,
    ) -> CniCall:
        """Each plugin with the last result, until one fails."""
        result = self._results.get((pod.container_id, pod.ifname))
        first, *rest = plugins
        call = self._call(command, pod, first, result, runtime_config, has_netns=has_netns)
        for plugin in rest:
            if call.exit_code:
                break
            call = self._call(command, pod, plugin, result, runtime_config, has_netns=has_netns)
        return call

    def _call(
        self,
        command: str,
        pod: Pod,
        plugin: Mapping[str, Any],
        previous: dict[str, Any] | None,
        runtime_config: Mapping[str, object],
        *,
        has_netns: bool = True,
    ) -> CniCall:
        wanted = {k: v for k, v in runtime_config.items() if k in plugin.get("capabilities", {})}
        config = {
            **plugin,
            "name": self._network.name,
            "cniVersion": self._network.version,
            **({"runtimeConfig": wanted} if wanted else {}),
        }
        runtime = self._node.runtime([*self._lower, str(self._directory / plugin["type"])], config)
        return runtime.call(command, pod, has_netns=has_netns, previous=previous)

    def result(self, pod: Pod) -> Mapping[str, Any]:
        """What the chain's ADD answered."""
        return self._results[pod.container_id, pod.ifname]
