"""Behaviours 1, 2, 15 and 16: api-versions, ids in any case, tokens, memory and time."""

from __future__ import annotations

import pickle

import pytest

from providers.sim import arm_requests
from providers.sim.arm_errors import ArmError
from providers.sim.arm_requests import ArmRequest
from tests.sim.azure.network_lab import (
    GROUP,
    NETWORK,
    SUBSCRIPTION,
    VNET,
    NetworkLab,
    config,
    each_page,
    nic_id,
    primary,
)


@pytest.mark.parametrize(
    ("version", "code"),
    [
        ("", "MissingApiVersionParameter"),
        ("2016-01-01", "InvalidApiVersionParameter"),
        ("latest", "InvalidApiVersionParameter"),
    ],
    ids=["missing", "too-old", "no-date"],
)
def test_a_missing_or_too_old_api_version_is_a_400(
    network: NetworkLab, version: str, code: str
) -> None:
    assert network.get(VNET, version=version).refusal == (400, code)


@pytest.mark.parametrize("version", ["2018-10-01", "2023-11-01-preview", "2026-03-01"])
def test_every_api_version_since_2018_is_served(network: NetworkLab, version: str) -> None:
    assert network.get(VNET, version=version).status == 200


@pytest.mark.parametrize(
    "path",
    [nic_id("none"), f"{NETWORK}/virtualNetworks/none", f"{VNET}/subnets/none", f"{GROUP}/nothing"],
    ids=["nic", "vnet", "subnet", "no-route"],
)
def test_an_unknown_resource_is_a_404_in_arms_envelope(network: NetworkLab, path: str) -> None:
    reply = network.get(path)
    assert reply.refusal == (404, "ResourceNotFound")
    assert set(reply.body) == {"error"}
    assert path.rpartition("/")[2] in reply.message


def test_a_subnet_of_an_unknown_vnet_lacks_its_parent(network: NetworkLab) -> None:
    reply = network.get(f"{NETWORK}/virtualNetworks/none/subnets/pods")
    assert reply.refusal == (404, "ParentResourceNotFound")


def test_a_method_that_a_resource_does_not_have_is_a_405(network: NetworkLab) -> None:
    assert network.call("PATCH", VNET, {}).refusal == (405, "MethodNotAllowed")


@pytest.mark.parametrize("body", [b"{", b"[]", b""], ids=["broken", "no-object", "empty"])
def test_a_body_that_is_no_json_object_is_a_400(network: NetworkLab, body: bytes) -> None:
    assert network.call("PUT", nic_id(), body).refusal == (400, "InvalidRequestContent")


def test_paths_match_in_any_case_and_ids_are_echoed_as_stored(network: NetworkLab) -> None:
    network.put(primary(subnet=f"{VNET}/SUBNETS/Pods".replace("vnet1", "VNet1")), nic="Nic1")
    shown = network.get(nic_id("Nic1").lower())
    assert shown.body["id"] == nic_id("Nic1")
    assert shown.configs[0]["subnet"] == {"id": f"{VNET}/subnets/pods"}
    assert shown.configs[0]["id"] == f"{nic_id('Nic1')}/ipConfigurations/ipconfig1"


def test_a_put_in_another_case_updates_the_same_resource(network: NetworkLab) -> None:
    network.put(primary(), nic="nic1")
    again = network.put(primary("IPCONFIG1"), config("b"), nic="NIC1")
    assert (again.status, again.body["name"]) == (200, "nic1")
    assert again.addresses == {"ipconfig1": "10.0.1.4", "b": "10.0.1.5"}


def test_without_a_bearer_token_there_is_a_401(network: NetworkLab) -> None:
    for header in ("", "Basic dXNlcg==", "Bearer "):
        reply = network.get(VNET, authorization=header)
        assert reply.refusal == (401, "AuthenticationFailed")
        assert "www-authenticate" in reply.headers


def test_who_has_no_token_does_not_learn_what_exists(network: NetworkLab) -> None:
    assert network.get(f"{GROUP}/nothing", authorization="").status == 401
    assert network.get(nic_id("none"), authorization="").status == 401


def test_an_unknown_token_is_a_401(network: NetworkLab) -> None:
    reply = network.get(VNET, authorization="Bearer nobody-made-this")
    assert reply.refusal == (401, "InvalidAuthenticationToken")


def test_a_token_for_somebody_else_is_a_401(network: NetworkLab) -> None:
    network.token = network.arm.tokens.issue(resource="https://vault.azure.net")
    assert network.get(VNET).refusal == (401, "InvalidAuthenticationTokenAudience")


def test_a_token_for_the_endpoint_itself_is_good_where_clients_know_arm_by_another(
    network: NetworkLab,
) -> None:
    network.token = network.arm.tokens.issue(resource="https://192.0.2.11/")
    assert network.get(VNET).refusal == (401, "InvalidAuthenticationTokenAudience")
    network.arm.tokens.audiences.add("https://192.0.2.11")
    assert network.get(VNET).status == 200


