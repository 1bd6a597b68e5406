"""Making host veths under the right name, and what stands in the way of that.

Called by `pods` with the attachment's lock held. A name that is taken is looked into, never fought
over: what an earlier try of the same key left is removed; a link of ours for a key that the ledger
does not know is removed under that key's lock; every other link keeps its name, and the pair gets
the fallback one.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace

from cni_shim.datapath import messages, names, sysctls
from cni_shim.datapath.answers import Link
from cni_shim.datapath.errors import DatapathError, ForeignInterface
from cni_shim.datapath.messages import VethPair
from cni_shim.datapath.netlink import HostNetlink, NetlinkSocket, find_link_by_index, find_links
from cni_shim.datapath.observe import links_of
from cni_shim.datapath.removal import LinkRemover
from cni_shim.datapath.wiring import PodWiring, is_of, veth_pair

_CREATE_TRIES = 4

Unheld = Callable[[str, str], AbstractContextManager[bool]]
"""For a key (container id, ifname) a block in which the key is locked against every verb; its value
is True if the ledger has nothing for the key. False, and at once, where that cannot be told."""


class IfindexChooser:
    """Interface indexes of our own choice, so that later messages need not wait for an answer.

    The kernel counts up from 1 per namespace and never comes near; the random start keeps clear of
    what an earlier process of ours chose. Host and pod end differ, because tools take a link whose
    index equals its peer's for a physical device.
    """

    _LOWEST, _HIGHEST = 1 << 24, 1 << 30

    def __init__(self) -> None:
        start = random.SystemRandom().randrange(self._LOWEST, self._HIGHEST, 2)
        self._counter = itertools.count(start, 2)

    def pair(self) -> tuple[int, int]:
        """Indexes for the host and the pod end. Thread-safe: count's next is one C call."""
        host = next(self._counter)
        return host, host + 1


@contextmanager
def nobody_knows(container_id: str, ifname: str) -> Iterator[bool]:
    """The answer where no ledger can be asked."""
    del container_id, ifname
    yield False


class Veths:
    """Makes pairs. Thread-safe."""

    def __init__(self, netlink: HostNetlink, remover: LinkRemover) -> None:
        self._netlink = netlink
        self._remover = remover
        self.indexes = IfindexChooser()
        self.unheld: Unheld = nobody_knows
        # Host ends between their creation and the end of their wire; for remove_leftover alone.
        self.unfinished: set[int] = set()
        # Whether the last pod had IPv4 alone, and so, nearly always, the next one.
        self.is_v4_only = False

    def create(self, pod: NetlinkSocket, netns_fd: int, wiring: PodWiring) -> VethPair:
        """Create the pair under the first of its names that can be had.

        Tried before anything is looked up, since nearly always nothing stands in the way. A message
        of its own, not the head of a batch: the kernel would go on with the rest of a batch after
        EEXIST, and dress up whatever link has the index already.
        """
        error: DatapathError | None = None
        host_ifnames = wiring.host_ifnames()
        for _ in range(_CREATE_TRIES):
            pair = veth_pair(
                wiring,
                host_ifname=host_ifnames[0],
                indexes=self.indexes.pair(),
                netns_fd=netns_fd,
            )
            try:
                self.make(pair)
            except DatapathError as e:
                if e.errno not in {errno.EEXIST, errno.EBUSY}:
                    raise
                error = e
            else:
                return pair
            self._clear_pod_ifname(pod, wiring)
            # Where no name is taken either, it was an ifindex, and the next pair will do.
            host_ifnames = self._free_names(wiring) or host_ifnames
        assert error is not None
        raise error

    def make(self, pair: VethPair) -> None:
        """Create exactly this pair; it is unfinished from now on. Raises DatapathError."""
        self.unfinished.add(pair.host_ifindex)
        try:
            self._netlink.socket().execute((messages.create_veth(pair),))
        except DatapathError:
            self.unfinished.discard(pair.host_ifindex)
            raise

    def without_v6(self, pair: VethPair) -> VethPair:
        """The pair, its host end rid of IPv6. Each end that has the family has a multicast route,
        and the kernel walks these routes of all pods at every link that comes or goes. Raises
        DatapathError."""
        sysctls.write(f"ipv6/conf/{pair.host_ifname}/disable_ipv6", "1")
        return replace(pair, has_v6_off=True)

    def discard(self, pair: VethPair) -> None:
        """Remove a pair that was made and will not be finished. Raises DatapathError."""
        try:
            self._remover.remove(pair.host_ifindex)
        finally:
            self.unfinished.discard(pair.host_ifindex)

    def remove_leftovers(self, wiring: PodWiring) -> bool:
        """Remove the host links of this key, wherever they are; True if there were any.

        One that is unfinished was begun for this wiring, and stays.
        """
        links = links_of(
            self._netlink.socket(), wiring.container_id, wiring.ifname, wiring.host_ifnames()
        )
        left = [link.ifindex for link in links if link.ifindex not in self.unfinished]
        for ifindex in left:
            self._remover.remove(ifindex)
        return bool(left)

    def _free_names(self, wiring: PodWiring) -> tuple[str, ...]:
        """The names of the wiring that can be had, once leftovers are out of their way."""
        candidates = wiring.host_ifnames()
        holders = find_links(self._netlink.socket(), candidates)
        return tuple(
            name
            for name, holder in zip(candidates, holders, strict=True)
            if holder is None or self._gave_way(holder, wiring)
        )

    def _gave_way(self, holder: Link, wiring: PodWiring) -> bool:
        """Remove the link that has a name of ours, if it is nobody's; True if it is gone."""
        if is_of(holder, wiring.container_id, wiring.ifname):
            self._remover.remove(holder.ifindex)
            return True
        identity = holder.identity
        if identity is None or identity.is_hashed:
            return False
        if names.vlan_of_group(holder.group):
            return False  # the ledger knows nothing of pods on branch ENIs
        with self.unheld(identity.container_id, identity.ifname) as is_leftover:
            if is_leftover:
                self._remover.remove(holder.ifindex)
            return is_leftover

    def _clear_pod_ifname(self, pod: NetlinkSocket, wiring: PodWiring) -> None:
        """Remove an interface of ours that has the wanted name in the pod; raise if not ours."""
        (inside,) = find_links(pod, (wiring.ifname,))
        if inside is None:
            return
        host = self._netlink.socket()
        outside = find_link_by_index(host, inside.peer_ifindex) if inside.peer_ifindex else None
        # Both directions: by one index alone it could be a link of some third namespace.
        if (
            outside is None
            or outside.peer_ifindex != inside.ifindex
            or not is_of(outside, wiring.container_id, wiring.ifname)
        ):
            raise ForeignInterface(wiring.ifname)
        self._remover.remove(outside.ifindex)
