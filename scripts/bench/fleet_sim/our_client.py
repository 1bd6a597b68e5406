"""botocore's EC2 client and the metadata service, as AwsProvider meets them on the account.

Answers have the shape that EC2's have behind boto3, as far as the provider reads them. A call with
parameters that are not known here is an error, so that a new call of the provider is not answered
by chance.
"""

# ruff: noqa: N803  - the names of parameters are EC2's
from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any, TypeVar

import botocore.exceptions

from ipamd.errors import Transient
from ipamd.model import IPNetwork
from providers.aws.tags import TAG_INSTANCE
from scripts.bench.fleet_sim import puppet
from scripts.bench.fleet_sim.ec2 import THROTTLE, Account, Ec2Error, Instance, Interface, Status

T = TypeVar("T")
Raw = dict[str, Any]

VPC, ZONE, REGION = "vpc-0", "eu-west-1a", "eu-west-1"


class Client:
    """One node's client; each method is one API call."""

    def __init__(self, account: Account, instance: Instance) -> None:
        self._account = account
        self._instance = instance

    def close(self) -> None:
        """Nothing is open."""

    def describe_instance_types(self, *, InstanceTypes: list[str]) -> Raw:
        node_type = self._instance.node_type
        found = [
            {
                "InstanceType": node_type.name,
                "Hypervisor": "nitro",
                "NetworkInfo": {
                    "MaximumNetworkInterfaces": node_type.max_enis,
                    "Ipv4AddressesPerInterface": node_type.addresses_per_eni,
                    "DefaultNetworkCardIndex": 0,
                },
            }
        ]
        assert InstanceTypes == [node_type.name]
        return self._call("DescribeInstanceTypes", lambda: {"InstanceTypes": found})

    def describe_subnets(self, *, Filters: list[Raw], MaxResults: int) -> Raw:
        """All subnets of the zone; the filters of discovery match every one here."""
        assert {f["Name"] for f in Filters} == {"vpc-id", "availability-zone"}
        assert MaxResults
        return self._call("DescribeSubnets", self._subnets)

    def get_subnet_cidr_reservations(self, *, SubnetId: str) -> Raw:
        assert SubnetId in self._account.subnets
        return self._call("GetSubnetCidrReservations", lambda: {"SubnetIpv4CidrReservations": []})

    def describe_network_interfaces(
        self,
        *,
        Filters: list[Raw],
        MaxResults: int,
    ) -> Raw:
        assert MaxResults
        asked = {f["Name"]: f["Values"][0] for f in Filters}
        return self._call(
            "DescribeNetworkInterfaces",
            lambda: {"NetworkInterfaces": [self._raw(e) for e in self._matching(asked)]},
        )

    def create_network_interface(
        self,
        *,
        ClientToken: str,
        SubnetId: str,
        Groups: list[str],
        Description: str,
        TagSpecifications: list[Raw],
        SecondaryPrivateIpAddressCount: int = 0,
        Ipv4PrefixCount: int = 0,
    ) -> Raw:
        assert Groups
        assert Description
        assert TagSpecifications
        made = self._call(
            "CreateNetworkInterface",
            lambda: self._account.create(
                self._account.subnets[SubnetId],
                owner=self._instance.instance_id,
                addresses=SecondaryPrivateIpAddressCount,
                prefixes=Ipv4PrefixCount,
                token=ClientToken,
            ),
        )
        return {"NetworkInterface": self._raw(made)}

    def attach_network_interface(
        self,
        *,
        NetworkInterfaceId: str,
        InstanceId: str,
        DeviceIndex: int,
        NetworkCardIndex: int,
    ) -> Raw:
        assert NetworkCardIndex == 0
        self._call(
            "AttachNetworkInterface",
            lambda: self._account.attach(NetworkInterfaceId, InstanceId, DeviceIndex),
        )
        return {"AttachmentId": _attachment(NetworkInterfaceId)}

    def modify_network_interface_attribute(
        self,
        *,
        NetworkInterfaceId: str,
        Attachment: Raw,
    ) -> Raw:
        assert Attachment["AttachmentId"] == _attachment(NetworkInterfaceId)
        return self._call("ModifyNetworkInterfaceAttribute", dict)

    def detach_network_interface(self, *, AttachmentId: str) -> Raw:
        eni_id = AttachmentId.replace("eni-attach-", "eni-", 1)
        self._call("DetachNetworkInterface", lambda: self._account.detach(eni_id))
        return {"Return": True}

    def delete_network_interface(self, *, NetworkInterfaceId: str) -> Raw:
        self._call("DeleteNetworkInterface", lambda: self._account.delete(NetworkInterfaceId))
        return {}

    def assign_private_ip_addresses(
        self,
        *,
        NetworkInterfaceId: str,
        SecondaryPrivateIpAddressCount: int = 0,
        Ipv4PrefixCount: int = 0,
    ) -> Raw:
        singles, blocks = self._call(
            "AssignPrivateIpAddresses",
            lambda: self._account.assign(
                NetworkInterfaceId,
                addresses=SecondaryPrivateIpAddressCount,
                prefixes=Ipv4PrefixCount,
            ),
        )
        return {
            "AssignedPrivateIpAddresses": [{"PrivateIpAddress": str(a)} for a in singles],
            "AssignedIpv4Prefixes": [{"Ipv4Prefix": str(p)} for p in blocks],
        }

    def unassign_private_ip_addresses(
        self,
        *,
        NetworkInterfaceId: str,
        PrivateIpAddresses: list[str] | None = None,
        Ipv4Prefixes: list[str] | None = None,
    ) -> Raw:
        self._call(
            "UnassignPrivateIpAddresses",
            lambda: self._account.unassign(
                NetworkInterfaceId,
                addresses=[IPv4Address(a) for a in PrivateIpAddresses or ()],
                prefixes=[IPv4Network(p) for p in Ipv4Prefixes or ()],
            ),
        )
        return {}

    def _matching(self, asked: dict[str, str]) -> list[Interface]:
        match asked:
            case {"network-interface-id": eni_id}:
                found = self._account.describe(eni_id)
                return [found] if found else []
            case {"attachment.instance-id": instance_id}:
                return self._account.hanging_on(instance_id)
            case {"status": "available"} if f"tag:{TAG_INSTANCE}" in asked:
                owner = asked[f"tag:{TAG_INSTANCE}"]
                loose = self._account.loose(older_seconds=0.0, owner=owner)
                return [self._account.interfaces[e] for e in loose]
        raise AssertionError(f"DescribeNetworkInterfaces with {asked} is not known here")

    def _subnets(self) -> Raw:
        return {
            "Subnets": [
                {
                    "SubnetId": s.subnet_id,
                    "CidrBlock": str(s.pool.cidr),
                    "AvailableIpAddressCount": s.pool.free_count,
                }
                for s in self._account.subnets.values()
            ]
        }

    def _raw(self, eni: Interface) -> Raw:
        status = self._account.status(eni)
        primary = str(eni.primary_address)
        addresses = [{"PrivateIpAddress": primary, "Primary": True}]
        addresses += [{"PrivateIpAddress": str(a), "Primary": False} for a in eni.addresses]
        raw: Raw = {
            "NetworkInterfaceId": eni.eni_id,
            "MacAddress": mac_of(eni),
            "SubnetId": eni.subnet.subnet_id,
            "InterfaceType": "interface",
            "PrivateIpAddress": primary,
            "PrivateIpAddresses": addresses,
            "Ipv4Prefixes": [{"Ipv4Prefix": str(p)} for p in eni.prefixes],
            "TagSet": [{"Key": TAG_INSTANCE, "Value": eni.owner}] if eni.owner else [],
        }
        if status is not Status.AVAILABLE:
            raw["Attachment"] = {
                "AttachmentId": _attachment(eni.eni_id),
                "InstanceId": eni.instance_id,
                "DeviceIndex": eni.device_index,
                "NetworkCardIndex": 0,
                "Status": status.value,
            }
        return raw

    def _call(self, action: str, effect: Callable[[], T]) -> T:
        caller = self._instance.instance_id
        try:
            return puppet.wait(lambda: self._account.request(caller, action, effect))
        except Ec2Error as e:
            answer = {
                "Error": {"Code": e.code, "Message": str(e)},
                "ResponseMetadata": {"HTTPStatusCode": 503 if e.code == THROTTLE else 400},
            }
            raise botocore.exceptions.ClientError(answer, action) from e


