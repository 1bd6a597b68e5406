"""The targets file: what it may say, what is ignored, and when it has changed."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd import overrides
from ipamd.overrides import FIELDS, overridden, read, stamp_of
from tests import builders as b


def test_each_variable_overrides_its_field() -> None:
    text = "".join(f"{name}={number}\n" for number, name in enumerate(FIELDS, 10))
    made, warnings = overridden(b.settings(), text, "f")
    assert [getattr(made, field) for field in FIELDS.values()] == list(range(10, 16))
    assert warnings == ()


def test_what_is_not_named_stays_and_comments_and_blanks_are_nothing() -> None:
    base = b.settings(WARM_ENI_TARGET="2", WARM_IP_TARGET="3")
    made, warnings = overridden(base, "# all\n\n  WARM_IP_TARGET = 7  # more\n", "f")
    assert (made, warnings) == (replace(base, warm_addresses=7), ())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("WARM_IP_TARGET", "it must be NAME=value"),
        ("WARM_IP_TARGET=", "the value must be a whole number from 0"),
        ("WARM_IP_TARGET=-1", "the value must be a whole number from 0"),
        ("WARM_IP_TARGET=0x10", "the value must be a whole number from 0"),
        ("VPC_IPAMD_MAX_PODS=5001", "the value must be a whole number from 0 to 5000"),
        ("warm_ip_target=1", "only WARM_ENI_TARGET, WARM_IP_TARGET"),
        ("VPC_IPAMD_RUN_DIR=/x", "can be overridden"),
        ("export WARM_IP_TARGET=1", "can be overridden"),
    ],
)
def test_a_bad_line_is_told_with_its_number_and_the_others_count(line: str, said: str) -> None:
    made, warnings = overridden(b.settings(), f"MAX_ENI=2\n{line}\nWARM_ENI_TARGET=0\n", "f")
    left = b.settings().unset_targets - {"WARM_ENI_TARGET"}
    assert made == replace(b.settings(), max_enis=2, warm_enis=0, unset_targets=left)
    assert len(warnings) == 1
    assert warnings[0].startswith("f, line 2 ") and said in warnings[0]


def test_of_a_doubled_name_the_last_counts() -> None:
    made, warnings = overridden(b.settings(), "MAX_ENI=2\nMAX_ENI=3\n", "f")
    assert made.max_enis == 3
    assert warnings == ("f, line 2: MAX_ENI is there twice, the last counts",)


def test_max_eni_below_one_gives_the_limit_back_to_the_instance_type() -> None:
    assert overridden(b.settings(MAX_ENI="2"), "MAX_ENI=-1\n", "f")[0].max_enis == 0


def test_an_override_that_would_have_ended_the_start_is_not_used() -> None:
    base = b.settings(ENABLE_PREFIX_DELEGATION="true", WARM_PREFIX_TARGET="1")
    made, warnings = overridden(base, "WARM_PREFIX_TARGET=0\nMAX_ENI=2\n", "f")
    assert made == base
    assert "must be above 0" in warnings[0]


@given(st.text())
def test_any_text_leaves_all_but_the_six_fields_alone(text: str) -> None:
    base = b.settings()
    made, _ = overridden(base, text, "f")
    fields = {f: getattr(base, f) for f in (*FIELDS.values(), "unset_targets")}
    assert replace(made, **fields) == base


def test_what_the_file_says_counts_as_said() -> None:
    base = b.settings(WARM_IP_TARGET="3")
    made, _ = overridden(base, "MINIMUM_IP_TARGET=0\nWARM_PREFIX_TARGET=x\nMAX_ENI=1\n", "f")
    assert base.unset_targets - made.unset_targets == {"MINIMUM_IP_TARGET"}


@pytest.mark.parametrize(
    ("text", "is_used"), [("MAX_ENI=2\n", True), ("WARM_PREFIX_TARGET=0\n", False)]
)
def test_prefixes_on_azure_need_no_target_that_is_set_since_it_is_derived(
    text: str, is_used: bool
) -> None:
    base = b.settings(VPC_IPAMD_CLOUD="azure", ENABLE_PREFIX_DELEGATION="true")
    made, warnings = overridden(base, text, "f")
    assert (made != base, not warnings) == (is_used, is_used)


def test_an_absent_file_overrides_nothing(tmp_path: Path) -> None:
    assert read(tmp_path / "targets", b.settings()) == (b.settings(), ())


@pytest.mark.parametrize("what", ["directory", "pipe", "binary", "too long"])
def test_a_file_that_cannot_be_read_warns_and_overrides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "targets"
    match what:
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)
        case "binary":
            path.write_bytes(b"MAX_ENI=2\n\xff")
        case _:
            monkeypatch.setattr(overrides, "BYTES_MAX", 8)
            path.write_text("MAX_ENI=2\n")
    made, warnings = read(path, b.settings())
    assert made == b.settings()
    assert len(warnings) == 1 and str(path) in warnings[0]


def test_a_change_shows_once_the_file_is_written_replaced_or_gone(tmp_path: Path) -> None:
    path = tmp_path / "targets"
    assert stamp_of(path) is None

    path.write_text("MAX_ENI=2\n")
    assert stamp_of(path) is not None
    stamp = stamp_of(path)
    assert stamp_of(path) == stamp

    (other := tmp_path / "other").write_text("MAX_ENI=3\n")
    times = path.stat()
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    assert stamp_of(path) != stamp, "same size and time, another inode"

    stamp = stamp_of(path)
    path.unlink()
    assert stamp_of(path) != stamp


def test_a_link_that_is_swapped_as_a_config_map_is_shows_as_changed(tmp_path: Path) -> None:
    for version in ("v1", "v2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "targets").write_text("MAX_ENI=2\n")
    data, path = tmp_path / "data", tmp_path / "targets"
    data.symlink_to("v1")
    path.symlink_to("data/targets")
    stamp = stamp_of(path)

    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(data)
    assert stamp_of(path) != stamp
