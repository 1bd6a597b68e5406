"""What of a wiring is done before its address is known: the pod's netlink socket, the pair, and the
list of rules, in which the address must not occur.

To make a pair takes the kernel as long as ipamd takes for an address (0.4 ms), and neither needs
the other. So an ADD sends its question, makes the pair, and then reads the answer: the ENI's group
and the MAC that follows from the address are set with the rest (`wiring`). A pair that is made so
has no alias yet, as any that was just made; where its process dies, the sweep of leftovers finds it
by its group, and the next ADD of the same key by its MAC.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address

from cni_shim.datapath import messages, names
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.messages import VethPair
from cni_shim.datapath.netlink import NetlinkSocket
from cni_shim.datapath.veths import Veths
from cni_shim.datapath.wiring import PairWish, PodWiring

_NO_ADDRESS = IPv4Address(0)

RULES_SECONDS = 0.05
"""How old the list of rules may be when the address is judged by it: a rule that comes meanwhile is
missed as it would be right after the look. Past that ipamd let the pod wait, and it is made anew.
"""


class Begun:
    """A wiring that has begun; for one thread, within the block of `PodDatapath.begun`."""

    def __init__(
        self, veths: Veths, netns_fd: int, pod: NetlinkSocket, host: NetlinkSocket
    ) -> None:
        """`pod` and `host` are sockets of the thread whose wiring this is."""
        self._veths = veths
        self._host = host
        self._netns_fd = netns_fd
        self._pair: VethPair | None = None
        self._was_tried = False
        self._rules: list[bytes] | None = None
        self._listed = 0.0
        self.pod = pod
        self.netns_cookie = pod.netns_cookie()

    def make_pair(self, wish: PairWish) -> None:
        """Make the pair, once, if nothing stands in its way; what does is looked into by `wire`."""
        if self._was_tried:
            return
        self._was_tried = True
        host_ifindex, pod_ifindex = self._veths.indexes.pair()
        pair = VethPair(
            host_ifname=wish.host_ifname,
            host_ifindex=host_ifindex,
            host_mac=names.host_mac(wish.container_id, wish.ifname),
            group=names.link_group(0),
            mtu=wish.mtu,
            pod_ifname=wish.ifname,
            pod_ifindex=pod_ifindex,
            pod_mac=names.pod_mac(_NO_ADDRESS),
            netns_fd=self._netns_fd,
            is_early=True,
        )
        try:
            self._veths.make(pair)
        except DatapathError:
            return
        self._pair = pair
        if self._veths.is_v4_only:
            with suppress(DatapathError):  # `wire` will say it
                self._pair = self._veths.without_v6(pair)

    def list_rules(self) -> None:
        """List the rules of the host, of both families."""
        with suppress(DatapathError):  # `wire` will say it
            self._rules = self._host.dump_raw(messages.dump_rules())
            self._listed = time.monotonic()

    def take_rules(self) -> list[bytes] | None:
        """The rules as listed, once, if that was just now."""
        rules, self._rules = self._rules, None
        return rules if time.monotonic() - self._listed <= RULES_SECONDS else None

    def take_pair(self, wiring: PodWiring) -> VethPair | None:
        """The pair, as this wiring wants it, if there is one; from now on it is the caller's."""
        pair, self._pair = self._pair, None
        if pair is None:
            return None
        return replace(
            pair,
            group=names.link_group(wiring.mark),
            pod_mac=names.pod_mac(wiring.addresses[0]),
        )

    def discard_pair(self) -> None:
        """Remove the pair, where nobody took it. Raises DatapathError."""
        pair, self._pair = self._pair, None
        if pair is not None:
            self._veths.discard(pair)
