"""The arithmetic of the WARM_* settings as tables.

Rows marked "aws-node" give what its documented formula gives (its docs/eni-and-ip-target.md);
where ours differs on purpose, the id says how.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.pool.targets import Counts, Targets, can_lose, deficit, excess

SLOTS = 9  # m5.large: 10 addresses per ENI, one of them its own


def targets(enis: int = 0, warm: int = 0, minimum: int = 0, pods: int = 100) -> Targets:
    return Targets(warm_enis=enis, warm_addresses=warm, minimum_addresses=minimum, max_pods=pods)


def counts(
    allocated: int = 0,
    available: int = 0,
    cooling: int = 0,
    incoming: int = 0,
    waiting: int = 0,
    preparing: int = 0,
) -> Counts:
    return Counts(
        allocated=allocated,
        available=available,
        preparing=preparing,
        cooling=cooling,
        incoming=incoming,
        waiting=waiting,
    )


DEFICITS = [
    ("WARM_IP 5: short of one", targets(warm=5), counts(3, 4), 1),
    ("WARM_IP 5: met", targets(warm=5), counts(3, 5), 0),
    ("WARM_IP 5: a call in flight counts", targets(warm=5), counts(3, 1, incoming=4), 0),
    ("WARM_IP 5: preparing addresses count", targets(warm=5), counts(3, 1, preparing=4), 0),
    ("aws-node: MINIMUM 10 on an empty node", targets(minimum=10), counts(), 10),
    ("aws-node: WARM 2, MINIMUM 10, 3 pods", targets(warm=2, minimum=10), counts(3, 7), 0),
    ("aws-node: WARM 2, MINIMUM 10, 9 pods", targets(warm=2, minimum=10), counts(9, 1), 1),
    ("differs: cooling is not available", targets(warm=2, minimum=23), counts(19, 0, 4), 2),
    ("waiting attachments come on top", targets(warm=1), counts(9, 0, waiting=3), 4),
    ("WARM_ENI 1: half an ENI free", targets(enis=1), counts(5, 4), 5),
    ("WARM_ENI 1: a whole ENI free", targets(enis=1), counts(5, 9), 0),
    ("WARM_ENI 0: nothing free", targets(), counts(9), 9),
    ("WARM_ENI 0: one free", targets(), counts(8, 1), 0),
    ("WARM_ENI 0: more wait than an ENI has", targets(), counts(9, waiting=12), 12),
    ("max_pods caps the growth", targets(warm=5, pods=10), counts(8, 1), 1),
    ("max_pods reached", targets(warm=5, pods=10), counts(8, 2), 0),
]


@pytest.mark.parametrize(
    ("wish", "pool", "wanted"), [row[1:] for row in DEFICITS], ids=[row[0] for row in DEFICITS]
)
def test_deficit(wish: Targets, pool: Counts, wanted: int) -> None:
    assert deficit(wish, pool, slots_per_eni=SLOTS) == wanted


EXCESSES = [
    ("above WARM_IP", targets(warm=2), counts(3, 6), 4),
    ("the minimum keeps them", targets(warm=2, minimum=10), counts(3, 9), 2),
    ("WARM_ENI gives back whole ENIs only", targets(enis=1), counts(0, 18), 0),
    ("nothing while somebody waits", targets(warm=1), counts(3, 6, waiting=1), 0),
]


@pytest.mark.parametrize(
    ("wish", "pool", "over"), [row[1:] for row in EXCESSES], ids=[row[0] for row in EXCESSES]
)
def test_excess(wish: Targets, pool: Counts, over: int) -> None:
    assert excess(wish, pool) == over


@pytest.mark.parametrize(
    ("wish", "pool", "idle", "may_go"),
    [
        (targets(enis=1), counts(0, 18), 9, True),
        (targets(enis=1), counts(0, 17), 9, False),
        (targets(warm=5), counts(4, 14), 9, True),
        (targets(warm=5, minimum=12), counts(2, 18), 9, False),
        (targets(), counts(3, 9), 9, False),
    ],
    ids=["a second warm ENI", "one short", "warm met without", "the minimum", "the last free ones"],
)
def test_an_idle_eni_may_go(wish: Targets, pool: Counts, idle: int, may_go: bool) -> None:
    assert can_lose(wish, pool, available=idle, slots_per_eni=SLOTS) is may_go


SMALL = st.integers(0, 60)


@given(
    wish=st.builds(targets, enis=st.integers(0, 3), warm=SMALL, minimum=SMALL, pods=SMALL),
    pool=st.builds(
        counts, allocated=SMALL, available=SMALL, cooling=SMALL, incoming=SMALL, waiting=SMALL
    ),
)
def test_growth_never_passes_max_pods_and_never_meets_shrinking(
    wish: Targets, pool: Counts
) -> None:
    missing = deficit(wish, pool, slots_per_eni=SLOTS)
    assert missing == 0 or pool.committed + missing <= wish.max_pods
    settled = Counts(
        allocated=pool.allocated,
        available=pool.available + pool.incoming + missing,
        preparing=0,
        cooling=pool.cooling,
        incoming=0,
        waiting=pool.waiting,
    )
    # WARM_ENI 0 asks for a whole ENI; anything else is content with exactly what it asked for.
    assert deficit(wish, settled, slots_per_eni=SLOTS) == 0 or settled.supply < 0
    assert excess(wish, settled) == 0 or missing == 0


def test_what_cools_for_long_is_not_waited_for() -> None:
    wish = targets(warm=5)
    assert deficit(wish, counts(3, 2, cooling=3), slots_per_eni=SLOTS) == 0
    long = replace(counts(3, 2, cooling=3), late=2)
    assert deficit(wish, long, slots_per_eni=SLOTS) == 2
