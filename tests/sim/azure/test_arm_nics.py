"""Behaviours 3, 4 and 17: a NIC is written as a whole, and its etag tells who wrote last."""

from __future__ import annotations

from typing import Any

import pytest

from providers.sim import arm_nic_shapes, arm_nics
from tests.sim.azure.network_lab import (
    ASG,
    GROUP,
    NETWORK,
    NSG,
    SUBSCRIPTION,
    VM,
    NetworkLab,
    block,
    config,
    nic_id,
    primary,
)


def test_a_put_that_creates_is_a_201_and_one_that_updates_a_200(network: NetworkLab) -> None:
    assert [network.put(primary()).status for _ in range(3)] == [201, 200, 200]


def test_both_puts_name_an_operation_on_the_host_that_was_asked(network: NetworkLab) -> None:
    for _ in range(2):
        reply = network.put(primary())
        assert reply.headers["azure-asyncnotification"] == "Enabled"
        status = network.follow(reply.headers["azure-asyncoperation"])
        assert status.body == {"status": "Succeeded"}


def test_urls_have_the_scheme_of_the_request(network: NetworkLab) -> None:
    network.scheme = "https"
    url = network.put(primary()).headers["azure-asyncoperation"]
    assert url.startswith("https://arm.sim:8443/subscriptions/")


def test_every_put_has_a_new_etag(network: NetworkLab) -> None:
    etags = {network.put(primary()).body["etag"] for _ in range(3)}
    assert len(etags) == 3
    assert all(etag.startswith('W/"') for etag in etags)


def test_one_etag_is_on_the_nic_its_configurations_and_the_header_of_a_get(
    network: NetworkLab,
) -> None:
    put = network.put(primary(), config("b"))
    got = network.get()
    told = {got.headers["etag"], got.body["etag"], *(one["etag"] for one in got.configs)}
    assert told == {put.body["etag"]}
    assert "etag" not in put.headers


def test_a_list_has_no_etag_header(network: NetworkLab) -> None:
    network.put(primary())
    assert "etag" not in network.get(f"{NETWORK}/networkInterfaces").headers


def test_a_stale_if_match_is_a_412_and_changes_nothing(network: NetworkLab) -> None:
    first = network.put(primary()).body["etag"]
    second = network.put(primary(), config("b"), if_match=first)
    assert second.status == 200
    assert network.put(primary(), if_match=first).refusal == (412, "PreconditionFailed")
    assert network.get().body == second.body


@pytest.mark.parametrize(("exists", "status"), [(True, 200), (False, 412)], ids=["is", "is-not"])
def test_if_match_star_is_satisfied_by_any_version(
    network: NetworkLab, exists: bool, status: int
) -> None:
    if exists:
        network.put(primary())
    assert network.put(primary(), if_match="*").status == status


@pytest.mark.parametrize(("exists", "status"), [(True, 412), (False, 201)], ids=["is", "is-not"])
def test_if_none_match_star_creates_and_never_updates(
    network: NetworkLab, exists: bool, status: int
) -> None:
    if exists:
        network.put(primary())
    assert network.put(primary(), if_none_match="*").status == status


def test_without_if_match_the_last_writer_wins_and_the_others_work_is_gone(
    network: NetworkLab,
) -> None:
    network.put(primary())
    network.put(primary(), config("of-a"))
    assert list(network.put(primary(), config("of-b")).addresses) == ["ipconfig1", "of-b"]


def test_a_configuration_missing_from_the_body_is_deleted_and_its_address_is_free(
    network: NetworkLab,
) -> None:
    network.put(primary(), config("a"), config("b"))
    network.put(primary(), config("b"))
    assert network.get().addresses == {"ipconfig1": "10.0.1.4", "b": "10.0.1.6"}
    assert network.put(primary(), nic="nic2").addresses == {"ipconfig1": "10.0.1.5"}


def test_fields_of_the_nic_that_the_body_lacks_are_reset(network: NetworkLab) -> None:
    given = {"networkSecurityGroup": {"id": NSG}, "enableIPForwarding": True}
    full = network.put(primary(), properties=given, tags={"team": "a"}).body
    assert full["properties"]["networkSecurityGroup"] == {"id": NSG}
    bare = network.put(primary()).body
    assert "networkSecurityGroup" not in bare["properties"]
    assert bare["properties"]["enableIPForwarding"] is False
    assert "tags" not in bare


def test_unknown_fields_are_stored_and_returned(network: NetworkLab) -> None:
    row = config("b", ofTomorrow={"x": [1]})
    row["beside"] = "kept"
    network.put(primary(), row, properties={"newSwitch": True}, futureField={"a": 1})
    shown = network.get()
    assert shown.body["futureField"] == {"a": 1}
    assert shown.body["properties"]["newSwitch"] is True
    assert (shown.configs[1]["ofTomorrow"], shown.configs[1]["beside"]) == ({"x": [1]}, "kept")


