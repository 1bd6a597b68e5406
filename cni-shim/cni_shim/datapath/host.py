"""Applying the wanted host network, and saying what the kernel really has afterwards.

Called by the server on every WatchNode message, on link notices and on a slow tick. Reads, diffs,
acts, reads again: readiness comes from the second reading, never from an action's success.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import assert_never

from cni_shim.datapath import answers, firewall, messages, names, sysctls
from cni_shim.datapath.actions import (
    Action,
    AddAddress,
    AddRoute,
    AddRule,
    RemoveAddress,
    RemoveRoute,
    RemoveRule,
    ReplaceFirewall,
    SetLink,
    WriteSysctl,
)
from cni_shim.datapath.answers import Link
from cni_shim.datapath.desired import DesiredEni, DesiredHost, EniReadiness
from cni_shim.datapath.diff import ObservedHost, diff
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.host_sysctls import wanted_sysctls
from cni_shim.datapath.links import link_of_eni
from cni_shim.datapath.messages import Request, Route
from cni_shim.datapath.netlink import HostNetlink, NetlinkSocket
from cni_shim.datapath.observe import may_be_pods_in_main
from cni_shim.datapath.strays import StrayAddress, stray_addresses

_POD_TABLE_ATTRIBUTE = messages.u32(messages.RTA_TABLE, names.POD_TABLE)
# What an action finds done already (or gone already) is what it was for.
_HARMLESS = {
    AddAddress: {errno.EEXIST},
    AddRule: {errno.EEXIST},
    RemoveAddress: {errno.EADDRNOTAVAIL, errno.ENODEV},
    RemoveRoute: {errno.ESRCH, errno.ENODEV},
    RemoveRule: {errno.ENOENT},
}


def _nothing(desired: DesiredHost) -> None:
    del desired


class HostDatapath:
    """The host's side of the network, in the namespace of the thread that makes this object."""

    def __init__(
        self, netlink: HostNetlink, *, firewall_changed: Callable[[DesiredHost], None] = _nothing
    ) -> None:
        """`firewall_changed` is called once our nft table stands that did not, or not so."""
        self._netlink = netlink
        self._firewall_changed = firewall_changed
        self._lock = threading.Lock()
        self.strays: tuple[StrayAddress, ...] = ()
        """Of the last look: addresses on links of the node that no pod can have."""

    def apply(self, desired: DesiredHost) -> tuple[EniReadiness, ...]:
        """Make the host as wanted; for each ENI whether it is. Idempotent, never half silent.

        One ENI's failure does not stop the others; it stands in that ENI's message. Raises
        DatapathError only where the kernel cannot even be read.
        """
        with self._lock:
            sock = self._netlink.socket()
            before = observe(sock, desired)
            failures = [
                (action, error)
                for action in diff(before, desired)
                if (error := _try(sock, action)) is not None
            ]
            observed = observe(sock, desired)
            remaining = diff(observed, desired)
            self.strays = stray_addresses(observed.links, observed.addresses, desired.enis)
        if observed.firewall_comments not in {None, before.firewall_comments}:
            self._firewall_changed(desired)
        return tuple(_readiness(eni, observed, remaining, tuple(failures)) for eni in desired.enis)


def observe(sock: NetlinkSocket, desired: DesiredHost) -> ObservedHost:
    """Everything that `diff` compares, read now. Pods' routes are left out: there may be 1000."""
    links = sock.dump(messages.dump_links(), answers.link_of)
    names_wanted = {wanted.name for wanted in wanted_sysctls(links, desired)}
    return ObservedHost(
        links=links,
        addresses=sock.dump(messages.dump_addresses(), answers.address_of),
        routes=sock.dump(messages.dump_routes(), _route_outside_pod_table),
        rules=sock.dump(messages.dump_rules(), answers.rule_of),
        sysctls=tuple((name, sysctls.read(name)) for name in sorted(names_wanted)),
        firewall_comments=firewall.read_comments(),
    )


