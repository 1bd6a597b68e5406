"""VMs of the emulated Microsoft.Compute, and tokens of the metadata service at ARM's door."""

from __future__ import annotations

import json
from typing import Any

import pytest

from providers.sim.arm_errors import ArmError
from providers.sim.azure_world_documents import GROUP, nic_document
from providers.sim.http_door import Call
from tests.sim.azure.lab import AzureLab

RUNNING = "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported"
TOKEN = (
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"
)


@pytest.fixture
def lab() -> AzureLab:
    return AzureLab()


def spare_nic(lab: AzureLab) -> str:
    nic_id = f"{GROUP}/Microsoft.Network/networkInterfaces/spare"
    made = lab.call("PUT", nic_id, nic_document(lab.subnet_id), version="2025-05-01")
    assert made.status == 201
    return nic_id


def with_nics(document: dict[str, Any], *nic_ids: str) -> dict[str, Any]:
    rows = [{"id": nic_id, "properties": {"primary": n == 0}} for n, nic_id in enumerate(nic_ids)]
    document["properties"]["networkProfile"] = {"networkInterfaces": rows}
    return document


def test_a_vm_names_its_nics_and_which_is_primary(lab: AzureLab) -> None:
    vm = lab.vm(nics=2)
    document = lab.get(vm.vm_id).body
    assert document["properties"]["networkProfile"]["networkInterfaces"] == [
        {
            "id": f"{GROUP}/Microsoft.Network/networkInterfaces/vm1-nic-{n}",
            "properties": {"primary": n == 0},
        }
        for n in range(2)
    ]
    assert lab.get(lab.nics(vm.vm_id)[1].nic_id).body["properties"]["primary"] is False


def test_a_vm_is_found_by_a_path_of_any_case(lab: AzureLab) -> None:
    vm = lab.vm()
    path = vm.vm_id.replace("resourceGroups", "RESOURCEGROUPS").replace("vm1", "VM1")
    assert lab.get(path).body["id"] == vm.vm_id
    assert lab.get(f"{vm.vm_id}0").refusal == (404, "ResourceNotFound")


def test_a_running_vm_gets_no_nic_and_gives_none_away(lab: AzureLab) -> None:
    vm, spare = lab.vm(nics=2), spare_nic(lab)
    first, second = (nic.nic_id for nic in lab.nics(vm.vm_id))
    document = lab.get(vm.vm_id).body
    assert lab.call("PUT", vm.vm_id, with_nics(document, first, spare)).refusal == (400, RUNNING)
    assert lab.call("PUT", vm.vm_id, with_nics(document, first)).refusal == (400, RUNNING)
    assert [nic.nic_id for nic in lab.nics(vm.vm_id)] == [first, second]


def test_a_deallocated_vm_gets_a_nic(lab: AzureLab) -> None:
    vm, spare = lab.vm(), spare_nic(lab)
    document = lab.get(vm.vm_id).body
    assert lab.call("POST", f"{vm.vm_id}/deallocate").status == 202
    (first,) = (nic.nic_id for nic in lab.nics(vm.vm_id))
    assert lab.call("PUT", vm.vm_id, with_nics(document, first, spare)).status == 200
    assert lab.call("POST", f"{vm.vm_id}/start").status == 202
    assert [nic.nic_id for nic in lab.nics(vm.vm_id)] == [first, spare]
    view = lab.get(vm.vm_id, query="$expand=instanceView").body["properties"]["instanceView"]
    assert view["statuses"][0]["code"] == "PowerState/running"


def test_a_nic_of_one_vm_cannot_be_anothers(lab: AzureLab) -> None:
    first, second = lab.vm("vm1"), lab.vm("vm2")
    taken = lab.nics(first.vm_id)[0].nic_id
    body = with_nics(lab.get(second.vm_id).body, taken)
    assert lab.call("PUT", second.vm_id, body).refusal == (400, "NicInUse")


def test_a_vm_can_be_made_through_arm_of_nics_that_exist(lab: AzureLab) -> None:
    vm_id, spare = f"{GROUP}/Microsoft.Compute/virtualMachines/made", spare_nic(lab)
    body = {"location": "westeurope", "properties": {"hardwareProfile": {"vmSize": "Standard_B2s"}}}
    assert lab.call("PUT", vm_id, with_nics(body, spare)).status == 201
    assert lab.get(spare).body["properties"]["virtualMachine"] == {"id": vm_id}
    nowhere = with_nics(body, f"{spare}x")
    assert lab.call("PUT", vm_id, nowhere).refusal == (400, "InvalidResourceReference")


def test_a_deleted_vm_leaves_its_nic_detached(lab: AzureLab) -> None:
    vm = lab.vm()
    nic_id = lab.nics(vm.vm_id)[0].nic_id
    assert lab.call("DELETE", vm.vm_id).status == 202
    assert lab.get(vm.vm_id).status == 404
    assert "virtualMachine" not in lab.get(nic_id).body["properties"]


def test_a_machine_of_a_flexible_set_names_it_and_has_plain_nics(lab: AzureLab) -> None:
    vm = lab.vm(flexible_set="flex")
    document = lab.get(vm.vm_id).body
    assert document["properties"]["virtualMachineScaleSet"]["id"].endswith("/flex")
    (machine,) = lab.world.all_machines()
    assert machine.scale_set == "flex"
    assert "/Microsoft.Network/networkInterfaces/" in machine.nics[0].nic_id
    assert lab.get(machine.nics[0].nic_id).status == 200


