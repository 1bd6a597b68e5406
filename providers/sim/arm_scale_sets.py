"""Microsoft.Compute's Uniform scale sets: how instances are made, written, reset and deleted.

Each change of an instance is a long operation. The instance shows its new model at once; its NICs
follow when the operation ends (`arm_scale_sets_model`), and only the NIC view
(`arm_scale_sets_views`) shows their addresses. Faults make an operation last, or fail with a part
of it applied. What the documents leave open is in `ComputeBehaviour`.

Called under the state's lock by `arm_scale_sets_requests` and `azure_world`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from providers.sim.arm_compute_records import Instance, ScaleSet
from providers.sim.arm_compute_state import ComputeState, FullAt, SecondWrite
from providers.sim.arm_errors import ArmError, JsonObject
from providers.sim.arm_faults import Applies, ArmFault, ArmFaultKind
from providers.sim.arm_operations import Operation
from providers.sim.arm_records import State
from providers.sim.arm_scale_sets_model import apply_bodies, check_room, make_nics, nic_bodies

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

# Has the effect of an operation; `is_half`: only the first half of what is new.
_Apply = Callable[[bool], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """How an operation goes, as a fault wants it."""

    seconds: float
    fail: ArmError | None = None
    applies: Applies = Applies.ALL

    @classmethod
    def of(cls, fault: ArmFault | None, usual_seconds: float) -> _Course:
        if fault is not None and fault.kind is ArmFaultKind.OPERATION_LASTS:
            return cls(seconds=fault.seconds or math.inf)
        if fault is not None and fault.kind is ArmFaultKind.OPERATION_FAILS:
            return cls(seconds=usual_seconds, fail=fault.error, applies=fault.applies)
        return cls(seconds=usual_seconds)


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

    def apply(is_half: bool) -> None:
        apply_bodies(state.arm, instance.instance_id, bodies, is_half=is_half)

    operation = _begin(state, changed, fault, apply)
    return state.instance(changed.key), operation


def begin_reset(
    state: ComputeState, instance: Instance, fault: ArmFault | None = None
) -> Operation:
    """Reimage or upgrade: at the end the instance has the set's model again, and no more."""
    _clear_way(state, instance)
    state.put(replace(instance, state=State.UPDATING, etag=state.new_etag()))

    def apply(is_half: bool) -> None:
        document = _document_of(state.scale_set(instance.set_id))
        model = document["properties"]["networkProfileConfiguration"]
        bodies = nic_bodies(state.arm, instance.instance_id, model)
        apply_bodies(state.arm, instance.instance_id, bodies, is_half=is_half)
        now = state.instance(instance.key)
        state.put(replace(now, document=document, has_own_model=False))

    return _begin(state, instance, fault, apply)


def begin_delete(
    state: ComputeState, instance: Instance, fault: ArmFault | None = None
) -> Operation:
    """Delete an instance with its NICs."""
    _clear_way(state, instance)
    state.put(replace(instance, state=State.DELETING))
    return _begin(state, instance, fault, lambda _is_half: state.drop(instance.key))


def merged(document: JsonObject, body: JsonObject) -> JsonObject:
    """The instance's document after a write: what the body names is replaced, the rest stays.

    Of storageProfile the parts are taken one by one: a body without imageReference leaves the image
    alone (cilium/cilium #19697).
    """
    sent = {k: v for k, v in (body.get("properties") or {}).items() if k not in _READ_ONLY}
    before = document["properties"]
    storage = {**before.get("storageProfile", {}), **(sent.get("storageProfile") or {})}
    properties = {**before, **sent, "storageProfile": storage}
    tags = body.get("tags", document.get("tags", {}))
    return copy.deepcopy({"tags": tags, "properties": properties})


def _begin(
    state: ComputeState, instance: Instance, fault: ArmFault | None, apply: _Apply
) -> Operation:
    course = _Course.of(fault, state.behaviour.write_seconds)

    def finish() -> None:
        """What is refused now fails the operation."""
        ended = State.FAILED
        try:
            if course.applies is not Applies.NOTHING:
                apply(course.applies is Applies.PART)
            ended = State.FAILED if course.fail else State.SUCCEEDED
        finally:
            if (now := state.instances.get(instance.key)) is not None:
                state.put(replace(now, state=ended))

    return state.arm.operations.begin(
        "Microsoft.Compute",
        "write",
        instance.instance_id,
        course.seconds,
        state.arm.clock(),
        finish=finish,
        fail=course.fail,
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
        409,
        "OperationPreempted",
        "Operation execution has been preempted by a more recent operation.",
    )
    running.due_unix = now = state.arm.clock()
    state.arm.operations.settle(now)


def _document_of(scale_set: ScaleSet) -> JsonObject:
    """What a set's profile makes of a new instance."""
    profile = copy.deepcopy(scale_set.document["properties"]["virtualMachineProfile"])
    network = profile.pop("networkProfile")
    profile.setdefault("hardwareProfile", {})
    return {
        "tags": dict(scale_set.tags),
        "properties": {"networkProfileConfiguration": network, **profile},
    }
