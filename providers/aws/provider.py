"""EC2 behind `ipamd.cloud.CloudProvider`.

botocore's own retries are off: AssignPrivateIpAddresses is not idempotent, and a retry after a lost
answer assigns twice; the reconciler paces and repeats. Tags, descriptions and filters are those of
aws-node, so that either agent finds the other's ENIs.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import boto3
import botocore.config
import botocore.exceptions

from ipamd.cloud import (
    AddressChange,
    AddressOutcome,
    Capabilities,
    CloudEni,
    CloudSnapshot,
    EniStatus,
    InterfaceRequest,
    NodeIdentity,
    NodeLimits,
    SubnetFree,
)
from ipamd.errors import CloudError, NotFound, Throttled, Transient
from ipamd.model import EniId, InstanceId, SubnetId
from providers.aws.errors import classify
from providers.aws.imds import Imds

TAG_INSTANCE = "node.k8s.amazonaws.com/instance_id"
TAG_CREATED = "node.k8s.amazonaws.com/createdAt"
TAG_NO_MANAGE = "node.k8s.amazonaws.com/no_manage"
TAG_CLUSTER = "cluster.k8s.amazonaws.com/name"
TAG_OWNER = "eks:eni:owner"

STATE_SECONDS = 60.0
"""How long to wait for `attached` or `available`; EC2 normally needs 1-10 s."""

POLL_SECONDS = (0.3, 0.5, 1.0, 2.0)
"""Pauses between looks at a state, the last one repeated: quick at first, cheap later."""

UNMANAGED_TYPES = frozenset({"trunk", "efa", "efa-only", "branch"})


class AwsProvider:
    """One node's view of EC2. Thread-safe: boto3 clients are, the caches are write-once."""

    def __init__(self, *, api_timeout_seconds: float, cluster_name: str = "") -> None:
        self._timeout = api_timeout_seconds
        self._cluster_name = cluster_name
        self._imds = Imds()
        self._ec2_client: Any = None
        self._node: NodeIdentity | None = None
        self._subnet_cidrs: dict[str, IPv4Network] = {}

    def close(self) -> None:
        """Close the connections; the child ends without it, tests do not."""
        if self._ec2_client is not None:
            self._ec2_client.close()
        self._imds.close()

    def capabilities(self) -> Capabilities:
        """EC2 creates ENIs at run time and changes addresses one by one."""
        return Capabilities(
            can_create_interfaces=True, has_prefixes=False, replaces_whole_interface=False
        )

    def discover_node(self) -> NodeIdentity:
        """Who we are, from IMDS. Each value is checked: a wrong answer is a Transient error."""
        need = self._imds.need
        mac = need("meta-data/mac", r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
        tree = f"meta-data/network/interfaces/macs/{mac}"
        groups = need(f"{tree}/security-group-ids", r"(sg-[0-9a-f]+\s*)+")
        self._node = NodeIdentity(
            instance_id=InstanceId(need("meta-data/instance-id", r"i-[0-9a-f]+")),
            instance_type=need("meta-data/instance-type", r"[a-z0-9-]+\.[a-z0-9-]+"),
            region=need("meta-data/placement/region", r"[a-z0-9-]+"),
            zone=need("meta-data/placement/availability-zone", r"[a-z0-9-]+"),
            vpc_id=need(f"{tree}/vpc-id", r"vpc-[0-9a-f]+"),
            primary_eni_id=EniId(need(f"{tree}/interface-id", r"eni-[0-9a-f]+")),
            primary_mac=mac,
            primary_subnet_id=SubnetId(need(f"{tree}/subnet-id", r"subnet-[0-9a-f]+")),
            security_group_ids=tuple(groups.split()),
        )
        return self._node

    def limits(self) -> NodeLimits:
        """DescribeInstanceTypes, the default network card."""
        node = self._identity()
        answer = self._call("describe_instance_types", InstanceTypes=[node.instance_type])
        if not answer["InstanceTypes"]:
            raise NotFound(f"EC2 does not know the instance type {node.instance_type}")
        info = answer["InstanceTypes"][0]["NetworkInfo"]
        cards = info.get("NetworkCards") or [
            {"NetworkCardIndex": 0, "MaximumNetworkInterfaces": info["MaximumNetworkInterfaces"]}
        ]
        default = info.get("DefaultNetworkCardIndex", 0)
        card = next(c for c in cards if c["NetworkCardIndex"] == default)
        return NodeLimits(
            max_enis=card["MaximumNetworkInterfaces"],
            addresses_per_eni=info["Ipv4AddressesPerInterface"],
        )

    def snapshot(self) -> CloudSnapshot:
        """DescribeNetworkInterfaces twice (attached to us; ours by tag and attached to nothing)."""
        node = self._identity()
        attached = self._describe(
            [{"Name": "attachment.instance-id", "Values": [node.instance_id]}]
        )
        loose = self._describe(
            [
                {"Name": f"tag:{TAG_INSTANCE}", "Values": [node.instance_id]},
                {"Name": "status", "Values": ["available"]},
            ]
        )
        raw = {e["NetworkInterfaceId"]: e for e in loose + attached}
        cidrs = self._imds.networks(
            f"meta-data/network/interfaces/macs/{node.primary_mac}/vpc-ipv4-cidr-blocks"
        )
        return CloudSnapshot(enis=tuple(self._eni(e) for e in raw.values()), vpc_cidrs=cidrs)

    def apply(self, change: AddressChange) -> AddressOutcome:
        """Unassign first (it makes room), then assign; the answer names the new addresses only."""
        if change.remove:
            self._unassign(change)
        if not change.add:
            return AddressOutcome(eni_id=change.eni_id, added=())
        answer = self._call(
            "assign_private_ip_addresses",
            eni_id=change.eni_id,
            NetworkInterfaceId=change.eni_id,
            SecondaryPrivateIpAddressCount=change.add,
        )
        added = tuple(
            IPv4Address(a["PrivateIpAddress"]) for a in answer["AssignedPrivateIpAddresses"]
        )
        return AddressOutcome(eni_id=change.eni_id, added=added)

    def subnet_free(self, subnet_ids: tuple[SubnetId, ...]) -> tuple[SubnetFree, ...]:
        """DescribeSubnets by id."""
        answer = self._call("describe_subnets", SubnetIds=list(subnet_ids))
        return tuple(
            SubnetFree(
                subnet_id=SubnetId(s["SubnetId"]),
                cidr=IPv4Network(s["CidrBlock"]),
                free_addresses=s["AvailableIpAddressCount"],
            )
            for s in answer["Subnets"]
        )

    def create_interface(self, request: InterfaceRequest) -> CloudEni:
        """Create (idempotent by token), attach, protect, wait; undone when attaching fails."""
        eni_id = self._create(request)
        try:
            attachment_id = self._attach(eni_id, request)
            self._call(
                "modify_network_interface_attribute",
                eni_id=eni_id,
                NetworkInterfaceId=eni_id,
                Attachment={"AttachmentId": attachment_id, "DeleteOnTermination": True},
            )
            return self._wait(
                eni_id, "attached", lambda e: e is not None and e.status is EniStatus.ATTACHED
            )
        except (Transient, Throttled) as e:
            # The ENI exists: the same token finds it again, and deleting it could race an attach.
            raise Transient(str(e), operation=e.operation, code=e.code, eni_id=eni_id) from e
        except CloudError:
            with contextlib.suppress(
                CloudError
            ):  # what stays is found by its tag and deleted later
                self.delete_interface(eni_id)
            raise

    def delete_interface(self, eni_id: EniId) -> None:
        """Detach if attached, wait for `available`, delete. Gone already is success."""
        try:
            raw = self._describe_one(eni_id)
            attachment = (raw or {}).get("Attachment")
            if attachment and attachment["Status"] != "detaching":
                self._call(
                    "detach_network_interface",
                    eni_id=eni_id,
                    AttachmentId=attachment["AttachmentId"],
                )
            if attachment:
                self._wait(
                    eni_id, "available", lambda e: e is None or e.status is EniStatus.AVAILABLE
                )
            self._call("delete_network_interface", eni_id=eni_id, NetworkInterfaceId=eni_id)
        except NotFound:
            return

    def _create(self, request: InterfaceRequest) -> EniId:
        answer = self._call(
            "create_network_interface",
            subnet_id=request.subnet_id,
            ClientToken=request.token,
            SubnetId=request.subnet_id,
            Groups=list(request.security_group_ids),
            SecondaryPrivateIpAddressCount=request.secondary_addresses,
            Description=f"aws-K8S-{self._identity().instance_id}",
            TagSpecifications=[{"ResourceType": "network-interface", "Tags": self._tags(request)}],
        )
        return EniId(answer["NetworkInterface"]["NetworkInterfaceId"])

    def _tags(self, request: InterfaceRequest) -> list[dict[str, str]]:
        # A repeated create must send equal parameters or EC2 answers IdempotentParameterMismatch:
        # the creation time is that of the token, not of the try.
        made = dt.datetime.fromtimestamp(token_unix(request.token), dt.UTC)
        tags = {
            TAG_INSTANCE: self._identity().instance_id,
            TAG_CREATED: made.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }
        if self._cluster_name:
            tags |= {TAG_CLUSTER: self._cluster_name, TAG_OWNER: "amazon-vpc-cni"}
        return [{"Key": key, "Value": value} for key, value in tags.items()]

    def _attach(self, eni_id: EniId, request: InterfaceRequest) -> str:
        raw = self._describe_one(eni_id)
        attachment = (raw or {}).get("Attachment")
        if attachment and attachment.get("InstanceId") == self._identity().instance_id:
            return str(attachment["AttachmentId"])  # an earlier try with this token got so far
        answer = self._call(
            "attach_network_interface",
            eni_id=eni_id,
            NetworkInterfaceId=eni_id,
            InstanceId=self._identity().instance_id,
            DeviceIndex=request.device_index,
            # Always explicit: without it EC2 has miscounted cards (cilium PR 42512).
            NetworkCardIndex=request.network_card,
        )
        return str(answer["AttachmentId"])

    def _unassign(self, change: AddressChange) -> None:
        try:
            self._call(
                "unassign_private_ip_addresses",
                eni_id=change.eni_id,
                NetworkInterfaceId=change.eni_id,
                PrivateIpAddresses=[str(a) for a in change.remove],
            )
        except NotFound:
            return
        except CloudError as e:
            # EC2 refuses the whole call when one address is not on the ENI (any more).
            if e.code != "InvalidParameterValue":
                raise
            raw = self._describe_one(change.eni_id) or {"PrivateIpAddresses": []}
            held = {a["PrivateIpAddress"] for a in raw["PrivateIpAddresses"]}
            left = tuple(a for a in change.remove if str(a) in held)
            if left == change.remove:
                raise
            if left:
                self._unassign(AddressChange(eni_id=change.eni_id, remove=left))

    def _wait(
        self, eni_id: EniId, wanted: str, is_there: Callable[[CloudEni | None], bool]
    ) -> CloudEni:
        """Look until the state is there; Transient when it is not after STATE_SECONDS."""
        deadline = time.monotonic() + STATE_SECONDS
        pauses = list(POLL_SECONDS)
        while True:
            raw = self._describe_one(eni_id)
            eni = self._eni(raw) if raw else None
            if is_there(eni):
                if eni is None:
                    raise NotFound(f"{eni_id} is gone", eni_id=eni_id)
                return eni
            if time.monotonic() > deadline:
                raise Transient(
                    f"{eni_id} is not {wanted} after {STATE_SECONDS:.0f} s", eni_id=eni_id
                )
            time.sleep(pauses.pop(0) if len(pauses) > 1 else pauses[0])

    def _identity(self) -> NodeIdentity:
        return self._node or self.discover_node()

    def _describe(self, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token: dict[str, str] = {}
        while True:
            answer = self._call(
                "describe_network_interfaces", Filters=filters, MaxResults=1000, **token
            )
            found += answer["NetworkInterfaces"]
            if not answer.get("NextToken"):
                return found
            token = {"NextToken": answer["NextToken"]}

    def _describe_one(self, eni_id: EniId) -> dict[str, Any] | None:
        """By filter and not by id: an id that is not visible yet is then an empty answer."""
        found = self._describe([{"Name": "network-interface-id", "Values": [eni_id]}])
        return found[0] if found else None

    def _eni(self, raw: dict[str, Any]) -> CloudEni:
        attachment = raw.get("Attachment") or {}
        tags = {t["Key"]: t["Value"] for t in raw.get("TagSet", [])}
        is_primary = attachment.get("DeviceIndex") == 0
        return CloudEni(
            eni_id=EniId(raw["NetworkInterfaceId"]),
            mac=raw["MacAddress"].lower(),
            status=EniStatus(attachment.get("Status", "available")),
            subnet_id=SubnetId(raw["SubnetId"]),
            subnet_cidr=self._subnet_cidr(raw["SubnetId"]),
            primary_address=IPv4Address(raw["PrivateIpAddress"]),
            addresses=tuple(
                IPv4Address(a["PrivateIpAddress"])
                for a in raw["PrivateIpAddresses"]
                if not a["Primary"]
            ),
            device_index=attachment.get("DeviceIndex", -1),
            network_card=attachment.get("NetworkCardIndex", 0),
            is_primary=is_primary,
            is_managed=is_managed(
                tags,
                interface_type=raw.get("InterfaceType", "interface"),
                is_primary=is_primary,
                instance_id=self._identity().instance_id,
            ),
        )

    def _subnet_cidr(self, subnet_id: str) -> IPv4Network:
        """A subnet's CIDR never changes, so one look per subnet is enough."""
        if subnet_id not in self._subnet_cidrs:
            for free in self.subnet_free((SubnetId(subnet_id),)):
                self._subnet_cidrs[free.subnet_id] = free.cidr
        if subnet_id not in self._subnet_cidrs:
            raise NotFound(f"EC2 does not know subnet {subnet_id}", subnet_id=subnet_id)
        return self._subnet_cidrs[subnet_id]

    def _call(
        self, operation: str, *, eni_id: str = "", subnet_id: str = "", **parameters: Any
    ) -> dict[str, Any]:
        """One EC2 call. Every failure becomes a CloudError of the class its code asks for."""
        try:
            answer: dict[str, Any] = getattr(self._client(), operation)(**parameters)
        except botocore.exceptions.ClientError as e:
            raise _client_error(e, operation, eni_id=eni_id, subnet_id=subnet_id) from e
        except botocore.exceptions.NoCredentialsError as e:
            raise Transient(
                f"{operation}: no credentials; does the node have an instance profile?",
                operation=operation,
                code="NoCredentials",
            ) from e
        except botocore.exceptions.BotoCoreError as e:
            raise Transient(f"{operation}: {e}", operation=operation) from e
        return answer

    def _client(self) -> Any:
        if self._ec2_client is None:
            self._ec2_client = boto3.client(
                "ec2",
                region_name=self._identity().region,
                config=botocore.config.Config(
                    connect_timeout=3.0,
                    read_timeout=self._timeout,
                    retries={"total_max_attempts": 1, "mode": "standard"},
                    max_pool_connections=8,
                    user_agent_extra="vpc-ipamd",
                ),
            )
        return self._ec2_client


def is_managed(
    tags: dict[str, str], *, interface_type: str, is_primary: bool, instance_id: str
) -> bool:
    """Whether an ENI is ours to use (aws-node's rules: no_manage, then the instance tag).

    The primary always is. Trunk and EFA interfaces never are; they only count against the limit.
    """
    if is_primary:
        return True
    if interface_type in UNMANAGED_TYPES:
        return False
    no_manage = tags.get(TAG_NO_MANAGE)
    if no_manage is not None:
        return no_manage != "true"
    return tags.get(TAG_INSTANCE, instance_id) == instance_id


def token_unix(token: str) -> float:
    """The wall time inside a token "<unix seconds in hex>-<random>"; 0 for any other form."""
    try:
        return float(int(token.split("-", 1)[0], 16))
    except ValueError:
        return 0.0


def _client_error(
    error: botocore.exceptions.ClientError, operation: str, *, eni_id: str, subnet_id: str
) -> CloudError:
    code = str(error.response.get("Error", {}).get("Code", ""))
    message = str(error.response.get("Error", {}).get("Message", ""))
    meta = error.response.get("ResponseMetadata", {})
    kind = classify(code, message, int(meta.get("HTTPStatusCode", 0)))
    return kind(
        f"{operation}: {code}: {message}",
        operation=operation,
        code=code,
        request_id=str(meta.get("RequestId", "")),
        eni_id=eni_id,
        subnet_id=subnet_id,
    )
