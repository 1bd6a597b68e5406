"""aws-node's checkpoint as text and as values (pure): what it holds of allocations, per card.

Format, as amazon-vpc-cni-k8s 1.20 writes it (`version` vpc-cni-ipam/1), one JSON object per file:
`allocations` is a list of {`networkName`, `containerID`, `ifName`, `ipv4` or `ipv6`,
`allocationTimestamp` (Unix nanoseconds), `metadata` {`k8sPodNamespace`, `k8sPodName`,
`interfacesCount`}}. Neither cooldowns nor ENIs nor branch ENI pods are in it. Older versions leave
out the time stamp, the metadata or the count.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from ipamd.model import IPAddress

VERSION = "vpc-cni-ipam/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One allocation of the checkpoint. Names are as written: nothing is checked but their type.

    `allocated_unix_ns` and `interfaces` are 0, the pod's names empty, where the file has none.
    """

    network_name: str
    container_id: str
    ifname: str
    addresses: tuple[IPAddress, ...]  # IPv4 first
    allocated_unix_ns: int = 0
    pod_namespace: str = ""
    pod_name: str = ""
    interfaces: int = 0


def parse(text: str) -> tuple[Entry, ...]:
    """The allocations of one file. Raises ValueError that says what cannot be read, and where.

    One address that cannot be read spoils the file: it may be a running pod's, and an address that
    is not known cannot be kept from other pods.
    """
    try:
        document = json.loads(text)
    except ValueError as e:
        raise ValueError(f"it is not JSON: {e}") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")
    if document.get("version") != VERSION:
        raise ValueError(f"its version is {document.get('version')!r}, this build reads {VERSION}")
    entries = document.get("allocations")
    if entries is None:  # how Go writes an empty list
        return ()
    if not isinstance(entries, list):
        raise ValueError("allocations is not a list")
    return tuple(_entry(raw, f"allocations[{number}]") for number, raw in enumerate(entries))


def _entry(raw: object, where: str) -> Entry:
    if not isinstance(raw, dict):
        raise ValueError(f"{where} is not an object")
    metadata = raw.get("metadata") or {}
    if not isinstance(metadata, dict):
        raise ValueError(f"{where}.metadata is not an object")
    found = (_address(raw, "ipv4", IPv4Address, where), _address(raw, "ipv6", IPv6Address, where))
    addresses = tuple(a for a in found if a is not None)
    if not addresses:
        raise ValueError(f"{where} has neither ipv4 nor ipv6")
    return Entry(
        network_name=_text(raw, "networkName", where),
        container_id=_text(raw, "containerID", where),
        ifname=_text(raw, "ifName", where),
        addresses=addresses,
        allocated_unix_ns=_whole(raw, "allocationTimestamp", where),
        pod_namespace=_text(metadata, "k8sPodNamespace", f"{where}.metadata"),
        pod_name=_text(metadata, "k8sPodName", f"{where}.metadata"),
        interfaces=_whole(metadata, "interfacesCount", f"{where}.metadata"),
    )


def _text(raw: dict[str, Any], name: str, where: str) -> str:
    value = raw.get(name, "")
    if not isinstance(value, str):
        raise ValueError(f"{where}.{name} is {value!r}, not text")
    return value


def _whole(raw: dict[str, Any], name: str, where: str) -> int:
    value = raw.get(name, 0)
    if type(value) is not int:  # True is an int to isinstance
        raise ValueError(f"{where}.{name} is {value!r}, not a whole number")
    return value


def _address(
    raw: dict[str, Any], name: str, kind: type[IPv4Address | IPv6Address], where: str
) -> IPAddress | None:
    text = _text(raw, name, where)
    if not text:
        return None
    try:
        return kind(text)
    except ValueError as e:
        raise ValueError(f"{where}.{name}: {e}") from None


def text_of(entries: tuple[Entry, ...]) -> str:
    """The file that holds these allocations; `parse` reads it back."""
    return json.dumps({"version": VERSION, "allocations": [_raw(e) for e in entries]})


def _raw(entry: Entry) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "networkName": entry.network_name,
        "containerID": entry.container_id,
        "ifName": entry.ifname,
    }
    raw |= {f"ipv{a.version}": str(a) for a in entry.addresses}
    raw["allocationTimestamp"] = entry.allocated_unix_ns
    metadata = {
        "k8sPodNamespace": entry.pod_namespace,
        "k8sPodName": entry.pod_name,
        "interfacesCount": entry.interfaces,
    }
    # Left out where empty, as aws-node does.
    return raw | {"metadata": {name: value for name, value in metadata.items() if value}}
