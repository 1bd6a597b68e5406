"""The network policy agent on ADD and DEL: told in order, awaited for a while, never trusted."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cni_shim import policy_agent
from cni_shim.add import ANSWER_MARGIN_SECONDS
from cni_shim.errors import CniErrorCode
from cni_shim.policy_agent import PolicyAgent
from cni_shim.spec import AttachmentKey, Pod
from cni_shim.wanted import WantedNetwork
from ipam_api.v1 import ipam_pb2 as pb

from tests.cni_bench import KEY, Bench
from tests.policy_agent import FakePolicyAgent

WEB = Pod(namespace="default", name="web")


@pytest.fixture
def socket_path() -> Iterator[Path]:
    """A short one: a socket's address holds 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="npa-") as directory:
        yield Path(directory) / "npa.sock"


@pytest.fixture
def agent(socket_path: Path) -> Iterator[FakePolicyAgent]:
    made = FakePolicyAgent(socket_path)
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policy_agent, "CALL_SECONDS", 0.4)


def wanted(mode: str) -> WantedNetwork:
    return WantedNetwork(pb.NodeNetwork(policy=pb.HostPolicy(network_policy_mode=mode)))


def bench(path: Path, mode: str) -> Bench:
    """Verbs that call the agent under this path."""
    return Bench(policies=PolicyAgent(path, wanted(mode)))


@pytest.mark.parametrize("mode", ["standard", "strict"])
def test_a_pod_starts_after_the_agent_has_it_and_ends_before_the_agent_forgets_it(
    agent: FakePolicyAgent, mode: str
) -> None:
    node = bench(agent.path, mode)
    node.add()
    node.delete()
    assert agent.diary == [f"enforce default/web {mode} 1", "delete default/web"]


@pytest.mark.parametrize("mode", ["", "none"])
def test_without_a_mode_nobody_is_contacted(agent: FakePolicyAgent, mode: str) -> None:
    node = bench(agent.path, mode)
    node.add()
    node.delete()
    assert agent.diary == []


@pytest.mark.parametrize("pod", [Pod(), Pod(name="web"), Pod(namespace="default")], ids=str)
def test_a_pod_without_its_names_is_none_of_the_agents(agent: FakePolicyAgent, pod: Pod) -> None:
    calls = PolicyAgent(agent.path, wanted("strict"))
    calls.enforce(pod, KEY, deadline_monotonic=time.monotonic() + 5)
    calls.forget(pod, KEY, is_followed=lambda: False, deadline_monotonic=time.monotonic() + 5)
    assert agent.diary == []


def test_a_further_attachment_of_a_pod_is_none_of_the_agents(agent: FakePolicyAgent) -> None:
    net1 = AttachmentKey(container_id="c1", ifname="net1")
    calls = PolicyAgent(agent.path, wanted("strict"))
    calls.enforce(WEB, net1, deadline_monotonic=time.monotonic() + 5)
    calls.forget(WEB, net1, is_followed=lambda: False, deadline_monotonic=time.monotonic() + 5)
    assert agent.diary == []


def says_no(agent: FakePolicyAgent) -> None:
    agent.refuses.add("enforce")


def fails(agent: FakePolicyAgent) -> None:
    agent.fails.add("enforce")


def hangs(agent: FakePolicyAgent) -> None:
    agent.go_on.clear()


def is_dead(agent: FakePolicyAgent) -> None:
    agent.stop()


@pytest.mark.parametrize("mode", ["standard", "strict"])
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (says_no, "answered without success"),
        (fails, "INTERNAL: no program could be loaded"),
        (hangs, "gave no answer in"),
        (is_dead, "gave no answer in"),
    ],
)
def test_an_agent_that_does_not_take_the_pod_undoes_the_add(
    agent: FakePolicyAgent, mode: str, trouble: Callable[[FakePolicyAgent], None], said: str
) -> None:
    node = bench(agent.path, mode)
    trouble(agent)
    error = node.refused(node.add)
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
    assert said in error.details and "aws-network-policy-agent" in error.details
    assert node.diary == [
        "allocate 10.0.0.5",
        "wire 10.0.0.5 mark 2",
        "unwire 10.0.0.5 of web",
        "release 10.0.0.5",
    ]


def test_what_an_add_that_failed_may_have_loaded_is_taken_back(agent: FakePolicyAgent) -> None:
    node = bench(agent.path, "standard")
    agent.refuses.add("enforce")
    node.refused(node.add)
    assert agent.diary[-1] == "delete default/web"


