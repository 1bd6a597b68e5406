"""aws-node's own decision tables, which the policy in scripts/bench/fleet_sim must give.

"tests": cases of pkg/ipamd/ipamd_test.go and datastore/data_store_test.go of amazon-vpc-cni-k8s
v1.23.1, numbers only. "formula": worked out by hand from the formulas of datastoreTargetState.
"docs": docs/eni-and-ip-target.md and docs/prefix-and-ip-target.md, without the rows of the latter
that contradict the code (7/20 with no pods is 2 prefixes; one ENI of a p3dn takes 49).
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from scripts.bench.fleet_sim import peer_policy as policy
from scripts.bench.fleet_sim.peer_policy import EniCounts, PeerSettings, Snapshot

M5 = PeerSettings(slots=9, max_enis=3, max_pods=1000)
T3 = PeerSettings(slots=3, max_enis=3, max_pods=1000)
P3DN = PeerSettings(slots=49, max_enis=15, max_pods=1000)


def pool(total: int, assigned: int, *, free: int = 0, prefixes: int = 0) -> Snapshot:
    """Sums on one primary ENI; `free` and `prefixes` matter in prefix mode only."""
    eni = EniCounts(
        eni_id="eni-1",
        items=prefixes or total,
        assigned=assigned,
        free_items=free,
        is_primary=True,
    )
    return Snapshot(total=total, assigned=assigned, enis=(eni,))


@pytest.mark.parametrize(
    ("total", "assigned", "warm", "minimum", "expected"),
    [
        pytest.param(0, 0, 5, 0, (5, 0), id="tests: empty"),
        pytest.param(2, 0, 5, 0, (3, 0), id="tests: two of five"),
        pytest.param(5, 0, 5, 0, (0, 0), id="tests: five of five"),
        pytest.param(4, 2, 1, 0, (0, 1), id="tests: one too many"),
        pytest.param(0, 0, 2, 10, (10, 0), id="formula: minimum of an empty node"),
        pytest.param(9, 0, 2, 10, (1, 0), id="formula: one short of the minimum"),
        pytest.param(10, 5, 2, 10, (0, 0), id="formula: at rest"),
        pytest.param(10, 9, 2, 10, (1, 0), id="formula: one short of warm"),
        pytest.param(14, 8, 2, 10, (0, 4), id="formula: four over warm and minimum"),
        pytest.param(14, 8, 2, 12, (0, 2), id="formula: the minimum keeps two"),
        pytest.param(14, 8, 0, 10, (0, 4), id="formula: minimum alone"),
        pytest.param(30, 29, 0, 30, (0, 0), id="formula: minimum met"),
        pytest.param(7, 3, 5, 0, (1, 0), id="formula: one short"),
        pytest.param(49, 45, 5, 10, (1, 0), id="formula: a full ENI, one short"),
        pytest.param(23, 21, 2, 23, (0, 0), id="issue 2896: before the pods go"),
        pytest.param(23, 11, 2, 23, (0, 0), id="issue 2896: ten cool, and nothing grows"),
    ],
)
def test_short_and_over_of_secondary_addresses(
    total: int, assigned: int, warm: int, minimum: int, expected: tuple[int, int]
) -> None:
    settings = replace(M5, warm_addresses=warm, minimum_addresses=minimum)
    assert policy.short_and_over(settings, pool(total, assigned)) == expected


@pytest.mark.parametrize(
    ("prefixes", "assigned", "free", "warm", "minimum", "expected"),
    [
        pytest.param(0, 0, 0, 5, 0, (1, 0), id="tests: empty"),
        pytest.param(1, 0, 1, 5, 0, (0, 0), id="tests: one is enough"),
        pytest.param(2, 0, 2, 5, 0, (0, 1), id="tests: two are one too many"),
        pytest.param(0, 0, 0, 7, 20, (2, 0), id="formula: minimum 20 takes two"),
        pytest.param(1, 5, 0, 1, 0, (0, 0), id="formula: room in the first"),
        pytest.param(1, 16, 0, 1, 0, (1, 0), id="formula: the first is full"),
        pytest.param(2, 16, 1, 1, 0, (0, 0), id="formula: the second is warm"),
        pytest.param(2, 15, 1, 1, 0, (0, 1), id="formula: one pod less gives it back"),
        pytest.param(3, 3, 0, 15, 0, (0, 0), id="formula: fragmented, nothing is free"),
        pytest.param(3, 0, 3, 0, 20, (0, 1), id="formula: the minimum keeps two"),
        pytest.param(1, 0, 1, 17, 0, (1, 0), id="formula: 17 warm take two"),
    ],
)
def test_short_and_over_of_prefixes(
    prefixes: int, assigned: int, free: int, warm: int, minimum: int, expected: tuple[int, int]
) -> None:
    settings = replace(M5, use_prefixes=True, warm_addresses=warm, minimum_addresses=minimum)
    seen = pool(prefixes * 16, assigned, free=free, prefixes=prefixes)
    assert policy.short_and_over(settings, seen) == expected


@pytest.mark.parametrize(
    ("prefixes", "assigned", "free", "warm", "is_low", "over"),
    [
        pytest.param(1, 0, 1, 1, False, 0, id="tests: one free of one"),
        pytest.param(1, 1, 0, 1, True, 0, id="tests: one of its addresses is used"),
        pytest.param(1, 1, 0, 0, False, 0, id="tests: no target, one used"),
        pytest.param(2, 0, 2, 1, False, 1, id="tests: two free of one"),
        pytest.param(4, 48, 0, 1, False, 0, id="formula: 16 free addresses in four used prefixes"),
    ],
)
def test_warm_prefixes(
    prefixes: int, assigned: int, free: int, warm: int, is_low: bool, over: int
) -> None:
    settings = replace(M5, use_prefixes=True, warm_prefixes=warm)
    seen = pool(prefixes * 16, assigned, free=free, prefixes=prefixes)
    assert policy.is_too_low(settings, seen) is is_low
    assert policy.items_over(settings, seen) == over


def test_at_max_pods_the_pool_is_never_low() -> None:
    settings = replace(M5, use_prefixes=True, warm_prefixes=1, max_pods=32)
    assert policy.is_too_low(settings, pool(32, 32, prefixes=2)) is False


@pytest.mark.parametrize(
    ("slots", "total", "assigned", "warm_enis", "warm", "max_pods", "is_low"),
    [
        pytest.param(14, 0, 0, 1, 0, 1000, True, id="empty, one warm ENI"),
        pytest.param(3, 0, 0, 0, 0, 1000, True, id="empty, none wanted"),
        pytest.param(3, 0, 0, 1, 3, 1000, True, id="empty, three wanted"),
        pytest.param(3, 3, 0, 1, 1, 1000, False, id="three free of one"),
        pytest.param(3, 3, 1, 1, 0, 1000, True, id="one of three used, one warm ENI"),
        pytest.param(3, 3, 1, 0, 0, 1000, False, id="one of three used, none wanted"),
        pytest.param(3, 3, 3, 1, 0, 1000, True, id="all used, one warm ENI"),
        pytest.param(3, 3, 3, 0, 0, 1000, True, id="all used, none wanted"),
        pytest.param(3, 3, 3, 1, 5, 3, False, id="all used, at max pods"),
    ],
)
def test_node_ip_pool_too_low(
    slots: int, total: int, assigned: int, warm_enis: int, warm: int, max_pods: int, is_low: bool
) -> None:
    """Source: TestNodeIPPoolTooLow ("tests")."""
    settings = PeerSettings(
        slots=slots, max_enis=4, max_pods=max_pods, warm_enis=warm_enis, warm_addresses=warm
    )
    assert policy.is_too_low(settings, pool(total, assigned)) is is_low


FULL_PRIMARY = EniCounts(eni_id="eni-1", items=2, assigned=2, free_items=0, is_primary=True)
TWO_FREE = EniCounts(eni_id="eni-2", items=2, assigned=0, free_items=2)
ONE_FREE = EniCounts(eni_id="eni-3", items=1, assigned=0, free_items=1)


@pytest.mark.parametrize(
    ("warm", "minimum", "enis", "expected"),
    [
        pytest.param(3, 1, (FULL_PRIMARY, TWO_FREE, ONE_FREE), None, id="all three are warm"),
        pytest.param(1, 5, (FULL_PRIMARY, TWO_FREE, ONE_FREE), None, id="all five are wanted"),
        pytest.param(2, 4, (FULL_PRIMARY, TWO_FREE, ONE_FREE), "eni-3", id="the last may go"),
        pytest.param(0, 3, (FULL_PRIMARY, TWO_FREE), None, id="three are wanted"),
        pytest.param(0, 2, (FULL_PRIMARY, TWO_FREE), "eni-2", id="the primary's two are enough"),
    ],
)
def test_warm_eni_interactions(
    warm: int, minimum: int, enis: tuple[EniCounts, ...], expected: str | None
) -> None:
    """Source: TestWarmENIInteractions ("tests")."""
    settings = replace(M5, warm_addresses=warm, minimum_addresses=minimum)
    seen = Snapshot(total=sum(e.items for e in enis), assigned=2, enis=enis)
    assert policy.spare_eni(settings, seen) == expected


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(replace(TWO_FREE, age_seconds=59.0), id="younger than 60 s"),
        pytest.param(replace(TWO_FREE, is_cooling=True), id="an address cools"),
        pytest.param(replace(TWO_FREE, is_protected=True), id="trunk or EFA"),
        pytest.param(replace(TWO_FREE, assigned=1), id="a pod is on it"),
        pytest.param(replace(TWO_FREE, is_primary=True), id="primary"),
    ],
)
def test_some_enis_never_go(kept: EniCounts) -> None:
    settings = replace(M5, minimum_addresses=1)
    seen = Snapshot(total=4, assigned=2, enis=(FULL_PRIMARY, kept))
    assert policy.spare_eni(settings, seen) is None


@pytest.mark.parametrize(
    ("attached", "unmanaged", "is_trunk_missing", "has_room"),
    [
        pytest.param(3, 0, True, False, id="the last place is the trunk's"),
        pytest.param(4, 0, False, False, id="four with the trunk"),
        pytest.param(3, 0, False, True, id="three with the trunk"),
        pytest.param(3, 1, False, False, id="one is somebody else's"),
    ],
)
def test_has_room_for_eni(
    attached: int, unmanaged: int, is_trunk_missing: bool, has_room: bool
) -> None:
    """Source: formula, limit 4."""
    found = policy.has_room_for_eni(
        attached, 4, unmanaged=unmanaged, is_trunk_missing=is_trunk_missing
    )
    assert found is has_room


@pytest.mark.parametrize(
    ("settings", "pods", "expected"),
    [
        pytest.param(T3, 0, (1, 3), id="t3.small, WARM_ENI 1, 0 pods"),
        pytest.param(T3, 5, (3, 9), id="t3.small, WARM_ENI 1, 5 pods"),
        pytest.param(T3, 9, (3, 9), id="t3.small, WARM_ENI 1, 9 pods"),
        *(
            pytest.param(
                replace(T3, warm_addresses=1, minimum_addresses=1),
                pods,
                expected,
                id=f"t3.small, WARM_IP 1, MINIMUM 1, {pods} pods",
            )
            for pods, expected in [(0, (1, 1)), (5, (2, 6)), (9, (3, 9))]
        ),
        *(
            pytest.param(
                replace(T3, warm_addresses=2, minimum_addresses=5),
                pods,
                expected,
                id=f"t3.small, WARM_IP 2, MINIMUM 5, {pods} pods",
            )
            for pods, expected in [(0, (2, 5)), (5, (3, 7)), (9, (3, 9))]
        ),
        pytest.param(P3DN, 0, (1, 49), id="p3dn.24xlarge, WARM_ENI 1, 0 pods"),
        pytest.param(P3DN, 3, (2, 98), id="p3dn.24xlarge, WARM_ENI 1, 3 pods"),
        pytest.param(P3DN, 95, (3, 147), id="p3dn.24xlarge, WARM_ENI 1, 95 pods"),
        *(
            pytest.param(
                replace(P3DN, warm_addresses=5, minimum_addresses=10),
                pods,
                expected,
                id=f"p3dn.24xlarge, WARM_IP 5, MINIMUM 10, {pods} pods",
            )
            for pods, expected in [(0, (1, 10)), (7, (1, 12)), (15, (1, 20)), (45, (2, 50))]
        ),
    ],
)
def test_steady_state_of_secondary_addresses(
    settings: PeerSettings, pods: int, expected: tuple[int, int]
) -> None:
    """Source: docs (ENIs, addresses)."""
    rest = policy.settled(settings, pods)
    assert (len(rest.enis), rest.total) == expected


@pytest.mark.parametrize(
    ("warm_prefixes", "warm", "minimum", "pods", "prefixes"),
    [
        pytest.param(1, 0, 0, 0, [1], id="WARM_PREFIX 1, 0 pods"),
        pytest.param(1, 0, 0, 5, [2], id="WARM_PREFIX 1, 5 pods"),
        pytest.param(1, 0, 0, 16, [2], id="WARM_PREFIX 1, 16 pods"),
        pytest.param(1, 0, 0, 17, [3], id="WARM_PREFIX 1, 17 pods"),
        pytest.param(1, 0, 0, 58, [3, 2], id="WARM_PREFIX 1, 58 pods"),
        pytest.param(0, 1, 1, 5, [1], id="WARM_IP 1, MINIMUM 1, 5 pods"),
        pytest.param(0, 1, 1, 16, [2], id="WARM_IP 1, MINIMUM 1, 16 pods"),
        pytest.param(0, 1, 1, 17, [2], id="WARM_IP 1, MINIMUM 1, 17 pods"),
        pytest.param(0, 1, 1, 58, [3, 1], id="WARM_IP 1, MINIMUM 1, 58 pods"),
        pytest.param(0, 7, 20, 0, [2], id="WARM_IP 7, MINIMUM 20, 0 pods"),
        pytest.param(0, 7, 20, 5, [2], id="WARM_IP 7, MINIMUM 20, 5 pods"),
        pytest.param(0, 7, 20, 17, [2], id="WARM_IP 7, MINIMUM 20, 17 pods"),
        pytest.param(0, 7, 20, 58, [3, 2], id="WARM_IP 7, MINIMUM 20, 58 pods"),
    ],
)
def test_steady_state_of_prefixes_on_t3_small(
    warm_prefixes: int, warm: int, minimum: int, pods: int, prefixes: list[int]
) -> None:
    """Source: docs, with the code where they differ (prefixes on each ENI)."""
    settings = replace(
        T3,
        use_prefixes=True,
        warm_prefixes=warm_prefixes,
        warm_addresses=warm,
        minimum_addresses=minimum,
    )
    assert [e.items for e in policy.settled(settings, pods).enis] == prefixes


@pytest.mark.parametrize(
    ("slots", "pods", "total"),
    [
        pytest.param(9, 0, 9, id="m5.large, 0 pods"),
        pytest.param(29, 0, 29, id="c5.4xlarge, 0 pods"),
        pytest.param(49, 0, 49, id="m5.24xlarge, 0 pods"),
        pytest.param(9, 1, 18, id="m5.large, 1 pod"),
        pytest.param(29, 1, 58, id="c5.4xlarge, 1 pod"),
        pytest.param(49, 1, 98, id="m5.24xlarge, 1 pod"),
    ],
)
def test_default_waste(slots: int, pods: int, total: int) -> None:
    """Source: formula."""
    settings = PeerSettings(slots=slots, max_enis=8, max_pods=1000)
    assert policy.settled(settings, pods).total == total
