"""A small Azure to judge, and the newer SDK's clients of it over real TLS."""

from __future__ import annotations

import datetime as dt
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from azure.core.credentials import AccessToken
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient

from providers.sim import tls
from providers.sim.arm_tokens import MANAGEMENT, TokenIssuer
from providers.sim.azure_world import AzureWorld
from providers.sim.http_door import Responder
from tests.sim.azure.judges.names import SUB, VNET_ID


@dataclass(slots=True)
class Clock:
    """Virtual time."""

    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class FixedToken:
    """A credential with one token; azure-identity is not what is judged here."""

    def __init__(self, token: str) -> None:
        self.token = token

    def get_token(self, *scopes: str, **kwargs: Any) -> AccessToken:
        return AccessToken(self.token, 2**40)


@dataclass(slots=True)
class Door:
    """The one TLS door, and the clients that know it; each test puts an ARM of its own behind."""

    url: str
    ca_path: Path
    door: tls.TlsDoor
    credential: FixedToken
    network: NetworkManagementClient = field(init=False)
    compute: ComputeManagementClient = field(init=False)

    def __post_init__(self) -> None:
        common: dict[str, Any] = {
            "base_url": self.url,
            "connection_verify": str(self.ca_path),
            "credential_scopes": ["https://management.azure.com/.default"],
            "polling_interval": 0.02,
            "retry_total": 0,
        }
        self.network = NetworkManagementClient(self.credential, SUB, **common)
        self.compute = ComputeManagementClient(self.credential, SUB, **common)

    def close(self) -> None:
        self.network.close()
        self.compute.close()
        self.door.close()


def open_door(directory: Path, respond: Responder) -> Door:
    """Serve `respond` with a certificate of our own. The token is that of every `World`."""
    files = tls.make_authority(directory, now=dt.datetime.now(dt.UTC))
    listening = socket.create_server(("127.0.0.1", 0))
    url = f"https://127.0.0.1:{listening.getsockname()[1]}"
    door = tls.TlsDoor(listening, respond, tls.server_context(files))
    door.open()
    token = TokenIssuer(Clock()).issue()
    return Door(url=url, ca_path=files.ca_path, door=door, credential=FixedToken(token))


class World(AzureWorld):
    """An emulated Azure with one VNET; tokens repeat with the seed, so one token fits every world.

    It throttles as ARM is documented to, because the recordings have the headers of that.
    """

    def __init__(self) -> None:
        self.time = Clock()
        super().__init__(clock=self.time)
        self.token = self.tokens.issue("judge", 10**9, MANAGEMENT)
        self.set_buckets("real")
        self.state.add_vnet(VNET_ID, ("10.0.0.0/16",), {"nodes": "10.0.0.0/24"})
