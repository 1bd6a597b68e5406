"""What the metadata service shows of one machine: paths below /latest/, with their values.

A pure function of the machine and its ENIs. A key that does not apply is absent, and so answers
404: clients must read that as "none" (EC2 user guide, "Instance metadata categories").
"""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence

from providers.sim.ec2_moto import ACCOUNT_ID, REGION
from providers.sim.ec2_records import Interface, Machine
from providers.sim.ec2_shapes import dns_name

ROLE = "vpc-ipamd-node"
# As EC2 does, credentials live for about six hours; nothing checks them here.
CREDENTIALS_LIFE = dt.timedelta(hours=6)
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"


def tree(
    machine: Machine,
    interfaces: Sequence[Interface],
    subnet_cidrs: Mapping[str, str],
    vpc_cidrs: Sequence[str],
    now: float,
) -> dict[str, str]:
    """Path to value. `interfaces` are those the machine has, the primary one first."""
    values = _machine_values(machine, now)
    if interfaces:
        values |= _primary_values(interfaces[0])
    for interface in interfaces:
        values |= _interface_values(
            machine, interface, subnet_cidrs[interface.subnet_id], vpc_cidrs
        )
    return values


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
    return {
        "meta-data/mac": primary.mac,
        "meta-data/local-ipv4": str(primary.primary_address),
        "meta-data/local-hostname": name,
        "meta-data/hostname": name,
    }


def _interface_values(
    machine: Machine, interface: Interface, subnet_cidr: str, vpc_cidrs: Sequence[str]
) -> dict[str, str]:
    assert interface.attachment is not None
    values = {
        "device-number": str(interface.attachment.device_index),
        "interface-id": interface.eni_id,
        "local-hostname": dns_name(interface.primary_address, REGION),
        "local-ipv4s": "\n".join(str(address) for address in interface.addresses),
        "mac": interface.mac,
        "owner-id": ACCOUNT_ID,
        "security-group-ids": "\n".join(interface.group_ids),
        "subnet-id": interface.subnet_id,
        "subnet-ipv4-cidr-block": subnet_cidr,
        "vpc-id": interface.vpc_id,
        "vpc-ipv4-cidr-block": vpc_cidrs[0],
        "vpc-ipv4-cidr-blocks": "\n".join(vpc_cidrs),
    }
    if len(machine.limits.interfaces_per_card) > 1:
        values["network-card"] = str(interface.attachment.network_card)
    prefix = f"meta-data/network/interfaces/macs/{interface.mac}"
    return {f"{prefix}/{name}": value for name, value in values.items()}


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
