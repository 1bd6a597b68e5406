"""The EC2 actions on instances, around ENIs that are ours; all other actions stay moto's.

moto keeps what an instance is beside its network. It is made to start around a primary ENI that
exists already, so it never picks an address, and it is shown with the ENIs of our state.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

from moto.core.responses import ActionResult

from providers.sim import ec2_attachments, ec2_launch
from providers.sim import ec2_requests as requests
from providers.sim.ec2_actions import result_of
from providers.sim.ec2_errors import combination, invalid
from providers.sim.ec2_launch import LaunchInterface
from providers.sim.ec2_moto import overlay
from providers.sim.ec2_records import Interface, Machine, TypeLimits
from providers.sim.ec2_subnet_actions import SubnetActions


class SimResponse(SubnetActions):
    """One request to the emulated EC2."""

    def describe_instances(self) -> ActionResult:
        """DescribeInstances, with ENIs of the past when visibility lags."""
        result = result_of(super().describe_instances())
        for reservation in result["Reservations"]:
            reservation.instances = [self._with_interfaces(one) for one in reservation.instances]
        return ActionResult(result)

    def run_instances(self) -> ActionResult:
        """RunInstances; repeats with the same ClientToken answer the same."""
        requests.refuse_unsupported(self.params)
        self.error_on_dryrun()
        return self._once("RunInstances", lambda: self.launch(netns_path=""))

    def launch(self, *, netns_path: str) -> Any:
        """Start MaxCount instances; returns moto's reservation with all of them."""
        asked = self.params
        wanted = ec2_launch.launch_interfaces(asked, self._backend.resolve_groups)
        limits = self._backend.limits_of(asked.get("InstanceType") or "m1.small")
        count = int(asked.get("MaxCount") or 1)
        if count > 1 and any(
            one.new is None or ec2_launch.names_addresses(one.new) for one in wanted
        ):
            raise combination("Several instances cannot share an address or an ENI.")
        reservations = [self._launch_one(asked, wanted, limits, netns_path) for _ in range(count)]
        first = reservations[0]
        for other in reservations[1:]:
            first.instances += other.instances
            del self._backend.reservations[other.id]
        shown = copy.copy(first)
        shown.instances = [self._with_interfaces(one) for one in first.instances]
        return shown

    def _launch_one(
        self,
        asked: dict[str, Any],
        wanted: list[LaunchInterface],
        limits: TypeLimits,
        netns_path: str,
    ) -> Any:
        machine = Machine(
            instance_id="",
            instance_type=asked.get("InstanceType") or "m1.small",
            name=requests.tags_for(asked, "instance").get("Name", ""),
            zone="",
            vpc_id="",
            image_id=asked.get("ImageId") or "",
            limits=limits,
            launched_unix=self._now,
            netns_path=netns_path,
        )
        ec2_launch.check_launch(machine, wanted)
        with ec2_launch.created(self._state, wanted, self._now) as interfaces:
            primary = interfaces[0]
            if len({eni.zone for eni in interfaces}) > 1:
                raise invalid("The network interfaces are in different availability zones.")
            reservation = self._start_with_moto(asked, primary)
        machine = replace(
            machine,
            instance_id=reservation.instances[0].id,
            zone=primary.zone,
            vpc_id=primary.vpc_id,
        )
        ec2_launch.hang(self._state, machine, wanted, interfaces, self._now)
        return reservation

    def _start_with_moto(self, asked: dict[str, Any], primary: Interface) -> Any:
        """Let moto make the instance around an ENI that exists; it never picks an address."""
        address = str(primary.primary_address)
        nic = {
            "DeviceIndex": 0,
            "NetworkInterfaceId": primary.eni_id,
            "SubnetId": primary.subnet_id,
            "PrivateIpAddress": address,
        }
        dropped = ("SubnetId", "PrivateIpAddress", "MaxCount")
        self.params = {name: value for name, value in asked.items() if name not in dropped}
        self.params |= {
            "NetworkInterfaces": [nic],
            "SecurityGroupIds": list(primary.group_ids),
            "MinCount": 1,
        }
        reservation = result_of(super().run_instances())
        # moto marked the address in a book of its own, which would refuse its next holder.
        self._backend.get_subnet(primary.subnet_id).del_subnet_ip(address)
        return reservation

    def terminate_instances(self) -> ActionResult:
        """TerminateInstances: every ENI is released at once."""
        instance_ids = self.params.get("InstanceIds") or []
        instances = self._backend.get_multi_instances_by_id(instance_ids)
        self.error_on_dryrun()
        return ActionResult({"TerminatingInstances": [self._terminate(one) for one in instances]})

    def _terminate(self, instance: Any) -> dict[str, Any]:
        previous = {"Code": instance.state_code, "Name": instance.state}
        current = {"Code": 48, "Name": "terminated"}
        if instance.state != "terminated":
            ec2_attachments.terminate_machine(self._state, instance.id, self._now)
            instance.terminate()
            current = {"Code": 32, "Name": "shutting-down"}
        return {
            "InstanceId": instance.id,
            "CurrentState": current,
            "PreviousState": previous,
        }

    def _with_interfaces(self, instance: Any) -> Any:
        if instance.id not in self._state.machines:
            return overlay(
                instance,
                network_interfaces=[],
                private_ip_address=None,
                private_dns_name="",
                subnet_id=None,
                vpc_id=None,
            )
        attached = self._state.attached_to(instance.id, self._visible())
        return overlay(instance, network_interfaces=[self._shape(eni) for eni in attached])
