"""An emulated Azure for tests in process: virtual time, a VNET, machines, raw requests, the SDK.

    lab = AzureLab()                          # lab.subnet_id is a /24, small_subnet_id a /28
    vm = lab.vm()                             # or lab.instance(), one of a Uniform scale set
    lab.set(write_seconds=10)                 # how slow writes of NICs are; compute(...) for sets
    lab.write_model(instance, config("a"))    # PUT of the model with one configuration more
    lab.advance(10)                           # the operation is over
    lab.addresses(instance.instance_id)       # {"ipconfig1": "10.0.1.4", "a": "10.0.1.5"}

For clients that need sockets, `serving(lab, directory)` opens ARM over TLS and the metadata service
on loopback; `Doors.environment` is what points azure-identity and azure-mgmt-* to them. Where there
are several machines, name the one that the metadata service shall take its clients for:
`serving(lab, directory, machine="vm1")`. A client that waits for an operation by asking again gets
there in virtual time when each request takes some: `AzureLab(request_seconds=1)`.
"""

from __future__ import annotations

import copy
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_records import Nic
from providers.sim.azure_world import AzureWorld
from providers.sim.http_door import Answer, Call, Door
from providers.sim.tls import TlsDoor, make_authority, server_context
from tests.sim.azure.network_lab import Reply, request
from tests.sim.lab import ManualClock

COMPUTE_VERSION = "2026-04-01"  # what azure-mgmt-compute 39.0.0 sends
NIC_VIEW_VERSION = "2018-10-01"  # what azure-mgmt-network 33.1.0 sends for scale sets' NICs
HOST = "arm.sim"
Json = dict[str, Any]


def config(name: str, **properties: Any) -> Json:
    """A configuration of a model, without its subnet: `AzureLab.write_model` adds the NIC's."""
    return {"name": name, "properties": {"primary": False, **properties}}


def block(name: str) -> Json:
    return config(name, privateIPAddressPrefixLength=28)


