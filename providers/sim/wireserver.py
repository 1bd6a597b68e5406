"""The wireserver at 168.63.129.16: what the platform itself tells a machine, and DNS.

Answers the machine's primary address only, as the metadata service does. It serves the list of
interfaces that Azure's own CNI reads, the network containers of NMAgent (none here: they belong to
the delegated modes), the protocol versions a guest agent asks for, and DNS for the machines' names.

Sources: "What is IP address 168.63.129.16?"; the shape of the interface list is what
Azure/azure-container-networking parses (cns/wireserver); DNS is RFC 1035.
"""

from __future__ import annotations

import json
import struct
from ipaddress import IPv4Address
from urllib.parse import parse_qs
from xml.etree import ElementTree as ET

from providers.sim.azure_machines import Machine, MachineNic, Machines, asking
from providers.sim.http_door import Answer, Call

DNS_SUFFIX = "internal.cloudapp.net"
_NMAGENT_VERSIONS = "networkmanagement/interfaces/api-version/2"
_PROTOCOLS = ("2012-11-30", "2012-09-15", "2012-05-15", "2011-12-31", "2011-10-15")

_HEADER = struct.Struct(">HHHHHH")
_QUESTION_END = struct.Struct(">HH")
_TYPE_A, _CLASS_IN = 1, 1
_ANSWERED, _RECURSION_DESIRED, _AUTHORITATIVE = 0x8000, 0x0100, 0x0400
_NO_SUCH_NAME = 3
_TTL_SECONDS = 10
_POINTER_TO_QUESTION = 0xC000 | _HEADER.size


class Wireserver:
    """The wireserver of all machines of one emulated Azure.

    `trusts_names`: without a fabric every client is on loopback; the header `X-Sim-Instance` or
    the only machine there is tells who asks.
    """

    def __init__(self, machines: Machines, *, trusts_names: bool) -> None:
        self._machines = machines
        self._trusts_names = trusts_names

    def respond(self, call: Call) -> Answer | None:
        """Answer one request; None closes the connection without a word: not a primary address."""
        machine = self._who_asks(call.peer, call.headers.get("x-sim-instance", ""))
        if machine is None:
            return None
        if call.method != "GET":
            return Answer(status=405)
        path, _, query = call.path.partition("?")
        asked = {key.lower(): value[0].lower() for key, value in parse_qs(query).items()}
        return _page(path.lower().strip("/"), asked, machine)

    def resolve(self, query: bytes, peer: str) -> bytes | None:
        """The answer to one DNS message; None for what is none, or not from a primary address.

        Names are those of machines, by resource or host, alone or below `DNS_SUFFIX`; no other
        exists.
        """
        if self._who_asks(peer, "") is None or len(query) < _HEADER.size:
            return None
        identity, flags, questions, *_ = _HEADER.unpack_from(query)
        if flags & _ANSWERED or questions != 1 or (asked := _question(query)) is None:
            return None
        name, kind, end = asked
        machine = self._named(name)
        address = machine.primary_address if machine and kind == _TYPE_A else None
        code = 0 if machine else _NO_SUCH_NAME
        said = _ANSWERED | _AUTHORITATIVE | flags & _RECURSION_DESIRED | code
        head = _HEADER.pack(identity, said, 1, 1 if address else 0, 0, 0)
        return head + query[_HEADER.size : end] + (_record(address) if address else b"")

    def _who_asks(self, peer: str, name: str) -> Machine | None:
        if not self._trusts_names:
            return asking(self._machines, peer)
        machines = self._machines.all_machines()
        if name:
            return next((m for m in machines if m.name.lower() == name.lower()), None)
        return machines[0] if len(machines) == 1 else None

    def _named(self, name: str) -> Machine | None:
        host = name.lower().rstrip(".").removesuffix(f".{DNS_SUFFIX}")
        machines = self._machines.all_machines()
        return next((m for m in machines if host in (m.name.lower(), m.host_name.lower())), None)


def _page(path: str, asked: dict[str, str], machine: Machine) -> Answer:
    if path == "machine/plugins" and asked.get("comp") == "nmagent":
        kind = asked.get("type", "")
        if kind == "getinterfaceinfov1":
            return _xml(_interfaces(machine))
        if kind == _NMAGENT_VERSIONS:
            return _network_containers()
    if path == _NMAGENT_VERSIONS:
        return _network_containers()
    if path == "" and asked.get("comp") == "versions":
        return _xml(_versions())
    return Answer(status=404)


def _interfaces(machine: Machine) -> ET.Element:
    """Interfaces of the machine with all single addresses; blocks are not in it."""
    root = ET.Element("Interfaces")
    for nic in machine.nics:
        _add_interface(root, nic)
    return root


def _add_interface(root: ET.Element, nic: MachineNic) -> None:
    interface = ET.SubElement(
        root,
        "Interface",
        MacAddress=nic.mac.replace(":", "").upper(),
        IsPrimary=_truth(nic.is_primary),
    )
    subnet = ET.SubElement(interface, "IPSubnet", Prefix=str(nic.subnet_cidr))
    for place, address in enumerate(nic.addresses):
        ET.SubElement(subnet, "IPAddress", Address=str(address), IsPrimary=_truth(place == 0))


def _versions() -> ET.Element:
    root = ET.Element("Versions")
    preferred = ET.SubElement(root, "Preferred")
    ET.SubElement(preferred, "Version").text = _PROTOCOLS[0]
    supported = ET.SubElement(root, "Supported")
    for version in _PROTOCOLS:
        ET.SubElement(supported, "Version").text = version
    return root


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _xml(root: ET.Element) -> Answer:
    body = ET.tostring(root, encoding="utf-8", xml_declaration=True)
    return Answer(status=200, headers={"Content-Type": "text/xml; charset=utf-8"}, body=body)


def _network_containers() -> Answer:
    body = json.dumps({"httpStatusCode": "200", "networkContainers": []}).encode()
    return Answer(status=200, headers={"Content-Type": "application/json"}, body=body)


def _question(query: bytes) -> tuple[str, int, int] | None:
    """Name, type and end of the one question; None when the message is cut or not of class IN."""
    labels: list[str] = []
    place = _HEADER.size
    while place < len(query) and (length := query[place]):
        if length > 63 or place + 1 + length > len(query):
            return None
        labels.append(query[place + 1 : place + 1 + length].decode("ascii", "replace"))
        place += 1 + length
    end = place + 1 + _QUESTION_END.size
    if end > len(query):
        return None
    kind, family = _QUESTION_END.unpack_from(query, place + 1)
    return (".".join(labels), kind, end) if family == _CLASS_IN else None


def _record(address: IPv4Address) -> bytes:
    head = struct.pack(">HHHIH", _POINTER_TO_QUESTION, _TYPE_A, _CLASS_IN, _TTL_SECONDS, 4)
    return head + address.packed
