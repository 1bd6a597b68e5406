from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest

from ipamd.cloud import CloudEni, CloudSnapshot, EniHint, EniStatus
from ipamd.model import AddressState, EniId
from ipamd.pool import attachments, observe, reports
from ipamd.pool.blocks import MISSING
from ipamd.pool.hint import differs
from ipamd.pool.ledger import Change, Intent, IntentKind, Ledger
from ipamd.pool.observe import CloudFindings
from ipamd.pool.reports import FOREIGN, ObservedPod
from tests import builders as b

S = AddressState


def cloud_eni(*addresses: str, eni_id: str = b.PRIMARY, index: int = 0, **more: object) -> CloudEni:
    known = b.eni(eni_id, index=index)
    made = CloudEni(
        eni_id=EniId(eni_id),
        mac=known.mac,
        status=EniStatus.ATTACHED,
        subnet_id=b.SUBNET,
        subnet_cidr=b.CIDR,
        primary_address=known.primary_address,
        addresses=tuple(ip_address(a) for a in addresses),
        device_index=index,
        network_card=0,
        is_primary=index == 0,
        is_managed=True,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def look(ledger: Ledger, *enis: CloudEni, now: float = 1000.0) -> tuple[CloudFindings, Ledger]:
    snapshot = CloudSnapshot(enis=enis, vpc_cidrs=(IPv4Network("10.0.0.0/16"),))
    findings = observe.cloud(ledger, snapshot, now=now)
    return findings, ledger.applied(findings.change)


def state_of(ledger: Ledger, text: str) -> AddressState | None:
    held = ledger.addresses.get(ip_address(text))
    return held.state if held else None


def intent(kind: IntentKind, *, eni_id: str | None = b.PRIMARY, **more: object) -> Intent:
    made = Intent(
        token="t1",
        kind=kind,
        eni_id=EniId(eni_id) if eni_id else None,
        subnet_id=b.SUBNET,
        addresses=2,
        device_index=-1,
        network_card=0,
        began_boottime=990.0,
        reason="",
    )
    return replace(made, **more)  # type: ignore[arg-type]


def test_an_address_that_nobody_asked_for_needs_a_second_look_and_then_cools() -> None:
    findings, once = look(b.ledger(), cloud_eni("10.0.0.5"))
    assert findings.wants_second_look
    assert state_of(once, "10.0.0.5") is S.QUARANTINED
    _, soon = look(once, cloud_eni("10.0.0.5"), now=1029.0)
    assert state_of(soon, "10.0.0.5") is S.QUARANTINED
    _, later = look(once, cloud_eni("10.0.0.5"), now=1030.0)
    assert state_of(later, "10.0.0.5") is S.COOLING


def test_a_late_picture_of_what_was_given_back_is_forgotten() -> None:
    _, once = look(b.ledger(), cloud_eni("10.0.0.5"))
    _, after = look(once, cloud_eni(), now=1005.0)
    assert state_of(after, "10.0.0.5") is None


def test_a_new_ledger_has_no_past_and_lets_found_addresses_cool() -> None:
    _, after = look(b.ledger(has_heard_node=False), cloud_eni("10.0.0.5"))
    assert state_of(after, "10.0.0.5") is S.COOLING


def test_an_eni_touched_since_the_look_was_asked_for_is_left_for_the_next() -> None:
    ledger = b.ledger(b.address("10.0.0.9"))
    snapshot = CloudSnapshot(enis=(cloud_eni("10.0.0.5"),), vpc_cidrs=())
    findings = observe.cloud(ledger, snapshot, touched=frozenset({b.PRIMARY}), now=1000.0)
    assert not findings.found
    assert not findings.missing


def test_an_address_that_was_moved_to_another_eni_follows_it() -> None:
    ledger = b.ledger(b.address("10.0.0.5"), enis=(b.eni(), b.eni(b.SECONDARY, index=1)))
    moved = cloud_eni("10.0.0.5", eni_id=b.SECONDARY, index=1)
    _, after = look(ledger, cloud_eni(), moved)
    assert after.addresses[ip_address("10.0.0.5")].eni_id == b.SECONDARY


def test_an_allocation_whose_address_was_moved_follows_it() -> None:
    held = b.allocation("10.0.0.10")
    ledger = b.ledger(b.address("10.0.0.10", S.ALLOCATED), allocations=(held,))
    _, after = look(ledger, cloud_eni("10.0.0.10", eni_id=b.SECONDARY, index=1))
    assert after.allocations[b.key()] == replace(held, eni_id=b.SECONDARY)


def test_an_address_of_a_slash_80_that_came_without_its_prefix_is_found_in_it() -> None:
    prefix = IPv6Network("2001:db8::/80")
    text = "2001:db8::4d2"  # beyond those that are opened at first
    ledger = b.ledger(b.address(text, S.ALLOCATED, eni_id=""), allocations=(b.allocation(text),))
    findings, after = look(ledger, cloud_eni(prefixes=(prefix,)))
    assert findings.missing_allocated == ()
    assert after.addresses[ip_address(text)] == b.address(text, S.ALLOCATED, prefix=str(prefix))


def test_a_quarantine_for_another_reason_does_not_count_as_a_first_look() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.QUARANTINED, since=0.0, reason=FOREIGN))
    _, once = look(ledger, cloud_eni())
    assert state_of(once, "10.0.0.5") is S.QUARANTINED
    _, later = look(once, cloud_eni(), now=1031.0)
    assert state_of(later, "10.0.0.5") is None


