"""ENIs in the words of the EC2 API: the dicts that moto's serializer turns into XML."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Any

from providers.sim.ec2_records import Attachment, Interface


def interface_shape(
    eni: Interface, *, owner_id: str, region: str, tags: Mapping[str, str], groups: dict[str, str]
) -> dict[str, Any]:
    """NetworkInterface (and, as its superset, InstanceNetworkInterface). `groups`: id to name."""
    return {
        "Attachment": _attachment_shape(eni.attachment, owner_id) if eni.attachment else None,
        "AvailabilityZone": eni.zone,
        "Description": eni.description,
        "Groups": [{"GroupId": gid, "GroupName": groups[gid]} for gid in eni.group_ids],
        "InterfaceType": eni.interface_type,
        "Ipv4Prefixes": [{"Ipv4Prefix": str(one)} for one in eni.prefixes] or None,
        "Ipv6Addresses": [{"Ipv6Address": str(address)} for address in eni.addresses_v6],
        "Ipv6Prefixes": [{"Ipv6Prefix": str(one)} for one in eni.prefixes_v6] or None,
        "MacAddress": eni.mac,
        "NetworkInterfaceId": eni.eni_id,
        "OwnerId": owner_id,
        "Ipv6Address": str(eni.addresses_v6[0]) if eni.addresses_v6 else None,
        "PrivateDnsName": dns_name(eni.primary_address, region) if eni.addresses else None,
        "PrivateIpAddress": str(eni.primary_address) if eni.addresses else None,
        "PrivateIpAddresses": [
            {
                "PrivateIpAddress": str(address),
                "PrivateDnsName": dns_name(address, region),
                "Primary": address == eni.primary_address,
            }
            for address in eni.addresses
        ],
        "RequesterManaged": False,
        "SourceDestCheck": eni.has_source_check,
        "Status": eni.status,
        "SubnetId": eni.subnet_id,
        "TagSet": [{"Key": key, "Value": value} for key, value in tags.items()],
        "VpcId": eni.vpc_id,
    }


def dns_name(address: IPv4Address, region: str) -> str:
    """The private name of an address (VPC user guide, "DNS attributes for your VPC")."""
    return f"ip-{str(address).replace('.', '-')}.{region}.compute.internal"


def _attachment_shape(attachment: Attachment, owner_id: str) -> dict[str, Any]:
    return {
        "AttachTime": dt.datetime.fromtimestamp(attachment.attached_unix, dt.UTC),
        "AttachmentId": attachment.attachment_id,
        "DeleteOnTermination": attachment.deletes_on_termination,
        "DeviceIndex": attachment.device_index,
        "InstanceId": attachment.instance_id,
        "InstanceOwnerId": owner_id,
        "NetworkCardIndex": attachment.network_card,
        "Status": attachment.status.value,
    }
