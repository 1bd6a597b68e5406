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
from ipaddress import IPv4Network, IPv6Network
from typing import Any

TABLE = "netdev vpc"

COUNTERS = {
    "spoofed_mac": "mac",
    "spoofed_ip": "ip",
    "spoofed_ip6": "ip",
    "spoofed_arp_mac": "arp",
    "spoofed_arp_ip": "arp",
}

_COUNTER_SET = "set {name} {{ type ifname . {kind}; size 4096; flags dynamic; counter; }}"
_LINK_LOCAL_TYPES = (
    "echo-request, echo-reply, nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert"
)
_SOURCE_SETS = {4: "sources", 6: "sources6"}

# IPv4 sources of 0.0.0.0 are a host that has no address yet (DHCP): a VPC takes them, we have no
# DHCP server, so they vanish uncounted. An ARP probe (RFC 5227) has sender 0.0.0.0 as well.
# What is no IP and no ARP vanishes uncounted too. Of IPv6's link-local traffic only what finds the
# router and asks it for an echo gets through; multicast listener reports are nobody's concern here.
BASE = f"""
table {TABLE} {{
  set macs {{ type ifname . ether_addr; }}
  set sources {{ type ifname . ipv4_addr; flags interval; }}
  set sources6 {{ type ifname . ipv6_addr; flags interval; }}
  set unchecked {{ type ifname; }}
  {_COUNTER_SET.format(name="spoofed_mac", kind="ether_addr")}
  {_COUNTER_SET.format(name="spoofed_ip", kind="ipv4_addr")}
  {_COUNTER_SET.format(name="spoofed_ip6", kind="ipv6_addr")}
  {_COUNTER_SET.format(name="spoofed_arp_mac", kind="ether_addr")}
  {_COUNTER_SET.format(name="spoofed_arp_ip", kind="ipv4_addr")}
  chain check {{
    iifname . ether saddr != @macs goto wrong_mac
    ether type arp goto check_arp
    ether type ip6 goto check_ip6
    ether type != ip drop
    iifname . ip saddr @sources accept
    iifname @unchecked accept
    ip saddr 0.0.0.0 drop
    add @spoofed_ip {{ iifname . ip saddr }}
    drop
  }}
  chain check_ip6 {{
    iifname . ip6 saddr @sources6 accept
    ip6 saddr :: icmpv6 type nd-neighbor-solicit accept
    ip6 saddr fe80::/10 icmpv6 type {{ {_LINK_LOCAL_TYPES} }} accept
    ip6 saddr {{ ::, fe80::/10 }} drop
    iifname @unchecked accept
    add @spoofed_ip6 {{ iifname . ip6 saddr }}
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
    """What the rules know of one link of the fabric; a single address is a /32 or /128."""

    link: str
    mac: str
    sources: frozenset[IPv4Network | IPv6Network]
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
            *_sources("add", port.link, port.sources),
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
            *_sources("delete", port.link, port.sources),
            *_unchecked("delete", port, is_wanted=not port.has_source_check),
        ]
    )


def changed(old: Port, new: Port) -> str:
    """Other addresses or another source check on the same link, in one transaction."""
    return "\n".join(
        [
            *_sources("delete", old.link, old.sources - new.sources),
            *_sources("add", old.link, new.sources - old.sources),
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


def _sources(verb: str, link: str, sources: Iterable[IPv4Network | IPv6Network]) -> list[str]:
    return [
        command
        for source in sources
        for command in _elements(verb, link, _SOURCE_SETS[source.version], [_element(source)])
    ]


def _element(source: IPv4Network | IPv6Network) -> str:
    return str(source.network_address if source.num_addresses == 1 else source)


def _unchecked(verb: str, port: Port, *, is_wanted: bool) -> list[str]:
    return [f'{verb} element {TABLE} unchecked {{ "{port.link}" }}'] if is_wanted else []
