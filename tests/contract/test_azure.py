"""What only Azure has: how many calls its whole writes take, answers that are lost, other writers.

Each test runs for a NIC of a virtual machine and for one of a scale set's instance, unless it is
about one of them. What ARM refuses, and operations that fail, are in test_azure_refusals.
"""

from __future__ import annotations

import contextlib
import copy
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ipamd.cloud import AddressChange
from ipamd.errors import (
    Busy,
    CloudError,
    LimitReached,
    NotFound,
    Transient,
)
from providers.sim.arm_behaviour import Busy as BusyWith
from providers.sim.arm_compute_state import SecondWrite
from providers.sim.arm_faults import ArmFaultKind
from tests.contract.azure_node import (
    INSTANCE_SECONDS,
    KINDS,
    PUT,
    READS,
    AzureNode,
    looked,
    on_instance,
    on_vm,
    texts,
)
from tests.sim.azure.lab import config

K = ArmFaultKind
GROUP = "/subscriptions/sub/resourceGroups/rg/providers/Microsoft.Network"
NSG = {"id": f"{GROUP}/networkSecurityGroups/theirs"}
ASG = {"id": f"{GROUP}/applicationSecurityGroups/theirs"}
POOL = {"id": f"{GROUP}/loadBalancers/theirs/backendAddressPools/pool"}
DAY = 86_400.0


@pytest.fixture(params=KINDS)
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[AzureNode]:
    yield from looked(request.param, tmp_path)


# How many calls it takes.


@pytest.mark.parametrize("count", [1, 40])
def test_a_growth_of_any_size_is_a_read_and_a_write(node: AzureNode, count: int) -> None:
    node.make_instant()
    assert len(node.grow(count)) == count
    # The answer of a NIC's write has the addresses; an instance's has to be read.
    reads = READS[node.kind]
    assert node.called() == [*reads, PUT[node.kind], *(reads if node.is_instance else [])]


def test_while_a_write_lasts_the_resource_is_looked_at_further_and_further_apart(
    node: AzureNode,
) -> None:
    node.grow(3)
    counted = node.counted()
    assert counted.pop(PUT[node.kind]) == 1
    assert counted.pop("ComputeOperations_Get", 0) <= 1  # what takes long is asked for itself
    if node.is_instance:  # 20 s: after 0, 0.5, 1.5, 3.5, 7.5, 15.5, 25.5; then the NICs as well
        assert counted == Counter(dict(zip(READS["scale-set"], (1 + 7, 1 + 1), strict=True)))
    else:  # 3 s: the answer, and after 0.5, 1.5, 3.5
        assert counted == Counter({READS["vm"][0]: 1 + 3})


def test_a_look_is_one_read_of_what_is_written(node: AzureNode) -> None:
    node.grow(20)
    node.calls.clear()
    assert len(node.look().addresses) == 20
    assert sorted(node.called()) == sorted(READS[node.kind])


def test_a_removal_and_a_growth_are_one_write(node: AzureNode) -> None:
    first = node.grow(4)
    node.calls.clear()
    outcome = node.change(add=3, remove=first[:2])
    assert node.puts() == 1
    assert set(node.look().addresses) == {*first[2:], *outcome.added}


def test_what_is_there_already_costs_no_write(node: AzureNode) -> None:
    first = node.grow(3, token="t")
    node.calls.clear()
    assert node.grow(3, token="t") == first
    gone = node.change(remove=(first[0],))
    assert gone.added == ()
    node.calls.clear()
    node.change(remove=(first[0],))
    assert node.called() == READS[node.kind]


def test_a_write_over_the_limit_is_not_sent(node: AzureNode) -> None:
    with pytest.raises(LimitReached, match="256"):
        node.grow(256)
    assert node.puts() == 0


def test_an_instance_is_written_once_for_both_of_its_nics(tmp_path: Path) -> None:
    for node in looked("scale-set", tmp_path, nics=2):
        node.make_instant()
        for eni in node.provider.snapshot().enis:
            node.calls.clear()
            node.provider.apply(AddressChange(eni_id=eni.eni_id, add=2))
            assert node.puts() == 1
        assert [len(node.held(nic)) for nic in (0, 1)] == [2, 2]
        assert [len(eni.addresses) for eni in node.provider.snapshot().enis] == [2, 2]


# Answers that do not come, or cannot be read.


@pytest.mark.parametrize("kind", [K.LOST, K.MALFORMED])
def test_a_write_whose_answer_is_lost_has_its_addresses_and_doubles_nothing(
    node: AzureNode, kind: ArmFaultKind
) -> None:
    node.fault(kind, seconds=0.02)
    added = node.grow(3, token="t")
    assert texts(added) == set(node.held().values())
    assert node.puts() == 1
    assert node.grow(3, token="t") == added
    assert len(node.held()) == 3


@pytest.mark.parametrize("kind", [K.DROPPED, K.RESET])
def test_a_write_that_did_not_arrive_is_transient_and_its_repeat_adds_once(
    node: AzureNode, kind: ArmFaultKind
) -> None:
    node.fault(kind, seconds=0.02)
    with pytest.raises(Transient):
        node.grow(3, token="t")
    assert node.held() == {}
    assert len(node.grow(3, token="t")) == 3
    assert len(node.held()) == 3


