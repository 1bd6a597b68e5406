"""The emulated Azure as a process of its own, and its timer."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from providers.sim.azure_server import parsed
from providers.sim.control import ControlClient
from tests.sim.lab import wait_until

TOKEN = (
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"
)
METADATA = {"Metadata": "true"}


@dataclass(slots=True)
class Running:
    """The process, what it printed and its control socket."""

    process: subprocess.Popen[str]
    said: dict[str, Any]
    control: ControlClient

    def get(self, service: str, path: str, headers: dict[str, str]) -> bytes:
        parts = urlsplit(self.said[service])
        assert parts.hostname is not None
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.said["ca"])
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.hostname, parts.port, context=context, timeout=10
            )
        else:
            connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=10)
        try:
            connection.request("GET", path, headers=headers)
            return connection.getresponse().read()
        finally:
            connection.close()

    def arm(self, path: str, version: str = "2025-04-01") -> Any:
        token = json.loads(self.get("imds", TOKEN, METADATA))["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        return json.loads(self.get("arm", f"{path}?api-version={version}", headers))


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    directory = tmp_path_factory.mktemp("azure")
    argv = [sys.executable, "-m", "providers.sim.azure_server", "--dir", str(directory)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        yield Running(process, said, ControlClient(directory / "control.sock"))
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == 0
    assert not (directory / "control.sock").exists()


@pytest.fixture(scope="module")
def node(running: Running) -> dict[str, Any]:
    subnets = [{"cidr": "10.0.1.0/24", "zone": "1"}]
    vpc = running.control.call("make_vpc", cidr="10.0.0.0/16", subnets=subnets)
    subnet_id = vpc["subnets"][0]["subnet_id"]
    made: dict[str, Any] = running.control.call(
        "add_node", name="n1", kind="scale-set", subnet_id=subnet_id
    )
    return made


def test_the_process_says_where_it_serves(running: Running) -> None:
    assert running.said["ready"] is True
    assert running.said.keys() == {"ready", "arm", "imds", "wireserver", "dns", "ca"}
    assert Path(running.said["ca"]).read_text().startswith("-----BEGIN CERTIFICATE-----")


def test_a_machine_gets_a_token_and_reads_itself_by_it(
    running: Running, node: dict[str, Any]
) -> None:
    compute = json.loads(
        running.get("imds", "/metadata/instance/compute?api-version=2021-02-01", METADATA)
    )
    assert running.arm(compute["resourceId"])["name"] == node["name"]


def test_operations_end_by_themselves(running: Running, node: dict[str, Any]) -> None:
    running.control.call("set_delays", write_seconds=0.05)
    running.control.call("reimage", instance_id=node["instance_id"])

    def is_over() -> bool:
        (row,) = running.control.call("state")["machines"]
        return bool(row["state"] == "Succeeded")

    wait_until(is_over)


def test_the_wireserver_answers_http_and_dns(running: Running, node: dict[str, Any]) -> None:
    path = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1"
    assert node["address"].encode() in running.get("wireserver", path, {})
    host, _, port = running.said["dns"].partition(":")
    asked = struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0) + b"\x02n1\0" + struct.pack(">HH", 1, 1)
    address = bytes(int(part) for part in node["address"].split("."))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(10)
        client.sendto(asked, (host, int(port)))
        assert client.recv(512).endswith(address)
    with socket.create_connection((host, int(port)), timeout=10) as stream:
        stream.sendall(struct.pack(">H", len(asked)) + asked)
        assert stream.makefile("rb").read(2 + len(asked) + 16).endswith(address)


@pytest.mark.parametrize("arguments", [[], ["--dir", "d", "--buckets", "ec2"]])
def test_a_wrong_command_line_ends_the_program(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parsed(arguments)
    assert "usage" in capsys.readouterr().err
