"""The host's rules and routes for addresses that other plugins wire: put, checked, mended, removed.

Called by the verbs and, on every look at the host, by `node_watch`. What `put` made is known by its
attachment until `remove`, so that what somebody else deleted comes back. A restart learns it anew
from ipamd's list (`recall`), and from the kernel which plugin it was made for.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable

import structlog

from cni_shim.datapath import answers, messages, sysctls
from cni_shim.datapath.delegation import (
    BRIDGE,
    PROTOCOL,
    PTP,
    Delegation,
    bridge_sysctls,
    wanted_routes,
    wanted_rules,
)
from cni_shim.datapath.errors import AddressInUse, DatapathError
from cni_shim.datapath.families import Address, host_network
from cni_shim.datapath.messages import Request, Route, Rule
from cni_shim.datapath.netlink import HostNetlink, find_link_by_index, find_links
from cni_shim.datapath.observe import describe_route, rules_naming
from cni_shim.spec import AttachmentKey

log = structlog.get_logger()


class DelegatedPods:
    """Works in the network namespace of the thread that makes this object. Thread-safe: one at a
    time, as nothing here is on the path of pods that we wire."""

    def __init__(self, netlink: HostNetlink) -> None:
        self._netlink = netlink
        self._lock = threading.Lock()
        self._known: dict[AttachmentKey, Delegation] = {}

    def put(self, key: AttachmentKey, delegation: Delegation, *, is_repeat: bool) -> None:
        """Have everything stand, or nothing of it. Raises AddressInUse where the node uses an
        address already (which a repeat of the same attachment does itself), DatapathError."""
        with self._lock:
            if not is_repeat:
                for address in delegation.addresses:
                    self._require_unused(address)
            self._known[key] = delegation
            try:
                self._add_missing(delegation)
                self._answer_on_bridge(delegation)
            except BaseException:
                self._delete(delegation.addresses)
                del self._known[key]
                raise

    def remove(self, key: AttachmentKey, addresses: Iterable[Address]) -> bool:
        """Remove all that is for the attachment, and for the addresses that the ledger names; True
        if anything stood. Idempotent. Raises DatapathError; what is left is removed by the next."""
        with self._lock:
            known = self._known.get(key)
            found = self._delete({*addresses, *(known.addresses if known else ())})
            self._known.pop(key, None)
            return found

    def remove_unknown(self, addresses: Iterable[Address]) -> None:
        """Remove what is for addresses that no attachment known here has. Raises DatapathError."""
        with self._lock:
            known = {address for each in self._known.values() for address in each.addresses}
            self._delete(set(addresses) - known)

    def check(self, delegation: Delegation) -> tuple[str, ...]:
        """Sentences of what does not stand; empty when all is well. Raises DatapathError."""
        with self._lock:
            missing = self._missing(delegation)
        return tuple(f"missing: {request.op}" for request in missing)

    def recall(self, key: AttachmentKey, delegation: Delegation) -> None:
        """An attachment of an earlier process of ours; what its plugin was, the kernel says. Where
        it does not, that part of what stands is not mended."""
        with self._lock:
            if key in self._known:
                return
            try:
                self._known[key] = self._recognised(delegation)
            except DatapathError as e:
                log.warning("delegated_not_recognised", key=str(key), error=str(e))
                self._known[key] = delegation

    def mend(self) -> None:
        """Put back whatever is missing of every known attachment. What the kernel refuses is
        logged, and tried again by the next look: our own pods' network must not wait for it."""
        with self._lock:
            if not self._known:
                return
            try:
                rules = self._rules()
                for key, delegation in self._known.items():
                    self._mend(key, delegation, rules)
            except DatapathError as e:
                log.warning("delegated_not_mended", error=str(e))

    def _mend(self, key: AttachmentKey, delegation: Delegation, rules: frozenset[Rule]) -> None:
        missing = self._missing(delegation, rules)
        for request in missing:
            self._execute(request, harmless=errno.EEXIST)
        self._answer_on_bridge(delegation)
        if missing:
            log.warning("delegated_mended", key=str(key), count=len(missing))

    def _require_unused(self, address: Address) -> None:
        host = self._netlink.socket()
        (answer,) = host.get((messages.match_route(address),))
        if isinstance(answer, bytes) and answers.matched_length(answer) == address.max_prefixlen:
            raise AddressInUse(address, describe_route(host, answer))
        rules = rules_naming(host, address)
        if rules:
            raise AddressInUse(address, f"rule {rules[0].priority} to table {rules[0].table}")

    def _add_missing(self, delegation: Delegation) -> None:
        for request in self._missing(delegation):
            self._execute(request, harmless=errno.EEXIST)

    def _missing(
        self, delegation: Delegation, rules: frozenset[Rule] | None = None
    ) -> tuple[Request, ...]:
        standing = self._rules() if rules is None else rules
        routes = wanted_routes(delegation, self._bridge_ifindex(delegation))
        present = set(self._routes(delegation.addresses)) if routes else set()
        return (
            *(messages.add_route(r) for r in routes if r not in present),
            *(messages.add_rule(r) for r in wanted_rules(delegation) if r not in standing),
        )

    def _answer_on_bridge(self, delegation: Delegation) -> None:
        """Have the node answer, at once, the bridge's questions for addresses that are not on it.

        Pods take their whole subnet for theirs, but a VPC has no broadcast domain: a host of the
        subnet on another node, or a pod of ours on this one, is never on the bridge itself.
        """
        if not self._bridge_ifindex(delegation):
            return
        for name, value in bridge_sysctls(delegation.bridge):
            if sysctls.read(name) != value:
                sysctls.write(name, value)

    def _bridge_ifindex(self, delegation: Delegation) -> int:
        if delegation.main_type != BRIDGE:
            return 0
        (link,) = find_links(self._netlink.socket(), (delegation.bridge,))
        return link.ifindex if link else 0

    def _recognised(self, delegation: Delegation) -> Delegation:
        for route in self._routes(delegation.addresses):
            link = find_link_by_index(self._netlink.socket(), route.ifindex)
            if link is not None:
                return _as(delegation, BRIDGE, link.ifname)
        as_ptp = _as(delegation, PTP, "")
        return as_ptp if set(wanted_rules(as_ptp)) & self._to_pods() else delegation

    def _to_pods(self) -> frozenset[Rule]:
        return frozenset(rule for rule in self._rules() if rule.destination is not None)

    def _delete(self, addresses: Iterable[Address]) -> bool:
        """Rules go before routes; both only where they carry our number for such addresses."""
        wanted = {host_network(address) for address in addresses}
        rules = [r for r in self._rules() if {r.source, r.destination} & wanted]
        routes = self._routes(addresses)
        for rule in rules:
            self._execute(messages.delete_rule(rule), harmless=errno.ENOENT)
        for route in routes:
            self._execute(messages.delete_route(route), harmless=errno.ESRCH)
        return bool(rules or routes)

    def _rules(self) -> frozenset[Rule]:
        found = self._netlink.socket().dump(messages.dump_rules(), answers.rule_of)
        return frozenset(rule for rule in found if rule.protocol == PROTOCOL)

    def _routes(self, addresses: Iterable[Address]) -> tuple[Route, ...]:
        wanted = {host_network(address) for address in addresses}
        found = self._netlink.socket().dump(messages.dump_routes(), answers.route_of)
        return tuple(r for r in found if r.protocol == PROTOCOL and r.destination in wanted)

    def _execute(self, request: Request, *, harmless: int) -> None:
        try:
            self._netlink.socket().execute((request,))
        except DatapathError as e:
            if e.errno != harmless:
                raise


def _as(delegation: Delegation, main_type: str, bridge: str) -> Delegation:
    return Delegation(
        addresses=delegation.addresses,
        table=delegation.table,
        main_type=main_type,
        bridge=bridge,
    )
