"""Node-local addresses of the family that a pod's ENI does not give it, to go out with.

An address of a fixed range (`policy`), the same on every node: it leaves the node only behind the
node's own address, and nobody can open a connection to it (`chains`). The pod has it on the same
link as its other one, with a default route of its family; the route to it stands with the pod's.

Who has which is read from those routes at the start and remembered; the route goes with the link.
Called by `pods` with the attachment's lock held.
"""

from __future__ import annotations

import errno
import hashlib
import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from ipaddress import ip_address

from cni_shim.datapath import answers, messages
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.netlink import HostNetlink, find_link_by_index
from cni_shim.datapath.observe import pod_routes
from cni_shim.datapath.pod_routing import Held
from cni_shim.datapath.policy import EGRESS_RANGES, is_egress

Key = tuple[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Whose an address is; `ifindex` is 0 until the link stands."""

    container_id: str
    ifname: str
    ifindex: int = 0


def candidate(version: int, container_id: str, ifname: str, step: int) -> Address:
    """The address that an attachment tries at this step, from 0: first one that follows from its
    key, then the next ones, around the range. Neither its first nor its last is among them."""
    network = EGRESS_RANGES[version]
    usable = network.num_addresses - 2
    digest = hashlib.sha256(f"{container_id}/{ifname}".encode()).digest()
    offset = (int.from_bytes(digest[:8], "big") + step) % usable
    return ip_address(int(network.network_address) + 1 + offset)


class EgressAddresses:
    """The addresses of one node; reads who has which when it is made. Thread-safe."""

    def __init__(self, netlink: HostNetlink) -> None:
        self._netlink = netlink
        self._lock = threading.Lock()
        self._holders: dict[Address, Holder] = {}
        self._by_key: dict[Key, tuple[Address, ...]] = {}
        self._read()

    def take(self, version: int, container_id: str, ifname: str) -> Address:
        """The attachment's address, its own where it has one. Raises DatapathError ENOSPC."""
        with self._lock:
            for held in self._by_key.get((container_id, ifname), ()):
                if held.version == version:
                    return held
            for step in range(EGRESS_RANGES[version].num_addresses - 2):
                address = candidate(version, container_id, ifname, step)
                if self._is_free(address):
                    self._put(address, Holder(container_id=container_id, ifname=ifname))
                    return address
        raise DatapathError(f"find a free address in {EGRESS_RANGES[version]}", errno.ENOSPC)

    def bind(self, addresses: Collection[Address], ifindex: int) -> None:
        """The link of these attachments' addresses stands."""
        with self._lock:
            for address in addresses:
                if address in self._holders:
                    self._holders[address] = replace(self._holders[address], ifindex=ifindex)

    def of(self, container_id: str, ifname: str) -> tuple[Address, ...]:
        """The attachment's addresses of this kind, if any."""
        return self._by_key.get((container_id, ifname), ())

    def free(self, container_id: str, ifname: str) -> None:
        """The attachment is gone, or was never finished."""
        with self._lock:
            for address in self._by_key.pop((container_id, ifname), ()):
                del self._holders[address]

    def added_to(self, held: Held) -> Held:
        """The addresses of attachments, with those of this kind of all that are named there."""
        found = dict(self._by_key)
        if not found:
            return held
        return {key: in_order((*held[key], *found.get(key, ()))) for key in held}

    def _put(self, address: Address, holder: Holder) -> None:
        self._holders[address] = holder
        key = holder.container_id, holder.ifname
        self._by_key[key] = (*self._by_key.get(key, ()), address)

    def _read(self) -> None:
        host = self._netlink.socket()
        for route in pod_routes(host):
            address = route.destination.network_address
            link = find_link_by_index(host, route.ifindex) if is_egress(address) else None
            if link is not None and link.identity is not None:
                whose = link.identity.container_id, link.identity.ifname
                holder = Holder(container_id=whose[0], ifname=whose[1], ifindex=link.ifindex)
                self._put(address, holder)

    def _drop(self, address: Address, holder: Holder) -> None:
        del self._holders[address]
        key = holder.container_id, holder.ifname
        self._by_key[key] = tuple(a for a in self._by_key[key] if a != address)

    def _is_free(self, address: Address) -> bool:
        """Whether nobody has it: none of ours whose link still stands, and none of another agent's
        (aws-node's egress plugin has the same range)."""
        host = self._netlink.socket()
        holder = self._holders.get(address)
        if holder is not None:
            is_gone = holder.ifindex and find_link_by_index(host, holder.ifindex) is None
            if not is_gone:
                return False
            self._drop(address, holder)
        (answer,) = host.get((messages.match_route(address),))
        return isinstance(answer, DatapathError) or (
            answers.matched_length(answer) != address.max_prefixlen
        )


def in_order(addresses: Collection[Address]) -> tuple[Address, ...]:
    """IPv4 first, as everywhere."""
    return tuple(sorted(addresses, key=lambda address: address.version))
