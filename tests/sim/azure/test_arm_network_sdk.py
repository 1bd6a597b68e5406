"""The unmodified azure-mgmt-network drives the emulated Microsoft.Network over HTTP."""

from __future__ import annotations

import json
import threading
from collections import Counter
from typing import Any

import pytest
from azure.core.exceptions import (
    ClientAuthenticationError,
    HttpResponseError,
    ResourceNotFoundError,
    ServiceRequestError,
    ServiceResponseError,
)
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.network.models import NetworkInterface, NetworkInterfaceIPConfiguration

from providers.sim.arm_faults import ArmFaultKind
from tests.sim.azure.network_lab import PODS, SMALL, NetworkLab, config, nic_id, primary


def row(name: str, **properties: Any) -> NetworkInterfaceIPConfiguration:
    return NetworkInterfaceIPConfiguration(config(name, **properties))


def nic_of(*rows: NetworkInterfaceIPConfiguration) -> NetworkInterface:
    properties = {"ipConfigurations": list(rows)}
    return NetworkInterface({"location": "westeurope", "properties": properties})


def write(sdk: NetworkManagementClient, nic: Any, etag: str | None = None) -> Any:
    """Write and take the first answer's word for it."""
    headers = {"If-Match": etag} if etag else {}
    poller = sdk.network_interfaces.begin_create_or_update(
        "rg1", "nic1", nic, headers=headers, polling=False
    )
    return poller.result()


def code_of(error: HttpResponseError) -> tuple[int | None, str | None]:
    return error.status_code, error.error.code if error.error else None


@pytest.fixture
def nic(sdk: NetworkManagementClient) -> Any:
    """A NIC with one address, as the SDK reads it."""
    write(sdk, nic_of(row("ipconfig1", primary=True)))
    return sdk.network_interfaces.get("rg1", "nic1")


def test_a_nic_is_made_read_changed_and_deleted(sdk: NetworkManagementClient, nic: Any) -> None:
    assert nic.ip_configurations[0].private_ip_address == "10.0.1.4"
    nic.ip_configurations.append(row("b", privateIPAddressPrefixLength=28))
    written = sdk.network_interfaces.begin_create_or_update("rg1", "nic1", nic).result()
    block = written.ip_configurations[1]
    assert (block.private_ip_address, block.private_ip_address_prefix_length) == (
        "10.0.1.16/28",
        28,
    )
    sdk.network_interfaces.begin_delete("rg1", "nic1").result()
    with pytest.raises(ResourceNotFoundError):
        sdk.network_interfaces.get("rg1", "nic1")


def test_the_poller_waits_for_the_operation_and_reads_the_nic_again(
    sdk: NetworkManagementClient, network: NetworkLab
) -> None:
    network.set(write_seconds=30, retry_after_seconds=0)
    begun = nic_of(row("ipconfig1", primary=True))
    poller = sdk.network_interfaces.begin_create_or_update("rg1", "nic1", begun)
    network.clock.advance(30)
    assert poller.result().provisioning_state == "Succeeded"
    assert network.arm.calls["operations.get"] >= 1
    assert network.arm.calls["networkInterfaces.get"] == 1


def test_a_failed_operation_reaches_the_caller_with_its_code(
    sdk: NetworkManagementClient, network: NetworkLab
) -> None:
    kind = ArmFaultKind.OPERATION_FAILS
    network.arm.faults.add("PUT", "*", kind, code="SubnetIsFull", message="no room")
    begun = nic_of(row("ipconfig1", primary=True))
    with pytest.raises(HttpResponseError, match="no room") as caught:
        sdk.network_interfaces.begin_create_or_update("rg1", "nic1", begun).result()
    assert caught.value.error is not None and caught.value.error.code == "SubnetIsFull"


def test_a_stale_etag_is_a_412_of_the_sdk(sdk: NetworkManagementClient, nic: Any) -> None:
    write(sdk, nic, nic.etag)
    with pytest.raises(HttpResponseError) as caught:
        write(sdk, nic, nic.etag)
    assert code_of(caught.value) == (412, "PreconditionFailed")


def test_unknown_fields_survive_the_sdks_read_and_write(
    sdk: NetworkManagementClient, network: NetworkLab
) -> None:
    network.put(primary(ofTomorrow=[1]), properties={"newSwitch": True}, futureField={"a": 1})
    before = network.get().body
    write(sdk, sdk.network_interfaces.get("rg1", "nic1"))
    after = network.get().body
    for body in (before, after):
        del body["etag"], body["properties"]["ipConfigurations"][0]["etag"]
    assert after == before


def test_a_full_subnet_has_its_code(sdk: NetworkManagementClient, network: NetworkLab) -> None:
    network.outsiders.leave_free(PODS, 0)
    with pytest.raises(HttpResponseError) as caught:
        write(sdk, nic_of(row("ipconfig1", primary=True)))
    assert code_of(caught.value) == (400, "SubnetIsFull")


def test_throttling_shows_its_retry_after(
    sdk: NetworkManagementClient, network: NetworkLab, nic: Any
) -> None:
    network.arm.faults.add(
        "PUT", "*", ArmFaultKind.ERROR, status=429, code="TooManyRequests", retry_after_seconds=9
    )
    with pytest.raises(HttpResponseError) as caught:
        write(sdk, nic)
    response: Any = caught.value.response
    assert response.headers["Retry-After"] == "9"
    assert network.arm.calls["networkInterfaces.put"] == 2  # the fixture's, and no retry


