"""Uniform scale sets of the emulated Microsoft.Compute: models, operations, the NIC view."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from providers.sim.arm_compute_records import Instance
from providers.sim.arm_compute_state import FullAt, SecondWrite, Style
from providers.sim.arm_faults import Applies, ArmFaultKind
from tests.sim.azure.lab import AzureLab, Json, block, config
from tests.sim.azure.network_lab import Reply

SLOW = 30.0


@pytest.fixture
def lab() -> AzureLab:
    return AzureLab()


@pytest.fixture
def node(lab: AzureLab) -> Instance:
    lab.compute(write_seconds=SLOW)
    return lab.instance()


def status_of(lab: AzureLab, put: Reply) -> str:
    return str(lab.follow(put.headers["azure-asyncoperation"]).body["status"])


def configs(document: Json) -> list[Json]:
    profile = document["properties"]["networkProfileConfiguration"]
    rows: list[Json] = profile["networkInterfaceConfigurations"][0]["properties"][
        "ipConfigurations"
    ]
    return rows


def test_an_instance_is_shown_with_its_model_and_the_ids_of_its_nics(
    lab: AzureLab, node: Instance
) -> None:
    document = lab.model(node)
    assert (document["name"], document["instanceId"]) == ("pool_0", "0")
    assert document["properties"]["latestModelApplied"] is True
    (row,) = document["properties"]["networkProfile"]["networkInterfaces"]
    assert row["id"] == lab.nics(node.instance_id)[0].nic_id
    assert "privateIPAddress" not in configs(document)[0]["properties"]


@pytest.mark.parametrize("status", [200, 202])
def test_a_write_of_the_model_changes_the_nic_view_only_when_its_operation_ends(
    lab: AzureLab, node: Instance, status: int
) -> None:
    lab.compute(put_status=status)
    put = lab.write_model(node, config("a"), block("b"))
    assert put.status == status
    assert put.body["properties"]["provisioningState"] == "Updating"
    assert len(configs(lab.model(node))) == 3
    lab.advance(SLOW - 1)
    assert list(lab.view(node).addresses) == ["ipconfig1"]
    assert status_of(lab, put) == "InProgress"
    lab.advance(1)
    assert lab.view(node).addresses == {"ipconfig1": "10.0.1.4", "a": "10.0.1.5", "b": "10.0.1.16"}
    assert status_of(lab, put) == "Succeeded"
    assert lab.model(node)["properties"]["provisioningState"] == "Succeeded"


def test_the_addresses_of_an_instance_are_in_its_nic_view_alone(
    lab: AzureLab, node: Instance
) -> None:
    lab.write_model(node, config("a"))
    lab.advance(SLOW)
    assert b"10.0.1." not in lab.get(node.instance_id).raw


@pytest.mark.parametrize(
    ("style", "headers"),
    [
        (Style.BOTH, {"azure-asyncoperation", "location"}),
        (Style.ASYNC, {"azure-asyncoperation"}),
        (Style.LOCATION, {"location"}),
    ],
)
def test_a_write_leads_to_its_operation_in_either_style(
    lab: AzureLab, node: Instance, style: Style, headers: set[str]
) -> None:
    lab.compute(style=style, retry_after_seconds=5)
    put = lab.write_model(node, config("a"))
    assert {"azure-asyncoperation", "location"} & put.headers.keys() == headers
    assert put.headers["retry-after"] == "5"


def test_the_location_of_an_operation_answers_202_and_then_with_the_instance(
    lab: AzureLab, node: Instance
) -> None:
    lab.compute(style=Style.LOCATION)
    url = lab.write_model(node, config("a")).headers["location"]
    assert lab.follow(url).status == 202
    lab.advance(SLOW)
    assert len(configs(lab.follow(url).body)) == 2


def test_removing_a_configuration_from_the_model_frees_its_address(
    lab: AzureLab, node: Instance
) -> None:
    lab.write_model(node, config("a"), config("b"))
    lab.advance(SLOW)
    lab.write_model(node, without=("a",))
    lab.advance(SLOW)
    assert lab.addresses(node.instance_id) == {"ipconfig1": "10.0.1.4", "b": "10.0.1.6"}
    assert lab.world.outsiders.give_back(lab.subnet_id, 1) == 0
    lab.world.outsiders.take(lab.subnet_id, 1)
    (taken,) = next(iter(lab.world.state.tenants.values()))
    assert str(taken) == "10.0.1.5"


@pytest.mark.parametrize("version", ["2018-10-01", "2023-10-31"])
def test_the_nic_view_of_an_old_version_hides_the_length_of_a_block(
    lab: AzureLab, node: Instance, version: str
) -> None:
    lab.write_model(node, block("b"))
    lab.advance(SLOW)
    row = lab.view(node, version).configs[1]
    assert "privateIPAddressPrefixLength" not in row
    assert lab.view(node, "2026-03-01").configs[1]["privateIPAddressPrefixLength"] == 28


def test_it_is_an_option_whether_the_nic_view_takes_newer_versions(
    lab: AzureLab, node: Instance
) -> None:
    lab.compute(newest_nic_version="2018-10-01")
    refused = lab.view(node, "2026-03-01")
    assert refused.refusal == (400, "InvalidApiVersionParameter")
    assert lab.view(node).status == 200


def test_the_nic_view_has_no_type_and_no_location_and_names_its_instance(
    lab: AzureLab, node: Instance
) -> None:
    shown = lab.view(node).body
    assert not {"type", "location", "kind"} & shown.keys()
    assert shown["properties"]["virtualMachine"]["id"] == node.instance_id
    assert lab.view(node).headers["etag"] == shown["etag"]


def test_the_nics_of_one_instance_and_of_the_whole_set_can_be_listed(
    lab: AzureLab, node: Instance
) -> None:
    lab.instance()
    ids = [row["id"] for row in lab.get(f"{node.set_id}/networkInterfaces").body["value"]]
    assert len(ids) == 2
    of_one = lab.get(f"{node.instance_id}/networkInterfaces".upper().replace("/SUB", "/sub"))
    assert [row["id"] for row in of_one.body["value"]] == ids[:1]
    rows = lab.get(f"{ids[0]}/ipConfigurations").body["value"]
    assert lab.get(f"{ids[0]}/ipConfigurations/IPCONFIG1").body == rows[0]


def test_the_nic_of_an_instance_cannot_be_written_through_microsoft_network(
    lab: AzureLab, node: Instance
) -> None:
    nic = lab.view(node).body
    assert lab.call("PUT", nic["id"], nic).refusal == (405, "MethodNotAllowed")


def test_an_instance_has_twelve_writes_at_once_and_then_one_every_fifteen_seconds(
    lab: AzureLab, node: Instance
) -> None:
    lab.compute(write_seconds=0)
    lab.world.set_buckets("real")
    document = lab.model(node)
    statuses = [lab.call("PUT", node.instance_id, document).status for _ in range(13)]
    assert statuses == [200] * 12 + [429]
    refused = lab.call("PUT", node.instance_id, document)
    assert refused.code == "OperationNotAllowed"
    assert refused.body["error"]["details"][0]["code"] == "TooManyRequests"
    assert refused.headers["retry-after"] == "15"
    left = refused.headers["x-ms-ratelimit-remaining-resource"]
    assert "UpdateVMScaleSetVMPerResource1Min;0" in left
    lab.advance(15)
    passed = lab.call("PUT", node.instance_id, document)
    assert passed.status == 200
    assert passed.headers["x-ms-request-charge"] == "1"


def test_ten_minutes_of_throttling_pass_in_virtual_time(lab: AzureLab, node: Instance) -> None:
    lab.compute(write_seconds=0)
    lab.world.set_buckets("real")
    document, written = lab.model(node), 0
    for _ in range(600):
        written += lab.call("PUT", node.instance_id, document).status == 200
        lab.advance(1)
    assert written == 12 + 39
    assert lab.world.throttled == {"virtualMachineScaleSetVMs.put": 600 - 51}


def test_a_later_write_displaces_the_one_under_way(lab: AzureLab, node: Instance) -> None:
    first = lab.write_model(node, config("a"))
    second = lab.write_model(node, without=("a",))
    failed = lab.follow(first.headers["azure-asyncoperation"]).body
    assert (failed["status"], failed["error"]["code"]) == ("Failed", "OperationPreempted")
    lab.advance(SLOW)
    assert status_of(lab, second) == "Succeeded"
    assert list(lab.addresses(node.instance_id)) == ["ipconfig1"]


def test_it_is_an_option_that_a_later_write_is_refused(lab: AzureLab, node: Instance) -> None:
    lab.compute(second_write=SecondWrite.CONFLICTS)
    first = lab.write_model(node, config("a"))
    refused = lab.write_model(node, config("b"))
    assert refused.refusal == (409, "ConflictingConcurrentWriteNotAllowed")
    lab.advance(SLOW)
    assert status_of(lab, first) == "Succeeded"
    assert list(lab.addresses(node.instance_id)) == ["ipconfig1", "a"]


def test_a_full_subnet_shows_only_in_the_operation_which_then_has_changed_nothing(
    lab: AzureLab,
) -> None:
    node = lab.instance(subnet_id=lab.small_subnet_id)
    lab.world.outsiders.leave_free(lab.small_subnet_id, 1)
    put = lab.write_model(node, config("a"), config("b"))
    assert put.status == 200
    failed = lab.follow(put.headers["azure-asyncoperation"]).body
    assert (failed["status"], failed["error"]["code"]) == ("Failed", "SubnetIsFull")
    assert "does not have enough capacity for 2 IP addresses" in failed["error"]["message"]
    assert list(lab.addresses(node.instance_id)) == ["ipconfig1"]
    assert lab.model(node)["properties"]["provisioningState"] == "Failed"


@pytest.mark.parametrize(
    ("more", "code"),
    [
        pytest.param((config("a"), config("b")), "SubnetIsFull", id="addresses"),
        pytest.param((block("a"),), "SubnetIsFull", id="a block, and too few addresses"),
    ],
)
def test_it_is_an_option_that_a_full_subnet_shows_at_once(
    lab: AzureLab, more: tuple[Json, ...], code: str
) -> None:
    lab.compute(full_at=FullAt.PUT)
    node = lab.instance(subnet_id=lab.small_subnet_id)
    lab.world.outsiders.leave_free(lab.small_subnet_id, 1)
    assert lab.write_model(node, *more).refusal == (400, code)
    assert lab.model(node)["properties"]["provisioningState"] == "Succeeded"


def test_strewn_addresses_are_no_block(lab: AzureLab) -> None:
    lab.compute(full_at=FullAt.PUT)
    node = lab.instance()
    lab.world.outsiders.strew(lab.subnet_id)
    refused = lab.write_model(node, block("b"))
    assert refused.refusal == (400, "NoAvailableIPAddressesInSubnet")


@pytest.mark.parametrize(
    ("applies", "has"),
    [
        (Applies.NOTHING, ["ipconfig1"]),
        (Applies.PART, ["ipconfig1", "a", "b"]),
        (Applies.ALL, ["ipconfig1", "a", "b", "c"]),
    ],
)
def test_an_operation_that_fails_may_have_been_applied_all_the_same(
    lab: AzureLab, node: Instance, applies: Applies, has: list[str]
) -> None:
    lab.world.arm.faults.add(
        "PUT", "*", ArmFaultKind.OPERATION_FAILS, code="InternalExecutionError", applies=applies
    )
    put = lab.write_model(node, config("a"), config("b"), config("c"))
    lab.advance(SLOW)
    failed = lab.follow(put.headers["azure-asyncoperation"]).body
    assert (failed["status"], failed["error"]["code"]) == ("Failed", "InternalExecutionError")
    assert list(lab.view(node).addresses) == has
    assert lab.model(node)["properties"]["provisioningState"] == "Failed"


def test_an_operation_can_last_for_ever(lab: AzureLab, node: Instance) -> None:
    lab.world.arm.faults.add("PUT", "*", ArmFaultKind.OPERATION_LASTS)
    put = lab.write_model(node, config("a"))
    lab.advance(10_000)
    assert status_of(lab, put) == "InProgress"


@pytest.mark.parametrize("way", ["reimage", "manualupgrade"])
def test_an_instance_that_is_reset_has_the_sets_model_again(
    lab: AzureLab, node: Instance, way: str
) -> None:
    lab.write_model(node, config("a"), block("b"))
    lab.advance(SLOW)
    assert lab.model(node)["properties"]["latestModelApplied"] is False
    if way == "reimage":
        accepted = lab.call("POST", f"{node.instance_id}/reimage")
    else:
        accepted = lab.call("POST", f"{node.set_id}/manualupgrade", {"instanceIds": ["0"]})
    assert accepted.status == 202
    assert len(lab.view(node).addresses) == 3
    lab.advance(SLOW)
    assert lab.view(node).addresses == {"ipconfig1": "10.0.1.4"}
    assert lab.model(node)["properties"]["latestModelApplied"] is True


def test_a_reimage_that_fails_leaves_the_instance_failed_with_its_addresses(
    lab: AzureLab, node: Instance
) -> None:
    lab.write_model(node, config("a"))
    lab.advance(SLOW)
    lab.world.arm.faults.add("POST", "*/reimage", ArmFaultKind.OPERATION_FAILS, code="Broken")
    accepted = lab.call("POST", f"{node.instance_id}/reimage")
    lab.advance(SLOW)
    failed = lab.follow(accepted.headers["azure-asyncoperation"]).body
    assert (failed["status"], failed["error"]["code"]) == ("Failed", "Broken")
    assert list(lab.view(node).addresses) == ["ipconfig1", "a"]
    assert lab.model(node)["properties"]["provisioningState"] == "Failed"


def test_a_deleted_instance_is_not_found_and_its_addresses_are_free(
    lab: AzureLab, node: Instance
) -> None:
    nic_id = lab.nics(node.instance_id)[0].nic_id
    assert lab.call("DELETE", node.instance_id).status == 202
    lab.advance(SLOW)
    assert lab.get(node.instance_id).refusal == (404, "ResourceNotFound")
    assert lab.get(nic_id).refusal == (404, "ResourceNotFound")
    listed = lab.get(f"{node.instance_id}/networkInterfaces")
    assert listed.refusal == (404, "ParentResourceNotFound")
    assert lab.addresses(lab.instance().instance_id) == {"ipconfig1": "10.0.1.4"}


def test_an_etag_holds_until_the_next_write(lab: AzureLab, node: Instance) -> None:
    stale = lab.model(node)["etag"]
    assert lab.write_model(node, config("a"), if_match=stale).status == 200
    assert lab.write_model(node, config("b"), if_match=stale).refusal == (412, "PreconditionFailed")
    assert lab.write_model(node, config("b"), if_match="*").status == 200


def test_an_old_version_has_no_etag_and_looks_at_none(lab: AzureLab, node: Instance) -> None:
    old = {"version": "2023-03-01"}
    document = lab.get(node.instance_id, **old).body
    assert "etag" not in document
    assert lab.call("PUT", node.instance_id, document, if_match='"0"', **old).status == 200


def test_a_body_that_still_names_anothers_image_can_be_refused(
    lab: AzureLab, node: Instance
) -> None:
    lab.compute(refuses_gallery_images=True)
    assert lab.write_model(node, config("a")).refusal == (403, "LinkedAuthorizationFailed")
    body = lab.model(node)
    image = body["properties"]["storageProfile"].pop("imageReference")
    assert lab.call("PUT", node.instance_id, body).status == 200
    assert lab.model(node)["properties"]["storageProfile"]["imageReference"] == image


def test_unknown_fields_of_a_model_are_stored_and_returned(lab: AzureLab, node: Instance) -> None:
    lab.write_model(node, config("a", futureField={"deep": [1]}))
    lab.advance(SLOW)
    assert configs(lab.model(node))[1]["properties"]["futureField"] == {"deep": [1]}


def test_a_nat_pool_of_the_model_is_a_rule_of_the_instance_in_the_nic_view(
    lab: AzureLab, node: Instance
) -> None:
    pools = [{"id": "/x/loadBalancers/lb/inboundNatPools/p"}]
    lab.write_model(node, config("a", loadBalancerInboundNatPools=pools))
    lab.advance(SLOW)
    row = lab.view(node).configs[1]
    assert row["loadBalancerInboundNatRules"] == [{"id": "/x/loadBalancers/lb/inboundNatRules/p.0"}]
    assert "loadBalancerInboundNatPools" not in row


WRONG_MODELS: tuple[Any, ...] = (
    pytest.param([config("a"), config("a")], "InvalidRequestFormat", id="the same name twice"),
    pytest.param(
        [config("a", primary=True)],
        "NetworkInterfaceMustHaveOneOneIPConfigAsPrimary",
        id="two primaries",
    ),
    pytest.param([config("a", privateIPAddress="10.0.1.9")], "InvalidParameter", id="an address"),
    pytest.param(
        [config("a", privateIPAddressPrefixLength=27)],
        "InvalidPrivateIPAddressPrefixLength",
        id="a /27",
    ),
    pytest.param(
        [config("a", subnet={"id": "/nowhere"})], "InvalidResourceReference", id="no such subnet"
    ),
    pytest.param(
        [config(f"c{n}") for n in range(256)],
        "NetworkInterfaceIpConfigurationLimitExceeded",
        id="257 of them",
    ),
)


@pytest.mark.parametrize(("more", "code"), WRONG_MODELS)
def test_a_model_that_cannot_be_is_refused_at_once(
    lab: AzureLab, node: Instance, more: list[Json], code: str
) -> None:
    assert lab.write_model(node, *more).refusal == (400, code)
    assert lab.model(node)["properties"]["provisioningState"] == "Succeeded"


def test_the_primary_configuration_can_be_neither_deleted_nor_renamed(
    lab: AzureLab, node: Instance
) -> None:
    new = config("other", primary=True)
    refused = lab.write_model(node, new, without=("ipconfig1",))
    assert refused.refusal == (400, "IpConfigDeleteNotSupported")


def test_a_running_instance_gets_no_further_nic(lab: AzureLab, node: Instance) -> None:
    body = lab.model(node)
    rows = body["properties"]["networkProfileConfiguration"]["networkInterfaceConfigurations"]
    second = copy.deepcopy(rows[0]) | {"name": "second"}
    second["properties"]["primary"] = False
    rows.append(second)
    refused = lab.call("PUT", node.instance_id, body)
    code = "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported"
    assert refused.refusal == (400, code)


def test_an_instance_can_begin_with_several_nics(lab: AzureLab) -> None:
    node = lab.instance(nics=2)
    assert [nic.device_index for nic in lab.nics(node.instance_id)] == [0, 1]
    assert lab.addresses(node.instance_id, nic=1) == {"ipconfig1": "10.0.1.5"}


def test_another_client_removes_a_configuration_by_the_model(lab: AzureLab, node: Instance) -> None:
    lab.write_model(node, config("a"), config("b"))
    lab.advance(SLOW)
    lab.world.remove_config(lab.nics(node.instance_id)[0].nic_id, "a")
    lab.advance(SLOW)
    assert list(lab.addresses(node.instance_id)) == ["ipconfig1", "b"]
    assert len(configs(lab.model(node))) == 2


def test_sets_and_their_instances_can_be_listed(lab: AzureLab, node: Instance) -> None:
    lab.instance()
    group = node.set_id.rsplit("/", 1)[0]
    (row,) = lab.get(group).body["value"]
    assert (row["name"], row["properties"]["orchestrationMode"]) == ("pool", "Uniform")
    rows = lab.get(f"{node.set_id}/virtualMachines").body["value"]
    assert [row["instanceId"] for row in rows] == ["0", "1"]
    assert lab.get(node.set_id).body == row


FAULTS: tuple[Any, ...] = (
    pytest.param("GET", "*/virtualMachines/0", id="the read of an instance"),
    pytest.param("PUT", "*/virtualMachines/0", id="the write of an instance"),
    pytest.param("GET", "*/virtualMachines/0/networkInterfaces", id="the NIC view"),
)


@pytest.mark.parametrize(("method", "pattern"), FAULTS)
def test_a_fault_meets_the_nth_request_of_compute_that_it_is_meant_for(
    lab: AzureLab, node: Instance, method: str, pattern: str
) -> None:
    path = node.instance_id + pattern.partition("/0")[2]
    body = lab.model(node) if method == "PUT" else None
    lab.compute(write_seconds=0)
    lab.world.arm.faults.add(
        method, pattern, ArmFaultKind.ERROR, status=503, code="Down", nth=2, retry_after_seconds=7
    )
    replies = [lab.call(method, path, body) for _ in range(3)]
    assert [reply.status for reply in replies] == [200, 503, 200]
    assert (replies[1].code, replies[1].headers["retry-after"]) == ("Down", "7")


def test_a_write_whose_answer_is_lost_has_taken_place(lab: AzureLab, node: Instance) -> None:
    lab.world.arm.stop()  # what holds a connection lets go at once
    lab.world.arm.faults.add("PUT", "*", ArmFaultKind.LOST)
    with pytest.raises(AssertionError, match="not answered"):
        lab.write_model(node, config("a"))
    lab.advance(SLOW)
    assert list(lab.view(node).addresses) == ["ipconfig1", "a"]
