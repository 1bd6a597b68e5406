"""A node with two ENIs and a far host on the emulated VPC's fabric, of both families, for the
datapath's tests with prefixes and IPv6.

As in `datapath_lab`, the test's thread itself stands in the node's namespace while the lab is open.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from cni_shim.datapath.desired import DesiredEni, DesiredHost
from cni_shim.datapath.families import Address
from cni_shim.datapath.host import HostDatapath
from cni_shim.datapath.netlink import HostNetlink
from cni_shim.datapath.notices import LinkNotices
from cni_shim.datapath.pods import PodDatapath
from cni_shim.datapath.wiring import PodWiring

from providers.sim import netns
from providers.sim.fabric import Fabric
from providers.sim.model import WiredEni
from providers.sim.ping import Probe, ping_all
from tests.netns.datapath_lab import Netns, inside, run

ROUTER_V6 = IPv6Address("fe80:ec2::1")
SUBNETS = (
    (IPv4Network("10.0.0.0/24"), IPv6Network("2001:db8:0:a::/64")),
    (IPv4Network("10.0.1.0/24"), IPv6Network("2001:db8:0:b::/64")),
)


def wired_eni(name: str, device_index: int, subnet: int, host: int) -> WiredEni:
    """Primary addresses .<host + 2>, two /28s from .<host * 32> on, the /80 number <host>."""
    cidr, cidr_v6 = SUBNETS[subnet]
    start = cidr.network_address + 32 * host
    return WiredEni(
        eni_id=f"eni-{name}",
        mac=f"02:00:00:00:{subnet:02x}:{host:02x}",
        instance_id=f"i-{name}",
        device_index=device_index,
        subnet_cidr=cidr,
        primary_address=cidr.network_address + host + 2,
        addresses=(cidr.network_address + host + 2,),
        has_source_check=True,
        prefixes=(
            IPv4Network((start, 28)),
            IPv4Network((start + 16, 28)),
            IPv6Network((cidr_v6.network_address + (host << 48), 80)),
        ),
        addresses_v6=(cidr_v6.network_address + host + 2,),
        subnet_cidr_v6=cidr_v6,
    )


PRIMARY = wired_eni("a0", 0, 0, 2)
SECONDARY = wired_eni("a1", 1, 1, 3)
FAR = wired_eni("b0", 0, 1, 4)


def desired_eni(eni: WiredEni) -> DesiredEni:
    """The ENI as ipamd names it to vpc-cnid."""
    return DesiredEni(
        eni_id=eni.eni_id,
        mac=eni.mac,
        primary_address=eni.primary_address,
        subnet_cidr=eni.subnet_cidr,
        gateway=eni.subnet_cidr.network_address + 1,
        device_index=eni.device_index,
        route_table_id=eni.device_index + 1 if eni.device_index else 254,
        is_primary=eni.device_index == 0,
        subnet_cidr_v6=eni.subnet_cidr_v6,
        primary_address_v6=eni.addresses_v6[0],
        gateway_v6=ROUTER_V6,
    )


DESIRED = DesiredHost(enis=(desired_eni(PRIMARY), desired_eni(SECONDARY)))
ONLY_IPV4 = DesiredHost(
    enis=tuple(
        replace(eni, subnet_cidr_v6=None, primary_address_v6=None, gateway_v6=None)
        for eni in DESIRED.enis
    )
)


def pod_addresses(eni: WiredEni, number: int, families: str = "46") -> tuple[Address, ...]:
    """Address <number> of the ENI's prefixes: of the /28s, one after the other, and of the /80."""
    first, second, wide = eni.prefixes
    small = (*first, *second)
    found: list[Address] = []
    if "4" in families:
        found.append(IPv4Address(int(small[number])))
    if "6" in families:
        found.append(IPv6Address(int(wide.network_address) + 0x100 + number))
    return tuple(found)


