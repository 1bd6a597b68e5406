"""How many pods a node can carry: reference numbers, the modes, and what always holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.cloud import NodeLimits
from ipamd.instance_types import load
from ipamd.sizing import (
    CannotSize,
    InstanceType,
    Mode,
    PodNetwork,
    max_pods,
    recommended_cap,
    total,
)

TABLE = load()


def kind(name: str) -> InstanceType:
    return TABLE.types[name]


# Type, then (uncapped, capped) for secondary, custom, prefixes, prefixes with custom networking.
# Calculated from the published limits; 29, 58, 234, 250 and 394 are also what the checks of
# max-pods-calculator.sh in amazon-eks-ami expect.
REFERENCE = [
    ("t3.small", (11, 11), (8, 8), (146, 110), (98, 98)),
    ("m5.large", (29, 29), (20, 20), (434, 110), (290, 110)),
    ("c5.4xlarge", (234, 110), (205, 110), (3714, 110), (3250, 110)),
    ("m5.8xlarge", (234, 234), (205, 205), (3714, 250), (3250, 250)),
    ("m5.24xlarge", (737, 250), (688, 250), (11762, 250), (10978, 250)),
]
MODES = (
    PodNetwork(),
    PodNetwork(custom_networking=True),
    PodNetwork(prefixes=True),
    PodNetwork(prefixes=True, custom_networking=True),
)


@pytest.mark.parametrize(("name", "numbers"), [(r[0], r[1:]) for r in REFERENCE])
def test_the_reference_numbers_come_out(name: str, numbers: tuple[tuple[int, int], ...]) -> None:
    one = kind(name)
    got = tuple(
        tuple(max_pods(one, m, vcpus=one.vcpus, is_capped=capped).pods for capped in (False, True))
        for m in MODES
    )
    assert got == numbers


@pytest.mark.parametrize(
    ("name", "network", "expected"),
    [
        pytest.param("m4.xlarge", PodNetwork(), 58, id="xen"),
        pytest.param("c6in.32xlarge", PodNetwork(), 394, id="the default card of two"),
        pytest.param("c6in.32xlarge", PodNetwork(all_cards=True), 786, id="both cards"),
        pytest.param("p5.48xlarge", PodNetwork(all_cards=True), 64 * 49 + 2, id="32 cards of 2"),
        pytest.param(
            "p5.48xlarge",
            PodNetwork(all_cards=True, custom_networking=True, pod_eni=True, reserved_enis=3),
            62 * 49 + 2,
            id="what is taken of card 0 eats no other card",
        ),
        pytest.param(
            "i7ie.48xlarge",
            PodNetwork(all_cards=True, max_enis=7),
            14 * 49 + 2,
            id="MAX_ENI is per card",
        ),
        pytest.param("m5.large", PodNetwork(max_enis=2), 20, id="MAX_ENI below the limit"),
        pytest.param("m5.large", PodNetwork(max_enis=9), 29, id="MAX_ENI above the limit"),
        pytest.param("m5.large", PodNetwork(pod_eni=True), 20, id="a slot for the trunk"),
        pytest.param(
            "m5.large",
            PodNetwork(pod_eni=True, custom_networking=True),
            11,
            id="trunk and custom networking",
        ),
        pytest.param("m5.large", PodNetwork(reserved_enis=1), 20, id="an ENI of somebody else"),
        pytest.param(
            "m5.metal", PodNetwork(prefixes=True), 15 * 49 * 16 + 2, id="bare metal is Nitro"
        ),
        pytest.param("t2.micro", PodNetwork(prefixes=True), 4, id="Xen has single addresses"),
    ],
)
def test_each_mode_counts_what_it_should(name: str, network: PodNetwork, expected: int) -> None:
    assert max_pods(kind(name), network).pods == expected


@pytest.mark.parametrize(("vcpus", "cap"), [(0, 110), (1, 110), (30, 110), (31, 250), (96, 250)])
def test_the_cap_goes_by_vcpus(vcpus: int, cap: int) -> None:
    assert recommended_cap(vcpus) == cap


def test_a_fall_back_to_single_addresses_is_said() -> None:
    sizing = max_pods(kind("m4.large"), PodNetwork(prefixes=True))
    assert (sizing.mode, sizing.notes) == (
        Mode.SECONDARY,
        ("prefixes need Nitro or bare metal: single addresses are counted",),
    )


def test_no_eni_left_is_said_and_counts_the_nodes_own_pods_only() -> None:
    taken = PodNetwork(custom_networking=True, max_enis=1, pod_eni=True)
    sizing = max_pods(kind("m5.large"), taken)
    assert (sizing.pods, sizing.enis, len(sizing.notes)) == (2, 0, 1)


@pytest.mark.parametrize(("name", "expected"), [("m5.large", 110), ("m5.24xlarge", 250)])
def test_on_an_ipv6_node_addresses_bound_nothing(name: str, expected: int) -> None:
    sizing = max_pods(kind(name), PodNetwork(ipv6=True), vcpus=kind(name).vcpus)
    assert (sizing.mode, sizing.pods, sizing.pod_addresses) == (Mode.IPV6, expected, 2**48)


def test_ipv6_needs_prefixes() -> None:
    with pytest.raises(CannotSize, match="Nitro and bare-metal"):
        max_pods(kind("m4.large"), PodNetwork(ipv6=True))


def test_ipv6_and_custom_networking_exclude_each_other() -> None:
    with pytest.raises(CannotSize, match="exclude each other"):
        PodNetwork(ipv6=True, custom_networking=True)


def test_a_number_of_enis_below_zero_is_refused() -> None:
    with pytest.raises(CannotSize, match="below 0"):
        PodNetwork(reserved_enis=-1)


@pytest.mark.parametrize(
    ("name", "has_trunk"),
    [
        ("m5.large", True),
        ("m5.metal", True),
        ("trn1.2xlarge", True),
        ("t3.large", False),
        ("m4.large", False),
    ],
)
def test_a_trunk_goes_with_nitro_and_not_with_the_t_family(name: str, has_trunk: bool) -> None:
    assert kind(name).has_trunk is has_trunk


def test_a_type_without_its_default_card_cannot_be() -> None:
    with pytest.raises(ValueError, match="no network card 1"):
        replace(kind("m5.large"), default_card=1)


TYPES = st.builds(
    InstanceType,
    name=st.just("x1.large"),
    vcpus=st.integers(1, 200),
    hypervisor=st.sampled_from(("nitro", "xen", "")),
    is_bare_metal=st.booleans(),
    default_card=st.just(0),
    card_enis=st.lists(st.integers(1, 16), min_size=1, max_size=4).map(tuple),
    addresses_per_eni=st.integers(2, 64),
    addresses_v6_per_eni=st.just(1),
)
NETWORKS = st.builds(
    PodNetwork,
    prefixes=st.booleans(),
    custom_networking=st.booleans(),
    pod_eni=st.booleans(),
    all_cards=st.booleans(),
    max_enis=st.integers(0, 20),
    reserved_enis=st.integers(0, 4),
)


@given(TYPES, NETWORKS, st.booleans())
def test_the_steps_are_the_number(one: InstanceType, network: PodNetwork, capped: bool) -> None:
    sizing = max_pods(one, network, vcpus=one.vcpus, is_capped=capped)
    stated = [
        (step.value, total(sizing.steps[:at]))
        for at, step in enumerate(sizing.steps)
        if step.sign == "="
    ]
    assert all(value == reached for value, reached in stated)
    assert stated[-1][0] == sizing.pods


@given(TYPES, NETWORKS)
def test_pods_are_the_addresses_and_the_nodes_own(one: InstanceType, network: PodNetwork) -> None:
    sizing = max_pods(one, network)
    per_slot = 16 if sizing.mode is Mode.PREFIXES else 1
    assert sizing.pod_addresses == sizing.enis * (one.addresses_per_eni - 1) * per_slot
    assert sizing.pods == sizing.pod_addresses + 2


@given(TYPES, NETWORKS)
def test_prefixes_never_carry_fewer_pods(one: InstanceType, network: PodNetwork) -> None:
    single = max_pods(one, replace(network, prefixes=False))
    blocks = max_pods(one, replace(network, prefixes=True))
    factor = 16 if one.has_prefixes else 1
    assert blocks.pod_addresses == factor * single.pod_addresses


@given(TYPES, NETWORKS)
def test_one_eni_more_never_carries_fewer_pods(one: InstanceType, network: PodNetwork) -> None:
    bigger = replace(one, card_enis=(one.card_enis[0] + 1, *one.card_enis[1:]))
    assert max_pods(bigger, network).pods >= max_pods(one, network).pods


@given(TYPES, NETWORKS, st.integers(1, 20))
def test_a_higher_max_eni_never_carries_fewer_pods(
    one: InstanceType, network: PodNetwork, enis: int
) -> None:
    lower, higher = (max_pods(one, replace(network, max_enis=n)) for n in (enis, enis + 1))
    assert lower.pods <= higher.pods <= max_pods(one, replace(network, max_enis=0)).pods


@given(TYPES, NETWORKS)
def test_custom_networking_costs_one_eni(one: InstanceType, network: PodNetwork) -> None:
    without = max_pods(
        one, replace(network, custom_networking=False, reserved_enis=0, pod_eni=False)
    )
    having = max_pods(one, replace(network, custom_networking=True, reserved_enis=0, pod_eni=False))
    assert having.enis == without.enis - 1


@given(TYPES, NETWORKS)
def test_the_cap_only_ever_lowers(one: InstanceType, network: PodNetwork) -> None:
    free = max_pods(one, network, vcpus=one.vcpus)
    capped = max_pods(one, network, vcpus=one.vcpus, is_capped=True)
    assert capped.pods == min(free.pods, recommended_cap(one.vcpus))
    assert capped.pod_addresses == free.pod_addresses


@given(TYPES, NETWORKS)
def test_the_daemons_limits_give_the_same_answer(one: InstanceType, network: PodNetwork) -> None:
    limits = NodeLimits(
        max_enis=one.max_enis,
        addresses_per_eni=one.addresses_per_eni,
        has_prefixes=one.has_prefixes,
        default_card=one.default_card,
        card_enis=one.card_enis,
    )
    assert max_pods(limits, network) == max_pods(one, network)
