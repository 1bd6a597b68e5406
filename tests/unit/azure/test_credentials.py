from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
from azure.core.exceptions import ClientAuthenticationError
from azure.core.pipeline.policies import RetryPolicy
from azure.identity import ManagedIdentityCredential, WorkloadIdentityCredential

from ipamd.errors import Denied
from providers.azure.config import AzureConfig
from providers.azure.credentials import (
    FEDERATED_TOKEN_FILE,
    RenewableCredential,
    default_credential,
    scope_of,
)
from tests.unit.azure.arm_fakes import Answer, Credential

LONGEST_SECONDS = 12.0  # a third of the 30 s that a call of the core has, and a little
CLIENT = "11111111-2222-3333-4444-555555555555"


@pytest.fixture(autouse=True)
def no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", FEDERATED_TOKEN_FILE):
        monkeypatch.delenv(name, raising=False)


def nodes_of(pipeline: Any) -> Iterator[Any]:
    node = pipeline._impl_policies[0]
    while node is not None:
        yield node
        node = getattr(node, "next", None)


@pytest.mark.parametrize(
    ("endpoint", "scope"),
    [
        ("https://management.azure.com", "https://management.azure.com/.default"),
        ("https://management.chinacloudapi.cn", "https://management.chinacloudapi.cn/.default"),
        (
            "https://management.usgovcloudapi.net",
            "https://management.core.usgovcloudapi.net/.default",
        ),
        ("https://127.0.0.1:4570", "https://127.0.0.1:4570/.default"),
    ],
)
def test_a_token_is_for_the_endpoint_it_is_sent_to(endpoint: str, scope: str) -> None:
    assert scope_of(endpoint) == scope


@pytest.mark.parametrize("endpoint", ["http://management.azure.com", "management.azure.com", ""])
def test_no_token_is_made_for_an_endpoint_without_tls(endpoint: str) -> None:
    with pytest.raises(Denied, match="is not https"):
        scope_of(endpoint)


def test_the_known_endpoints_are_those_of_the_sdk() -> None:
    from azure.core import AzureClouds
    from azure.mgmt.core.tools import get_arm_endpoints

    for cloud in AzureClouds:
        known = get_arm_endpoints(cloud)
        assert [scope_of(known["resource_manager"].rstrip("/"))] == known["credential_scopes"]


def test_the_default_endpoint_is_azures() -> None:
    from pathlib import Path

    assert scope_of(AzureConfig(journal_path=Path("j")).arm_endpoint)


def test_a_machine_without_a_federated_token_has_a_managed_identity() -> None:
    assert isinstance(default_credential(""), ManagedIdentityCredential)


def test_a_managed_identity_is_asked_for_without_any_proxy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://proxy.test:1")
    made: Any = default_credential(CLIENT)
    transport = made._credential._client._pipeline._transport
    transport.open()
    assert transport.session.trust_env is False
    transport.close()


def test_a_federated_token_makes_a_workload_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(FEDERATED_TOKEN_FILE, "/run/token")
    monkeypatch.setenv("AZURE_TENANT_ID", CLIENT)
    assert isinstance(default_credential(CLIENT), WorkloadIdentityCredential)


def test_half_a_workload_identity_is_refused_with_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(FEDERATED_TOKEN_FILE, "/run/token")
    with pytest.raises(Denied, match="tenant_id"):
        default_credential(CLIENT)


def test_a_credential_is_made_once_and_anew_after_it_was_refused() -> None:
    made: list[Credential] = []

    def make() -> Credential:
        made.append(Credential())
        return made[-1]

    credential = RenewableCredential(make)
    assert made == []
    credential.get_token("s")
    credential.get_token("s")
    assert len(made) == 1
    for _ in range(3):  # refused together
        credential.renew(0)
    credential.get_token("s")
    assert [c.made for c in made] == [2, 1]


def test_a_token_that_does_not_come_is_not_waited_for_as_long_as_azure_core_would(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    managed: Any = default_credential(CLIENT)
    monkeypatch.setenv(FEDERATED_TOKEN_FILE, "/run/token")
    monkeypatch.setenv("AZURE_TENANT_ID", CLIENT)
    federated: Any = default_credential(CLIENT)
    for pipeline in (managed._credential._client._pipeline, federated._client._pipeline):
        timeouts = pipeline._transport.connection_config
        assert timeouts.timeout + timeouts.read_timeout <= LONGEST_SECONDS
        (retries,) = (node for node in nodes_of(pipeline) if isinstance(node, RetryPolicy))
        assert retries.total_retries == 0


@pytest.mark.parametrize("status", [410, 429, 500])
def test_a_refused_token_is_the_planners_to_ask_for_again(
    status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    managed: Any = default_credential("")
    asked: list[Any] = []

    def send(request: Any, **options: Any) -> Answer:
        asked.append(request)
        answer = Answer(status, {"error": "x"}, Retry_After="100")
        answer.request = request
        return answer

    monkeypatch.setattr(managed._credential._client._pipeline._transport, "send", send)
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"slept for {seconds}"))
    with pytest.raises(ClientAuthenticationError):
        managed.get_token("https://arm.test/.default")
    assert len(asked) == 1


def test_credentials_that_are_made_anew_leave_no_handlers_behind() -> None:
    logger = logging.getLogger("azure")
    before = len(logger.handlers)
    for _ in range(3):
        default_credential("")
    assert len(logger.handlers) == before
