"""The manifest and the image's recipe: valid, least rights, and in step with the programs.

Images cannot be built where these tests run, so what they do is held to what can be read here;
docs/install.md says how the steps were tried and can be tried again.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cni_shim.settings import DEFAULT_CRI_SOCKETS, DEFAULT_NETNS_DIRS

from ipamd.settings.table import TABLE

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "scripts/deploy"

Json = dict[str, Any]


def documents() -> list[Json]:
    return list(yaml.safe_load_all((DEPLOY / "vpc-ipamd.yaml").read_text()))


def only(kind: str) -> Json:
    (found,) = [each for each in documents() if each["kind"] == kind]
    return found


def pod() -> Json:
    spec: Json = only("DaemonSet")["spec"]["template"]["spec"]
    return spec


def containers() -> dict[str, Json]:
    return {each["name"]: each for each in pod()["containers"]}


@pytest.mark.parametrize("version", ["1.28", "1.33", "1.37"])
def test_every_object_fits_the_schema_of_kubernetes(version: str) -> None:
    kinds = []
    for document in documents():
        assert kubernetes_validate.validate(document, version, strict=True).startswith(version)
        kinds.append(document["kind"])
    assert {"ConfigMap", "DaemonSet", "ServiceAccount"} <= set(kinds)


def test_a_misspelt_key_does_not_fit_the_schema() -> None:
    wrong = only("DaemonSet")
    wrong["spec"]["template"]["spec"]["hostNetwrok"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.33", strict=True)


def test_only_the_one_that_wires_pods_has_rights_in_the_kernel() -> None:
    added = {
        name: set(each["securityContext"]["capabilities"].get("add", []))
        for name, each in containers().items()
    }
    assert added.pop("vpc-cnid") == {"NET_ADMIN", "NET_RAW", "SYS_ADMIN"}
    assert added == {"ipamd": set(), "install": set()}


@pytest.mark.parametrize("name", ["ipamd", "vpc-cnid", "install"])
def test_a_container_has_no_more_than_its_capabilities(name: str) -> None:
    context = containers()[name]["securityContext"]
    assert context["capabilities"]["drop"] == ["ALL"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert "privileged" not in context


def test_the_pod_shares_the_network_of_the_node_and_nothing_else() -> None:
    assert pod()["hostNetwork"] is True
    assert not {"hostPID", "hostIPC", "shareProcessNamespace"} & pod().keys()
    assert pod()["automountServiceAccountToken"] is False


def host_paths() -> list[Path]:
    found = (volume["hostPath"]["path"] for volume in pod()["volumes"] if "hostPath" in volume)
    return [Path(path) for path in found]


RUNTIME_SOCKETS = [
    *(Path(path) for path in DEFAULT_CRI_SOCKETS.split(",")),
    Path("/run/containerd/containerd.sock.ttrpc"),
    Path("/run/containerd/s"),  # its shims' sockets
    Path("/run/docker.sock"),
    Path("/run/docker/containerd/containerd.sock"),
    Path("/run/cri-dockerd.sock"),
    Path("/run/podman/podman.sock"),
]


@pytest.mark.parametrize("socket", RUNTIME_SOCKETS, ids=str)
def test_a_runtimes_socket_is_not_mounted_by_itself_or_with_a_directory(socket: Path) -> None:
    run = [
        Path("/run", *path.parts[3:]) if path.parts[1:3] == ("var", "run") else path
        for path in host_paths()
    ]  # /var/run is /run
    assert not [path for path in run if socket == path or path in socket.parents]


def test_every_directory_where_vpc_cnid_looks_for_namespaces_is_shown_to_it() -> None:
    """As it changes after the start, and not to be written."""
    shown = {m["mountPath"]: m for m in containers()["vpc-cnid"]["volumeMounts"]}
    for directory in DEFAULT_NETNS_DIRS.split(","):
        assert shown[directory]["mountPropagation"] == "HostToContainer"
        assert shown[directory]["readOnly"] is True
        assert Path(directory) in host_paths()


def test_every_mount_has_its_volume_and_every_volume_a_mount() -> None:
    mounted = {m["name"] for each in containers().values() for m in each["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod()["volumes"]}


def test_every_container_runs_the_same_image() -> None:
    (image,) = {each["image"] for each in containers().values()}
    version = re.search(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None and image.endswith(f":{version[1]}")


def test_nothing_is_configured_that_nobody_reads() -> None:
    read_by_shim = "\n".join(path.read_text() for path in (ROOT / "cni-shim").rglob("*.py"))
    known = {setting.name for setting in TABLE}
    names = set(only("ConfigMap")["data"])
    names |= {e["name"] for each in containers().values() for e in each.get("env", [])}
    assert {name for name in names - known if f'"{name}"' not in read_by_shim} == set()


def test_the_probes_name_what_is_served() -> None:
    ports = {port["name"]: port["containerPort"] for port in containers()["ipamd"]["ports"]}
    (default,) = [setting.default for setting in TABLE if setting.name == "VPC_IPAMD_METRICS_PORT"]
    assert ports == {"metrics": int(default)}
    for kind in ("livenessProbe", "readinessProbe"):
        assert containers()["ipamd"][kind]["httpGet"] == {"path": "/healthz", "port": "metrics"}
        assert containers()["vpc-cnid"][kind]["exec"]["command"][0] == "install-cni"


@pytest.mark.parametrize("file", ["run.txt", "build.txt"])
def test_what_goes_into_the_image_is_pinned_by_hash(file: str) -> None:
    lines = (ROOT / "requirements" / file).read_text().replace("\\\n", " ").splitlines()
    packages = [line for line in lines if line and not line.lstrip().startswith("#")]
    assert packages
    assert all("==" in line and "--hash=sha256:" in line for line in packages)


def test_the_image_is_made_from_one_base_that_is_given() -> None:
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    assert {line.split()[1] for line in lines if line.startswith("FROM")} == {"${BASE}"}
    assert "ARG BASE" in lines  # without a default: a build without a digest fails


@pytest.mark.parametrize(
    "arguments",
    [
        ["--tag", "x:1"],
        ["--base", "debian:12", "--tag", "x:1"],
        ["--base", "debian@sha256:abc", "--tag", "x:1"],
        ["--base", "debian@sha256:" + "a" * 64],
    ],
    ids=["no base", "by tag", "a short digest", "no tag"],
)
def test_a_build_without_a_digest_or_a_tag_is_refused(arguments: list[str]) -> None:
    done = subprocess.run(
        [DEPLOY / "build-image", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("build-image: --")
