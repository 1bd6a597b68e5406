"""Making VPCs and subnets with every block and tag a test needs, in one control call.

The EC2 API needs several calls for it and lets Amazon choose the IPv6 blocks; here they are given,
so that a test can name its addresses. Called under the emulator's lock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from ipaddress import IPv6Network
from typing import Any

from providers.sim.ec2_moto import SimBackend
from providers.sim.ec2_records import Subnet


def make_vpc(
    backend: SimBackend,
    cidr: str,
    more_cidrs: Sequence[str],
    cidr_v6: str,
    tags: Mapping[str, str],
) -> str:
    """A VPC with these blocks and tags; its id. `cidr_v6` empty: none."""
    vpc = backend.create_vpc(cidr)
    vpc_id = str(vpc.id)
    for one in more_cidrs:
        backend.associate_vpc_cidr_block(vpc_id, one, amazon_provided_ipv6_cidr_block=False)
    if cidr_v6:
        backend.add_vpc_cidr_v6(vpc_id, IPv6Network(cidr_v6))
    if tags:
        backend.create_tags([vpc_id], dict(tags))
    return vpc_id


def make_subnet(backend: SimBackend, vpc_id: str, asked: Mapping[str, Any]) -> Subnet:
    """A subnet of `asked`: cidr, zone, and maybe cidr_v6, assigns_v6 and tags."""
    known = {"cidr", "zone", "cidr_v6", "assigns_v6", "tags"}
    if strange := set(asked) - known:
        raise ValueError(f"a subnet has no {min(strange)}; it has {', '.join(sorted(known))}")
    cidr_v6 = _subnet_block_v6(backend, vpc_id, asked.get("cidr_v6") or "")
    made = backend.create_subnet(
        vpc_id, asked["cidr"], ipv6_cidr_block=cidr_v6, availability_zone=asked["zone"]
    )
    if asked.get("assigns_v6"):
        if cidr_v6 is None:
            raise ValueError(f"{asked['cidr']}: assigns_v6 needs a cidr_v6")
        made.assign_ipv6_address_on_creation = True
    if tags := asked.get("tags"):
        backend.create_tags([made.id], dict(tags))
    return backend.find_subnet(made.id)


def _subnet_block_v6(backend: SimBackend, vpc_id: str, text: str) -> str | None:
    """A /64 of the VPC's block (VPC user guide, "Subnet sizing for IPv6")."""
    if not text:
        return None
    block = IPv6Network(text)
    blocks = [IPv6Network(one) for one in backend.vpc_cidrs_v6(vpc_id)]
    if not any(block.subnet_of(one) for one in blocks):
        raise ValueError(f"{block} is in none of the VPC's IPv6 blocks: {blocks}")
    return str(block)
