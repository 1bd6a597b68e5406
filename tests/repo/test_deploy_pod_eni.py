"""The optional manifests for security groups for pods: valid, and no more rights than it takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cni_shim.kube_pod import SERVICE_ACCOUNT

DEPLOY = Path(__file__).parents[2] / "scripts/deploy"
MERGE_KEYS = ("mountPath", "name")

Json = dict[str, Any]


def objects() -> list[Json]:
    return list(yaml.safe_load_all((DEPLOY / "pod-eni.yaml").read_text()))


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge, as far as these files need one: lists by mountPath or name."""
    if isinstance(base, dict) and isinstance(patch, dict):
        return {**base, **{k: merged(base.get(k), v) for k, v in patch.items()}}
    if isinstance(base, list) and isinstance(patch, list):
        key = next(key for key in MERGE_KEYS if all(key in each for each in [*base, *patch]))
        rest = {each[key]: each for each in patch}
        kept = [merged(each, rest.pop(each[key], {})) for each in base]
        return [*kept, *rest.values()]
    return patch


def patched() -> Json:
    documents = yaml.safe_load_all((DEPLOY / "vpc-ipamd.yaml").read_text())
    (daemon_set,) = [each for each in documents if each["kind"] == "DaemonSet"]
    patch = yaml.safe_load((DEPLOY / "pod-eni-patch.yaml").read_text())
    found: Json = merged(daemon_set, patch)
    return found


def containers() -> dict[str, Json]:
    return {each["name"]: each for each in patched()["spec"]["template"]["spec"]["containers"]}


@pytest.mark.parametrize("version", ["1.28", "1.33", "1.37"])
def test_the_objects_and_the_patched_daemon_set_fit_the_schema(version: str) -> None:
    documents = (*objects(), patched())
    assert all(
        kubernetes_validate.validate(each, version, strict=True).startswith(version)
        for each in documents
    )


def test_the_right_is_to_get_pods_and_nothing_else() -> None:
    (role,) = [each for each in objects() if each["kind"] == "ClusterRole"]
    assert role["rules"] == [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]


def test_it_is_given_to_our_service_account_alone() -> None:
    (binding,) = [each for each in objects() if each["kind"] == "ClusterRoleBinding"]
    account = patched()["spec"]["template"]["spec"]["serviceAccountName"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account, "namespace": "kube-system"}
    ]
    assert binding["roleRef"]["name"] == "vpc-ipamd-pod-eni"


def test_vpc_cnid_alone_sees_the_token_where_it_looks_for_it() -> None:
    holders = {
        name: mount["mountPath"]
        for name, each in containers().items()
        for mount in each["volumeMounts"]
        if mount["name"] == "api-token"
    }
    assert holders == {"vpc-cnid": str(SERVICE_ACCOUNT)}
    assert patched()["spec"]["template"]["spec"]["automountServiceAccountToken"] is False


def test_the_patch_takes_nothing_away() -> None:
    documents = yaml.safe_load_all((DEPLOY / "vpc-ipamd.yaml").read_text())
    (plain,) = [each for each in documents if each["kind"] == "DaemonSet"]
    for before in plain["spec"]["template"]["spec"]["containers"]:
        after = containers()[before["name"]]
        assert [m for m in before["volumeMounts"] if m not in after["volumeMounts"]] == []
        kept = {key: after[key] for key in before if key not in ("env", "volumeMounts")}
        assert kept == {key: before[key] for key in kept}
