"""Microsoft.Network of the emulated Azure: the requests it answers.

NICs (get, put, delete, list, their configurations), VNETs, subnets, usages and free addresses.
Scale sets' NICs are read under Microsoft.Compute, by handlers of that provider; `nic_answer` and
`listed` are for them too.
"""

from __future__ import annotations

from collections.abc import Sequence

from providers.sim import arm_nic_shapes, arm_nics, arm_requests, arm_status, arm_subnets
from providers.sim.arm import Arm
from providers.sim.arm_errors import JsonObject, bad_request, no_resource, precondition_failed
from providers.sim.arm_records import Nic
from providers.sim.arm_requests import ArmRequest
from providers.sim.arm_state import ArmState
from providers.sim.http_door import Answer

_GROUP = "/subscriptions/{sub}/resourceGroups/{group}/providers/Microsoft.Network"
_NICS = f"{_GROUP}/networkInterfaces"
_NIC = f"{_NICS}/{{nic}}"
_VNET = f"{_GROUP}/virtualNetworks/{{vnet}}"


def add_routes(arm: Arm) -> None:
    """Let `arm` answer for Microsoft.Network."""
    nics, vnets = _Nics(arm.state), _Vnets(arm.state)
    arm.route("GET", _NIC, nics.get, "networkInterfaces.get")
    arm.route("PUT", _NIC, nics.put, "networkInterfaces.put")
    arm.route("DELETE", _NIC, nics.delete, "networkInterfaces.delete")
    arm.route("GET", _NICS, nics.list, "networkInterfaces.list")
    everywhere = "/subscriptions/{sub}/providers/Microsoft.Network/networkInterfaces"
    arm.route("GET", everywhere, nics.list, "networkInterfaces.listAll")
    arm.route("GET", f"{_NIC}/ipConfigurations", nics.configs, "ipConfigurations.list")
    arm.route("GET", f"{_NIC}/ipConfigurations/{{name}}", nics.config, "ipConfigurations.get")
    arm.route("GET", _VNET, vnets.get, "virtualNetworks.get")
    arm.route("GET", f"{_VNET}/usages", vnets.usages, "virtualNetworks.usages")
    check = f"{_VNET}/CheckIPAddressAvailability"
    arm.route("GET", check, vnets.check, "virtualNetworks.check")
    arm.route("GET", f"{_VNET}/subnets", vnets.subnets, "subnets.list")
    arm.route("GET", f"{_VNET}/subnets/{{subnet}}", vnets.subnet, "subnets.get")


def nic_answer(state: ArmState, nic: Nic, request: ArmRequest) -> Answer:
    """200 with one NIC and its ETag."""
    shown = arm_nic_shapes.nic(state, nic, request.api_version)
    return arm_requests.answer(200, shown, {"ETag": nic.etag})


def listed(state: ArmState, rows: Sequence[JsonObject], request: ArmRequest) -> Answer:
    """200 with one page of a list, and the URL of the next page if there is one."""
    start = request.query.get("$skiptoken", "0")
    if not start.isdecimal():
        raise bad_request("InvalidSkipToken", f"The skip token '{start}' is not ours.")
    end = int(start) + state.behaviour.page_length
    page: JsonObject = {"value": rows[int(start) : end]}
    if end < len(rows):
        page["nextLink"] = request.url(request.path, _skiptoken=str(end))
    return arm_requests.answer(200, page)


def check_etag(request: ArmRequest, etag: str) -> None:
    """Raise 412 unless If-Match and If-None-Match hold. `etag` empty: there is no resource."""
    wanted = request.headers.get("if-match")
    if wanted is not None and (not etag or wanted not in ("*", etag)):
        raise precondition_failed(etag)
    unwanted = request.headers.get("if-none-match")
    if unwanted is not None and etag and unwanted in ("*", etag):
        raise precondition_failed(etag)


