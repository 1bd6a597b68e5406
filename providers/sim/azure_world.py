"""One emulated Azure: ARM with both resource providers, its machines, and what they are told.

The composition that the server, the control socket and the tests share. Time is the injected
clock's; `start_timer` lets operations end by themselves, else they end with the next request.

    world = AzureWorld(clock=clock)
    vnet = world.make_vnet("10.0.0.0/16", ["10.0.1.0/24"])
    node = world.add_vm("n1", vnet.subnet_ids[0])
    world.respond(call)
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from providers.sim import (
    arm_compute,
    arm_network,
    arm_nics,
    arm_scale_sets,
    arm_scale_sets_model,
    arm_scale_sets_requests,
    arm_scale_sets_views,
    arm_status,
)
from providers.sim.arm import Arm
from providers.sim.arm_behaviour import Behaviour
from providers.sim.arm_buckets import ArmBuckets, Spender
from providers.sim.arm_compute_records import Instance, Mode, ScaleSet, Vm
from providers.sim.arm_compute_sizes import DEFAULT_SIZE, check_nics
from providers.sim.arm_compute_state import ComputeBehaviour, ComputeState
from providers.sim.arm_errors import ArmError, JsonObject
from providers.sim.arm_outsiders import Outsiders
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_state import LOCATION, ArmState
from providers.sim.arm_tokens import TokenIssuer, digest
from providers.sim.azure_control_faults import AskedFault
from providers.sim.azure_imds import AzureImds, AzureImdsSettings
from providers.sim.azure_machines import Machine
from providers.sim.azure_world_documents import (
    GROUP,
    nic_document,
    scale_set_document,
    vm_document,
)
from providers.sim.azure_world_history import History
from providers.sim.http_door import Answer, Call
from providers.sim.wireserver import Wireserver

Clock = Callable[[], float]

BUCKETS = ("off", "real")
# Whom a token that no metadata service issued counts as.
_NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeVnet:
    """A VNET and its subnets, by ARM id, in the order asked for."""

    vnet_id: str
    subnet_ids: tuple[str, ...]


class AzureWorld:
    """Everything of one emulated Azure that is not a socket."""

    def __init__(
        self,
        *,
        clock: Clock = time.time,
        seed: int = 0,
        behaviour: Behaviour | None = None,
        compute_behaviour: ComputeBehaviour | None = None,
        trusts_names: bool = True,
    ) -> None:
        """`trusts_names`: without a fabric, IMDS and wireserver are told who asks (see there)."""
        self.clock = clock
        self.state = ArmState(clock, seed, behaviour)
        self.compute = ComputeState(self.state, compute_behaviour)
        self.tokens = Principals(TokenIssuer(clock, seed))
        self.arm = Arm(self.state, self.tokens.issuer)
        self.outsiders = Outsiders(self.state)
        self.throttled: Counter[str] = Counter()
        self.buckets: ArmBuckets | None = None
        self._machines = History(self.state, self.compute)
        settings = AzureImdsSettings(trusts_names=trusts_names, is_throttled=False)
        self.imds = AzureImds(self, self.tokens, settings, clock, self.arm.stopping)
        self.wireserver = Wireserver(self, trusts_names=trusts_names)
        self._changed = threading.Condition(self.state.lock)
        self._timer: threading.Thread | None = None
        self._fault_ends: dict[int, float] = {}
        self._vnets = 0
        arm_network.add_routes(self.arm)
        arm_status.add_routes(self.arm)
        arm_compute.add_routes(self.arm, self.compute)
        arm_scale_sets_requests.add_routes(self.arm, self.compute)
        arm_scale_sets_views.add_routes(self.arm, self.compute)
        self.arm.throttles.append(self._throttle)
        self.arm.on_reset.append(self._forget)

    def respond(self, call: Call, scheme: str = "https") -> Answer | None:
        """Answer one request to ARM; None closes the connection without an answer."""
        self.settle()
        answer = self.arm.respond(call, scheme)
        self.settle()
        return answer

    def settle(self) -> None:
        """Let what is due be over, each at its time, and wake the timer for what is not."""
        with self.state.lock:
            now = self.clock()
            self._machines.note(now, self.imds.settings.lag_seconds)
            while (due := self.state.operations.next_due_unix()) is not None and due <= now:
                self.state.settle(due)
                self._machines.note(due, self.imds.settings.lag_seconds)
            self._changed.notify_all()

    def start_timer(self) -> None:
        """Let operations end by themselves, so that the fabric hears in time."""
        self._timer = threading.Thread(target=self._keep_time, name="arm-timer", daemon=True)
        self._timer.start()

    def stop(self) -> None:
        """End every waiting fault, and the timer."""
        self.arm.stop()
        with self.state.lock:
            self._changed.notify_all()
        if self._timer is not None:
            self._timer.join()

    def all_machines(self, lag_seconds: float = 0.0) -> tuple[Machine, ...]:
        """See `azure_machines.Machines`."""
        with self.state.lock:
            self.settle()
            return self._machines.at(self.clock() - lag_seconds)

    def set_buckets(self, profile: str) -> None:
        """Throttle by ARM's documented buckets, all full now, and IMDS by its own; or not."""
        if profile not in BUCKETS:
            raise ValueError(f"buckets are {' or '.join(BUCKETS)}, not {profile}")
        with self.state.lock:
            self.buckets = ArmBuckets() if profile == "real" else None
            self.imds.settings.is_throttled = profile == "real"

    def make_vnet(
        self, cidr: str, subnet_cidrs: Sequence[str], more_cidrs: Sequence[str] = ()
    ) -> MadeVnet:
        """A VNET and its subnets, named vnet-<n> and subnet-<n>."""
        with self.state.lock:
            vnet_id = f"{GROUP}/Microsoft.Network/virtualNetworks/vnet-{self._vnets}"
            self._vnets += 1
            names = {f"subnet-{place}": one for place, one in enumerate(subnet_cidrs)}
            self.state.add_vnet(vnet_id, (cidr, *more_cidrs), names)
            ids = tuple(f"{vnet_id}/subnets/{name}" for name in names)
            return MadeVnet(vnet_id=vnet_id, subnet_ids=ids)

    def add_vm(
        self,
        name: str,
        subnet_id: str,
        *,
        nics: int = 1,
        size: str = DEFAULT_SIZE,
        zone: str = "",
        flexible_set: str = "",
        netns_path: str = "",
        client_ids: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Vm:
        """A running VM with NICs `<name>-nic-<n>` whose configurations are `ipconfig1`.

        `flexible_set`: the name of the Flexible scale set it is part of, made if there is none.
        ArmError when the subnet has no address for them; nothing has changed then.
        """
        check_nics(size, nics)
        with self.state.lock:
            ids = [
                f"{GROUP}/Microsoft.Network/networkInterfaces/{name}-nic-{n}" for n in range(nics)
            ]
            self._make_nics(ids, subnet_id)
            vm = arm_compute.make_vm(
                self.compute,
                f"{GROUP}/Microsoft.Compute/virtualMachines/{name}",
                ids,
                size=size,
                zone=zone,
                scale_set_id=self._flexible_set(flexible_set, size).set_id if flexible_set else "",
                netns_path=netns_path,
                client_ids=tuple(client_ids),
                tags=dict(tags or {}),
                document=vm_document(name),
            )
            self.settle()
            return vm

    def add_instance(
        self,
        set_name: str,
        subnet_id: str,
        *,
        nics: int = 1,
        size: str = DEFAULT_SIZE,
        zone: str = "",
        host_name: str = "",
        netns_path: str = "",
        client_ids: Sequence[str] = (),
    ) -> Instance:
        """A running instance of a Uniform scale set, which is made if there is none of the name.

        A set that exists keeps its own subnet, size and number of NICs. ArmError when the subnet
        has no address for it; no instance is made then.
        """
        check_nics(size, nics)
        with self.state.lock:
            set_id = f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/{set_name}"
            if set_id.lower() not in self.compute.sets:
                document = scale_set_document(set_name, subnet_id, nics)
                self._make_set(set_id, size, Mode.UNIFORM, document)
            instance = arm_scale_sets.make_instance(
                self.compute,
                self.compute.scale_set(set_id),
                zone=zone,
                host_name=host_name,
                netns_path=netns_path,
                client_ids=tuple(client_ids),
            )
            self.settle()
            return instance

    def remove_machine(self, machine_id: str) -> None:
        """Delete a VM or an instance at once, with its NICs."""
        with self.state.lock:
            nics = self.state.attached_to(machine_id)
            self.compute.drop(machine_id)
            for nic in nics:
                if nic.key in self.state.nics:
                    self.state.drop_nic(nic.nic_id)
            self.settle()

    def reimage(self, machine_id: str) -> None:
        """Begin to reimage an instance: its model becomes the set's again, when that is over."""
        with self.state.lock:
            arm_scale_sets.begin_reset(self.compute, self.compute.instance(machine_id))
            self.settle()

    def remove_config(self, nic_id: str, name: str) -> None:
        """Let another client remove a configuration; on a scale set, by a write of the model."""
        with self.state.lock:
            nic = self.state.nic(nic_id)
            if not nic.is_of_scale_set:
                self.outsiders.remove_config(nic_id, name)
                return
            instance = self.compute.instance(nic.vm_id)
            body = arm_scale_sets_model.without_config(instance.document, nic.name, name)
            arm_scale_sets.begin_update(self.compute, instance, body)
            self.settle()

    def add_fault(self, fault: AskedFault, *, until_unix: float | None, **values: Any) -> int:
        """Put a fault in force until then; `values` are those of `ArmFaultBook.add`."""
        fault_id = self.arm.faults.add(
            fault.method,
            fault.path,
            fault.kind,
            status=fault.status,
            code=fault.code,
            retry_after_seconds=fault.retry_after_seconds,
            **values,
        )
        if until_unix is not None:
            self._fault_ends[fault_id] = until_unix
        return fault_id

    def set_behaviour(self, **changes: Any) -> None:
        """Change fields of `Behaviour`; ValueError or TypeError for one that cannot be."""
        with self.state.lock:
            self.state.behaviour = replace(self.state.behaviour, **changes)

    def set_compute_behaviour(self, **changes: Any) -> None:
        """Change fields of `ComputeBehaviour`; ValueError or TypeError for one that cannot be."""
        with self.state.lock:
            self.compute.behaviour = replace(self.compute.behaviour, **changes)

    def _throttle(self, request: ArmRequest, name: str) -> Mapping[str, str]:
        """See `arm.Throttle`; it is asked just before the faults, whose time may be up."""
        for fault_id in [one for one, end in self._fault_ends.items() if end <= self.clock()]:
            self.arm.faults.remove(fault_id)
            del self._fault_ends[fault_id]
        if self.buckets is None:
            return {}
        principal = self.tokens.principal(request.headers.get("authorization", ""))
        spender = Spender(
            subscription=request.params.get("sub", ""), principal=principal, region=LOCATION
        )
        verdict = self.buckets.take(request.method, request.path, spender, self.clock())
        if (refused := verdict.throttle) is None:
            return verdict.headers
        self.throttled[name] += 1
        details: list[JsonObject] = [dict(one) for one in refused.details]
        raise ArmError(429, refused.code, refused.message, details=details, headers=verdict.headers)

    def _make_nics(self, nic_ids: Sequence[str], subnet_id: str) -> None:
        with contextlib.ExitStack() as undo:
            for nic_id in nic_ids:
                arm_nics.replace_nic(self.state, nic_id, nic_document(subnet_id))
                undo.callback(self.state.drop_nic, nic_id)
            undo.pop_all()

    def _make_set(self, set_id: str, size: str, mode: Mode, document: JsonObject) -> ScaleSet:
        made = ScaleSet(
            set_id=set_id,
            size=size,
            mode=mode,
            etag=self.compute.new_etag(),
            document=document,
        )
        self.compute.put(made)
        return made

    def _flexible_set(self, name: str, size: str) -> ScaleSet:
        set_id = f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets/{name}"
        known = self.compute.sets.get(set_id.lower())
        return known or self._make_set(set_id, size, Mode.FLEXIBLE, {"properties": {}})

    def _forget(self) -> None:
        self.compute.reset()
        self._machines.forget()
        self.throttled.clear()
        if self.buckets is not None:
            self.buckets = ArmBuckets()

    def _keep_time(self) -> None:
        with self.state.lock:
            while not self.arm.stopping.is_set():
                due = self.state.operations.next_due_unix()
                now = self.clock()
                if due is not None and due <= now:
                    self.settle()
                    continue
                self._changed.wait(None if due is None else due - now)


class Principals:
    """Tokens as the metadata service issues them, and who each of them is."""

    def __init__(self, issuer: TokenIssuer) -> None:
        self.issuer = issuer
        self.of: dict[str, str] = {}  # digest of a token -> principal

    def issue(self, principal: str, seconds: float, resource: str) -> str:
        """See `azure_imds.Tokens`."""
        token = self.issuer.issue(seconds, resource)
        self.of[digest(token)] = principal
        return token

    def principal(self, authorization: str) -> str:
        """Who sends this header; all whose tokens were issued elsewhere are one."""
        return self.of.get(digest(authorization.strip().partition(" ")[2].strip()), _NOBODY)
