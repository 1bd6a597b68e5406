from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

from ipamd.cloud import CloudEni, CloudSnapshot, EniStatus
from ipamd.model import AddressState, EniId, SubnetId
from ipamd.pool import attachments, blocks, observe, reports
from ipamd.pool.attachments import Granted
from ipamd.pool.choice import Rules, choose
from ipamd.pool.ledger import Intent, IntentKind, Ledger
from ipamd.pool.observe import Exclusions
from tests import builders as b

S = AddressState
V4 = IPv4Network("10.0.0.32/28")
V6 = IPv6Network("2001:db8:0:1:2::/80")
BOTH = Rules(max_pods=100, versions=(4, 6))


def cloud_eni(*prefixes: IPv4Network | IPv6Network, singles: str = "") -> CloudEni:
    return CloudEni(
        eni_id=b.PRIMARY,
        mac="02:00:00:00:00:00",
        status=EniStatus.ATTACHED,
        subnet_id=b.SUBNET,
        subnet_cidr=b.CIDR,
        primary_address=b.eni().primary_address,
        addresses=tuple(ip_address(a) for a in singles.split()),
        device_index=0,
        network_card=0,
        is_primary=True,
        is_managed=True,
        prefixes=prefixes,
    )


def look(ledger: Ledger, eni: CloudEni, *, now: float = 100.0) -> observe.CloudFindings:
    return observe.cloud(ledger, CloudSnapshot(enis=(eni,), vpc_cidrs=()), now=now)


def with_v6(count: int, state: AddressState = S.AVAILABLE) -> Ledger:
    rows = tuple(b.address(str(V6[n]), state, prefix=str(V6)) for n in range(count))
    return b.ledger(*rows)


def grant(ledger: Ledger, name: str, rules: Rules) -> Granted | None:
    request = b.request(name)
    return attachments.grant(ledger, request, rules=rules, now=1000.0, now_unix=0.0)


def test_a_28_brings_all_sixteen_addresses() -> None:
    assert [int(a) - int(V4.network_address) for a in blocks.first_addresses(V4)] == list(range(16))


def test_a_new_ledger_takes_in_prefixes_and_lets_them_cool() -> None:
    new = replace(b.ledger(), has_heard_node=False)
    after = new.applied(look(new, cloud_eni(V4, V6, singles="10.0.0.9")).change)
    assert after.count(S.COOLING) == 16 + 64 + 1
    assert after.prefixes_on(b.PRIMARY) == {V4, V6}


def test_a_prefix_that_an_unanswered_call_asked_for_is_available_at_once() -> None:
    intent = Intent(
        token="t",
        kind=IntentKind.ASSIGN,
        eni_id=b.PRIMARY,
        subnet_id=b.SUBNET,
        addresses=0,
        device_index=-1,
        network_card=0,
        began_boottime=0.0,
        reason="",
        prefixes=1,
        is_open=False,
    )
    before = replace(b.ledger(), intents={"t": intent})
    after = before.applied(look(before, cloud_eni(V4, IPv4Network("10.0.0.64/28"))).change)
    assert after.count(S.AVAILABLE) == 16  # the lower one; the other was not asked for
    assert after.count(S.QUARANTINED) == 16
    assert not after.intents


def test_a_prefix_that_the_cloud_lost_is_quarantined_and_then_forgotten() -> None:
    rows = [b.address(str(a), prefix=str(V4)) for a in blocks.first_addresses(V4)]
    first = b.ledger(*rows)
    once = first.applied(look(first, cloud_eni(), now=100.0).change)
    assert once.count(S.QUARANTINED) == 16
    twice = once.applied(look(once, cloud_eni(), now=131.0).change)
    assert not twice.addresses


def test_a_prefix_that_comes_back_cools() -> None:
    rows = [b.address(str(a), prefix=str(V4)) for a in blocks.first_addresses(V4)]
    first = b.ledger(*rows)
    once = first.applied(look(first, cloud_eni(), now=100.0).change)
    back = once.applied(look(once, cloud_eni(V4), now=131.0).change)
    assert back.count(S.COOLING) == 16


