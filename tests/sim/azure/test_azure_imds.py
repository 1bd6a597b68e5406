"""The metadata service of the emulated Azure, by itself."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

import pytest

from providers.sim.azure_imds import AzureImds, AzureImdsSettings
from providers.sim.http_door import Answer
from providers.sim.imds_faults import ImdsFault, ImdsFaultKind
from tests.sim.azure.machines import PRIMARY, FixedMachines, asked, machine, nic
from tests.sim.lab import ManualClock

INSTANCE = "/metadata/instance?api-version=2021-02-01"
TOKEN = (
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"
)


@dataclass(slots=True)
class CountingTokens:
    issued: list[tuple[str, float, str]] = field(default_factory=list)

    def issue(self, principal: str, seconds: float, resource: str) -> str:
        self.issued.append((principal, seconds, resource))
        return f"token-{len(self.issued)}"


@dataclass(slots=True)
class Service:
    machines: FixedMachines = field(default_factory=FixedMachines)
    tokens: CountingTokens = field(default_factory=CountingTokens)
    clock: ManualClock = field(default_factory=ManualClock)
    settings: AzureImdsSettings = field(
        default_factory=lambda: AzureImdsSettings(trusts_names=False)
    )
    stopping: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self.stopping.set()  # a fault that holds lets go at once
        self.imds = AzureImds(self.machines, self.tokens, self.settings, self.clock, self.stopping)

    imds: AzureImds = field(init=False)

    def answer(self, path: str, peer: str = PRIMARY, **headers: str) -> Answer | None:
        return self.imds.respond(asked(path, peer, metadata="true", **headers))

    def json(self, path: str, status: int = 200, **headers: str) -> Any:
        answer = self.answer(path, **headers)
        assert answer is not None
        assert answer.status == status, answer.body
        return json.loads(answer.body)

    def addresses(self) -> list[str]:
        found = self.json(INSTANCE)["network"]["interface"][0]["ipv4"]["ipAddress"]
        return [one["privateIpAddress"] for one in found]

    def fault(self, kind: ImdsFaultKind, **values: Any) -> None:
        self.settings.faults.append(ImdsFault(kind=kind, **values))


def test_a_machine_reads_its_nics_as_azure_writes_them() -> None:
    assert Service().json("/metadata/instance/network?api-version=2021-02-01") == {
        "interface": [
            {
                "ipv4": {
                    "ipAddress": [
                        {"privateIpAddress": "10.0.1.4", "publicIpAddress": ""},
                        {"privateIpAddress": "10.0.1.5", "publicIpAddress": ""},
                    ],
                    "subnet": [{"address": "10.0.1.0", "prefix": "24"}],
                },
                "ipv6": {"ipAddress": []},
                "macAddress": "000D3A328570",
            }
        ]
    }


def test_compute_tells_the_machine_from_the_instance_of_a_scale_set() -> None:
    service = Service()
    assert service.json(INSTANCE)["compute"]["vmScaleSetName"] == ""
    service.machines.now = (machine("pool_3", scale_set="pool"),)
    compute = service.json("/metadata/instance/compute?api-version=2021-02-01")
    assert compute["vmScaleSetName"] == "pool"
    assert compute["tagsList"] == [{"name": "pool", "value": "a"}]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("compute/vmId?api-version=2021-02-01&format=text", "0c5e47be-9f10-432d-a4a8-2d6bf15e6ae1"),
        (
            "network/interface/0/ipv4/ipAddress/1/privateIpAddress?api-version=2021-02-01&format=text",
            "10.0.1.5",
        ),
        ("?api-version=2021-02-01&format=text", "compute/\nnetwork/"),
        ("network/interface?api-version=2021-02-01&format=text", "0/"),
    ],
)
def test_a_leaf_and_a_directory_can_be_read_as_text(path: str, text: str) -> None:
    answer = Service().answer(f"/metadata/instance/{path}")
    assert answer is not None
    assert answer.body.decode() == text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/metadata/instance", 400),
        ("/metadata/instance?api-version=2031-01-01", 400),
        ("/metadata/instance/compute/vmId?api-version=2021-02-01", 400),
        ("/metadata/instance/nothing?api-version=2021-02-01", 404),
        ("/metadata/nothing?api-version=2021-02-01", 404),
    ],
)
def test_what_the_service_does_not_know_is_refused(path: str, status: int) -> None:
    assert "error" in Service().json(path, status)


def test_a_refused_version_comes_with_the_newest_ones() -> None:
    assert len(Service().json("/metadata/instance", 400)["newest-versions"]) == 3


def test_versions_are_listed_without_a_version() -> None:
    assert "2021-02-01" in Service().json("/metadata/versions")["apiVersions"]


@pytest.mark.parametrize("path", [INSTANCE, TOKEN])
def test_a_request_without_the_header_metadata_is_refused(path: str) -> None:
    answer = Service().imds.respond(asked(path))
    assert answer is not None
    assert answer.status == 400


@pytest.mark.parametrize("path", [INSTANCE, TOKEN])
def test_a_request_through_a_proxy_is_refused(path: str) -> None:
    service = Service()
    assert "error" in service.json(path, 400, x_forwarded_for="10.0.1.77")
    assert service.tokens.issued == []


@pytest.mark.parametrize("peer", ["10.0.1.5", "10.0.1.20", "10.0.1.99"])
def test_any_source_but_the_primary_address_gets_nothing(peer: str) -> None:
    service = Service()
    service.machines.now = (machine(nics=(nic(blocks=("10.0.1.16/28",)),)),)
    assert service.answer(INSTANCE, peer=peer) is None


def test_the_sixth_request_of_a_second_is_too_many() -> None:
    service = Service()
    statuses = [answer.status for _ in range(6) if (answer := service.answer(INSTANCE))]
    assert statuses == [200] * 5 + [429]
    service.clock.advance(0.2)
    assert service.json(INSTANCE)


def test_the_service_lags_behind_arm() -> None:
    service = Service()
    service.settings.lag_seconds = 8
    service.machines.past[8] = (machine(nics=(nic(addresses=(PRIMARY,)),)),)
    assert service.addresses() == [PRIMARY]


@pytest.mark.parametrize(
    ("lists_blocks", "count"), [(None, 2), ("first", 3), ("all", 18)], ids=["none", "first", "all"]
)
def test_it_is_an_option_whether_addresses_of_blocks_are_listed(
    lists_blocks: str | None, count: int
) -> None:
    service = Service()
    service.settings.lists_blocks = lists_blocks
    service.machines.now = (machine(nics=(nic(blocks=("10.0.1.16/28",)),)),)
    assert len(service.addresses()) == count


def test_an_identity_token_says_when_it_ends_in_strings() -> None:
    service = Service()
    told = service.json(TOKEN)
    assert told["access_token"] == "token-1"
    assert (told["token_type"], told["expires_in"]) == ("Bearer", "86399")
    assert told["expires_on"] == str(int(service.clock.now) + 86_399)
    assert service.tokens.issued == [
        ("system:0c5e47be-9f10-432d-a4a8-2d6bf15e6ae1", 86_399, "https://management.azure.com/")
    ]


def test_a_user_assigned_identity_is_asked_for_by_its_client_id() -> None:
    service = Service()
    service.machines.now = (machine(client_ids=("kubelet",)),)
    assert service.json(f"{TOKEN}&client_id=kubelet")["client_id"] == "kubelet"
    assert (
        service.json(f"{TOKEN}&client_id=other", 400)["error_description"] == "Identity not found"
    )


@pytest.mark.parametrize("missing", ["api-version", "resource"])
def test_a_token_is_refused_without_its_parameters(missing: str) -> None:
    path = TOKEN.replace(missing, "x")
    assert missing in Service().json(path, 400)["error_description"]


def test_a_service_that_is_down_hangs_up_after_a_while() -> None:
    service = Service()
    service.fault(ImdsFaultKind.DOWN)
    assert service.answer(INSTANCE) is None


def test_a_service_that_fails_answers_with_the_status_of_the_fault() -> None:
    service = Service()
    service.fault(ImdsFaultKind.ERROR, value="410", until_unix=service.clock.now + 3)
    assert service.json(INSTANCE, 410)
    service.clock.advance(3)
    assert service.json(INSTANCE)


def test_a_wrong_value_replaces_a_leaf_or_takes_it_away() -> None:
    service = Service()
    service.fault(ImdsFaultKind.WRONG_VALUE, path="compute/name", value="someone-else")
    service.fault(ImdsFaultKind.WRONG_VALUE, path="network/interface/0/macAddress")
    tree = service.json(INSTANCE)
    assert tree["compute"]["name"] == "someone-else"
    assert "macAddress" not in tree["network"]["interface"][0]


@pytest.mark.parametrize("value", ["00:0d:3a:32:85:71", "000D3A328571"])
def test_a_nic_can_be_missing(value: str) -> None:
    service = Service()
    second = nic("nic-1", ("10.0.1.9",), is_primary=False)
    service.machines.now = (machine(nics=(nic(), second)),)
    service.fault(ImdsFaultKind.MISSING_ENI, value=value)
    assert len(service.json(INSTANCE)["network"]["interface"]) == 1


def test_a_fault_strikes_the_machine_it_is_meant_for() -> None:
    service = Service()
    service.fault(ImdsFaultKind.ERROR, instance_id="vm2")
    assert service.json(INSTANCE)


def test_without_a_fabric_a_machine_is_named_or_the_only_one() -> None:
    service = Service()
    service.settings.trusts_names = True
    assert service.json(INSTANCE)["compute"]["name"] == "vm1"
    service.machines.now = (machine(), machine("vm2", (nic(addresses=("10.0.1.9",)),)))
    assert service.answer(INSTANCE) is None
    assert service.json(f"/instance/vm2{INSTANCE}")["compute"]["name"] == "vm2"
    assert service.json(INSTANCE, x_sim_instance="VM2")["compute"]["name"] == "vm2"
