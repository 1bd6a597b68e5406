"""Azure's manifest: EC2's with patches, which these tests merge as kustomize does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from ipamd.settings import load
from ipamd.settings.table import TABLE

DEPLOY = Path(__file__).parents[2] / "scripts/deploy"
AZURE = DEPLOY / "azure"

Json = dict[str, Any]


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge as far as these patches need one: no lists by key, null takes away."""
    if not isinstance(base, dict) or not isinstance(patch, dict):
        return patch
    both = {**base, **{k: merged(base.get(k), v) for k, v in patch.items()}}
    return {k: v for k, v in both.items() if v is not None}


def kustomized() -> dict[str, Json]:
    """Kind -> object, as `kubectl kustomize scripts/deploy/azure` prints them."""
    overlay = yaml.safe_load((AZURE / "kustomization.yaml").read_text())
    base = yaml.safe_load((AZURE / overlay["resources"][0] / "kustomization.yaml").read_text())
    found = {}
    for file in base["resources"]:
        for each in yaml.safe_load_all((DEPLOY / file).read_text()):
            found[each["kind"]] = each
    for patch in overlay["patches"]:
        change = yaml.safe_load((AZURE / patch["path"]).read_text())
        target = found[change["kind"]]
        assert change["metadata"]["name"] == target["metadata"]["name"]
        assert change["metadata"]["namespace"] == target["metadata"]["namespace"]
        found[change["kind"]] = merged(target, change)
    return found


@pytest.mark.parametrize("version", ["1.28", "1.33", "1.37"])
def test_the_patched_objects_fit_the_schema(version: str) -> None:
    for each in kustomized().values():
        assert kubernetes_validate.validate(each, version, strict=True).startswith(version)


def test_its_environment_starts_the_daemon_on_azure_without_a_word() -> None:
    environ = kustomized()["ConfigMap"]["data"]
    loaded = load(environ)
    assert (loaded.settings.cloud, loaded.warnings, loaded.notes) == ("azure", (), ())
    assert len(loaded.settings.unset_targets) == 5


def test_nothing_is_configured_that_nobody_reads() -> None:
    known = {setting.name for setting in TABLE}
    patch = yaml.safe_load((AZURE / "config.yaml").read_text())
    taken_out = {name for name, value in patch["data"].items() if value is None}
    assert set(patch["data"]) - taken_out <= known
    assert taken_out <= set(kustomized_base()["data"])


def kustomized_base() -> Json:
    documents = yaml.safe_load_all((DEPLOY / "vpc-ipamd.yaml").read_text())
    (found,) = [each for each in documents if each["kind"] == "ConfigMap"]
    return dict(found)


def test_the_patch_changes_where_it_runs_and_nothing_else() -> None:
    plain = next(
        each
        for each in yaml.safe_load_all((DEPLOY / "vpc-ipamd.yaml").read_text())
        if each["kind"] == "DaemonSet"
    )
    patched = kustomized()["DaemonSet"]
    for spec in (plain, patched):
        del spec["spec"]["template"]["spec"]["affinity"]
    assert patched == plain


def test_the_role_has_no_wildcard_and_no_right_to_make_or_delete() -> None:
    role = json.loads((AZURE / "role.json").read_text())
    assert not [action for action in role["Actions"] if "*" in action or "delete" in action]
    writes = {action for action in role["Actions"] if action.endswith("/write")}
    assert writes == {
        "Microsoft.Network/networkInterfaces/write",
        "Microsoft.Compute/virtualMachineScaleSets/virtualMachines/write",
    }