class _Nics:
    def __init__(self, state: ArmState) -> None:
        self._state = state

    def get(self, request: ArmRequest) -> Answer:
        return nic_answer(self._state, self._state.nic(request.path), request)

    def put(self, request: ArmRequest) -> Answer:
        """201 for a new one, 200 for a change, never 202: the addresses are in the answer.

        Both name the operation. The ETag header is only sent by GET.
        """
        state, before = self._state, self._state.nics.get(request.path.lower())
        body = request.document
        if not body.get("location"):
            raise bad_request(
                "LocationRequired", "The location property is required for this definition."
            )
        if before is not None:
            arm_nics.check_free(state, before)
        check_etag(request, before.etag if before else "")
        nic, operation = arm_nics.begin_write(state, request.path, body, request.mishap)
        shown = arm_nic_shapes.nic(state, nic, request.api_version)
        headers = arm_status.async_headers(request, operation)
        return arm_requests.answer(201 if before is None else 200, shown, headers)

    def delete(self, request: ArmRequest) -> Answer:
        """202 and an operation; 204 when there is nothing to delete."""
        state, nic = self._state, self._state.nics.get(request.path.lower())
        if nic is None:
            return arm_requests.answer(204)
        if nic.vm_id:
            raise bad_request(
                "NicInUse",
                f"Network Interface {nic.nic_id} is used by existing resource {nic.vm_id}. In "
                "order to delete the network interface, it must be dissociated from the resource.",
            )
        arm_nics.check_free(state, nic)
        check_etag(request, nic.etag)
        operation = arm_nics.begin_delete(state, nic)
        headers = {
            **arm_status.location_headers(request, operation),
            **arm_status.async_headers(request, operation),
        }
        return arm_requests.answer(202, None, headers)

    def list(self, request: ArmRequest) -> Answer:
        """The NICs of a resource group or of the subscription, without those of scale sets."""
        state, within = self._state, request.path.lower().split("/providers/")[0]
        rows = [
            arm_nic_shapes.nic(state, nic, request.api_version)
            for nic in state.nics.values()
            if nic.key.startswith(f"{within}/") and not nic.is_of_scale_set
        ]
        return listed(state, rows, request)

    def configs(self, request: ArmRequest) -> Answer:
        nic = self._state.nic(request.path.rsplit("/", 1)[0])
        return listed(self._state, self._rows(nic, request), request)

    def config(self, request: ArmRequest) -> Answer:
        nic = self._state.nic(request.path.rsplit("/", 2)[0])
        wanted = request.params["name"].lower()
        for row in self._rows(nic, request):
            if row["name"].lower() == wanted:
                return arm_requests.answer(200, row, {"ETag": nic.etag})
        raise no_resource(request.path)

    def _rows(self, nic: Nic, request: ArmRequest) -> Sequence[JsonObject]:
        version = request.api_version
        return [arm_nic_shapes.config(self._state, nic, one, version) for one in nic.configs]


class _Vnets:
    def __init__(self, state: ArmState) -> None:
        self._state = state

    def get(self, request: ArmRequest) -> Answer:
        vnet = self._state.vnet(request.path)
        return arm_requests.answer(200, arm_subnets.vnet(self._state, vnet), {"ETag": vnet.etag})

    def usages(self, request: ArmRequest) -> Answer:
        vnet = self._state.vnet(request.path.rsplit("/", 1)[0])
        return listed(self._state, arm_subnets.usages(self._state, vnet), request)

    def check(self, request: ArmRequest) -> Answer:
        vnet = self._state.vnet(request.path.rsplit("/", 1)[0])
        asked = request.query.get("ipaddress", "")
        return arm_requests.answer(200, arm_subnets.availability(self._state, vnet, asked))

    def subnets(self, request: ArmRequest) -> Answer:
        vnet = self._state.vnet(request.path.rsplit("/", 1)[0])
        rows = [arm_subnets.subnet(self._state, one) for one in self._state.subnets_of(vnet)]
        return listed(self._state, rows, request)

    def subnet(self, request: ArmRequest) -> Answer:
        one = self._state.subnet(request.path)
        etag = self._state.vnet(one.vnet_key).etag
        return arm_requests.answer(200, arm_subnets.subnet(self._state, one), {"ETag": etag})
