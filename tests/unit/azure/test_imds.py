from __future__ import annotations

import contextlib
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from ipamd.errors import Transient
from providers.azure.ids import arm_id
from providers.azure.imds import PAUSES_SECONDS, Imds, Machine, ShownInterface, mac_of
from tests.unit.azure.arm_fakes import INSTANCE, VM, VM_ID, Clock, Json

COMPUTE: Json = {
    "vmId": VM_ID.upper(),
    "vmSize": "Standard_D4s_v5",
    "location": "WestEurope",
    "zone": "2",
    "resourceId": INSTANCE,
    "tagsList": [],
}
NETWORK: Json = {
    "interface": [
        {
            "ipv4": {
                "ipAddress": [
                    {"privateIpAddress": "10.0.0.4", "publicIpAddress": ""},
                    {"privateIpAddress": "10.0.0.16/28"},
                ],
                "subnet": [{"address": "10.0.0.0", "prefix": "24"}],
            },
            "ipv6": {"ipAddress": []},
            "macAddress": "000D3A000004",
        }
    ]
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from((*COMPUTE, *NETWORK, "ipv4", "macAddress")), inner)
    ),
    max_leaves=12,
)


class Http:
    """Answers in order, the last one for ever."""

    def __init__(self, *answers: tuple[int, bytes] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    def request(self, method: str, url: str, **options: Any) -> Any:
        self.asked.append(url)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return urllib3.HTTPResponse(status=answer[0], body=io.BytesIO(answer[1]))


def made(*answers: tuple[int, bytes] | Exception) -> tuple[Imds, Http, Clock]:
    clock, http = Clock(), Http(*answers)
    imds = Imds("http://imds.test/", sleep=clock.sleep)
    imds._http = http  # type: ignore[assignment]
    return imds, http, clock


def ok(body: object) -> tuple[int, bytes]:
    return 200, json.dumps(body).encode()


def test_who_we_are() -> None:
    imds, http, _ = made(ok(COMPUTE))
    assert imds.machine() == Machine(
        vm_id=VM_ID,
        size="Standard_D4s_v5",
        location="westeurope",
        zone="2",
        resource=arm_id(INSTANCE),
    )
    assert http.asked == [
        "http://imds.test/metadata/instance/compute?api-version=2021-02-01&format=json"
    ]


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("vmId", "i-0abc"),
        ("vmId", ""),
        ("vmId", None),
        ("vmSize", "../../etc"),
        ("vmSize", 5),
        ("location", "west europe"),
        ("zone", "two"),
        ("zone", None),
        ("resourceId", "x"),
        ("resourceId", VM.replace("Microsoft.Compute/virtualMachines", "Microsoft.Sql/servers")),
        ("resourceId", None),
    ],
)
def test_each_value_is_checked(member: str, value: object) -> None:
    imds, _, _ = made(ok({**COMPUTE, member: value}))
    with pytest.raises(Transient, match="gave what cannot be"):
        imds.machine()


@pytest.mark.parametrize("member", ["vmId", "vmSize", "location", "zone", "resourceId"])
def test_a_missing_value_is_named(member: str) -> None:
    imds, _, _ = made(ok({k: v for k, v in COMPUTE.items() if k != member}))
    with pytest.raises(Transient, match=member):
        imds.machine()


def test_the_interfaces_as_shown() -> None:
    imds, _, _ = made(ok(NETWORK))
    assert imds.interfaces() == (
        ShownInterface(
            mac="00:0d:3a:00:00:04",
            items=(IPv4Address("10.0.0.4"), IPv4Network("10.0.0.16/28")),
            subnets=(IPv4Network("10.0.0.0/24"),),
        ),
    )


@given(JSON)
def test_an_odd_answer_is_refused_as_such(body: object) -> None:
    imds, _, _ = made(ok(body))
    with pytest.raises(Transient, match="gave what cannot be"):
        imds.machine()
    with contextlib.suppress(Transient):
        assert all(isinstance(one, ShownInterface) for one in imds.interfaces())


@pytest.mark.parametrize(
    "passing",
    [
        pytest.param((410, b""), id="being renewed"),
        pytest.param((429, b"slow"), id="asked too often"),
        pytest.param((500, b""), id="server error"),
        pytest.param(urllib3.exceptions.ProtocolError("cut"), id="connection loss"),
    ],
)
def test_what_passes_is_tried_again(passing: tuple[int, bytes] | Exception) -> None:
    imds, http, clock = made(passing, passing, ok(COMPUTE))
    assert imds.machine().vm_id == VM_ID
    assert len(http.asked) == 3
    assert clock.slept == list(PAUSES_SECONDS[:2])


def test_the_tries_have_an_end() -> None:
    imds, http, _ = made((429, b"slow down"))
    with pytest.raises(Transient, match="answered 429: slow down"):
        imds.machine()
    assert len(http.asked) == 1 + len(PAUSES_SECONDS)


@pytest.mark.parametrize("answer", [(400, b"Bad request"), (404, b""), (302, b""), (403, b"")])
def test_what_does_not_pass_is_not_tried_again(answer: tuple[int, bytes]) -> None:
    imds, http, _ = made(answer)
    with pytest.raises(Transient, match=f"answered {answer[0]}"):
        imds.machine()
    assert len(http.asked) == 1


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"cut', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_json_is_transient(body: bytes) -> None:
    imds, _, _ = made((200, body))
    with pytest.raises(Transient, match="no JSON"):
        imds.machine()


def test_a_prefix_without_end_is_refused() -> None:
    endless = json.dumps(NETWORK).replace('"24"', "1e999").encode()
    imds, _, _ = made((200, endless))
    with pytest.raises(Transient, match="gave what cannot be"):
        imds.interfaces()


@pytest.mark.parametrize("text", ["000D3A000004", "00-0D-3A-00-00-04", "00:0d:3a:00:00:04"])
def test_a_mac_is_written_as_linux_does(text: str) -> None:
    assert mac_of(text) == "00:0d:3a:00:00:04"


@pytest.mark.parametrize("text", ["", "000D3A00000", "000D3A00000G", None, 5, "\u0660" * 12])
def test_what_is_no_mac_is_refused(text: object) -> None:
    with pytest.raises(ValueError, match="is not a MAC"):
        mac_of(text)


@pytest.fixture
def service() -> Iterator[tuple[str, list[dict[str, str]]]]:
    """A metadata service on loopback, and the headers it was sent."""
    seen: list[dict[str, str]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            body = json.dumps(COMPUTE).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_it_is_asked_directly_with_its_header(
    service: tuple[str, list[dict[str, str]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    url, seen = service
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    imds = Imds(url)
    assert imds.machine().vm_id == VM_ID
    imds.close()
    assert seen[0]["Metadata"] == "true"
    assert "X-Forwarded-For" not in seen[0]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param((404, b"<html>404 - Not Found</html>"), id="another cloud's"),
        pytest.param((401, b""), id="another cloud's that wants its token"),
        pytest.param(urllib3.exceptions.ConnectTimeoutError("timed out"), id="none"),
    ],
)
def test_a_machine_that_is_not_in_azure_is_told_so(answer: tuple[int, bytes] | Exception) -> None:
    imds, _, _ = made(answer)
    with pytest.raises(Transient, match="is this machine in Azure, as VPC_IPAMD_CLOUD=azure says"):
        imds.machine()