def test_an_expired_token_is_a_401(network: NetworkLab) -> None:
    network.token = network.arm.tokens.issue(seconds=60)
    network.clock.advance(59)
    assert network.get(VNET).status == 200
    network.clock.advance(1)
    assert network.get(VNET).refusal == (401, "ExpiredAuthenticationToken")


def test_a_token_is_kept_nowhere_and_told_nobody(
    network: NetworkLab, capsys: pytest.CaptureFixture[str]
) -> None:
    told = [network.get(VNET).raw, network.get(nic_id("none")).raw]
    network.clock.advance(86_400)
    told.append(network.get(VNET).raw)
    kept = pickle.dumps((network.arm.log, network.arm.calls, network.arm.tokens._known))
    assert network.token.encode() not in b"".join(told) + kept
    assert network.token not in repr(network.arm.log) + "".join(capsys.readouterr())


def test_every_answer_has_a_request_id_of_its_own(network: NetworkLab) -> None:
    replies = (network.get(VNET), network.get(VNET), network.get(nic_id("none")))
    assert len({reply.headers["x-ms-request-id"] for reply in replies}) == 3


def test_calls_are_counted_by_name_and_refusals_by_code(network: NetworkLab) -> None:
    network.put(primary())
    network.get()
    network.get(nic_id("none"))
    assert network.arm.calls["networkInterfaces.get"] == 2
    assert network.arm.calls["networkInterfaces.put"] == 1
    assert network.arm.refused == {"ResourceNotFound": 1}
    assert [row.status for row in network.arm.log] == [201, 200, 404]


def test_a_throttle_may_refuse_and_adds_headers_to_every_answer(network: NetworkLab) -> None:
    def only_reads(request: ArmRequest, name: str) -> dict[str, str]:
        if request.method != "GET":
            headers = {"Retry-After": "17"}
            raise ArmError(429, "TooManyRequests", f"{name} is too often", headers=headers)
        return {"x-ms-ratelimit-remaining-subscription-reads": "249"}

    network.arm.throttles.append(only_reads)
    good, missing, refused = network.get(VNET), network.get(), network.put(primary())
    remaining = "x-ms-ratelimit-remaining-subscription-reads"
    assert (good.headers[remaining], missing.headers[remaining]) == ("249", "249")
    assert (refused.refusal, refused.headers["retry-after"]) == ((429, "TooManyRequests"), "17")
    assert network.state.nics == {}


def test_lists_come_in_pages_that_miss_none(network: NetworkLab) -> None:
    names = [f"nic{number}" for number in range(7)]
    for name in names:
        network.put(primary(), nic=name)
    network.set(page_length=3)
    pages = list(each_page(network, f"{NETWORK}/networkInterfaces"))
    assert [len(page) for page in pages] == [3, 3, 1]
    assert [name for page in pages for name in page] == names


def test_a_list_of_the_subscription_has_every_group_and_a_list_of_a_group_its_own(
    network: NetworkLab,
) -> None:
    network.put(primary(), nic="nic1")
    elsewhere = nic_id("nic2").replace("/rg1/", "/rg12/")
    body = {"location": "westeurope", "properties": {"ipConfigurations": [primary()]}}
    network.call("PUT", elsewhere, body)
    everywhere = f"/subscriptions/{SUBSCRIPTION}/providers/Microsoft.Network/networkInterfaces"
    assert list(each_page(network, everywhere)) == [["nic1", "nic2"]]
    assert list(each_page(network, f"{NETWORK}/networkInterfaces")) == [["nic1"]]


def test_a_skip_token_that_is_not_ours_is_a_400(network: NetworkLab) -> None:
    reply = network.get(f"{NETWORK}/networkInterfaces", query="$skiptoken=x")
    assert reply.refusal == (400, "InvalidSkipToken")


def test_the_reset_endpoint_forgets_everything_but_the_tokens(network: NetworkLab) -> None:
    network.put(primary())
    reset = network.answer("POST", "/_sim/reset", authorization="")
    assert reset is not None and reset.status == 204
    assert network.get(VNET).refusal == (404, "ResourceNotFound")
    network.build()
    assert network.put(primary()).addresses == {"ipconfig1": "10.0.1.4"}


def test_a_reset_tells_the_other_providers(network: NetworkLab) -> None:
    told: list[str] = []
    network.arm.on_reset.append(lambda: told.append("reset"))
    network.arm.reset()
    assert told == ["reset"]


def test_two_emulators_share_nothing(network: NetworkLab) -> None:
    network.put(primary())
    assert NetworkLab().get().status == 404


def test_the_same_seed_gives_the_same_names() -> None:
    first, second = NetworkLab(), NetworkLab()
    assert first.put(primary()).body == second.put(primary()).body


def test_a_bug_of_the_emulator_reaches_the_client_as_a_500(
    network: NetworkLab, capsys: pytest.CaptureFixture[str]
) -> None:
    network.arm.route("GET", "/broken", lambda request: arm_requests.answer(1 // 0), "broken")
    assert network.get("/broken").refusal == (500, "InternalServerError")
    assert "ZeroDivisionError" in capsys.readouterr().err
