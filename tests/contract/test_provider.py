"""What every CloudProvider must do, whatever the cloud (see ipamd.cloud)."""

from __future__ import annotations

from ipaddress import IPv6Network

import pytest

from ipamd.cloud import AddressChange, CloudEni, EniStatus, Subnet
from ipamd.errors import (
    CloudError,
    LimitReached,
    NoPrefixFree,
    NotFound,
    SubnetExhausted,
    Unsupported,
)
from ipamd.model import EniId, IPAddress, IPNetwork, SubnetId
from tests.contract.conftest import (
    ORPHAN_OF,
    Judged,
    creating,
    not_creating,
    with_ipv6,
    without_ipv6,
)

TOKEN = "5f000000-0123456789abcdef0123"


def primary(cloud: Judged) -> CloudEni:
    return next(e for e in cloud.provider.snapshot().enis if e.is_primary)


def shown(cloud: Judged, eni_id: EniId) -> CloudEni | None:
    return next((e for e in cloud.provider.snapshot().enis if e.eni_id == eni_id), None)


def assign(cloud: Judged, count: int) -> tuple[IPAddress, ...]:
    return cloud.provider.apply(AddressChange(eni_id=primary(cloud).eni_id, add=count)).added


def free(cloud: Judged) -> int:
    subnet = cloud.provider.discover_node().primary_subnet_id
    return seen(cloud, subnet).free_addresses


def seen(cloud: Judged, subnet: SubnetId) -> Subnet:
    return next(s for s in cloud.provider.subnets((subnet,)) if s.subnet_id == subnet)


def assign_prefixes(cloud: Judged, count: int = 0, v6: int = 0) -> tuple[IPNetwork, ...]:
    change = AddressChange(eni_id=primary(cloud).eni_id, add_prefixes=count, add_prefixes_v6=v6)
    return cloud.provider.apply(change).added_prefixes


def slots(cloud: Judged) -> int:
    return cloud.provider.limits().slots_per_eni


def test_the_cloud_can_what_its_row_says(cloud: Judged) -> None:
    node = cloud.provider.discover_node()
    can = cloud.provider.capabilities()
    assert can.can_create_interfaces is cloud.traits.can_create_interfaces
    assert can.replaces_whole_interface is cloud.traits.replaces_whole_interface
    assert can.has_prefixes
    assert seen(cloud, node.primary_subnet_id).cidr_v6 == cloud.traits.cidr_v6


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
    limits, traits = cloud.provider.limits(), cloud.traits
    assert (limits.max_enis, limits.addresses_per_eni) == (
        traits.max_enis,
        traits.addresses_per_eni,
    )
    assert limits.slots_per_eni == traits.addresses_per_eni - 1


def test_the_vpc_has_cidrs_that_hold_the_node(cloud: Judged) -> None:
    cidrs = cloud.provider.snapshot().vpc_cidrs
    assert any(primary(cloud).primary_address in cidr for cidr in cidrs)


def test_the_metadata_service_names_the_same_cidrs_as_a_look(cloud: Judged) -> None:
    look = cloud.provider.snapshot()  # a hint may be in terms of one
    assert cloud.provider.hint().vpc_cidrs == look.vpc_cidrs


def test_the_metadata_service_shows_what_is_assigned(cloud: Judged) -> None:
    added = (*assign(cloud, 2), *assign_prefixes(cloud, 1))
    eni_id = primary(cloud).eni_id
    shown_by_it = {e.eni_id: e.items for e in cloud.provider.hint().enis}
    assert shown_by_it == {eni_id: tuple(sorted(map(str, added)))}


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
    added = assign(cloud, slots(cloud))
    eni_id = primary(cloud).eni_id
    outcome = cloud.provider.apply(AddressChange(eni_id=eni_id, add=2, remove=added[:2]))
    assert len(outcome.added) == 2
    assert len(primary(cloud).addresses) == slots(cloud)


def test_more_than_the_eni_holds_is_a_limit(cloud: Judged) -> None:
    assign(cloud, slots(cloud) - 1)
    with pytest.raises(LimitReached):
        assign(cloud, 2)
    assert len(primary(cloud).addresses) == slots(cloud) - 1


def test_a_full_subnet_is_exhausted_and_gives_nothing(cloud: Judged) -> None:
    cloud.leave_free(2)
    with pytest.raises(SubnetExhausted):
        assign(cloud, 3)
    assert primary(cloud).addresses == ()
    assert len(assign(cloud, 2)) == 2


def test_an_unknown_eni_is_not_found(cloud: Judged) -> None:
    with pytest.raises(NotFound):
        cloud.provider.apply(AddressChange(eni_id=cloud.no_eni, add=1))


