"""What a test or the demo can ask of the running emulated Azure, beyond what ARM itself offers.

Each public method of `AzureControlCalls` that is named in CALLS is one call of the control socket
(`control`): JSON arguments in, a JSON value out. Calls and rows that EC2's control has too have its
names and shapes (`control_calls`), with an ENI for a NIC and a prefix for a block, so that the same
lab drives either cloud. Ids are ARM's; an argument that is one may be in any case. A machine is a
VM or an instance of a scale set, its id the ARM id of either.

Errors are ARM's own or ValueError; `control` turns them into the client's ControlError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from providers.sim import control
from providers.sim.arm_compute_records import Instance, Vm
from providers.sim.arm_compute_sizes import DEFAULT_SIZE
from providers.sim.arm_faults import Applies
from providers.sim.azure_control_faults import fault_of, machine_pattern
from providers.sim.azure_control_rows import eni_row, machine_row, plain, subnet_row, typed
from providers.sim.azure_world import AzureWorld
from providers.sim.control_common import CommonCalls
from providers.sim.model import Fabric

CALLS = (*control.CALLS, "options", "out_of_band", "reimage", "revoke_tokens")


class AzureControlCalls(CommonCalls):
    """The calls of the control socket."""

    def __init__(self, world: AzureWorld, fabric: Fabric | None) -> None:
        super().__init__(fabric, world.clock, world.imds.settings)
        self._world = world

    def make_vpc(
        self,
        cidr: str,
        subnets: list[dict[str, Any]],
        more_cidrs: Sequence[str] = (),
        cidr_v6: str = "",
    ) -> dict[str, Any]:
        """Make a VNET with subnets, and bring up their routers.

        A subnet is {"cidr", "zone"}; a VNET's subnets span zones, so the zone only says where the
        nodes in it are. Returns {"vpc_id", "security_group_id": "", "subnets": [{"subnet_id",
        "cidr", "cidr_v6": ""}]}. IPv6 is not emulated: ValueError.
        """
        if cidr_v6 or any(one.get("cidr_v6") for one in subnets):
            raise ValueError("the emulated Azure has IPv4 alone")
        made = self._world.make_vnet(cidr, [one["cidr"] for one in subnets], more_cidrs)
        with self._world.state.lock:
            found = [self._world.state.subnet(subnet_id) for subnet_id in made.subnet_ids]
            if self.fabric is not None:
                for subnet in found:
                    self.fabric.add_subnet(subnet.cidr)
        return {
            "vpc_id": made.vnet_id,
            "security_group_id": "",
            "subnets": [
                {"subnet_id": one.subnet_id, "cidr": str(one.cidr), "cidr_v6": ""} for one in found
            ],
        }

    def add_node(
        self,
        name: str,
        subnet_id: str,
        instance_type: str = DEFAULT_SIZE,
        netns_path: str = "",
        kind: str = "vm",
        nics: int = 1,
        scale_set: str = "",
        zone: str = "1",
        client_ids: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Start a machine whose NICs appear in `netns_path` as eth0, eth1, ..., all in one subnet.

        `kind`: "vm" is a VM (with `scale_set`, of that Flexible set); "scale-set" the next instance
        of the Uniform set `scale_set`, or of one for machines alike (its `name` is then the
        computer's name). `client_ids`: its user-assigned identities. Returns {"instance_id",
        "eni_id", "mac", "address", "subnet_cidr", "gateway"} of the primary NIC, and "name", what
        IMDS and DNS call the machine, "kind" and "enis", the rows of all its NICs.
        """
        world = self._world
        common: dict[str, Any] = {
            "nics": nics,
            "size": instance_type,
            "zone": zone,
            "netns_path": netns_path,
            "client_ids": tuple(client_ids),
        }
        machine: Vm | Instance
        match kind:
            case "vm":
                machine = world.add_vm(name, subnet_id, flexible_set=scale_set, **common)
                machine_id = machine.vm_id
            case "scale-set":
                of = scale_set or self._set_for(subnet_id, instance_type, nics)
                machine = world.add_instance(of, subnet_id, host_name=name, **common)
                machine_id = machine.instance_id
            case _:
                raise ValueError(f"a machine's kind is vm or scale-set, not {kind}")
        with world.state.lock:
            rows = [eni_row(world.state, nic) for nic in world.state.attached_to(machine_id)]
            primary = world.state.attached_to(machine_id)[0].primary
            cidr = world.state.subnet(primary.subnet_key).cidr
        return {
            "instance_id": machine_id,
            "eni_id": rows[0]["eni_id"],
            "mac": rows[0]["mac"],
            "address": str(primary.address),
            "subnet_cidr": str(cidr),
            "gateway": str(cidr.network_address + 1),
            "name": machine.name,
            "kind": kind,
            "enis": rows,
        }

    def remove_node(self, instance_id: str) -> None:
        """Delete a machine with its NICs, which disappear from its namespace."""
        self._world.remove_machine(instance_id)

    def set_delays(
        self,
        write_seconds: float | None = None,
        instance_write_seconds: float | None = None,
        imds_lag_seconds: float | None = None,
        retry_after_seconds: int | None = None,
    ) -> dict[str, float]:
        """Set how slow the cloud is; what is not named stays. Returns all.

        `write_seconds`: how long a write of a NIC is under way, and one of a scale set's instance
        unless `instance_write_seconds` says otherwise.
        """
        world = self._world
        if write_seconds is not None:
            world.set_behaviour(write_seconds=float(write_seconds))
            world.set_compute_behaviour(write_seconds=float(write_seconds))
        if instance_write_seconds is not None:
            world.set_compute_behaviour(write_seconds=float(instance_write_seconds))
        if retry_after_seconds is not None:
            world.set_behaviour(retry_after_seconds=int(retry_after_seconds))
            world.set_compute_behaviour(retry_after_seconds=int(retry_after_seconds))
        if imds_lag_seconds is not None:
            if imds_lag_seconds < 0:
                raise ValueError("imds_lag_seconds must not be negative")
            world.imds.settings.lag_seconds = float(imds_lag_seconds)
        return self._delays()

    def set_fault(
        self,
        action: str,
        kind: str,
        code: str = "",
        message: str = "",
        seconds: float = 0,
        count: int | None = None,
        instance_id: str = "",
        status: int = 0,
        for_seconds: float | None = None,
        nth: int = 1,
        retry_after_seconds: int = 0,
        applies: str = "nothing",
    ) -> int:
        """Put a fault in force, for ever, for `count` requests or for a time; returns its id.

        `action`: "*", or "METHOD" or "METHOD path-pattern" ("PUT */networkInterfaces/*"). `kind`:
        one of EC2's words throttle, error, timeout_before, timeout_after and latency, or one of
        `arm_faults.ArmFaultKind`'s own. `instance_id`: only requests for this machine's NICs.
        """
        world = self._world
        until = self.until(for_seconds)
        pattern = machine_pattern(world.compute, instance_id) if instance_id else "*"
        fault = fault_of(
            action, kind, pattern=pattern, code=code, status=status, retry_after=retry_after_seconds
        )
        with world.state.lock:
            return world.add_fault(
                fault,
                until_unix=until,
                message=message,
                seconds=seconds,
                count=count,
                nth=nth,
                applies=Applies(applies),
            )

    def clear_faults(self) -> None:
        """Remove every fault, of ARM and of the metadata service."""
        with self._world.state.lock:
            self._world.arm.faults.clear()
        self._world.imds.settings.faults = []

    def fill_subnet(self, subnet_id: str, leave_free: int) -> int:
        """Let other tenants take addresses until `leave_free` are left; returns how many."""
        before = self._tenants(subnet_id)
        self._world.outsiders.leave_free(subnet_id, leave_free)
        return self._tenants(subnet_id) - before

    def free_addresses(self, subnet_id: str, count: int) -> int:
        """Let other tenants give back up to `count` addresses; returns how many."""
        return self._world.outsiders.give_back(subnet_id, count)

    def fragment_subnet(self, subnet_id: str, leave_free_per_block: int = 15) -> int:
        """Let other tenants take addresses in every whole /28, so that none can be a block.

        Returns how many they took. `free_addresses` gives them back.
        """
        if not 0 <= leave_free_per_block < 16:
            raise ValueError("leave_free_per_block is 0 to 15")
        before = self._tenants(subnet_id)
        self._world.outsiders.strew(subnet_id, leave_free_per_block)
        return self._tenants(subnet_id) - before

    def set_buckets(self, profile: str) -> None:
        """Throttle by ARM's and IMDS's buckets ("real"), all of them full now, or not ("off")."""
        self._world.set_buckets(profile)

    def throttled(self) -> dict[str, int]:
        """How often each route was refused by a bucket, by its name ("networkInterfaces.put")."""
        with self._world.state.lock:
            return dict(self._world.throttled)

    def calls(self) -> dict[str, int]:
        """How often each route was called, refused and faulty calls included."""
        with self._world.state.lock:
            return dict(self._world.arm.calls)

    def reset_calls(self) -> None:
        """Count calls, and throttled ones, from zero."""
        with self._world.state.lock:
            self._world.arm.calls.clear()
            self._world.throttled.clear()

    def dropped(self) -> list[dict[str, Any]]:
        """What the fabric dropped: dicts of eni_id, kind, source and packets."""
        rows = super().dropped()
        with self._world.state.lock:
            nics = self._world.state.nics
            ids = {key: nic.nic_id for key, nic in nics.items()}
        return [row | {"eni_id": ids.get(row["eni_id"], row["eni_id"])} for row in rows]

    def state(self) -> dict[str, Any]:
        """Every NIC ("enis"), machine and subnet, the delays, and what failed in the fabric."""
        world = self._world
        with world.state.lock:
            world.settle()
            state = world.state
            return {
                "enis": [eni_row(world.state, nic) for nic in state.nics.values()],
                "machines": [machine_row(one) for one in world.compute.machines()],
                "subnets": [subnet_row(state, one) for one in state.subnets.values()],
                "delays": self._delays(),
                "fabric_failures": list(state.fabric_failures),
            }

    def options(
        self,
        network: Mapping[str, Any] | None = None,
        compute: Mapping[str, Any] | None = None,
        imds: Mapping[str, Any] | None = None,
    ) -> dict[str, dict[str, Any]]:
        """Set options by name, those of `Behaviour`, `ComputeBehaviour` and `AzureImdsSettings`.

        Enums are given by their value. Returns all of them, as they are then.
        """
        world = self._world
        world.set_behaviour(**typed(world.state.behaviour, network or {}))
        world.set_compute_behaviour(**typed(world.compute.behaviour, compute or {}))
        settings = world.imds.settings
        for name, value in typed(settings, imds or {}).items():
            setattr(settings, name, value)
        return {
            "network": plain(world.state.behaviour),
            "compute": plain(world.compute.behaviour),
            "imds": plain(settings) | {"faults": len(settings.faults)},
        }

    def out_of_band(self, eni_id: str, change: str, value: str = "") -> None:
        """Let another client change a NIC.

        `change`: "remove_config" (`value`: its name), "set_nsg" or "add_asg" (`value`: an id) or
        "delete_nic". A configuration of a scale set's NIC is removed from the instance's model.
        """
        world, outsiders = self._world, self._world.outsiders
        match change:
            case "remove_config":
                world.remove_config(eni_id, value)
            case "set_nsg":
                outsiders.set_nsg(eni_id, value)
            case "add_asg":
                outsiders.add_asg(eni_id, value)
            case "delete_nic":
                outsiders.delete_nic(eni_id)
            case _:
                raise ValueError(
                    f"{change} is none of remove_config, set_nsg, add_asg and delete_nic"
                )
        world.settle()

    def reimage(self, instance_id: str) -> None:
        """Begin to reimage an instance: when it is over, what was added to its model is gone."""
        self._world.reimage(instance_id)

    def revoke_tokens(self) -> None:
        """Make every token that was issued invalid."""
        self._world.tokens.issuer.revoke_all()

    def _set_for(self, subnet_id: str, size: str, nics: int) -> str:
        """The name of the scale set of machines alike."""
        where = subnet_id.rsplit("/", 1)[-1]
        kind = size.removeprefix("Standard_").replace("_", "-").lower()
        return f"pool-{where}-{kind}" + (f"-{nics}" if nics > 1 else "")

    def _tenants(self, subnet_id: str) -> int:
        with self._world.state.lock:
            subnet = self._world.state.subnet(subnet_id)
            return len(self._world.state.tenants.get(subnet.key, ()))

    def _delays(self) -> dict[str, float]:
        world = self._world
        return {
            "write_seconds": world.state.behaviour.write_seconds,
            "instance_write_seconds": world.compute.behaviour.write_seconds,
            "imds_lag_seconds": world.imds.settings.lag_seconds,
            "retry_after_seconds": world.state.behaviour.retry_after_seconds,
        }
