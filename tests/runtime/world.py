"""A node with our daemons and a real runtime on it, and what must hold between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from providers.sim.lab import Lab
from providers.sim.runtime import Pod
from tests.node.ground import Site, until
from tests.node.kill_audit import Live, audit
from tests.runtime.calls import Tap
from tests.runtime.containerd import Containerd
from tests.runtime.cri import Cri, Refused, Sandbox
from tests.shim.launchers import ROOT, CompilerMissing, build_launcher, interpreter, pack_launcher

CONFLIST: Mapping[str, Any] = json.loads((ROOT / "cni-shim" / "10-vpc-ipamd.conflist").read_text())
PLUGIN = "vpc-cni"
INSTANCE_TYPE = "m5.xlarge"
"""Four ENIs of 15 addresses each: 56 for pods."""


def conflist(*chained: str, **keys: Any) -> dict[str, Any]:
    """The conflist that we ship, with other keys and with plugins chained behind ours."""
    plugins = [*CONFLIST["plugins"], *({"type": name} for name in chained)]
    return {**CONFLIST, "plugins": plugins, **keys}


def with_portmap() -> dict[str, Any]:
    """The conflist that we ship with Debian's portmap behind ours."""
    portmap = {"type": "portmap", "capabilities": {"portMappings": True}, "snat": True}
    return {**CONFLIST, "plugins": [*CONFLIST["plugins"], portmap]}


def install_launcher(kind: str, target: Path) -> None:
    """The launcher of a kind, "c" or "python", as a file that a runtime starts."""
    hidden = target.with_name(f".{target.name}")
    if kind == "c":
        shutil.copy(build_launcher(), hidden)
    else:
        _first, _, body = pack_launcher().read_text().partition("\n")
        hidden.write_text(f"#!{interpreter()} -IS\n{body}")
        hidden.chmod(0o755)
    hidden.rename(target)


def any_launcher() -> str:
    """The kind for tests to which it does not matter: C where there is a compiler."""
    try:
        build_launcher()
    except CompilerMissing:
        return "python"
    return "c"