def test_an_eni_of_ours_that_somebody_detached_is_no_stray() -> None:
    ledger = b.ledger(enis=(b.eni(), b.eni(b.SECONDARY, index=1)))
    loose = cloud_eni(eni_id=b.SECONDARY, index=-1, status=EniStatus.AVAILABLE)
    findings, _ = look(ledger, cloud_eni(), loose)
    assert findings.stray_enis == ()


def test_the_lost_answer_of_an_assign_explains_as_many_addresses_as_it_asked_for() -> None:
    lost = intent(IntentKind.ASSIGN, is_open=False)
    ledger = b.ledger().applied(Change(put_intents=(lost,)))
    findings, after = look(ledger, cloud_eni("10.0.0.5", "10.0.0.6", "10.0.0.7"))
    states = [state_of(after, f"10.0.0.{n}") for n in (5, 6, 7)]
    assert states == [S.AVAILABLE, S.AVAILABLE, S.QUARANTINED]
    assert findings.change.drop_intents == ("t1",)


def test_an_eni_with_a_call_in_flight_is_left_for_the_next_look() -> None:
    ledger = b.ledger(b.address("10.0.0.9")).applied(
        Change(put_intents=(intent(IntentKind.ASSIGN),))
    )
    findings, _ = look(ledger, cloud_eni("10.0.0.5"))
    assert not findings.found
    assert not findings.missing


def test_what_the_cloud_lost_is_quarantined_first_and_forgotten_on_a_second_look() -> None:
    findings, once = look(b.ledger(b.address("10.0.0.5")), cloud_eni())
    assert state_of(once, "10.0.0.5") is S.QUARANTINED
    assert findings.wants_second_look
    _, soon = look(once, cloud_eni(), now=1029.0)
    assert state_of(soon, "10.0.0.5") is S.QUARANTINED
    _, later = look(once, cloud_eni(), now=1030.0)
    assert state_of(later, "10.0.0.5") is None


def test_an_address_that_was_missing_once_and_is_back_cools() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.QUARANTINED, reason=MISSING))
    _, after = look(ledger, cloud_eni("10.0.0.5"))
    assert state_of(after, "10.0.0.5") is S.COOLING


def test_an_address_under_a_running_pod_stays_whatever_the_cloud_says() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.ALLOCATED), allocations=(b.allocation("10.0.0.5"),))
    findings, after = look(ledger, now=99999.0)
    assert state_of(after, "10.0.0.5") is S.ALLOCATED
    assert [str(a) for a in findings.missing_allocated] == ["10.0.0.5"]
    assert b.PRIMARY in after.enis


def test_an_unassign_is_done_when_one_look_says_so() -> None:
    _, after = look(b.ledger(b.address("10.0.0.5", S.UNASSIGNING)), cloud_eni())
    assert state_of(after, "10.0.0.5") is None


def test_an_eni_goes_only_after_its_addresses_went() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5", eni_id=b.SECONDARY),
        enis=(b.eni(), b.eni(b.SECONDARY, index=1)),
    )
    _, once = look(ledger, cloud_eni())
    assert b.SECONDARY in once.enis
    _, later = look(once, cloud_eni(), now=1030.0)
    assert b.SECONDARY not in later.enis


def test_an_eni_that_is_being_created_is_left_to_its_creation() -> None:
    creating = intent(IntentKind.CREATE, eni_id=None, device_index=1)
    ledger = b.ledger().applied(Change(put_intents=(creating,)))
    new = cloud_eni("10.0.0.5", eni_id=b.SECONDARY, index=1)
    _, after = look(ledger, cloud_eni(), new)
    assert b.SECONDARY not in after.enis


def test_an_unattached_eni_of_somebody_else_is_no_stray() -> None:
    other = cloud_eni(eni_id="eni-9", index=-1, status=EniStatus.AVAILABLE, is_managed=False)
    assert look(b.ledger(), cloud_eni(), other)[0].stray_enis == ()


