"""Branch ENIs in the kernel: VLAN links, their tables and rules, and what is left of dead ones.

Called by `pods` with the attachment's lock held, and by the daemon's rounds (`mend`). Works in the
network namespace of the thread that makes it. How a link is made is an object (`VlanKind`),
since kernels without 802.1Q can only be shown that everything else works.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import structlog

from cni_shim.datapath import answers, messages, names, sysctls
from cni_shim.datapath.answers import Link
from cni_shim.datapath.branch import (
    Branch,
    BranchLink,
    alias_of,
    branch_of,
    branch_routes,
    branch_rules,
    pod_route,
    sysctls_of,
)
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.links import link_with_mac
from cni_shim.datapath.messages import Request, Route, Rule
from cni_shim.datapath.netlink import (
    HostNetlink,
    NetlinkSocket,
    find_link_by_index,
    find_links,
)
from cni_shim.datapath.removal import LinkRemover
from cni_shim.datapath.routing import RoutingRules
from cni_shim.datapath.wiring import is_of

log = structlog.get_logger()

SUSPECT_SECONDS = 30.0
"""How long a VLAN link must have been without its pod's veth before it is a leftover (I5)."""


class VlanKind:
    """How a VLAN link is made, and told from others of its name."""

    def create(self, sock: NetlinkSocket, wanted: BranchLink, trunk: Link) -> None:
        """Make the link. Raises DatapathError; EOPNOTSUPP where the kernel has no 802.1Q."""
        sock.execute(
            (
                messages.create_vlan(
                    wanted.branch.ifname,
                    parent_ifindex=trunk.ifindex,
                    vlan_id=wanted.branch.vlan_id,
                    mac=wanted.mac,
                    mtu=wanted.mtu,
                    group=wanted.branch.group,
                ),
            )
        )

    def is_right(self, link: Link, wanted: BranchLink, trunk: Link) -> bool:
        """Whether the link is what `create` would make."""
        return (
            link.kind == "vlan"
            and link.vlan_id == wanted.branch.vlan_id
            and link.peer_ifindex == trunk.ifindex
            and link.mac == wanted.mac
            and link.mtu == wanted.mtu
        )