def test_a_size_takes_as_many_nics_as_the_list_of_skus_says(lab: AzureLab) -> None:
    rows = lab.get(f"{GROUP.split('/resourceGroups')[0]}/providers/Microsoft.Compute/skus").body
    sizes = {row["name"]: row["capabilities"] for row in rows["value"]}
    assert {"name": "MaxNetworkInterfaces", "value": "2"} in sizes["Standard_D4s_v5"]
    with pytest.raises(ValueError, match="takes 1 to 2 NICs"):
        lab.vm(size="Standard_D4s_v5", nics=3)


@pytest.mark.parametrize("make", ["vm", "instance"])
def test_a_machine_without_an_address_for_each_nic_is_not_made(lab: AzureLab, make: str) -> None:
    lab.world.outsiders.leave_free(lab.small_subnet_id, 1)
    with pytest.raises(ArmError, match="SubnetIsFull"):
        getattr(lab, make)(subnet_id=lab.small_subnet_id, nics=2)
    assert lab.world.all_machines() == ()
    assert lab.world.state.nics == {}
    assert lab.addresses(lab.vm(subnet_id=lab.small_subnet_id).vm_id)


def test_an_etag_of_a_vm_holds_until_the_next_write(lab: AzureLab) -> None:
    vm = lab.vm()
    document = lab.get(vm.vm_id).body
    assert lab.call("PUT", vm.vm_id, document, if_match=document["etag"]).status == 200
    assert lab.call("PUT", vm.vm_id, document, if_match=document["etag"]).status == 412


def imds_token(lab: AzureLab, more: str = "") -> str:
    call = Call(
        method="GET",
        path=f"{TOKEN}{more}",
        headers={"metadata": "true"},
        body=b"",
        peer="127.0.0.1",
    )
    answer = lab.world.imds.respond(call)
    assert answer is not None
    return str(json.loads(answer.body)["access_token"])


def test_arm_takes_a_token_of_the_metadata_service_until_it_ends(lab: AzureLab) -> None:
    vm = lab.vm()
    lab.world.imds.settings.token_seconds = 600
    lab.token = imds_token(lab)
    lab.advance(599)
    assert lab.get(vm.vm_id).status == 200
    lab.advance(1)
    assert lab.get(vm.vm_id).refusal == (401, "ExpiredAuthenticationToken")
    lab.token = imds_token(lab)
    assert lab.get(vm.vm_id).status == 200


@pytest.mark.parametrize("authorization", ["", "Bearer ", "Bearer sim.forged", "Basic dTpw"])
def test_compute_is_closed_without_a_valid_token(lab: AzureLab, authorization: str) -> None:
    vm = lab.vm()
    assert lab.get(vm.vm_id, authorization=authorization).status == 401


def test_a_token_for_another_resource_opens_nothing(lab: AzureLab) -> None:
    vm = lab.vm()
    lab.token = lab.world.tokens.issue("kubelet", 600, "https://vault.azure.net")
    assert lab.get(vm.vm_id).refusal == (401, "InvalidAuthenticationTokenAudience")


def test_no_token_is_told_or_remembered(lab: AzureLab, capfd: pytest.CaptureFixture[str]) -> None:
    vm = lab.vm()
    lab.token = imds_token(lab)
    lab.get(vm.vm_id)
    lab.get(f"{vm.vm_id}x")
    captured = capfd.readouterr()
    kept = f"{captured} {list(lab.world.arm.log)} {vars(lab.world.tokens)} {lab.world.arm.refused}"
    assert lab.token not in kept


def test_identities_have_front_doors_of_their_own_and_share_what_is_the_subscriptions(
    lab: AzureLab,
) -> None:
    vm = lab.vm(client_ids=("kubelet", "other"))
    lab.world.set_buckets("real")
    kubelet, other = (imds_token(lab, f"&client_id={one}") for one in ("kubelet", "other"))
    nic = lab.nics(vm.vm_id)[0].nic_id
    lab.token = kubelet
    left = "x-ms-ratelimit-remaining-subscription-reads"
    assert [lab.get(nic).headers[left] for _ in range(2)] == ["249", "248"]
    lab.token = other
    assert lab.get(nic).headers[left] == "249"


def test_a_reset_forgets_machines_and_fills_the_buckets(lab: AzureLab) -> None:
    vm, instance = lab.vm(), lab.instance()
    lab.world.arm.reset()
    assert lab.world.all_machines() == ()
    assert {lab.get(one).status for one in (vm.vm_id, instance.instance_id)} == {404}


def test_the_metadata_service_lags_behind_arm_by_the_time_of_the_change(lab: AzureLab) -> None:
    lab.compute(write_seconds=10)
    lab.world.imds.settings.lag_seconds = 5
    node = lab.instance()
    body = lab.model(node)
    rows = body["properties"]["networkProfileConfiguration"]["networkInterfaceConfigurations"]
    subnet = rows[0]["properties"]["ipConfigurations"][0]["properties"]["subnet"]
    rows[0]["properties"]["ipConfigurations"].append(
        {"name": "a", "properties": {"subnet": subnet, "primary": False}}
    )
    lab.advance(60)
    lab.call("PUT", node.instance_id, body)
    counts = []
    for seconds in (9, 1, 4, 1):
        lab.clock.advance(seconds)  # nobody settles what is due
        (shown,) = lab.world.all_machines(lag_seconds=5)
        counts.append(len(shown.nics[0].addresses))
    assert counts == [1, 1, 1, 2]
