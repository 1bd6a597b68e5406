"""What every CloudProvider must do, whatever the cloud (see ipamd.cloud)."""

from __future__ import annotations

import pytest

from ipamd.cloud import AddressChange, CloudEni, EniStatus
from ipamd.errors import CloudError, LimitReached, NotFound, SubnetExhausted
from ipamd.model import EniId, IPAddress
from tests.contract.conftest import Judged

TOKEN = "5f000000-0123456789abcdef0123"


def primary(cloud: Judged) -> CloudEni:
    return next(e for e in cloud.provider.snapshot().enis if e.is_primary)


def shown(cloud: Judged, eni_id: EniId) -> CloudEni | None:
    return next((e for e in cloud.provider.snapshot().enis if e.eni_id == eni_id), None)


def assign(cloud: Judged, count: int) -> tuple[IPAddress, ...]:
    return cloud.provider.apply(AddressChange(eni_id=primary(cloud).eni_id, add=count)).added


def free(cloud: Judged) -> int:
    subnet = cloud.provider.discover_node().primary_subnet_id
    (seen,) = cloud.provider.subnets((subnet,))
    return seen.free_addresses


def test_the_node_knows_itself(cloud: Judged) -> None:
    node = cloud.provider.discover_node()
    first = primary(cloud)
    assert first.eni_id == node.primary_eni_id
    assert first.mac == node.primary_mac
    assert first.subnet_id == node.primary_subnet_id
    assert first.status is EniStatus.ATTACHED
    assert first.device_index == 0
    assert first.is_managed
    assert first.primary_address in first.subnet_cidr
    assert first.primary_address not in first.addresses


def test_the_limits_are_the_instance_types(cloud: Judged) -> None:
    limits = cloud.provider.limits()
    assert (limits.max_enis, limits.addresses_per_eni, limits.slots_per_eni) == (3, 10, 9)


def test_the_vpc_has_cidrs_that_hold_the_node(cloud: Judged) -> None:
    cidrs = cloud.provider.snapshot().vpc_cidrs
    assert any(primary(cloud).primary_address in cidr for cidr in cidrs)


def test_an_assign_answers_with_the_new_addresses_only(cloud: Judged) -> None:
    first = assign(cloud, 2)
    second = assign(cloud, 3)
    assert len(first) == 2
    assert len(second) == 3
    assert not set(first) & set(second)
    assert set(primary(cloud).addresses) == {*first, *second}


def test_the_free_count_follows_every_change(cloud: Judged) -> None:
    before = free(cloud)
    added = assign(cloud, 4)
    assert free(cloud) == before - 4
    cloud.provider.apply(AddressChange(eni_id=primary(cloud).eni_id, remove=added[:1]))
    assert free(cloud) == before - 3


def test_an_unassign_is_idempotent(cloud: Judged) -> None:
    added = assign(cloud, 3)
    gone = AddressChange(eni_id=primary(cloud).eni_id, remove=added[:2])
    cloud.provider.apply(gone)
    cloud.provider.apply(gone)
    again = AddressChange(eni_id=primary(cloud).eni_id, remove=added)
    cloud.provider.apply(again)
    assert primary(cloud).addresses == ()


def test_unassign_and_assign_in_one_change(cloud: Judged) -> None:
    added = assign(cloud, 9)
    eni_id = primary(cloud).eni_id
    outcome = cloud.provider.apply(AddressChange(eni_id=eni_id, add=2, remove=added[:2]))
    assert len(outcome.added) == 2
    assert len(primary(cloud).addresses) == 9


def test_more_than_the_eni_holds_is_a_limit(cloud: Judged) -> None:
    assign(cloud, 8)
    with pytest.raises(LimitReached):
        assign(cloud, 2)
    assert len(primary(cloud).addresses) == 8


def test_a_full_subnet_is_exhausted_and_gives_nothing(cloud: Judged) -> None:
    cloud.leave_free(2)
    with pytest.raises(SubnetExhausted):
        assign(cloud, 3)
    assert primary(cloud).addresses == ()
    assert len(assign(cloud, 2)) == 2


def test_an_unknown_eni_is_not_found(cloud: Judged) -> None:
    with pytest.raises(NotFound):
        cloud.provider.apply(AddressChange(eni_id=EniId("eni-0123456789abcdef0"), add=1))


def test_a_created_eni_is_attached_with_its_addresses(cloud: Judged) -> None:
    made = cloud.provider.create_interface(cloud.request(TOKEN))
    assert made.status is EniStatus.ATTACHED
    assert made.device_index == 1
    assert len(made.addresses) == 3
    assert made.is_managed
    assert not made.is_primary
    assert shown(cloud, made.eni_id) == made


def test_a_repeated_creation_gives_the_same_eni(cloud: Judged) -> None:
    before = free(cloud)
    first = cloud.provider.create_interface(cloud.request(TOKEN))
    second = cloud.provider.create_interface(cloud.request(TOKEN))
    assert first == second
    assert free(cloud) == before - 4


def test_a_creation_in_a_full_subnet_leaves_nothing(cloud: Judged) -> None:
    cloud.leave_free(2)
    with pytest.raises(SubnetExhausted):
        cloud.provider.create_interface(cloud.request(TOKEN))
    assert len(cloud.provider.snapshot().enis) == 1
    assert free(cloud) == 2


def test_a_taken_device_index_is_refused_and_leaves_nothing(cloud: Judged) -> None:
    cloud.provider.create_interface(cloud.request(TOKEN))
    before = free(cloud)
    with pytest.raises(CloudError):
        cloud.provider.create_interface(cloud.request(TOKEN + "9"))
    assert free(cloud) == before
    assert len(cloud.provider.snapshot().enis) == 2


def test_one_eni_too_many_is_a_limit_and_leaves_nothing(cloud: Judged) -> None:
    for index in (1, 2):
        cloud.provider.create_interface(cloud.request(f"{TOKEN}{index}", index))
    before = free(cloud)
    with pytest.raises(LimitReached):
        cloud.provider.create_interface(cloud.request(f"{TOKEN}3", 3))
    assert free(cloud) == before


def test_a_deleted_eni_gives_everything_back(cloud: Judged) -> None:
    before = free(cloud)
    made = cloud.provider.create_interface(cloud.request(TOKEN))
    cloud.provider.delete_interface(made.eni_id)
    assert shown(cloud, made.eni_id) is None
    assert free(cloud) == before


def test_deleting_what_is_gone_is_success(cloud: Judged) -> None:
    made = cloud.provider.create_interface(cloud.request(TOKEN))
    cloud.provider.delete_interface(made.eni_id)
    cloud.provider.delete_interface(made.eni_id)
    assert len(cloud.provider.snapshot().enis) == 1


def test_the_primary_eni_cannot_be_deleted(cloud: Judged) -> None:
    with pytest.raises(CloudError):
        cloud.provider.delete_interface(primary(cloud).eni_id)
    assert primary(cloud).status is EniStatus.ATTACHED


def test_an_unknown_subnet_is_not_found(cloud: Judged) -> None:
    from ipamd.model import SubnetId

    with pytest.raises(NotFound):
        cloud.provider.subnets((SubnetId("subnet-0123456789abcdef0"),))
