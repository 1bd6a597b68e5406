"""The emulated instance metadata service (IMDSv2), over the emulated EC2's live state.

One service answers for all machines: who asks is told by the source address, which is an
address of one of the machine's ENIs. Without a fabric every client comes from loopback; then the
header `X-Sim-Instance` or a path that begins with `/instance/<id>` names the machine, and if there
is one machine only, nothing need.

Sources: EC2 user guide, "Use the Instance Metadata Service to access instance metadata".
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from providers.sim.ec2 import Emulator
from providers.sim.ec2_records import Interface, Machine
from providers.sim.http_door import Answer, Call
from providers.sim.imds_faults import DOWN_HOLD_SECONDS, ImdsFault, ImdsFaultKind
from providers.sim.imds_tree import Surroundings, addressed, identity_document, look_up, tree

LONGEST_TOKEN_SECONDS = 21600
DEFAULT_HOP_LIMIT = 2  # what container hosts use; EC2's own default is 1
_TTL_HEADER = "X-aws-ec2-metadata-token-ttl-seconds"
_TOKEN_HEADER = "x-aws-ec2-metadata-token"  # noqa: S105 - a header's name


@dataclass(slots=True, kw_only=True)
class ImdsSettings:
    """`trusts_names`: machines may be named by header or path, for want of a fabric."""

    trusts_names: bool
    hop_limit: int = DEFAULT_HOP_LIMIT
    faults: list[ImdsFault] = field(default_factory=list)


class Imds:
    """The metadata service of all machines of one emulator."""

    def __init__(self, emulator: Emulator, settings: ImdsSettings) -> None:
        self._emulator = emulator
        self.settings = settings
        self._tokens: dict[str, tuple[str, float]] = {}  # token -> (instance id, expiry)
        self._lock = threading.Lock()

    def respond(self, call: Call) -> Answer | None:
        """Answer one request; None means that the connection is to be closed without one."""
        machine, path = self._who_asks(call)
        if machine is None:
            return _text(404, "no instance has this address")
        now = self._emulator.clock()
        faults = [one for one in self.settings.faults if one.strikes(now, machine.instance_id)]
        kinds = {fault.kind for fault in faults}
        if ImdsFaultKind.DOWN in kinds:
            self._emulator.stopping.wait(DOWN_HOLD_SECONDS)
            return None
        if ImdsFaultKind.ERROR in kinds:
            return _text(500, "Internal Server Error")
        if call.method == "PUT":
            return self._give_token(call, path, machine)
        if call.method not in ("GET", "HEAD"):
            return _text(405, "Method Not Allowed")
        if not self._knows_token(call.headers.get(_TOKEN_HEADER, ""), machine):
            return _text(401, "Unauthorized")
        value = self._value(machine, path, faults)
        return _text(404, "Not Found") if value is None else _text(200, value)

    def _who_asks(self, call: Call) -> tuple[Machine | None, str]:
        path = call.path.partition("?")[0]
        with self._emulator.lock:
            state = self._emulator.state
            if not self.settings.trusts_names:
                return state.machine_at(IPv4Address(call.peer)), path
            if path.startswith("/instance/"):
                name, _, rest = path.removeprefix("/instance/").partition("/")
                return state.machines.get(name), f"/{rest}"
            if name := call.headers.get("x-sim-instance", ""):
                return state.machines.get(name), path
            machines = list(state.machines.values())
            return (machines[0] if len(machines) == 1 else None), path

    def _give_token(self, call: Call, path: str, machine: Machine) -> Answer:
        """PUT /latest/api/token; refused behind a proxy, whose mark is X-Forwarded-For."""
        if "x-forwarded-for" in call.headers:
            return _text(403, "Forbidden")
        if path.rstrip("/") != "/latest/api/token":
            return _text(405, "Method Not Allowed")
        asked = call.headers.get(_TTL_HEADER.lower(), "")
        if not asked.isdecimal() or not 1 <= int(asked) <= LONGEST_TOKEN_SECONDS:
            return _text(400, "Bad Request")
        token = secrets.token_urlsafe(40)
        now = self._emulator.clock()
        with self._lock:
            self._tokens = {key: kept for key, kept in self._tokens.items() if kept[1] > now}
            self._tokens[token] = (machine.instance_id, now + int(asked))
        return _text(200, token, {_TTL_HEADER: asked}, ttl=self.settings.hop_limit)

    def _knows_token(self, token: str, machine: Machine) -> bool:
        with self._lock:
            instance_id, expires = self._tokens.get(token, ("", 0.0))
        return instance_id == machine.instance_id and expires > self._emulator.clock()

    def _value(self, machine: Machine, path: str, faults: list[ImdsFault]) -> str | None:
        if path.rstrip("/") == "":
            return "latest"
        if not f"{path}/".startswith("/latest/"):
            return None
        hidden = {fault.value for fault in faults if fault.kind is ImdsFaultKind.MISSING_ENI}
        values = self._tree(machine, hidden)
        for fault in faults:
            if fault.kind is ImdsFaultKind.WRONG_VALUE:
                _falsify(values, fault)
        return look_up(values, path.removeprefix("/latest"))

    def _tree(self, machine: Machine, hidden: set[str]) -> dict[str, str]:
        """The machine's values, as they were when the service last learned of a change."""
        emulator = self._emulator
        with emulator.lock:
            emulator.settle()
            now, state = emulator.clock(), emulator.state
            view = state.view(now, state.delays.imds_lag_seconds)
            shown = [
                eni
                for eni in state.attached_to(machine.instance_id, view)
                if _is_shown(eni, hidden)
            ]
            around = Surroundings(
                subnets={eni.subnet_id: state.subnet(eni.subnet_id) for eni in shown},
                vpc_cidrs=emulator.backend.vpc_cidrs(machine.vpc_id),
                vpc_cidrs_v6=emulator.backend.vpc_cidrs_v6(machine.vpc_id),
                zone_id=emulator.backend.zone_id(machine.zone),
            )
        values = tree(machine, shown, around, now)
        document = identity_document(machine, next(iter(addressed(shown)), None))
        return values | {"dynamic/instance-identity/document": document}


def _is_shown(interface: Interface, hidden: set[str]) -> bool:
    return interface.is_attached and not {interface.eni_id, interface.mac} & hidden


def _falsify(values: dict[str, str], fault: ImdsFault) -> None:
    path = fault.path.strip("/").removeprefix("latest/")
    if fault.value:
        values[path] = fault.value
    else:
        values.pop(path, None)


def _text(status: int, text: str, headers: Mapping[str, str] | None = None, ttl: int = 0) -> Answer:
    return Answer(
        status=status,
        headers={"Content-Type": "text/plain", "Server": "EC2ws", **(headers or {})},
        body=text.encode(),
        ttl=ttl,
    )
