"""The settings under /proc/sys/net that the host network needs. Pure; `sysctls` writes them."""

from __future__ import annotations

from collections.abc import Iterator

from cni_shim.datapath.actions import WriteSysctl
from cni_shim.datapath.answers import Link
from cni_shim.datapath.desired import LOOSE_RP_FILTER, DesiredEni, DesiredHost
from cni_shim.datapath.links import link_of_eni

IP_FORWARD = "ipv4/ip_forward"
IP6_FORWARD = "ipv6/conf/all/forwarding"
TCP_EARLY_DEMUX = "ipv4/tcp_early_demux"


def wanted_sysctls(links: tuple[Link, ...], desired: DesiredHost) -> Iterator[WriteSysctl]:
    """Every setting that the host needs, in the order to write them."""
    yield WriteSysctl(eni_id="", name=IP_FORWARD, value="1")
    if desired.policy.disables_tcp_early_demux:
        yield WriteSysctl(eni_id="", name=TCP_EARLY_DEMUX, value="0")
    for eni in desired.enis:
        link = link_of_eni(links, eni)
        if link is not None:
            name = f"ipv4/conf/{link.ifname}/rp_filter"
            yield WriteSysctl(eni_id=eni.eni_id, name=name, value=LOOSE_RP_FILTER)
            if eni.has_v6 or (eni.is_primary and desired.policy.has_v6_egress):
                yield from _link_sysctls_v6(eni, link)
    if desired.has_v6 or desired.policy.has_v6_egress:
        # Last: where an ENI's accept_ra is still 1, the kernel forgets what a router advertised.
        yield WriteSysctl(eni_id="", name=IP6_FORWARD, value="1")


def _link_sysctls_v6(eni: DesiredEni, link: Link) -> Iterator[WriteSysctl]:
    """The primary ENI goes on believing its router although the node forwards (2; 0 is left: then
    a program of the distribution does it). A secondary's routes are ours alone, and it does not
    look for duplicates of addresses that the cloud gave out, which would take a second."""
    conf = f"ipv6/conf/{link.ifname}"
    if eni.is_primary:
        name = f"{conf}/accept_ra"
        yield WriteSysctl(eni_id=eni.eni_id, name=name, value="2", also_right=("0",))
        return
    yield WriteSysctl(eni_id=eni.eni_id, name=f"{conf}/accept_ra", value="0")
    yield WriteSysctl(eni_id=eni.eni_id, name=f"{conf}/accept_dad", value="0")
