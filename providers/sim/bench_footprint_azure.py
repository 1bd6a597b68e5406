"""What the cloud child costs a node in Azure: its imports, and its memory with 110 pods.

`scripts/bench/footprint --cloud azure` starts it. Real processes against the emulated Azure on
loopback, over TLS; no rights are needed. On EC2's side Allocate beside the child and the time to
the first address are measured too (`bench_footprint`): they are ipamd's, whatever the cloud.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from providers.sim.bench_agent import Agent, Memory, megabytes, memory_of
from providers.sim.bench_cloud import emulated_cloud

PODS = 110  # kubelet's default limit
QUIET_SECONDS = 8.0
RSS_GOAL_MB = 100.0  # of a million bytes
IMPORT_GOAL_SECONDS = 0.6

KINDS = ("vm", "scale-set")

IMPORTS = """
import time
began = time.perf_counter()
import ipamd.cloud_process, providers.azure.provider
import azure.identity, azure.mgmt.compute, azure.mgmt.network
print(time.perf_counter() - began)
"""
"""All that the child has loaded after its first calls on a scale set, which needs both SDKs."""

SETTINGS = {
    "VPC_IPAMD_CLOUD": "azure",
    "WARM_IP_TARGET": "10",
    "MINIMUM_IP_TARGET": "120",
    "ENABLE_PREFIX_DELEGATION": "false",
    "VPC_IPAMD_METRICS_PORT": "0",
    "INTROSPECTION_BIND_ADDRESS": "",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """One kind of machine: memory of both processes once its pods have their addresses."""

    kind: str
    ipamd: Memory
    child: Memory


@dataclass(frozen=True, slots=True, kw_only=True)
class AzureResult:
    """All that was measured."""

    import_seconds: tuple[float, ...]
    footprints: tuple[Footprint, ...]

    def missed(self) -> list[str]:
        """The goals that were not met."""
        goals = [(statistics.median(self.import_seconds) <= IMPORT_GOAL_SECONDS, "import")]
        goals += [
            (megabytes(one.child.rss_kb) <= RSS_GOAL_MB, f"memory on a {one.kind}")
            for one in self.footprints
        ]
        return [name for is_met, name in goals if not is_met]


def measure(rounds: int) -> AzureResult:
    """Imports in fresh processes, then a node of each kind."""
    imports = tuple(_import_seconds() for _ in range(rounds + 1))
    # The first may compile bytecode, or find the disk's cache cold.
    return AzureResult(
        import_seconds=imports[1:], footprints=tuple(_footprint(kind) for kind in KINDS)
    )


def _import_seconds() -> float:
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, check=True, timeout=60
    )
    return round(float(done.stdout), 3)


def _footprint(kind: str) -> Footprint:
    shm = Path("/dev/shm")  # noqa: S108 - the store's default place, /run, is a tmpfs too
    place = shm if shm.is_dir() else None
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fp-", dir=place)))
        control, doors = stack.enter_context(emulated_cloud(root, "providers.sim.azure_server"))
        made = control.call("make_vpc", cidr="10.0.0.0/16", subnets=[{"cidr": "10.0.0.0/22"}])
        subnet_id = made["subnets"][0]["subnet_id"]
        control.call("add_node", name="n", kind=kind, subnet_id=subnet_id)
        agent = Agent(
            root,
            {
                **SETTINGS,
                "AZURE_ARM_ENDPOINT": doors["arm"],
                "AZURE_POD_IDENTITY_AUTHORITY_HOST": doors["imds"],
                "REQUESTS_CA_BUNDLE": doors["ca"],
            },
        )
        stack.callback(agent.stop)
        agent.start()
        agent.fill(PODS)
        time.sleep(QUIET_SECONDS)
        return Footprint(kind=kind, ipamd=memory_of(agent.pid), child=memory_of(agent.child_pid))


def _shown(memory: Memory) -> tuple[str, str]:
    return f"{megabytes(memory.rss_kb):.1f}", f"{megabytes(memory.pss_kb):.1f}"


def table(result: AzureResult) -> str:
    """The figures for people."""
    rows = [("memory, MB", "Rss", "Pss")]
    goal = f" (goal: Rss <= {RSS_GOAL_MB:.0f})"
    for one in result.footprints:
        rows.append((f"ipamd, {one.kind}", *_shown(one.ipamd)))
        rows.append((f"cloud child, {one.kind}{goal}", *_shown(one.child)))
    middle, most = statistics.median(result.import_seconds), max(result.import_seconds)
    goal = f"imports of the child (goal: <= {IMPORT_GOAL_SECONDS:.1f} s)"
    rows += [("", "", ""), (goal, f"{middle:.3f} s", f"most {most:.3f} s")]
    return "\n".join(f"{a:<58}{b!s:>12}{c!s:>15}".rstrip() for a, b, c in rows)


def document(result: AzureResult) -> str:
    """The figures for programs."""
    return json.dumps(asdict(result) | {"missed": result.missed()}, indent=2)
