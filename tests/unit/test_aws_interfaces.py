"""The sequences that make and remove ENIs, against a small EC2 on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from typing import Any, cast

import pytest

from ipamd.cloud import CloudEni, InterfaceRequest
from ipamd.errors import CloudError, Denied, NotFound, Transient
from ipamd.model import EniId, SubnetId
from providers.aws import shapes
from providers.aws.client import Ec2
from providers.aws.config import AwsConfig
from providers.aws.imds import Imds
from providers.aws.interfaces import STATE_SECONDS, Interfaces
from providers.aws.subnets import Reservations
from tests import builders as b

ENI = EniId("eni-0c")
MAC = "02:00:00:00:00:0c"
REQUEST = InterfaceRequest(
    token="5f000000-x",
    subnet_id=SubnetId("subnet-01"),
    security_group_ids=("sg-01",),
    secondary_addresses=2,
    device_index=1,
    network_card=0,
    reason="test",
)
FACTS = shapes.SubnetFacts(
    subnet_id=SubnetId("subnet-01"),
    cidr=IPv4Network("10.0.0.0/24"),
    cidr_v6=None,
    free_addresses=9,
    tags={},
)


@dataclass
class World:
    """One ENI's life on a clock. Faults: by API, the errors of its next calls."""

    now: float = 0.0
    attach_seconds: float = 2.0
    detach_seconds: float = 2.0
    is_imds_up: bool = True
    imds_lag_seconds: float = 0.0
    owner: str = "i-01"
    attached_at: float | None = None
    detached_at: float | None = None
    is_made: bool = False
    has_attachment: bool = False
    calls: list[str] = field(default_factory=list)
    asked: list[Mapping[str, Any]] = field(default_factory=list)
    faults: dict[str, list[CloudError]] = field(default_factory=dict)
    effects: Mapping[str, Callable[[World], dict[str, Any]]] = field(
        default_factory=lambda: EFFECTS
    )

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def clock(self) -> float:
        return self.now

    # EC2

    def call(self, api: str, parameters: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        self.calls.append(api)
        self.asked.append(parameters)
        if self.faults.get(api):
            raise self.faults[api].pop(0)
        return self.effects[api](self)

    def pages(self, api: str, key: str, filters: Any, **_: Any) -> Iterator[dict[str, Any]]:
        self.calls.append(api)
        yield from [self.shown()] if self.is_made else []

    def _create(self) -> dict[str, Any]:
        self.is_made = True
        return {"NetworkInterface": {"NetworkInterfaceId": ENI, "MacAddress": MAC}}

    def _attach(self) -> dict[str, Any]:
        self.has_attachment, self.attached_at = True, self.now + self.attach_seconds
        return {"AttachmentId": "eni-attach-1"}

    def _protect(self) -> dict[str, Any]:
        return {}

    def _detach(self) -> dict[str, Any]:
        self.attached_at, self.detached_at = None, self.now + self.detach_seconds
        return {}

    def _delete(self) -> dict[str, Any]:
        if self.detached_at is not None and self.now < self.detached_at:
            raise Transient("currently in use", code="InvalidParameterValue")
        self.is_made = False
        return {}

    def shown(self) -> dict[str, Any]:
        attachment = {
            "AttachmentId": "eni-attach-1",
            "InstanceId": self.owner,
            "DeviceIndex": 1,
            "NetworkCardIndex": 0,
            "Status": "attached" if self.is_attached else "attaching",
        }
        return {
            "NetworkInterfaceId": ENI,
            "MacAddress": MAC.upper(),
            "SubnetId": "subnet-01",
            "PrivateIpAddress": "10.0.0.9",
            "PrivateIpAddresses": [{"PrivateIpAddress": "10.0.0.9", "Primary": True}],
            **({"Attachment": attachment} if self.has_attachment else {}),
        }

    @property
    def is_attached(self) -> bool:
        return self.attached_at is not None and self.now >= self.attached_at

    # The metadata service

    def shows_interface(self, mac: str) -> bool:
        assert mac == MAC
        if not self.is_imds_up:
            raise Transient("the metadata service does not answer")
        return self.attached_at is not None and self.now >= self.attached_at + self.imds_lag_seconds

    # Reservations

    def of(self, subnet_id: SubnetId) -> tuple[IPv4Network, tuple[IPv4Network, ...]]:
        return IPv4Network("10.0.0.0/24"), ()

    def interfaces(self) -> Interfaces:
        def eni(raw: dict[str, Any]) -> CloudEni:
            return shapes.eni(raw, FACTS, instance_id="i-01", manages_untagged=True)

        return Interfaces(
            cast("Ec2", self),
            cast("Imds", self),
            cast("Reservations", self),
            AwsConfig(),
            identity=b.identity,
            shown=eni,
            sleep=self.sleep,
            monotonic=self.clock,
        )


EFFECTS: Mapping[str, Callable[[World], dict[str, Any]]] = {
    "CreateNetworkInterface": World._create,
    "AttachNetworkInterface": World._attach,
    "ModifyNetworkInterfaceAttribute": World._protect,
    "DetachNetworkInterface": World._detach,
    "DeleteNetworkInterface": World._delete,
}


def test_ec2_is_asked_once_when_the_metadata_service_shows_the_eni() -> None:
    world = World(attach_seconds=7.0)
    made = world.interfaces().create(REQUEST)
    assert made.eni_id == ENI
    assert world.calls.count("DescribeNetworkInterfaces") == 1
    assert 7.0 <= world.now < 7.5


@pytest.mark.parametrize(
    ("silent", "looks"),
    [
        pytest.param({"is_imds_up": False}, 5, id="down"),
        pytest.param({"imds_lag_seconds": 300.0}, 1, id="lagging"),
    ],
)
def test_without_the_metadata_service_ec2_is_asked_now_and_then(
    silent: dict[str, Any], looks: int
) -> None:
    world = World(attach_seconds=7.0, **silent)
    world.interfaces().create(REQUEST)
    assert world.calls.count("DescribeNetworkInterfaces") == looks
    assert 7.0 <= world.now < 9.0


def test_ec2_that_lags_behind_the_metadata_service_is_asked_again() -> None:
    world = World(attach_seconds=3.0, imds_lag_seconds=-2.0)
    world.interfaces().create(REQUEST)
    assert world.calls.count("DescribeNetworkInterfaces") == 4
    assert world.now < 5.0


def test_an_attach_that_never_ends_is_transient_and_leaves_the_eni() -> None:
    world = World(attach_seconds=1e6)
    with pytest.raises(Transient, match="eni-0c is not attached after 60 s") as caught:
        world.interfaces().create(REQUEST)
    assert caught.value.eni_id == ENI
    assert world.is_made
    assert world.now == pytest.approx(STATE_SECONDS, abs=1.0)
    assert world.calls.count("DescribeNetworkInterfaces") == 4


def test_an_eni_that_ec2_does_not_know_yet_is_attached_a_little_later() -> None:
    world = World(faults={"AttachNetworkInterface": [NotFound("not yet")] * 2})
    assert world.interfaces().create(REQUEST).eni_id == ENI


def test_an_eni_that_stays_unknown_is_given_up() -> None:
    world = World(faults={"AttachNetworkInterface": [NotFound("gone")] * 99})
    with pytest.raises(NotFound):
        world.interfaces().create(REQUEST)
    assert world.now < 20.0


def test_a_repeat_finds_its_attachment_only_when_attaching_is_refused() -> None:
    world = World(
        is_made=True,
        has_attachment=True,
        attached_at=0.0,
        faults={"AttachNetworkInterface": [CloudError("in use", code="InvalidParameterValue")]},
    )
    assert world.interfaces().create(REQUEST).eni_id == ENI
    assert world.is_made


def test_a_refused_attach_deletes_the_eni_and_keeps_the_error() -> None:
    world = World(faults={"AttachNetworkInterface": [Denied("no")]})
    with pytest.raises(Denied, match="no"):
        world.interfaces().create(REQUEST)
    assert not world.is_made


def test_a_refused_protection_detaches_and_deletes_the_eni() -> None:
    world = World(faults={"ModifyNetworkInterfaceAttribute": [Denied("no")]})
    with pytest.raises(Denied):
        world.interfaces().create(REQUEST)
    assert not world.is_made
    assert world.calls.count("DetachNetworkInterface") == 1


def test_an_undo_that_fails_keeps_the_first_error() -> None:
    world = World(
        faults={
            "AttachNetworkInterface": [Denied("the first")],
            "DeleteNetworkInterface": [Denied("the second")],
        }
    )
    with pytest.raises(Denied, match="the first"):
        world.interfaces().create(REQUEST)


def test_nothing_is_asked_for_that_is_zero() -> None:
    world = World()
    world.interfaces().create(REQUEST)
    assert world.asked[0]["SecondaryPrivateIpAddressCount"] == 2
    assert {"Ipv4PrefixCount", "Ipv6PrefixCount", "PrivateIpAddress"}.isdisjoint(world.asked[0])


def test_a_new_eni_gets_the_primarys_connection_tracking() -> None:
    world = World()
    interfaces = world.interfaces()
    interfaces.tracking = {"TcpEstablishedTimeout": 350}
    interfaces.create(REQUEST)
    assert world.asked[0]["ConnectionTrackingSpecification"] == {"TcpEstablishedTimeout": 350}


def attached() -> World:
    return World(is_made=True, has_attachment=True, attached_at=0.0)


def test_removing_waits_for_the_end_of_detaching() -> None:
    world = attached()
    world.interfaces().delete(ENI)
    assert not world.is_made
    assert 2.0 <= world.now < 4.0


def test_removing_works_without_the_metadata_service() -> None:
    world = attached()
    world.is_imds_up = False
    world.interfaces().delete(ENI)
    assert not world.is_made


def test_a_detaching_that_never_ends_is_transient() -> None:
    world = attached()
    world.detach_seconds = 1e6
    with pytest.raises(Transient, match="still in use after 60 s"):
        world.interfaces().delete(ENI)


def test_an_eni_of_another_instance_is_left_alone() -> None:
    world = attached()
    world.owner = "i-02"
    with pytest.raises(CloudError, match="attached to i-02 and not to this node"):
        world.interfaces().delete(ENI)
    assert world.calls == ["DescribeNetworkInterfaces"]


def test_what_is_gone_takes_one_look_to_remove() -> None:
    world = World()
    world.interfaces().delete(ENI)
    assert world.calls == ["DescribeNetworkInterfaces"]


def test_an_unattached_eni_is_deleted_at_once() -> None:
    world = World(is_made=True)
    world.interfaces().delete(ENI)
    assert world.calls == ["DescribeNetworkInterfaces", "DeleteNetworkInterface"]
    assert world.now == 0.0


def test_an_eni_that_somebody_detached_meanwhile_is_deleted() -> None:
    world = attached()
    world.faults = {"DetachNetworkInterface": [NotFound("InvalidAttachmentID.NotFound")]}
    world.attached_at = None
    world.interfaces().delete(ENI)
    assert not world.is_made


def test_an_odd_answer_of_a_creation_is_transient_and_names_it() -> None:
    world = World()
    world.effects = {"CreateNetworkInterface": lambda world: {"Nonsense": 1}}
    with pytest.raises(Transient, match=r"CreateNetworkInterface gave an answer .*Nonsense"):
        world.interfaces().create(REQUEST)
