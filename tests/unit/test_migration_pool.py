"""aws-node's allocations into the ledger and back, as values."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.migration_format import Entry
from ipamd.model import AddressState, Allocation, WiredBy
from ipamd.pool import attachments, migrate
from ipamd.pool.blocks import MISSING
from ipamd.pool.choice import Rules
from ipamd.pool.ledger import Ledger
from ipamd.pool.migrate import HELD_NETWORK, IMPORTED, TakenIn
from ipamd.pool.reports import FOREIGN, ObservedPod
from tests import builders as b

S = AddressState


def entry(
    text: str, container: str = "c1", ifname: str = "eth0", *, at: int = 1, **more: object
) -> Entry:
    made = Entry(
        network_name="aws-cni",
        container_id=container,
        ifname=ifname,
        addresses=tuple(ip_address(t) for t in text.split()),
        allocated_unix_ns=at * 10**9,
        pod_namespace="default",
        pod_name=f"pod-{container}",
        interfaces=1,
    )
    return replace(made, **more)  # type: ignore[arg-type]


def new_ledger() -> Ledger:
    return Ledger(epoch="e", has_heard_node=False)


def take(
    *entries: Entry, further: tuple[Entry, ...] = (), ledger: Ledger | None = None
) -> tuple[TakenIn, Ledger]:
    before = ledger or new_ledger()
    files = {0: entries} | ({1: further} if further else {})
    taken = migrate.take_in(before, files, now=50.0)
    return taken, before.applied(taken.change)


def keys(ledger: Ledger) -> dict[str, str]:
    return {str(k): " ".join(map(str, a.addresses)) for k, a in ledger.allocations.items()}


def test_an_entry_becomes_an_allocation_that_the_peer_wired() -> None:
    _, after = take(entry("10.0.0.7", at=5))
    assert after.allocations[b.key("c1")] == Allocation(
        key=b.key("c1"),
        addresses=(ip_address("10.0.0.7"),),
        eni_id=migrate.UNKNOWN_ENI,
        network_name="aws-cni",
        attempt_id=IMPORTED,
        generation=1,
        netns_cookie=0,
        pod_namespace="default",
        pod_name="pod-c1",
        pod_uid="",
        allocated_unix=5.0,
        wired_by=WiredBy.PEER,
    )
    assert after.addresses[ip_address("10.0.0.7")].state is S.ALLOCATED
    assert not after.has_heard_node


def test_a_pod_of_several_cards_has_a_key_for_each() -> None:
    taken, after = take(entry("10.0.0.7"), further=(entry("10.0.0.71"),))
    assert keys(after) == {"c1/eth0": "10.0.0.7", "c1/mNicIf1": "10.0.0.71"}
    assert taken.unusable == ()


def test_a_pod_that_only_another_card_served_keeps_its_own_key() -> None:
    _, after = take(further=(entry("10.0.0.71"),))
    assert keys(after) == {"c1/eth0": "10.0.0.71"}


def test_an_entry_from_before_version_1_6_is_found_under_the_name_that_a_delete_has() -> None:
    old = entry("10.0.0.7", ifname="unknown", network_name="_migrated-from-cri")
    _, after = take(old)
    assert keys(after) == {"c1/eth0": "10.0.0.7"}


@pytest.mark.parametrize(
    ("entries", "kept", "why"),
    [
        pytest.param((entry("10.0.0.7", ""),), {}, "container_id ''", id="no container"),
        pytest.param((entry("10.0.0.7", "../x"),), {}, "container_id", id="no container id"),
        pytest.param((entry("10.0.0.7", ifname="a/b"),), {}, "ifname", id="no interface name"),
        pytest.param(
            (entry("10.0.0.7", at=1), entry("10.0.0.8", at=2)),
            {"c1/eth0": "10.0.0.8"},
            "a younger entry holds attachment c1/eth0",
            id="one key twice",
        ),
    ],
)
def test_an_entry_of_no_use_is_named_and_its_address_kept_from_other_pods(
    entries: tuple[Entry, ...], kept: dict[str, str], why: str
) -> None:
    taken, after = take(*entries)
    (unusable,) = taken.unusable
    assert why in unusable.why
    assert "10.0.0.7" in str(unusable)
    assert keys(after) == kept | {"in-use-10.0.0.7/unknown": "10.0.0.7"}
    held = after.allocation_of(ip_address("10.0.0.7"))
    assert held is not None
    assert held.network_name == HELD_NETWORK


def test_of_two_entries_of_one_address_the_younger_holds_it() -> None:
    taken, after = take(entry("10.0.0.7", "old", at=1), entry("10.0.0.7", "new", at=2))
    assert keys(after) == {"new/eth0": "10.0.0.7"}
    assert [u.entry.container_id for u in taken.unusable] == ["old"]


def test_an_ipv6_address_that_is_held_has_a_key_that_cni_allows() -> None:
    _, after = take(entry("2001:db8::7", ""))
    assert keys(after) == {"in-use-2001-db8--7/unknown": "2001:db8::7"}


def test_what_the_ledger_gave_to_another_stays_there() -> None:
    ledger = b.ledger(
        b.address("10.0.0.7", S.ALLOCATED),
        allocations=(b.allocation("10.0.0.7", "ours"),),
        has_heard_node=False,
    )
    taken, after = take(entry("10.0.0.7", "theirs"), ledger=ledger)
    assert keys(after) == {"ours/eth0": "10.0.0.7"}
    assert len(taken.unusable) == 1


containers = st.sampled_from(["a", "b", "c", "../d", ""])
entries_of_a_file = st.lists(
    st.builds(
        entry,
        st.sampled_from([f"10.0.0.{n}" for n in range(6)]),
        containers,
        st.sampled_from(["eth0", "net1", "mNicIf1", "x/y"]),
        at=st.integers(1, 5),
    ),
    max_size=8,
).map(tuple)


@given(entries_of_a_file, entries_of_a_file)
def test_every_address_of_every_entry_is_kept_from_other_pods(
    first: tuple[Entry, ...], second: tuple[Entry, ...]
) -> None:
    taken, after = take(*first, further=second)
    for held in (*first, *second):
        for address in held.addresses:
            assert after.addresses[address].state is S.ALLOCATED
            assert after.allocation_of(address) is not None
    generations = [a.generation for a in after.allocations.values()]
    assert len(set(generations)) == len(generations)
    assert after.next_generation > max(generations, default=0)
    assert len(taken.adopted) + len(taken.unusable) == len(first) + len(second)


@given(entries_of_a_file, entries_of_a_file)
def test_taking_in_twice_changes_nothing(
    first: tuple[Entry, ...], second: tuple[Entry, ...]
) -> None:
    _, once = take(*first, further=second)
    again, _ = take(*first, further=second, ledger=once)
    assert not again.change


def pod(text: str, name: str | None, ifname: str = "eth0") -> ObservedPod:
    return ObservedPod(
        address=ip_address(text),
        link_name="eni1",
        key=b.key(name, ifname) if name else None,
        netns_cookie=9,
        network_name="vpc-ipamd",
        pod_namespace="default",
        pod_name="p",
    )


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        pytest.param(pod("10.0.0.7", None), {"c1/eth0"}, id="the peer's link, without a name"),
        pytest.param(pod("10.0.0.7", "c1"), set(), id="a link of ours under the key"),
        pytest.param(pod("10.0.0.7", "c9"), set(), id="a link of ours under another key"),
        pytest.param(pod("10.0.0.9", "c1"), set(), id="our link of the key has another address"),
        pytest.param(pod("10.0.0.9", "c9"), {"c1/eth0"}, id="another pod"),
    ],
)
def test_a_link_of_ours_is_believed_before_the_file(seen: ObservedPod, left: set[str]) -> None:
    _, ledger = take(entry("10.0.0.7"))
    after = ledger.applied(migrate.outranked(ledger, [seen], now=60.0))
    assert set(keys(after)) == left
    expected = S.ALLOCATED if left else S.COOLING
    assert after.addresses[ip_address("10.0.0.7")].state is expected


def test_an_allocation_of_our_own_is_never_outranked_nor_called_unseen() -> None:
    ours = b.allocation("10.0.0.7", "c1")
    ledger = b.ledger(b.address("10.0.0.7", S.ALLOCATED), allocations=(ours,))
    assert not migrate.outranked(ledger, [pod("10.0.0.7", "c9")], now=60.0)
    assert migrate.unseen(ledger, set()) == frozenset()


def test_an_imported_allocation_is_unseen_where_the_kernel_has_nothing_of_it() -> None:
    _, ledger = take(entry("10.0.0.7", "c1"), entry("10.0.0.8", "c2"))
    assert migrate.unseen(ledger, {ip_address("10.0.0.7")}) == {b.key("c2")}


def back(ledger: Ledger) -> migrate.HandBack:
    return migrate.hand_back(ledger, network_name="aws-cni")


@given(entries_of_a_file)
def test_forward_and_back_names_every_address(file: tuple[Entry, ...]) -> None:
    _, ledger = take(*file)
    given_back = [a for e in back(ledger).files[0] for a in e.addresses]
    assert sorted(given_back) == sorted({a for e in file for a in e.addresses})


def test_forward_and_back_is_the_same_file() -> None:
    files = {
        0: (entry("10.0.0.7", "a", interfaces=2), entry("10.0.0.8", "b")),
        1: (entry("10.0.0.71", "a", interfaces=2), entry("10.0.0.72", "spilled")),
    }
    taken = migrate.take_in(new_ledger(), files, now=50.0)
    ledger = new_ledger().applied(taken.change)
    second = replace(b.eni(b.SECONDARY, index=1), network_card=1)
    home = {7: b.PRIMARY, 8: b.PRIMARY, 71: b.SECONDARY, 72: b.SECONDARY}
    ledger = replace(
        ledger,
        enis={b.PRIMARY: b.eni(), b.SECONDARY: second},
        allocations=MappingProxyType(
            {
                k: replace(a, eni_id=home[int(a.address) & 255])
                for k, a in ledger.allocations.items()
            }
        ),
    )
    assert {n: set(e) for n, e in back(ledger).files.items()} == {
        n: set(e) for n, e in files.items()
    }


def test_a_pod_of_ours_goes_under_the_name_that_the_plugin_will_ask_for() -> None:
    ledger = b.ledger(
        b.address("10.0.0.7", S.ALLOCATED), allocations=(b.allocation("10.0.0.7", "c1"),)
    )
    (made,) = back(ledger).files[0]
    assert (made.network_name, made.container_id, made.ifname) == ("aws-cni", "c1", "eth0")
    assert (made.pod_namespace, made.pod_name) == ("default", "c1")


@pytest.mark.parametrize(
    ("ifname", "wired_by"),
    [("net1", WiredBy.US), ("eth0", WiredBy.MAIN_PLUGIN)],
    ids=["further attachment", "main plugin"],
)
def test_a_link_whose_name_the_peer_could_not_guess_goes_without_the_pod_s_name(
    ifname: str, wired_by: WiredBy
) -> None:
    other = replace(b.allocation("10.0.0.7", "c1"), key=b.key("c1", ifname), wired_by=wired_by)
    ledger = b.ledger(b.address("10.0.0.7", S.ALLOCATED), allocations=(other,))
    (made,) = back(ledger).files[0]
    assert (made.ifname, made.pod_namespace, made.pod_name, made.interfaces) == (ifname, "", "", 0)


def test_an_entry_from_before_version_1_6_goes_back_under_its_old_name() -> None:
    old = entry(
        "10.0.0.7",
        ifname="unknown",
        network_name="_migrated-from-cri",
        pod_name="",
        pod_namespace="",
        interfaces=0,
    )
    _, ledger = take(old)
    assert back(ledger).files[0] == (old,)


def test_what_the_peer_cannot_be_told_is_named() -> None:
    ledger = b.ledger(
        b.address("10.0.0.7", S.ALLOCATED, eni_id="eni-gone"),
        b.address("10.0.0.8", S.COOLING),
        b.address("10.0.0.9", S.QUARANTINED, reason=FOREIGN),
        b.address("10.0.0.10", S.QUARANTINED, reason=MISSING),
        allocations=(b.allocation("10.0.0.7", "c1", eni_id="eni-gone"),),
    )
    made = back(ledger)
    assert [str(a.address) for a in made.unplaced] == ["10.0.0.7"]
    assert [str(a.address) for a in made.cooling] == ["10.0.0.8"]
    assert [str(a.address) for a in made.foreign] == ["10.0.0.9"]
    assert [e.container_id for e in made.files[0]] == ["c1", "in-use-10.0.0.9"]


def test_an_imported_address_is_not_given_to_a_pod_of_ours() -> None:
    _, ledger = take(entry("10.0.0.7"))
    ready = replace(ledger, has_heard_node=True, enis={b.PRIMARY: b.eni()})
    granted = attachments.grant(
        ready, b.request("c2"), rules=Rules(max_pods=9), now=60.0, now_unix=0.0
    )
    assert granted is None
