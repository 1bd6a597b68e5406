from __future__ import annotations

from pathlib import Path

import pytest

from ipamd.errors import SettingsError
from ipamd.settings import ROWS, load
from ipamd.settings.rows import OnBad


def test_an_empty_environment_gives_aws_nodes_defaults() -> None:
    settings = load({}).settings
    assert (settings.warm_enis, settings.warm_addresses, settings.minimum_addresses) == (1, 0, 0)
    assert settings.cooldown_seconds == 30
    assert settings.store_dir == settings.run_dir == Path("/run/vpc-ipamd")


@pytest.mark.parametrize("value", ["-1", "many", "1.5", "1e3", "0x10"])
def test_a_bad_warm_target_falls_back_with_a_warning_as_in_aws_node(value: str) -> None:
    loaded = load({"WARM_ENI_TARGET": value})
    assert loaded.settings.warm_enis == 1
    assert len(loaded.warnings) == 1
    assert "WARM_ENI_TARGET" in loaded.warnings[0] and repr(value) in loaded.warnings[0]
    assert loaded.origins["WARM_ENI_TARGET"] == "default"


def test_every_refused_value_is_named_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        load({
            "IP_COOLDOWN_PERIOD": "-3",
            "VPC_IPAMD_CLOUD": "moon",
            "VPC_IPAMD_RUN_DIR": "run",
            "WARM_IP_TARGET": "x",
        })  # fmt: skip
    text = str(caught.value)
    assert "IP_COOLDOWN_PERIOD='-3'" in text
    assert "VPC_IPAMD_CLOUD='moon' must be one of aws" in text
    assert "VPC_IPAMD_RUN_DIR='run' must be an absolute path" in text
    assert "WARM_IP_TARGET" not in text


@pytest.mark.parametrize(("value", "limit"), [("-1", 0), ("0", 0), ("2", 2)])
def test_max_eni_below_one_means_the_instance_types_limit(value: str, limit: int) -> None:
    assert load({"MAX_ENI": value}).settings.max_enis == limit


def test_a_store_directory_of_its_own_is_used() -> None:
    settings = load({"VPC_IPAMD_RUN_DIR": "/run/a", "VPC_IPAMD_STORE_DIR": "/run/b"}).settings
    assert (settings.run_dir, settings.store_dir) == (Path("/run/a"), Path("/run/b"))


def test_every_default_of_the_table_is_usable_and_every_name_is_there_once() -> None:
    assert len({s.name for s in ROWS}) == len(ROWS)
    for setting in ROWS:
        setting.parse(setting.default)
        assert setting.meaning.endswith(".")


@pytest.mark.parametrize(
    "setting", [s for s in ROWS if s.on_bad is OnBad.REFUSE], ids=lambda s: s.name
)
def test_a_refused_setting_says_what_it_must_be(setting: object) -> None:
    name = getattr(setting, "name", "")
    with pytest.raises(SettingsError, match=f"{name}=.* must be "):
        load({name: "\x00 nonsense"})