def test_strict_without_an_agent_takes_no_address_and_says_what_to_do(socket_path: Path) -> None:
    node = bench(socket_path, "strict")
    error = node.refused(node.add)
    assert error.code is CniErrorCode.TRY_AGAIN_LATER
    assert "run aws-network-policy-agent here, or set the mode" in error.details
    assert node.diary == []


def test_an_agent_that_goes_away_while_a_strict_pod_is_wired_undoes_it(
    agent: FakePolicyAgent,
) -> None:
    node = bench(agent.path, "strict")
    node.datapath.during_wire = agent.path.unlink
    error = node.refused(node.add)
    assert "there is no network policy agent" in error.msg
    assert not node.datapath.links and not node.ipam.held


def test_standard_without_an_agent_starts_pods(socket_path: Path) -> None:
    node = bench(socket_path, "standard")
    assert node.add()["address"] == "10.0.0.5/32"


def test_an_agent_that_restarts_meanwhile_is_awaited(
    agent: FakePolicyAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy_agent, "CALL_SECONDS", 10.0)
    node = bench(agent.path, "strict")
    node.add()
    agent.stop()
    node.datapath.links.clear()
    node.datapath.during_wire = agent.start
    node.add()
    assert agent.diary.count("enforce default/web strict 1") == 2


@pytest.mark.parametrize("trouble", [hangs, is_dead])
def test_an_agent_that_is_away_keeps_neither_link_nor_address(
    agent: FakePolicyAgent, trouble: Callable[[FakePolicyAgent], None]
) -> None:
    node = bench(agent.path, "strict")
    node.add()
    trouble(agent)
    node.delete()
    assert not node.datapath.links and not node.ipam.held


def test_a_del_that_found_nothing_tells_the_agent_nothing(agent: FakePolicyAgent) -> None:
    """It may be of a sandbox long gone, whose pod lives in another by now."""
    bench(agent.path, "standard").delete()
    assert agent.diary == []


def test_the_end_of_an_old_sandbox_leaves_the_policies_of_the_next(agent: FakePolicyAgent) -> None:
    node = bench(agent.path, "standard")
    node.add()
    held = pb.Allocation.FromString(node.ipam.held["c1"].SerializeToString())
    held.key.container_id = "c2"
    node.ipam.held["c2"] = held
    node.recall()
    node.delete()
    assert agent.diary == ["enforce default/web standard 1"]


def test_a_cancelled_add_is_forgotten(agent: FakePolicyAgent) -> None:
    node = bench(agent.path, "standard")
    attempt = node.attempt()
    node.datapath.during_wire = attempt.cancel
    node.refused(lambda: node.add(attempt))
    assert agent.diary == ["delete default/web"]


def test_a_pod_of_another_main_plugin_is_none_of_the_agents(agent: FakePolicyAgent) -> None:
    node = bench(agent.path, "strict")
    held = pb.Allocation(
        key=pb.AttachmentKey(container_id="c1", ifname="eth0"),
        pod_namespace="default",
        pod_name="web",
        address="10.0.0.9",
        addresses=["10.0.0.9"],
        wired_by="main-plugin",
        subnet_cidr="10.0.0.0/24",
        gateway="10.0.0.1",
    )
    node.ipam.held["c1"] = held
    node.delete()
    assert agent.diary == []


def test_an_add_before_ipamds_first_word_waits_for_it(agent: FakePolicyAgent) -> None:
    unknown = WantedNetwork()
    node = Bench(policies=PolicyAgent(agent.path, unknown))
    attempt = node.attempt()
    attempt.deadline_monotonic = time.monotonic() + ANSWER_MARGIN_SECONDS + 0.1
    error = node.refused(lambda: node.add(attempt))
    assert "has not yet said" in error.msg
    assert node.diary == []
    unknown.take(pb.NodeNetwork(policy=pb.HostPolicy(network_policy_mode="strict")))
    node.add()
    assert agent.diary == ["enforce default/web strict 1"]


def test_a_del_before_ipamds_first_word_tells_the_agent_after_it(agent: FakePolicyAgent) -> None:
    unknown = WantedNetwork()
    calls = PolicyAgent(agent.path, unknown)
    node = Bench(policies=calls)
    node.datapath.links["c1"] = "10.0.0.5"
    node.delete()
    assert agent.diary == []
    calls.catch_up("standard")
    assert agent.diary == ["delete default/web"]


def test_what_was_put_off_is_dropped_where_no_mode_is_set(agent: FakePolicyAgent) -> None:
    calls = PolicyAgent(agent.path, WantedNetwork())
    calls.forget(WEB, KEY, is_followed=lambda: False, deadline_monotonic=time.monotonic() + 1)
    calls.catch_up("none")
    calls.catch_up("standard")
    assert agent.diary == []
