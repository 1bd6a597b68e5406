"""Writing against the emulated ARM, under either answer to what nobody without a subscription could
find out."""

from __future__ import annotations

import math
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import pytest

from ipamd.errors import Busy, CloudError, NoPrefixFree, SubnetExhausted, Throttled, Transient
from providers.sim.arm_behaviour import Busy as BusyAnswer
from providers.sim.arm_compute_records import Instance
from providers.sim.arm_compute_state import FullAt, SecondWrite, Style
from providers.sim.arm_faults import Applies, ArmFaultKind
from tests.sim.azure.lab import AzureLab
from tests.unit.azure.emulated import Emulated

Setting = Callable[[AzureLab], None]


def vm(**behaviour: Any) -> tuple[str, Setting]:
    return "vm", lambda lab: lab.set(**behaviour)


def uniform(**behaviour: Any) -> tuple[str, Setting]:
    network = {"shows_suffix_to_old"} & behaviour.keys()

    def settings(lab: AzureLab) -> None:
        lab.set(**{name: behaviour[name] for name in network})
        lab.compute(**{k: v for k, v in behaviour.items() if k not in network})

    return "instance", settings


VARIANTS = {
    "nic, at once": vm(),
    "nic, 5 s": vm(write_seconds=5.0),
    "nic, 409": vm(write_seconds=5.0, busy=BusyAnswer.CONFLICT),
    "nic, 412": vm(write_seconds=5.0, busy=BusyAnswer.PRECONDITION),
    "nic, forgets addresses": vm(write_seconds=5.0, keeps_unsent_addresses=False),
    "nic, same etag at end": vm(write_seconds=5.0, has_new_etag_at_end=False),
    "instance, at once": uniform(),
    "instance, 60 s": uniform(write_seconds=60.0),
    "instance, 202": uniform(write_seconds=60.0, put_status=202, style=Style.LOCATION),
    "instance, both styles": uniform(write_seconds=60.0, put_status=202, style=Style.BOTH),
    "instance, full at PUT": uniform(write_seconds=60.0, full_at=FullAt.PUT),
    "instance, conflicts": uniform(write_seconds=60.0, second_write=SecondWrite.CONFLICTS),
    "instance, views of 2018": uniform(write_seconds=60.0, newest_nic_version="2018-10-01"),
    "instance, views of 2018 with /28": uniform(
        write_seconds=60.0, newest_nic_version="2018-10-01", shows_suffix_to_old=True
    ),
    "instance, no etags": uniform(write_seconds=60.0, etags_since="2099-01-01"),
    "instance, gallery image": uniform(write_seconds=60.0, refuses_gallery_images=True),
}
SLOW = {name: VARIANTS[name] for name in ("nic, 5 s", "instance, 60 s", "instance, full at PUT")}


def made(tmp_path: Path, kind: str, settings: Setting, **machine: Any) -> Emulated:
    lab = AzureLab()
    settings(lab)
    node = lab.vm(**machine) if kind == "vm" else lab.instance(**machine)
    return Emulated(lab, node, tmp_path / "writes.json")


@pytest.fixture(params=list(VARIANTS.values()), ids=list(VARIANTS))
def node(request: pytest.FixtureRequest, tmp_path: Path) -> Emulated:
    return made(tmp_path, *request.param)


@pytest.fixture(params=list(SLOW.values()), ids=list(SLOW))
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Emulated:
    return made(tmp_path, *request.param)


def address(text: str) -> IPv4Address:
    return IPv4Address(text)


def test_what_is_asked_for_is_had_shown_and_given_back(node: Emulated) -> None:
    before = node.lab.addresses(node.machine_id)
    singles, blocks = node.apply(add=3), node.apply(add_prefixes=2, token="t2")
    assert len(singles) == 3
    assert len(blocks) == 2
    assert node.shown() == {*singles, *blocks} == set(node.held().values())

    kept = node.apply(add=1, remove=(address(singles[0]),), token="t3")
    node.apply(
        remove=tuple(map(address, singles[1:])),
        remove_prefixes=tuple(map(IPv4Network, blocks)),
        token="t4",
    )

    assert node.shown() == set(kept)
    assert before.items() <= node.lab.addresses(node.machine_id).items()
    assert node.puts() == 4


