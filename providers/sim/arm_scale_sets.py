"""Microsoft.Compute's Uniform scale sets: sets, instances, and writes of an instance's model.

A write of an instance is a long operation. Its answer shows the new model at once; the NICs follow
when the operation ends (`arm_scale_sets_model`), and only the NIC view (`arm_scale_sets_views`)
shows their addresses. What the documents leave open is in `ComputeBehaviour`.

Sources: Microsoft.Compute API, VirtualMachineScaleSetVMs; the Azure CLI's recording test_vmss_nics
for the shapes.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from providers.sim import arm_requests, arm_status
from providers.sim.arm import Arm
from providers.sim.arm_compute_records import Instance, ScaleSet
from providers.sim.arm_compute_state import ComputeState, FullAt, SecondWrite, Style
from providers.sim.arm_errors import ArmError, JsonObject, bad_request, precondition_failed
from providers.sim.arm_faults import Applies, ArmFault, ArmFaultKind
from providers.sim.arm_operations import Operation
from providers.sim.arm_records import State
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_scale_sets_model import (
    Bodies,
    apply_bodies,
    check_room,
    make_nics,
    nic_bodies,
)
from providers.sim.arm_state import LOCATION
from providers.sim.http_door import Answer

GROUP = "/subscriptions/{sub}/resourceGroups/{rg}/providers"
SETS = f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets"
SET = f"{SETS}/{{set}}"
INSTANCES = f"{SET}/virtualMachines"
INSTANCE = f"{INSTANCES}/{{instance}}"

# What only the service may say of an instance; a client's value for it is not looked at.
_READ_ONLY = (
    "instanceView",
    "latestModelApplied",
    "modelDefinitionApplied",
    "networkProfile",
    "provisioningState",
    "timeCreated",
    "vmId",
)


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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mishap:
    """How a write's operation goes, as a fault wants it."""

    seconds: float
    fail: ArmError | None
    applies: Applies

    @classmethod
    def of(cls, fault: ArmFault | None, usual_seconds: float) -> _Mishap:
        seconds, fail, applies = usual_seconds, None, Applies.ALL
        if fault is not None and fault.kind is ArmFaultKind.OPERATION_LASTS:
            seconds = fault.seconds or math.inf
        if fault is not None and fault.kind is ArmFaultKind.OPERATION_FAILS:
            fail, applies = fault.error, fault.applies
        return cls(seconds=seconds, fail=fail, applies=applies)


def begin_update(
    state: ComputeState, instance: Instance, body: JsonObject, fault: ArmFault | None = None
) -> tuple[Instance, Operation]:
    """A write of an instance: the instance as its answer shows it, and the operation.

    Raises ArmError for what is refused at once; nothing has changed then.
    """
    document = merged(instance.document, body)
    model = document["properties"]["networkProfileConfiguration"]
    bodies = nic_bodies(state.arm, instance.instance_id, model)
    if state.behaviour.full_at is FullAt.PUT:
        check_room(state.arm, instance.instance_id, bodies)
    _clear_way(state, instance)
    changed = replace(
        instance,
        document=document,
        etag=state.new_etag(),
        state=State.UPDATING,
        has_own_model=True,
    )
    state.put(changed)
    mishap = _Mishap.of(fault, state.behaviour.write_seconds)
    operation = _begin(
        state, changed, mishap.seconds, lambda: _end_update(state, changed, bodies, mishap), mishap
    )
    return state.instance(changed.key), operation


def begin_reset(state: ComputeState, instance: Instance) -> Operation:
    """Reimage or upgrade: at the end the instance has the set's model again, and no more."""
    _clear_way(state, instance)
    state.put(replace(instance, state=State.UPDATING, etag=state.new_etag()))
    return _begin(
        state, instance, state.behaviour.write_seconds, lambda: _end_reset(state, instance)
    )


def begin_delete(state: ComputeState, instance: Instance) -> Operation:
    """Delete an instance with its NICs."""
    _clear_way(state, instance)
    state.put(replace(instance, state=State.DELETING))
    return _begin(state, instance, state.behaviour.write_seconds, lambda: state.drop(instance.key))