class World:
    """One node, its daemons, and a containerd that calls our plugin through a tap or directly."""

    def __init__(
        self,
        lab: Lab,
        name: str,
        *,
        launcher: str,
        env: Mapping[str, str] | None = None,
        is_tapped: bool = True,
    ) -> None:
        """Nothing is started yet."""
        self.lab = lab
        self.containerd = Containerd(name)
        self.node = lab.add_node(
            name,
            instance_type=INSTANCE_TYPE,
            env={
                "WARM_IP_TARGET": "4",
                "IP_COOLDOWN_PERIOD": "2",
                "VPC_IPAMD_CRI_SOCKETS": str(self.containerd.socket),
                "VPC_IPAMD_NETNS_DIRS": str(self.containerd.netns_dir),
                **(env or {}),
            },
        )
        self.containerd.live_in(
            self.node.netns_path, env={"VPC_CNI_RUN_DIR": str(self.node.run_dir)}
        )
        self.plugin = self.containerd.bin_dir / PLUGIN
        if is_tapped:
            self.plugin = self.containerd.top / "launcher" / PLUGIN
            self.plugin.parent.mkdir()
        install_launcher(launcher, self.plugin)
        self._tap = Tap(self.containerd.bin_dir, PLUGIN, self.plugin) if is_tapped else None
        self.site = Site(self.node, (str(self.plugin),))

    @property
    def tap(self) -> Tap:
        """What stands before our plugin and notes its calls."""
        assert self._tap is not None
        return self._tap

    @property
    def address(self) -> str:
        """The node's own."""
        assert self.node.identity is not None
        return str(self.node.identity.address)

    @property
    def cri(self) -> Cri:
        """The runtime."""
        return self.containerd.cri

    def start(self) -> None:
        """Daemons and containerd, with the conflist that we ship."""
        self.site.start()
        self.containerd.start()
        self.containerd.load_images()
        self.containerd.configure(CONFLIST)

    def close(self) -> None:
        """The containerd first, then the node with its daemons."""
        self.containerd.close()
        self.lab.remove_node(self.node.name)

    def live(self) -> Live:
        """The sandboxes that run, as the runtime tells it."""
        found = {}
        for sandbox_id, one in self.cri.listed().items():
            if one.is_ready:
                sandbox = self.cri.look(sandbox_id, self.cri.config(one.name, attempt=one.attempt))
                found[sandbox_id] = (pod_of(sandbox), sandbox.ip)
        return found

    def disagreements(self) -> list[str]:
        """Where ledger, kernel, cloud and runtime differ; empty when all tell one story."""
        stopped = [one.name for one in self.cri.listed().values() if not one.is_ready]
        wrong = [f"the runtime still has {name}, which does not run" for name in stopped]
        return [*wrong, *audit(self.site, self.lab, self.live())]

    def agree(self, *, seconds: float = 45.0) -> None:
        """Wait until nothing differs: queued DELs, cloud calls and sweeps take their time."""
        seen: list[str] = []

        def is_one_story() -> bool:
            seen[:] = self.disagreements()
            return not seen

        try:
            until(is_one_story, seconds=seconds)
        except AssertionError:
            raise AssertionError("\n".join(seen)) from None

    def traces(self, sandbox_id: str) -> list[str]:
        """What is left of a sandbox anywhere; empty when all is gone."""
        record = ["the runtime's record"] if sandbox_id in self.cri.listed() else []
        return [*self.traces_on_node(sandbox_id), *record]

    def traces_on_node(self, sandbox_id: str) -> list[str]:
        """What kernel and ledger have of a sandbox."""
        return self.site.traces(pod_named(sandbox_id))

    def can_reach_router(self, sandbox: Sandbox) -> bool:
        """Whether the VPC answers the pod."""
        return self.site.can_reach_router(pod_of(sandbox), sandbox.ip)

    @contextmanager
    def empty_pool(self) -> Iterator[None]:
        """The cloud gives no more addresses, and pods hold all there are."""
        self.lab.control.call("set_fault", action="AssignPrivateIpAddresses", kind="throttle")
        held: list[Sandbox] = []
        try:
            until(lambda: self._has_used_up(held), what="a pool without addresses")
            yield
        finally:
            self.lab.control.call("clear_faults")
            for sandbox in held:
                self.cri.end(sandbox.sandbox_id)

    def run_soon(self, name: str) -> Sandbox:
        """Start a sandbox whose name the runtime may hold for another moment."""

        def started() -> Sandbox | None:
            try:
                return self.cri.run(name)
            except Refused as refusal:
                if "is reserved" in refusal.text:
                    return None
                raise

        return until(started, what=f"the name {name} to be free")

    def failed_run(self, name: str, *, seconds: float = 60.0) -> Refused:
        """Start a sandbox that must not start; the runtime's refusal."""
        try:
            started = self.cri.run(name, seconds=seconds)
        except Refused as refusal:
            return refusal
        raise AssertionError(f"{name} started with {started.ip}")

    def _has_used_up(self, held: list[Sandbox]) -> bool:
        """Whether no address is available nor about to be; pods take those that are."""
        ledger = self.site.ledger()
        for _ in ledger.in_state("available"):
            held.append(self.cri.run(f"filler-{len(held)}"))
        return not any(map(ledger.in_state, ("available", "cooling", "preparing")))


def pod_of(sandbox: Sandbox) -> Pod:
    """The same pod for the tools that know the lab's own runtime."""
    metadata = sandbox.config.metadata
    return Pod(
        namespace=metadata.namespace,
        name=metadata.name,
        uid=metadata.uid,
        container_id=sandbox.sandbox_id,
        netns_name=Path(sandbox.netns_path).name,
        netns_path=sandbox.netns_path,
    )


def pod_named(container_id: str) -> Pod:
    """A pod of which only the container id is known."""
    return Pod(
        namespace="", name="", uid="", container_id=container_id, netns_name="", netns_path=""
    )
