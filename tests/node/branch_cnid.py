"""vpc-cnid as it is, but that a veth stands in for each VLAN link: test kernels may lack 802.1Q."""

from __future__ import annotations

import subprocess

from cni_shim import server
from cni_shim.datapath.answers import Link
from cni_shim.datapath.branch import BranchLink
from cni_shim.datapath.branch_links import VlanKind
from cni_shim.datapath.netlink import NetlinkSocket


def create(self: VlanKind, sock: NetlinkSocket, wanted: BranchLink, trunk: Link) -> None:
    """A pair whose other end leads nowhere."""
    del self, sock, trunk
    link = wanted.branch
    subprocess.run(
        ["ip", "link", "add", link.ifname, "address", wanted.mac, "mtu", str(wanted.mtu), "group",
         str(link.group), "type", "veth", "peer", "name", f"end{link.vlan_id}"],
        check=True,
    )  # fmt: skip


if __name__ == "__main__":
    VlanKind.create = create  # type: ignore[method-assign]
    server.main()
