"""The emulated Azure on the fabric: a machine's services, at the addresses it expects them."""

from __future__ import annotations

import functools
import http.client
import json
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from ipaddress import IPv4Interface
from typing import TypeVar

import pytest

from providers.sim import netns
from providers.sim.lab import Lab
from providers.sim.lab_netlink import Netlink
from providers.sim.lab_node import Node

pytestmark = pytest.mark.netns

IMDS, WIRESERVER = "169.254.169.254", "168.63.129.16"
TOKEN = (
    "/metadata/identity/oauth2/token?api-version=2018-02-01&resource=https://management.azure.com/"
)
INTERFACES = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1"
QUESTION = struct.pack(">HHHHHH", 7, 0, 1, 0, 0, 0) + b"\x02n2\0" + struct.pack(">HH", 1, 1)
Result = TypeVar("Result")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("a"), cloud="azure", fabric_name="azure-vnet") as lab:
        lab.start()
        lab.add_node("n1", nics=2)
        lab.add_node("n2", kind="scale-set")
        yield lab


def on(node: Node, body: Callable[[], Result]) -> Result:
    return netns.call_in(node.netns_path, body)


def get(host: str, path: str, source: str = "", **headers: str) -> bytes:
    connection = http.client.HTTPConnection(host, timeout=5, source_address=(source, 0))
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().read()
    finally:
        connection.close()


def own_id() -> str:
    path = "/metadata/instance/compute?api-version=2021-02-01"
    return str(json.loads(get(IMDS, path, Metadata="true"))["resourceId"])


def resolved(source: str = "") -> bytes:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.5)
        client.bind((source, 0))
        client.sendto(QUESTION, (WIRESERVER, 53))
        return client.recv(512)


@pytest.mark.parametrize("name", ["n1", "n2"])
def test_each_machine_is_told_of_itself(lab: Lab, name: str) -> None:
    node = lab.nodes[name]
    assert node.identity is not None
    assert on(node, own_id).lower() == node.identity.instance_id
    interfaces = on(node, lambda: get(WIRESERVER, INTERFACES))
    assert str(node.identity.address).encode() in interfaces


def test_a_machine_reaches_arm_by_tls_with_its_own_token(lab: Lab) -> None:
    ca = lab.said["ca"]

    def read() -> str:
        token = json.loads(get(IMDS, TOKEN, Metadata="true"))["access_token"]
        context = ssl.create_default_context(cafile=ca)
        host = lab.said["arm"].removeprefix("https://")
        connection = http.client.HTTPSConnection(host, context=context, timeout=5)
        try:
            headers = {"Authorization": f"Bearer {token}"}
            connection.request("GET", f"{own_id()}?api-version=2025-04-01", headers=headers)
            return str(json.loads(connection.getresponse().read())["name"])
        finally:
            connection.close()

    assert on(lab.nodes["n1"], read) == "n1"


def test_a_machine_finds_another_by_dns(lab: Lab) -> None:
    other = lab.nodes["n2"].identity
    assert other is not None
    assert on(lab.nodes["n1"], resolved).endswith(other.address.packed)


def test_the_services_answer_no_address_but_the_primary_one(lab: Lab) -> None:
    node = lab.nodes["n2"]
    assert node.identity is not None
    subnet = node.identity.subnet_cidr
    other = IPv4Interface((subnet.network_address + 100, subnet.prefixlen))
    _assign(lab, node, str(other.ip))

    def put_on_link() -> None:
        with Netlink() as netlink:
            index = netlink.index("eth0")
            assert index is not None
            netlink.replace_address(index, other)

    on(node, put_on_link)
    for host, path in ((IMDS, "/metadata/versions"), (WIRESERVER, INTERFACES)):
        ask = functools.partial(get, host, path, str(other.ip), Metadata="true")
        with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
            on(node, ask)
    with pytest.raises(TimeoutError):
        on(node, lambda: resolved(str(other.ip)))
    assert lab.control.call("dropped") == []


def _assign(lab: Lab, node: Node, address: str) -> None:
    """The address on the NIC: the lowest free one, once all below it are others'."""
    assert node.identity is not None and lab.vpc is not None
    subnet_id = lab.vpc.subnet_ids[0]
    (row,) = (one for one in lab.control.call("state")["subnets"] if one["subnet_id"] == subnet_id)
    below = 100 - 4 - (251 - row["free"])
    lab.control.call("fill_subnet", subnet_id=subnet_id, leave_free=row["free"] - below)
    machine_id, ca, arm = on(node, own_id), lab.said["ca"], lab.said["arm"]

    def write() -> int:
        token = json.loads(get(IMDS, TOKEN, Metadata="true"))["access_token"]
        headers = {"Authorization": f"Bearer {token}"}
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(
            arm.removeprefix("https://"), context=context, timeout=5
        )
        path = f"{machine_id}?api-version=2025-04-01"
        try:
            connection.request("GET", path, headers=headers)
            body = json.loads(connection.getresponse().read())
            model = body["properties"]["networkProfileConfiguration"]
            rows = model["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"]
            subnet = rows[0]["properties"]["subnet"]
            rows.append({"name": "second", "properties": {"subnet": subnet, "primary": False}})
            connection.request("PUT", path, json.dumps(body), headers)
            return connection.getresponse().status
        finally:
            connection.close()

    assert on(node, write) == 200
    has = [one["addresses"] for one in lab.control.call("state")["enis"]]
    assert any(address in addresses for addresses in has), has
