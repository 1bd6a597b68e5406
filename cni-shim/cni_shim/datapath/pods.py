"""Wiring and unwiring of pods, by the worker threads of vpc-cnid.

Called by the server's verbs and its reconciler. Every method may be called from any thread; two
calls for one attachment are serialised. Which pod gets which address is not decided here: this
wires what it is told, and refuses an address that the node already uses for something else.

What is built: a veth pair, host end in the interface group of the pod's ENI and named by its alias;
the pod's /32 in the pod table; in the pod lo up, the /32, and a default route by 169.254.1.1. Each
end has the other as a permanent neighbour: nobody asks by ARP, and no entry counts against the
kernel's limit. IPv6 the same with /128 and fe80::1. No proxy ARP, and no rule for a single pod
unless asked for (`routing`).
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import TypeGuard

from cni_shim.datapath import answers, further, messages, names, peer_pods, sysctls
from cni_shim.datapath.begun import Begun
from cni_shim.datapath.branch import Branch
from cni_shim.datapath.branch_links import Branches
from cni_shim.datapath.egress import EgressAddresses, in_order
from cni_shim.datapath.errors import AddressInUse, DatapathError
from cni_shim.datapath.families import LEAST_MTU_V6, Address
from cni_shim.datapath.identity import encode_alias
from cni_shim.datapath.messages import VethPair
from cni_shim.datapath.netlink import (
    HostNetlink,
    NetlinkSocket,
    find_link_by_index,
    find_links,
)
from cni_shim.datapath.notices import LinkNotices
from cni_shim.datapath.observe import (
    ObservedPod,
    describe_route,
    links_of,
    observe_pods,
    pod_routes,
    rules_among,
    rules_naming,
)
from cni_shim.datapath.pod_routing import Held, PodRouting
from cni_shim.datapath.policy import is_egress
from cni_shim.datapath.removal import LinkRemover
from cni_shim.datapath.routing import RoutingRules
from cni_shim.datapath.standing import find_wired, look
from cni_shim.datapath.veths import Unheld, Veths
from cni_shim.datapath.wiring import (
    PodWiring,
    Wired,
    host_ifnames,
    host_requests,
    is_of,
    pod_requests,
)

__all__ = ["ObservedPod", "PodDatapath", "PodWiring", "Wired"]

# Two attachments on one stripe only wait for each other; 256 keep that rare with 64 workers.
_LOCK_STRIPES = 256


class PodDatapath:
    """Wires pods in the network namespace of the thread that makes this object."""

    def __init__(
        self,
        netlink: HostNetlink,
        notices: LinkNotices,
        *,
        mode: RoutingRules = RoutingRules.GROUPED,
    ) -> None:
        self._netlink = netlink
        self._routing = PodRouting(netlink, mode)
        self._remover = LinkRemover(netlink, notices)
        self._veths = Veths(netlink, self._remover)
        self._egress = EgressAddresses(netlink)
        self.branches = Branches(netlink, self._remover, mode=mode)
        self._locks = tuple(threading.Lock() for _ in range(_LOCK_STRIPES))
        self._has_ipv6 = sysctls.has_ipv6()

    def close(self) -> None:
        """Wait for deletions under way. The netlink object and the notices stay the caller's."""
        self._remover.close()

    def ask_ledger(self, unheld: Unheld) -> None:
        """Have somebody to ask whether a link of ours that has the name of another is a leftover;
        without, it is not."""
        self._veths.unheld = unheld

    def netns_cookie(self, netns_fd: int) -> int:
        """The identity of the namespace behind the descriptor. Raises DatapathError."""
        return self._netlink.netns_cookie(netns_fd)

    @contextmanager
    def begun(self, netns_fd: int) -> Iterator[Begun]:
        """Begin a wiring whose address is not known yet; what nobody wired is gone after the block.

        The block may hold no lock of this object: it waits for ipamd. Raises DatapathError.
        """
        with self._netlink.pod_socket(netns_fd) as pod:
            begun = Begun(self._veths, netns_fd, pod, self._netlink.socket())
            try:
                yield begun
            except BaseException as e:
                _discard_noting(begun, e)
                raise
            begun.discard_pair()

    def wire(self, netns_fd: int, wiring: PodWiring, begun: Begun | None = None) -> Wired:
        """Build everything for the attachment, or leave nothing of it; on what has `begun`, if
        something has.

        What an earlier try left for the same key is removed first. Raises ForeignInterface where
        the pod has an interface of that name that is not ours, AddressInUse where the node uses
        an address already, DatapathError for anything else the kernel refuses.
        """
        with (
            self._locked(wiring.container_id, wiring.ifname),
            nullcontext(begun.pod) if begun else self._netlink.pod_socket(netns_fd) as pod,
        ):
            rules = begun.take_rules() if begun else None
            for address in wiring.addresses:
                self._require_unused(wiring, address, rules)
            try:
                return self._build(netns_fd, pod, self._with_egress(wiring), begun)
            except BaseException:
                self._egress.free(wiring.container_id, wiring.ifname)
                raise

    def _build(
        self, netns_fd: int, pod: NetlinkSocket, wiring: PodWiring, begun: Begun | None
    ) -> Wired:
        _require_room_for_v6(wiring)
        if wiring.branch is not None:
            self.branches.prepare(wiring.branch, wiring.container_id, wiring.ifname)
        early = begun.take_pair(wiring) if begun else None
        try:
            pair = early or self._veths.create(pod, netns_fd, wiring)
        except BaseException as e:
            self._undo_branch(wiring, e)
            raise
        try:
            pair = self._with_families(pair, wiring)
            wired = self._dress(pod, pair, wiring)
            if wiring.egress_version:
                self._egress.bind(wiring.addresses, pair.host_ifindex)
            return wired
        except BaseException as e:
            self._undo(pair.host_ifindex, wiring.addresses, e)
            self._undo_branch(wiring, e)
            raise
        finally:
            self._veths.unfinished.discard(pair.host_ifindex)

    def inspect(self, netns_fd: int, wiring: PodWiring) -> Wired | None:
        """What stands, if every part of this wiring stands exactly so; else None."""
        wiring = self._with_known_egress(wiring)
        with self._netlink.pod_socket(netns_fd) as pod:
            wired = find_wired(self._netlink.socket(), pod, wiring, self._routing.checked_mode)
            if wired is None or wiring.branch is None:
                return wired
            outside = find_link_by_index(self._netlink.socket(), wired.host_ifindex)
            branch = self.branches.of_link(outside) if outside else None
            if outside is None or branch != wiring.branch.branch:
                return None
            return None if any(self.branches.missing(branch, outside)) else wired

    def check(self, netns_fd: int, wiring: PodWiring, *, pod_mac: str = "") -> tuple[str, ...]:
        """A sentence for each thing of this wiring that does not stand; empty if all does.

        What later plugins add is no fault; `pod_mac` is the MAC that the final result gives the
        pod, where tuning changed it ("" is ours). The wiring's mtu and names are not compared,
        since the config may have changed since the ADD. Raises DatapathError where it cannot look.
        """
        wiring = self._with_known_egress(wiring)
        with self._netlink.pod_socket(netns_fd) as pod:
            found = look(
                self._netlink.socket(), pod, wiring, self._routing.checked_mode, pod_mac=pod_mac
            )
            if wiring.branch is None or found.host is None:
                return found.missing
            return (
                *found.missing,
                *self.branches.missing(wiring.branch.branch, found.host),
            )

    def find_branch(
        self, container_id: str, ifname: str, pod_namespace: str, pod_name: str, veth_prefix: str
    ) -> Branch | None:
        """The branch ENI of the attachment, from what stands in the kernel; None for one without,
        and where only half of it stands. Links are asked for by name. Raises DatapathError."""
        prefixes = dict.fromkeys((names.STRICT_VETH_PREFIX, veth_prefix))
        candidates = [
            name
            for prefix in prefixes
            for name in host_ifnames(prefix, container_id, ifname, pod_namespace, pod_name)
        ]
        for link in find_links(self._netlink.socket(), candidates):
            if link is not None and is_of(link, container_id, ifname):
                return self.branches.of_link(link)
        return None

    def has_link(
        self, container_id: str, ifname: str, pod_namespace: str, pod_name: str, veth_prefix: str
    ) -> bool:
        """Whether a host veth of the attachment stands, and with it the pod's namespace: a pair
        goes with either end. Raises DatapathError."""
        candidates = host_ifnames(veth_prefix, container_id, ifname, pod_namespace, pod_name)
        return bool(links_of(self._netlink.socket(), container_id, ifname, candidates))

    def unwire(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        veth_prefix: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        """Remove the attachment's rules, routes and host link; True if there was anything.

        Idempotent, and needs no pod namespace. Only what is of this key goes: an address that by
        now belongs to another link keeps its route and rules. Returns when the link is unlisted.
        """
        candidates = host_ifnames(veth_prefix, container_id, ifname, pod_namespace, pod_name)
        with self._locked(container_id, ifname):
            links = links_of(self._netlink.socket(), container_id, ifname, candidates)
            ifindexes = {link.ifindex for link in links}
            vlan_ids = {names.vlan_of_group(link.group) for link in links} - {0}
            if vlan_ids:  # no allocation names its addresses
                branches = (self.branches.of_link(link) for link in links)
                found = (a for branch in branches if branch for a in branch.addresses)
                addresses = tuple(dict.fromkeys((*addresses, *found)))
                for vlan_id in vlan_ids:
                    self.branches.remove(vlan_id)
            addresses = (*addresses, *self._egress.of(container_id, ifname))
            # Before the link, by which a look of ours at leftovers would know whose they are.
            had_rules = [self._routing.remove_rules(a, ifindexes) for a in addresses]
            with ExitStack() as removals:
                for ifindex in ifindexes:
                    removals.enter_context(self._remover.removing(ifindex))
            self._egress.free(container_id, ifname)
        return any(had_rules) or bool(ifindexes)

    def unwire_peers(
        self,
        container_id: str,
        ifname: str,
        pod_namespace: str,
        pod_name: str,
        addresses: tuple[Address, ...],
    ) -> bool:
        """Remove what aws-node's plugin made for the attachment's addresses; True if there was
        anything. Idempotent, and needs no pod namespace.

        The caller must know from the ledger that the addresses are this attachment's now. A link
        that carries another address too, or has another pod's name, stays.
        """
        digits = names.peer_digits(ifname, pod_namespace, pod_name)
        with self._locked(container_id, ifname):
            return peer_pods.remove(self._netlink.socket(), self._remover, digits, addresses)

    def settle(self, held: Held, ready_marks: frozenset[int]) -> int:
        """See PodRouting.settle: after a start, and whenever pods' routes or rules may be gone."""
        return self._routing.settle(self._egress.added_to(held), ready_marks, self._locked)

    def observe(self) -> tuple[ObservedPod, ...]:
        """Every pod address found in the kernel, and every host veth of ours. Not a snapshot in
        time: a wire under way may show as a link without an address.
        """
        return observe_pods(self._netlink.socket())

    def remove_leftover(self, observed: ObservedPod) -> bool:
        """Remove what `observe` found of ours, if it still stands as observed; True if it did.

        Never touches a foreign link, route or rule, nor a link that a wire is still working on (it
        has no alias yet, so that its key's lock does not protect it).
        """
        if observed.ifindex in self._veths.unfinished:
            return False
        with self._locked(observed.container_id, observed.ifname):
            had_rules = observed.address is not None and self._routing.remove_rules(
                observed.address, {observed.ifindex}
            )
            if observed in observe_pods(self._netlink.socket()) and observed.is_ours:
                self._remover.remove(observed.ifindex)
                return True
            return self._remove_stray_route(observed) or had_rules

    @contextmanager
    def _locked(self, container_id: str, ifname: str) -> Iterator[None]:
        with self._locks[hash((container_id, ifname)) % _LOCK_STRIPES]:
            yield

    def _require_unused(
        self, wiring: PodWiring, address: Address, listed: list[bytes] | None
    ) -> None:
        """Raise AddressInUse where a route to exactly this address, or a rule naming it, stands.

        Any table counts, and so does an address of the node itself: another agent's pod, or a
        distribution's ENI script, would fight us for it. What an earlier try of the same key left
        is removed instead. `listed` are the rules, where they were listed just now.
        """
        host = self._netlink.socket()
        (answer,) = host.get((messages.match_route(address),))
        if _is_route_to(answer, address):
            if not self._veths.remove_leftovers(wiring):
                raise AddressInUse(address, describe_route(host, answer))
            self._require_unused(wiring, address, listed)
            return
        rules = rules_naming(host, address) if listed is None else rules_among(listed, address)
        if any(r.protocol == names.PROTOCOL for r in rules):
            self._routing.remove_stale_rules(address)
            rules = rules_naming(host, address)
        if rules:
            where = f"rule {rules[0].priority} to table {rules[0].table}"
            raise AddressInUse(address, where)

    def _with_families(self, pair: VethPair, wiring: PodWiring) -> VethPair:
        """The pair, each end with the families that the pod has."""
        self._veths.is_v4_only = self._has_ipv6 and not wiring.has_v6
        if wiring.has_v6:
            self._prepare_v6(pair)
        elif self._has_ipv6 and not pair.has_v6_off:
            return self._veths.without_v6(pair)
        return pair

    def _prepare_v6(self, pair: VethPair) -> None:
        """No router advertisement of the pod is believed; the pod's own ends have the family on,
        also where the runtime made the namespace with IPv6 off."""
        if pair.has_v6_off:
            sysctls.write(f"ipv6/conf/{pair.host_ifname}/disable_ipv6", "0")
        sysctls.write(f"ipv6/conf/{pair.host_ifname}/accept_ra", "0")
        with self._netlink.inside(pair.netns_fd):
            for ifname in ("lo", pair.pod_ifname):
                name = f"ipv6/conf/{ifname}/disable_ipv6"
                if sysctls.read(name) != "0":
                    sysctls.write(name, "0")

    def _dress(self, pod: NetlinkSocket, pair: VethPair, wiring: PodWiring) -> Wired:
        cookie = pod.netns_cookie()
        alias = encode_alias(wiring.identity(cookie))
        branch = wiring.branch.branch if wiring.branch else None
        batch = host_requests(
            pair,
            alias,
            wiring.addresses,
            has_ipv6=self._has_ipv6,
            mode=self._routing.mode,
            branch=branch,
        )
        try:
            self._netlink.socket().execute(batch)
        except DatapathError as e:
            if e.errno == errno.EEXIST:
                address = next(a for a in wiring.addresses if f" {a}/" in e.op)
                if is_egress(address):  # no address of ipamd's: it must not be quarantined
                    raise
                where = f"a route in table {self._routing.mode.pod_table}"
                raise AddressInUse(address, where) from e
            raise
        if branch is None or not branch.is_strict:
            self._routing.add_rules(wiring.addresses, wiring.mark)
        if branch is not None:
            self.branches.finish(branch, pair.host_ifname)
        own_table: tuple[int, ...] = ()
        try:
            pod.execute(pod_requests(pair, wiring.addresses))
        except DatapathError as e:
            if e.errno != errno.EEXIST:
                raise
            own_table = further.dress(pod, pair, wiring.addresses)
        # The host end was up before the pod end gave it a carrier, so the kernel starts its queue
        # from a work queue, and until then drops what is sent to the pod. Asking for the link
        # starts it now (since Linux 6.8: "synchronize link-watch when carrier is queried").
        find_link_by_index(self._netlink.socket(), pair.host_ifindex)
        return Wired(
            host_ifname=pair.host_ifname,
            host_ifindex=pair.host_ifindex,
            host_mac=names.mac_text(pair.host_mac),
            pod_mac=names.mac_text(pair.pod_mac),
            netns_cookie=cookie,
            own_table_versions=own_table,
        )

    def _undo(
        self, host_ifindex: int, addresses: tuple[Address, ...], cause: BaseException
    ) -> None:
        """Take rules and the pair away, and with it every route; `cause` is what the caller will
        hear."""
        try:
            for address in addresses:
                self._routing.remove_rules(address, {host_ifindex})
            self._remover.remove(host_ifindex)
        except DatapathError as e:
            cause.add_note(f"undoing it failed too: {e}")

    def _with_egress(self, wiring: PodWiring) -> PodWiring:
        """With a node-local address, where one is wanted."""
        version = wiring.egress_version
        if not version or version in {address.version for address in wiring.addresses}:
            return wiring
        extra = self._egress.take(version, wiring.container_id, wiring.ifname)
        return replace(wiring, addresses=in_order((*wiring.addresses, extra)))

    def _with_known_egress(self, wiring: PodWiring) -> PodWiring:
        """With the node-local address that the attachment has, if it has one: it may be older than
        the setting, or the setting older than it."""
        extra = self._egress.of(wiring.container_id, wiring.ifname)
        versions = {address.version for address in wiring.addresses}
        more = tuple(address for address in extra if address.version not in versions)
        return replace(wiring, addresses=in_order((*wiring.addresses, *more))) if more else wiring

    def _undo_branch(self, wiring: PodWiring, cause: BaseException) -> None:
        if wiring.branch is None:
            return
        try:
            self.branches.remove(wiring.branch.branch.vlan_id)
        except DatapathError as e:
            cause.add_note(f"removing its VLAN link failed too: {e}")

    def _remove_stray_route(self, observed: ObservedPod) -> bool:
        """Remove a route of ours to a pod that leads to a link which is not ours."""
        host = self._netlink.socket()
        strays = [
            route
            for route in pod_routes(host)
            if route.destination.network_address == observed.address
            and route.protocol == names.PROTOCOL
            and route.ifindex == observed.ifindex
        ]
        for route in strays:
            host.execute((messages.delete_route(route),))
        return bool(strays)


def _is_route_to(answer: bytes | DatapathError, address: Address) -> TypeGuard[bytes]:
    """Whether the kernel's answer is a route to exactly this address."""
    return isinstance(answer, bytes) and answers.matched_length(answer) == address.max_prefixlen


def _discard_noting(begun: Begun, cause: BaseException) -> None:
    try:
        begun.discard_pair()
    except DatapathError as e:
        cause.add_note(f"removing the pair that was begun failed too: {e}")


def _require_room_for_v6(wiring: PodWiring) -> None:
    if wiring.has_v6 and wiring.mtu < LEAST_MTU_V6:
        what = f"the MTU is {wiring.mtu}, IPv6 needs {LEAST_MTU_V6} (mtu of the network config)"
        raise DatapathError(f"give {wiring.addresses[-1]} to the pod", errno.EMSGSIZE, what)
