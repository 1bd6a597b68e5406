"""Behaviours 13 and 14: others write too, and what is free is told as exactly as Azure does."""

from __future__ import annotations

import pytest

from providers.sim.allocator import SubnetFull
from providers.sim.arm_errors import ArmError
from providers.sim.arm_records import State
from tests.sim.azure.network_lab import (
    ASG,
    NSG,
    PODS,
    SMALL,
    VNET,
    NetworkLab,
    block,
    config,
    nic_id,
    primary,
)


@pytest.fixture
def written(network: NetworkLab) -> NetworkLab:
    network.put(primary(), config("a"), block("b"))
    return network


def test_another_client_removes_a_configuration(written: NetworkLab) -> None:
    stale = written.get().body["etag"]
    written.outsiders.remove_config(nic_id(), "A")
    assert list(written.get().addresses) == ["ipconfig1", "b"]
    assert written.put(primary(), if_match=stale).refusal == (412, "PreconditionFailed")
    assert written.put(primary(), nic="nic2").addresses == {"ipconfig1": "10.0.1.5"}


def test_another_client_sets_the_network_security_group(written: NetworkLab) -> None:
    stale = written.get().body["etag"]
    written.outsiders.set_nsg(nic_id(), NSG)
    shown = written.get()
    assert shown.body["properties"]["networkSecurityGroup"] == {"id": NSG}
    assert shown.body["etag"] != stale


def test_another_client_adds_an_application_security_group(written: NetworkLab) -> None:
    written.outsiders.add_asg(nic_id(), ASG)
    groups = [row["applicationSecurityGroups"] for row in written.get().configs]
    assert groups == [[{"id": ASG}]] * 3
    without = written.put(
        primary(), config("a"), block("b"), config("c", applicationSecurityGroups=[{"id": ASG}])
    )
    assert without.status == 400


def test_a_nic_can_go_though_it_is_attached(written: NetworkLab) -> None:
    written.attach()
    written.outsiders.delete_nic(nic_id())
    assert written.get().refusal == (404, "ResourceNotFound")
    assert written.usage() == (0, 251)


def test_another_client_is_refused_too_while_a_write_is_under_way(written: NetworkLab) -> None:
    written.set(write_seconds=30)
    written.put(primary())
    with pytest.raises(ArmError, match="RetryableErrorDueToAnotherOperation"):
        written.outsiders.set_nsg(nic_id(), NSG)


def test_an_absent_configuration_cannot_be_removed(written: NetworkLab) -> None:
    with pytest.raises(ArmError, match="404 ResourceNotFound"):
        written.outsiders.remove_config(nic_id(), "none")


def test_other_tenants_take_and_give_back_addresses(network: NetworkLab) -> None:
    network.outsiders.take(PODS, 10)
    assert network.put(primary()).addresses == {"ipconfig1": "10.0.1.14"}
    network.outsiders.leave_free(PODS, 3)
    assert network.usage() == (248, 251)
    assert network.outsiders.give_back(PODS, 5) == 5
    assert network.usage() == (243, 251)
    assert network.outsiders.give_back(SMALL, 5) == 0
    with pytest.raises(SubnetFull):
        network.outsiders.take(PODS, 9)


def test_strewn_tenants_leave_no_whole_block(network: NetworkLab) -> None:
    assert network.outsiders.strew(PODS) == 14
    assert network.state.subnet(PODS).pool.free_blocks() == 0
    assert network.usage() == (14, 251)
    assert network.outsiders.strew(PODS) == 0


@pytest.mark.parametrize(("block_counts", "used"), [(1, 3), (16, 18)], ids=["one", "sixteen"])
def test_usages_agree_with_the_allocations_and_a_block_counts_as_set(
    written: NetworkLab, block_counts: int, used: int
) -> None:
    written.set(usage_of_block=block_counts)
    assert written.usage() == (used, 251)
    written.put(primary())
    assert written.usage() == (1, 251)