def test_fields_that_only_the_service_sets_are_not_taken_from_the_body(
    network: NetworkLab,
) -> None:
    lies: dict[str, Any] = {
        "macAddress": "00-00-00-00-00-00",
        "provisioningState": "Failed",
        "primary": True,
        "resourceGuid": "none",
        "virtualMachine": {"id": "none"},
    }
    row = {**primary(), "etag": "lie", "id": "/lie", "type": "lie"}
    row["properties"]["provisioningState"] = "Failed"
    shown = network.put(row, properties=lies, etag="lie", name="lie", id="/lie", kind="lie")
    properties = shown.body["properties"]
    assert not {"macAddress", "primary", "virtualMachine"} & set(properties)
    assert (properties["provisioningState"], shown.body["kind"]) == ("Succeeded", "Regular")
    assert (shown.body["name"], shown.configs[0]["etag"]) == ("nic1", shown.body["etag"])
    assert shown.configs[0]["provisioningState"] == "Succeeded"


def test_what_was_read_can_be_written_and_changes_nothing_but_the_etag(
    network: NetworkLab,
) -> None:
    network.put(
        primary(), config("a"), block("b"), properties={"networkSecurityGroup": {"id": NSG}}
    )
    network.attach()
    before = network.get().body
    network.call("PUT", nic_id(), before)
    after = network.get().body
    for body in (before, after):
        del body["etag"]
        for row in body["properties"]["ipConfigurations"]:
            del row["etag"]
    assert after == before


def test_the_primary_configuration_is_first_and_the_others_are_in_order_of_creation(
    network: NetworkLab,
) -> None:
    network.put(config("b"), primary(), config("a"))
    network.put(config("new"), config("a"), config("b"), primary())
    assert list(network.get().addresses) == ["ipconfig1", "b", "a", "new"]


def test_a_nic_has_a_mac_from_its_first_attach_and_keeps_it(network: NetworkLab) -> None:
    network.put(primary())
    assert "macAddress" not in network.get().body["properties"]
    network.attach()
    shown = network.get().body["properties"]
    assert shown["macAddress"].startswith("00-0D-3A-")
    assert (shown["primary"], shown["virtualMachine"]) == (True, {"id": VM})
    network.state.detach(nic_id())
    detached = network.get().body["properties"]
    assert detached["macAddress"] == shown["macAddress"]
    assert not {"primary", "virtualMachine"} & set(detached)


def test_configurations_can_be_read_one_by_one(network: NetworkLab) -> None:
    shown = network.put(primary(), config("b")).body["properties"]["ipConfigurations"]
    assert network.get(f"{nic_id()}/ipConfigurations").body == {"value": shown}
    assert network.get(f"{nic_id()}/ipConfigurations/B").body == shown[1]
    assert network.get(f"{nic_id()}/ipConfigurations/c").status == 404


def test_a_nic_needs_a_location(network: NetworkLab) -> None:
    reply = network.call("PUT", nic_id(), {"properties": {"ipConfigurations": [primary()]}})
    assert reply.refusal == (400, "LocationRequired")


def test_all_configurations_are_in_the_same_application_security_groups(
    network: NetworkLab,
) -> None:
    groups = [{"id": ASG}]
    code = "AllIpConfigurationsOnANicMustBelongToTheSameApplicationSecurityGroups"
    refused = network.put(primary(applicationSecurityGroups=groups), config("b"))
    assert refused.refusal == (400, code)
    same = config("b", applicationSecurityGroups=[{"id": ASG.upper()}])
    assert network.put(primary(applicationSecurityGroups=groups), same).status == 201


def test_a_deleted_nic_is_gone_and_its_addresses_are_free(network: NetworkLab) -> None:
    network.put(primary(), block("b"))
    deleted = network.call("DELETE", nic_id())
    assert deleted.status == 202
    assert network.follow(deleted.headers["azure-asyncoperation"]).body == {"status": "Succeeded"}
    assert network.follow(deleted.headers["location"]).status == 204
    assert network.get().status == 404
    assert network.usage() == (0, 251)


def test_deleting_what_is_not_there_is_a_204(network: NetworkLab) -> None:
    assert network.call("DELETE", nic_id()).status == 204


def test_a_nic_of_a_machine_cannot_be_deleted(network: NetworkLab) -> None:
    network.put(primary())
    network.attach()
    assert network.call("DELETE", nic_id()).refusal == (400, "NicInUse")


def test_a_delete_heeds_the_etag(network: NetworkLab) -> None:
    network.put(primary())
    refused = network.call("DELETE", nic_id(), if_match='W/"stale"')
    assert refused.refusal == (412, "PreconditionFailed")


def test_a_scale_sets_nic_has_no_type_no_location_and_is_in_no_list(network: NetworkLab) -> None:
    sets = f"{GROUP}/providers/Microsoft.Compute/virtualMachineScaleSets"
    name = f"{sets}/pool/virtualMachines/0/networkInterfaces/eth0"
    body = {"properties": {"ipConfigurations": [primary()]}}
    with network.state.lock:
        nic = arm_nics.replace_nic(network.state, name, body)
        shown = arm_nic_shapes.nic(network.state, nic, "2018-10-01")
    assert not {"type", "location", "kind"} & set(shown)
    assert "type" not in shown["properties"]["ipConfigurations"][0]
    assert shown["id"] == name
    for within in (GROUP, f"/subscriptions/{SUBSCRIPTION}"):
        path = f"{within}/providers/Microsoft.Network/networkInterfaces"
        assert network.get(path).body == {"value": []}
    assert network.arm.calls == {"networkInterfaces.list": 1, "networkInterfaces.listAll": 1}