class Branches:
    """Makes, mends and removes what a branch ENI needs beside the pod's veth. Thread-safe."""

    def __init__(self, netlink: HostNetlink, remover: LinkRemover, *, mode: RoutingRules) -> None:
        self._netlink = netlink
        self._remover = remover
        self._mode = mode
        self._lock = threading.Lock()
        self._suspects: dict[int, float] = {}  # VLAN ids, since when on the monotonic clock
        self._may_exist = True  # until a look found none, an earlier process may have left some
        self.kind = VlanKind()

    def prepare(self, wanted: BranchLink, container_id: str, ifname: str) -> None:
        """Have the VLAN link and its table stand. Raises DatapathError, with nothing left of it."""
        host, branch = self._netlink.socket(), wanted.branch
        with self._lock:
            self._may_exist = True
            self._suspects.pop(branch.vlan_id, None)
            links = host.dump(messages.dump_links(), answers.link_of)
            _require_unused(links, branch, container_id, ifname)
            trunk = link_with_mac(links, wanted.trunk_mac)
            if trunk is None:
                raise DatapathError(
                    f"find the trunk ENI's link: none has MAC {wanted.trunk_mac}", errno.ENODEV
                )
            try:
                self._have_link(wanted, trunk, links)
            except BaseException:
                self._remove(branch.vlan_id)
                raise

    def finish(self, branch: Branch, host_ifname: str) -> None:
        """The rules, once the veth that they name is there."""
        host = self._netlink.socket()
        with self._lock:
            _write_sysctls(branch, host_ifname)
            for rule in branch_rules(branch, host_ifname):
                _perform(host, messages.add_rule(rule), errno.EEXIST)

    def remove(self, vlan_id: int) -> None:
        """Take rules, table and link away; idempotent. Raises DatapathError."""
        with self._lock:
            self._remove(vlan_id)

    def of_link(self, link: Link) -> Branch | None:
        """The branch ENI whose pod is behind this host veth; None for an ordinary pod, and where
        the VLAN link is gone."""
        vlan_id = names.vlan_of_group(link.group)
        if not vlan_id:
            return None
        (vlan,) = find_links(self._netlink.socket(), (names.branch_ifname(vlan_id),))
        return branch_of(vlan.alias, vlan.group) if vlan else None

    def missing(self, branch: Branch, outside: Link) -> Iterator[str]:
        """A sentence for each thing of the branch ENI that does not stand."""
        host = self._netlink.socket()
        (vlan,) = find_links(host, (branch.ifname,))
        if vlan is None:
            yield f"the VLAN link {branch.ifname} of the branch ENI is gone"
            return
        if not vlan.is_up:
            yield f"the VLAN link {branch.ifname} is down"
        for request in self._missing(branch, vlan, outside, _routes(host), _rules(host)):
            yield f"missing: {request.op}"

    def mend(self, now_monotonic: float) -> None:
        """Put back what is gone of living pods, and remove what pods left that went without a DEL.
        What the kernel refuses is logged, and tried again by the next round."""
        with self._lock:
            if not self._may_exist:
                return
            try:
                self._mend(now_monotonic)
            except DatapathError as e:
                log.warning("branches_not_mended", error=str(e))

    def _mend(self, now: float) -> None:
        host = self._netlink.socket()
        links = host.dump(messages.dump_links(), answers.link_of)
        vlans = {
            branch.vlan_id: (branch, link)
            for link in links
            if (branch := branch_of(link.alias, link.group)) is not None
        }
        veths = _veths_by_vlan(links)
        self._suspects = {v: self._suspects.get(v, now) for v in vlans if v not in veths}
        for vlan_id, since in tuple(self._suspects.items()):
            if now - since >= SUSPECT_SECONDS:
                self._remove(vlan_id)
                log.warning("branch_leftover_removed", link=names.branch_ifname(vlan_id))
        living = {v: found for v, found in vlans.items() if v in veths}
        if living:
            self._put_back(living, veths)
        self._may_exist = bool(vlans)

    def _put_back(
        self, living: Mapping[int, tuple[Branch, Link]], veths: Mapping[int, Link]
    ) -> None:
        host = self._netlink.socket()
        routes, rules = _routes(host), _rules(host)
        for vlan_id, (branch, vlan) in living.items():
            missing = self._missing(branch, vlan, veths[vlan_id], routes, rules)
            for request in missing:
                _perform(host, request, errno.EEXIST)
            if missing:
                log.warning("branch_mended", link=vlan.ifname, count=len(missing))

    def _missing(
        self,
        branch: Branch,
        vlan: Link,
        veth: Link,
        routes: frozenset[Route],
        rules: frozenset[Rule],
    ) -> tuple[Request, ...]:
        wanted = (
            *branch_routes(branch, vlan.ifindex),
            *(pod_route(a, branch, veth.ifindex, self._mode) for a in branch.addresses),
        )
        # A standard pod of the other kind of routing rules keeps its route where that has it.
        others = {replace(r, table=self._mode.pod_table) for r in routes if r.is_to_one_address}
        return (
            *(messages.add_route(r) for r in wanted if r not in routes and r not in others),
            *(
                messages.add_rule(rule)
                for rule in branch_rules(branch, veth.ifname)
                if rule not in rules
            ),
        )

    def _have_link(self, wanted: BranchLink, trunk: Link, links: Iterable[Link]) -> None:
        host, branch = self._netlink.socket(), wanted.branch
        standing = next((link for link in links if link.ifname == branch.ifname), None)
        if standing is not None and not self.kind.is_right(standing, wanted, trunk):
            self._remove(branch.vlan_id)
            standing = None
        if standing is None:
            self.kind.create(host, wanted, trunk)
        (vlan,) = find_links(host, (branch.ifname,))
        if vlan is None:
            raise DatapathError(f"find {branch.ifname}, which was just made", errno.ENODEV)
        if any(address.version == 6 for address in branch.addresses):
            sysctls.write(f"ipv6/conf/{branch.ifname}/accept_ra", "0")
            sysctls.write(f"ipv6/conf/{branch.ifname}/accept_dad", "0")
        host.execute((messages.name_link(vlan.ifindex, alias_of(branch), branch.group),))
        for route in branch_routes(branch, vlan.ifindex):
            host.execute((messages.add_route(route, replaces=True),))
        find_link_by_index(host, vlan.ifindex)  # starts its queue: see PodDatapath._dress

    def _remove(self, vlan_id: int) -> None:
        """Rules go before the link, with which the table goes."""
        host = self._netlink.socket()
        for rule in _rules(host):
            if rule.table == names.branch_table(vlan_id):
                _perform(host, messages.delete_rule(rule), errno.ENOENT)
        (vlan,) = find_links(host, (names.branch_ifname(vlan_id),))
        if vlan is not None:
            self._remover.remove(vlan.ifindex)
        self._suspects.pop(vlan_id, None)


def _require_unused(links: Iterable[Link], branch: Branch, container_id: str, ifname: str) -> None:
    """One branch ENI has one pod: raise DatapathError where the veth of another stands."""
    veth = _veths_by_vlan(links).get(branch.vlan_id)
    if veth is not None and not is_of(veth, container_id, ifname):
        what = f"use VLAN {branch.vlan_id}: {veth.ifname} of another pod has it"
        raise DatapathError(what, errno.EBUSY)


def _veths_by_vlan(links: Iterable[Link]) -> dict[int, Link]:
    """The host veths of pods on branch ENIs, by VLAN id."""
    return {
        vlan_id: link
        for link in links
        if (vlan_id := names.vlan_of_group(link.group)) and link.identity is not None
    }


def _write_sysctls(branch: Branch, host_ifname: str) -> None:
    for name, value in sysctls_of(branch, host_ifname):
        sysctls.write(name, value)


def _routes(host: NetlinkSocket) -> frozenset[Route]:
    return frozenset(host.dump(messages.dump_routes(), answers.route_of))


def _rules(host: NetlinkSocket) -> frozenset[Rule]:
    """The rules of ours."""
    found = host.dump(messages.dump_rules(), answers.rule_of)
    return frozenset(rule for rule in found if rule.protocol == names.PROTOCOL)


def _perform(host: NetlinkSocket, request: Request, harmless: int) -> None:
    try:
        host.execute((request,))
    except DatapathError as e:
        if e.errno != harmless:
            raise
