"""What people are told of a node on Azure that cannot do as it should: the real provider, the
emulated ARM, the daemon's own words."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from ipam_api.v1 import ipam_pb2 as pb

from ipamd import clock, status
from ipamd.cli.status import screen
from ipamd.errors import NoAddressAvailable
from ipamd.model import AddressState
from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_faults import ArmFaultKind
from tests import builders as b
from tests.azure_engine import Node, play
from tests.engine import Engine
from tests.sim.azure.lab import AzureLab

JOIN = "Microsoft.Network/virtualNetworks/subnets/join/action"
TARGET = {"WARM_IP_TARGET": "2", "ENABLE_PREFIX_DELEGATION": "false"}


def vm(lab: AzureLab) -> Vm:
    return lab.vm()


def slow_scale_set(lab: AzureLab) -> Instance:
    lab.compute(write_seconds=60.0)
    return lab.instance()


def said(node: Node) -> pb.Status:
    """GetStatus' answer; vpc-cnid has just reported."""
    now = clock.boottime()
    engine = node.engine
    return status.build(
        engine.keeper.ledger,
        engine.reconciler,
        waiting=engine.allocations.waiting,
        reports={},
        reported_boottime=now,
        now=now,
    )


def refuse_writes(lab: AzureLab, http_status: int, code: str, message: str, **more: int) -> None:
    lab.world.arm.faults.add(
        "PUT",
        "*",
        ArmFaultKind.ERROR,
        status=http_status,
        code=code,
        message=message,
        count=None,
        **more,  # type: ignore[arg-type]
    )


async def refused(node: Node, name: str) -> NoAddressAvailable:
    """One ADD that gets no address."""
    request = b.request(name, began=clock.boottime())
    with pytest.raises(NoAddressAvailable) as caught:
        await node.engine.allocations.allocate(request, wait_seconds=5.0)
    return caught.value


def test_a_write_under_way_is_shown_with_its_time(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        await asyncio.sleep(45.0)
        seen = said(node)
        (action,) = seen.last_plan.actions
        assert (action.verb, action.state) == ("assign", "running")
        assert 40.0 < action.seconds < 46.0
        assert f"running for {action.seconds:.0f} s" in screen(seen)
        assert list(seen.problems) == []
        await asyncio.sleep(45.0)
        (action,) = said(node).last_plan.actions
        assert (action.state, 60.0 <= action.seconds < 70.0) == ("done", True)

    play(tmp_path, slow_scale_set, scenario)


def test_a_missing_right_is_named_in_full_to_people_and_runtimes(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        subnet = node.lab.subnet_id
        message = (
            "The client 'c' with object id 'o' has permission to perform action 'w' on scope 'n'; "
            f"however, it does not have permission to perform action(s) '{JOIN}' on the linked "
            f"scope(s) '{subnet}' (respectively) or the linked scope(s) are invalid."
        )
        refuse_writes(node.lab, 403, "LinkedAuthorizationFailed", message)
        await asyncio.sleep(20.0)
        right = f"the identity with object id o lacks the right {JOIN} over {subnet}; give it"
        assert any(right in problem for problem in said(node).problems)
        assert right in str(await refused(node, "c1"))

    play(tmp_path, vm, scenario, **TARGET)


def test_a_throttled_pod_is_told_when_the_cloud_is_asked_again(tmp_path: Path) -> None:
    async def scenario(node: Node) -> None:
        refuse_writes(node.lab, 429, "TooManyRequests", "slow down", retry_after_seconds=50)
        await asyncio.sleep(10.0)
        error = await refused(node, "c1")
        assert 30.0 < error.retry_after_seconds < 50.0
        assert "TooManyRequests: slow down; next try in" in str(error)

    play(tmp_path, vm, scenario, **TARGET)


def test_a_full_subnet_is_named_to_the_runtime_with_the_next_try(tmp_path: Path) -> None:
    def crowded(lab: AzureLab) -> Vm:
        made = lab.vm()
        lab.world.outsiders.leave_free(lab.subnet_id, 0)
        return made

    async def scenario(node: Node) -> None:
        await asyncio.sleep(30.0)
        error = await refused(node, "c1")
        assert error.subnet_id == node.lab.subnet_id.lower()
        assert error.retry_after_seconds > 0
        assert "EXHAUSTED" in screen(said(node))

    play(tmp_path, crowded, scenario, **TARGET)


def test_an_instance_whose_model_was_reset_names_the_pods_and_heals_when_they_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Engine, "check", lambda engine: None)  # others do take pods' addresses here

    async def scenario(node: Node) -> None:
        await asyncio.sleep(200.0)
        for name in ("c1", "c2"):
            await node.engine.add(name)
        held = sorted(str(a) for a in node.engine.keeper.ledger.allocations[b.key("c1")].addresses)
        node.lab.world.reimage(node.cloud.machine_id)
        await asyncio.sleep(61.0)
        node.lab.world.outsiders.take(node.lab.subnet_id, 40)  # so that these do not come back
        await asyncio.sleep(1500.0)
        lost = [p for p in said(node).problems if p.startswith("used by pods but not in the cloud")]
        assert len(lost) == 1
        assert f"{held[0]} (default/c1)" in lost[0]
        assert "delete them" in lost[0]
        for name in ("c1", "c2"):
            node.engine.allocations.release(b.key(name))
        await asyncio.sleep(1500.0)
        assert list(said(node).problems) == []
        assert node.engine.count(AddressState.AVAILABLE) >= 2

    play(tmp_path, slow_scale_set, scenario, **TARGET)
