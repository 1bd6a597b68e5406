"""Microsoft.Compute's VMs, also those of Flexible scale sets, and the list of sizes.

NICs are attached to a VM and detached from it by a PUT of the VM, and only while it is deallocated:
on a running one that is refused (azure-powershell #4565). The addresses of a VM's NICs are written
through Microsoft.Network. Shapes: Microsoft.Compute API, VirtualMachines and ResourceSkus.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from providers.sim import arm_requests
from providers.sim.arm import Arm
from providers.sim.arm_compute_answers import (
    GROUP,
    VM,
    VMS,
    accepted,
    check_etag,
    etag_headers,
    id_of,
    operation_headers,
    placed,
    rows_answer,
)
from providers.sim.arm_compute_records import Power, Vm
from providers.sim.arm_compute_sizes import DEFAULT_SIZE, NETWORK_INTERFACES, check_nics, sku
from providers.sim.arm_compute_state import ComputeState
from providers.sim.arm_errors import (
    ArmError,
    JsonObject,
    bad_request,
    no_reference,
)
from providers.sim.arm_operations import Operation
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_state import LOCATION
from providers.sim.http_door import Answer


def add_routes(arm: Arm, state: ComputeState) -> None:
    """Let `arm` answer for VMs and sizes."""
    handlers = _Handlers(state)
    skus = "/subscriptions/{sub}/providers/Microsoft.Compute/skus"
    for method, template, handler, name in (
        ("GET", VMS, handlers.list, "virtualMachines.list"),
        ("GET", VM, handlers.get, "virtualMachines.get"),
        ("PUT", VM, handlers.put, "virtualMachines.put"),
        ("DELETE", VM, handlers.delete, "virtualMachines.delete"),
        ("POST", f"{VM}/deallocate", handlers.deallocate, "virtualMachines.deallocate"),
        ("POST", f"{VM}/start", handlers.start, "virtualMachines.start"),
        ("GET", skus, handlers.skus, "skus.list"),
    ):
        arm.route(method, template, handler, name)


def make_vm(state: ComputeState, vm_id: str, nic_ids: Sequence[str], **values: Any) -> Vm:
    """A running VM with NICs that exist, the first of them primary; `values` are those of `Vm`.

    ValueError when its size does not take so many.
    """
    vm = Vm(
        vm_id=vm_id,
        guid=state.arm.guids.new(),
        etag=state.new_etag(),
        **{"size": DEFAULT_SIZE, **values},
    )
    check_nics(vm.size, len(nic_ids))
    state.put(vm)
    for index, nic_id in enumerate(nic_ids):
        state.arm.attach(nic_id, vm_id, device_index=index, netns_path=vm.netns_path)
    return vm


def shown(state: ComputeState, vm: Vm, version: str) -> JsonObject:
    """The VM as a client of this api-version sees it."""
    nics = state.arm.attached_to(vm.vm_id)
    own = copy.deepcopy(vm.document.get("properties", {}))
    properties = {
        **own,
        "vmId": vm.guid,
        "hardwareProfile": {**own.get("hardwareProfile", {}), "vmSize": vm.size},
        "networkProfile": {
            "networkInterfaces": [
                {"id": nic.nic_id, "properties": {"primary": nic.device_index == 0}} for nic in nics
            ]
        },
        "provisioningState": vm.state.value,
    }
    if vm.scale_set_id:
        properties["virtualMachineScaleSet"] = {"id": vm.scale_set_id}
    return {
        "name": vm.name,
        "id": vm.vm_id,
        "type": "Microsoft.Compute/virtualMachines",
        "tags": dict(vm.tags),
        "properties": properties,
        **placed(state, vm, version),
    }


class _Handlers:
    """The routes; each runs under the state's lock."""

    def __init__(self, state: ComputeState) -> None:
        self._state = state

    def list(self, request: ArmRequest) -> Answer:
        """The VMs of a resource group."""
        inside = f"{id_of(GROUP, request)}/".lower()
        vms = [vm for vm in self._state.vms.values() if vm.key.startswith(inside)]
        return rows_answer([shown(self._state, vm, request.api_version) for vm in vms])

    def get(self, request: ArmRequest) -> Answer:
        """One VM; with expand=instanceView also whether it runs."""
        vm = self._state.vm(request.path)
        document = shown(self._state, vm, request.api_version)
        if request.query.get("$expand") == "instanceView":
            document["properties"]["instanceView"] = _instance_view(vm)
        headers = etag_headers(self._state, request, vm.etag)
        return arm_requests.answer(200, document, headers)

    def put(self, request: ArmRequest) -> Answer:
        """Make a VM of NICs that exist, or change one: tags, size, and NICs if it does not run."""
        state, body = self._state, request.document
        before = state.vms.get(request.path.lower())
        asked = _nic_ids(body)
        for nic_id in asked:
            self._check_nic(nic_id, request.path)
        if before is None:
            vm = self._made(request.path, asked, body)
            status = 201
        else:
            check_etag(state, request, before.etag)
            vm = self._changed(before, asked, body)
            status = 200
        operation = self._operation(vm)
        headers = operation_headers(state, request, operation) | etag_headers(
            state, request, vm.etag
        )
        return arm_requests.answer(status, shown(state, vm, request.api_version), headers)

    def delete(self, request: ArmRequest) -> Answer:
        """Delete a VM; its NICs stay, detached."""
        vm = self._state.vm(request.path)
        self._state.drop(vm.key)
        return accepted(self._state, request, self._operation(vm))

    def deallocate(self, request: ArmRequest) -> Answer:
        """Stop a VM so that its NICs can come and go."""
        return self._switch(request, Power.DEALLOCATED)

    def start(self, request: ArmRequest) -> Answer:
        """Start a VM."""
        return self._switch(request, Power.RUNNING)

    def skus(self, _request: ArmRequest) -> Answer:
        """Every size with its capabilities; $filter is not looked at: there is one location."""
        return rows_answer([sku(size, LOCATION) for size in NETWORK_INTERFACES])

    def _made(self, vm_id: str, nic_ids: Sequence[str], body: JsonObject) -> Vm:
        properties = body.get("properties", {})
        size = properties.get("hardwareProfile", {}).get("vmSize", DEFAULT_SIZE)
        scale_set = (properties.get("virtualMachineScaleSet") or {}).get("id", "")
        try:
            return make_vm(
                self._state,
                vm_id,
                nic_ids,
                size=size,
                scale_set_id=scale_set,
                tags=body.get("tags") or {},
                document={"properties": copy.deepcopy(properties)},
            )
        except ValueError as error:
            raise bad_request("InvalidParameter", str(error)) from error

    def _changed(self, vm: Vm, asked: Sequence[str], body: JsonObject) -> Vm:
        state = self._state
        has = [nic.key for nic in state.arm.attached_to(vm.vm_id)]
        if {nic_id.lower() for nic_id in asked} != set(has):
            _check_stopped(vm)
            for key in has:
                state.arm.detach(key)
            for index, nic_id in enumerate(asked):
                path = vm.netns_path
                state.arm.attach(nic_id, vm.vm_id, device_index=index, netns_path=path)
        properties = {**vm.document.get("properties", {}), **body.get("properties", {})}
        changed = replace(
            vm,
            tags=body.get("tags", vm.tags) or {},
            document={"properties": copy.deepcopy(properties)},
            etag=state.new_etag(),
        )
        state.put(changed)
        return changed

    def _check_nic(self, nic_id: str, vm_id: str) -> None:
        nic = self._state.arm.nics.get(nic_id.lower())
        if nic is None:
            raise no_reference(nic_id, vm_id)
        if nic.vm_id and nic.vm_id.lower() != vm_id.lower():
            raise bad_request("NicInUse", f"Network Interface {nic_id} is used by {nic.vm_id}.")

    def _switch(self, request: ArmRequest, power: Power) -> Answer:
        vm = replace(self._state.vm(request.path.rpartition("/")[0]), power=power)
        self._state.put(vm)
        return accepted(self._state, request, self._operation(vm))

    def _operation(self, vm: Vm) -> Operation:
        """One that is over: what changes a VM here is no matter of time."""
        arm = self._state.arm
        return arm.operations.begin("Microsoft.Compute", "write", vm.vm_id, 0, arm.clock())


def _check_stopped(vm: Vm) -> None:
    if vm.power is Power.RUNNING:
        raise ArmError(
            400,
            "AddingOrDeletingNetworkInterfacesOnARunningVirtualMachineNotSupported",
            "Secondary network interfaces cannot be added to or deleted from a running virtual "
            f"machine: {vm.vm_id}.",
        )


def _nic_ids(body: JsonObject) -> list[str]:
    """The NICs that a body names, the primary one first; 400 without any."""
    network = body.get("properties", {}).get("networkProfile") or {}
    rows = network.get("networkInterfaces") or []
    if not rows or not all(isinstance(row.get("id"), str) for row in rows):
        raise bad_request("InvalidParameter", "networkProfile: at least one NIC id is needed.")
    rows = sorted(rows, key=lambda row: not row.get("properties", {}).get("primary", False))
    return [row["id"] for row in rows]


def _instance_view(vm: Vm) -> JsonObject:
    return {"statuses": [{"code": f"PowerState/{vm.power.value}", "level": "Info"}]}
