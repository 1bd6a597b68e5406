"""The machines of an emulated Azure as its services tell of them, which may lag behind ARM."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_compute_state import ComputeState
from providers.sim.arm_records import Nic
from providers.sim.arm_state import LOCATION, ArmState
from providers.sim.azure_machines import Machine, MachineNic


class History:
    """The machines, now and for as long as somebody lags. Used under the state's lock."""

    def __init__(self, state: ArmState, compute: ComputeState) -> None:
        self._state = state
        self._compute = compute
        self._past: deque[tuple[float, Mapping[str, Nic]]] = deque([(0.0, {})])
        self._shown: dict[str, tuple[Nic, MachineNic]] = {}

    def note(self, now: float, longest_lag_seconds: float) -> None:
        """Remember the NICs if they have changed, and forget what nobody sees any more."""
        nics = self._state.nics
        if nics != self._past[-1][1]:
            self._past.append((now, dict(nics)))
        while len(self._past) > 1 and self._past[1][0] <= now - longest_lag_seconds:
            self._past.popleft()

    def forget(self) -> None:
        """Forget the past, as after a reset of the state."""
        self._past = deque([(0.0, {})])
        self._shown.clear()

    def at(self, then: float) -> tuple[Machine, ...]:
        """The machines that exist now, with their NICs as they were."""
        view = next((nics for since, nics in reversed(self._past) if since <= then), {})
        view = view or self._past[0][1]
        of_machine: dict[str, list[Nic]] = {}
        for nic in view.values():
            of_machine.setdefault(nic.vm_id.lower(), []).append(nic)
        return tuple(
            self._machine(record, of_machine.get(record.key, ()))
            for record in self._compute.machines()
        )

    def _machine(self, record: Vm | Instance, nics: Sequence[Nic]) -> Machine:
        if isinstance(record, Vm):
            machine_id, scale_set, tags = record.vm_id, record.scale_set_id, record.tags
            host_name = record.name
        else:
            machine_id, scale_set = record.instance_id, record.set_id
            tags = record.document.get("tags") or {}
            host_name = record.computer_name
        parts = machine_id.split("/")
        return Machine(
            machine_id=machine_id,
            name=record.name,
            host_name=host_name,
            scale_set=scale_set.rsplit("/", 1)[-1],
            vm_id=record.guid,
            vm_size=record.size,
            location=LOCATION,
            zone=record.zone,
            subscription=parts[2],
            resource_group=parts[4],
            nics=tuple(self._nic(nic) for nic in sorted(nics, key=lambda nic: nic.device_index)),
            client_ids=record.client_ids,
            tags=tags,
        )

    def _nic(self, nic: Nic) -> MachineNic:
        known = self._shown.get(nic.key)
        if known is not None and known[0] is nic:
            return known[1]
        shown = MachineNic(
            nic_id=nic.nic_id,
            mac=nic.link_mac,
            is_primary=nic.device_index == 0,
            subnet_cidr=self._state.subnet(nic.primary.subnet_key).cidr,
            addresses=tuple(one.address for one in nic.usable if not one.is_block),
            blocks=tuple(one.cidr for one in nic.usable if one.is_block),
        )
        self._shown[nic.key] = (nic, shown)
        return shown