def make_instance(state: ComputeState, scale_set: ScaleSet, **values: Any) -> Instance:
    """A running instance of a set, its NICs made and attached; `values` are those of `Instance`.

    Raises ArmError when there are no addresses for it; nothing has changed then.
    """
    number = scale_set.next_number
    instance = Instance(
        instance_id=f"{scale_set.set_id}/virtualMachines/{number}",
        guid=state.arm.guids.new(),
        size=scale_set.size,
        etag=state.new_etag(),
        document=_document_of(scale_set),
        **values,
    )
    make_nics(state.arm, instance.instance_id, instance.model, instance.netns_path)
    state.put(replace(scale_set, next_number=number + 1))
    state.put(instance)
    return instance


def merged(document: JsonObject, body: JsonObject) -> JsonObject:
    """The instance's document after a write: what the body names is replaced, the rest stays.

    Of storageProfile the parts are taken one by one, so that a body without imageReference leaves
    the image alone, as clients of others' images rely on.
    """
    sent = {k: v for k, v in (body.get("properties") or {}).items() if k not in _READ_ONLY}
    before = document["properties"]
    storage = {**before.get("storageProfile", {}), **(sent.get("storageProfile") or {})}
    properties = {**before, **sent, "storageProfile": storage}
    tags = body.get("tags", document.get("tags", {}))
    return copy.deepcopy({"tags": tags, "properties": properties})


def shown(state: ComputeState, instance: Instance, version: str) -> JsonObject:
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
    document: JsonObject = {
        "name": instance.name,
        "id": instance.instance_id,
        "type": "Microsoft.Compute/virtualMachineScaleSets/virtualMachines",
        "location": LOCATION,
        "tags": instance.document.get("tags", {}),
        "instanceId": instance.number,
        "sku": {"name": instance.size, "tier": "Standard"},
        "properties": properties,
    }
    if instance.zone:
        document["zones"] = [instance.zone]
    if has_etags(state, version):
        document["etag"] = instance.etag
    return document


def has_etags(state: ComputeState, version: str) -> bool:
    """Whether this api-version of Microsoft.Compute knows etags."""
    return version[:10] >= state.behaviour.etags_since


def operation_headers(
    state: ComputeState, request: ArmRequest, operation: Operation
) -> dict[str, str]:
    """The headers that lead to an operation, in the style asked for."""
    style = state.behaviour.style
    headers: dict[str, str] = {}
    if style is not Style.LOCATION:
        headers |= arm_status.async_headers(request, operation)
    if style is not Style.ASYNC:
        headers |= arm_status.location_headers(request, operation)
    return headers