def test_an_unattached_eni_of_ours_is_a_stray() -> None:
    stray = cloud_eni(eni_id="eni-9", index=-1, status=EniStatus.AVAILABLE)
    findings, after = look(b.ledger(), cloud_eni(), stray)
    assert findings.stray_enis == ("eni-9",)
    assert "eni-9" not in after.enis


def test_addresses_of_an_unmanaged_eni_are_not_ours() -> None:
    _, after = look(b.ledger(), cloud_eni("10.0.0.5", is_managed=False))
    assert state_of(after, "10.0.0.5") is None


def pod(text: str, name: str | None = "c1", link: str = "eni123") -> ObservedPod:
    return ObservedPod(
        address=ip_address(text),
        link_name=link,
        key=b.key(name) if name else None,
        netns_cookie=42,
        network_name="net",
        pod_namespace="default",
        pod_name=name or "",
    )


def hear(ledger: Ledger, *pods: ObservedPod) -> Ledger:
    findings = reports.node(ledger, pods, now=1000.0, now_unix=1.0)
    return ledger.applied(findings.change)


def test_a_new_store_adopts_the_pods_that_the_kernel_shows() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5", S.COOLING), b.address("10.0.0.6", S.COOLING), has_heard_node=False
    )
    after = hear(ledger, pod("10.0.0.5"))
    assert after.has_heard_node
    assert state_of(after, "10.0.0.5") is S.ALLOCATED
    assert after.allocations[b.key()].netns_cookie == 42
    assert state_of(after, "10.0.0.6") is S.COOLING


def test_a_pod_deleted_since_the_report_was_written_is_not_adopted() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.COOLING), has_heard_node=False)
    deleted = ledger.applied(attachments.release(ledger, b.key(), now=999.0).change)
    after = hear(deleted, pod("10.0.0.5"))
    assert not after.allocations


def test_a_new_store_quarantines_an_address_without_a_name() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.COOLING), has_heard_node=False)
    after = hear(ledger, pod("10.0.0.5", None))
    assert state_of(after, "10.0.0.5") is S.QUARANTINED


def test_two_links_with_one_address_are_adopted_once() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.COOLING), has_heard_node=False)
    after = hear(ledger, pod("10.0.0.5", "c1"), pod("10.0.0.5", "c2"))
    assert len(after.allocations) == 1


@pytest.mark.parametrize(
    ("before", "expected"),
    [(S.AVAILABLE, S.QUARANTINED), (S.COOLING, S.COOLING)],
    ids=["it must not be given out", "a stale report of a pod that just went"],
)
def test_a_later_report_of_an_unexplained_address(before: S, expected: S) -> None:
    after = hear(b.ledger(b.address("10.0.0.5", before)), pod("10.0.0.5"))
    assert state_of(after, "10.0.0.5") is expected


def on_host(text: str, link: str = "eth0") -> ObservedPod:
    return replace(pod(text, None, link), is_on_host=True, netns_cookie=0, network_name="")


@pytest.mark.parametrize("has_heard_node", [True, False], ids=["later report", "new store"])
def test_an_address_on_a_link_of_the_node_is_no_pods(*, has_heard_node: bool) -> None:
    before = b.ledger(b.address("10.0.0.5"), has_heard_node=has_heard_node)
    after = hear(before, on_host("10.0.0.5"))
    held = after.addresses[ip_address("10.0.0.5")]
    assert held.state is S.QUARANTINED
    assert held.reason.startswith(f"{FOREIGN}: eth0 of the node has it")
    assert state_of(hear(after, on_host("10.0.0.5")), "10.0.0.5") is S.QUARANTINED
    assert state_of(hear(after), "10.0.0.5") is S.COOLING


@pytest.mark.parametrize("has_heard_node", [True, False], ids=["later report", "new store"])
def test_an_address_of_the_node_that_the_ledger_does_not_hold_is_its_own_affair(
    *, has_heard_node: bool
) -> None:
    ledger = b.ledger(b.address("10.0.0.5"), has_heard_node=has_heard_node)
    findings = reports.node(ledger, (on_host("10.0.0.77"),), now=1000.0, now_unix=1.0)
    assert findings.unknown == ()


@pytest.mark.parametrize("has_heard_node", [True, False], ids=["later report", "new store"])
def test_a_pod_keeps_its_address_when_the_node_takes_it_too(*, has_heard_node: bool) -> None:
    held = b.address("10.0.0.5", S.ALLOCATED if has_heard_node else S.COOLING)
    allocations = (b.allocation("10.0.0.5"),) if has_heard_node else ()
    before = b.ledger(held, allocations=allocations, has_heard_node=has_heard_node)
    after = hear(before, pod("10.0.0.5"), on_host("10.0.0.5"))
    assert state_of(after, "10.0.0.5") is S.ALLOCATED


