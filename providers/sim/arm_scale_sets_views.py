"""The NIC view of a Uniform scale set: the only place that shows its instances' addresses.

The paths are below Microsoft.Compute, the shapes are Microsoft.Network's, and nothing here can be
written: a PUT is answered 405. The SDK asks for these with api-version 2018-10-01, which knows no
/28; whether the real service takes a newer one is documented nowhere, so it is an option.
"""

from __future__ import annotations

from providers.sim import arm_nic_shapes, arm_requests
from providers.sim.arm import Arm
from providers.sim.arm_compute_answers import INSTANCE, SET, id_of
from providers.sim.arm_compute_state import ComputeState
from providers.sim.arm_errors import no_parent, no_resource
from providers.sim.arm_network import listed, nic_answer
from providers.sim.arm_records import Nic
from providers.sim.arm_requests import ArmRequest
from providers.sim.http_door import Answer

_NIC = f"{INSTANCE}/networkInterfaces/{{nic}}"


def add_routes(arm: Arm, state: ComputeState) -> None:
    """Let `arm` answer for the NIC view."""
    views = _Views(state)
    for template, handler, name in (
        (f"{SET}/networkInterfaces", views.of_set, "scaleSetNetworkInterfaces.list"),
        (f"{INSTANCE}/networkInterfaces", views.of_instance, "scaleSetVMNetworkInterfaces.list"),
        (_NIC, views.nic, "scaleSetVMNetworkInterfaces.get"),
        (f"{_NIC}/ipConfigurations", views.configs, "scaleSetVMIPConfigurations.list"),
        (f"{_NIC}/ipConfigurations/{{name}}", views.config, "scaleSetVMIPConfigurations.get"),
    ):
        arm.route("GET", template, handler, name)


class _Views:
    def __init__(self, state: ComputeState) -> None:
        self._state = state

    def of_set(self, request: ArmRequest) -> Answer:
        """The NICs of all instances."""
        self._check_version(request)
        scale_set = self._state.scale_set(id_of(SET, request))
        nics = [
            nic
            for instance in self._state.instances_of(scale_set)
            for nic in self._state.arm.attached_to(instance.instance_id)
        ]
        return self._listed(nics, request)

    def of_instance(self, request: ArmRequest) -> Answer:
        """The NICs of one instance, the primary one first."""
        self._check_version(request)
        instance_id = id_of(INSTANCE, request)
        if instance_id.lower() not in self._state.instances:
            raise no_parent(request.path)
        return self._listed(self._state.arm.attached_to(instance_id), request)

    def nic(self, request: ArmRequest) -> Answer:
        """One NIC, with its ETag."""
        return nic_answer(self._state.arm, self._nic(request), request)

    def configs(self, request: ArmRequest) -> Answer:
        """The configurations of one NIC."""
        nic, version = self._nic(request), request.api_version
        rows = [arm_nic_shapes.config(self._state.arm, nic, one, version) for one in nic.configs]
        return listed(self._state.arm, rows, request)

    def config(self, request: ArmRequest) -> Answer:
        """One configuration, with its NIC's ETag."""
        nic = self._nic(request)
        found = nic.config(request.params["name"])
        if found is None:
            raise no_resource(request.path)
        shown = arm_nic_shapes.config(self._state.arm, nic, found, request.api_version)
        return arm_requests.answer(200, shown, {"ETag": nic.etag})

    def _nic(self, request: ArmRequest) -> Nic:
        self._check_version(request)
        return self._state.arm.nic(id_of(_NIC, request))

    def _listed(self, nics: list[Nic], request: ArmRequest) -> Answer:
        arm, version = self._state.arm, request.api_version
        return listed(arm, [arm_nic_shapes.nic(arm, nic, version) for nic in nics], request)

    def _check_version(self, request: ArmRequest) -> None:
        newest = self._state.behaviour.newest_nic_version
        if newest and request.api_version[:10] > newest:
            raise arm_requests.no_version(request.api_version, f"up to {newest}")