def test_a_removal_whose_answer_is_lost_is_done(node: AzureNode) -> None:
    first = node.grow(3)
    node.fault(K.LOST, seconds=0.02)
    node.change(remove=first[:2])
    assert set(node.held().values()) == texts(first[2:])


@pytest.mark.parametrize("kind", [K.MALFORMED, K.RESET])
def test_a_read_that_cannot_be_read_is_transient_and_nothing_is_written(
    node: AzureNode, kind: ArmFaultKind
) -> None:
    node.fault(kind, "GET")
    with pytest.raises(Transient):
        node.grow(1)
    assert node.puts() == 0


def test_a_look_that_is_lost_while_a_write_lasts_is_waited_out(node: AzureNode) -> None:
    node.fault(K.RESET, "GET", nth=2, count=2)
    assert len(node.grow(2)) == 2
    assert node.puts() == 1


def test_a_list_without_one_of_the_nics_is_no_look(tmp_path: Path) -> None:
    for node in looked("scale-set", tmp_path, nics=2):
        node.fault(K.TRUNCATED, "GET", f"{node.machine_id}/networkInterfaces")
        with pytest.raises(CloudError, match="does not show"):
            node.provider.snapshot()
        assert len(node.provider.snapshot().enis) == 2


@pytest.mark.parametrize("status", [500, 503, 504])
def test_a_server_error_is_transient_and_the_repeat_adds_once(node: AzureNode, status: int) -> None:
    node.fault(K.ERROR, status=status, code="InternalServerError")
    with pytest.raises(Transient):
        node.grow(2, token="t")
    assert len(node.grow(2, token="t")) == 2
    assert len(node.held()) == 2


def test_a_token_that_expired_is_had_anew_and_the_write_is_done_once(node: AzureNode) -> None:
    node.lab.advance(2 * DAY)
    assert len(node.grow(2)) == 2
    assert [call.status for call in node.calls[:2]] == [401, 200]
    assert len(node.held()) == 2


def test_a_token_that_is_revoked_between_read_and_write_costs_nothing(node: AzureNode) -> None:
    node.before_next("PUT", node.lab.world.tokens.issuer.revoke_all)
    assert len(node.grow(2)) == 2
    written = [call.status for call in node.calls if call.api == PUT[node.kind]]
    assert written == [401, 200]


# Others who write.


def test_a_write_of_others_between_read_and_write_survives_and_ours_lands(node: AzureNode) -> None:
    mine = node.grow(2)
    node.calls.clear()
    node.before_next("PUT", lambda: node.write_outside("theirs"))
    added = node.grow(2)
    held = node.held()
    assert held.pop("theirs")
    assert set(held.values()) == texts((*mine, *added))
    assert [call.code for call in node.calls if call.code] == ["PreconditionFailed"]


def test_what_others_removed_between_read_and_write_stays_removed(node: AzureNode) -> None:
    mine = node.grow(3)
    gone = next(iter(node.held()))

    def remove() -> None:
        node.write_outside(without=(gone,))
        node.lab.world.outsiders.take(node.subnet_ids[0], 1)  # and its address is another's

    node.before_next("PUT", remove)
    added = node.grow(1)
    assert set(node.held().values()) == texts((*mine[1:], *added))
    assert mine[0] not in node.look().addresses


def test_a_removed_configuration_of_ours_is_not_made_again(node: AzureNode) -> None:
    mine = node.grow(3)
    gone = next(iter(node.held()))
    node.write_outside(without=(gone,))
    node.lab.world.outsiders.take(node.subnet_ids[0], 1)
    assert node.look().addresses == mine[1:]
    added = node.grow(1)
    assert gone not in node.held()
    node.change(remove=mine)
    assert set(node.held().values()) == texts(added)


def decorate(body: Any, nic: Any) -> None:
    """What others do: a tag, a security group, an ASG, a pool, one configuration of their own, and
    fields that no SDK of today knows, at every level."""
    body["tags"] = {**(body.get("tags") or {}), "team": "blue"}
    nic["properties"]["networkSecurityGroup"] = NSG
    rows = nic["properties"]["ipConfigurations"]
    subnet = rows[0]["properties"]["subnet"]
    rows.append(config("theirs", subnet=subnet))
    for row in rows:
        row["properties"]["applicationSecurityGroups"] = [ASG]
    rows[0]["properties"]["loadBalancerBackendAddressPools"] = [POOL]
    for place in (body, nic, rows[0], rows[-1]):
        place["properties"]["fieldOfTomorrow"] = {"deep": [1, {"x": None}]}


def theirs(node: AzureNode) -> Any:
    """All that is not ours of what a write replaces, without what changes with every write."""
    document = copy.deepcopy(node.document)
    rows = node.nic_in(document)["properties"]["ipConfigurations"]
    rows[:] = [row for row in rows if not row["name"].startswith("ipamd-")]
    return _lasting(document)


