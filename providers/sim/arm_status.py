"""How a client follows an operation: the headers that name its URL, and what the URL answers.

Both styles of "Track asynchronous Azure operations" (Azure Resource Manager documentation): the
Azure-AsyncOperation URL always answers 200 with a status; the Location URL answers 202 until the
operation is over and then as the request itself would have. URLs are absolute, on the host that the
client spoke to.
"""

from __future__ import annotations

from providers.sim import arm_requests
from providers.sim.arm import Arm
from providers.sim.arm_errors import no_resource
from providers.sim.arm_operations import IN_PROGRESS, Operation
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_state import LOCATION, ArmState
from providers.sim.http_door import Answer

_PLACE = "/subscriptions/{sub}/providers/{provider}/locations/{place}"
# Microsoft.Network ends a Location URL so; Microsoft.Compute asks its operations with `monitor`.
_RESULTS = f"{_PLACE}/operationResults/{{operation}}"
_STATUS = f"{_PLACE}/operations/{{operation}}"


def async_headers(request: ArmRequest, operation: Operation) -> dict[str, str]:
    """The headers of the Azure-AsyncOperation style.

    The notification is Microsoft.Network's; Microsoft.Compute was recorded without it (azure-cli,
    test_vmss_update).
    """
    url = request.url(_path(request, operation, "operations"))
    headers = {"Azure-AsyncOperation": url, **retry_after(operation)}
    if operation.provider == "Microsoft.Network":
        headers["azure-asyncnotification"] = "Enabled"
    return headers


def location_headers(request: ArmRequest, operation: Operation) -> dict[str, str]:
    """The headers of the Location style."""
    if operation.provider == "Microsoft.Compute":
        url = request.url(_path(request, operation, "operations"), monitor="true")
    else:
        url = request.url(_path(request, operation, "operationResults"))
    return {"Location": url, **retry_after(operation)}


def retry_after(operation: Operation) -> dict[str, str]:
    """The wish for a pause, while the operation is under way and if it has one."""
    if operation.status != IN_PROGRESS or not operation.retry_after_seconds:
        return {}
    return {"Retry-After": str(operation.retry_after_seconds)}


def add_routes(arm: Arm) -> None:
    """Let `arm` answer the URLs of operations of every provider."""
    urls = _Urls(arm.state)
    arm.route("GET", _STATUS, urls.status, "operations.get")
    arm.route("GET", _RESULTS, urls.result, "operationResults.get")


class _Urls:
    def __init__(self, state: ArmState) -> None:
        self._state = state

    def status(self, request: ArmRequest) -> Answer:
        """200 with the status, or the result if `monitor` is asked for."""
        if request.query.get("monitor") == "true":
            return self.result(request)
        operation = self._operation(request)
        return arm_requests.answer(200, operation.shown, retry_after(operation))

    def result(self, request: ArmRequest) -> Answer:
        """202 while it is under way; then the resource, or the error."""
        operation = self._operation(request)
        if operation.status == IN_PROGRESS:
            headers = {"Location": request.url(request.path, **_monitor(request))}
            return arm_requests.answer(202, None, {**headers, **retry_after(operation)})
        if operation.error is not None:
            raise operation.error
        if operation.result is None:
            return arm_requests.answer(204)
        return arm_requests.answer(200, operation.result())

    def _operation(self, request: ArmRequest) -> Operation:
        found = self._state.operations.find(request.params["operation"])
        if found is None or found.provider.lower() != request.params["provider"].lower():
            raise no_resource(request.path)
        return found


def _monitor(request: ArmRequest) -> dict[str, str]:
    return {"monitor": "true"} if "monitor" in request.query else {}


def _path(request: ArmRequest, operation: Operation, kind: str) -> str:
    subscription = request.params["sub"]
    place = f"/subscriptions/{subscription}/providers/{operation.provider}/locations/{LOCATION}"
    return f"{place}/{kind}/{operation.operation_id}"
