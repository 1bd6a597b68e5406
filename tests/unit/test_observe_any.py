"""Any ledger meets any look and any report: what follows is always a legal change, takes nothing
from a pod, and settles when the same is shown again."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st

from ipamd.cloud import CloudEni, CloudSnapshot, EniStatus
from ipamd.model import Address, AddressState, Eni, EniId, IPAddress, IPNetwork
from ipamd.pool import attachments, blocks, cooling, observe, reports
from ipamd.pool.ledger import Change, Intent, IntentKind, Ledger
from tests import builders as b

S = AddressState
ENIS = (b.PRIMARY, b.SECONDARY, EniId("eni-0c"))
BLOCKS: tuple[IPNetwork, ...] = (
    IPv4Network("10.0.0.32/28"),
    IPv4Network("10.0.0.48/28"),
    IPv6Network("2001:db8:0:1:2::/80"),
)
SINGLES = tuple(IPv4Address(f"10.0.0.{n}") for n in (5, 6, 7, 33))
REASONS = ("", blocks.MISSING, observe.UNCONFIRMED, reports.FOREIGN, observe.IN_DOUBT)
NOW = 1000.0

PLACES = st.one_of(
    st.tuples(st.sampled_from(SINGLES), st.none()),
    st.sampled_from(BLOCKS).flatmap(
        lambda p: st.tuples(st.integers(0, 3).map(lambda n: p[n]), st.just(p))
    ),
)


@st.composite
def rows(draw: st.DrawFn) -> tuple[Address, ...]:
    places = draw(st.lists(PLACES, max_size=8, unique_by=lambda place: place[0]))
    return tuple(
        Address(
            address=address,
            eni_id=draw(st.sampled_from(ENIS)),
            state=draw(st.sampled_from(S)),
            since_boottime=draw(st.sampled_from((NOW, NOW - 29.0, NOW - 31.0, 0.0))),
            reason=draw(st.sampled_from(REASONS)),
            prefix=prefix,
        )
        for address, prefix in places
    )


@st.composite
def intents(draw: st.DrawFn) -> tuple[Intent, ...]:
    return tuple(
        Intent(
            token=f"t{n}",
            kind=kind,
            eni_id=None if kind is IntentKind.CREATE else draw(st.sampled_from(ENIS)),
            subnet_id=b.SUBNET,
            addresses=draw(st.integers(0, 2)),
            prefixes=draw(st.integers(0, 1)),
            prefixes_v6=draw(st.integers(0, 1)),
            device_index=draw(st.integers(1, 2)),
            network_card=0,
            began_boottime=0.0,
            reason="",
            is_open=draw(st.booleans()),
        )
        for n, kind in enumerate(draw(st.lists(st.sampled_from(IntentKind), max_size=3)))
    )


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    """Rows, holders of the allocated ones, some of the ENIs, and calls in any stage."""
    made = draw(rows())
    held = [a for a in made if a.state is S.ALLOCATED]
    holders = tuple(
        replace(b.allocation(str(a.address), f"c{n}", generation=n + 1), eni_id=a.eni_id)
        for n, a in enumerate(held)
    )
    known = draw(st.sets(st.sampled_from(ENIS)))
    enis = tuple(eni(e, is_ready=draw(st.booleans())) for e in sorted(known))
    ledger = b.ledger(*made, allocations=holders, enis=enis or (b.eni(),))
    calls = {i.token: i for i in draw(intents())}
    # Nothing is given back before the node was heard.
    has_heard = draw(st.booleans()) or any(a.state is S.UNASSIGNING for a in made)
    return replace(ledger, intents=MappingProxyType(calls), has_heard_node=has_heard)


def eni(eni_id: EniId, *, is_ready: bool) -> Eni:
    return b.eni(eni_id, index=ENIS.index(eni_id), is_ready=is_ready)


@st.composite
def looks(draw: st.DrawFn) -> CloudSnapshot:
    """The primary ENI always; each address and prefix on one ENI at most."""
    there = [ENIS[0], *sorted(draw(st.sets(st.sampled_from(ENIS[1:]))))]
    homes: dict[IPAddress | IPNetwork, EniId] = {
        item: draw(st.sampled_from(there))
        for item in draw(st.sets(st.sampled_from((*SINGLES[:3], *BLOCKS))))
    }
    return CloudSnapshot(enis=tuple(cloud_eni(draw, e, homes) for e in there), vpc_cidrs=())


def cloud_eni(
    draw: st.DrawFn, eni_id: EniId, homes: dict[IPAddress | IPNetwork, EniId]
) -> CloudEni:
    known = eni(eni_id, is_ready=False)
    items = [i for i, home in homes.items() if home == eni_id]
    status = draw(st.sampled_from(EniStatus)) if eni_id != ENIS[0] else EniStatus.ATTACHED
    return CloudEni(
        eni_id=eni_id,
        mac=known.mac,
        status=status,
        subnet_id=b.SUBNET,
        subnet_cidr=b.CIDR,
        primary_address=known.primary_address,
        addresses=tuple(i for i in items if isinstance(i, IPv4Address)),
        prefixes=tuple(i for i in items if isinstance(i, IPv4Network | IPv6Network)),
        device_index=known.device_index,
        network_card=0,
        is_primary=known.is_primary,
        is_managed=draw(st.booleans()),
    )


def taken_in(ledger: Ledger, look: CloudSnapshot, now: float) -> Ledger:
    return ledger.applied(observe.cloud(ledger, look, now=now).change)


@settings(max_examples=400, deadline=None)
@given(ledger=ledgers(), look=looks())
def test_any_look_is_a_legal_change_and_takes_nothing_from_a_pod(
    ledger: Ledger, look: CloudSnapshot
) -> None:
    after = taken_in(ledger, look, NOW)
    assert set(after.allocations) == set(ledger.allocations)
    for holder in after.allocations.values():
        row = after.addresses[holder.address]
        assert row.state is S.ALLOCATED
        assert row.eni_id == holder.eni_id or row == ledger.addresses[holder.address]


@settings(max_examples=200, deadline=None)
@given(ledger=ledgers(), look=looks())
def test_the_same_look_again_and_again_settles(ledger: Ledger, look: CloudSnapshot) -> None:
    ledger = replace(ledger, intents=MappingProxyType({}))
    for n in range(4):
        ledger = taken_in(ledger, look, NOW + 31.0 * n)
    findings = observe.cloud(ledger, look, now=NOW + 200.0)
    assert not findings.change
    assert not findings.wants_second_look


@settings(max_examples=200, deadline=None)
@given(ledger=ledgers(), used=st.sets(st.sampled_from((*SINGLES, *(p[1] for p in BLOCKS)))))
def test_any_report_is_a_legal_change(ledger: Ledger, used: set[IPAddress]) -> None:
    pods = [
        reports.ObservedPod(
            address=address,
            link_name="eni1",
            key=b.key(f"k{n // 2}") if n % 3 else None,
            netns_cookie=7,
            network_name="net",
            pod_namespace="d",
            pod_name="p",
        )
        for n, address in enumerate(sorted(used, key=lambda a: (a.version, int(a))))
    ]
    findings = reports.node(ledger, pods, now=NOW, now_unix=0.0)
    after = ledger.applied(findings.change)
    assert set(ledger.allocations) <= set(after.allocations)
    ready = reports.readiness(after, dict.fromkeys(ENIS, True), now=NOW)
    after = after.applied(ready)
    after = after.applied(attachments.expired_tombstones(after, now=NOW))
    cleared = cooling.running(after).keys()
    after = after.applied(cooling.ended(after, cleared, cooldown_seconds=30.0, now=NOW))
    after.applied(blocks.opened(after, max_pods=110, now=NOW))


@settings(max_examples=200, deadline=None)
@given(ledger=ledgers(), data=st.data())
def test_any_release_is_a_legal_change(ledger: Ledger, data: st.DataObject) -> None:
    for key in ledger.allocations:
        released = attachments.release(
            ledger, key, is_foreign_use=data.draw(st.booleans()), now=NOW
        )
        ledger = ledger.applied(released.change)
    assert not ledger.allocations
    assert ledger.applied(Change()) == ledger
