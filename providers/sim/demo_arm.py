"""The demo as another client of ARM: what an administrator has on a machine's NICs beside pods'
addresses, put there at the start and looked at in the end.

Plain HTTPS with the machine's own identity, to be called inside its namespace. Documents are ARM's
JSON; those for machines of a scale set are the instance's model, where its NICs are (Microsoft's
REST reference: Network Interfaces, Virtual Machine Scale Set VMs).
"""

from __future__ import annotations

import copy
import json
import time
import urllib.error
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from providers.sim.demo_http import http

IMDS = "http://169.254.169.254/metadata"
CONFIG, OWNER = "appliance", "network-team"
_IMDS_VERSION, _TOKEN_VERSION = "2021-02-01", "2018-02-01"
_NIC_VERSION, _INSTANCE_VERSION = "2024-05-01", "2025-04-01"
_RESOURCE = "https://management.azure.com/"
_OURS = "ipamd-"  # docs/azure.md: what vpc-ipamd's configurations are known by
_BUSY = 429  # Azure REST: another operation is under way, or too many requests
_TRIES, _PAUSE_SECONDS = 20, 0.3
# What the service changes by itself with every write.
_CHANGING = frozenset({"etag", "provisioningState", "latestModelApplied", "timeCreated"})

Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """ARM with a token. `ca` is the file that its certificate is known by."""

    endpoint: str
    ca: str
    token: str

    def get(self, resource_id: str) -> Document:
        """A NIC, or the model of a scale set's instance."""
        return self._ask("GET", resource_id)

    def put(self, resource_id: str, document: Document) -> None:
        """Write all of it, unless somebody else has meanwhile."""
        self._ask("PUT", resource_id, document)

    def settled(self, resource_id: str) -> Document:
        """It, once no write is under way. TimeoutError if that takes too long."""
        for _ in range(_TRIES):
            found = self.get(resource_id)
            if found["properties"].get("provisioningState") == "Succeeded":
                return found
            time.sleep(_PAUSE_SECONDS)
        raise TimeoutError(f"{resource_id} is still being changed")

    def _ask(self, method: str, resource_id: str, document: Document | None = None) -> Document:
        version = _INSTANCE_VERSION if is_instance(resource_id) else _NIC_VERSION
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        if document is not None and "etag" in document:
            headers["If-Match"] = document["etag"]
        answer = patiently(
            method,
            f"{self.endpoint}{resource_id}?api-version={version}",
            headers,
            body=None if document is None else json.dumps(document).encode(),
            ca=self.ca,
        )
        found: Document = json.loads(answer or "{}")
        return found


def patiently(
    method: str, url: str, headers: Mapping[str, str], *, body: bytes | None = None, ca: str = ""
) -> str:
    """One request, made again while the answer is that somebody else is at work."""
    for _ in range(_TRIES):
        try:
            return http(method, url, headers, body=body, ca=ca)
        except urllib.error.HTTPError as e:
            if e.code != _BUSY:
                raise
            time.sleep(_PAUSE_SECONDS)
    raise TimeoutError(f"{url} is still busy")


def own_token() -> str:
    """A token of the machine's identity, by its metadata service."""
    query = f"api-version={_TOKEN_VERSION}&resource={_RESOURCE}"
    return str(_metadata(f"identity/oauth2/token?{query}")["access_token"])


def own_machine() -> Document:
    """What the metadata service says of the machine that asks."""
    return _metadata(f"instance/compute?api-version={_IMDS_VERSION}")


def _metadata(path: str) -> Document:
    found: Document = json.loads(patiently("GET", f"{IMDS}/{path}", {"Metadata": "true"}))
    return found


def is_instance(resource_id: str) -> bool:
    """Whether it is an instance of a Uniform scale set, whose NICs are in its model."""
    return "/virtualmachinescalesets/" in resource_id.lower()


def with_theirs(document: Document) -> Document:
    """The document with a tag, a field that nobody knows and, on each NIC, a network security group
    and a configuration of an administrator's own."""
    changed = copy.deepcopy(document)
    changed["tags"] = {**(changed.get("tags") or {}), "owner": OWNER}
    changed["properties"]["ofTomorrow"] = {"kept": True}
    group = document["id"].split("/providers/")[0]
    rules = f"{group}/providers/Microsoft.Network/networkSecurityGroups/{OWNER}"
    for nic in nics_of(changed):
        configs = nic["ipConfigurations"]
        nic["networkSecurityGroup"] = {"id": rules}
        configs.append({"name": CONFIG, "properties": _like(configs[0]["properties"])})
    return changed


def _like(primary: Document) -> Document:
    """A configuration for one address of the same subnet."""
    return {
        "primary": False,
        "privateIPAddressVersion": "IPv4",
        "subnet": primary["subnet"],
        # An instance's model has no method: its addresses are always the service's choice.
        **({"privateIPAllocationMethod": "Dynamic"} if "privateIPAddress" in primary else {}),
    }


def theirs(document: Document) -> Document:
    """The document without our configurations and what changes with every write."""
    kept: Document = _without_changing(copy.deepcopy(document))
    for nic in nics_of(kept):
        nic["ipConfigurations"] = [one for one in nic["ipConfigurations"] if not is_ours(one)]
    return kept


def is_ours(config: Mapping[str, Any]) -> bool:
    """Whether vpc-ipamd made the configuration, by its name."""
    return str(config["name"]).lower().startswith(_OURS)


def nics_of(document: Document) -> Iterator[Document]:
    """The properties of each NIC: of the one that it is, or of those in an instance's model."""
    properties = document["properties"]
    model = properties.get("networkProfileConfiguration")
    if model is None:
        yield properties
    else:
        for nic in model["networkInterfaceConfigurations"]:
            yield nic["properties"]


def _without_changing(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_changing(one) for name, one in value.items() if name not in _CHANGING
        }
    return [_without_changing(one) for one in value] if isinstance(value, list) else value


def differences(before: Any, after: Any, path: str = "") -> tuple[str, ...]:
    """Where two documents differ, each as a path with what was and is there."""
    if isinstance(before, dict) and isinstance(after, dict):
        names = sorted({*before, *after})
        return tuple(
            found
            for name in names
            for found in differences(before.get(name), after.get(name), f"{path}/{name}")
        )
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        return tuple(
            found
            for number, (one, other) in enumerate(zip(before, after, strict=True))
            for found in differences(one, other, f"{path}/{number}")
        )
    return () if before == after else (f"{path} was {before!r}, is {after!r}",)
