"""What a test or the demo can ask of the running emulator, beyond what EC2's own API offers.

Each public method of `ControlCalls` that is named in CALLS is one call of the control socket: JSON
arguments in, a JSON value out. Errors are EC2's own or ValueError; `control` turns them into the
client's ControlError.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from providers.sim import control, control_vpc
from providers.sim.allocator import PREFIX_LENGTH_V4, SubnetFull
from providers.sim.control_common import CommonCalls
from providers.sim.ec2 import Emulator
from providers.sim.ec2_instance_actions import SimResponse
from providers.sim.ec2_records import Interface, Subnet
from providers.sim.ec2_state import Delays
from providers.sim.faults import FaultKind
from providers.sim.imds import Imds
from providers.sim.model import Fabric

CALLS = (*control.CALLS, "set_hop_limit")
IMAGE_ID = "ami-00000000000000001"
BLOCK_ADDRESSES = 1 << (32 - PREFIX_LENGTH_V4)


class ControlCalls(CommonCalls):
    """The calls of the control socket."""

    def __init__(self, emulator: Emulator, imds: Imds, fabric: Fabric | None) -> None:
        super().__init__(fabric, emulator.clock, imds.settings)
        self._emulator = emulator
        self._imds = imds

    def make_vpc(
        self,
        cidr: str,
        subnets: list[dict[str, Any]],
        more_cidrs: Sequence[str] = (),
        cidr_v6: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Make a VPC with subnets, and bring up their routers.

        A subnet is {"cidr", "zone"} and, if wanted, {"cidr_v6", "assigns_v6", "tags"}.
        """
        with self._emulator.lock:
            backend = self._emulator.backend
            vpc_id = control_vpc.make_vpc(backend, cidr, more_cidrs, cidr_v6, tags or {})
            made = [control_vpc.make_subnet(backend, vpc_id, one) for one in subnets]
            if self.fabric is not None:
                for subnet in made:
                    self.fabric.add_subnet(subnet.cidr, subnet.cidr_v6)
            group = backend.get_default_security_group(vpc_id)
            return {
                "vpc_id": vpc_id,
                "security_group_id": group.id if group else "",
                "subnets": [
                    {"subnet_id": one.subnet_id, "cidr": str(one.cidr), "cidr_v6": _block_v6(one)}
                    for one in made
                ],
            }

    def add_node(
        self, name: str, instance_type: str, subnet_id: str, netns_path: str = ""
    ) -> dict[str, Any]:
        """Start an instance whose ENIs appear in `netns_path`, beginning with its primary one."""
        tags = [{"ResourceType": "instance", "Tags": [{"Key": "Name", "Value": name}]}]
        asked = {
            "ImageId": IMAGE_ID,
            "InstanceType": instance_type,
            "MinCount": 1,
            "MaxCount": 1,
            "SubnetId": subnet_id,
            "TagSpecifications": tags,
        }
        with self._acting(asked) as action:
            instance_id = action.launch(netns_path=netns_path).instances[0].id
            state = self._emulator.state
            primary = state.attached_to(instance_id)[0]
            cidr = state.subnet(subnet_id).cidr
        return {
            "instance_id": instance_id,
            "eni_id": primary.eni_id,
            "mac": primary.mac,
            "address": str(primary.primary_address),
            "subnet_cidr": str(cidr),
            "gateway": str(cidr.network_address + 1),
        }

    def remove_node(self, instance_id: str) -> None:
        """Terminate an instance; its ENIs disappear from its namespace."""
        with self._acting({"InstanceIds": [instance_id]}) as action:
            action.terminate_instances()

    def set_delays(
        self,
        attach_seconds: float | None = None,
        detach_seconds: float | None = None,
        imds_lag_seconds: float | None = None,
        visibility_seconds: float | None = None,
    ) -> dict[str, float]:
        """Set how slow the cloud is; what is not named stays. Returns all four."""
        asked = {
            "attach_seconds": attach_seconds,
            "detach_seconds": detach_seconds,
            "imds_lag_seconds": imds_lag_seconds,
            "visibility_seconds": visibility_seconds,
        }
        with self._emulator.lock:
            state = self._emulator.state
            named = {name: float(value) for name, value in asked.items() if value is not None}
            state.delays = Delays(**(asdict(state.delays) | named))
            return asdict(state.delays)

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
    ) -> int:
        """Put a fault in force (see `faults.FaultKind`), for ever or for a time; returns its id."""
        with self._emulator.lock:
            return self._emulator.faults.add(
                action,
                FaultKind(kind),
                code=code,
                message=message,
                status=status,
                seconds=seconds,
                count=count,
                instance_id=instance_id,
                until_unix=self.until(for_seconds),
            )

    def clear_faults(self) -> None:
        """Remove every fault, of the API and of the metadata service."""
        with self._emulator.lock:
            self._emulator.faults.clear()
        self._imds.settings.faults = []

    def set_hop_limit(self, hops: int) -> None:
        """How many hops the metadata service's token answer survives (EC2: 1 to 64)."""
        if not 1 <= hops <= 64:
            raise ValueError("the hop limit is 1 to 64")
        self._imds.settings.hop_limit = hops

    def fill_subnet(self, subnet_id: str, leave_free: int) -> int:
        """Let other tenants take addresses until `leave_free` are left; returns how many."""
        with self._emulator.lock:
            state = self._emulator.state
            pool = state.pool(subnet_id)
            try:
                taken = pool.take(max(0, pool.free_count - leave_free))
            except SubnetFull as error:
                raise ValueError(str(error)) from error
            state.tenants.setdefault(subnet_id, []).extend(taken)
            return len(taken)

    def free_addresses(self, subnet_id: str, count: int) -> int:
        """Let other tenants give back up to `count` addresses; returns how many."""
        with self._emulator.lock:
            state = self._emulator.state
            held = state.tenants.get(subnet_id, [])
            given, state.tenants[subnet_id] = held[:count], held[count:]
            state.pool(subnet_id).release(given)
            return len(given)

    def fragment_subnet(self, subnet_id: str, leave_free_per_block: int = 15) -> int:
        """Let other tenants take addresses in every whole block, so that none can be a prefix.

        Returns how many they took. `free_addresses` gives them back.
        """
        if not 0 <= leave_free_per_block < BLOCK_ADDRESSES:
            raise ValueError(f"leave_free_per_block is 0 to {BLOCK_ADDRESSES - 1}")
        with self._emulator.lock:
            state = self._emulator.state
            pool = state.pool(subnet_id)
            taken = [
                block[place]
                for block in pool.whole_blocks()
                for place in range(BLOCK_ADDRESSES - leave_free_per_block)
            ]
            state.tenants.setdefault(subnet_id, []).extend(pool.take_named(taken))
            return len(taken)

    def set_buckets(self, profile: str) -> None:
        """Throttle by EC2's request buckets (`ec2`), all of them full now, or not (`off`)."""
        with self._emulator.lock:
            self._emulator.set_buckets(profile)

    def throttled(self) -> dict[str, int]:
        """How often each API action was answered RequestLimitExceeded."""
        with self._emulator.lock:
            return dict(self._emulator.throttled)

    def calls(self) -> dict[str, int]:
        """How often each API action was called, refused and faulty calls included."""
        with self._emulator.lock:
            return dict(self._emulator.calls)

    def reset_calls(self) -> None:
        """Count calls, and throttled ones, from zero."""
        with self._emulator.lock:
            self._emulator.calls.clear()
            self._emulator.throttled.clear()

    def state(self) -> dict[str, Any]:
        """Every ENI, machine and subnet, the delays, and what went wrong in the fabric."""
        emulator = self._emulator
        with emulator.lock:
            emulator.settle()
            state, backend = emulator.state, emulator.backend
            return {
                "enis": [_eni_row(eni) for eni in state.interfaces.values()],
                "machines": [
                    {
                        "instance_id": one.instance_id,
                        "name": one.name,
                        "instance_type": one.instance_type,
                        "netns_path": one.netns_path,
                    }
                    for one in state.machines.values()
                ],
                "subnets": [
                    {
                        "subnet_id": subnet_id,
                        "cidr": str(state.subnet(subnet_id).cidr),
                        "cidr_v6": _block_v6(state.subnet(subnet_id)),
                        "free": state.pool(subnet_id).free_count,
                        "free_blocks": state.pool(subnet_id).free_blocks(),
                        "tenants": len(state.tenants.get(subnet_id, [])),
                    }
                    for subnet_id in backend.subnet_ids()
                ],
                "delays": asdict(state.delays),
                "fabric_failures": list(state.fabric_failures),
            }

    @contextmanager
    def _acting(self, params: dict[str, Any]) -> Iterator[SimResponse]:
        """An API action from inside, under the lock; the timer hears of what it began."""
        with self._emulator.lock:
            try:
                yield self._emulator.prepared(params)
            finally:
                self._emulator.settle()


def _block_v6(subnet: Subnet) -> str:
    return "" if subnet.cidr_v6 is None else str(subnet.cidr_v6)


def _eni_row(eni: Interface) -> dict[str, Any]:
    attachment = eni.attachment
    return {
        "eni_id": eni.eni_id,
        "mac": eni.mac,
        "subnet_id": eni.subnet_id,
        "status": attachment.status.value if attachment else "available",
        "instance_id": attachment.instance_id if attachment else "",
        "device_index": attachment.device_index if attachment else -1,
        "deletes_on_termination": bool(attachment and attachment.deletes_on_termination),
        "has_source_check": eni.has_source_check,
        "interface_type": eni.interface_type,
        "network_card": attachment.network_card if attachment else -1,
        "addresses": [str(address) for address in eni.addresses],
        "prefixes": [str(prefix) for prefix in eni.prefixes],
        "addresses_v6": [str(address) for address in eni.addresses_v6],
        "prefixes_v6": [str(prefix) for prefix in eni.prefixes_v6],
    }
