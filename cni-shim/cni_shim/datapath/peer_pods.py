"""Pods that aws-node's plugin wired: what names their addresses on the host, and its removal.

Called by `pods` for the DEL of an attachment that the ledger holds as wired by the peer. The plugin
gives a pod a host veth named after it, the /32 or /128 over that link in the main table, rule 512
to the address and, off the primary ENI, rules 1536 from it (amazon-vpc-cni-k8s,
docs/cni-proposal.md and cmd/routed-eni-cni-plugin/driver). Nothing of it says for which attachment
it was made, so the caller must have the ledger's word that the addresses are this attachment's.
"""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass

from cni_shim.datapath import messages
from cni_shim.datapath.answers import Link
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.families import Address
from cni_shim.datapath.messages import Request, Route, Rule
from cni_shim.datapath.netlink import NetlinkSocket, find_link_by_index
from cni_shim.datapath.observe import (
    host_routes,
    is_foreign_veth,
    rules_naming,
)
from cni_shim.datapath.removal import LinkRemover
from cni_shim.datapath.routing import POD_RULE_PRIORITIES


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerPod:
    """What stands for a pod: rules and routes that name its addresses, and the links to delete."""

    rules: tuple[Rule, ...]
    routes: tuple[Route, ...]
    links: tuple[Link, ...]

    @property
    def is_gone(self) -> bool:
        """Whether nothing is left."""
        return not (self.rules or self.routes)


def remove(
    host: NetlinkSocket, remover: LinkRemover, digits: str, addresses: Sequence[Address]
) -> bool:
    """Remove all that names the addresses, and the links named by `digits` that carry them; True if
    there was anything. Raises DatapathError where the kernel refuses, or something stays."""
    found = find(host, digits, addresses)
    if found.is_gone:
        return False
    # A link is known by its route alone, so it goes first: what is refused is found again.
    for link in found.links:
        remover.remove(link.ifindex)
    for rule in found.rules:
        _delete(host, messages.delete_rule(rule), gone=errno.ENOENT)
    for route in found.routes:
        _delete(host, messages.delete_route(route), gone=errno.ESRCH)
    left = find(host, digits, addresses)
    if not left.is_gone:
        what = f"{len(left.rules)} rules and {len(left.routes)} routes"
        raise DatapathError(f"remove what names {addresses[0]}", errno.EBUSY, f"{what} are left")
    return True


def find(host: NetlinkSocket, digits: str, addresses: Sequence[Address]) -> PeerPod:
    """What names the addresses. A link is the pod's if its name ends with `digits` (the prefix is a
    setting of aws-node's) and it has a route to no other address: a pod of the same name that came
    after has the same link name."""
    rules = (r for a in addresses for r in rules_naming(host, a))
    over = host_routes(host.dump_raw(messages.dump_routes()))
    routes = [r for r in over if r.destination.network_address in addresses]
    indexes = {r.ifindex for r in routes}
    found = (find_link_by_index(host, index) for index in sorted(indexes))
    veths = [link for link in found if link is not None and is_foreign_veth(link)]
    shared = {r.ifindex for r in over if r.destination.network_address not in addresses}
    return PeerPod(
        rules=tuple(r for r in rules if r.priority in POD_RULE_PRIORITIES),
        routes=tuple(r for r in routes if r.ifindex in {link.ifindex for link in veths}),
        links=tuple(
            link
            for link in veths
            if digits and link.ifname.endswith(digits) and link.ifindex not in shared
        ),
    )


def _delete(host: NetlinkSocket, request: Request, *, gone: int) -> None:
    try:
        host.execute((request,))
    except DatapathError as e:
        if e.errno not in {gone, errno.ENODEV}:
            raise
