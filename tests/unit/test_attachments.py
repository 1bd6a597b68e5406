from __future__ import annotations

import pytest

from ipamd.errors import AttachmentConflict, AttemptRevoked, NotReady
from ipamd.model import AddressState, AttemptId
from ipamd.pool import attachments, reports
from ipamd.pool.attachments import TOMBSTONE_SECONDS, Granted, Outcome
from ipamd.pool.choice import Rules, choose
from ipamd.pool.ledger import Change, Ledger
from tests import builders as b

S = AddressState


def grant(ledger: Ledger, name: str = "c1", **parts: object) -> Granted | None:
    return attachments.grant(
        ledger,
        b.request(name, **parts),  # type: ignore[arg-type]
        rules=Rules(max_pods=10),
        now=1000.0,
        now_unix=5.0,
    )


def test_an_available_address_becomes_the_attachments() -> None:
    ledger = b.ledger(b.address("10.0.0.5"))
    granted = grant(ledger)
    assert granted is not None
    after = ledger.applied(granted.change)
    assert after.allocations[b.key()].address == granted.allocation.address
    assert after.count(S.ALLOCATED) == 1
    assert after.next_generation == ledger.next_generation + 1


def test_nothing_is_given_while_every_address_cools() -> None:
    assert grant(b.ledger(b.address("10.0.0.5", S.COOLING, since=990.0))) is None


def test_the_same_namespace_gets_the_same_address_again() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5", S.ALLOCATED),
        b.address("10.0.0.6"),
        allocations=(b.allocation("10.0.0.5", cookie=7),),
    )
    granted = grant(ledger, cookie=7)
    assert granted is not None and granted.is_repeat
    assert str(granted.allocation.address) == "10.0.0.5"
    assert ledger.applied(granted.change).allocations[b.key()].attempt_id == AttemptId("b" * 16)


def test_another_namespace_under_the_same_key_is_a_conflict() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5", S.ALLOCATED), allocations=(b.allocation("10.0.0.5", cookie=7),)
    )
    with pytest.raises(AttachmentConflict):
        grant(ledger, cookie=8)


def test_a_ledger_that_has_not_heard_the_node_gives_out_nothing() -> None:
    with pytest.raises(NotReady):
        grant(b.ledger(b.address("10.0.0.5"), has_heard_node=False))


def test_max_pods_caps_what_is_given_out() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5", S.ALLOCATED),
        b.address("10.0.0.6"),
        allocations=(b.allocation("10.0.0.5", "c0"),),
    )
    given = attachments.grant(ledger, b.request(), rules=Rules(max_pods=1), now=1.0, now_unix=1.0)
    assert given is None


def test_the_fullest_eni_is_used_first() -> None:
    ledger = b.ledger(
        b.address("10.0.0.5"),
        b.address("10.0.0.9", S.ALLOCATED, eni_id=b.SECONDARY),
        b.address("10.0.0.10", eni_id=b.SECONDARY),
        allocations=(b.allocation("10.0.0.9", "c0", eni_id=b.SECONDARY),),
        enis=(b.eni(), b.eni(b.SECONDARY, index=1)),
    )
    chosen = choose(ledger, Rules(max_pods=10))
    assert [a.eni_id for a in chosen] == [b.SECONDARY]


def test_the_longest_idle_address_is_used_first() -> None:
    ledger = b.ledger(b.address("10.0.0.5", since=90.0), b.address("10.0.0.6", since=20.0))
    chosen = choose(ledger, Rules(max_pods=10))
    assert [str(a.address) for a in chosen] == ["10.0.0.6"]


def test_an_eni_that_is_not_ready_is_passed_over() -> None:
    ledger = b.ledger(b.address("10.0.0.5"), enis=(b.eni(is_ready=False),))
    assert choose(ledger, Rules(max_pods=10)) == ()


def held() -> Ledger:
    return b.ledger(
        b.address("10.0.0.5", S.ALLOCATED),
        allocations=(b.allocation("10.0.0.5", generation=4, attempt="a" * 16),),
    )


def test_a_release_starts_the_cooldown() -> None:
    ledger = held()
    released = attachments.release(ledger, b.key(), now=1000.0)
    after = ledger.applied(released.change)
    assert released.outcome is Outcome.RELEASED
    assert [(a.state, a.since_boottime) for a in after.addresses.values()] == [(S.COOLING, 1000.0)]
    assert not after.allocations


def test_a_release_of_another_generation_changes_nothing() -> None:
    released = attachments.release(held(), b.key(), generation=3, now=1000.0)
    assert released.outcome is Outcome.OTHER_GENERATION
    assert not released.change


def test_a_rollback_of_an_older_attempt_keeps_the_newer_ones_address() -> None:
    ledger = held()
    released = attachments.release(ledger, b.key(), attempt_id=AttemptId("f" * 16), now=1000.0)
    assert released.outcome is Outcome.OTHER_GENERATION
    assert b.key() in ledger.applied(released.change).allocations


def test_an_address_in_foreign_use_is_quarantined_and_not_cooled() -> None:
    ledger = held()
    released = attachments.release(
        ledger, b.key(), is_foreign_use=True, reason="route to veth9", now=1000.0
    )
    after = ledger.applied(released.change)
    assert after.count(S.QUARANTINED) == 1
    assert "route to veth9" in next(iter(after.in_state(S.QUARANTINED))).reason


def test_an_address_in_foreign_use_comes_back_when_the_node_uses_it_no_more() -> None:
    ledger = held()
    released = attachments.release(
        ledger, b.key(), is_foreign_use=True, reason="route to veth9", now=1000.0
    )
    after = ledger.applied(released.change)
    heard = reports.node(after, (), now=1001.0, now_unix=0.0)
    assert after.applied(heard.change).count(S.COOLING) == 1


def test_an_unknown_key_leaves_a_tombstone_that_refuses_the_older_attempt() -> None:
    ledger = b.ledger(b.address("10.0.0.5"))
    released = attachments.release(ledger, b.key(), now=1000.0)
    after = ledger.applied(released.change)
    assert released.outcome is Outcome.UNKNOWN_KEY
    with pytest.raises(AttemptRevoked):
        grant(after, began=999.0)


def test_a_tombstone_lets_a_newer_attempt_through() -> None:
    ledger = b.ledger(b.address("10.0.0.5"))
    after = ledger.applied(attachments.release(ledger, b.key(), now=1000.0).change)
    granted = grant(after, began=1000.5)
    assert granted is not None
    assert not after.applied(granted.change).tombstones


def test_a_tombstone_of_one_attempt_refuses_only_that_attempt() -> None:
    ledger = b.ledger(b.address("10.0.0.5"))
    change = attachments.release(ledger, b.key(), attempt_id=AttemptId("b" * 16), now=2000.0).change
    after = ledger.applied(change)
    with pytest.raises(AttemptRevoked):
        grant(after, attempt="b" * 16)
    assert grant(after, attempt="c" * 16) is not None


def test_tombstones_end_after_their_time() -> None:
    ledger = b.ledger()
    after = ledger.applied(attachments.release(ledger, b.key(), now=0.0).change)
    assert attachments.expired_tombstones(after, now=TOMBSTONE_SECONDS - 1) == (Change())
    ended = attachments.expired_tombstones(after, now=TOMBSTONE_SECONDS)
    assert not after.applied(ended).tombstones
