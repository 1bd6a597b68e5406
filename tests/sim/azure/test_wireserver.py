"""The wireserver of the emulated Azure, by itself."""

from __future__ import annotations

import json
import struct
from xml.etree import ElementTree as ET

import pytest

from providers.sim.http_door import Answer
from providers.sim.wireserver import Wireserver
from tests.sim.azure.machines import PRIMARY, FixedMachines, asked, machine, nic

INTERFACES = "/machine/plugins?comp=nmagent&type=getinterfaceinfov1"


def wireserver(*machines: object) -> Wireserver:
    return Wireserver(FixedMachines(machines or (machine(),)), trusts_names=False)  # type: ignore[arg-type]


def page(path: str, peer: str = PRIMARY) -> Answer | None:
    second = nic("nic-1", ("10.0.1.9",), is_primary=False)
    return wireserver(machine(nics=(nic(), second))).respond(asked(path, peer))


def question(name: str, kind: int = 1, family: int = 1) -> bytes:
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return (
        struct.pack(">HHHHHH", 7, 0x0100, 1, 0, 0, 0)
        + labels
        + b"\0"
        + struct.pack(">HH", kind, family)
    )


def test_the_interfaces_are_listed_with_their_addresses() -> None:
    answer = page(INTERFACES)
    assert answer is not None
    first, second = ET.fromstring(answer.body)
    assert first.attrib == {"MacAddress": "000D3A328570", "IsPrimary": "true"}
    assert second.attrib["IsPrimary"] == "false"
    (subnet,) = first
    assert (subnet.tag, subnet.attrib) == ("IPSubnet", {"Prefix": "10.0.1.0/24"})
    assert [address.attrib for address in subnet] == [
        {"Address": "10.0.1.4", "IsPrimary": "true"},
        {"Address": "10.0.1.5", "IsPrimary": "false"},
    ]


@pytest.mark.parametrize(
    "path",
    [
        "/NetworkManagement/interfaces/api-version/2",
        "/machine/plugins/?comp=nmagent&type=NetworkManagement/interfaces/api-version/2",
    ],
)
def test_the_agent_of_the_host_has_no_network_containers(path: str) -> None:
    answer = page(path)
    assert answer is not None
    assert json.loads(answer.body)["networkContainers"] == []


def test_a_guest_agent_finds_the_protocol_versions() -> None:
    answer = page("/?comp=versions")
    assert answer is not None
    assert ET.fromstring(answer.body).findtext("Preferred/Version") == "2012-11-30"


def test_another_page_does_not_exist() -> None:
    answer = page("/machine/plugins?comp=nmagent&type=other")
    assert answer is not None
    assert answer.status == 404


@pytest.mark.parametrize("peer", ["10.0.1.5", "10.0.1.9", "10.0.1.77"])
def test_any_source_but_the_primary_address_gets_nothing_from_it(peer: str) -> None:
    assert page(INTERFACES, peer) is None
    assert wireserver().resolve(question("vm1"), peer) is None


@pytest.mark.parametrize("name", ["vm1", "VM1.internal.cloudapp.net", "vm1-host"])
def test_dns_knows_the_machines(name: str) -> None:
    answer = wireserver().resolve(question(name), PRIMARY)
    assert answer is not None
    identity, flags, questions, answers, *_ = struct.unpack_from(">HHHHHH", answer)
    assert (identity, flags & 0x800F, questions, answers) == (7, 0x8000, 1, 1)
    assert answer.endswith(bytes([10, 0, 1, 4]))


def test_dns_says_that_another_name_does_not_exist() -> None:
    answer = wireserver().resolve(question("example.org"), PRIMARY)
    assert answer is not None
    assert answer[3] & 0x0F == 3


def test_dns_has_no_ipv6_address_of_a_machine() -> None:
    answer = wireserver().resolve(question("vm1", kind=28), PRIMARY)
    assert answer is not None
    assert struct.unpack_from(">HHHHHH", answer)[3] == 0


@pytest.mark.parametrize(
    "message",
    [b"", b"\0" * 11, question("vm1")[:-3], question("vm1", family=3), b"\xff" * 40],
    ids=["empty", "no header", "cut", "another class", "an answer"],
)
def test_dns_leaves_unanswered_what_is_no_question(message: bytes) -> None:
    assert wireserver().resolve(message, PRIMARY) is None