@creating
def test_a_created_eni_is_attached_with_its_addresses(cloud: Judged) -> None:
    made = cloud.provider.create_interface(cloud.request(TOKEN))
    assert made.status is EniStatus.ATTACHED
    assert made.device_index == 1
    assert len(made.addresses) == 3
    assert made.is_managed
    assert not made.is_primary
    assert shown(cloud, made.eni_id) == made


@creating
def test_a_repeated_creation_gives_the_same_eni(cloud: Judged) -> None:
    before = free(cloud)
    first = cloud.provider.create_interface(cloud.request(TOKEN))
    second = cloud.provider.create_interface(cloud.request(TOKEN))
    assert first == second
    assert free(cloud) == before - 4


@creating
def test_a_creation_in_a_full_subnet_leaves_nothing(cloud: Judged) -> None:
    cloud.leave_free(2)
    with pytest.raises(SubnetExhausted):
        cloud.provider.create_interface(cloud.request(TOKEN))
    assert len(cloud.provider.snapshot().enis) == 1
    assert free(cloud) == 2


@creating
def test_a_taken_device_index_is_refused_and_leaves_nothing(cloud: Judged) -> None:
    cloud.provider.create_interface(cloud.request(TOKEN))
    before = free(cloud)
    with pytest.raises(CloudError):
        cloud.provider.create_interface(cloud.request(TOKEN + "9"))
    assert free(cloud) == before
    assert len(cloud.provider.snapshot().enis) == 2


@creating
def test_one_eni_too_many_is_a_limit_and_leaves_nothing(cloud: Judged) -> None:
    for index in (1, 2):
        cloud.provider.create_interface(cloud.request(f"{TOKEN}{index}", index))
    before = free(cloud)
    with pytest.raises(LimitReached):
        cloud.provider.create_interface(cloud.request(f"{TOKEN}3", 3))
    assert free(cloud) == before


@creating
def test_a_deleted_eni_gives_everything_back(cloud: Judged) -> None:
    before = free(cloud)
    made = cloud.provider.create_interface(cloud.request(TOKEN))
    cloud.provider.delete_interface(made.eni_id)
    assert shown(cloud, made.eni_id) is None
    assert free(cloud) == before


@creating
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
    with pytest.raises(NotFound):
        cloud.provider.subnets((cloud.no_subnet,))


def test_one_named_unknown_subnet_among_known_ones_is_not_found(cloud: Judged) -> None:
    named = (cloud.provider.discover_node().primary_subnet_id, cloud.no_subnet)
    with pytest.raises(NotFound):
        cloud.provider.subnets(named)


def test_a_prefix_is_sixteen_aligned_addresses_of_the_subnet(cloud: Judged) -> None:
    before = free(cloud)
    added = assign_prefixes(cloud, 2)
    assert [p.prefixlen for p in added] == [28, 28]
    assert all(p.subnet_of(primary(cloud).subnet_cidr) for p in added)  # type: ignore[arg-type]
    assert set(primary(cloud).prefixes) == set(added)
    assert primary(cloud).addresses == ()
    assert free(cloud) == before - 2 * cloud.traits.counted_per_prefix


def test_prefixes_and_addresses_live_on_one_eni(cloud: Judged) -> None:
    single = assign(cloud, 2)
    blocks = assign_prefixes(cloud, 3)
    assert set(primary(cloud).addresses) == set(single)
    assert set(primary(cloud).prefixes) == set(blocks)


def test_a_prefix_takes_one_slot(cloud: Judged) -> None:
    assign(cloud, slots(cloud) - 4)
    assign_prefixes(cloud, 3)
    with pytest.raises(LimitReached):
        assign_prefixes(cloud, 2)
    assert len(assign_prefixes(cloud, 1)) == 1
    with pytest.raises(LimitReached):
        assign(cloud, 1)


def test_prefixes_are_unassigned_whole_and_idempotently(cloud: Judged) -> None:
    before, added = free(cloud), assign_prefixes(cloud, 2)
    gone = AddressChange(eni_id=primary(cloud).eni_id, remove_prefixes=added[:1])
    cloud.provider.apply(gone)
    cloud.provider.apply(gone)
    assert primary(cloud).prefixes == added[1:]
    assert free(cloud) == before - cloud.traits.counted_per_prefix


def test_addresses_and_prefixes_leave_in_one_change(cloud: Judged) -> None:
    single, blocks = assign(cloud, 2), assign_prefixes(cloud, 1)
    eni_id = primary(cloud).eni_id
    cloud.provider.apply(AddressChange(eni_id=eni_id, remove=single, remove_prefixes=blocks))
    assert (primary(cloud).addresses, primary(cloud).prefixes) == ((), ())