def _route_outside_pod_table(body: bytes) -> Route | None:
    is_pods = _POD_TABLE_ATTRIBUTE in body or may_be_pods_in_main(body)
    return None if is_pods else answers.route_of(body)


def _try(sock: NetlinkSocket, action: Action) -> DatapathError | None:
    try:
        _perform(sock, action)
    except DatapathError as e:
        return None if e.errno in _HARMLESS.get(type(action), set()) else e
    return None


def _perform(sock: NetlinkSocket, action: Action) -> None:
    match action:
        case WriteSysctl(name=name, value=value):
            sysctls.write(name, value)
        case ReplaceFirewall(firewall=None):
            firewall.remove()
        case ReplaceFirewall(firewall=wanted):
            assert wanted is not None
            firewall.replace(wanted)
        case _:
            sock.execute((_request(action),))


def _request(
    action: SetLink | AddAddress | RemoveAddress | AddRoute | RemoveRoute | AddRule | RemoveRule,
) -> Request:
    match action:
        case SetLink(ifindex=ifindex, mtu=mtu):
            return messages.set_link(ifindex, mtu=mtu)
        case AddAddress(ifindex=ifindex, address=address):
            return messages.add_address(ifindex, address)
        case RemoveAddress(ifindex=ifindex, address=address):
            return messages.delete_address(ifindex, address)
        case AddRoute(route=route, replaces=replaces):
            return messages.add_route(route, replaces=replaces)
        case RemoveRoute(route=route):
            return messages.delete_route(route)
        case AddRule(rule=rule):
            return messages.add_rule(rule)
        case RemoveRule(rule=rule):
            return messages.delete_rule(rule)
        case _:
            assert_never(action)


def _readiness(
    eni: DesiredEni,
    observed: ObservedHost,
    remaining: tuple[Action, ...],
    failures: tuple[tuple[Action, DatapathError], ...],
) -> EniReadiness:
    link = link_of_eni(observed.links, eni)
    message = _obstacle(eni, remaining, failures) if link else f"no link with MAC {eni.mac}"
    if link and not message and not link.is_up:
        message = f"{link.ifname} is down"
    if link and not message and eni.has_v6 and not _can_ask(link, observed):
        message = f"{link.ifname} has no IPv6 link-local address yet, and cannot find its gateway"
    return EniReadiness(
        eni_id=eni.eni_id,
        is_ready=not message,
        link_name=link.ifname if link else "",
        message=message,
        ifindex=link.ifindex if link else 0,
        mtu=link.mtu if link else 0,
    )


def _can_ask(link: Link, observed: ObservedHost) -> bool:
    """Whether the link can ask for IPv6 neighbours. It gets the address for it some time after it
    came up, and what is sent until then waits for a second or is lost."""
    return any(
        found.ifindex == link.ifindex and found.is_link_local_v6 and not found.is_tentative
        for found in observed.addresses
    )


def _obstacle(
    eni: DesiredEni,
    remaining: tuple[Action, ...],
    failures: tuple[tuple[Action, DatapathError], ...],
) -> str:
    """Why the ENI cannot carry pods, in words; empty if it can."""
    try:
        _ = eni.mark
    except ValueError as e:
        return str(e)
    missing = [action for action in remaining if _concerns(action, eni)]
    if not missing:
        return ""
    said = [str(error) for action, error in failures if _concerns(action, eni)]
    return "; ".join(said) or f"{type(missing[0]).__name__} is still to be done"


def _concerns(action: Action, eni: DesiredEni) -> bool:
    """Whether an ENI is not ready while this remains. Stale leftovers of others hold up nobody."""
    match action:
        case ReplaceFirewall(concerns_primary=concerns_primary):
            return concerns_primary or not eni.is_primary
        case RemoveRule():
            return False
        case RemoveAddress(eni_id=eni_id) | RemoveRoute(eni_id=eni_id):
            return eni_id == eni.eni_id
        case _:
            return action.eni_id in {"", eni.eni_id}
