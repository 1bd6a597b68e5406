"""The demo as a program: what it prints, how it ends, and what it leaves behind."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from providers.sim import demo_looks, netns

pytestmark = pytest.mark.netns

NAMES = [
    "the vpc-cni launcher answers VERSION",
    "the emulated cloud answers, with a VPC and its subnets",
    "two nodes run ipamd and vpc-cnid and report no problem",
    "pods started by vpc-cni run on every ENI that takes pods",
    "ledger, cloud and kernel agree on every pod's address",
    "every pod reaches every pod",
    "every pod reaches the VPC router",
    "the addresses are of the kind and from the place that the mode asks for",
    "without a routing rule a pod's packets are dropped by the VPC",
    "vpc-cnid puts the rule back and the pod is reachable again",
    "ipamctl status says that both nodes are well",
    "deleted pods leave no link, route or rule",
    "their addresses are cooling, still ours in the cloud",
    "both daemons of both nodes end on SIGTERM",
    "a stopped node keeps its ENIs and nothing of a pod",
    "terminated nodes give every address back to the subnets",
    "nothing is left: no process, namespace, link or file",
]

AZURE_NAMES = [
    "the vpc-cni launcher answers VERSION",
    "the emulated cloud answers, with a VNET and its subnets",
    "two nodes run ipamd and vpc-cnid and report no problem",
    "pods started by vpc-cni run on every NIC that takes pods",
    "ledger, cloud and kernel agree on every pod's address",
    "every pod reaches every pod",
    "every pod reaches the VNET router",
    "the addresses are of the kind and from the place that the mode asks for",
    "pods resolve names and ask the metadata service, which see the pod's node",
    "a packet from an address that is not the NIC's is dropped by the VNET",
    "without a routing rule a pod is cut off",
    "vpc-cnid puts the rule back and the pod is reachable again",
    "daemons killed with kill -9 take up where they were, and no pod notices",
    "ipamctl status says that both nodes are well",
    "deleted pods leave no link, route or rule",
    "their addresses are cooling, still ours in the cloud",
    "both daemons of both nodes end on SIGTERM",
    "a stopped node keeps its NICs and nothing of a pod",
    "what an administrator has on the NICs is as it was",
    "terminated nodes give every address back to the subnets",
    "nothing is left: no process, namespace, link or file",
]

# It answers VERSION as the real one does, and fails every pod.
BROKEN_LAUNCHER = """#!/bin/sh
[ "$CNI_COMMAND" = VERSION ] && exec echo '{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}'
echo '{"cniVersion":"1.0.0","code":99,"msg":"broken on purpose"}'
exit 1
"""

TIMEOUT_SECONDS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a demo ended. `temporary` is where it made its folder."""

    status: int
    checks: list[dict[str, Any]]
    stderr: str
    temporary: Path

    @property
    def failed(self) -> Mapping[str, str]:
        return {one["name"]: one["seen"] for one in self.checks if one["result"] != "ok"}

    @property
    def leftovers(self) -> list[str]:
        files = [str(path) for path in self.temporary.iterdir()]
        return [*files, *demo_looks.processes_of(self.temporary)]


def start_demo(temporary: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "providers.sim.demo", "--json", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )


def outcome_of(demo: subprocess.Popen[str], temporary: Path) -> Outcome:
    with demo:
        try:
            out, err = demo.communicate(timeout=TIMEOUT_SECONDS)
        finally:
            demo.kill()
    checks = json.loads(out)["checks"]
    return Outcome(status=demo.returncode, checks=checks, stderr=err, temporary=temporary)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short path: that of a unix socket has 107 bytes at most, and tmp_path alone half of it."""
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


# Of each mode, what its look at the addresses says and no other's would.
SEEN = {
    ("aws", "secondary"): "22 pods use 2. secondary addresses of 4 ENIs; no ENI has a prefix",
    (
        "aws",
        "prefix",
    ): "4 prefixes on 4 ENIs, 4 of the ENIs with pods; no ENI has a secondary address",
    (
        "aws",
        "custom",
    ): "all 1. pods are on ENIs in the ENIConfig's subnet with its security group sg-",
    ("aws", "ipv6"): "20 pods with an IPv6 address and no IPv4 one; each node has one ENI with its",
    ("azure", "mixed"): r"\d+ pods use \d+ secondary addresses of 2 NICs; no NIC has a prefix;"
    " [23] prefixes on 1 NIC, 1 of the NICs with pods; no NIC has a secondary address",
}


@pytest.mark.slow
@pytest.mark.parametrize(("cloud", "mode"), SEEN, ids=["-".join(one) for one in SEEN])
def test_the_demo_passes_every_check_and_leaves_nothing(
    temporary: Path, cloud: str, mode: str
) -> None:
    before = netns.names()

    outcome = outcome_of(start_demo(temporary, "--cloud", cloud, "--mode", mode), temporary)

    assert outcome.failed == {}, outcome.stderr
    assert [one["name"] for one in outcome.checks] == (NAMES if cloud == "aws" else AZURE_NAMES)
    assert re.match(SEEN[cloud, mode], outcome.checks[7]["seen"])
    assert {tuple(one) for one in outcome.checks} == {("name", "result", "seconds", "seen")}
    assert outcome.status == 0
    assert outcome.leftovers == []
    assert netns.names() == before


def test_a_launcher_that_fails_fails_the_demo_and_what_depends_on_pods(temporary: Path) -> None:
    launcher = temporary / "vpc-cni"
    launcher.write_text(BROKEN_LAUNCHER)
    launcher.chmod(0o755)
    folder = temporary / "demo"
    folder.mkdir()

    outcome = outcome_of(start_demo(folder, "--launcher", str(launcher)), folder)

    assert outcome.status == 1
    assert [one["name"] for one in outcome.checks] == NAMES
    pods, *dependent = [name for name in NAMES if name in outcome.failed]
    assert "broken on purpose" in outcome.failed[pods]
    assert len(dependent) == 9
    assert all(outcome.failed[name].startswith("not tried: ") for name in dependent)
    assert NAMES[-1] not in outcome.failed
    assert outcome.leftovers == []


def test_an_interrupted_demo_cleans_up_and_says_what_was_not_tried(temporary: Path) -> None:
    demo = start_demo(temporary)
    assert demo.stderr is not None
    while NAMES[1] not in demo.stderr.readline():  # ended, and the nodes begin to start
        assert demo.poll() is None
    demo.send_signal(signal.SIGINT)

    outcome = outcome_of(demo, temporary)

    assert outcome.status == 128 + signal.SIGINT
    assert [one["name"] for one in outcome.checks] == NAMES
    assert outcome.failed[NAMES[-1]] == "ended by SIGINT"
    assert outcome.leftovers == []