def test_a_strewn_subnet_has_addresses_but_no_prefix(cloud: Judged) -> None:
    cloud.strew()
    before = free(cloud)
    with pytest.raises(NoPrefixFree):
        assign_prefixes(cloud, 1)
    assert free(cloud) == before
    assert len(assign(cloud, 5)) == 5


def test_a_full_subnet_has_no_prefix(cloud: Judged) -> None:
    cloud.leave_free(3)
    with pytest.raises(SubnetExhausted):
        assign_prefixes(cloud, 1)
    assert free(cloud) == 3


@with_ipv6
def test_a_v6_prefix_is_an_80_that_costs_no_ipv4(cloud: Judged) -> None:
    before = free(cloud)
    (added,) = assign_prefixes(cloud, v6=1)
    assert isinstance(added, IPv6Network)
    assert added.prefixlen == 80
    inside = primary(cloud).subnet_cidr_v6
    assert inside is not None
    assert added.subnet_of(inside)
    assert primary(cloud).prefixes == (added,)
    assert free(cloud) == before


@with_ipv6
def test_a_v6_prefix_is_unassigned(cloud: Judged) -> None:
    added = assign_prefixes(cloud, v6=1)
    change = AddressChange(eni_id=primary(cloud).eni_id, remove_prefixes=added)
    cloud.provider.apply(change)
    cloud.provider.apply(change)
    assert primary(cloud).prefixes == ()


@with_ipv6
def test_both_families_come_in_one_change(cloud: Judged) -> None:
    added = assign_prefixes(cloud, 1, v6=1)
    assert sorted(p.version for p in added) == [4, 6]


@without_ipv6
def test_a_v6_prefix_is_unsupported_and_nothing_is_assigned(cloud: Judged) -> None:
    for count in (0, 1):
        with pytest.raises(Unsupported):
            assign_prefixes(cloud, count, v6=1)
    assert primary(cloud).prefixes == ()


def test_a_change_that_is_refused_in_part_is_refused_whole_or_answered_in_part(
    cloud: Judged,
) -> None:
    cloud.strew()
    change = AddressChange(eni_id=primary(cloud).eni_id, add=2, add_prefixes=1)
    if cloud.provider.capabilities().replaces_whole_interface:  # one write, all or nothing
        with pytest.raises(NoPrefixFree):
            cloud.provider.apply(change)
        assert primary(cloud).addresses == ()
        return
    outcome = cloud.provider.apply(change)
    assert (len(outcome.added), outcome.added_prefixes) == (2, ())
    assert set(primary(cloud).addresses) == set(outcome.added)


@creating
def test_an_eni_is_made_with_its_prefixes(cloud: Judged) -> None:
    made = cloud.provider.create_interface(cloud.request(TOKEN, prefixes=2))
    assert (len(made.prefixes), made.addresses) == (2, ())
    assert shown(cloud, made.eni_id) == made


@creating
def test_an_eni_is_made_with_a_v6_prefix(cloud: Judged) -> None:
    made = cloud.provider.create_interface(cloud.request(TOKEN, addresses=0, prefixes_v6=1))
    assert [p.prefixlen for p in made.prefixes] == [80]


@creating
def test_an_eni_with_a_prefix_in_a_strewn_subnet_leaves_nothing(cloud: Judged) -> None:
    cloud.strew()
    before = free(cloud)
    with pytest.raises(NoPrefixFree):
        cloud.provider.create_interface(cloud.request(TOKEN, prefixes=1))
    assert free(cloud) == before
    assert len(cloud.provider.snapshot().enis) == 1


@creating
def test_an_eni_is_made_in_the_subnet_that_is_asked_for(cloud: Judged) -> None:
    before = free(cloud)
    made = cloud.provider.create_interface(cloud.request(TOKEN, subnet_id=cloud.tagged_subnet))
    assert made.subnet_id == cloud.tagged_subnet
    assert made.primary_address in made.subnet_cidr
    assert made.subnet_cidr == seen(cloud, cloud.tagged_subnet).cidr
    assert free(cloud) == before


@creating
def test_the_same_token_with_other_wishes_is_refused(cloud: Judged) -> None:
    cloud.provider.create_interface(cloud.request(TOKEN))
    with pytest.raises(CloudError):
        cloud.provider.create_interface(cloud.request(TOKEN, addresses=4))
    assert len(cloud.provider.snapshot().enis) == 2


@creating
def test_more_addresses_than_an_eni_holds_leave_no_eni(cloud: Judged) -> None:
    before = free(cloud)
    with pytest.raises(LimitReached):
        cloud.provider.create_interface(cloud.request(TOKEN, addresses=10))
    assert free(cloud) == before
    assert len(cloud.provider.snapshot().enis) == 1


