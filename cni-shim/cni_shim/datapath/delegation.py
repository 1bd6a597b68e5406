"""What stands on the host for an address that another plugin wires, with us as its IPAM. Pure.

The main plugin makes links and routes; a packet from the pod still has to leave by the address's
own ENI, since a VPC drops it elsewhere, and one to the pod must not leave the node at all:

- from the address, on a secondary ENI: rule 1536 to the ENI's table (aws-node's number). On the
  primary the rule looks up the pod table, which rule 512 has looked up in vain before: no packet
  minds, and the address is seen to be in use by whoever looks (a lost store must quarantine it).
- to the address, under `ptp`: rule 512 to main, where that plugin puts its host route.
- to the address, under `bridge`: a route over the bridge in the pod table. The bridge's own subnet
  route is the ENI's once more, and the older of the two wins. And the node answers ARP there for
  all that is not on the bridge, as its pods take the whole subnet for theirs.
- under anything else (ipvlan) nothing: the link below delivers what comes in, and the node itself
  cannot reach such pods.

All of it has a protocol number of its own. Nothing else in the kernel may say whose such an address
is, so the sweep of leftovers must not take a rule without a link for one.
"""

from __future__ import annotations

from dataclasses import dataclass

from cni_shim.datapath import names
from cni_shim.datapath.families import FAMILIES, Address, host_network
from cni_shim.datapath.messages import Route, Rule

PROTOCOL = names.PROTOCOL + 1
"""On rules and routes for what other plugins wire; 120 is unassigned in iproute2's rt_protos."""

PTP, BRIDGE = "ptp", "bridge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """One attachment: its addresses, its ENI's table (main for the primary), who wires it.

    `main_type` is the main plugin's name, empty where it is not known (after a restart); `bridge`
    the name of the bridge under that plugin.
    """

    addresses: tuple[Address, ...]
    table: int
    main_type: str = ""
    bridge: str = ""


def wanted_rules(delegation: Delegation) -> tuple[Rule, ...]:
    """The rules that must stand, those to the pod first."""
    is_routed = delegation.main_type == PTP
    to_pod = (_to_pod(address) for address in delegation.addresses if is_routed)
    return (*to_pod, *(_from_pod(address, delegation.table) for address in delegation.addresses))


def wanted_routes(delegation: Delegation, bridge_ifindex: int) -> tuple[Route, ...]:
    """The routes over the bridge with this index; none without one (0)."""
    if delegation.main_type != BRIDGE or not bridge_ifindex:
        return ()
    return tuple(
        Route(
            table=names.POD_TABLE,
            destination=host_network(address),
            gateway=None,
            ifindex=bridge_ifindex,
            protocol=PROTOCOL,
        )
        for address in delegation.addresses
    )


def bridge_sysctls(bridge: str) -> tuple[tuple[str, str], ...]:
    """Settings under /proc/sys/net that make the node answer ARP for what is not on the bridge; the
    kernel otherwise waits up to 0.8 s before it does (ip-sysctl, proxy_delay)."""
    return ((f"ipv4/conf/{bridge}/proxy_arp", "1"), (f"ipv4/neigh/{bridge}/proxy_delay", "0"))


def _to_pod(address: Address) -> Rule:
    return Rule(
        priority=names.POD_RULE_PRIORITY,
        table=names.MAIN_TABLE,
        destination=host_network(address),
        protocol=PROTOCOL,
        family=FAMILIES[address.version],
    )


def _from_pod(address: Address, table: int) -> Rule:
    return Rule(
        priority=names.MARK_RULE_PRIORITY,
        table=names.POD_TABLE if table == names.MAIN_TABLE else table,
        source=host_network(address),
        protocol=PROTOCOL,
        family=FAMILIES[address.version],
    )
