"""A pod's own ENI: a branch of the trunk ENI, on a VLAN link of the node. Pure.

Names, tables and priorities are those of amazon-vpc-cni-k8s (cmd/routed-eni-cni-plugin/driver),
whose resource controller makes the branch ENIs. Two modes:

- strict: everything from and to the pod goes by its branch ENI, past the node's own addresses and
  rules, so that security groups see it. Its route stands in the branch's table alone, and two rules
  lead there what comes by the VLAN link and by the host veth.
- standard: an ordinary pod, but what it sends goes to the branch's table; node and cluster services
  are reached as by any pod.

ipamd allocates nothing for such a pod. All that a DEL, a CHECK or a repair must know is written on
the VLAN link (IFLA_IFALIAS), and the group of the host veth has the VLAN id:

    vpc-ipamd-branch/1/<strict|standard>/<gateways>/<addresses>      with commas between, IPv4 first
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address

from cni_shim.datapath import names
from cni_shim.datapath.families import ANYWHERE, FAMILIES, Address, host_network
from cni_shim.datapath.messages import Route, Rule
from cni_shim.datapath.routing import RoutingRules

ALIAS_START = "vpc-ipamd-branch/1/"
_STRICT, _STANDARD = "strict", "standard"
_FIELDS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """A branch ENI and the pod's addresses on it; one gateway for each address, of its family."""

    vlan_id: int
    is_strict: bool
    gateways: tuple[Address, ...]
    addresses: tuple[Address, ...]

    def __post_init__(self) -> None:
        names.check_vlan_id(self.vlan_id)
        versions = tuple(a.version for a in self.addresses)
        if not versions or versions != tuple(g.version for g in self.gateways):
            raise ValueError(f"{self.addresses} by {self.gateways}: want a gateway for each")

    @property
    def ifname(self) -> str:
        """The name of its VLAN link."""
        return names.branch_ifname(self.vlan_id)

    @property
    def table(self) -> int:
        """Its route table."""
        return names.branch_table(self.vlan_id)

    @property
    def group(self) -> int:
        """The interface group of both its links."""
        return names.branch_group(self.vlan_id)

    def pod_table(self, mode: RoutingRules) -> int:
        """The table with the host's route to the pod."""
        return self.table if self.is_strict else mode.pod_table


@dataclass(frozen=True, slots=True, kw_only=True)
class BranchLink:
    """The VLAN link of a branch ENI: what it must be made as, and on which link."""

    branch: Branch
    mac: str
    trunk_mac: str
    mtu: int


def alias_of(branch: Branch) -> str:
    """What the VLAN link's alias says."""
    mode = _STRICT if branch.is_strict else _STANDARD
    words = (",".join(map(str, values)) for values in (branch.gateways, branch.addresses))
    return f"{ALIAS_START}{mode}/{'/'.join(words)}"


def branch_of(alias: str, group: int) -> Branch | None:
    """The branch whose VLAN link has this alias and group; None where the link is not of ours."""
    vlan_id = names.vlan_of_group(group)
    parts = alias.removeprefix(ALIAS_START).split("/")
    if not alias.startswith(ALIAS_START) or not vlan_id or len(parts) != _FIELDS:
        return None
    try:
        return Branch(
            vlan_id=vlan_id,
            is_strict=parts[0] == _STRICT,
            gateways=_addresses(parts[1]),
            addresses=_addresses(parts[2]),
        )
    except ValueError:
        return None


def _addresses(text: str) -> tuple[IPv4Address | IPv6Address, ...]:
    return tuple(ip_address(part) for part in text.split(","))


def branch_routes(branch: Branch, vlan_ifindex: int) -> tuple[Route, ...]:
    """The table of the branch ENI: its gateways on the link, then everything by them."""
    on_link = (
        Route(table=branch.table, destination=host_network(g), gateway=None, ifindex=vlan_ifindex)
        for g in branch.gateways
    )
    defaults = (
        Route(table=branch.table, destination=ANYWHERE[g.version], gateway=g, ifindex=vlan_ifindex)
        for g in branch.gateways
    )
    return (*on_link, *defaults)


def branch_rules(branch: Branch, host_ifname: str) -> tuple[Rule, ...]:
    """The rules that lead to the table, for a pod behind this host veth."""
    if branch.is_strict:
        return tuple(
            Rule(
                priority=names.BRANCH_RULE_PRIORITY,
                table=branch.table,
                iif=ifname,
                family=FAMILIES[address.version],
            )
            for address in branch.addresses
            for ifname in (branch.ifname, host_ifname)
        )
    return tuple(
        Rule(
            priority=names.MARK_RULE_PRIORITY,
            table=branch.table,
            source=host_network(address),
            family=FAMILIES[address.version],
        )
        for address in branch.addresses
    )


def pod_route(address: Address, branch: Branch, ifindex: int, mode: RoutingRules) -> Route:
    """The host's route to the pod."""
    return Route(
        table=branch.pod_table(mode),
        destination=host_network(address),
        gateway=None,
        ifindex=ifindex,
    )


def sysctls_of(branch: Branch, host_ifname: str) -> tuple[tuple[str, str], ...]:
    """Loose: the kernel's look back knows nothing of the rules by link, and finds the route to a
    sender by the primary ENI."""
    return tuple((f"ipv4/conf/{ifname}/rp_filter", "2") for ifname in (branch.ifname, host_ifname))