def _lasting(value: Any) -> Any:
    if isinstance(value, list):
        return [_lasting(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {k: _lasting(v) for k, v in value.items() if k not in ("etag", "provisioningState")}


def test_all_that_others_did_survives_our_writes(node: AzureNode) -> None:
    first = node.grow(2)
    node.edit_outside(decorate)
    before = theirs(node)
    assert str(before).count("fieldOfTomorrow") == (4 if node.is_instance else 3)
    node.change(add=2, add_prefixes=1, remove=first[:1])
    node.change(remove=node.look().addresses)
    assert theirs(node) == before
    assert node.held()["theirs"]


def test_our_configurations_are_in_the_primarys_asg_and_in_no_pool(node: AzureNode) -> None:
    node.edit_outside(decorate)
    node.grow(1)
    rows = node.nic_in(node.document)["properties"]["ipConfigurations"]
    (ours,) = [row["properties"] for row in rows if row["name"].startswith("ipamd-")]
    assert ours["applicationSecurityGroups"] == [ASG]
    assert "loadBalancerBackendAddressPools" not in ours


def test_what_others_have_is_never_shown_and_never_removed(node: AzureNode) -> None:
    node.write_outside("theirs")
    look = node.look()
    address = next(iter(node.held().values()))
    assert look.addresses == ()
    for foreign in (address, str(look.primary_address)):
        node.calls.clear()
        with pytest.raises(CloudError, match="not ours"):
            node.change(remove=(type(look.primary_address)(foreign),), add=1)
        assert node.puts() == 0
    assert list(node.held()) == ["theirs"]


def test_others_configurations_take_room(node: AzureNode) -> None:
    node.write_outside("theirs-1", "theirs-2")
    node.restart()
    assert node.provider.limits().slots_per_eni == 253
    assert len(node.grow(253)) == 253
    with pytest.raises(LimitReached):
        node.grow(1)


@on_vm
@pytest.mark.parametrize("answer", list(BusyWith))
def test_a_nic_that_others_are_writing_is_written_after_them(
    node: AzureNode, answer: BusyWith
) -> None:
    node.lab.set(busy=answer, retry_after_seconds=2, write_seconds=2.0)
    _begin_outside(node, "theirs")
    added = node.grow(2)
    assert set(node.held()) > {"theirs"}
    assert texts(added) < set(node.held().values())


@on_instance
@pytest.mark.parametrize("second", list(SecondWrite))
def test_an_instance_that_others_are_writing_is_left_alone_until_they_are_done(
    node: AzureNode, second: SecondWrite
) -> None:
    node.lab.compute(second_write=second)
    _begin_outside(node, "theirs")
    with pytest.raises(Busy) as refusal:
        node.grow(2)
    assert refusal.value.retry_after_seconds > 0
    assert node.puts() == 0
    node.lab.advance(INSTANCE_SECONDS)
    assert len(node.grow(2)) == 2
    assert set(node.held()) > {"theirs"}


def _begin_outside(node: AzureNode, name: str) -> None:
    """Another client's write is under way."""
    body = node.document
    rows = node.nic_in(body)["properties"]["ipConfigurations"]
    rows.append(config(name, subnet=rows[0]["properties"]["subnet"]))
    assert node.lab.call("PUT", node.target, body).status == 200


@on_instance
def test_a_reimaged_instance_has_nothing_of_ours_and_grows_anew(node: AzureNode) -> None:
    lost = node.grow(3)
    node.lab.world.reimage(node.machine_id)
    node.lab.advance(INSTANCE_SECONDS)
    assert node.look().addresses == ()
    node.change(remove=lost)
    assert len(node.grow(2)) == 2
    assert len(node.held()) == 2


@on_instance
def test_a_write_that_a_reimage_displaced_is_made_anew_after_it(node: AzureNode) -> None:
    node.during += [lambda: None, lambda: node.lab.world.reimage(node.machine_id)]
    with contextlib.suppress(Busy):
        node.grow(3, token="t")
    node.lab.advance(INSTANCE_SECONDS)
    added = node.grow(3, token="t")
    assert node.puts() == 2
    assert texts(added) == set(node.held().values()) == texts(node.look().addresses)


def test_a_machine_that_is_gone_is_not_found(node: AzureNode) -> None:
    eni_id = node.eni_id
    node.lab.world.remove_machine(node.machine_id)
    with pytest.raises(NotFound):
        node.provider.apply(AddressChange(eni_id=eni_id, add=1))
    with pytest.raises(NotFound):
        node.provider.snapshot()


def test_a_machine_that_goes_during_a_write_is_not_found_and_nothing_waits(node: AzureNode) -> None:
    eni_id = node.eni_id
    node.during += [lambda: None, lambda: node.lab.world.remove_machine(node.machine_id)]
    with pytest.raises(NotFound):
        node.provider.apply(AddressChange(eni_id=eni_id, add=1))
    journal = node.directory / "azure-writes.json"
    assert '"writes": []' in journal.read_text()
