"""ENIConfig manifests: what is taken, and what the errors name."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd import eniconfig
from ipamd.eniconfig import NetworkChoice, chosen, parse, read
from ipamd.errors import SettingsError
from ipamd.model import SubnetId

TWO_ZONES = """\
apiVersion: crd.k8s.amazonaws.com/v1alpha1
kind: ENIConfig
metadata:
  name: us-west-2a
spec:
  subnet: subnet-0aa
  securityGroups: [sg-01, sg-02]
---
---
apiVersion: crd.k8s.amazonaws.com/v1alpha1
kind: ENIConfig
metadata: {name: us-west-2b, labels: {any: thing}}
spec:
  subnet: subnet-0bb
"""


def manifest(name: object = "default", **spec: object) -> dict[str, Any]:
    return {
        "apiVersion": "crd.k8s.amazonaws.com/v1alpha1",
        "kind": "ENIConfig",
        "metadata": {"name": name},
        "spec": spec or {"subnet": "subnet-0aa"},
    }


def test_each_document_is_a_choice_and_empty_ones_are_passed_over() -> None:
    assert parse(TWO_ZONES, "f") == {
        "us-west-2a": NetworkChoice(
            subnet_id=SubnetId("subnet-0aa"), security_group_ids=("sg-01", "sg-02")
        ),
        "us-west-2b": NetworkChoice(subnet_id=SubnetId("subnet-0bb"), security_group_ids=()),
    }


@pytest.mark.parametrize("kind", ["List", "ENIConfigList"])
def test_a_list_as_kubectl_prints_it_gives_its_items(kind: str) -> None:
    items = [manifest("a"), manifest("b", subnet="subnet-0bb", securityGroups=["sg-1"])]
    text = json.dumps({"apiVersion": "v1", "kind": kind, "items": items})
    assert sorted(parse(text, "f")) == ["a", "b"]


def test_json_needs_no_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    assert list(parse(json.dumps(manifest()), "f")) == ["default"]


def test_a_text_without_manifests_has_no_choices() -> None:
    assert parse("# nothing\n---\n", "f") == {}


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "f, document 1 must be an object, not []"),
        ("text", "f, document 1 must be an object, not 'text'"),
        (manifest() | {"kind": "Pod"}, "f, document 1: kind must be ENIConfig (or a List of"),
        (manifest() | {"kind": ["List"]}, "not ['List']"),
        (manifest() | {"apiVersion": "v1"}, ": apiVersion must be of crd.k8s.amazonaws.com, not"),
        (manifest() | {"metadata": None}, "document 1: metadata must be an object, not absent"),
        (manifest(7), "metadata.name must be a name in small letters, digits, dots and dashes"),
        (manifest("A_b"), "metadata.name must be"),
        (manifest() | {"spec": None}, "document 1 (default): spec must be an object, not absent"),
        (manifest(securityGroups=[]), "(default): spec.subnet must be an id such as subnet-0123"),
        (manifest(subnet=12), "spec.subnet must be an id such as subnet-0123abcd, not 12"),
        (manifest(subnet="sg-1"), "spec.subnet must be an id"),
        (manifest(subnet="subnet-0a "), "spec.subnet must be an id"),
        (manifest(subnet="subnet-1", securityGroups="sg-1"), "spec.securityGroups must be a list"),
        (manifest(subnet="subnet-1", securityGroups=["sg-1", "x"]), "spec.securityGroups[1] must"),
        (manifest(subnet="subnet-1", securitygroups=[]), "spec.securitygroups is unknown, there"),
        ({"kind": "List", "items": {}}, "f, document 1: items must be a list, not {}"),
        ({"kind": "List", "items": [manifest(), 3]}, "f, document 1, items[1] must be an object"),
        ({"kind": "List", "items": [manifest(), manifest()]}, "items[1]: metadata.name 'default'"),
    ],
)
def test_an_error_names_file_document_and_field(document: object, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(json.dumps(document), "f")
    assert said in str(caught.value)


def test_the_second_document_is_named_as_such() -> None:
    with pytest.raises(SettingsError, match=r"^f, document 2: kind must be"):
        parse("null\n---\nkind: Pod\n", "f")


@pytest.mark.parametrize("text", ["a: [", "\t- x", "{", "!!python/object:os.x {}", "x: 2020-13-45"])
def test_what_is_no_manifest_text_is_one_line(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(text, "f")
    assert str(caught.value).startswith("f") and "\n" not in str(caught.value)


def test_aliases_that_would_fill_memory_are_told_in_a_few_words() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 30)]
    with pytest.raises(SettingsError) as caught:
        parse("\n".join([*lines, "kind: *a29"]), "f")
    assert len(str(caught.value)) < 2000


@given(st.text() | st.binary().map(lambda raw: raw.decode("latin-1")))
def test_any_text_gives_choices_or_a_settings_error(text: str) -> None:
    with contextlib.suppress(SettingsError):
        assert parse(text, "f") == {}


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(
        SettingsError, match=r"f has no ENIConfig 'x', only: us-west-2a, us-west-2b"
    ):
        chosen(parse(TWO_ZONES, "f"), "x", "f")


def test_a_file_gives_the_named_choice(tmp_path: Path) -> None:
    (path := tmp_path / "eniconfigs.yaml").write_text(TWO_ZONES)
    assert read(path, "us-west-2b").subnet_id == "subnet-0bb"


@pytest.mark.parametrize("what", ["absent", "directory", "binary", "too long"])
def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = tmp_path / "f.yaml"
    match what:
        case "directory":
            path.mkdir()
        case "binary":
            path.write_bytes(b"\xff\xfe")
        case "too long":
            monkeypatch.setattr(eniconfig, "BYTES_MAX", 10)
            path.write_text(TWO_ZONES)
    with pytest.raises(SettingsError, match=r"VPC_IPAMD_ENICONFIG_FILE .*f\.yaml"):
        read(path, "default")
