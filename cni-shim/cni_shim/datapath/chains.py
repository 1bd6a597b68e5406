"""Which chains our nft table has, for a wanted host network and the links it has. Pure.

Four of them, each empty where the policy does not ask for it:

- mark-pods: a packet from a pod gets the mark of its ENI; a connection that came in by the primary
  ENI for the node itself (a NodePort) is marked as the primary's; packets of such connections are.
- mark-snat: new connections that will be SNATed are marked as the primary ENI's. After DNAT, since
  a ClusterIP says nothing about where the connection goes. By its first packet alone: one that is
  confirmed is translated no more, and unanswered ones stay new.
- snat-pods: those connections get the primary ENI's address.
- egress: nobody opens a connection to a pod's node-local egress address.

A chain of type nat would not do for mark-snat: once kube-proxy's DNAT has decided on a connection,
the kernel calls no further nat chain of that hook for it (nf_nat_inet_fn).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, collapse_addresses

from cni_shim.datapath import names
from cni_shim.datapath.answers import Link
from cni_shim.datapath.desired import DesiredEni, DesiredHost, can_serve_pods
from cni_shim.datapath.links import link_of_eni
from cni_shim.datapath.policy import (
    V4_EGRESS_RANGE,
    V6_EGRESS_RANGE,
    HostPolicy,
    PortChoice,
    SnatDestination,
)
from cni_shim.datapath.ruleset import Chain, Firewall, render

# Never SNATed, whatever is excluded: link-local (RFC 3927; the cloud's own services there answer
# on every ENI), multicast (RFC 5771) and broadcast.
_NEVER_SNATED = (
    IPv4Network("169.254.0.0/16"),
    IPv4Network("224.0.0.0/4"),
    IPv4Network("255.255.255.255/32"),
)
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_PORT_FLAGS = {
    PortChoice.PRNG: " fully-random",
    PortChoice.HASHRANDOM: " random",
    PortChoice.NONE: "",
}
_EVERYTHING = (IPv4Network("0.0.0.0/0"),)
SNAT_CHAIN = "snat-pods"
_KEPT_BITS = 0xFFFFFFFF ^ names.MARK_MASK
# After the kernel's DNAT at -100 (linux/netfilter_ipv4.h, NF_IP_PRI_NAT_DST), before routing.
_AFTER_DNAT = -90


def wanted_firewall(links: tuple[Link, ...], desired: DesiredHost) -> Firewall | None:
    """Our nft table; None where no rule is needed.

    What names the primary ENI's link is left out while that link is not there.
    """
    primary = next((eni for eni in desired.enis if eni.is_primary), None)
    link = link_of_eni(links, primary) if primary else None
    marks = (eni.mark for eni in desired.enis if not eni.is_primary and can_serve_pods(eni))
    chains = [
        Chain(
            name="mark-pods",
            hook="type filter hook prerouting priority mangle",
            rules=(*_mark_rules(marks), *_connection_rules(desired.policy, link)),
        )
    ]
    if primary is not None and link is not None:
        chains += [
            Chain(
                name="mark-snat",
                hook=f"type filter hook prerouting priority {_AFTER_DNAT}",
                rules=tuple(_mark_snat_rules(desired)),
            ),
            Chain(
                name=SNAT_CHAIN,
                hook="type nat hook postrouting priority srcnat",
                rules=tuple(_snat_rules(desired, primary, link)),
            ),
        ]
    chains.append(
        Chain(
            name="egress",
            hook="type filter hook forward priority filter",
            rules=tuple(_egress_guards(desired.policy)),
        )
    )
    return render(tuple(chain for chain in chains if chain.rules))


def _mark_rules(marks: Iterable[int]) -> Iterator[str]:
    """Packets from pods of a secondary ENI get its mark; all other bits stay as they are.

    At mangle priority, so that the routing decision sees it; by interface group, so that the table
    does not change when pods come and go.
    """
    for mark in sorted(marks):
        yield (
            f"iifgroup {names.link_group(mark):#x}"
            f" meta mark set meta mark & {_KEPT_BITS:#x} | {mark:#x}"
        )


def _connection_rules(policy: HostPolicy, link: Link | None) -> Iterator[str]:
    """Every packet in the connection's own direction may mark it, not its first alone: a connection
    that was opened while the table was away is put right by its next packet."""
    mark = f"{policy.connmark:#x}"
    if policy.has_node_port_support and link is not None:
        yield (
            f'iifname "{link.ifname}" ct direction original ct mark & {mark} != {mark}'
            f" fib daddr . iif type local ct mark set ct mark | {mark}"
        )
    if policy.moves_connections:
        yield f"ct mark & {mark} == {mark} meta mark set meta mark | {mark}"


def _mark_snat_rules(desired: DesiredHost) -> Iterator[str]:
    """The packet gets the mark as well: its connection's is looked at before it is set.

    A connection that began without SNAT must not get it: it would leave by the primary ENI with the
    pod's address, which the VPC drops there.
    """
    policy = desired.policy
    verdict = (
        f"ct mark set ct mark | {policy.connmark:#x} meta mark set meta mark | {policy.connmark:#x}"
    )
    for matches in (*_always_snated(desired), *_egress(policy), *_leaving(desired)):
        yield f"ct state new ct status & confirmed == 0 {matches} fib daddr type != local {verdict}"


def _snat_rules(desired: DesiredHost, primary: DesiredEni, link: Link) -> Iterator[str]:
    """Only what leaves by the primary ENI: its address means nothing on another. Only connections
    that mark-snat marked: the node's own traffic keeps the address it is bound to."""
    policy = desired.policy
    flags = _PORT_FLAGS[policy.port_choice]
    start = f'oifname "{link.ifname}" ct mark & {policy.connmark:#x} == {policy.connmark:#x}'
    for matches in (*_always_snated(desired), *_leaving(desired)):
        yield f"{start} {matches} snat ip to {primary.primary_address}{flags}"
    if policy.has_v4_egress:
        yield f"{start} {_from_egress(4)} snat ip to {primary.primary_address}{flags}"
    if policy.has_v6_egress:
        yield f"{start} {_from_egress(6)} {_snat_v6(primary)}{flags}"


