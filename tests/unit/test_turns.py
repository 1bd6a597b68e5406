from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.errors import BadRequest, NotReady
from ipamd.model import EniId
from ipamd.pool.ledger import Ledger
from ipamd.pool.turns import Claim, find_eni, open_enis, wanted_eni
from tests import builders as b

A, B, C = EniId("eni-a"), EniId("eni-b"), EniId("eni-c")
CARDS = {A: 0, B: 0, C: 1}
ANY, ON_A, ON_B, CARD_1 = Claim(), Claim(eni_id=A), Claim(eni_id=B), Claim(network_card=1)

TURNS = {
    "nobody is ahead": ({A: 1}, [], ANY, {A}),
    "one is ahead for the only address": ({A: 1}, [ANY], ANY, set()),
    "there is one more than those ahead": ({A: 2}, [ANY], ANY, {A}),
    "who waits for a full ENI holds up nobody": ({B: 1}, [ON_A], ANY, {B}),
    "and nobody passes who waits for that ENI": ({A: 1, B: 1}, [ON_A], ANY, {B}),
    "whatever is left of that ENI is everybody's": ({A: 2, B: 1}, [ON_A], ANY, {A, B}),
    "those ahead who take any can take another's": ({A: 1, B: 1}, [ANY], ON_A, {A}),
    "those ahead who take any have nothing else": ({A: 1}, [ANY], ON_A, set()),
    "another ENI's address does not serve": ({B: 5}, [], ON_A, set()),
    "two for one ENI come in order": ({A: 1, B: 5}, [ON_A], ON_A, set()),
    "two for two ENIs do not meet": ({A: 1, B: 1}, [ON_A], ON_B, {B}),
    "a card's claim does not hold up the default": ({A: 1, C: 1}, [CARD_1], ON_A, {A}),
    "a card is served by that card alone": ({A: 1, C: 1}, [], CARD_1, {C}),
}


@pytest.mark.parametrize("case", TURNS)
def test_an_attachment_may_take_what_those_ahead_leave_it(case: str) -> None:
    free, ahead, own, expected = TURNS[case]
    assert open_enis(free, CARDS, ahead, own) == expected


claims = st.sampled_from([ANY, ON_A, ON_B])


@given(
    free=st.dictionaries(st.sampled_from([A, B]), st.integers(1, 3)),
    ahead=st.lists(claims, max_size=5),
    own=claims,
)
def test_a_turn_leaves_enough_for_everybody_ahead(
    free: dict[EniId, int], ahead: list[Claim], own: Claim
) -> None:
    """Whoever ahead could be served before it, in the order of the pinned first, still can."""
    for taken in open_enis(free, CARDS, ahead, own):
        assert served(free, ahead) == served({**free, taken: free[taken] - 1}, ahead)


def served(free: dict[EniId, int], ahead: list[Claim]) -> int:
    """How many of them the addresses serve at best."""
    pinned = sum(min(free.get(e, 0), sum(c.eni_id == e for c in ahead)) for e in (A, B))
    left = sum(free.values()) - pinned
    return pinned + min(left, sum(c.eni_id is None for c in ahead))


def test_primary_and_an_id_name_the_same_eni() -> None:
    ledger = b.ledger(enis=(b.eni(), b.eni(b.SECONDARY, index=1)))
    assert wanted_eni(ledger, "primary").eni_id == wanted_eni(ledger, b.PRIMARY).eni_id


NICS = "/subscriptions/s/resourcegroups/{}/providers/microsoft.network/networkinterfaces/{}"


@pytest.mark.parametrize(
    ("wish", "found"),
    [
        (NICS.format("g", "nic1"), "nic1"),
        (
            "/subscriptions/S/resourceGroups/G/providers/Microsoft.Network/networkInterfaces/NIC1",
            "nic1",
        ),
        ("nic1", "nic1"),
        ("Nic0", "nic0"),
        ("primary", "nic0"),
        ("twin", None),
        ("networkinterfaces/nic1", None),
        ("", None),
    ],
    ids=["id", "as the portal has it", "name", "any case", "primary", "of two", "part", "nothing"],
)
def test_on_azure_an_eni_is_wanted_by_its_id_or_its_name(wish: str, found: str | None) -> None:
    ledger = b.ledger(
        enis=(
            b.eni(NICS.format("g", "nic0")),
            b.eni(NICS.format("g", "nic1"), index=1),
            b.eni(NICS.format("g", "twin"), index=2),
            b.eni(NICS.format("h", "twin"), index=3),
        )
    )
    eni = find_eni(ledger, wish)
    assert (eni.eni_id.rpartition("/")[2] if eni else None) == found


def test_a_refusal_shows_the_whole_of_a_long_id() -> None:
    wish = NICS.format("g" * 90, "n" * 80)
    with pytest.raises(BadRequest, match="n" * 80):
        wanted_eni(b.ledger(), wish)


def test_an_eni_of_another_node_is_refused_with_those_of_this_one() -> None:
    with pytest.raises(BadRequest, match=r"'eni-9' is not one of this node; .* eni-0a"):
        wanted_eni(b.ledger(), "eni-9")


def test_before_any_eni_is_known_none_is_refused() -> None:
    with pytest.raises(NotReady):
        wanted_eni(Ledger(epoch="e", has_heard_node=True), "eni-9")
