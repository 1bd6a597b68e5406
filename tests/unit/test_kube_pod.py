"""What the API server is asked, and what becomes of each answer that is no pod."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from cni_shim import kube_pod
from cni_shim.branch import LIMIT, PodFacts
from cni_shim.errors import CniError, CniErrorCode
from cni_shim.kube_pod import ApiServer, PodLookup, api_server, facts_of, lookup
from hypothesis import given
from hypothesis import strategies as st

from tests.api_server import FakeApiServer, serving


@pytest.fixture
def api(tmp_path: Path) -> Iterator[FakeApiServer]:
    with serving(tmp_path) as server:
        yield server


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kube_pod, "SECONDS", 1.0)


def where(api: FakeApiServer) -> ApiServer:
    found = api_server(api.environ())
    assert found is not None
    return found


def ask(server: ApiServer | None, name: str = "web", seconds: float = 10.0) -> PodFacts:
    return PodLookup(server).facts("default", name, deadline_monotonic=time.monotonic() + seconds)


def refused(server: ApiServer | None, name: str = "web", seconds: float = 10.0) -> str:
    with pytest.raises(CniError) as caught:
        ask(server, name, seconds)
    assert caught.value.code is CniErrorCode.TRY_AGAIN_LATER
    return caught.value.details


def test_a_pod_is_asked_for_by_its_names(api: FakeApiServer) -> None:
    api.put("web", annotations={"a": "b"})
    assert ask(where(api)) == PodFacts(uid="u", annotations={"a": "b"}, wants_branch=False)
    assert api.asked == ["/api/v1/namespaces/default/pods/web"]


def test_the_limit_of_any_container_counts(api: FakeApiServer) -> None:
    api.put("web", limits=({"cpu": "1"}, {LIMIT: "1"}))
    assert ask(where(api)).wants_branch


def test_a_name_cannot_lead_elsewhere(api: FakeApiServer) -> None:
    refused(where(api), "../../secrets/x?y#z")
    assert api.asked == ["/api/v1/namespaces/default/pods/..%2F..%2Fsecrets%2Fx%3Fy%23z"]


def test_a_token_that_was_renewed_is_used_at_once(api: FakeApiServer) -> None:
    api.put("web")
    api.token = "the-next"
    assert "answered 401 'Unauthorized'" in refused(where(api))
    (api.service_account / "token").write_text("the-next")
    assert ask(where(api)).uid == "u"


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("redirect", "answered 302"),
        ("huge", "more than 4194304 bytes"),
        ("drip", "did not end in time"),
        ("garbage", "JSONDecodeError"),
        ("hang", "TimeoutError"),
        ("forbidden", "cannot get resource pods"),
    ],
)
def test_an_answer_that_is_no_pod_says_why_and_what_is_needed(
    api: FakeApiServer, trouble: str, said: str
) -> None:
    api.put("web")
    api.trouble = trouble
    began = time.monotonic()
    details = refused(where(api))
    assert said in details and "scripts/deploy/pod-eni.yaml" in details
    assert len(api.asked) == 1
    assert time.monotonic() - began < 4


def test_a_pod_that_is_not_there_is_not_taken_for_an_ordinary_one(api: FakeApiServer) -> None:
    assert 'pods "web" not found' in refused(where(api)).replace("\\", "")


def test_the_adds_own_deadline_is_kept(api: FakeApiServer) -> None:
    api.trouble = "hang"
    began = time.monotonic()
    refused(where(api), seconds=0.2)
    assert time.monotonic() - began < 0.9
    assert "no time is left" in refused(where(api), seconds=0.0)


@pytest.mark.parametrize("token", ["", "secret\nsecond line", "secret\x00", "secret é", "\n"])
def test_a_token_that_no_header_can_carry_is_not_shown(api: FakeApiServer, token: str) -> None:
    (api.service_account / "token").write_text(token)
    said = refused(where(api))
    assert "holds no token" in said
    assert "secret" not in said.replace(str(api.service_account), "")


def test_a_server_of_another_authority_is_not_told_the_token(
    api: FakeApiServer, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    with serving(tmp_path / "other") as impostor:
        fooled = replace(where(impostor), service_account=api.service_account)
        assert "CERTIFICATE_VERIFY_FAILED" in refused(fooled)
        assert impostor.asked == []


def test_a_certificate_of_another_host_is_refused(tmp_path: Path) -> None:
    with serving(tmp_path, host="192.0.2.1") as server:
        assert "CERTIFICATE_VERIFY_FAILED" in refused(where(server))


def test_without_a_service_account_the_error_names_the_file(
    api: FakeApiServer, tmp_path: Path
) -> None:
    bare = replace(where(api), service_account=tmp_path / "nothing")
    assert "nothing/token" in refused(bare)


def test_nobody_listens(tmp_path: Path, api: FakeApiServer) -> None:
    assert "ConnectionRefusedError" in refused(replace(where(api), port=1))


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, None),
        ({"KUBERNETES_SERVICE_HOST": "10.100.0.1"}, ("10.100.0.1", 443)),
        (
            {"KUBERNETES_SERVICE_HOST": "10.100.0.1", "KUBERNETES_SERVICE_PORT": "6443"},
            ("10.100.0.1", 6443),
        ),
        (
            {"KUBERNETES_SERVICE_HOST": "10.100.0.1", "CLUSTER_ENDPOINT": "https://x.eks/"},
            ("x.eks", 443),
        ),
        ({"CLUSTER_ENDPOINT": "https://x.eks:8443"}, ("x.eks", 8443)),
        ({"CLUSTER_ENDPOINT": "x.eks"}, ("x.eks", 443)),
    ],
    ids=str,
)
def test_where_the_api_server_is(environ: Mapping[str, str], found: tuple[str, int] | None) -> None:
    server = api_server(environ)
    assert (None if server is None else (server.host, server.port)) == found


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "neither KUBERNETES_SERVICE_HOST nor CLUSTER_ENDPOINT is set"),
        ({"CLUSTER_ENDPOINT": "http://x.eks"}, "must be an https:// URL"),
        ({"KUBERNETES_SERVICE_HOST": "h", "KUBERNETES_SERVICE_PORT": "x"}, "invalid literal"),
    ],
    ids=["nothing set", "no TLS", "no port"],
)
def test_an_environment_that_names_none_is_said_with_each_pod(
    environ: Mapping[str, str], said: str
) -> None:
    with pytest.raises(CniError) as caught:
        lookup(environ).facts("default", "web", deadline_monotonic=time.monotonic() + 1)
    assert said in caught.value.details


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values, json_values)
def test_any_pod_is_read_or_refused(metadata: object, spec: object) -> None:
    found = facts_of(json.dumps({"kind": "Pod", "metadata": metadata, "spec": spec}).encode())
    assert not found.wants_branch or LIMIT in json.dumps(spec)
