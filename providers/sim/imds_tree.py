"""What the metadata service shows of one machine: paths below /latest/, with their values.

A pure function of the machine and its ENIs. A key that does not apply is absent, and so answers
404: clients must read that as "none" (EC2 user guide, "Instance metadata categories").
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from providers.sim.ec2_moto import ACCOUNT_ID, REGION
from providers.sim.ec2_records import Interface, Machine, Subnet
from providers.sim.ec2_shapes import dns_name

ROLE = "vpc-ipamd-node"
# As EC2 does, credentials live for about six hours; nothing checks them here.
CREDENTIALS_LIFE = dt.timedelta(hours=6)
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What is around a machine: its ENIs' subnets by id, the blocks of its VPC, its zone."""

    subnets: Mapping[str, Subnet]
    vpc_cidrs: Sequence[str]
    vpc_cidrs_v6: Sequence[str]
    zone_id: str


def tree(
    machine: Machine, interfaces: Sequence[Interface], around: Surroundings, now: float
) -> dict[str, str]:
    """Path to value. `interfaces` are those the machine has, the primary one first."""
    values = _machine_values(machine, now)
    values["meta-data/placement/availability-zone-id"] = around.zone_id
    for primary in addressed(interfaces)[:1]:
        values |= _primary_values(primary)
    for interface in interfaces:
        values |= _interface_values(machine, interface, around)
    return values


def addressed(interfaces: Sequence[Interface]) -> list[Interface]:
    """Those that have an address: an EFA-only ENI is never what a machine is known by."""
    return [one for one in interfaces if one.addresses]


def look_up(values: Mapping[str, str], path: str) -> str | None:
    """The value at a path, or a directory's listing; None is a 404. A last slash does not count.

    A listing has a line per entry, directories with a slash at the end.
    """
    path = path.strip("/")
    if path in values:
        return values[path]
    prefix = f"{path}/" if path else ""
    below = [known.removeprefix(prefix) for known in values if known.startswith(prefix)]
    entries = {rest.split("/", 1)[0] + ("/" if "/" in rest else "") for rest in below}
    return "\n".join(sorted(entries)) if entries else None


def _machine_values(machine: Machine, now: float) -> dict[str, str]:
    meta = "meta-data"
    return {
        f"{meta}/ami-id": machine.image_id,
        f"{meta}/instance-id": machine.instance_id,
        f"{meta}/instance-type": machine.instance_type,
        f"{meta}/instance-life-cycle": "on-demand",
        f"{meta}/placement/availability-zone": machine.zone,
        f"{meta}/placement/region": REGION,
        f"{meta}/services/domain": "amazonaws.com",
        f"{meta}/services/partition": "aws",
        f"{meta}/iam/info": _iam_info(now),
        f"{meta}/iam/security-credentials/{ROLE}": _credentials(now),
    }


def _primary_values(primary: Interface) -> dict[str, str]:
    name = dns_name(primary.primary_address, REGION)
    values = {
        "mac": primary.mac,
        "local-ipv4": str(primary.primary_address),
        "local-hostname": name,
        "hostname": name,
        "ipv6": "".join(map(str, primary.addresses_v6[:1])),
    }
    return {f"meta-data/{name}": value for name, value in values.items() if value}


def _interface_values(
    machine: Machine, interface: Interface, around: Surroundings
) -> dict[str, str]:
    assert interface.attachment is not None
    values = {
        "device-number": str(interface.attachment.device_index),
        "interface-id": interface.eni_id,
        "mac": interface.mac,
        "owner-id": ACCOUNT_ID,
        "security-group-ids": _lines(interface.group_ids),
        "subnet-id": interface.subnet_id,
        "vpc-id": interface.vpc_id,
    }
    if len(machine.limits.interfaces_per_card) > 1:
        values["network-card"] = str(interface.attachment.network_card)
    values |= _address_values(interface, around)
    prefix = f"meta-data/network/interfaces/macs/{interface.mac}"
    return {f"{prefix}/{name}": value for name, value in values.items() if value}


def _address_values(interface: Interface, around: Surroundings) -> dict[str, str]:
    """One line per address or block; what there is none of is absent."""
    subnet = around.subnets[interface.subnet_id]
    hostnames = [dns_name(address, REGION) for address in interface.addresses[:1]]
    return {
        "local-hostname": _lines(hostnames),
        "local-ipv4s": _lines(interface.addresses),
        "ipv4-prefix": _lines(interface.prefixes),
        "subnet-ipv4-cidr-block": str(subnet.cidr),
        "vpc-ipv4-cidr-block": around.vpc_cidrs[0],
        "vpc-ipv4-cidr-blocks": _lines(around.vpc_cidrs),
        "ipv6s": _lines(interface.addresses_v6),
        "ipv6-prefix": _lines(interface.prefixes_v6),
        "subnet-ipv6-cidr-blocks": "" if subnet.cidr_v6 is None else str(subnet.cidr_v6),
        "vpc-ipv6-cidr-blocks": _lines(around.vpc_cidrs_v6),
    }


def _lines(values: Iterable[object]) -> str:
    return "\n".join(map(str, values))


def identity_document(machine: Machine, primary: Interface | None) -> str:
    """dynamic/instance-identity/document."""
    return json.dumps(
        {
            "accountId": ACCOUNT_ID,
            "architecture": "x86_64",
            "availabilityZone": machine.zone,
            "imageId": machine.image_id,
            "instanceId": machine.instance_id,
            "instanceType": machine.instance_type,
            "pendingTime": _time(machine.launched_unix),
            "privateIp": str(primary.primary_address) if primary else None,
            "region": REGION,
            "version": "2017-09-30",
        },
        indent=2,
    )


def _iam_info(now: float) -> str:
    return json.dumps(
        {
            "Code": "Success",
            "LastUpdated": _time(now),
            "InstanceProfileArn": f"arn:aws:iam::{ACCOUNT_ID}:instance-profile/{ROLE}",
            "InstanceProfileId": "AIPAEMULATEDPROFILE00",
        }
    )


def _credentials(now: float) -> str:
    return json.dumps(
        {
            "Code": "Success",
            "LastUpdated": _time(now),
            "Type": "AWS-HMAC",
            "AccessKeyId": "ASIAEMULATED00000000",
            "SecretAccessKey": "emulated",
            "Token": "emulated",
            "Expiration": _time(now + CREDENTIALS_LIFE.total_seconds()),
        }
    )


def _time(unix: float) -> str:
    return dt.datetime.fromtimestamp(unix, dt.UTC).strftime(_TIME_FORMAT)
