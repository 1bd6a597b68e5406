"""What the tests of the Azure provider share: a transport that answers as told, below the real SDK,
and bodies as ARM gives them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.core.pipeline.transport import HttpTransport

from ipamd.api_calls import ApiCall
from providers.azure.api import ArmApi
from providers.azure.credentials import RenewableCredential
from providers.azure.pipeline import Pipeline
from providers.azure.purse import Purse

ENDPOINT = "https://arm.test"
GROUP = "/subscriptions/Sub/resourceGroups/Group/providers"
NIC = f"{GROUP}/Microsoft.Network/networkInterfaces/Nic0"
NIC1 = f"{GROUP}/Microsoft.Network/networkInterfaces/Nic1"
VM = f"{GROUP}/Microsoft.Compute/virtualMachines/Vm"
INSTANCE = f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/Set/virtualMachines/3"
VNET = f"{GROUP}/Microsoft.Network/virtualNetworks/Net"
SUBNET = f"{VNET}/subnets/Pods"
VM_ID = "0f0e0d0c-0b0a-0908-0706-050403020100"
SECRET = "eyJhbGciOi.eyJzdWIiOi.c2lnbmF0dXJl"
Json = dict[str, Any]


@dataclass(slots=True)
class Clock:
    """Virtual time: sleeping is what makes it pass."""

    now: float = 0.0
    slept: list[float] = field(default_factory=list)

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


class Answer:
    """An HTTP answer, with what of azure-core's interface the SDK uses."""

    reason = "as told"
    content_type = "application/json"

    def __init__(self, status: int, body: object = None, **headers: str) -> None:
        self.status_code = status
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, bytes):
            self.content = body
        else:
            self.content = b"" if body is None else json.dumps(body).encode()
        self.request: Any = None

    def read(self) -> bytes:
        return self.content

    body = read

    def text(self, encoding: str | None = None) -> str:
        return self.content.decode(encoding or "utf-8")

    def json(self) -> object:
        return json.loads(self.content)

    def iter_bytes(self) -> Any:
        return iter([self.content])

    def raise_for_status(self) -> None:
        raise HttpResponseError(response=self)


def refused(status: int, code: str, message: str = "no", **headers: str) -> Answer:
    return Answer(status, {"error": {"code": code, "message": message}}, **headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    method: str
    url: str
    headers: Json
    content: str

    @property
    def path(self) -> str:
        return urlsplit(self.url).path.lower()

    @property
    def query(self) -> str:
        return urlsplit(self.url).query

    @property
    def body(self) -> Json:
        parsed: Json = json.loads(self.content)
        return parsed


class Transport(HttpTransport[Any, Any]):
    """Answers what it is told to, in order, and then what `otherwise` makes of a request."""

    def __init__(
        self, *answers: Answer | Exception, otherwise: Callable[[Sent], Answer] | None = None
    ) -> None:
        self.answers = list(answers)
        self.otherwise = otherwise
        self.sent: list[Sent] = []
        self.closed = 0

    def send(self, request: Any, **kwargs: Any) -> Any:
        sent = Sent(
            method=request.method,
            url=request.url,
            headers=dict(request.headers),
            content=str(getattr(request, "content", "") or ""),
        )
        self.sent.append(sent)
        answer = self.answers.pop(0) if self.answers else self._rest(sent)
        if isinstance(answer, Exception):
            raise answer
        answer.request = request
        return answer

    def _rest(self, sent: Sent) -> Answer:
        assert self.otherwise, f"nobody told what to answer to {sent.method} {sent.path}"
        return self.otherwise(sent)

    def open(self) -> None:
        """Nothing to open."""

    def close(self) -> None:
        self.closed += 1

    def __exit__(self, *args: object) -> None:
        self.close()


class Credential:
    """Tokens that never expire; each is another one."""

    def __init__(self) -> None:
        self.made = 0

    def get_token(self, *scopes: str, **options: Any) -> AccessToken:
        self.made += 1
        return AccessToken(SECRET, int(time.time()) + 86400)


@dataclass(slots=True)
class Door:
    """An ArmApi over a transport, with what it told."""

    transport: Transport
    clock: Clock = field(default_factory=Clock)
    told: list[ApiCall] = field(default_factory=list)
    credentials: list[Credential] = field(default_factory=list)
    nic_version: str = ""

    def _credential(self) -> Credential:
        self.credentials.append(Credential())
        return self.credentials[-1]

    def api(self) -> ArmApi:
        clock = self.clock
        pipeline = Pipeline(
            arm_endpoint=ENDPOINT,
            credential=RenewableCredential(self._credential),
            purse=Purse(monotonic=clock.monotonic, sleep=clock.sleep, chance=lambda: 0.0),
            tell=self.told.append,
            timeout_seconds=1.0,
            monotonic=clock.monotonic,
            transport=self.transport,
        )
        return ArmApi(pipeline, scale_set_nic_api_version=self.nic_version)


def door(*answers: Answer | Exception, nic_version: str = "") -> Door:
    return Door(Transport(*answers), nic_version=nic_version)


def config(name: str, address: str, **properties: Any) -> Json:
    """An ipConfiguration; `properties` come on top."""
    return {
        "name": name,
        "properties": {
            "provisioningState": "Succeeded",
            "privateIPAddress": address,
            "privateIPAddressVersion": "IPv4",
            "primary": False,
            "subnet": {"id": SUBNET},
            **properties,
        },
    }


def nic(*configs: Json, nic_id: str = NIC, primary: str = "10.0.0.4", **more: Any) -> Json:
    """A NIC with its primary configuration and more."""
    return {
        "id": nic_id,
        "name": nic_id.rsplit("/", 1)[1],
        "etag": 'W/"1"',
        "properties": {
            "provisioningState": "Succeeded",
            "macAddress": "00-0D-3A-00-00-04",
            "primary": True,
            "ipConfigurations": [config("ipconfig1", primary, primary=True), *configs],
        },
        **more,
    }


def view(*configs: Json, name: str = "Nic0", **more: Any) -> Json:
    """A NIC of the scale set instance."""
    return nic(*configs, nic_id=f"{INSTANCE}/networkInterfaces/{name}", **more)


def model(*configs: Json, name: str = "Nic0") -> Json:
    """The scale set instance with one NIC."""
    return {
        "id": INSTANCE,
        "etag": '"7"',
        "properties": {
            "vmId": VM_ID,
            "networkProfile": {
                "networkInterfaces": [{"id": f"{INSTANCE}/networkInterfaces/{name}"}]
            },
            "networkProfileConfiguration": {
                "networkInterfaceConfigurations": [
                    {
                        "name": name,
                        "properties": {
                            "ipConfigurations": [
                                {"name": "ipconfig1", "properties": {"primary": True}},
                                *configs,
                            ]
                        },
                    }
                ]
            },
        },
    }


def model_config(name: str, **properties: Any) -> Json:
    return {"name": name, "properties": {"subnet": {"id": SUBNET}, **properties}}