def test_usages_have_the_published_shape_and_no_reserved_address(network: NetworkLab) -> None:
    row = network.get(f"{VNET}/usages").body["value"][1]
    name = {"value": "SubnetSpace", "localizedValue": "Subnet size and usage"}
    assert row == {"currentValue": 0, "limit": 11, "id": SMALL, "name": name, "unit": "Count"}


def test_usages_may_be_unknown(network: NetworkLab) -> None:
    network.outsiders.set_subnet(PODS, is_counted=False)
    assert (network.usage(PODS), network.usage(SMALL)) == ((-1, -1), (0, 11))


@pytest.mark.parametrize(
    ("address", "available", "reserved"),
    [
        ("10.0.1.4", False, False),
        ("10.0.1.20", False, False),
        ("10.0.1.5", False, False),
        ("10.0.1.6", True, False),
        ("10.0.1.1", False, True),
        ("10.0.1.255", False, True),
    ],
    ids=["taken", "in-a-block", "secondary", "free", "gateway", "last"],
)
def test_an_address_is_free_or_others_are_named(
    written: NetworkLab, address: str, available: bool, reserved: bool
) -> None:
    path = f"{VNET}/checkipaddressavailability"
    told = written.get(path, query=f"ipAddress={address}").body
    assert (told["available"], told["isPlatformReserved"]) == (available, reserved)
    others = [] if available else [f"10.0.1.{last}" for last in range(6, 11)]
    assert told["availableIPAddresses"] == others


@pytest.mark.parametrize(
    ("address", "code"),
    [("10.0.9.1", "PrivateIPAddressNotInAnySubnet"), ("x", "InvalidIPAddressFormat")],
)
def test_an_address_of_no_subnet_is_a_400(network: NetworkLab, address: str, code: str) -> None:
    path = f"{VNET}/CheckIPAddressAvailability"
    assert network.get(path, query=f"ipAddress={address}").refusal == (400, code)


def test_a_vnet_is_shown_with_its_subnets_which_share_its_etag(written: NetworkLab) -> None:
    shown = written.get(VNET)
    assert shown.body["properties"]["addressSpace"] == {"addressPrefixes": ["10.0.0.0/16"]}
    assert shown.body["properties"]["subnets"][0] == written.get(PODS).body
    etags = {one["etag"] for one in shown.body["properties"]["subnets"]}
    assert etags == {shown.body["etag"]} == {shown.headers["etag"]}
    names = [row["name"] for row in written.get(f"{VNET}/subnets").body["value"]]
    assert names == ["pods", "small", "other"]


def test_a_subnet_shows_its_prefix_or_a_list_of_prefixes(network: NetworkLab) -> None:
    assert network.get(PODS).body["properties"]["addressPrefix"] == "10.0.1.0/24"
    network.outsiders.set_subnet(PODS, has_prefix_list=True)
    shown = network.get(PODS).body["properties"]
    assert shown["addressPrefixes"] == ["10.0.1.0/24"]
    assert "addressPrefix" not in shown


def test_a_changed_subnet_gives_its_vnet_a_new_etag(network: NetworkLab) -> None:
    before = network.get(PODS).body["etag"]
    network.outsiders.set_subnet(PODS, state=State.UPDATING)
    after = network.get(PODS).body
    assert after["etag"] != before
    assert after["properties"]["provisioningState"] == "Updating"


def test_other_tenants_are_among_the_configurations_of_a_subnet(written: NetworkLab) -> None:
    written.outsiders.take(PODS, 2)
    assert len(written.get(PODS).body["properties"]["ipConfigurations"]) == 5


@pytest.mark.parametrize("cidr", ["10.1.0.0/24", "10.0.1.128/25"], ids=["outside", "overlap"])
def test_a_subnet_that_cannot_be_is_refused(network: NetworkLab, cidr: str) -> None:
    with pytest.raises(ValueError, match="VNET vnet1"):
        network.state.add_subnet(f"{VNET}/subnets/bad", cidr)


def test_what_is_due_is_over_before_others_act(written: NetworkLab) -> None:
    written.set(write_seconds=30)
    written.put(primary())
    written.clock.advance(30)
    written.outsiders.leave_free(PODS, 0)
    assert written.usage() == (251, 251)
