"""A node of the lab: its namespace, its two daemons, and the runtime that starts pods on it."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from pathlib import Path
from types import MappingProxyType
from typing import Any

from providers.sim import netns
from providers.sim.lab_cloud import EC2
from providers.sim.lab_netlink import LOOPBACK_INDEX, Netlink
from providers.sim.lab_process import Daemon, LabError, checked_socket_path, is_listening
from providers.sim.runtime import Runtime

ANYWHERE, ANYWHERE_V6 = IPv4Network("0.0.0.0/0"), IPv6Network("::/0")
ROUTER_V6 = IPv6Address("fe80:ec2::1")  # of every subnet, see `fabric`
# What `unshare` and the daemons find ip and nft by; an ordinary user's PATH lacks sbin.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class FurtherEni:
    """An ENI that the machine has from the start beside its primary one, as DHCP tells of it."""

    eni_id: str
    link: str
    address: IPv4Interface


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """What the emulated cloud says about the instance it made for the node.

    `address_v6` is None where the subnet gives none; `mtu` where the ENIs' own is right.
    """

    instance_id: str
    eni_id: str
    mac: str
    address: IPv4Address
    subnet_cidr: IPv4Network
    gateway: IPv4Address
    address_v6: IPv6Address | None = None
    further: tuple[FurtherEni, ...] = ()
    mtu: int | None = None


class Node:
    """One node. `ipamd` and `cnid` are its daemons, not started by the constructor."""

    def __init__(self, name: str, netns_path: str, run_dir: Path, env: Mapping[str, str]) -> None:
        """`env` is the daemons' whole environment, see `daemon_environment`."""
        self.name = name
        self.netns_path = netns_path
        self.run_dir = run_dir
        self.ipamd_socket = checked_socket_path(run_dir / "ipamd.sock")
        self.cni_socket = checked_socket_path(run_dir / "cni.sock")
        self.identity: NodeIdentity | None = None
        self.ipamd = self._daemon("ipamd", "ipamd", env)
        self.cnid = self._daemon("vpc-cnid", "cni_shim", env)
        self._runtimes: list[Runtime] = []

    def start(self, timeout_seconds: float = 20.0) -> None:
        """Start both daemons and wait until both sockets accept connections."""
        self.ipamd.start()
        self.cnid.start()
        self.ipamd.wait_ready(lambda: is_listening(self.ipamd_socket), timeout_seconds)
        self.cnid.wait_ready(lambda: is_listening(self.cni_socket), timeout_seconds)

    def runtime(
        self, plugin: Sequence[str], config: Mapping[str, Any], timeout_seconds: float = 60.0
    ) -> Runtime:
        """A container runtime on this node that calls this plugin; closed with the node."""
        made = Runtime(
            node_netns=self.netns_path,
            plugin=plugin,
            config=config,
            run_dir=str(self.run_dir),
            timeout_seconds=timeout_seconds,
        )
        self._runtimes.append(made)
        return made

    def bring_up(self, identity: NodeIdentity) -> None:
        """What cloud-init does on first boot: lo and eth0 up, its address, the default route; ENIs
        that are there beside it up with their address and no default route."""
        self.identity = identity
        netns.call_in(self.netns_path, lambda: _configure(identity))

    def close(self) -> None:
        """End daemons and whatever they started, remove the pods' namespaces and the node's."""
        self.cnid.close()
        self.ipamd.close()
        for runtime in self._runtimes:
            runtime.close()
        netns.delete(self.name)

    def _daemon(self, name: str, module: str, env: Mapping[str, str]) -> Daemon:
        return Daemon(
            f"{name} on {self.name}",
            [sys.executable, "-m", module],
            env=env,
            netns_path=self.netns_path,
            log_path=self.run_dir / f"{name}.log",
        )


def make_node_namespace(name: str) -> str:
    """An instance before its first boot: the namespace, with a distribution's defaults.

    Reverse path filtering is strict on every link to come, as Amazon Linux sets it, so that a
    missing loose mode on a secondary ENI shows here and not in production. IPv6 is on; ENIs do not
    look for duplicates of their link-local addresses, which would take the first boot a second.
    """
    path = netns.create(name)
    netns.call_in(path, _set_defaults)
    return path


def _set_defaults() -> None:
    netns.set_sysctl("ipv4/conf/default/rp_filter", 1)
    if netns.has_ipv6():
        netns.set_sysctl("ipv6/conf/all/disable_ipv6", 0)
        netns.set_sysctl("ipv6/conf/default/disable_ipv6", 0)
        netns.set_sysctl("ipv6/conf/default/accept_dad", 0)


def daemon_environment(
    run_dir: Path, of_cloud: Mapping[str, str] = MappingProxyType(EC2.environment({}))
) -> dict[str, str]:
    """The whole environment of a daemon; nothing of the caller's gets in."""
    return {
        "PATH": PATH,
        "HOME": str(run_dir),  # so that nobody's ~/.aws or ~/.azure has a say
        "VPC_IPAMD_RUN_DIR": str(run_dir),
        **of_cloud,
    }


def _configure(identity: NodeIdentity) -> None:
    with Netlink() as netlink:
        netlink.set_up(LOOPBACK_INDEX)
        prefix = identity.subnet_cidr.prefixlen
        address = IPv4Interface((identity.address, prefix))
        index = _configure_link(netlink, identity, "eth0", address)
        netlink.replace_route(ANYWHERE, gateway=identity.gateway, index=index)
        if identity.address_v6 is not None:
            netlink.replace_address(index, IPv6Interface(identity.address_v6))
            netlink.replace_route(ANYWHERE_V6, gateway=ROUTER_V6, index=index)
        for eni in identity.further:
            _configure_link(netlink, identity, eni.link, eni.address)


def _configure_link(
    netlink: Netlink, identity: NodeIdentity, name: str, address: IPv4Interface
) -> int:
    """What DHCP brings to one link; its ifindex."""
    index = netlink.index(name)
    if index is None:
        raise LabError(f"{identity.instance_id} has no {name}: did the fabric plug its ENI?")
    if identity.mtu is not None:
        netlink.set_mtu(index, identity.mtu)
    netlink.set_up(index)
    netlink.replace_address(index, address)
    return index
