"""Values for tests, each with the least that the test must say."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from types import MappingProxyType

from ipamd.cloud import NodeIdentity, NodeLimits
from ipamd.model import (
    Address,
    AddressState,
    Allocation,
    AttachmentKey,
    AttemptId,
    ContainerId,
    Eni,
    EniId,
    InstanceId,
    SubnetId,
)
from ipamd.node import NodeFacts
from ipamd.pool.attachments import Request
from ipamd.pool.ledger import Ledger
from ipamd.settings import Settings, load

PRIMARY = EniId("eni-0a")
SECONDARY = EniId("eni-0b")
SUBNET = SubnetId("subnet-01")
CIDR = IPv4Network("10.0.0.0/24")


def key(name: str = "c1", ifname: str = "eth0") -> AttachmentKey:
    return AttachmentKey(container_id=ContainerId(name), ifname=ifname)


def eni(
    eni_id: str = PRIMARY, *, index: int = 0, is_ready: bool = True, attached: float = 0.0
) -> Eni:
    return Eni(
        eni_id=EniId(eni_id),
        mac=f"02:00:00:00:00:{index:02x}",
        subnet_id=SUBNET,
        subnet_cidr=CIDR,
        primary_address=IPv4Address(f"10.0.0.{200 + index}"),
        device_index=index,
        network_card=0,
        is_primary=index == 0,
        is_managed=True,
        is_ready=is_ready,
        attached_boottime=attached,
    )


def address(
    text: str,
    state: AddressState = AddressState.AVAILABLE,
    *,
    eni_id: str = PRIMARY,
    since: float = 0.0,
    reason: str = "",
    prefix: str = "",
) -> Address:
    return Address(
        address=ip_address(text),
        eni_id=EniId(eni_id),
        state=state,
        since_boottime=since,
        reason=reason,
        prefix=ip_network(prefix) if prefix else None,
    )


def allocation(
    text: str,
    name: str = "c1",
    *,
    generation: int = 1,
    attempt: str = "a" * 16,
    cookie: int = 7,
    eni_id: str = PRIMARY,
) -> Allocation:
    return Allocation(
        key=key(name),
        addresses=tuple(ip_address(t) for t in text.split()),
        eni_id=EniId(eni_id),
        network_name="net",
        attempt_id=AttemptId(attempt),
        generation=generation,
        netns_cookie=cookie,
        pod_namespace="default",
        pod_name=name,
        pod_uid="",
        allocated_unix=0.0,
    )


def ledger(
    *addresses: Address,
    allocations: tuple[Allocation, ...] = (),
    enis: tuple[Eni, ...] = (),
    has_heard_node: bool = True,
) -> Ledger:
    enis = enis or (eni(),)
    return Ledger(
        epoch="epoch-1",
        has_heard_node=has_heard_node,
        next_generation=100,
        addresses=MappingProxyType({a.address: a for a in addresses}),
        allocations=MappingProxyType({a.key: a for a in allocations}),
        enis=MappingProxyType({e.eni_id: e for e in enis}),
    )


def request(
    name: str = "c1", *, cookie: int = 7, attempt: str = "b" * 16, began: float = 1000.0
) -> Request:
    return Request(
        key=key(name),
        network_name="net",
        attempt_id=AttemptId(attempt),
        netns_cookie=cookie,
        pod_namespace="default",
        pod_name=name,
        pod_uid="",
        began_boottime=began,
    )


def settings(**environ: str) -> Settings:
    return load(environ).settings


def identity(instance_id: str = "i-01") -> NodeIdentity:
    return NodeIdentity(
        instance_id=InstanceId(instance_id),
        instance_type="m5.large",
        region="us-west-2",
        zone="us-west-2a",
        vpc_id="vpc-01",
        primary_eni_id=PRIMARY,
        primary_mac="02:00:00:00:00:00",
        primary_subnet_id=SUBNET,
        security_group_ids=("sg-01",),
    )


def facts(max_enis: int = 3, addresses_per_eni: int = 10) -> NodeFacts:
    return NodeFacts(
        identity=identity(),
        limits=NodeLimits(max_enis=max_enis, addresses_per_eni=addresses_per_eni),
        vpc_cidrs=(IPv4Network("10.0.0.0/16"),),
    )
