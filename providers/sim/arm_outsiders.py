"""What others do to the emulated Azure behind a client's back: tenants, operators, controllers.

For tests and the control socket; every call takes the state's lock itself. Changes of a NIC give it
a new etag, as any writer's would, and are refused while another write is under way, as any writer's
would be.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

from providers.sim import arm_nics
from providers.sim.arm_errors import JsonObject, no_resource
from providers.sim.arm_records import Nic, NicConfig
from providers.sim.arm_state import ArmState


class Outsiders:
    """Other tenants of the subnets, and other writers of the NICs."""

    def __init__(self, state: ArmState) -> None:
        self._state = state

    def take(self, subnet_id: str, count: int) -> None:
        """Take the `count` lowest free addresses; SubnetFull when there are not so many."""
        with self._settled():
            subnet = self._state.subnet(subnet_id)
            taken = subnet.pool.take(count)
            self._state.tenants.setdefault(subnet.key, []).extend(taken)

    def leave_free(self, subnet_id: str, count: int) -> None:
        """Take all free addresses but `count`."""
        with self._settled():
            free = self._state.subnet(subnet_id).pool.free_count
            self.take(subnet_id, max(0, free - count))

    def give_back(self, subnet_id: str, count: int) -> int:
        """Give back up to `count` addresses, those taken last first; how many it was."""
        with self._settled():
            subnet = self._state.subnet(subnet_id)
            held = self._state.tenants.get(subnet.key, [])
            given = [held.pop() for _ in range(min(count, len(held)))]
            subnet.pool.release(given)
            return len(given)

    def strew(self, subnet_id: str, leave_free_per_block: int = 15) -> int:
        """Take addresses in every whole /28, so that none is left for a block; how many blocks."""
        with self._settled():
            subnet = self._state.subnet(subnet_id)
            blocks = list(subnet.pool.whole_blocks())
            for block in blocks:
                taken = subnet.pool.take_named(list(block)[leave_free_per_block:])
                self._state.tenants.setdefault(subnet.key, []).extend(taken)
            return len(blocks)

    def set_subnet(self, subnet_id: str, **changes: Any) -> None:
        """Change how a subnet is and what it shows.

        `changes`: state, shows_configurations, is_counted or has_prefix_list of `Subnet`.
        """
        with self._settled():
            self._state.put_subnet(replace(self._state.subnet(subnet_id), **changes))

    def remove_config(self, nic_id: str, name: str) -> None:
        """Another client deletes one configuration; its address is free at once."""
        with self._settled():
            nic = self._free(nic_id)
            gone = nic.config(name)
            if gone is None:
                raise no_resource(f"{nic.nic_id}/ipConfigurations/{name}")
            configs = tuple(config for config in nic.configs if config is not gone)
            self._put(replace(nic, configs=configs))
            self._state.release(gone.subnet_key, gone.cidr)

    def set_nsg(self, nic_id: str, nsg_id: str) -> None:
        """Another client sets the NIC's network security group."""
        with self._settled():
            nic = self._free(nic_id)
            document = copy.deepcopy(nic.document)
            document.setdefault("properties", {})["networkSecurityGroup"] = {"id": nsg_id}
            self._put(replace(nic, document=document))

    def add_asg(self, nic_id: str, asg_id: str) -> None:
        """Another client puts every configuration into an application security group too."""

        def joined(config: NicConfig) -> NicConfig:
            document: JsonObject = copy.deepcopy(config.document)
            rows = document["properties"].setdefault("applicationSecurityGroups", [])
            rows.append({"id": asg_id})
            return replace(config, document=document)

        self._each_config(nic_id, joined)

    def delete_nic(self, nic_id: str) -> None:
        """The NIC is gone, attached or not, write under way or not."""
        with self._settled():
            self._state.drop_nic(nic_id)

    @contextlib.contextmanager
    def _settled(self) -> Iterator[None]:
        """The lock, with everything over that is due."""
        with self._state.lock:
            self._state.settle()
            yield

    def _each_config(self, nic_id: str, change: Callable[[NicConfig], NicConfig]) -> None:
        with self._settled():
            nic = self._free(nic_id)
            self._put(replace(nic, configs=tuple(change(config) for config in nic.configs)))

    def _free(self, nic_id: str) -> Nic:
        nic = self._state.nic(nic_id)
        arm_nics.check_free(self._state, nic)
        return nic

    def _put(self, nic: Nic) -> None:
        self._state.put_nic(replace(nic, etag=self._state.guids.new_etag()))