def test_of_a_80_only_the_opened_addresses_are_compared() -> None:
    there = with_v6(5)
    assert not look(there, cloud_eni(V6)).change.put_addresses


def test_more_of_a_80_is_opened_as_it_is_used() -> None:
    rows = [b.address(str(V6[n]), S.ALLOCATED, prefix=str(V6)) for n in range(40)]
    rows += [b.address(str(V6[n]), prefix=str(V6)) for n in range(40, 64)]
    change = blocks.opened(b.ledger(*rows), max_pods=110, now=5.0)
    assert [a.address for a in change.put_addresses] == [V6[n] for n in range(64, 104)]


def test_no_more_of_a_80_is_opened_than_max_pods_can_use() -> None:
    rows = [b.address(str(V6[n]), S.ALLOCATED, prefix=str(V6)) for n in range(10)]
    assert len(blocks.opened(b.ledger(*rows), max_pods=12, now=5.0).put_addresses) == 2


def test_nothing_is_opened_of_a_80_that_is_on_its_way_back_or_missing() -> None:
    leaving = b.ledger(b.address(str(V6[0]), S.UNASSIGNING, prefix=str(V6)))
    lost = b.ledger(b.address(str(V6[0]), S.QUARANTINED, prefix=str(V6), reason=blocks.MISSING))
    assert not blocks.opened(leaving, max_pods=9, now=5.0)
    assert not blocks.opened(lost, max_pods=9, now=5.0)


def test_a_pod_whose_address_of_a_80_was_never_opened_is_adopted() -> None:
    before = replace(with_v6(2, S.COOLING), has_heard_node=False)
    pod = reports.ObservedPod(
        address=V6[900],
        link_name="eni1",
        key=b.key("c7"),
        netns_cookie=7,
        network_name="net",
        pod_namespace="d",
        pod_name="p",
    )
    findings = reports.node(before, [pod], now=10.0, now_unix=0.0)
    after = before.applied(findings.change)
    assert after.allocations[b.key("c7")].addresses == (V6[900],)
    assert blocks.opened(after, max_pods=3, now=11.0).put_addresses[0].address == V6[901]


def test_both_addresses_of_a_pod_are_adopted_as_one_allocation() -> None:
    rows = (b.address("10.0.0.9", S.COOLING), b.address(str(V6[0]), S.COOLING, prefix=str(V6)))
    before = replace(b.ledger(*rows), has_heard_node=False)
    pods = [
        reports.ObservedPod(
            address=a,
            link_name="eni1",
            key=b.key("c7"),
            netns_cookie=7,
            network_name="net",
            pod_namespace="d",
            pod_name="p",
        )
        for a in (V6[0], ip_address("10.0.0.9"))
    ]
    after = before.applied(reports.node(before, pods, now=10.0, now_unix=0.0).change)
    assert after.allocations[b.key("c7")].addresses == (ip_address("10.0.0.9"), V6[0])


def test_an_attachment_gets_one_address_of_each_family_from_one_eni() -> None:
    ledger = b.ledger(
        b.address("10.0.0.9"),
        b.address("10.0.0.10", eni_id=b.SECONDARY),
        b.address(str(V6[0]), prefix=str(V6), eni_id=b.SECONDARY),
        enis=(b.eni(), b.eni(b.SECONDARY, index=1)),
    )
    granted = grant(ledger, "c1", BOTH)
    assert granted is not None
    assert granted.allocation.addresses == (ip_address("10.0.0.10"), V6[0])
    after = ledger.applied(granted.change)
    assert after.count(S.ALLOCATED) == 2
    assert grant(after, "c2", BOTH) is None


def test_a_release_frees_every_family_and_remembers_what_it_freed() -> None:
    ledger = b.ledger(b.address("10.0.0.9"), b.address(str(V6[0]), prefix=str(V6)))
    granted = grant(ledger, "c1", BOTH)
    assert granted is not None
    held = ledger.applied(granted.change)
    after = held.applied(attachments.release(held, b.key("c1"), now=2000.0).change)
    assert after.count(S.COOLING) == 2
    assert after.tombstones[b.key("c1")].addresses == granted.allocation.addresses
    again = attachments.release(after, b.key("c1"), now=2001.0).change
    assert after.applied(again).tombstones[b.key("c1")].addresses == granted.allocation.addresses