def test_a_repeat_adds_nothing_twice(node: Emulated) -> None:
    assert node.apply(add=2) == node.apply(add=2)
    node.provider = node.new_provider()
    assert len(node.apply(add=2)) == 2
    assert len(node.held()) == 2
    assert node.puts() == 1


def test_a_write_whose_answer_is_lost_is_done_once(node: Emulated) -> None:
    node.spoil(ArmFaultKind.LOST, seconds=0.01)
    assert len(node.apply(add=3)) == 3
    assert len(node.held()) == 3
    assert node.puts() == 1


def test_an_answer_that_breaks_off_is_as_good_as_lost(node: Emulated) -> None:
    node.spoil(ArmFaultKind.MALFORMED)
    assert len(node.apply(add=3)) == 3
    assert len(node.held()) == 3


def test_a_write_that_never_arrives_is_transient_and_leaves_nothing(node: Emulated) -> None:
    node.spoil(ArmFaultKind.RESET)
    with pytest.raises(Transient):
        node.apply(add=3)
    assert node.held() == {}
    assert len(node.apply(add=3)) == 3


@pytest.mark.parametrize(
    ("status", "code", "seconds", "kind"),
    [
        pytest.param(429, "TooManyRequests", 60, Throttled, id="resource provider"),
        pytest.param(429, "SubscriptionRequestsThrottled", 60, Throttled, id="front door"),
        pytest.param(429, "RetryableErrorDueToAnotherOperation", 60, Busy, id="locked"),
        pytest.param(400, "InvalidRequestFormat", 0, CloudError, id="bad"),
    ],
)
def test_a_refusal_leaves_nothing(
    slow: Emulated, status: int, code: str, seconds: int, kind: type[CloudError]
) -> None:
    slow.spoil(ArmFaultKind.ERROR, status=status, code=code, retry_after_seconds=seconds)
    with pytest.raises(kind) as refusal:
        slow.apply(add=2)
    assert type(refusal.value) is kind
    assert refusal.value.retry_after_seconds == seconds
    assert slow.held() == {}


def test_a_stale_etag_is_read_again_and_what_others_did_stays(node: Emulated) -> None:
    node.spoil(ArmFaultKind.ERROR, status=412, code="PreconditionFailed", count=2)
    assert len(node.apply(add=2)) == 2
    assert node.puts() == 3


@pytest.mark.parametrize("kind", ["vm", "instance"])
def test_a_full_subnet_is_known_as_such(tmp_path: Path, kind: str) -> None:
    lab = AzureLab()
    lab.compute(write_seconds=60.0)
    machine = getattr(lab, kind)(subnet_id=lab.small_subnet_id)
    small = Emulated(lab, machine, tmp_path / "writes.json")
    with pytest.raises(SubnetExhausted) as refusal:
        small.apply(add=11)  # 11 usable, of which the NIC itself has one
    assert refusal.value.subnet_id == lab.small_subnet_id.lower()
    with pytest.raises(NoPrefixFree):
        small.apply(add_prefixes=1, token="t2")
    assert len(small.apply(add=10, token="t3")) == 10
    assert small.shown() == set(small.held().values())


@pytest.mark.parametrize("applies", list(Applies))
def test_of_a_failed_operation_what_is_usable_is_told_and_the_rest_goes(
    slow: Emulated, applies: Applies
) -> None:
    slow.spoil(ArmFaultKind.OPERATION_FAILS, code="AllocationFailed", applies=applies)
    told: list[str] = []
    if applies is Applies.NOTHING:
        with pytest.raises(CloudError, match="AllocationFailed"):
            slow.apply(add=4)
    else:
        told = slow.apply(add=4)
    assert len(told) == {Applies.NOTHING: 0, Applies.PART: 2, Applies.ALL: 4}[applies]
    assert slow.shown() == set(told)
    more = slow.apply(add=1, token="t2")
    assert slow.shown() == {*told, *more} == set(slow.held().values())


def test_an_operation_without_end_is_waited_for_by_the_next_process(slow: Emulated) -> None:
    slow.spoil(ArmFaultKind.OPERATION_LASTS, seconds=700.0)
    with pytest.raises(Transient) as doubt:
        slow.apply(add=2)
    assert doubt.value.code == "UnderWay"
    slow.provider = slow.new_provider()
    assert len(slow.apply(add=1, token="t2")) == 1
    assert len(slow.held()) == 3


