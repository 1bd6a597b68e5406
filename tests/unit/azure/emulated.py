"""The real provider on the emulated ARM, in this process and in virtual time: a pause is what lets
time pass on both sides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import urlsplit

from azure.core.exceptions import ServiceResponseError

from ipamd.cloud import AddressChange, CloudEni
from ipamd.model import EniId
from providers.azure.config import AzureConfig
from providers.azure.provider import AzureProvider
from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_faults import ArmFaultKind
from providers.sim.http_door import RESET, Call
from tests.azure_engine import Wire, _Credential, _Metadata
from tests.sim.azure.lab import AzureLab
from tests.unit.azure.arm_fakes import Answer


class LosingWire(Wire):
    """As azure-core's transport when the connection ends without an answer. `before_put` is what
    happens before the next writes arrive, in order."""

    def __init__(self, lab: AzureLab) -> None:
        super().__init__(lab)
        self.before_put: list[Callable[[], object]] = []

    def send(self, request: Any, **options: Any) -> Any:
        if request.method == "PUT" and self.before_put:
            self.before_put.pop(0)()
        url = urlsplit(request.url)
        self.sent.append((self._lab.clock(), request.method, url.path))
        call = Call(
            method=request.method,
            path=f"{url.path}?{url.query}",
            headers={name.lower(): str(value) for name, value in request.headers.items()}
            | {"host": url.netloc},
            body=_bytes(request.content),
            peer="127.0.0.1",
        )
        answer = self._lab.world.respond(call)
        if answer is None or answer is RESET:
            raise ServiceResponseError("the connection ended without an answer")
        made = Answer(answer.status, answer.body)
        made.headers = dict(answer.headers)
        made.request = request
        return made


def _bytes(content: Any) -> bytes:
    return content if isinstance(content, bytes) else str(content or "").encode()


@dataclass
class Emulated:
    """A machine and its provider. `notes` is what it logs."""

    lab: AzureLab
    machine: Vm | Instance
    path: Path
    notes: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wire = LosingWire(self.lab)
        self.provider = self.new_provider()

    def new_provider(self) -> AzureProvider:
        """As a process that starts."""
        pool = mock.patch(
            "providers.azure.imds.urllib3.PoolManager", return_value=_Metadata(self.lab)
        )
        with pool:
            return AzureProvider(
                AzureConfig(journal_path=self.path),
                credential=_Credential(self.lab.token),
                monotonic=self.lab.clock,
                sleep=self.lab.advance,
                chance=lambda: 0.0,
                transport=self.wire,
                note=lambda event, /, **facts: self.notes.append((event, facts)),
            )

    @property
    def machine_id(self) -> str:
        is_instance = isinstance(self.machine, Instance)
        return self.machine.instance_id if is_instance else self.machine.vm_id  # type: ignore[union-attr]

    @property
    def eni_id(self) -> EniId:
        return EniId(self.lab.nics(self.machine_id)[0].nic_id.lower())

    def apply(self, **wanted: Any) -> list[str]:
        """What a change added, as text."""
        change = AddressChange(**{"eni_id": self.eni_id, "token": "t1", **wanted})
        outcome = self.provider.apply(change)
        return [str(one) for one in (*outcome.added, *outcome.added_prefixes)]

    def eni(self) -> CloudEni:
        """The NIC as a look shows it."""
        return self.provider.snapshot().enis[0]

    def shown(self) -> set[str]:
        eni = self.eni()
        return {str(one) for one in (*eni.addresses, *eni.prefixes)}

    def held(self) -> dict[str, str]:
        """What the cloud has of ours, by name."""
        names = self.lab.addresses(self.machine_id)
        return {name: what for name, what in names.items() if name.startswith("ipamd-")}

    def spoil(self, kind: ArmFaultKind, **more: Any) -> None:
        """The next write goes wrong."""
        path = f"*{self.machine_id if isinstance(self.machine, Instance) else self.eni_id}"
        self.lab.world.arm.faults.add("PUT", path, kind, **more)

    def puts(self) -> int:
        return len(self.wire.writes())
