"""The unmodified SDK against the emulated Azure: real TLS, azure-identity's own way to a token."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from azure.core import MatchConditions
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceModifiedError,
    ServiceRequestError,
)
from azure.identity import CredentialUnavailableError, ManagedIdentityCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from providers.sim.arm_compute_records import Instance
from providers.sim.arm_compute_state import Style
from providers.sim.azure_world_documents import RESOURCE_GROUP, SUBSCRIPTION
from tests.sim.azure.lab import AzureLab, Doors, serving

SCOPE = "https://management.azure.com/.default"


@dataclass(slots=True)
class Site:
    """A lab, its doors, and the SDK's clients for it."""

    lab: AzureLab
    doors: Doors
    credential: ManagedIdentityCredential
    network: NetworkManagementClient
    compute: ComputeManagementClient

    def read(self, node: Instance) -> Any:
        return self.compute.virtual_machine_scale_set_vms.get(RESOURCE_GROUP, "pool", node.number)

    def write(self, node: Instance, model: Any, **more: Any) -> Any:
        model.storage_profile.image_reference = None
        return self.compute.virtual_machine_scale_set_vms.begin_update(
            RESOURCE_GROUP, "pool", node.number, model, **more
        )

    def view(self, node: Instance, **more: Any) -> dict[str, str]:
        """Addresses by configuration, as the SDK lists the instance's NICs."""
        nics = self.network.network_interfaces.list_virtual_machine_scale_set_vm_network_interfaces(
            RESOURCE_GROUP, "pool", node.number, **more
        )
        return {one.name: one.private_ip_address for nic in nics for one in nic.ip_configurations}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    lab = AzureLab()
    with serving(lab, tmp_path) as doors:
        for name, value in doors.environment.items():
            monkeypatch.setenv(name, value)
        credential = ManagedIdentityCredential()
        common: dict[str, Any] = {
            "base_url": doors.arm_url,
            "credential_scopes": [SCOPE],
            "retry_total": 0,
            "polling_interval": 0,
        }
        network = NetworkManagementClient(credential, SUBSCRIPTION, **common)
        compute = ComputeManagementClient(credential, SUBSCRIPTION, **common)
        with network, compute, credential:
            yield Site(lab, doors, credential, network, compute)


def configs(model: Any) -> list[Any]:
    nic = model.network_profile_configuration.network_interface_configurations[0]
    rows: list[Any] = nic.ip_configurations
    return rows


def add(model: Any, name: str, **more: Any) -> None:
    subnet = {"id": configs(model)[0].subnet.id}
    row = {"name": name, "properties": {"primary": False, "subnet": subnet, **more}}
    configs(model).append(row)


def test_the_sdk_reads_a_vm_and_writes_its_nic(site: Site) -> None:
    site.lab.vm()
    vm = site.compute.virtual_machines.get(RESOURCE_GROUP, "vm1")
    assert vm.network_profile.network_interfaces[0].primary
    nics = site.network.network_interfaces
    nic = nics.get(RESOURCE_GROUP, "vm1-nic-0")
    nic.ip_configurations.append(
        {"name": "a", "properties": {"subnet": {"id": site.lab.subnet_id}}}
    )
    done = nics.begin_create_or_update(RESOURCE_GROUP, "vm1-nic-0", nic).result()
    assert [one.private_ip_address for one in done.ip_configurations] == ["10.0.1.4", "10.0.1.5"]


@pytest.mark.parametrize(
    ("status", "style"),
    [
        (200, Style.BOTH),
        (200, Style.ASYNC),
        (202, Style.BOTH),
        (202, Style.ASYNC),
        (202, Style.LOCATION),
    ],
)
def test_the_sdk_writes_a_model_and_follows_the_operation(
    site: Site, style: Style, status: int
) -> None:
    site.lab.compute(style=style, put_status=status)
    node = site.lab.instance()
    model = site.read(node)
    add(model, "a")
    add(model, "b", privateIPAddressPrefixLength=28)
    done = site.write(node, model).result()
    assert done.provisioning_state == "Succeeded"
    assert [one.name for one in configs(done)] == ["ipconfig1", "a", "b"]
    assert site.view(node) == {"ipconfig1": "10.0.1.4", "a": "10.0.1.5", "b": "10.0.1.16"}
    assert site.view(node, api_version="2026-03-01")["b"] == "10.0.1.16/28"


