"""aws-node's own numbers as tables; rows where ours differ on purpose say so.

Sources: pkg/ipamd/ipamd_test.go, pkg/ipamd/datastore/data_store_test.go and the documents
eni-and-ip-target.md and prefix-and-ip-target.md of amazon-vpc-cni-k8s v1.23.1; rows marked
"formula" give what its formulas give for values that its tests do not name. The numbers are
restated here.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from ipamd.model import EniId
from ipamd.pool.plan import AssignAddresses, CreateEni, DeleteEni, plan
from ipamd.pool.targets import Counts, Targets, deficit, excess, excess_prefixes
from tests.pool_model import EniModel, PoolModel

T3_SMALL = {"slots": 3, "max_enis": 3}
P3DN = {"slots": 49, "max_enis": 15}
MANY = 1000


def in_targets(warm: int, minimum: int, *, prefixes: bool = False, pods: int = MANY) -> Targets:
    return Targets(
        warm_enis=1,
        warm_addresses=warm,
        minimum_addresses=minimum,
        max_pods=pods,
        use_prefixes=prefixes,
    )


def in_enis(warm: int, *, pods: int = MANY) -> Targets:
    return Targets(warm_enis=warm, warm_addresses=0, minimum_addresses=0, max_pods=pods)


def in_prefixes(warm: int, *, pods: int = MANY) -> Targets:
    return Targets(
        warm_enis=1,
        warm_addresses=0,
        minimum_addresses=0,
        warm_prefixes=warm,
        use_prefixes=True,
        max_pods=pods,
    )


def counts(total: int, allocated: int, cooling: int = 0, waiting: int = 0) -> Counts:
    return Counts(
        allocated=allocated,
        available=total - allocated - cooling,
        preparing=0,
        cooling=cooling,
        incoming=0,
        waiting=waiting,
    )


# (total, allocated, WARM_IP_TARGET, MINIMUM_IP_TARGET) -> (short, over)
SECONDARY = [
    ("ipamd_test", (0, 0, 5, 0), (5, 0)),
    ("ipamd_test", (2, 0, 5, 0), (3, 0)),
    ("ipamd_test", (5, 0, 5, 0), (0, 0)),
    ("ipamd_test DecreaseIPPool", (4, 2, 1, 0), (0, 1)),
    ("formula", (0, 0, 2, 10), (10, 0)),
    ("formula", (9, 0, 2, 10), (1, 0)),
    ("formula", (10, 5, 2, 10), (0, 0)),
    ("formula", (10, 9, 2, 10), (1, 0)),
    ("formula", (14, 8, 2, 10), (0, 4)),
    ("formula", (14, 8, 2, 12), (0, 2)),
    ("formula", (14, 8, 0, 10), (0, 4)),
    ("formula", (30, 29, 0, 30), (0, 0)),
    ("formula", (7, 3, 5, 0), (1, 0)),
    ("formula", (49, 45, 5, 10), (1, 0)),
    ("formula", (23, 21, 2, 23), (0, 0)),
]


@pytest.mark.parametrize(
    ("pool", "wanted"), [r[1:] for r in SECONDARY], ids=[f"{r[0]} {r[1]}" for r in SECONDARY]
)
def test_short_and_over_in_secondary_mode(
    pool: tuple[int, int, int, int], wanted: tuple[int, int]
) -> None:
    total, allocated, warm, minimum = pool
    wish, seen = in_targets(warm, minimum), counts(total, allocated)
    assert (deficit(wish, seen, slots_per_eni=MANY), excess(wish, seen)) == wanted


def test_cooling_addresses_are_not_handed_out_so_a_waiting_pod_makes_the_pool_grow() -> None:
    """Differs: aws-node calls 12 of these available, of which it may hand out 2, and grows by none
    (amazon-vpc-cni-k8s issue 2896)."""
    wish = in_targets(2, 23)
    assert deficit(wish, counts(23, 11, cooling=10), slots_per_eni=MANY) == 0
    assert deficit(wish, counts(23, 13, cooling=10, waiting=1), slots_per_eni=MANY) == 3


# (prefixes, allocated, idle prefixes, WARM_IP_TARGET, MINIMUM_IP_TARGET) -> (grow, shrink)
PREFIXES = [
    ("ipamd_test", (0, 0, 0, 5, 0), (1, 0)),
    ("ipamd_test", (1, 0, 1, 5, 0), (0, 0)),
    ("ipamd_test", (2, 0, 2, 5, 0), (0, 1)),
    ("formula", (0, 0, 0, 7, 20), (2, 0)),
    ("formula", (1, 5, 0, 1, 0), (0, 0)),
    ("formula", (1, 16, 0, 1, 0), (1, 0)),
    ("formula", (2, 16, 1, 1, 0), (0, 0)),
    ("formula; ours waits for the hold time", (2, 15, 1, 1, 0), (0, 1)),
    ("formula: fragmented prefixes stay", (3, 3, 0, 15, 0), (0, 0)),
    ("formula", (3, 0, 3, 0, 20), (0, 1)),
    ("formula", (1, 0, 1, 17, 0), (1, 0)),
]


@pytest.mark.parametrize(
    ("pool", "wanted"), [r[1:] for r in PREFIXES], ids=[f"{r[0]} {r[1]}" for r in PREFIXES]
)
def test_grow_and_shrink_in_prefix_mode(
    pool: tuple[int, int, int, int, int], wanted: tuple[int, int]
) -> None:
    prefixes, allocated, idle, warm, minimum = pool
    wish, seen = in_targets(warm, minimum, prefixes=True), counts(16 * prefixes, allocated)
    missing = deficit(wish, seen, slots_per_eni=MANY)
    over = excess_prefixes(wish, seen, idle=idle, slots_per_eni=MANY)
    assert (-(-missing // 16), over) == wanted


# (prefixes, allocated, idle prefixes, WARM_PREFIX_TARGET) -> (grow, shrink)
WARM_PREFIX = [
    ("one idle prefix is enough", (1, 0, 1, 1), (0, 0)),
    ("one address of it is used: too low", (1, 1, 0, 1), (1, 0)),
    ("target 0 is content with any free address", (1, 1, 0, 0), (0, 0)),
    ("target 0 with nothing free", (1, 16, 0, 0), (1, 0)),
    ("two idle, one wanted", (2, 0, 2, 1), (0, 1)),
    ("differs: target 0 keeps the last one, aws-node would buy it back", (1, 0, 1, 0), (0, 0)),
]


@pytest.mark.parametrize(
    ("pool", "wanted"), [r[1:] for r in WARM_PREFIX], ids=[r[0] for r in WARM_PREFIX]
)
def test_warm_prefix_target(pool: tuple[int, int, int, int], wanted: tuple[int, int]) -> None:
    prefixes, allocated, idle, warm = pool
    wish, seen = in_prefixes(warm), counts(16 * prefixes, allocated)
    missing = deficit(wish, seen, slots_per_eni=MANY)
    over = excess_prefixes(wish, seen, idle=idle, slots_per_eni=MANY)
    assert (-(-missing // 16), over) == wanted


def test_nothing_grows_at_max_pods_in_any_mode() -> None:
    """Differs: aws-node compares the total with maxPods only before it grows, so that it may pass
    it by a whole ENI (issue 2793); here the request itself is cut."""
    full = counts(20, 15)
    for wish in (in_enis(1, pods=20), in_targets(9, 0, pods=20)):
        assert deficit(wish, full, slots_per_eni=14) == 0
    assert deficit(in_enis(1, pods=20), counts(14, 14), slots_per_eni=14) == 6


# nodeIPPoolTooLow, 3 addresses per ENI unless said: (total, allocated, targets) -> low
TOO_LOW = [
    ("empty, 14 per ENI, WARM_ENI 1", 14, (0, 0), in_enis(1), True),
    ("empty, WARM_ENI 0", 3, (0, 0), in_enis(0), True),
    ("empty, WARM_IP 3", 3, (0, 0), in_targets(3, 0), True),
    ("3 free, WARM_IP 1", 3, (3, 0), in_targets(1, 0), False),
    ("1 of 3 used, WARM_ENI 1", 3, (3, 1), in_enis(1), True),
    ("1 of 3 used, WARM_ENI 0", 3, (3, 1), in_enis(0), False),
    ("3 of 3 used, WARM_ENI 1", 3, (3, 3), in_enis(1), True),
    ("3 of 3 used, WARM_ENI 0", 3, (3, 3), in_enis(0), True),
    ("3 of 3 used, WARM_IP 5, max pods 3", 3, (3, 3), in_targets(5, 0, pods=3), False),
]


@pytest.mark.parametrize(
    ("slots", "pool", "wish", "is_low"), [r[1:] for r in TOO_LOW], ids=[r[0] for r in TOO_LOW]
)
def test_the_pool_is_too_low(
    slots: int, pool: tuple[int, int], wish: Targets, is_low: bool
) -> None:
    assert (deficit(wish, counts(*pool), slots_per_eni=slots) > 0) is is_low


def test_warm_eni_interactions() -> None:
    """data_store_test: ENI 1 fully used and primary, ENI 2 with 2 free, ENI 3 with 1 free."""
    pool = PoolModel(in_targets(0, 1), slots=2, max_enis=3)
    pool.enis = [EniModel(0, allocated=2), EniModel(1, idle=2), EniModel(2, idle=1)]

    def goes(warm: int, minimum: int) -> list[EniId]:
        pool.targets = in_targets(warm, minimum)
        return [a.eni_id for a in plan(pool.view()).actions if isinstance(a, DeleteEni)]

    assert goes(3, 1) == []
    assert goes(1, 5) == []
    assert goes(2, 4) == ["eni-2"]
    pool.enis = pool.enis[:2]
    assert goes(0, 3) == []
    assert goes(0, 2) == ["eni-1"]


def test_the_last_address_of_a_full_eni_brings_a_second_eni_with_one() -> None:
    pool = PoolModel(in_targets(5, 10), slots=49, max_enis=15)
    pool.enis = [EniModel(0, allocated=45, idle=4)]
    made = [a for a in plan(pool.view()).actions if isinstance(a, CreateEni)]
    assert [(a.device_index, a.addresses) for a in made] == [(1, 1)]


STEADY = [
    ("t3.small WARM_ENI 1", T3_SMALL, in_enis(1), {0: (1, 3), 5: (3, 9), 9: (3, 9)}),
    ("t3.small WARM_IP 1, MIN 1", T3_SMALL, in_targets(1, 1), {0: (1, 1), 5: (2, 6), 9: (3, 9)}),
    ("t3.small WARM_IP 2, MIN 5", T3_SMALL, in_targets(2, 5), {0: (2, 5), 5: (3, 7), 9: (3, 9)}),
    ("p3dn WARM_ENI 1", P3DN, in_enis(1), {0: (1, 49), 3: (2, 98), 95: (3, 147)}),
    (
        "p3dn WARM_IP 5, MIN 10",
        P3DN,
        in_targets(5, 10),
        {0: (1, 10), 7: (1, 12), 15: (1, 20), 45: (2, 50)},
    ),
]


@pytest.mark.parametrize(
    ("shape", "wish", "rows"), [r[1:] for r in STEADY], ids=[r[0] for r in STEADY]
)
def test_steady_state_of_secondary_mode(
    shape: dict[str, int], wish: Targets, rows: dict[int, tuple[int, int]]
) -> None:
    """eni-and-ip-target.md: pods -> (ENIs, addresses)."""
    for pods, wanted in rows.items():
        pool = PoolModel(wish, **shape)
        pool.settle()
        pool.add(pods)
        assert (len(pool.enis), pool.addresses) == wanted, f"{pods} pods"


STEADY_PREFIXES = [
    ("WARM_PREFIX 1", in_prefixes(1), {0: 1, 5: 2, 16: 2, 17: 3, 58: 5}),
    ("WARM_IP 1, MIN 1", in_targets(1, 1, prefixes=True), {5: 1, 16: 2, 17: 2, 58: 4}),
    # The document has 1 at 0 pods for this row; its own formula gives 2 (32 addresses for MIN 20).
    ("WARM_IP 7, MIN 20", in_targets(7, 20, prefixes=True), {0: 2, 5: 2, 17: 2, 58: 5}),
]


@pytest.mark.parametrize(
    ("wish", "rows"), [r[1:] for r in STEADY_PREFIXES], ids=[r[0] for r in STEADY_PREFIXES]
)
def test_steady_state_of_prefix_mode(wish: Targets, rows: dict[int, int]) -> None:
    """prefix-and-ip-target.md, t3.small: pods -> prefixes."""
    for pods, wanted in rows.items():
        pool = PoolModel(wish, **T3_SMALL)
        pool.settle()
        pool.add(pods)
        assert pool.prefixes == wanted, f"{pods} pods"


def test_58_pods_on_a_t3_small_fill_two_enis_with_three_and_two_prefixes() -> None:
    pool = PoolModel(in_prefixes(1), **T3_SMALL)
    pool.add(58)
    assert sorted(len(e.prefixes) for e in pool.enis) == [2, 3]


# hasRoomForEni, limit 4: (managed, trunk there, unmanaged, wants a trunk) -> room for one more
ROOM = [
    ("3 managed, a trunk still to come", (3, 0, 0, True), False),
    ("4 with the trunk among them", (3, 1, 0, True), False),
    ("3 with the trunk among them", (2, 1, 0, True), True),
    ("3 managed and 1 unmanaged", (3, 0, 1, False), False),
    ("3 managed", (3, 0, 0, False), True),
]


@pytest.mark.parametrize(("there", "has_room"), [r[1:] for r in ROOM], ids=[r[0] for r in ROOM])
def test_room_for_another_eni(there: tuple[int, int, int, bool], has_room: bool) -> None:
    managed, trunks, unmanaged, wants_trunk = there
    pool = PoolModel(in_targets(5, 0), slots=1, max_enis=4)
    pool.enis = [EniModel(i, allocated=1) for i in range(managed + trunks + unmanaged)]
    view = pool.view()
    enis = tuple(
        replace(e, is_managed=e.device_index < managed, allocated=int(e.device_index < managed))
        for e in view.enis
    )
    view = replace(view, enis=enis, reserved_enis=int(wants_trunk and not trunks))
    assert any(isinstance(a, CreateEni) for a in plan(view).actions) is has_room


def test_one_pod_at_a_multiple_of_16_costs_one_assign_and_no_unassign_in_the_hold_time() -> None:
    """Differs: aws-node gives the /28 back after 30 s and buys it again with the next pod."""
    pool = PoolModel(in_targets(1, 0, prefixes=True), **T3_SMALL)
    pool.add(16)
    calls = pool.calls
    for _ in range(5):
        pool.remove(1)
        recent = replace(
            pool.view(),
            enis=tuple(
                replace(e, prefixes=tuple(replace(p, idle_seconds=60.0) for p in e.prefixes))
                for e in pool.view().enis
            ),
        )
        assert plan(recent).actions == ()
        assert pool._place()
        assert not [a for a in plan(pool.view()).actions if isinstance(a, AssignAddresses)]
    assert pool.calls == calls
