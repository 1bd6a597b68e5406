"""Looks at the kernel, the ledger and the process table, each as a frozen value.

The kernel is asked through iproute2 and the ledger through the `ipamctl` program, so that the demo
believes neither the daemons' own words about the kernel nor a shared piece of their code.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from providers.sim import netns
from providers.sim.demo_run import CheckFailed

_FAMILIES = (4, 6)

# aws-node's range, which IPv6 nodes give their pods addresses of by default (ENABLE_V4_EGRESS).
NODE_LOCAL = ip_network("169.254.172.0/22")
_IPAMCTL_SECONDS = 15.0  # its own call gives up after 5; the rest is the start of Python


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingRule:
    """One row of `ip rule`; the address is the one it selects by, None where it has none.

    `version` is the family's, 4 or 6.
    """

    version: int
    priority: int
    table: str
    mark: str
    address: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeKernel:
    """A node's links and routing, as iproute2 shows them."""

    links: tuple[tuple[str, str], ...]  # (name, MAC), lo left out
    routes: tuple[tuple[str, str, str], ...]  # (destination, link, table), of both families
    rules: tuple[RoutingRule, ...]

    def traces_of(self, addresses: Iterable[str], eni_macs: Iterable[str]) -> tuple[str, ...]:
        """Links that are no ENI's, and routes and rules that name one of the addresses."""
        wanted, macs = set(addresses), set(eni_macs)
        return (
            *(f"link {name}" for name, mac in self.links if mac not in macs),
            *(f"route {to} dev {link} table {table}" for to, link, table in self.routes
              if to in wanted),
            *(f"rule {rule.priority}: {rule.address} lookup {rule.table}" for rule in self.rules
              if rule.address in wanted),
        )  # fmt: skip

    def link_to(self, address: str) -> str:
        """The link that the route to a pod's address names; CheckFailed unless there is one."""
        links = [link for to, link, _ in self.routes if to == address]
        if len(links) != 1:
            raise CheckFailed(f"{len(links)} routes lead to {address}, not one")
        return links[0]

    def rules_to_eni(self, link: str, address: str) -> tuple[RoutingRule, ...]:
        """The rules that send a pod's packets to the ENI's own table: by mark or by source."""
        tables = {table for to, dev, table in self.routes if (to, dev) == ("default", link)}
        return tuple(
            rule
            for rule in self._rules_of_family(address)
            if rule.table in tables - {"main"} and (rule.mark or rule.address == address)
        )

    def rules_to_pod(self, address: str) -> tuple[RoutingRule, ...]:
        """The rules that lead packets to the table with the pod's route."""
        tables = {table for to, _, table in self.routes if to == address}
        return tuple(rule for rule in self._rules_of_family(address) if rule.table in tables)

    def _rules_of_family(self, address: str) -> tuple[RoutingRule, ...]:
        version = ip_address(address).version
        return tuple(rule for rule in self.rules if rule.version == version)


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEni:
    """An ENI as ipamd sees it; `link` is empty until vpc-cnid has reported it."""

    eni_id: str
    link: str
    is_primary: bool
    is_ready: bool
    allocated: int
    cooling: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """What `ipamctl status -o json` says."""

    exit_status: int
    problems: tuple[str, ...]
    pool: Mapping[str, int]
    enis: tuple[LedgerEni, ...]
    holders: Mapping[str, tuple[str, str]]  # allocated address -> (container id, ENI)
    cooling: frozenset[str]

    def eni(self, eni_id: str) -> LedgerEni:
        """The ENI of that id; CheckFailed if ipamd does not know it."""
        for one in self.enis:
            if one.eni_id == eni_id:
                return one
        raise CheckFailed(f"ipamd does not know {eni_id}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CloudEni:
    """An ENI as the emulated cloud has it; the first of the IPv4 addresses is its primary one.

    `prefixes` are those of both families.
    """

    eni_id: str
    mac: str
    status: str
    instance_id: str
    device_index: int
    subnet_id: str
    addresses: tuple[str, ...]
    addresses_v6: tuple[str, ...]
    prefixes: tuple[str, ...]

    def has(self, address: str) -> bool:
        """Whether the address is its own or inside one of its prefixes."""
        return address in {*self.addresses, *self.addresses_v6} or any(
            ip_address(address) in ip_network(prefix) for prefix in self.prefixes
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The emulated cloud's whole state, as far as the demo looks at it."""

    enis: tuple[CloudEni, ...]
    free: Mapping[str, int]  # subnet id -> unused addresses
    cidrs: Mapping[str, str]  # subnet id -> its IPv4 block
    fabric_failures: tuple[str, ...]

    def of_instance(self, instance_id: str) -> tuple[CloudEni, ...]:
        """The ENIs of an instance by device index."""
        own = (eni for eni in self.enis if eni.instance_id == instance_id)
        return tuple(sorted(own, key=lambda eni: eni.device_index))

    def holder_of(self, address: str) -> CloudEni:
        """The ENI that has the address; CheckFailed unless exactly one has."""
        found = [eni for eni in self.enis if eni.has(address)]
        if len(found) != 1:
            raise CheckFailed(f"{len(found)} ENIs have {address} in the cloud, not one")
        return found[0]


def key(cloud_id: str) -> str:
    """An id to compare with: Azure's are the same in any case."""
    return cloud_id.lower()


def short(cloud_id: str) -> str:
    """An id for people: the last part of one that is a path, as Azure's are; an instance's is a
    number, and stands behind the name of its scale set."""
    *_, owner, _, last = ("", "", *cloud_id.split("/"))
    return f"{owner}_{last}" if last.isdecimal() and owner else last


def counted(number: int, noun: str) -> str:
    """3 NICs, 1 NIC."""
    return f"{number} {noun}" + ("" if number == 1 else "s" if not noun.endswith("x") else "es")


def node_kernel(netns_path: str) -> NodeKernel:
    """Look at a node's namespace."""
    links = _ip(netns_path, "link")
    routes = [
        row
        for family in _FAMILIES
        for row in _ip(netns_path, f"-{family}", "route", "show", "table", "all")
    ]
    return NodeKernel(
        links=tuple((row["ifname"], row["address"]) for row in links if row["ifname"] != "lo"),
        routes=tuple(
            (row["dst"], row.get("dev", ""), row.get("table", "main"))
            for row in routes
            if row.get("type", "unicast") == "unicast"
        ),
        rules=tuple(
            _rule(family, row)
            for family in _FAMILIES
            for row in _ip(netns_path, f"-{family}", "rule")
        ),
    )


def addresses_in(netns_path: str, link: str) -> tuple[str, ...]:
    """The addresses of one link but for link-local ones, and those that a pod has to go out by the
    other family; none where there is no such link."""
    rows = _ip(netns_path, "address")
    found = (
        info["local"]
        for row in rows
        if row.get("ifname") == link
        for info in row["addr_info"]
        if info["scope"] != "link"
    )
    return tuple(each for each in found if ip_address(each) not in NODE_LOCAL)


def delete_rule(netns_path: str, rule: RoutingRule) -> None:
    """Take one rule away, as an administrator would."""
    selector = ["fwmark", rule.mark] if rule.mark else ["from", rule.address or "all"]
    where = ["priority", str(rule.priority), "table", rule.table]
    netns.run_in(netns_path, ["ip", f"-{rule.version}", "rule", "del", *where, *selector])


def ipamctl(socket: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `ipamctl status` for one node. Its exit status is part of the answer."""
    return subprocess.run(
        [sys.executable, "-m", "ipamd.cli.main", "status", "--socket", str(socket), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=_IPAMCTL_SECONDS,
    )


def ledger(socket: Path) -> Ledger:
    """What ipamd says now; CheckFailed where it does not answer."""
    done = ipamctl(socket, "-o", "json")
    if done.returncode not in {0, 1}:
        raise CheckFailed(done.stderr.strip() or f"ipamctl ended with {done.returncode}")
    return ledger_of(json.loads(done.stdout), done.returncode)


def ledger_of(said: Mapping[str, Any], exit_status: int) -> Ledger:
    """The parts of the document that the demo uses."""
    return Ledger(
        exit_status=exit_status,
        problems=tuple(said["problems"]),
        pool=dict(said["pool"]),
        enis=tuple(
            LedgerEni(
                eni_id=key(row["eni_id"]),
                link=row["link_name"],
                is_primary=row["is_primary"],
                is_ready=row["is_ready"],
                allocated=row["addresses"].get("allocated", 0),
                cooling=row["addresses"].get("cooling", 0),
            )
            for row in said["enis"]
        ),
        holders={
            row["address"]: (row["key"]["container_id"], key(row["eni_id"]))
            for row in said["addresses"]
            if row["state"] == "allocated"
        },
        cooling=frozenset(row["address"] for row in said["addresses"] if row["state"] == "cooling"),
    )


def cloud_of(state: Mapping[str, Any]) -> Cloud:
    """The control socket's `state` as a value."""
    return Cloud(
        enis=tuple(
            CloudEni(
                eni_id=key(row["eni_id"]),
                mac=row["mac"],
                status=row["status"],
                instance_id=key(row["instance_id"]),
                device_index=row["device_index"],
                subnet_id=row["subnet_id"],
                addresses=tuple(row["addresses"]),
                addresses_v6=tuple(row["addresses_v6"]),
                prefixes=(*row["prefixes"], *row["prefixes_v6"]),
            )
            for row in state["enis"]
        ),
        free={row["subnet_id"]: row["free"] for row in state["subnets"]},
        cidrs={row["subnet_id"]: row["cidr"] for row in state["subnets"]},
        fabric_failures=tuple(str(failure) for failure in state["fabric_failures"]),
    )


def processes_of(directory: Path) -> tuple[str, ...]:
    """Running programs whose environment names the directory: whatever was started for it."""
    needle = os.fsencode(directory)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal() or int(entry.name) == os.getpid():
            continue
        try:
            if needle in (entry / "environ").read_bytes():
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ")
                found.append(f"{entry.name} {command.decode(errors='replace').strip()}")
        except OSError:  # it has ended meanwhile, or is a zombie
            continue
    return tuple(found)


def _ip(netns_path: str, *arguments: str) -> list[dict[str, Any]]:
    answer = netns.run_in(netns_path, ["ip", "-j", *arguments])
    rows: list[dict[str, Any]] = json.loads(answer or "[]")
    return rows


def _rule(version: int, row: Mapping[str, Any]) -> RoutingRule:
    mark = row.get("fwmark", "")
    return RoutingRule(
        version=version,
        priority=row["priority"],
        table=row["table"],
        mark=f"{mark}/{row.get('fwmask', '0xffffffff')}" if mark else "",
        address=next((row[key] for key in ("src", "dst") if _is_address(row.get(key))), None),
    )


def _is_address(text: object) -> bool:
    try:
        ip_address(str(text))
    except ValueError:
        return False
    return True
