"""What tests of the emulated Microsoft.Network build with: a VNET, raw requests, the real SDK."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from azure.core.pipeline import PipelineRequest
from azure.core.pipeline.policies import SansIOHTTPPolicy
from azure.mgmt.network import NetworkManagementClient

from providers.sim import arm_network, arm_status
from providers.sim.arm import Arm
from providers.sim.arm_outsiders import Outsiders
from providers.sim.arm_state import ArmState
from providers.sim.arm_tokens import TokenIssuer
from providers.sim.http_door import RESET, Answer, Call
from tests.sim.lab import ManualClock

SUBSCRIPTION = "00000000-0000-0000-0000-000000000001"
GROUP = f"/subscriptions/{SUBSCRIPTION}/resourceGroups/rg1"
NETWORK = f"{GROUP}/providers/Microsoft.Network"
VNET = f"{NETWORK}/virtualNetworks/vnet1"
PODS, SMALL, OTHER = (f"{VNET}/subnets/{name}" for name in ("pods", "small", "other"))
VM = f"{GROUP}/providers/Microsoft.Compute/virtualMachines/vm1"
NSG = f"{NETWORK}/networkSecurityGroups/nsg1"
ASG = f"{NETWORK}/applicationSecurityGroups/asg1"
VERSION = "2026-03-01"  # what azure-mgmt-network 33.1.0 sends
Json = dict[str, Any]


def nic_id(name: str = "nic1") -> str:
    return f"{NETWORK}/networkInterfaces/{name}"


def config(name: str, *, subnet: str = PODS, **properties: Any) -> Json:
    """A Dynamic configuration unless `properties` says otherwise."""
    given = {"privateIPAllocationMethod": "Dynamic", "subnet": {"id": subnet}, **properties}
    return {"name": name, "properties": given}


def primary(name: str = "ipconfig1", **properties: Any) -> Json:
    return config(name, primary=True, **properties)


def block(name: str, **properties: Any) -> Json:
    return config(name, privateIPAddressPrefixLength=28, **properties)


def static(name: str, address: str, **properties: Any) -> Json:
    method = {"privateIPAllocationMethod": "Static", "privateIPAddress": address}
    return config(name, **{**method, **properties})


def request(method: str, path: str, body: Any, *, version: str, query: str, **headers: str) -> Call:
    """A request as a door hands it on; a body may be raw bytes, a header is named with _ for -."""
    asked = "&".join(part for part in (version and f"api-version={version}", query) if part)
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Call(
        method=method,
        path=f"{path}?{asked}" if asked else path,
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        body=raw,
        peer="127.0.0.1",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    status: int
    headers: dict[str, str]
    raw: bytes

    @staticmethod
    def of(answer: Answer | None) -> Reply:
        assert answer is not None and answer is not RESET, "the request was not answered"
        headers = {name.lower(): value for name, value in answer.headers.items()}
        return Reply(status=answer.status, headers=headers, raw=answer.body)

    @property
    def body(self) -> Json:
        shown: Json = json.loads(self.raw)
        return shown

    @property
    def code(self) -> str:
        return str(self.body["error"]["code"])

    @property
    def message(self) -> str:
        return str(self.body["error"]["message"])

    @property
    def refusal(self) -> tuple[int, str]:
        return self.status, self.code

    @property
    def configs(self) -> list[Json]:
        """The ipConfigurations of a NIC, each flat: its properties beside its name."""
        rows = self.body["properties"]["ipConfigurations"]
        return [{**row, **row["properties"]} for row in rows]

    @property
    def addresses(self) -> dict[str, str]:
        return {row["name"]: row["privateIPAddress"] for row in self.configs}


@dataclass(slots=True)
class NetworkLab:
    """An ARM with a VNET of a /24, a /28 and another /24; nothing but requests in between."""

    clock: ManualClock = field(default_factory=ManualClock)
    state: ArmState = field(init=False)
    arm: Arm = field(init=False)
    outsiders: Outsiders = field(init=False)
    token: str = field(init=False)
    scheme: str = "http"

    def __post_init__(self) -> None:
        self.state = ArmState(self.clock, seed=7)
        self.arm = Arm(self.state, TokenIssuer(self.clock, seed=7))
        self.outsiders = Outsiders(self.state)
        self.token = self.arm.tokens.issue()
        arm_status.add_routes(self.arm)
        arm_network.add_routes(self.arm)
        self.build()

    def build(self) -> None:
        subnets = {"pods": "10.0.1.0/24", "small": "10.0.2.0/28", "other": "10.0.3.0/24"}
        self.state.add_vnet(VNET, ("10.0.0.0/16",), subnets)

    def set(self, **changes: Any) -> None:
        """Change the emulator's behaviour; see `Behaviour`."""
        self.state.behaviour = replace(self.state.behaviour, **changes)

    def answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        version: str = VERSION,
        query: str = "",
        **headers: str,
    ) -> Answer | None:
        """What `respond` answers; a header is named with _ for -."""
        sent = {"host": "arm.sim:8443", "authorization": f"Bearer {self.token}", **headers}
        call = request(method, path, body, version=version, query=query, **sent)
        return self.arm.respond(call, self.scheme)

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Reply:
        return Reply.of(self.answer(method, path, body, **more))

    def get(self, path: str = "", **more: Any) -> Reply:
        return self.call("GET", path or nic_id(), **more)

    def put(self, *configs: Json, nic: str = "nic1", **more: Any) -> Reply:
        """PUT a NIC of these configurations; what else `body` has is at `properties` and above."""
        headers = {name: more.pop(name) for name in tuple(more) if name.startswith("if_")}
        version = more.pop("version", VERSION)
        properties = {"ipConfigurations": list(configs), **more.pop("properties", {})}
        body = {"location": "westeurope", "properties": properties, **more}
        return self.call("PUT", nic_id(nic), body, version=version, **headers)

    def follow(self, url: str, **more: Any) -> Reply:
        """GET an absolute URL that the emulator named."""
        assert url.startswith("http://arm.sim:8443/"), url
        path, _, query = url.removeprefix("http://arm.sim:8443").partition("?")
        return self.call("GET", path, version="", query=query, **more)

    def usage(self, subnet: str = PODS) -> tuple[int, int]:
        """currentValue and limit of a subnet."""
        rows = self.get(f"{VNET}/usages").body["value"]
        row = next(row for row in rows if row["id"] == subnet)
        return row["currentValue"], row["limit"]

    def free(self, subnet: str = PODS) -> int:
        """How many addresses the subnet could still give, whatever is shown of it."""
        return self.state.subnet(subnet).pool.free_count

    def attach(self, name: str = "nic1", *, index: int = 0, wired: bool = True) -> None:
        path = "/run/netns/vm1" if wired else ""
        self.state.attach(nic_id(name), VM, device_index=index, netns_path=path)


class SendsToken(SansIOHTTPPolicy[Any, Any]):
    """Sends a bearer token over plain http, which the SDK's own policy refuses."""

    def __init__(self, lab: NetworkLab) -> None:
        self._lab = lab

    def on_request(self, request: PipelineRequest[Any]) -> None:
        request.http_request.headers["Authorization"] = f"Bearer {self._lab.token}"


class _NoCredential:
    """The client asks for one; our policy is what speaks."""

    def get_token(self, *scopes: str, **kwargs: Any) -> Any:
        raise AssertionError("the SDK's own policy is in use")


def network_client(lab: NetworkLab, url: str) -> NetworkManagementClient:
    """The unmodified SDK's client, one attempt for each call."""
    return NetworkManagementClient(
        _NoCredential(),
        SUBSCRIPTION,
        base_url=url,
        authentication_policy=SendsToken(lab),
        retry_total=0,
        polling_interval=0,
    )


def each_page(lab: NetworkLab, path: str) -> Iterator[list[str]]:
    """The names on each page of a list."""
    page = lab.get(path)
    while True:
        yield [row["name"] for row in page.body["value"]]
        if "nextLink" not in page.body:
            return
        page = lab.follow(page.body["nextLink"])
