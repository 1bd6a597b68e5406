"""What aws-node does to a host, done by iproute2, iptables and nft: rules, tables, chains, pods.

Restated from amazon-vpc-cni-k8s: pkg/networkutils (network.go, iptables_connmark.go,
nftables_connmark.go) and cmd/routed-eni-cni-plugin/driver. Runs in the calling thread's namespace.

Two things are gentler here unless asked for otherwise: at each of its starts aws-node has an ENI's
subnet in the main table for a moment, which turns other pods' traffic to that subnet to the wrong
ENI, and deletes its rules 1024 and 32765 before it adds them again. What is lost then is its own
loss, and would hide ours.
"""

from __future__ import annotations

import hashlib
import subprocess
from ipaddress import IPv4Address

from providers.sim.model import WiredEni
from tests.netns.datapath_lab import Netns, run

VPC_CIDR = "10.0.0.0/16"


class PeerAgent:
    """aws-node on a host whose iptables is of one kind: "legacy" or "nft"."""

    def __init__(self, kind: str, enis: tuple[WiredEni, ...], *, is_gentle: bool = True) -> None:
        self.kind = kind
        self.enis = enis
        self.is_gentle = is_gentle

    def set_up(self) -> None:
        """Its start: node-port rule, secondary ENIs, SNAT and marks. What stands is taken over."""
        run("sysctl", "-q", "-w", "net.ipv4.ip_forward=1", "net.ipv4.conf.eth0.rp_filter=2")
        self._renew_rule("pref", "1024", "fwmark", "0x80/0x80", "lookup", "main")
        for eni in self.enis:
            if eni.device_index:
                self._set_up_eni(eni)
        primary = self.enis[0].primary_address
        self._restore(f"*nat\n{_snat(primary)}{self._connmark()}COMMIT\n*mangle\n{_MANGLE}COMMIT\n")
        if self.kind == "nft":
            subprocess.run(["nft", "-f", "-"], input=_NFT, text=True, check=True)

    def wire(self, pod: Netns, eni: WiredEni, address: IPv4Address, name: str) -> None:
        """A pod as its plugin leaves it."""
        veth = "eni" + hashlib.sha1(f"default.{name}".encode()).hexdigest()[:11]
        run("ip", "link", "add", veth, "type", "veth", "peer", "name", "eth0", "netns", pod.name)
        run("ip", "link", "set", veth, "up")
        mac = run("ip", "-o", "link", "show", veth).split("link/ether ")[1].split()[0]
        pod.ip("link", "set", "lo", "up")
        pod.ip("link", "set", "eth0", "up")
        pod.ip("address", "add", f"{address}/32", "dev", "eth0")
        pod.ip("route", "add", "169.254.1.1", "dev", "eth0", "scope", "link")
        pod.ip("route", "add", "default", "via", "169.254.1.1", "dev", "eth0")
        pod.ip("neighbour", "add", "169.254.1.1", "lladdr", mac, "dev", "eth0", "nud", "permanent")
        run("ip", "route", "add", str(address), "dev", veth, "scope", "link")
        run("ip", "rule", "add", "pref", "512", "to", str(address), "lookup", "main")
        if eni.device_index:
            table = str(eni.device_index + 1)
            run("ip", "rule", "add", "pref", "1536", "from", str(address), "lookup", table)

    def unwire(self, address: IPv4Address) -> None:
        """What its plugin removes on a DEL; the link goes with the pod's namespace."""
        for rule in (("512", "to"), ("1536", "from")):
            while _try("ip", "rule", "delete", "pref", rule[0], rule[1], str(address)):
                pass
        run("ip", "route", "delete", str(address), "table", "main")

    def chains(self) -> list[str]:
        """What of its own stands in iptables and nft."""
        saved = run(f"iptables-{self.kind}-save") + run("nft", "list", "tables")
        return [line for line in saved.splitlines() if "AWS" in line or "aws-cni" in line]

    def _set_up_eni(self, eni: WiredEni) -> None:
        link, table = f"eth{eni.device_index}", str(eni.device_index + 1)
        gateway = str(eni.subnet_cidr.network_address + 1)
        run("sysctl", "-q", "-w", f"net.ipv4.conf.{link}.rp_filter=2")
        run("ip", "link", "set", link, "mtu", "9001", "up")
        run("ip", "address", "replace", f"{eni.primary_address}/{eni.subnet_cidr.prefixlen}",
            "dev", link, *(["noprefixroute"] if self.is_gentle else []))  # fmt: skip
        run("ip", "route", "replace", gateway, "dev", link, "scope", "link", "table", table)
        run("ip", "route", "replace", "default", "via", gateway, "dev", link, "table", table)
        _try("ip", "route", "delete", str(eni.subnet_cidr), "dev", link, "table", "main")
        self._renew_rule("pref", "32765", "from", str(eni.primary_address), "lookup", table)

    def _renew_rule(self, *rule: str) -> None:
        """As it does with its own at every start: delete one that is like it, then add it."""
        if not self.is_gentle:
            _try("ip", "rule", "delete", *rule)
            run("ip", "rule", "add", *rule)
        else:
            _try("ip", "rule", "add", *rule)

    def _connmark(self) -> str:
        return _CONNMARK if self.kind == "legacy" else ""

    def _restore(self, script: str) -> None:
        subprocess.run(
            [f"iptables-{self.kind}-restore", "--noflush"], input=script, text=True, check=True
        )


def _try(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _snat(primary: IPv4Address) -> str:
    return f"""\
:AWS-SNAT-CHAIN-0 -
-A POSTROUTING -m comment --comment "AWS SNAT CHAIN" -j AWS-SNAT-CHAIN-0
-A AWS-SNAT-CHAIN-0 -d {VPC_CIDR} -m comment --comment "AWS SNAT CHAIN" -j RETURN
-A AWS-SNAT-CHAIN-0 ! -o vlan+ -m comment --comment "AWS, SNAT" -m addrtype ! --dst-type LOCAL \
-j SNAT --to-source {primary} --random-fully
"""


_CONNMARK = f"""\
:AWS-CONNMARK-CHAIN-0 -
-A PREROUTING -i eni+ -m comment --comment "AWS, outbound connections" -j AWS-CONNMARK-CHAIN-0
-A PREROUTING -m comment --comment "AWS, CONNMARK" -j CONNMARK --restore-mark --mask 0x80
-A AWS-CONNMARK-CHAIN-0 -d {VPC_CIDR} -m comment --comment "AWS CONNMARK CHAIN" -j RETURN
-A AWS-CONNMARK-CHAIN-0 -m comment --comment "AWS, CONNMARK" -j CONNMARK --set-xmark 0x80/0x80
"""

_MANGLE = """\
-A PREROUTING -i eth0 -m comment --comment "AWS, primary ENI" -m addrtype --dst-type LOCAL \
--limit-iface-in -j CONNMARK --set-xmark 0x80/0x80
-A PREROUTING -i eni+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark --mask 0x80
-A PREROUTING -i vlan+ -m comment --comment "AWS, primary ENI" -j CONNMARK --restore-mark \
--mask 0x80
"""

_NFT = f"""\
table ip aws-cni {{
    chain snat-mark {{
        counter ip daddr {VPC_CIDR} return
        counter ct mark set ct mark | 0x80
    }}
    chain nat-prerouting {{
        type nat hook prerouting priority -90; policy accept;
        fib daddr type local return
        iifname "eni*" counter jump snat-mark
        ct mark & 0x80 == 0x0 counter meta mark set meta mark & 0xffffff7f
        ct mark & 0x80 == 0x80 counter meta mark set meta mark | 0x80
    }}
}}
"""