def test_the_fullest_prefix_is_used_first() -> None:
    other = "10.0.0.64/28"
    ledger = b.ledger(
        b.address("10.0.0.32", prefix=str(V4)),
        b.address("10.0.0.64", S.ALLOCATED, prefix=other),
        b.address("10.0.0.65", prefix=other, since=500.0),
        allocations=(b.allocation("10.0.0.64", "c0"),),
    )
    rules = Rules(max_pods=9, prefers_prefixes=True)
    assert [str(a.address) for a in choose(ledger, rules)] == ["10.0.0.65"]


def test_the_kind_in_use_comes_first_and_the_other_still_serves() -> None:
    ledger = b.ledger(b.address("10.0.0.9"), b.address("10.0.0.32", prefix=str(V4)))
    prefixes, singles = Rules(max_pods=9, prefers_prefixes=True), Rules(max_pods=9)
    assert [str(a.address) for a in choose(ledger, prefixes)] == ["10.0.0.32"]
    assert [str(a.address) for a in choose(ledger, singles)] == ["10.0.0.9"]
    only_old = b.ledger(b.address("10.0.0.9"))
    assert len(choose(only_old, prefixes)) == 1


def test_an_excluded_eni_gives_no_address() -> None:
    excluded = replace(b.eni(), is_excluded=True)
    ledger = b.ledger(b.address("10.0.0.9"), enis=(excluded,))
    assert choose(ledger, Rules(max_pods=9)) == ()


def test_a_card_is_asked_for_by_number_and_the_default_spills_over() -> None:
    card = replace(b.eni(b.SECONDARY, index=1), network_card=1)
    ledger = b.ledger(
        b.address("10.0.0.9", S.COOLING),
        b.address("10.0.0.10", eni_id=b.SECONDARY),
        enis=(b.eni(), card),
    )
    rules = Rules(max_pods=9)
    assert choose(ledger, rules, network_card=2) == ()
    assert [a.eni_id for a in choose(ledger, rules, network_card=1)] == [b.SECONDARY]
    assert [a.eni_id for a in choose(ledger, rules)] == [b.SECONDARY]


def test_exclusions_by_role_subnet_and_card() -> None:
    primary = cloud_eni()
    secondary = replace(primary, eni_id=EniId("eni-9"), is_primary=False, device_index=1)
    elsewhere = replace(secondary, subnet_id=SubnetId("subnet-09"))
    carded = replace(secondary, network_card=1)
    custom = Exclusions(primary=True)
    assert (custom.cover(primary), custom.cover(secondary)) == (True, False)
    ipv6 = Exclusions(secondary=True)
    assert (ipv6.cover(primary), ipv6.cover(secondary)) == (False, True)
    tagged = Exclusions(subnets=frozenset({SubnetId("subnet-09")}))
    assert (tagged.cover(secondary), tagged.cover(elsewhere)) == (False, True)
    single = Exclusions(other_cards=True)
    assert (single.cover(secondary), single.cover(carded)) == (False, True)


def test_a_pod_at_the_end_of_a_80_keeps_no_other_from_an_address() -> None:
    rows = (
        b.address(str(V6[-1]), S.ALLOCATED, prefix=str(V6)),
        b.address(str(V6[1]), prefix=str(V6)),
    )
    opened = blocks.opened(b.ledger(*rows), max_pods=4, now=5.0).put_addresses
    assert [a.address for a in opened] == [V6[0], V6[2]]


def test_an_address_that_moved_into_a_prefix_is_known_by_it() -> None:
    before = b.ledger(b.address("10.0.0.33", S.QUARANTINED, reason=blocks.MISSING))
    after = before.applied(look(before, cloud_eni(V4)).change)
    assert after.addresses[ip_address("10.0.0.33")].prefix == V4
    assert len(after.addresses) == 16


def test_a_80_has_room_for_ever_and_ends_at_its_end() -> None:
    assert IPv6Address("2001:db8:0:1:2::3f") == blocks.first_addresses(V6)[-1]
    tiny = IPv6Network("2001:db8::/126")
    assert len(blocks.first_addresses(tiny)) == 4
