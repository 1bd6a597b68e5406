"""What all answers of the emulated Microsoft.Compute share: paths, operations, etags."""

from __future__ import annotations

from collections.abc import Sequence

from providers.sim import arm_requests, arm_status
from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_compute_state import ComputeState, Style
from providers.sim.arm_errors import JsonObject, precondition_failed
from providers.sim.arm_operations import Operation
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_state import LOCATION
from providers.sim.http_door import Answer

GROUP = "/subscriptions/{sub}/resourceGroups/{rg}/providers"
VMS = f"{GROUP}/Microsoft.Compute/virtualMachines"
VM = f"{VMS}/{{vm}}"
SETS = f"{GROUP}/Microsoft.Compute/virtualMachineScaleSets"
SET = f"{SETS}/{{set}}"
INSTANCES = f"{SET}/virtualMachines"
INSTANCE = f"{INSTANCES}/{{instance}}"


def id_of(template: str, request: ArmRequest) -> str:
    """The id of the resource that a request is for; `template` is one of the paths above."""
    return template.format(**request.params)


def rows_answer(rows: Sequence[JsonObject]) -> Answer:
    """200 with a list, in one page."""
    return arm_requests.answer(200, {"value": list(rows)})


def accepted(state: ComputeState, request: ArmRequest, operation: Operation) -> Answer:
    """202 without a body, and the way to the operation."""
    return arm_requests.answer(202, None, operation_headers(state, request, operation))


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


def placed(state: ComputeState, machine: Vm | Instance, version: str) -> JsonObject:
    """Where a machine is, and its etag, as a client of this api-version sees them."""
    shown: JsonObject = {"location": LOCATION}
    if machine.zone:
        shown["zones"] = [machine.zone]
    if has_etags(state, version):
        shown["etag"] = machine.etag
    return shown


def has_etags(state: ComputeState, version: str) -> bool:
    """Whether this api-version of Microsoft.Compute knows etags."""
    return version[:10] >= state.behaviour.etags_since


def etag_headers(state: ComputeState, request: ArmRequest, etag: str) -> dict[str, str]:
    """The ETag header, where the api-version knows it."""
    return {"ETag": etag} if has_etags(state, request.api_version) else {}


def check_etag(state: ComputeState, request: ArmRequest, etag: str) -> None:
    """Raise 412 unless If-Match holds; an api-version without etags does not look at it."""
    asked = request.headers.get("if-match", "")
    if asked and has_etags(state, request.api_version) and asked not in ("*", etag):
        raise precondition_failed(etag)
