"""The fabric's checks as nftables text, and what they counted: text in, values out, no kernel here.

They stand in the `netdev` family at ingress, the one hook that sees a frame of any protocol as it
comes off an ENI, before the router's own stack answers or forwards anything. The rules are constant
and look things up by link name; plugging an ENI only changes set elements and hooks its link.
Each kind of wrong frame has a set that counts per (link, wrong source); a full set (4096 wrong
sources) still drops, it only stops naming.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

TABLE = "netdev vpc"

COUNTERS = {
    "spoofed_mac": "mac",
    "spoofed_ip": "ip",
    "spoofed_arp_mac": "arp",
    "spoofed_arp_ip": "arp",
}

_COUNTER_SET = "set {name} {{ type ifname . {kind}; size 4096; flags dynamic; counter; }}"

# IPv4 sources of 0.0.0.0 are a host that has no address yet (DHCP): a VPC takes them, we have no
# DHCP server, so they vanish uncounted. An ARP probe (RFC 5227) has sender 0.0.0.0 as well.
# What is neither IPv4 nor ARP vanishes uncounted too: this VPC has no IPv6.
BASE = f"""
table {TABLE} {{
  set macs {{ type ifname . ether_addr; }}
  set sources {{ type ifname . ipv4_addr; }}
  set unchecked {{ type ifname; }}
  {_COUNTER_SET.format(name="spoofed_mac", kind="ether_addr")}
  {_COUNTER_SET.format(name="spoofed_ip", kind="ipv4_addr")}
  {_COUNTER_SET.format(name="spoofed_arp_mac", kind="ether_addr")}
  {_COUNTER_SET.format(name="spoofed_arp_ip", kind="ipv4_addr")}
  chain check {{
    iifname . ether saddr != @macs goto wrong_mac
    ether type arp goto check_arp
    ether type != ip drop
    iifname . ip saddr @sources accept
    iifname @unchecked accept
    ip saddr 0.0.0.0 drop
    add @spoofed_ip {{ iifname . ip saddr }}
    drop
  }}
  chain wrong_mac {{
    add @spoofed_mac {{ iifname . ether saddr }}
    drop
  }}
  chain check_arp {{
    iifname . arp saddr ether != @macs goto wrong_arp_mac
    arp saddr ip 0.0.0.0 accept
    iifname . arp saddr ip @sources accept
    add @spoofed_arp_ip {{ iifname . arp saddr ip }}
    drop
  }}
  chain wrong_arp_mac {{
    add @spoofed_arp_mac {{ iifname . arp saddr ether }}
    drop
  }}
}}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """What the rules know of one link of the fabric."""

    link: str
    mac: str
    addresses: frozenset[IPv4Address]
    has_source_check: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Frames of one wrong source that came off one link."""

    link: str
    kind: str
    source: str
    packets: int


def plugged(port: Port) -> str:
    """Start checking the link. Policy drop: a hook without its rule lets nothing through."""
    chain = _chain(port.link)
    hook = f'type filter hook ingress device "{port.link}" priority 0; policy drop;'
    return "\n".join(
        [
            f"add chain {TABLE} {chain} {{ {hook} }}",
            f"add rule {TABLE} {chain} goto check",
            *_elements("add", port.link, "macs", [port.mac]),
            *_elements("add", port.link, "sources", port.addresses),
            *_unchecked("add", port, is_wanted=not port.has_source_check),
        ]
    )


def unplugged(port: Port) -> str:
    """Forget the link, also when the kernel has already taken the hook away with it."""
    chain = _chain(port.link)
    return "\n".join(
        [
            f"add chain {TABLE} {chain}",  # makes the delete below succeed either way
            f"delete chain {TABLE} {chain}",
            *_elements("delete", port.link, "macs", [port.mac]),
            *_elements("delete", port.link, "sources", port.addresses),
            *_unchecked("delete", port, is_wanted=not port.has_source_check),
        ]
    )


def changed(old: Port, new: Port) -> str:
    """Other addresses or another source check on the same link, in one transaction."""
    return "\n".join(
        [
            *_elements("delete", old.link, "sources", old.addresses - new.addresses),
            *_elements("add", old.link, "sources", new.addresses - old.addresses),
            *_unchecked("add", old, is_wanted=old.has_source_check and not new.has_source_check),
            *_unchecked("delete", old, is_wanted=new.has_source_check and not old.has_source_check),
        ]
    )


def reset() -> str:
    """Forget everything counted."""
    return "\n".join(f"flush set {TABLE} {name}" for name in COUNTERS)


def drops(listing: str) -> tuple[Drop, ...]:
    """What `nft -j list table` shows as counted, in the order of kinds, links and sources."""
    found = [
        Drop(link=link, kind=COUNTERS[name], source=source, packets=packets)
        for name, link, source, packets in _counted(json.loads(listing))
    ]
    return tuple(sorted(found, key=lambda drop: (drop.kind, drop.link, drop.source)))


def _counted(document: dict[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    for entry in document["nftables"]:
        table_set = entry.get("set", {})
        if table_set.get("name") not in COUNTERS:
            continue
        for element in table_set.get("elem", []):
            link, source = element["elem"]["val"]["concat"]
            yield table_set["name"], link, source, element["elem"]["counter"]["packets"]


def _chain(link: str) -> str:
    # A chain's name takes letters, digits, _ / and . only; a link's may have a dash.
    return "in_" + link.replace("-", "_")


def _elements(verb: str, link: str, name: str, values: Iterable[object]) -> list[str]:
    return [f'{verb} element {TABLE} {name} {{ "{link}" . {value} }}' for value in values]


def _unchecked(verb: str, port: Port, *, is_wanted: bool) -> list[str]:
    return [f'{verb} element {TABLE} unchecked {{ "{port.link}" }}'] if is_wanted else []
