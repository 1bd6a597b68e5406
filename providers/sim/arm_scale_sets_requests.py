"""The requests for Uniform scale sets and their instances that the emulated ARM answers.

Sources: Microsoft.Compute API, VirtualMachineScaleSets and VirtualMachineScaleSetVMs; the Azure
CLI's recording test_vmss_nics for the shapes.
"""

from __future__ import annotations

import copy

from providers.sim import arm_requests
from providers.sim.arm import Arm
from providers.sim.arm_compute_answers import (
    GROUP,
    INSTANCE,
    INSTANCES,
    SET,
    SETS,
    accepted,
    check_etag,
    etag_headers,
    id_of,
    operation_headers,
    placed,
    rows_answer,
)
from providers.sim.arm_compute_records import Instance, ScaleSet
from providers.sim.arm_compute_state import ComputeState
from providers.sim.arm_errors import ArmError, JsonObject, bad_request
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_scale_sets import begin_delete, begin_reset, begin_update
from providers.sim.arm_state import LOCATION
from providers.sim.http_door import Answer


def add_routes(arm: Arm, state: ComputeState) -> None:
    """Let `arm` answer for scale sets and their instances."""
    handlers = _Handlers(state)
    for method, template, handler, name in (
        ("GET", SETS, handlers.list_sets, "virtualMachineScaleSets.list"),
        ("GET", SET, handlers.get_set, "virtualMachineScaleSets.get"),
        ("POST", f"{SET}/manualupgrade", handlers.upgrade, "virtualMachineScaleSets.manualupgrade"),
        ("GET", INSTANCES, handlers.list_instances, "virtualMachineScaleSetVMs.list"),
        ("GET", INSTANCE, handlers.get_instance, "virtualMachineScaleSetVMs.get"),
        ("PUT", INSTANCE, handlers.put_instance, "virtualMachineScaleSetVMs.put"),
        ("DELETE", INSTANCE, handlers.delete_instance, "virtualMachineScaleSetVMs.delete"),
        ("POST", f"{INSTANCE}/reimage", handlers.reimage, "virtualMachineScaleSetVMs.reimage"),
    ):
        arm.route(method, template, handler, name)


class _Handlers:
    """The routes; each runs under the state's lock."""

    def __init__(self, state: ComputeState) -> None:
        self._state = state

    def list_sets(self, request: ArmRequest) -> Answer:
        """The sets of a resource group."""
        inside = f"{id_of(GROUP, request)}/".lower()
        sets = [one for one in self._state.sets.values() if one.key.startswith(inside)]
        return rows_answer([_shown_set(one) for one in sets])

    def get_set(self, request: ArmRequest) -> Answer:
        """One set."""
        found = self._state.scale_set(id_of(SET, request))
        return arm_requests.answer(200, _shown_set(found))

    def upgrade(self, request: ArmRequest) -> Answer:
        """Bring the instances that the body names to the set's model."""
        scale_set = self._state.scale_set(id_of(SET, request))
        numbers = request.document.get("instanceIds") or []
        instances = [
            self._state.instance(f"{scale_set.set_id}/virtualMachines/{number}")
            for number in numbers
        ]
        if not instances:
            raise bad_request("InvalidParameter", "instanceIds: at least one is needed.")
        operations = [begin_reset(self._state, one, request.mishap) for one in instances]
        return accepted(self._state, request, operations[-1])

    def list_instances(self, request: ArmRequest) -> Answer:
        """The instances of a set."""
        scale_set = self._state.scale_set(id_of(SET, request))
        instances = self._state.instances_of(scale_set)
        return rows_answer([_shown(self._state, one, request.api_version) for one in instances])

    def get_instance(self, request: ArmRequest) -> Answer:
        """One instance, with `ETag` where the api-version knows it."""
        return self._answer(200, request, self._instance(request))

    def put_instance(self, request: ArmRequest) -> Answer:
        """Write an instance's model; 200 or 202, and the way to the operation."""
        instance, state = self._instance(request), self._state
        check_etag(state, request, instance.etag)
        body = request.document
        self._check_image(body)
        changed, operation = begin_update(state, instance, body, request.mishap)
        operation.result = lambda: _shown(state, state.instance(changed.key), request.api_version)
        headers = operation_headers(state, request, operation)
        return self._answer(state.behaviour.put_status, request, changed, headers)

    def delete_instance(self, request: ArmRequest) -> Answer:
        """Delete an instance."""
        operation = begin_delete(self._state, self._instance(request), request.mishap)
        return accepted(self._state, request, operation)

    def reimage(self, request: ArmRequest) -> Answer:
        """Make an instance what it was when it was new."""
        operation = begin_reset(self._state, self._instance(request), request.mishap)
        return accepted(self._state, request, operation)

    def _instance(self, request: ArmRequest) -> Instance:
        return self._state.instance(id_of(INSTANCE, request))

    def _check_image(self, body: JsonObject) -> None:
        """As cilium/cilium #19695 met it."""
        storage = (body.get("properties") or {}).get("storageProfile") or {}
        image = (storage.get("imageReference") or {}).get("id", "")
        if image and self._state.behaviour.refuses_gallery_images:
            raise ArmError(
                403,
                "LinkedAuthorizationFailed",
                "The client has permission to perform action "
                "'Microsoft.Compute/galleries/images/versions/read' on the scale set, however the "
                f"current tenant is not authorized to access the subscription of {image!r}.",
            )

    def _answer(
        self,
        status: int,
        request: ArmRequest,
        instance: Instance,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        more = {**(headers or {}), **etag_headers(self._state, request, instance.etag)}
        document = _shown(self._state, instance, request.api_version)
        return arm_requests.answer(status, document, more)


def _shown(state: ComputeState, instance: Instance, version: str) -> JsonObject:
    """The instance as a client of this api-version sees it."""
    nics = state.arm.attached_to(instance.instance_id)
    model_of = "VirtualMachine" if instance.has_own_model else "VirtualMachineScaleSet"
    own = copy.deepcopy(instance.document["properties"])
    properties = {
        "latestModelApplied": not instance.has_own_model,
        "modelDefinitionApplied": model_of,
        **own,
        "osProfile": {"computerName": instance.computer_name, **own.get("osProfile", {})},
        "vmId": instance.guid,
        "networkProfile": {"networkInterfaces": [{"id": nic.nic_id} for nic in nics]},
        "provisioningState": instance.state.value,
    }
    return {
        "name": instance.name,
        "id": instance.instance_id,
        "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
        "tags": instance.document.get("tags", {}),
        "instanceId": instance.number,
        "sku": {"name": instance.size, "tier": "Standard"},
        "properties": properties,
        **placed(state, instance, version),
    }


def _shown_set(scale_set: ScaleSet) -> JsonObject:
    return {
        "name": scale_set.name,
        "id": scale_set.set_id,
        "type": "Microsoft.Compute/virtualMachineScaleSets",
        "location": LOCATION,
        "tags": dict(scale_set.tags),
        "sku": {"name": scale_set.size, "tier": "Standard", "capacity": scale_set.next_number},
        "properties": {
            **copy.deepcopy(scale_set.document["properties"]),
            "orchestrationMode": scale_set.mode.value,
            "provisioningState": "Succeeded",
        },
    }