def _snat_v6(primary: DesiredEni) -> str:
    """In a cluster of IPv4 ipamd need not know the node's IPv6 address; the kernel does."""
    address = primary.primary_address_v6
    return "masquerade" if address is None else f"snat ip6 to {address}"


def _leaving(desired: DesiredHost) -> Iterator[str]:
    """What pods send out of the VPC."""
    if desired.policy.has_snat:
        yield f"{_from_pods(desired)} ip daddr != {_set(_not_snated(desired))}"


def _not_snated(desired: DesiredHost) -> Iterable[IPv4Network]:
    return collapse_addresses(
        (
            *(network for network in desired.vpc_cidrs if isinstance(network, IPv4Network)),
            *_pod_networks(desired),
            *desired.policy.excluded_from_snat,
            *_NEVER_SNATED,
        )
    )


def is_snated(desired: DesiredHost, source: IPv4Address, destination: IPv4Address) -> bool:
    """Whether a pod's IPv4 connection is to leave with the primary ENI's address, as the chains
    say. Of services that are always SNATed any port counts."""
    if desired.policy.has_v4_egress and source in V4_EGRESS_RANGE:
        return not destination.is_multicast
    if not any(source in network for network in _pod_networks(desired)):
        return False
    if any(destination in to.network for to in desired.policy.always_snat):
        return True
    inside = _not_snated(desired) if desired.policy.has_snat else _EVERYTHING
    return not any(destination in network for network in inside)


def _always_snated(desired: DesiredHost) -> Iterator[str]:
    for to in desired.policy.always_snat:
        yield f"{_from_pods(desired)} ip daddr {to.network}{_layer_4(to)}"


def _layer_4(to: SnatDestination) -> str:
    protocol = to.protocol or ("{ tcp, udp }" if to.port else "")
    port = f" th dport {to.port}" if to.port else ""
    return f" meta l4proto {protocol}{port}" if protocol else ""


def _egress(policy: HostPolicy) -> Iterator[str]:
    if policy.has_v4_egress:
        yield _from_egress(4)
    if policy.has_v6_egress:
        yield _from_egress(6)


def _from_egress(version: int) -> str:
    if version == 4:
        return f"ip saddr {V4_EGRESS_RANGE} ip daddr != {_MULTICAST[4]}"
    return f"ip6 saddr {V6_EGRESS_RANGE} ip6 daddr != {_MULTICAST[6]}"


def _egress_guards(policy: HostPolicy) -> Iterator[str]:
    if policy.has_v4_egress:
        yield f"ip daddr {V4_EGRESS_RANGE} ct state new drop"
    if policy.has_v6_egress:
        yield f"ip6 daddr {V6_EGRESS_RANGE} ct state new drop"


def _from_pods(desired: DesiredHost) -> str:
    """By address, not by interface group: pods that ptp or bridge wired have addresses of the same
    ENIs, and so have those of another agent while a node is taken over."""
    return f"ip saddr {_set(_pod_networks(desired))}"


def _pod_networks(desired: DesiredHost) -> Iterable[IPv4Network]:
    return collapse_addresses(eni.subnet_cidr for eni in desired.enis)


def _set(networks: Iterable[IPv4Network]) -> str:
    """An anonymous set: unlike a named one it cannot be emptied behind our rules' back."""
    return "{ " + ", ".join(map(str, networks)) + " }"
