"""The provider with everything real between it and the emulated Azure: TLS, identity, IMDS."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from ipamd.api_calls import ApiCall
from ipamd.errors import Denied
from providers.azure.config import AzureConfig
from providers.azure.provider import AzureProvider
from tests.sim.azure.lab import AzureLab, Doors, serving


@pytest.fixture
def lab() -> AzureLab:
    made = AzureLab()
    made.vm(zone="1", nics=2)
    return made


@pytest.fixture
def doors(lab: AzureLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doors]:
    with serving(lab, tmp_path) as opened:
        for name, value in opened.environment.items():
            monkeypatch.setenv(name, value)
        yield opened


def provider(
    lab: AzureLab, doors: Doors, told: list[ApiCall], client_id: str = ""
) -> AzureProvider:
    settings = AzureConfig(
        journal_path=doors.ca_path.with_name("journal.json"),
        arm_endpoint=doors.arm_url,
        metadata_endpoint=doors.imds_url,
        client_id=client_id,
    )
    return AzureProvider(settings, tell=told.append, monotonic=lab.clock, sleep=lab.advance)


def test_a_machine_finds_itself_with_its_own_identity(lab: AzureLab, doors: Doors) -> None:
    made = provider(lab, doors, [])
    identity = made.discover_node()
    assert identity.zone == "westeurope-1"
    assert identity.primary_eni_id in {eni.eni_id for eni in made.snapshot().enis}
    made.close()


def test_tokens_that_were_revoked_are_had_anew(lab: AzureLab, doors: Doors) -> None:
    told: list[ApiCall] = []
    made = provider(lab, doors, told)
    made.snapshot()
    lab.world.tokens.issuer.revoke_all()
    told.clear()
    assert len(made.snapshot().enis) == 2
    assert [call.status for call in told] == [401, 200, 200]
    made.close()


def test_a_machine_without_the_identity_that_is_asked_for_says_so(
    lab: AzureLab, doors: Doors, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    made = provider(lab, doors, [], client_id="11111111-2222-3333-4444-555555555555")
    with pytest.raises(Denied, match="AZURE_CLIENT_ID") as caught:
        made.discover_node()
    assert caught.value.code == "NoCredentials"
    made.close()


def test_no_token_gets_into_the_log(
    lab: AzureLab, doors: Doors, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    issued: list[str] = []
    issue = lab.world.tokens.issuer.issue

    def noted(*args: object, **options: object) -> str:
        issued.append(issue(*args, **options))  # type: ignore[arg-type]
        return issued[-1]

    lab.world.tokens.issuer.issue = noted  # type: ignore[method-assign]
    made = provider(lab, doors, [])
    made.snapshot()
    made.close()
    assert issued
    assert not any(token in caplog.text for token in issued)
