"""Behaviour 12: faults by method, path, nth call and count."""

from __future__ import annotations

import json
import time

import pytest

from providers.sim.arm_faults import ArmFaultBook, ArmFaultKind
from providers.sim.http_door import RESET
from tests.sim.azure.network_lab import NETWORK, PODS, VNET, NetworkLab, config, nic_id, primary

NICS = "*/networkInterfaces/*"


def test_an_error_has_the_status_code_and_retry_after_that_were_set(network: NetworkLab) -> None:
    network.arm.faults.add(
        "PUT",
        NICS,
        ArmFaultKind.ERROR,
        status=429,
        code="TooManyRequests",
        message="slow down",
        retry_after_seconds=42,
    )
    refused = network.put(primary())
    assert (refused.refusal, refused.message) == ((429, "TooManyRequests"), "slow down")
    assert refused.headers["retry-after"] == "42"
    assert network.state.nics == {}


def test_a_fault_meets_only_its_method_and_path(network: NetworkLab) -> None:
    network.arm.faults.add("PUT", "*/NETWORKinterfaces/nic2", ArmFaultKind.ERROR, count=None)
    assert network.put(primary(), nic="nic1").status == 201
    assert network.get(nic_id("nic2")).status == 404
    assert network.put(primary(), nic="nic2").status == 500


def test_a_fault_can_wait_for_the_nth_call_and_end_after_its_count(network: NetworkLab) -> None:
    network.arm.faults.add("GET", VNET, ArmFaultKind.ERROR, nth=2, count=2, status=503)
    assert [network.get(VNET).status for _ in range(5)] == [200, 503, 503, 200, 200]


def test_of_two_faults_the_older_one_goes_first_and_the_other_waits(network: NetworkLab) -> None:
    network.arm.faults.add("GET", VNET, ArmFaultKind.ERROR, status=503)
    network.arm.faults.add("GET", VNET, ArmFaultKind.ERROR, status=504)
    assert [network.get(VNET).status for _ in range(3)] == [503, 504, 200]


def test_a_fault_of_any_method_stays_until_it_is_cleared(network: NetworkLab) -> None:
    network.arm.faults.add("*", "*", ArmFaultKind.ERROR, count=None, status=502)
    assert (network.get(VNET).status, network.put(primary()).status) == (502, 502)
    network.arm.faults.clear()
    assert network.get(VNET).status == 200


def test_a_refused_request_spends_no_fault(network: NetworkLab) -> None:
    network.arm.faults.add("GET", VNET, ArmFaultKind.ERROR)
    assert network.get(VNET, authorization="").status == 401
    assert network.get(VNET).status == 500


def test_a_delay_comes_before_the_answer_and_changes_nothing_else(network: NetworkLab) -> None:
    network.arm.faults.add("GET", VNET, ArmFaultKind.DELAY, seconds=0.05)
    begin = time.monotonic()
    assert network.get(VNET).status == 200
    assert time.monotonic() - begin >= 0.05


def test_a_delay_and_an_error_can_meet_the_same_call(network: NetworkLab) -> None:
    network.arm.faults.add("GET", VNET, ArmFaultKind.ERROR, status=504)
    network.arm.faults.add("GET", VNET, ArmFaultKind.DELAY, seconds=0.01)
    assert [network.get(VNET).status for _ in range(2)] == [504, 200]


def test_a_lost_answer_is_of_a_write_that_took_place(network: NetworkLab) -> None:
    network.put(primary())
    network.arm.faults.add("PUT", NICS, ArmFaultKind.LOST, seconds=0.01)
    body = {
        "location": "westeurope",
        "properties": {"ipConfigurations": [primary(), config("a")]},
    }
    assert network.answer("PUT", nic_id(), body) is None
    assert network.get().addresses["a"] == "10.0.1.5"


@pytest.mark.parametrize("kind", [ArmFaultKind.DROPPED, ArmFaultKind.RESET])
def test_a_connection_that_breaks_before_the_commit_has_no_effect(
    network: NetworkLab, kind: ArmFaultKind
) -> None:
    network.arm.faults.add("PUT", NICS, kind, seconds=0.01)
    body = {"location": "westeurope", "properties": {"ipConfigurations": [primary()]}}
    answer = network.answer("PUT", nic_id(), body)
    assert answer is (RESET if kind is ArmFaultKind.RESET else None)
    assert network.state.nics == {}
    assert network.arm.log[-1].status == 0


def test_malformed_json_follows_a_write_that_took_place(network: NetworkLab) -> None:
    network.arm.faults.add("PUT", NICS, ArmFaultKind.MALFORMED)
    reply = network.put(primary())
    assert reply.status == 201
    with pytest.raises(json.JSONDecodeError):
        _ = reply.body
    assert network.get().status == 200


def test_a_truncated_list_misses_its_tail_and_does_not_say_so(network: NetworkLab) -> None:
    for number in range(6):
        network.put(primary(), nic=f"nic{number}")
    network.set(page_length=4)
    network.arm.faults.add("GET", f"{NETWORK}/networkInterfaces", ArmFaultKind.TRUNCATED)
    page = network.get(f"{NETWORK}/networkInterfaces").body
    assert [row["name"] for row in page["value"]] == ["nic0", "nic1"]
    assert "nextLink" not in page


def test_only_a_list_can_be_truncated(network: NetworkLab) -> None:
    network.arm.faults.add("GET", VNET, ArmFaultKind.TRUNCATED)
    assert network.get(VNET).body["id"] == VNET


def test_the_status_of_an_operation_can_fail_too(network: NetworkLab) -> None:
    network.arm.faults.add("GET", "*/operations/*", ArmFaultKind.ERROR, status=503)
    url = network.put(primary()).headers["azure-asyncoperation"]
    assert [network.follow(url).status for _ in range(2)] == [503, 200]


def test_a_subnet_can_hide_its_configurations(network: NetworkLab) -> None:
    network.put(primary(), config("a"))
    shown = network.get(PODS).body["properties"]
    assert [row["id"].rpartition("/")[2] for row in shown["ipConfigurations"]] == ["ipconfig1", "a"]
    network.outsiders.set_subnet(PODS, shows_configurations=False)
    assert "ipConfigurations" not in network.get(PODS).body["properties"]
    assert (
        "ipConfigurations" not in network.get(VNET).body["properties"]["subnets"][0]["properties"]
    )


@pytest.mark.parametrize("wrong", [{"nth": 0}, {"count": 0}, {"seconds": -1.0}])
def test_a_fault_that_can_never_happen_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        ArmFaultBook().add("GET", "*", ArmFaultKind.ERROR, **wrong)  # type: ignore[arg-type]