def test_an_expired_token_is_an_authentication_error(
    sdk: NetworkManagementClient, network: NetworkLab
) -> None:
    network.clock.advance(86_400)
    with pytest.raises(ClientAuthenticationError, match="ExpiredAuthenticationToken"):
        sdk.subnets.get("rg1", "vnet1", "pods")


@pytest.mark.parametrize(
    ("kind", "has_effect"),
    [(ArmFaultKind.LOST, True), (ArmFaultKind.DROPPED, False), (ArmFaultKind.RESET, False)],
    ids=["lost", "dropped", "reset"],
)
def test_a_broken_connection_may_follow_or_precede_the_commit(
    sdk: NetworkManagementClient, network: NetworkLab, kind: ArmFaultKind, has_effect: bool
) -> None:
    network.arm.faults.add("PUT", "*", kind, seconds=0.01)
    with pytest.raises((ServiceRequestError, ServiceResponseError)) as caught:
        write(sdk, nic_of(row("ipconfig1", primary=True)))
    assert ("reset" in str(caught.value)) is (kind is ArmFaultKind.RESET)
    assert (network.get().status == 200) is has_effect


def test_malformed_json_is_a_bare_decode_error_though_the_write_took_place(
    sdk: NetworkManagementClient, network: NetworkLab
) -> None:
    network.arm.faults.add("PUT", "*", ArmFaultKind.MALFORMED)
    with pytest.raises(json.JSONDecodeError):
        write(sdk, nic_of(row("ipconfig1", primary=True)))
    assert network.get().status == 200


def test_the_sdk_reads_subnets_usages_and_free_addresses(
    sdk: NetworkManagementClient, network: NetworkLab, nic: Any
) -> None:
    assert sdk.virtual_networks.get("rg1", "vnet1").subnets[0].name == "pods"
    assert sdk.subnets.get("rg1", "vnet1", "pods").address_prefix == "10.0.1.0/24"
    used = {
        one.id: (one.current_value, one.limit)
        for one in sdk.virtual_networks.list_usage("rg1", "vnet1")
    }
    assert (used[PODS], used[SMALL]) == ((1, 251), (0, 11))
    told = sdk.virtual_networks.check_ip_address_availability("rg1", "vnet1", ip_address="10.0.1.4")
    assert (told.available, (told.available_ip_addresses or [""])[0]) == (False, "10.0.1.5")


def test_the_sdk_walks_every_page_of_a_list(
    sdk: NetworkManagementClient, network: NetworkLab
) -> None:
    for number in range(5):
        network.put(primary(), nic=f"nic{number}")
    network.set(page_length=2)
    names = [one.name for one in sdk.network_interfaces.list("rg1")]
    assert names == [f"nic{number}" for number in range(5)]
    assert network.arm.calls["networkInterfaces.list"] == 3


def add_one(sdk: NetworkManagementClient, name: str, conflicts: Counter[str]) -> None:
    """Add one configuration to the NIC, however often others are faster."""
    while True:
        seen = sdk.network_interfaces.get("rg1", "nic1")
        seen.ip_configurations.append(row(name))
        try:
            write(sdk, seen, seen.etag)
        except HttpResponseError as error:
            if error.status_code != 412:
                raise
            conflicts[name] += 1
        else:
            return


def test_writers_in_threads_lose_nothing_because_every_conflict_is_detected(
    sdk: NetworkManagementClient, network: NetworkLab, nic: Any
) -> None:
    conflicts: Counter[str] = Counter()
    names = [f"c{number}" for number in range(12)]

    def work(mine: list[str]) -> None:
        for name in mine:
            add_one(sdk, name, conflicts)

    threads = [threading.Thread(target=work, args=(names[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    got = network.get().addresses
    assert set(got) == {"ipconfig1", *names}
    assert len(set(got.values())) == 13
    puts = network.arm.calls["networkInterfaces.put"]
    assert puts == 1 + 12 + conflicts.total()


def test_two_readers_of_one_version_cannot_both_write(
    sdk: NetworkManagementClient, network: NetworkLab, nic: Any
) -> None:
    barrier, outcomes = threading.Barrier(2), []

    def work(name: str) -> None:
        seen = sdk.network_interfaces.get("rg1", "nic1")
        seen.ip_configurations.append(row(name))
        barrier.wait(10)
        try:
            write(sdk, seen, seen.etag)
            outcomes.append("written")
        except HttpResponseError as error:
            outcomes.append(str(error.status_code))

    threads = [threading.Thread(target=work, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(outcomes) == ["412", "written"]


def test_a_nic_of_256_configurations_makes_the_round_trip(
    sdk: NetworkManagementClient, network: NetworkLab
) -> None:
    big = network.state.add_subnet(f"{PODS.rpartition('/')[0]}/big", "10.0.8.0/21").subnet_id
    rows = [config(f"c{number}", subnet=big) for number in range(255)]
    network.put(primary(subnet=big), *rows)
    seen = sdk.network_interfaces.get("rg1", "nic1")
    assert len(write(sdk, seen, seen.etag).ip_configurations) == 256
    assert network.get(nic_id()).addresses["c254"] == "10.0.9.3"