@pytest.mark.parametrize("style", [Style.ASYNC, Style.LOCATION])
def test_the_sdk_raises_what_an_operation_failed_by(site: Site, style: Style) -> None:
    site.lab.compute(style=style, put_status=202)
    node = site.lab.instance(subnet_id=site.lab.small_subnet_id)
    site.lab.world.outsiders.leave_free(site.lab.small_subnet_id, 0)
    model = site.read(node)
    add(model, "a")
    with pytest.raises(HttpResponseError) as caught:
        site.write(node, model).result()
    assert caught.value.error is not None
    assert caught.value.error.code == "SubnetIsFull"


def test_the_sdk_raises_when_its_etag_is_stale(site: Site) -> None:
    node = site.lab.instance()
    model = site.read(node)
    site.lab.write_model(node)
    with pytest.raises(ResourceModifiedError):
        site.write(node, model, etag=model.etag, match_condition=MatchConditions.IfNotModified)


def test_the_sdk_is_told_how_long_it_is_throttled_and_what_is_left(site: Site) -> None:
    site.lab.world.set_buckets("real")
    node = site.lab.instance()
    model = site.read(node)
    seen: list[Any] = []
    for _ in range(12):
        site.write(node, model, polling=False, raw_response_hook=seen.append)
    left = seen[-1].http_response.headers["x-ms-ratelimit-remaining-resource"]
    assert left.startswith("Microsoft.Compute/UpdateVMScaleSetVMPerResource1Min;0,")
    with pytest.raises(HttpResponseError) as caught:
        site.write(node, model, polling=False)
    assert caught.value.status_code == 429
    answered: Any = caught.value.response
    assert answered.headers["Retry-After"] == "15"


def test_azure_identity_asks_the_metadata_service_once_for_many_calls(site: Site) -> None:
    site.lab.vm(client_ids=("kubelet",))
    for _ in range(3):
        site.compute.virtual_machines.get(RESOURCE_GROUP, "vm1")
    token = site.credential.get_token(SCOPE)
    assert token.token.startswith("sim.")
    assert len(site.lab.world.tokens.of) == 1
    with ManagedIdentityCredential(client_id="kubelet") as own:
        assert own.get_token(SCOPE).token != token.token
    refused = pytest.raises((CredentialUnavailableError, ClientAuthenticationError))
    with ManagedIdentityCredential(client_id="stranger") as strange, refused:
        strange.get_token(SCOPE)


def test_a_token_that_arm_does_not_know_any_more_is_an_authentication_error(site: Site) -> None:
    site.lab.vm()
    site.compute.virtual_machines.get(RESOURCE_GROUP, "vm1")
    site.lab.world.tokens.issuer.revoke_all()
    with pytest.raises(ClientAuthenticationError):
        site.compute.virtual_machines.get(RESOURCE_GROUP, "vm1")


def test_without_the_ca_the_sdk_sends_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.lab.vm()
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    with pytest.raises(ServiceRequestError, match="CERTIFICATE_VERIFY_FAILED"):
        site.compute.virtual_machines.get(RESOURCE_GROUP, "vm1")
    assert not site.lab.world.arm.log


def test_the_sdk_finds_how_many_nics_a_size_takes(site: Site) -> None:
    site.lab.vm()
    skus = {sku.name: sku.capabilities for sku in site.compute.resource_skus.list()}
    found = {one.name: one.value for one in skus["Standard_D8s_v5"] or ()}
    assert found["MaxNetworkInterfaces"] == "4"


def test_the_sdk_waits_for_an_operation_in_virtual_time(site: Site) -> None:
    site.lab.compute(write_seconds=60)
    node = site.lab.instance()
    site.lab.request_seconds = 5
    model, began = site.read(node), site.lab.clock.now
    add(model, "a")
    site.write(node, model).result()
    assert site.view(node)["a"] == "10.0.1.5"
    assert 60 <= site.lab.clock.now - began <= 90


def test_the_metadata_service_can_be_one_of_several_machines(tmp_path: Path) -> None:
    lab = AzureLab()
    lab.vm("vm1")
    lab.vm("vm2")
    with serving(lab, tmp_path, machine="vm2") as doors:
        connection = http.client.HTTPConnection(doors.imds_url.removeprefix("http://"), timeout=10)
        path = "/metadata/instance/compute/name?api-version=2021-02-01&format=text"
        connection.request("GET", path, headers={"Metadata": "true"})
        assert connection.getresponse().read() == b"vm2"
        connection.close()