class _Handlers:
    """The routes; each runs under the state's lock."""

    def __init__(self, state: ComputeState) -> None:
        self._state = state

    def list_sets(self, request: ArmRequest) -> Answer:
        """The sets of a resource group."""
        inside = f"{_id(GROUP, request)}/".lower()
        sets = [one for one in self._state.sets.values() if one.key.startswith(inside)]
        return _rows([_shown_set(one) for one in sets])

    def get_set(self, request: ArmRequest) -> Answer:
        """One set."""
        found = self._state.scale_set(_id(SET, request))
        return arm_requests.answer(200, _shown_set(found))

    def upgrade(self, request: ArmRequest) -> Answer:
        """Bring the instances that the body names to the set's model."""
        scale_set = self._state.scale_set(_id(SET, request))
        numbers = request.document.get("instanceIds") or []
        instances = [
            self._state.instance(f"{scale_set.set_id}/virtualMachines/{number}")
            for number in numbers
        ]
        if not instances:
            raise bad_request("InvalidParameter", "instanceIds: at least one is needed.")
        operations = [begin_reset(self._state, one) for one in instances]
        return self._accepted(request, operations[-1])

    def list_instances(self, request: ArmRequest) -> Answer:
        """The instances of a set."""
        scale_set = self._state.scale_set(_id(SET, request))
        instances = self._state.instances_of(scale_set)
        return _rows([shown(self._state, one, request.api_version) for one in instances])

    def get_instance(self, request: ArmRequest) -> Answer:
        """One instance, with `ETag` where the api-version knows it."""
        return self._answer(200, request, self._instance(request))

    def put_instance(self, request: ArmRequest) -> Answer:
        """Write an instance's model; 200 or 202, and the way to the operation."""
        instance, state = self._instance(request), self._state
        self._check_etag(request, instance)
        body = request.document
        self._check_image(body)
        changed, operation = begin_update(state, instance, body, request.mishap)
        operation.result = lambda: shown(state, state.instance(changed.key), request.api_version)
        headers = operation_headers(state, request, operation)
        return self._answer(state.behaviour.put_status, request, changed, headers)

    def delete_instance(self, request: ArmRequest) -> Answer:
        """Delete an instance."""
        return self._accepted(request, begin_delete(self._state, self._instance(request)))

    def reimage(self, request: ArmRequest) -> Answer:
        """Make an instance what it was when it was new."""
        return self._accepted(request, begin_reset(self._state, self._instance(request)))

    def _instance(self, request: ArmRequest) -> Instance:
        return self._state.instance(_id(INSTANCE, request))

    def _check_etag(self, request: ArmRequest, instance: Instance) -> None:
        asked = request.headers.get("if-match", "")
        if not asked or not has_etags(self._state, request.api_version):
            return
        if asked not in ("*", instance.etag):
            raise precondition_failed(instance.etag)

    def _check_image(self, body: JsonObject) -> None:
        storage = (body.get("properties") or {}).get("storageProfile") or {}
        image = (storage.get("imageReference") or {}).get("id", "")
        if image and self._state.behaviour.refuses_gallery_images:
            raise ArmError(
                403,
                "LinkedAuthorizationFailed",
                "The client has permission to write the virtual machine, but not to perform "
                f"'read' on the linked scope '{image}'.",
            )

    def _answer(
        self,
        status: int,
        request: ArmRequest,
        instance: Instance,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        more = dict(headers or {})
        if has_etags(self._state, request.api_version):
            more["ETag"] = instance.etag
        document = shown(self._state, instance, request.api_version)
        return arm_requests.answer(status, document, more)

    def _accepted(self, request: ArmRequest, operation: Operation) -> Answer:
        headers = operation_headers(self._state, request, operation)
        return arm_requests.answer(202, None, headers)


def _begin(
    state: ComputeState,
    instance: Instance,
    seconds: float,
    finish: Callable[[], None],
    mishap: _Mishap | None = None,
) -> Operation:
    return state.arm.operations.begin(
        "Microsoft.Compute",
        "write",
        instance.instance_id,
        seconds,
        state.arm.clock(),
        finish=finish,
        fail=mishap.fail if mishap else None,
        retry_after_seconds=state.behaviour.retry_after_seconds,
    )


def _clear_way(state: ComputeState, instance: Instance) -> None:
    """Let the write that is under way on an instance give way, or refuse the new one."""
    running = state.arm.operations.running_on(instance.instance_id)
    if running is None:
        return
    if state.behaviour.second_write is SecondWrite.CONFLICTS:
        raise ArmError(
            409,
            "ConflictingConcurrentWriteNotAllowed",
            f"Another write of {instance.instance_id} is in progress.",
        )
    running.finish = None
    running.fail = ArmError(
        409, "OperationPreempted", "Operation execution has been preempted by a more recent one."
    )
    running.due_unix = now = state.arm.clock()
    state.arm.operations.settle(now)


def _end_update(state: ComputeState, instance: Instance, bodies: Bodies, mishap: _Mishap) -> None:
    """The NICs follow the model; whatever is refused now fails the operation."""
    if instance.key not in state.instances:
        return
    ended = State.FAILED
    try:
        if mishap.applies is not Applies.NOTHING:
            is_half = mishap.applies is Applies.PART
            apply_bodies(state.arm, instance.instance_id, bodies, is_half=is_half)
        ended = State.FAILED if mishap.fail else State.SUCCEEDED
    finally:
        now = state.instance(instance.key)
        state.put(replace(now, state=ended))


def _end_reset(state: ComputeState, instance: Instance) -> None:
    """The set's own model: what an instance's model had besides is gone, addresses too."""
    scale_set = state.scale_set(instance.set_id)
    document = _document_of(scale_set)
    model = document["properties"]["networkProfileConfiguration"]
    bodies = nic_bodies(state.arm, instance.instance_id, model)
    apply_bodies(state.arm, instance.instance_id, bodies, is_half=False)
    now = state.instance(instance.key)
    state.put(replace(now, document=document, has_own_model=False, state=State.SUCCEEDED))


def _document_of(scale_set: ScaleSet) -> JsonObject:
    """What a set's profile makes of a new instance."""
    profile = copy.deepcopy(scale_set.document["properties"]["virtualMachineProfile"])
    network = profile.pop("networkProfile")
    profile.setdefault("hardwareProfile", {})
    return {
        "tags": dict(scale_set.tags),
        "properties": {"networkProfileConfiguration": network, **profile},
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


def _rows(rows: list[JsonObject]) -> Answer:
    return arm_requests.answer(200, {"value": rows})


def _id(template: str, request: ArmRequest) -> str:
    return template.format(**request.params)
