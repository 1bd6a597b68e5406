"""Which link is an ENI's. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from cni_shim.datapath import names
from cni_shim.datapath.answers import Link
from cni_shim.datapath.desired import DesiredEni, DesiredHost, can_serve_pods

# Links that borrow the MAC of the link below them; an ENI's own link is none of these.
_STACKED_KINDS = frozenset(
    {"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "bridge", "bond", "team"}
)


def link_of_eni(links: tuple[Link, ...], eni: DesiredEni) -> Link | None:
    """The link with the ENI's MAC; see `link_with_mac`."""
    return link_with_mac(links, eni.mac)


def link_with_mac(links: Iterable[Link], mac: str) -> Link | None:
    """The link of the ENI with this MAC; of several the one made first, never a stacked or pod
    link, nor one that the kernel keeps for its master.

    With Azure's accelerated networking the VM has a VF beside the NIC, with the same MAC. It is the
    NIC's slave, whatever it receives counts as the NIC's, and maintenance of the host takes it away
    and brings it back; addresses and routes are the NIC's (linux, drivers/net/hyperv/netvsc_drv.c:
    netvsc_vf_join, netvsc_prepare_bonding).
    """
    mac = mac.lower()
    found = (
        link
        for link in links
        if link.mac == mac
        and link.kind not in _STACKED_KINDS
        and not link.is_slave
        and not names.is_our_group(link.group)
    )
    return min(found, key=lambda link: (link.master_ifindex != 0, link.ifindex), default=None)


def enis_with_links(
    links: tuple[Link, ...], desired: DesiredHost
) -> tuple[tuple[DesiredEni, Link], ...]:
    """The ENIs that can serve pods and have their link on the node."""
    pairs = ((eni, link_of_eni(links, eni)) for eni in desired.enis)
    return tuple((eni, link) for eni, link in pairs if link is not None and can_serve_pods(eni))