def test_an_operation_for_ever_ends_in_time(slow: Emulated) -> None:
    slow.spoil(ArmFaultKind.OPERATION_LASTS, seconds=math.inf)
    before = slow.lab.clock()
    for token in ("t1", "t2"):
        with pytest.raises(Transient):
            slow.apply(add=2, token=token)
    assert slow.lab.clock() - before < 2 * 500


def test_what_others_remove_is_gone_already(slow: Emulated) -> None:
    first, second = slow.apply(add=2)
    names = {what: name for name, what in slow.held().items()}
    slow.lab.world.remove_config(slow.lab.nics(slow.machine_id)[0].nic_id, names[first])
    slow.lab.advance(100)
    slow.apply(remove=(address(first), address(second)), token="t2")
    assert slow.held() == {}


def test_an_instance_that_is_reimaged_starts_over(tmp_path: Path) -> None:
    node = made(tmp_path, *uniform(write_seconds=60.0))
    gone = node.apply(add=2)
    node.lab.world.reimage(node.machine_id)
    node.lab.advance(600)
    assert node.shown() == set()
    node.apply(remove=tuple(map(address, gone)), token="t2")
    assert len(node.apply(add=3, token="t3")) == 3


@pytest.mark.parametrize("kind", ["vm", "instance"])
def test_what_others_set_on_a_nic_stays_and_new_addresses_join_its_groups(
    tmp_path: Path, kind: str
) -> None:
    node = made(tmp_path, kind, lambda lab: None)
    group = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network"
    nsg = f"{group}/networkSecurityGroups/tight"
    asg = f"{group}/applicationSecurityGroups/nodes"
    nic_id = node.lab.nics(node.machine_id)[0].nic_id
    if kind == "vm":
        node.lab.world.outsiders.set_nsg(nic_id, nsg)
        node.lab.world.outsiders.add_asg(nic_id, asg)
    else:
        assert isinstance(node.machine, Instance)
        model = node.lab.model(node.machine)
        profile = model["properties"]["networkProfileConfiguration"]
        inner = profile["networkInterfaceConfigurations"][0]["properties"]
        inner["networkSecurityGroup"] = {"id": nsg}
        inner["ipConfigurations"][0]["properties"]["applicationSecurityGroups"] = [{"id": asg}]
        node.lab.call("PUT", node.machine_id, model)

    node.apply(add=1)

    where = nic_id if kind == "vm" else node.machine_id
    body = node.lab.get(where).body["properties"]
    if kind == "instance":
        listed = body["networkProfileConfiguration"]["networkInterfaceConfigurations"]
        body = listed[0]["properties"]
    assert body["networkSecurityGroup"] == {"id": nsg}
    groups = [c["properties"]["applicationSecurityGroups"] for c in body["ipConfigurations"]]
    assert groups == [[{"id": asg}], [{"id": asg}]]


DISK = {"lun": 0, "name": "claim-1", "createOption": "Attach", "managedDisk": {"id": "/disks/1"}}


@pytest.mark.parametrize("etags_since", ["2024-07-01", "2099-01-01"], ids=["etags", "no etags"])
def test_a_disk_that_is_attached_between_our_read_and_our_write_stays(
    tmp_path: Path, etags_since: str
) -> None:
    node = made(tmp_path, *uniform(etags_since=etags_since))

    def have_disks(*disks: dict[str, Any]) -> None:  # as the CSI driver for disks writes them
        storage = {"osDisk": {"name": "os"}, "dataDisks": list(disks)}
        node.lab.call("PUT", node.machine_id, {"properties": {"storageProfile": storage}})

    have_disks()
    before = node.lab.model(node.machine)  # type: ignore[arg-type]
    node.wire.before_put.append(lambda: have_disks(DISK))

    assert len(node.apply(add=2)) == 2

    after = node.lab.model(node.machine)  # type: ignore[arg-type]
    assert after["properties"]["storageProfile"]["dataDisks"] == [DISK]
    assert after["properties"]["osProfile"] == before["properties"]["osProfile"]
    assert after["tags"] == before["tags"]


def test_growing_at_full_pace_keeps_within_the_bucket_of_an_instance(tmp_path: Path) -> None:
    node = made(tmp_path, *uniform(write_seconds=2.0))
    for number in range(20):
        assert len(node.apply(add=1, token=f"t{number}")) == 1
    assert len(node.held()) == 20
    assert not node.lab.world.arm.refused