def test_a_new_store_says_of_each_address_without_a_name_who_has_it() -> None:
    before = b.ledger(
        b.address("10.0.0.5", S.COOLING), b.address("10.0.0.6", S.COOLING), has_heard_node=False
    )
    after = hear(before, pod("10.0.0.5", None), on_host("10.0.0.6"))
    reasons = [after.addresses[ip_address(f"10.0.0.{n}")].reason for n in (5, 6)]
    assert reasons[0] == FOREIGN
    assert "eth0 of the node" in reasons[1]


def test_a_foreign_use_that_ended_lets_the_address_cool() -> None:
    ledger = b.ledger(b.address("10.0.0.5", S.QUARANTINED, reason=FOREIGN))
    assert state_of(hear(ledger), "10.0.0.5") is S.COOLING


def test_readiness_moves_idle_addresses_and_nothing_else() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5", S.PREPARING),
        b.address("10.0.0.6", S.COOLING),
        b.address("10.0.0.7", S.ALLOCATED),
        enis=(b.eni(is_ready=False),),
    )
    after = ledger.applied(reports.readiness(ledger, {b.PRIMARY: True}, now=7.0))
    assert [state_of(after, f"10.0.0.{n}") for n in (5, 6, 7)] == [
        S.AVAILABLE,
        S.COOLING,
        S.ALLOCATED,
    ]
    back = after.applied(reports.readiness(after, {b.PRIMARY: False}, now=8.0))
    assert state_of(back, "10.0.0.5") is S.PREPARING


def test_an_address_is_idle_since_its_use_and_preparing_since_its_eni_was_lost() -> None:
    ledger = b.ledger(b.address("10.0.0.5", since=1.0))
    lost = ledger.applied(reports.readiness(ledger, {b.PRIMARY: False}, now=8.0))
    assert lost.addresses[ip_address("10.0.0.5")].since_boottime == 8.0
    back = lost.applied(reports.readiness(lost, {b.PRIMARY: True}, now=9.0))
    assert back.addresses[ip_address("10.0.0.5")].since_boottime == 8.0


def test_a_lost_answer_that_a_look_settled_is_looked_at_once_more() -> None:
    """The call may have its effect only after this look."""
    lost = intent(IntentKind.ASSIGN, is_open=False)
    ledger = b.ledger().applied(Change(put_intents=(lost,)))
    findings, after = look(ledger, cloud_eni())
    assert not after.intents
    assert findings.wants_second_look
    assert not look(after, cloud_eni())[0].wants_second_look


def hint(*items: str, eni_id: str = b.PRIMARY) -> EniHint:
    return EniHint(eni_id=EniId(eni_id), items=items)


HINTS = {
    "the same": ((hint("10.0.0.32/28", "10.0.0.5"),), False),
    "an address less": ((hint("10.0.0.32/28"),), True),
    "an address more": ((hint("10.0.0.32/28", "10.0.0.5", "10.0.0.6"),), True),
    "an ENI more": ((hint("10.0.0.32/28", "10.0.0.5"), hint(eni_id="eni-0f")), True),
    "no ENI": ((), True),
}


@pytest.mark.parametrize("name", HINTS)
def test_the_metadata_service_differs_where_it_shows(name: str) -> None:
    hints, expected = HINTS[name]
    ledger = b.ledger(
        b.address("10.0.0.5"),
        b.address("10.0.0.33", prefix="10.0.0.32/28"),
        b.address("10.0.0.34", prefix="10.0.0.32/28"),
        b.address("10.0.0.99", S.ALLOCATED, eni_id="", reason="taken over, not seen yet"),
    )
    assert differs(ledger, hints) is expected


def test_of_others_enis_only_the_presence_is_compared() -> None:
    other = replace(b.eni(b.SECONDARY, index=1), is_managed=False)
    ledger = b.ledger(enis=(b.eni(), other))
    assert not differs(ledger, (hint(), hint("10.0.0.9", eni_id=b.SECONDARY)))
    assert differs(ledger, (hint(),))


@pytest.mark.parametrize(
    ("other", "eni_id"),
    [("10.0.0.6", b.PRIMARY), ("2001:db8::5", b.SECONDARY)],
    ids=["two of one family", "of two ENIs"],
)
def test_what_no_attachment_can_hold_is_quarantined_whatever_its_link_says(
    other: str, eni_id: EniId
) -> None:
    rows = (b.address("10.0.0.5", S.COOLING), b.address(other, S.COOLING, eni_id=eni_id))
    ledger = b.ledger(*rows, has_heard_node=False)
    after = hear(ledger, pod("10.0.0.5"), pod(other))
    assert not after.allocations
    assert {state_of(after, a) for a in ("10.0.0.5", other)} == {S.QUARANTINED}
