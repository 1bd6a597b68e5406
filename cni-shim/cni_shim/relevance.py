"""Which notices of the kernel mean that something of ours may have to be put back. Pure.

Asked for each notice on the listening thread. Our own doing never gets so far (`notice_filter`).
"""

from __future__ import annotations

from collections.abc import Collection

from ipam_api.v1 import ipam_pb2 as pb

from cni_shim.datapath import delegation, names
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.notices import (
    AddressChanged,
    FirewallChanged,
    LinkChanged,
    LinkVanished,
    Notice,
    NoticesLost,
    RouteChanged,
    RuleVanished,
)
from cni_shim.datapath.routing import is_pod_route, names_pod

_HOST_RULES = frozenset(
    {
        names.POD_RULE_PRIORITY,
        names.CONNECTION_RULE_PRIORITY,
        names.EXTERNAL_RULE_PRIORITY,
        names.MARK_RULE_PRIORITY,
        names.ENI_RULE_PRIORITY,
    }
)

_POD_PROTOCOLS = frozenset({names.PROTOCOL, delegation.PROTOCOL})


def concerns_pods(notice: Notice) -> bool:
    """Whether a pod's route or rules may be gone."""
    match notice:
        case RuleVanished(rule=Rule() as rule):
            return rule.protocol in _POD_PROTOCOLS and names_pod(rule) is not None
        case RouteChanged(route=Route() as route):
            return is_pod_route(route)
        case NoticesLost():
            return True
        case _:
            return False


def concerns_host(notice: Notice, network: pb.NodeNetwork, eni_ifindexes: Collection[int]) -> bool:
    """Whether the host's own network may differ from what is wanted.

    Rules of others count where they have one of our priorities and name no pod: what somebody else
    made just as we want it is taken as it is, and may go as it came.
    """
    match notice:
        case LinkChanged(link=link) | LinkVanished(link=link):
            # What happens to a slave is its master's affair, and its master's notice.
            return not link.is_slave and link.mac in {eni.mac for eni in network.enis}
        case RuleVanished(rule=rule):
            return rule is not None and _is_of_host(rule)
        case RouteChanged(route=route):
            # Without one it is of several ways, or none: it may stand in the place of ours.
            return route is None or route.table in {eni.route_table_id for eni in network.enis}
        case AddressChanged(ifindex=ifindex):
            return ifindex in eni_ifindexes
        case FirewallChanged() | NoticesLost():
            return True


def _is_of_host(rule: Rule) -> bool:
    is_ours = rule.protocol == names.PROTOCOL or rule.priority in _HOST_RULES
    return is_ours and names_pod(rule) is None
