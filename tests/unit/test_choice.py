"""The choice of addresses against its definition, written without any thought of speed."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ipamd.model import Address, AddressState, Eni, EniId
from ipamd.pool.choice import Rules, choose, choose_ahead, free_by_eni
from ipamd.pool.ledger import Ledger
from tests import builders as b

S = AddressState
ENIS = (b.PRIMARY, b.SECONDARY, EniId("eni-0c"))


def defined(
    ledger: Ledger, rules: Rules, network_card: int, among: frozenset[EniId] | None
) -> tuple[Address, ...]:
    """Every address against every other, by the whole order of preference."""

    def is_free(address: Address) -> bool:
        eni = ledger.enis.get(address.eni_id)
        return (
            address.state is S.AVAILABLE
            and eni is not None
            and eni.is_ready
            and network_card in (0, eni.network_card)
            and (among is None or address.eni_id in among)
        )

    def pods(**same: object) -> int:
        return sum(
            a.state is S.ALLOCATED and all(getattr(a, k) == v for k, v in same.items())
            for a in ledger.addresses.values()
        )

    def preference(address: Address) -> tuple[object, ...]:
        eni: Eni = ledger.enis[address.eni_id]
        is_block = address.prefix is not None
        return (
            eni.network_card,
            address.address.version == 4 and is_block is not rules.prefers_prefixes,
            -pods(eni_id=eni.eni_id),
            eni.device_index,
            -pods(eni_id=eni.eni_id, prefix=address.prefix) if is_block else 0,
            address.since_boottime,
            int(address.address),
        )

    ordered = sorted(filter(is_free, ledger.addresses.values()), key=preference)
    for first in ordered:
        if first.address.version != rules.versions[0]:
            continue
        own = [a for a in ordered if a.eni_id == first.eni_id]
        found = [[a for a in own if a.address.version == v][:1] for v in rules.versions]
        if all(found):
            return tuple(one[0] for one in found)
    return ()


@st.composite
def ledgers(draw: st.DrawFn) -> Ledger:
    enis = tuple(
        replace(
            b.eni(eni_id, index=index, is_ready=draw(st.booleans() | st.just(value=True))),
            network_card=draw(st.sampled_from([0, 0, 1])),
        )
        for index, eni_id in enumerate(ENIS)
    )
    numbers = draw(st.lists(st.integers(16, 47), unique=True, max_size=14))
    return b.ledger(*(draw(addresses(number)) for number in numbers), enis=enis)


@st.composite
def addresses(draw: st.DrawFn, number: int) -> Address:
    is_v6 = draw(st.sampled_from([False, False, True]))
    block = f"10.0.0.{number & ~15}/28"
    return b.address(
        f"2600::{number & 15:x}:{number:x}" if is_v6 else f"10.0.0.{number}",
        draw(st.sampled_from([S.AVAILABLE, S.AVAILABLE, S.ALLOCATED, S.COOLING])),
        eni_id=draw(st.sampled_from(ENIS)),
        since=draw(st.sampled_from([1.0, 2.0])),
        prefix=draw(st.sampled_from([f"2600::{number & 15:x}:0/112" if is_v6 else block, ""])),
    )


RULES = st.builds(
    Rules,
    max_pods=st.just(9),
    versions=st.sampled_from([(4,), (6,), (4, 6)]),
    prefers_prefixes=st.booleans(),
)


@given(
    ledgers(),
    RULES,
    st.sampled_from([0, 0, 1]),
    st.none() | st.frozensets(st.sampled_from(ENIS)),
)
def test_the_choice_is_the_one_that_the_order_of_preference_defines(
    ledger: Ledger, rules: Rules, network_card: int, among: frozenset[EniId] | None
) -> None:
    chosen = choose(ledger, rules, network_card=network_card, among=among)

    assert chosen == defined(ledger, rules, network_card, among)


@given(ledgers(), RULES)
def test_an_eni_counts_as_free_where_something_could_be_chosen_from_it(
    ledger: Ledger, rules: Rules
) -> None:
    free = free_by_eni(ledger, rules)

    for eni_id in ENIS:
        chosen = choose(ledger, rules, among=frozenset({eni_id}))
        assert bool(chosen) == (free.get(eni_id, 0) > 0)


@given(
    st.tuples(ledgers(), ledgers()),
    st.tuples(RULES, RULES),
    st.sampled_from([0, 0, 1]),
    st.none() | st.frozensets(st.sampled_from(ENIS)),
    st.booleans(),
)
def test_a_choice_that_was_made_ahead_changes_nothing(
    found: tuple[Ledger, Ledger],
    rules: tuple[Rules, Rules],
    network_card: int,
    among: frozenset[EniId] | None,
    is_of_this: bool,
) -> None:
    ahead = choose_ahead(found[0], rules[0]) if is_of_this else choose_ahead(found[1], rules[1])

    chosen = choose(found[0], rules[0], network_card=network_card, among=among, ahead=ahead)

    assert chosen == defined(found[0], rules[0], network_card, among)


def test_a_choice_that_was_made_ahead_is_taken() -> None:
    ledger, rules = b.ledger(b.address("10.0.0.5")), Rules(max_pods=9)
    marked = replace(choose_ahead(ledger, rules), chosen=(b.address("10.0.0.9"),))

    assert choose(ledger, rules, ahead=marked) == marked.chosen