@creating
def test_candidates_come_with_the_named_subnets(cloud: Judged) -> None:
    own = cloud.provider.discover_node().primary_subnet_id
    found = {s.subnet_id: (s.is_candidate, s.is_excluded) for s in cloud.provider.subnets((own,))}
    assert found == {own: (True, False), cloud.tagged_subnet: (True, False)}


@creating
def test_named_subnets_say_what_their_tags_forbid(cloud: Judged) -> None:
    assert seen(cloud, cloud.excluded_subnet).is_excluded
    assert not seen(cloud, cloud.excluded_subnet).is_candidate
    other = seen(cloud, cloud.other_subnet)
    assert (other.is_candidate, other.is_excluded) == (False, False)


def test_a_subnet_shows_its_v6_block_where_it_has_one(cloud: Judged) -> None:
    own = cloud.provider.discover_node().primary_subnet_id
    assert seen(cloud, own).cidr_v6 == cloud.traits.cidr_v6
    assert seen(cloud, cloud.other_subnet).cidr_v6 is None


@creating
def test_an_orphan_is_found_with_its_maker_and_its_age(cloud: Judged) -> None:
    eni_id = cloud.make_orphan(1_700_000_000.0)
    (found,) = cloud.provider.orphans()
    assert (found.eni_id, found.instance_id) == (eni_id, ORPHAN_OF)
    assert found.created_unix == 1_700_000_000.0


@creating
def test_an_attached_eni_is_no_orphan(cloud: Judged) -> None:
    cloud.provider.create_interface(cloud.request(TOKEN))
    assert cloud.provider.orphans() == ()


@creating
def test_an_orphan_without_an_age_gets_one(cloud: Judged) -> None:
    eni_id = cloud.make_orphan(None)
    (found,) = cloud.provider.orphans()
    assert found.created_unix is None
    cloud.provider.mark_created(eni_id, 1_700_000_000.0)
    (found,) = cloud.provider.orphans()
    assert found.created_unix == 1_700_000_000.0


@creating
def test_a_deleted_orphan_is_gone_and_deleting_it_again_is_success(cloud: Judged) -> None:
    eni_id = cloud.make_orphan(0.0)
    cloud.provider.delete_orphan(eni_id)
    assert cloud.provider.orphans() == ()
    cloud.provider.delete_orphan(eni_id)


@creating
def test_an_orphan_that_was_attached_meanwhile_is_left_alone(cloud: Judged) -> None:
    made = cloud.provider.create_interface(cloud.request(TOKEN))
    with pytest.raises(CloudError):
        cloud.provider.delete_orphan(made.eni_id)
    assert shown(cloud, made.eni_id) == made


# Where no ENI is made or deleted at run time.


@not_creating
def test_an_eni_that_cannot_be_made_is_unsupported_and_asks_the_cloud_for_nothing(
    cloud: Judged,
) -> None:
    request, look = cloud.request(TOKEN), cloud.provider.snapshot()
    asked = len(cloud.calls)
    with pytest.raises(Unsupported):
        cloud.provider.create_interface(request)
    assert len(cloud.calls) == asked
    assert cloud.provider.snapshot() == look


@not_creating
def test_an_eni_that_cannot_be_deleted_stays_with_its_addresses(cloud: Judged) -> None:
    assign(cloud, 2)
    look, asked = cloud.provider.snapshot(), len(cloud.calls)
    with pytest.raises(Unsupported):
        cloud.provider.delete_interface(look.enis[0].eni_id)
    assert len(cloud.calls) == asked
    assert cloud.provider.snapshot() == look


@not_creating
def test_a_loose_eni_is_somebody_elses_and_left_alone(cloud: Judged) -> None:
    eni_id = cloud.make_orphan(None)
    assert cloud.provider.orphans() == ()
    assert shown(cloud, eni_id) is None
    asked = len(cloud.calls)
    with pytest.raises(Unsupported):
        cloud.provider.mark_created(eni_id, 1.0)
    with pytest.raises(Unsupported):
        cloud.provider.delete_orphan(eni_id)
    assert len(cloud.calls) == asked


@not_creating
def test_named_subnets_come_alone_and_no_eni_will_be_made_in_them(cloud: Judged) -> None:
    own = cloud.provider.discover_node().primary_subnet_id
    named = (own, cloud.tagged_subnet, cloud.excluded_subnet)
    found = {s.subnet_id: (s.is_candidate, s.is_excluded) for s in cloud.provider.subnets(named)}
    assert found == dict.fromkeys(named, (False, False))
