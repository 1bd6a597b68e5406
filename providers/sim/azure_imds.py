"""The emulated instance metadata service of Azure, and the tokens of managed identities.

One service answers for all machines: who asks is told by the source address, which has to be the
primary address of the machine's primary NIC. Any other source gets nothing at all: its connection
is closed without a word. Without a fabric every client comes from loopback; then a path that begins
with `/instance/<machine name>` or the header `X-Sim-Instance` names the machine (by name or ARM
id), and if there is one machine only, nothing need.

Sources: "Azure Instance Metadata Service" (header Metadata, X-Forwarded-For refused, error bodies,
5 requests a second, leaves need format=text) and "How to use managed identities to acquire an
access token" of Microsoft's pages.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qs, unquote

from providers.sim.azure_imds_tree import Falsehoods, instance_tree, node_at
from providers.sim.azure_machines import Machine, Machines, asking
from providers.sim.buckets import Bucket, BucketSize
from providers.sim.http_door import Answer, Call
from providers.sim.imds_faults import DOWN_HOLD_SECONDS, ImdsFault, ImdsFaultKind

Clock = Callable[[], float]

# The newest first; what the documentation lists, of which clients use 2018-02-01 to 2021-12-13.
API_VERSIONS = (
    "2023-11-15",
    "2023-07-01",
    "2021-12-13",
    "2021-11-15",
    "2021-11-01",
    "2021-10-01",
    "2021-05-01",
    "2021-03-01",
    "2021-02-01",
    "2021-01-01",
    "2020-12-01",
    "2020-10-01",
    "2020-09-01",
    "2020-07-15",
    "2020-06-01",
    "2019-11-01",
    "2019-08-15",
    "2019-08-01",
    "2019-06-04",
    "2019-06-01",
    "2019-04-30",
    "2019-03-11",
    "2019-02-01",
    "2018-10-01",
    "2018-04-02",
    "2018-02-01",
    "2017-12-01",
    "2017-08-01",
    "2017-04-02",
)
REQUESTS = BucketSize(capacity=5, refill_per_second=5)
TOKEN_SECONDS = 86_399  # what the service answers for a fresh token


class Tokens(Protocol):
    """Whoever issues the tokens that the emulated ARM accepts."""

    def issue(self, principal: str, seconds: float, resource: str) -> str:
        """A bearer token for a principal and a resource that lives so long."""


@dataclass(slots=True, kw_only=True)
class AzureImdsSettings:
    """How the service behaves; may be changed while it serves.

    `trusts_names`: machines may be named by header or path, for want of a fabric. `lists_blocks`:
    None lists no address of a block, "first" the base of each, "all" every address: what the real
    service does is documented nowhere.
    """

    trusts_names: bool
    lag_seconds: float = 0.0
    lists_blocks: str | None = None
    is_throttled: bool = True
    token_seconds: float = TOKEN_SECONDS
    faults: list[ImdsFault] = field(default_factory=list)


class AzureImds:
    """The metadata service of all machines of one emulated Azure."""

    def __init__(
        self,
        machines: Machines,
        tokens: Tokens,
        settings: AzureImdsSettings,
        clock: Clock,
        stopping: threading.Event,
    ) -> None:
        self.settings = settings
        self._machines = machines
        self._tokens = tokens
        self._clock = clock
        self._stopping = stopping
        self._buckets: dict[str, Bucket] = {}
        self._lock = threading.Lock()

    def respond(self, call: Call) -> Answer | None:
        """Answer one request; None means that the connection is to be closed without one."""
        machine, path = self._who_asks(call)
        if machine is None:
            return None
        now = self._clock()
        names = (machine.name, machine.machine_id)
        faults = [one for one in self.settings.faults if one.strikes(now, *names)]
        kinds = {fault.kind: fault for fault in faults}
        if ImdsFaultKind.DOWN in kinds:
            self._stopping.wait(DOWN_HOLD_SECONDS)
            return None
        if error := kinds.get(ImdsFaultKind.ERROR):
            return _json(int(error.value or 500), {"error": "the metadata service fails"})
        if not self._has_request_left(machine, now):
            return _json(429, {"error": "Too many requests"}, {"Retry-After": "1"})
        if refusal := _refusal(call, path):
            return refusal
        query = parse_qs(call.path.partition("?")[2])
        return self._route(path, {key: values[0] for key, values in query.items()}, machine, faults)

    def _who_asks(self, call: Call) -> tuple[Machine | None, str]:
        path = unquote(call.path.partition("?")[0])
        if not self.settings.trusts_names:
            return asking(self._machines, call.peer), path
        name = call.headers.get("x-sim-instance", "")
        if path.startswith("/instance/"):
            name, _, rest = path.removeprefix("/instance/").partition("/")
            path = f"/{rest}"
        machines = self._machines.all_machines()
        if not name:
            return (machines[0] if len(machines) == 1 else None), path
        named = name.lower()
        found = (m for m in machines if named in (m.name.lower(), m.machine_id.lower()))
        return next(found, None), path

    def _has_request_left(self, machine: Machine, now: float) -> bool:
        if not self.settings.is_throttled:
            return True
        with self._lock:
            bucket = self._buckets.get(machine.machine_id, Bucket.full(REQUESTS, now)).at(now)
            left = bucket.spent(1)
            self._buckets[machine.machine_id] = left or bucket
        return left is not None

    def _route(
        self, path: str, query: Mapping[str, str], machine: Machine, faults: list[ImdsFault]
    ) -> Answer:
        path = path.rstrip("/").lower()
        if path == "/metadata/versions":
            return _json(200, {"apiVersions": list(reversed(API_VERSIONS))})
        if path == "/metadata/identity/oauth2/token":
            return self._token(query, machine)
        if refusal := _version_refusal(query.get("api-version", "")):
            return refusal
        if path == "/metadata/scheduledevents":
            return _json(200, {"DocumentIncarnation": 1, "Events": []})
        if path == "/metadata/instance" or path.startswith("/metadata/instance/"):
            below = path.removeprefix("/metadata/instance")
            return self._instance(below, query.get("format", "json"), machine, faults)
        return _json(404, {"error": "Not found"})

    def _instance(
        self, below: str, asked_format: str, machine: Machine, faults: list[ImdsFault]
    ) -> Answer:
        settings = self.settings
        past = self._machines.all_machines(settings.lag_seconds)
        shown = next((m for m in past if m.machine_id == machine.machine_id), machine)
        lies = Falsehoods(
            values={
                fault.path: fault.value
                for fault in faults
                if fault.kind is ImdsFaultKind.WRONG_VALUE
            },
            hidden=frozenset(
                fault.value.lower() for fault in faults if fault.kind is ImdsFaultKind.MISSING_ENI
            ),
        )
        node = node_at(instance_tree(shown, settings.lists_blocks, lies), below)
        if node is None:
            return _json(404, {"error": "Not found"})
        if isinstance(node, (dict, list)):
            return _json(200, node) if asked_format == "json" else _listing(node)
        if asked_format != "text":
            return _bad("Bad request. A leaf is given as format=text")
        return Answer(status=200, headers={"Content-Type": "text/plain"}, body=str(node).encode())

    def _token(self, query: Mapping[str, str], machine: Machine) -> Answer:
        """A token for the machine's identity, valid for `token_seconds` of the service's clock."""
        if not query.get("api-version"):
            return _no_token("invalid_request", "Required query variable 'api-version' is missing")
        if not (resource := query.get("resource", "")):
            return _no_token("invalid_request", "Required query variable 'resource' is missing")
        client_id = query.get("client_id", "")
        if client_id and client_id not in machine.client_ids:
            return _no_token("invalid_request", "Identity not found")
        now, seconds = self._clock(), self.settings.token_seconds
        principal = client_id or f"system:{machine.vm_id}"
        told = {
            "access_token": self._tokens.issue(principal, seconds, resource),
            "client_id": client_id or machine.vm_id,
            "expires_in": str(int(seconds)),
            "expires_on": str(int(now + seconds)),
            "ext_expires_in": str(int(seconds)),
            "not_before": str(int(now)),
            "resource": resource,
            "token_type": "Bearer",
        }
        return _json(200, told)


def _refusal(call: Call, path: str) -> Answer | None:
    """What is refused before it is understood: proxies, no header, another verb than GET."""
    is_token = path.lower().startswith("/metadata/identity")
    if "x-forwarded-for" in call.headers:
        text = "Bad request. X-Forwarded-For is not accepted"
        return _no_token("invalid_request", text) if is_token else _bad(text)
    if call.headers.get("metadata", "").lower() != "true":
        if is_token:
            return _no_token("invalid_request", "Required metadata header not specified")
        return _bad("Bad request. Required metadata header not specified")
    if call.method not in ("GET", "HEAD"):
        return _json(405, {"error": "Method not allowed"})
    return None


def _version_refusal(version: str) -> Answer | None:
    if version in API_VERSIONS:
        return None
    text = "was not specified in the request" if not version else "is not supported"
    body = {
        "error": f"Bad request. api-version {text}",
        "newest-versions": list(API_VERSIONS[:3]),
    }
    return _json(400, body)


def _bad(text: str) -> Answer:
    return _json(400, {"error": text})


def _no_token(error: str, text: str) -> Answer:
    return _json(400, {"error": error, "error_description": text})


def _listing(node: dict[str, Any] | list[Any]) -> Answer:
    """A directory as format=text: its entries, those that are directories with a slash."""
    entries = (
        [f"{key}/" if isinstance(value, (dict, list)) else key for key, value in node.items()]
        if isinstance(node, dict)
        else [f"{place}/" for place in range(len(node))]
    )
    return Answer(
        status=200, headers={"Content-Type": "text/plain"}, body="\n".join(entries).encode()
    )


def _json(status: int, value: object, headers: Mapping[str, str] | None = None) -> Answer:
    return Answer(
        status=status,
        headers={
            "Content-Type": "application/json; charset=utf-8",
            "Server": "IMDS/150.870.65.1854",
            **(headers or {}),
        },
        body=json.dumps(value).encode(),
    )
