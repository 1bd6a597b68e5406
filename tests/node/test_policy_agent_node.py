"""The network policy agent of a whole node: pods start with its word, and end without it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.node.ground import Ground, Site, code_of, details_of, until
from tests.policy_agent import FakePolicyAgent

pytestmark = pytest.mark.netns

NAME = "default/web"


@pytest.fixture
def agent() -> Iterator[FakePolicyAgent]:
    """Not yet started; its socket has a short path."""
    with tempfile.TemporaryDirectory(prefix="npa-") as directory:
        made = FakePolicyAgent(Path(directory) / "npa.sock")
        yield made
        made.stop()


def site_with(ground: Ground, agent: FakePolicyAgent, mode: str) -> Site:
    return ground.started(
        env={"NETWORK_POLICY_ENFORCING_MODE": mode, "VPC_IPAMD_NPA_SOCKET": str(agent.path)}
    )


def test_a_strict_node_starts_pods_with_its_agent_alone(
    ground: Ground, agent: FakePolicyAgent
) -> None:
    site = site_with(ground, agent, "strict")
    refused = site.runtime.call("ADD", site.runtime.new_pod("web"))
    assert code_of(refused) == 11
    assert "run aws-network-policy-agent here" in details_of(refused)
    assert not site.ledger().in_state("allocated") and not site.ledger().in_state("cooling")
    agent.start()
    pod = site.add("web")
    site.runtime.call("DEL", pod)
    assert agent.diary == [f"enforce {NAME} strict 1", f"delete {NAME}"]


def test_a_hanging_agent_costs_an_add_and_delays_a_del(
    ground: Ground, agent: FakePolicyAgent
) -> None:
    site = site_with(ground, agent, "standard")
    agent.start()
    first = site.add("web")
    agent.go_on.clear()
    second = site.runtime.new_pod("other")
    began = time.monotonic()
    refused = site.runtime.call("ADD", second)
    deleted = site.runtime.call("DEL", first)
    assert time.monotonic() - began < 10
    assert (code_of(refused), deleted.exit_code) == (11, 0)
    assert "gave no answer in 2.0 s" in details_of(refused)
    assert site.traces(first) == site.traces(second) == []


def test_a_node_without_a_mode_never_calls(ground: Ground, agent: FakePolicyAgent) -> None:
    agent.start()
    site = site_with(ground, agent, "none")
    site.runtime.call("DEL", site.add("web"))
    assert agent.diary == []


def test_a_restarted_vpc_cnid_tells_the_agent_of_pods_that_end(
    ground: Ground, agent: FakePolicyAgent
) -> None:
    site = site_with(ground, agent, "standard")
    agent.start()
    pod = site.add("web")
    site.node.cnid.kill()
    gone = site.runtime.call("DEL", pod)  # queued by the launcher
    site.start_cnid()
    assert gone.exit_code == 0
    until(lambda: f"delete {NAME}" in agent.diary)