@dataclass(slots=True)
class AzureLab:
    """An `AzureWorld` with virtual time and a VNET of one /24 and one /28.

    `request_seconds`: how much virtual time passes before each request to ARM.
    """

    clock: ManualClock = field(default_factory=ManualClock)
    seed: int = 7
    request_seconds: float = 0.0
    world: AzureWorld = field(init=False)
    vnet_id: str = field(init=False)
    subnet_id: str = field(init=False)
    small_subnet_id: str = field(init=False)
    token: str = field(init=False)

    def __post_init__(self) -> None:
        self.world = AzureWorld(clock=self.clock, seed=self.seed)
        made = self.world.make_vnet("10.0.0.0/16", ["10.0.1.0/24", "10.0.2.0/28"])
        self.vnet_id, (self.subnet_id, self.small_subnet_id) = made.vnet_id, made.subnet_ids
        self.token = self.world.tokens.issuer.issue()

    def vm(self, name: str = "vm1", subnet_id: str = "", **more: Any) -> Vm:
        """A VM; `more` as for `AzureWorld.add_vm`: nics, size, flexible_set, netns_path, ..."""
        return self.world.add_vm(name, subnet_id or self.subnet_id, **more)

    def instance(self, set_name: str = "pool", subnet_id: str = "", **more: Any) -> Instance:
        """The next instance of a Uniform set; `more` as for `AzureWorld.add_instance`."""
        return self.world.add_instance(set_name, subnet_id or self.subnet_id, **more)

    def set(self, **changes: Any) -> None:
        """Options of Microsoft.Network, see `Behaviour`."""
        self.world.set_behaviour(**changes)

    def compute(self, **changes: Any) -> None:
        """Options of Microsoft.Compute, see `ComputeBehaviour`."""
        self.world.set_compute_behaviour(**changes)

    def advance(self, seconds: float) -> None:
        """Let time pass, and what is due be over."""
        self.clock.advance(seconds)
        self.world.settle()

    def respond(self, call: Call) -> Answer | None:
        """ARM, as a door asks it."""
        self.clock.advance(self.request_seconds)
        return self.world.respond(call)

    def nics(self, machine_id: str) -> list[Nic]:
        """A machine's NICs as the cloud has them, the primary one first."""
        return self.world.state.attached_to(machine_id)

    def addresses(self, machine_id: str, nic: int = 0) -> dict[str, str]:
        """What a machine's NIC has, by configuration: "10.0.1.5", or "10.0.1.16/28" of a block."""
        configs = self.nics(machine_id)[nic].configs
        return {one.name: str(one.cidr if one.is_block else one.address) for one in configs}

    def answer(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        version: str = COMPUTE_VERSION,
        query: str = "",
        **headers: str,
    ) -> Answer | None:
        """What ARM answers; a header is named with _ for -."""
        sent = {"host": HOST, "authorization": f"Bearer {self.token}", **headers}
        return self.respond(request(method, path, body, version=version, query=query, **sent))

    def call(self, method: str, path: str, body: Any = None, **more: Any) -> Reply:
        """As `answer`, for a request that is answered."""
        return Reply.of(self.answer(method, path, body, **more))

    def get(self, path: str, **more: Any) -> Reply:
        return self.call("GET", path, **more)

    def follow(self, url: str) -> Reply:
        """GET an absolute URL that ARM named."""
        assert url.startswith(f"https://{HOST}/"), url
        path, _, query = url.removeprefix(f"https://{HOST}").partition("?")
        return self.get(path, version="", query=query)

    def view(self, machine: Instance, version: str = NIC_VIEW_VERSION) -> Reply:
        """The NIC view of an instance's primary NIC."""
        return self.get(self.nics(machine.instance_id)[0].nic_id, version=version)

    def model(self, machine: Instance) -> Json:
        """An instance's document as a client reads it."""
        return self.get(machine.instance_id).body

    def write_model(
        self, machine: Instance, *more: Json, without: tuple[str, ...] = (), **headers: str
    ) -> Reply:
        """Read the model, add and remove configurations of its primary NIC, write it back."""
        body = copy.deepcopy(self.model(machine))
        profile = body["properties"]["networkProfileConfiguration"]
        rows = profile["networkInterfaceConfigurations"][0]["properties"]["ipConfigurations"]
        subnet = rows[0]["properties"]["subnet"]
        new = copy.deepcopy(list(more))
        for row in new:
            row["properties"].setdefault("subnet", subnet)
        rows[:] = [row for row in rows if row["name"] not in without] + new
        return self.call("PUT", machine.instance_id, body, **headers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Where a lab serves: ARM over TLS with a CA of its own, and the metadata service."""

    arm_url: str
    imds_url: str
    ca_path: Path

    @property
    def environment(self) -> dict[str, str]:
        """What azure-identity (token) and azure-core (trust) look at."""
        return {
            "AZURE_POD_IDENTITY_AUTHORITY_HOST": self.imds_url,
            "REQUESTS_CA_BUNDLE": str(self.ca_path),
        }


@contextmanager
def serving(lab: AzureLab, directory: Path, machine: str = "") -> Iterator[Doors]:
    """Serve a lab on loopback; `directory` is for the certificates.

    `machine`: whose metadata is served, by name or ARM id; empty: that of the only one.
    """

    def metadata(call: Call) -> Answer | None:
        named = {**call.headers, **({"x-sim-instance": machine} if machine else {})}
        return lab.world.imds.respond(replace(call, headers=named))

    files = make_authority(directory, now=datetime.now(UTC))
    arm_socket, imds_socket = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    arm_port, imds_port = (one.getsockname()[1] for one in (arm_socket, imds_socket))
    doors = (
        TlsDoor(arm_socket, lab.respond, server_context(files)),
        Door(imds_socket, metadata),
    )
    for door in doors:
        door.open()
    arm_url = f"https://127.0.0.1:{arm_port}"
    lab.world.tokens.issuer.audiences.add(arm_url)  # whom clients ask a token for
    try:
        yield Doors(
            arm_url=arm_url,
            imds_url=f"http://127.0.0.1:{imds_port}",
            ca_path=files.ca_path,
        )
    finally:
        lab.world.stop()
        for door in doors:
            door.close()
