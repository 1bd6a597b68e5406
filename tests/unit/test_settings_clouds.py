"""Settings that mean something on one cloud alone."""

from __future__ import annotations

import pytest

from ipamd.errors import SettingsError
from ipamd.settings import load
from ipamd.settings.azure import AZURE
from ipamd.settings.clouds import IDLE_ON_AZURE, NOT_ON_AZURE

ON_AZURE = {"VPC_IPAMD_CLOUD": "azure"}


@pytest.mark.parametrize("name", NOT_ON_AZURE)
def test_what_azure_does_not_have_ends_the_start(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}=true with VPC_IPAMD_CLOUD=azure"):
        load({name: "true", "ENABLE_PREFIX_DELEGATION": "true", **ON_AZURE})


@pytest.mark.parametrize(
    ("name", "value"),
    [(n, '{"a": "b"}' if n == "ADDITIONAL_ENI_TAGS" else "true") for n in IDLE_ON_AZURE],
)
def test_what_means_nothing_on_azure_is_said_once(name: str, value: str) -> None:
    loaded = load({name: value, **ON_AZURE})
    (note,) = (text for text in loaded.notes if text.startswith(name))
    assert "has no effect" in note


def test_orphans_and_cards_are_ec2s() -> None:
    settings = load({"VPC_IPAMD_ORPHAN_CLEANUP": "true", "ENABLE_MULTI_NIC": "true", **ON_AZURE})
    assert not settings.settings.cleans_orphans
    assert not settings.settings.has_multi_nic


@pytest.mark.parametrize("row", AZURE, ids=lambda row: row.name)
def test_azures_own_mean_nothing_elsewhere(row: object) -> None:
    name, default = row.name, row.default or "2018-10-01"  # type: ignore[attr-defined]
    (note,) = load({name: default}).notes
    assert note.startswith(f"{name}=")
    assert "VPC_IPAMD_CLOUD is not azure" in note


def test_prefixes_need_no_target_where_targets_are_derived() -> None:
    loaded = load({"ENABLE_PREFIX_DELEGATION": "true", **ON_AZURE})
    assert loaded.settings.use_prefixes
    with pytest.raises(SettingsError, match="needs one of"):
        load({"ENABLE_PREFIX_DELEGATION": "true"})


@pytest.mark.parametrize(
    ("environ", "is_told"),
    [
        ({"WARM_ENI_TARGET": "1"}, True),
        ({"WARM_ENI_TARGET": "0"}, True),
        ({"WARM_IP_TARGET": "0"}, True),
        ({"WARM_ENI_TARGET": "0", "WARM_PREFIX_TARGET": "1"}, False),
        ({"WARM_ENI_TARGET": "1", "WARM_IP_TARGET": "5"}, False),
        ({"WARM_IP_TARGET": "0", "ENABLE_PREFIX_DELEGATION": "true"}, False),
        ({"MINIMUM_IP_TARGET": "0"}, False),
        ({}, False),
    ],
    ids=str,
)
def test_a_whole_nic_kept_warm_is_warned_about(environ: dict[str, str], *, is_told: bool) -> None:
    warnings = load({**environ, **ON_AZURE}).warnings
    assert ["255 addresses" in warning for warning in warnings] == [True] * is_told


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://management.azure.com",
        "https://management.azure.com/subscriptions",
        "https://user:secret@arm",
        "management.azure.com",
    ],
)
def test_an_endpoint_that_could_leak_a_token_ends_the_start(endpoint: str) -> None:
    with pytest.raises(SettingsError, match="AZURE_ARM_ENDPOINT"):
        load({"AZURE_ARM_ENDPOINT": endpoint, **ON_AZURE})


def test_targets_that_nobody_set_are_derived_on_azure() -> None:
    loaded = load({"WARM_PREFIX_TARGET": "2", **ON_AZURE})
    assert loaded.origins["WARM_PREFIX_TARGET"] == "env"
    assert loaded.origins["WARM_IP_TARGET"] == "derived on the machine"
    assert "WARM_PREFIX_TARGET" not in loaded.settings.unset_targets
    assert {"WARM_IP_TARGET", "ENABLE_PREFIX_DELEGATION"} <= loaded.settings.unset_targets
    assert not [note for note in loaded.notes if "no effect" in note]