def wiring(number: int, eni: WiredEni, families: str = "46", **changed: object) -> PodWiring:
    """Pod <number> on an ENI."""
    values: dict[str, object] = {
        "container_id": f"{number:064x}",
        "ifname": "eth0",
        "network_name": "vpc",
        "pod_namespace": "default",
        "pod_name": f"web-{number}",
        "addresses": pod_addresses(eni, number, families),
        "mark": eni.device_index + 1 if eni.device_index else 0,
        "mtu": 9001,
        "veth_prefix": "eni",
    }
    return PodWiring(**(values | changed))  # type: ignore[arg-type]


@dataclass(kw_only=True)
class VpcLab:
    """The fabric, the node and the code under test."""

    stack: ExitStack
    fabric: Fabric
    node_path: str
    far_path: str
    netlink: HostNetlink
    notices: LinkNotices
    pods: PodDatapath
    host: HostDatapath
    made: int = 0

    def make_netns(self) -> Netns:
        """A new namespace, removed with the lab."""
        self.made += 1
        name = f"v6-pod-{self.made}"
        path = netns.create(name)
        self.stack.callback(netns.delete, name)
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.stack.callback(os.close, fd)
        return Netns(name=name, fd=fd)

    def answers(
        self, sources: list[tuple[Netns, Address]], targets: list[Address], seconds: float = 1.0
    ) -> list[bool]:
        """Who answers whom: every source asks every target of its family, in order."""
        probes = [
            Probe(netns_path=f"/run/netns/{pod.name}", source=str(source), target=str(target))
            for pod, source in sources
            for target in targets
            if source.version == target.version and source != target
        ]
        return [answer is not None for answer in ping_all(probes, seconds)]

    def drops(self) -> list[tuple[str, str, str]]:
        """What the VPC dropped: ENI, kind and source."""
        return [(row["eni_id"], row["kind"], row["source"]) for row in self.fabric.dropped()]

    def plug(self, eni: WiredEni) -> None:
        """Have the ENI's link appear on the node."""
        self.fabric.plug(eni, self.node_path)


def set_up_primary(eni: WiredEni) -> None:
    """What the distribution does at boot, in the calling thread's namespace."""
    for version, address, length, gateway in (
        (4, eni.primary_address, 24, eni.subnet_cidr.network_address + 1),
        (6, eni.addresses_v6[0], 128, ROUTER_V6),
    ):
        flags = ["nodad"] if version == 6 else []
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "set", "eth0", "up")
        run("ip", "address", "add", f"{address}/{length}", "dev", "eth0", *flags)
        run("ip", f"-{version}", "route", "add", "default", "via", str(gateway), "dev", "eth0")


@contextmanager
def open_vpc_lab() -> Iterator[VpcLab]:
    """A node with both ENIs attached, its primary set up, and a far host; removed afterwards."""
    with ExitStack() as stack:
        fabric = Fabric("v6-vpc")
        fabric.create()
        stack.callback(fabric.destroy)
        for cidr, cidr_v6 in SUBNETS:
            fabric.add_subnet(cidr, cidr_v6)
        paths = [netns.create(name) for name in ("v6-node", "v6-far")]
        for name in ("v6-node", "v6-far"):
            stack.callback(netns.delete, name)
        for path in paths:
            # A link that has been up for long: no second of duplicate detection in every test.
            netns.call_in(path, lambda: netns.set_sysctl("ipv6/conf/default/accept_dad", 0))
        for eni, path in ((PRIMARY, paths[0]), (SECONDARY, paths[0]), (FAR, paths[1])):
            fabric.plug(eni, path)
        netns.call_in(paths[1], lambda: set_up_primary(FAR))
        node_fd = os.open(paths[0], os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, node_fd)
        stack.enter_context(inside(node_fd))
        set_up_primary(PRIMARY)
        netlink = HostNetlink()
        stack.callback(netlink.close)
        notices = LinkNotices()
        notices.start()
        stack.callback(notices.close)
        pods = PodDatapath(netlink, notices)
        stack.callback(pods.close)
        yield VpcLab(stack=stack, fabric=fabric, node_path=paths[0], far_path=paths[1],
                     netlink=netlink, notices=notices, pods=pods,
                     host=HostDatapath(netlink))  # fmt: skip