class Metadata:
    """What the node's metadata service says; it never lags."""

    def __init__(self, account: Account, instance: Instance) -> None:
        self._account = account
        self._instance = instance

    def close(self) -> None:
        """Nothing is open."""

    def need(self, path: str, pattern: str) -> str:
        """See providers.aws.imds.Imds."""
        del pattern
        instance, primary = self._instance, self._instance.interfaces[0]
        tree = f"meta-data/network/interfaces/macs/{mac_of(primary)}"
        values = {
            "meta-data/mac": mac_of(primary),
            "meta-data/instance-id": instance.instance_id,
            "meta-data/instance-type": instance.node_type.name,
            "meta-data/placement/region": REGION,
            "meta-data/placement/availability-zone": ZONE,
            f"{tree}/vpc-id": VPC,
            f"{tree}/interface-id": primary.eni_id,
            f"{tree}/subnet-id": instance.subnet.subnet_id,
            f"{tree}/security-group-ids": "sg-0",
        }
        if path not in values:
            raise Transient(f"the metadata service has nothing at {path}", operation="imds")
        return values[path]

    def get(self, path: str) -> str | None:
        """See providers.aws.imds.Imds: the tree of this machine's interfaces."""
        there = {mac_of(e): e for e in self._shown()}
        mac, _, key = path.removeprefix("meta-data/network/interfaces/macs/").partition("/")
        if not mac:
            return "\n".join(f"{m}/" for m in there)
        eni = there.get(mac)
        if eni is None:
            return None
        values = {
            "interface-id": eni.eni_id,
            "local-ipv4s": "\n".join(map(str, (eni.primary_address, *eni.addresses))),
            "ipv4-prefix": "\n".join(map(str, eni.prefixes)),
        }
        return values.get(key) or None

    def networks(self, path: str) -> tuple[IPNetwork, ...]:
        """See providers.aws.imds.Imds."""
        return (IPv4Network("10.0.0.0/8"),) if path.endswith("vpc-ipv4-cidr-blocks") else ()

    def shows_interface(self, mac: str) -> bool:
        """See providers.aws.imds.Imds. From the end of attaching to the end of detaching."""
        return mac in map(mac_of, self._shown())

    def _shown(self) -> list[Interface]:
        hanging = self._account.hanging_on(self._instance.instance_id)
        return [e for e in hanging if self._account.status(e) is not Status.ATTACHING]


def mac_of(eni: Interface) -> str:
    """A MAC made from the ENI's number."""
    number = int(eni.eni_id.removeprefix("eni-"), 16)
    return ":".join(f"{b:02x}" for b in (0x02, *number.to_bytes(5, "big")))


def _attachment(eni_id: str) -> str:
    return eni_id.replace("eni-", "eni-attach-", 1)
