from __future__ import annotations

import contextlib
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.cloud import EniHint, EniStatus
from ipamd.errors import NotFound, Transient
from ipamd.model import EniId, SubnetId
from providers.azure import shapes
from providers.azure.ids import arm_id
from providers.azure.imds import ShownInterface
from providers.azure.pipeline import understood
from providers.azure.purse import Api
from providers.azure.shapes import NicShape, SubnetFacts, Told
from tests.unit.azure.arm_fakes import (
    INSTANCE,
    NIC,
    SUBNET,
    Json,
    config,
    model,
    model_config,
    nic,
    view,
)

FACTS = SubnetFacts(subnet_id=SubnetId(SUBNET.lower()), cidrs=(IPv4Network("10.0.0.0/24"),))
OURS = "ipamd-00000001"
NOT_KNOWN = frozenset[object]()
BLOCK = IPv4Network("10.0.0.32/28")


def v4(*texts: str) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(text) for text in texts)


def test_a_nic_becomes_an_eni() -> None:
    eni = shapes.nic(nic(config(OURS, "10.0.0.9")), etag='W/"2"').eni(FACTS, device_index=0)
    assert eni.eni_id == NIC.lower()
    assert (eni.mac, eni.subnet_id) == ("00:0d:3a:00:00:04", SUBNET.lower())
    assert (eni.status, eni.device_index, eni.is_primary) == (EniStatus.ATTACHED, 0, True)
    assert (eni.primary_address, eni.addresses) == (IPv4Address("10.0.0.4"), v4("10.0.0.9"))
    assert (eni.subnet_cidr, eni.version, eni.is_managed) == (FACTS.cidrs[0], 'W/"2"', True)


@pytest.mark.parametrize(
    "carried",
    [
        config(OURS, "10.0.0.32/28"),
        config(OURS, "10.0.0.37/28"),
        config(OURS, "10.0.0.32", privateIPAddressPrefixLength=28),
        config(OURS, "10.0.0.37", privateIPAddressPrefixLength=28),
        config(OURS, "10.0.0.32/28", privateIPAddressPrefixLength=28),
    ],
)
def test_a_block_is_read_in_each_of_its_forms(carried: Json) -> None:
    shape = shapes.nic(nic(carried))
    assert (shape.addresses, shape.blocks) == ((), (BLOCK,))


@pytest.mark.parametrize(
    "carried",
    [
        pytest.param(config("ipconfig2", "10.0.0.9"), id="somebody else's"),
        pytest.param(config(OURS, "10.0.0.9", provisioningState="Updating"), id="being made"),
        pytest.param(config(OURS, "10.0.0.9", provisioningState="Failed"), id="failed"),
        pytest.param(config(OURS, ""), id="no address yet"),
        pytest.param(config(OURS, "fd00::9", privateIPAddressVersion="IPv6"), id="IPv6"),
        pytest.param(config(OURS, "10.0.0.8/30"), id="a length that Azure has not"),
    ],
)
def test_what_no_pod_may_use_is_left_out(carried: Json) -> None:
    shape = shapes.nic(nic(carried), told=Told(known=NOT_KNOWN))
    assert (shape.addresses, shape.blocks) == ((), ())


def test_what_is_hidden_is_left_out_whatever_its_case() -> None:
    raw = nic(config("IPAMD-00000001", "10.0.0.9"), config("ipamd-2", "10.0.0.10"))
    shape = shapes.nic(raw, told=Told(hidden=frozenset({OURS})))
    assert shape.addresses == v4("10.0.0.10")
    assert IPv4Address("10.0.0.9") in shape.foreign


@pytest.mark.parametrize(
    ("state", "told", "is_shown"),
    [
        pytest.param("Updating", Told(known=v4("10.0.0.9")), True, id="was usable before"),
        pytest.param("Failed", Told(known=v4("10.0.0.9")), True, id="was, and a change failed"),
        pytest.param("Updating", Told(known=NOT_KNOWN), False, id="is being made"),
        pytest.param("Failed", Told(known=NOT_KNOWN), False, id="could not be made"),
        pytest.param("Updating", Told(), True, id="the first look, and no write of ours adds it"),
        pytest.param("Updating", Told(adding=frozenset({OURS})), False, id="a write adds it"),
        pytest.param(
            "Succeeded", Told(adding=frozenset({OURS})), True, id="a write has just added it"
        ),
        pytest.param(
            "Updating",
            Told(known=v4("10.0.0.9"), adding=frozenset({OURS})),
            False,
            id="a write adds what was somebody's before",
        ),
        pytest.param(
            "Updating",
            Told(known=v4("10.0.0.9"), hidden=frozenset({OURS})),
            False,
            id="a write removes it",
        ),
    ],
)
def test_an_address_that_was_usable_stays_while_its_nic_is_changed(
    state: str, told: Told, is_shown: bool
) -> None:
    raw = nic(config(OURS, "10.0.0.9", provisioningState=state))
    raw["properties"]["provisioningState"] = state
    assert shapes.nic(raw, told=told).addresses == (v4("10.0.0.9") if is_shown else ())


def test_the_primary_configuration_is_never_a_pods_even_with_our_name() -> None:
    raw = nic()
    raw["properties"]["ipConfigurations"][0]["name"] = OURS
    assert shapes.nic(raw).addresses == ()


def test_the_order_of_configurations_does_not_matter_to_the_primary() -> None:
    raw = nic(config(OURS, "10.0.0.9"))
    raw["properties"]["ipConfigurations"].reverse()
    assert shapes.nic(raw).primary_address == IPv4Address("10.0.0.4")


@pytest.mark.parametrize(
    ("tags", "managed"),
    [
        ({}, True),
        (None, True),
        ({"ipamd-no-manage": "true"}, False),
        ({"IPAMD-No-Manage": ""}, False),
        ({"ipamd-no-manage": "False"}, True),
        ({"other": "true"}, True),
    ],
)
def test_a_tag_keeps_a_nic_to_others(tags: object, managed: bool) -> None:
    assert shapes.nic(nic(tags=tags)).is_managed is managed


@given(
    st.dictionaries(
        st.text("abcdef0123456789", min_size=8, max_size=8),
        st.integers(0, 15),
        max_size=8,
    ),
    st.booleans(),
)
def test_every_address_and_block_of_ours_is_found_once(
    made: dict[str, int], has_host_bits: bool
) -> None:
    """Even numbers are blocks of 10.1, odd ones addresses of 10.2."""
    configs, blocks, singles = [], [], []
    for index, (name, host) in enumerate(made.items()):
        if host % 2:
            address = f"10.2.0.{16 * index + host}"
            singles.append(IPv4Address(address))
            configs.append(config(f"ipamd-{name}", address))
        else:
            bits = host if has_host_bits else 0
            blocks.append(IPv4Network(f"10.1.0.{16 * index}/28"))
            configs.append(config(f"ipamd-{name}", f"10.1.0.{16 * index + bits}/28"))
    shape = shapes.nic(nic(*configs))
    assert (shape.addresses, shape.blocks) == (tuple(singles), tuple(blocks))
    assert shape.foreign == {IPv4Address("10.0.0.4")}


SHOWN = st.recursive(
    st.none() | st.integers() | st.text(max_size=5) | st.just("10.0.0.4"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ("id", "name", "properties", "ipConfigurations", "privateIPAddress", "subnet")
            ),
            inner,
        )
    ),
    max_leaves=12,
)


@given(SHOWN)
def test_an_answer_that_cannot_be_read_is_transient(raw: Any) -> None:
    with pytest.raises(Transient, match="cannot be read"):
        understood(Api.NIC_GET, shapes.nic, raw)
    reads = (shapes.subnet_facts, shapes.vnet_cidrs, shapes.nic_ids, shapes.blocks_by_nic)
    for read in reads:
        with contextlib.suppress(Transient):
            assert understood(Api.NIC_GET, read, raw) is not None


def test_a_view_that_hides_lengths_is_joined_with_the_model_by_name() -> None:
    views = [view(config("ipamd-b", "10.0.0.32"), config("ipamd-a", "10.0.0.9"))]
    instance = model(
        model_config("IPAMD-B", privateIPAddressPrefixLength=28), model_config("ipamd-a")
    )
    (shape,) = shapes.joined(views, instance)
    assert (shape.addresses, shape.blocks) == (v4("10.0.0.9"), (BLOCK,))
    assert shape.eni_id == f"{INSTANCE}/networkInterfaces/Nic0".lower()


def test_what_the_model_has_no_more_is_on_its_way_out() -> None:
    (shape,) = shapes.joined([view(config(OURS, "10.0.0.32"))], model())
    assert (shape.addresses, shape.blocks) == ((), ())


def test_what_is_told_is_asked_by_nic() -> None:
    asked: list[EniId] = []

    def told(eni_id: EniId) -> Told:
        asked.append(eni_id)
        return Told(hidden=frozenset({OURS}))

    raw = [view(config(OURS, "10.0.0.9"))]
    (shape,) = shapes.joined(raw, model(model_config(OURS)), told=told)
    assert (shape.addresses, asked) == ((), [shape.eni_id])


def test_what_is_told_before_and_after_a_look_holds_for_it() -> None:
    before = Told(hidden=frozenset("a"), adding=frozenset("b"), known=NOT_KNOWN)
    after = Told(hidden=frozenset("c"), adding=frozenset("d"), known=v4("10.0.0.9"))
    assert before.joined(after) == Told(
        hidden=frozenset("ac"), adding=frozenset("bd"), known=v4("10.0.0.9")
    )


def test_the_primary_nic_of_a_machine_comes_first() -> None:
    other = {"id": NIC.replace("Nic0", "Nic9"), "properties": {"primary": False}}
    first = {"id": NIC, "properties": {"primary": True}}
    machine = {"properties": {"networkProfile": {"networkInterfaces": [other, first]}}}
    assert shapes.nic_ids(machine) == (NIC.lower(), other["id"].lower())  # type: ignore[attr-defined]


def test_a_machine_with_one_nic_may_leave_it_unsaid() -> None:
    machine = {"properties": {"networkProfile": {"networkInterfaces": [{"id": NIC}]}}}
    assert shapes.nic_ids(machine) == (NIC.lower(),)


@pytest.mark.parametrize(
    ("properties", "cidrs"),
    [
        ({"addressPrefix": "10.0.0.0/24"}, ["10.0.0.0/24"]),
        ({"addressPrefixes": ["fd00::/64", "10.0.0.0/24"]}, ["10.0.0.0/24"]),
        ({"addressPrefix": None, "addressPrefixes": ["10.0.0.0/24"]}, ["10.0.0.0/24"]),
        (
            {"addressPrefix": "10.0.0.0/24", "addressPrefixes": []},
            ["10.0.0.0/24"],
        ),
    ],
)
def test_a_subnets_networks(properties: Json, cidrs: list[str]) -> None:
    facts = shapes.subnet_facts({"id": SUBNET, "properties": properties})
    assert facts.cidrs == tuple(map(IPv4Network, cidrs))
    assert facts.references is None


def test_five_addresses_of_each_network_are_azures() -> None:
    assert FACTS.sizes == 251
    two = SubnetFacts(subnet_id=FACTS.subnet_id, cidrs=(*FACTS.cidrs, IPv4Network("10.9.0.0/29")))
    assert two.sizes == 254


def test_an_address_outside_of_its_subnet_is_refused() -> None:
    with pytest.raises(ValueError, match=r"10\.1\.0\.4 is not in"):
        FACTS.cidr_of(IPv4Address("10.1.0.4"))


@pytest.mark.parametrize(
    ("limit", "current", "free"),
    [
        (251.0, 1.0, {SUBNET.lower(): 250}),
        (251, 251.0, {SUBNET.lower(): 0}),
        (251.0, 300.0, {SUBNET.lower(): 0}),
        (-1.0, -1.0, {}),
        (251.0, -1.0, {}),
    ],
)
def test_what_is_free_by_the_vnets_usage(
    limit: float, current: float, free: dict[str, int]
) -> None:
    usage = {"id": SUBNET, "limit": limit, "currentValue": current}
    gateway = {"id": SUBNET + "/odd/x", "limit": 5.0, "currentValue": 1.0}
    assert shapes.free_by_subnet([usage, gateway]) == free


def shown(*items: IPv4Address | IPv4Network, mac: str = "00:0d:3a:00:00:04") -> ShownInterface:
    return ShownInterface(mac=mac, items=items, subnets=())


def known() -> NicShape:
    return shapes.nic(
        nic(config(OURS, "10.0.0.9"), config("x", "10.0.0.10"), config("ipamd-b", str(BLOCK)))
    )


ALL = v4("10.0.0.4", "10.0.0.9", "10.0.0.10")
SAME = ("10.0.0.32/28", "10.0.0.9")


@pytest.mark.parametrize(
    ("items", "hinted"),
    [
        pytest.param(ALL, SAME, id="blocks are not listed"),
        pytest.param((*ALL, BLOCK), SAME, id="blocks are listed"),
        pytest.param((*ALL, *BLOCK), SAME, id="each address of a block is listed"),
        pytest.param((*ALL, IPv4Address("10.0.0.32")), SAME, id="the first of a block is listed"),
        pytest.param(ALL[:1], ("10.0.0.32/28",), id="one of ours has gone"),
        pytest.param((*ALL, *v4("10.0.0.77")), (*SAME[:1], "10.0.0.77", SAME[1]), id="a new one"),
        pytest.param(
            (*ALL, IPv4Network("10.0.0.64/28")),
            (SAME[0], "10.0.0.64/28", SAME[1]),
            id="a new block",
        ),
    ],
)
def test_a_hint_differs_for_news_only(
    items: tuple[IPv4Address | IPv4Network, ...], hinted: tuple[str, ...]
) -> None:
    (hint,) = shapes.hinted([shown(*items)], [known()])
    assert hint == EniHint(eni_id=known().eni_id, items=hinted)


def test_an_interface_that_no_look_has_shown_is_news() -> None:
    hints = shapes.hinted([shown(mac="00:00:00:00:00:09")], [known()])
    assert hints == (EniHint(eni_id=EniId("mac/00:00:00:00:00:09"), items=()),)


@pytest.mark.parametrize("flags", [(False, False), (True, True), (None, None), ("true", False)])
def test_which_configuration_is_the_primary_is_never_guessed(flags: tuple[Any, Any]) -> None:
    raw = nic(config(OURS, "10.0.0.9"))
    for one, flag in zip(raw["properties"]["ipConfigurations"], flags, strict=True):
        one["properties"]["primary"] = flag
    with pytest.raises(ValueError, match=r"of 2 ipConfigurations are the primary"):
        shapes.nic(raw)


def test_one_configuration_alone_is_the_primary() -> None:
    raw = nic()
    del raw["properties"]["ipConfigurations"][0]["properties"]["primary"]
    assert shapes.nic(raw).primary_address == IPv4Address("10.0.0.4")


def test_a_view_without_configurations_is_odd_and_nothing_worse() -> None:
    raw = view()
    raw["properties"]["ipConfigurations"] = []
    with pytest.raises(Transient, match="cannot be read"):
        understood(Api.INSTANCE_NICS, lambda views: shapes.joined(views, model()), [raw])


def test_a_nic_that_a_machine_names_twice_is_one() -> None:
    machine = {"properties": {"networkProfile": {"networkInterfaces": [{"id": NIC}] * 2}}}
    assert shapes.nic_ids(machine) == (NIC.lower(),)


NAMES = ("b", "a", "c")
IDS = tuple(EniId(f"{INSTANCE}/networkInterfaces/{name}".lower()) for name in NAMES)
MACHINE = arm_id(INSTANCE)


def views_of(names: Iterable[str], primary: str = "") -> list[Json]:
    made = [view(name=name) for name in names]
    for raw in made:
        raw["properties"]["primary"] = raw["name"] == primary
    return made


@given(st.permutations(NAMES))
def test_the_order_of_an_answer_moves_no_nic(names: list[str]) -> None:
    kept = shapes.in_order(views_of(names), MACHINE, IDS)
    assert [raw["name"] for raw in kept] == list(NAMES)
    found = shapes.in_order(views_of(names, primary="c"), MACHINE, ())
    assert [raw["name"] for raw in found] == ["c", "a", "b"]


def test_a_list_of_nics_that_broke_off_is_no_list() -> None:
    with pytest.raises(NotFound, match=r"does not show .*/b$"):
        shapes.in_order(views_of(("a", "c")), MACHINE, IDS)


@pytest.mark.parametrize(
    ("views", "said"),
    [
        pytest.param(views_of(("a", "a")), "twice", id="one is there twice"),
        pytest.param([nic()], "is not of", id="a NIC of a VM"),
        pytest.param(
            [{**view(), "id": view()["id"].replace("/3/", "/4/")}], "is not of", id="of a neighbour"
        ),
    ],
)
def test_a_list_of_nics_that_are_not_ours_is_refused(views: list[Json], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        shapes.in_order(views, MACHINE, ())


@pytest.mark.parametrize(
    ("primary", "is_shown"),
    [
        pytest.param("Succeeded", False, id="it alone could not be made"),
        pytest.param("Failed", True, id="a change of the whole NIC failed"),
    ],
)
def test_what_failed_by_itself_before_the_first_look_is_no_pods(
    primary: str, is_shown: bool
) -> None:
    raw = nic(config(OURS, "10.0.0.9", provisioningState="Failed"))
    raw["properties"]["ipConfigurations"][0]["properties"]["provisioningState"] = primary
    raw["properties"]["provisioningState"] = "Failed"
    assert shapes.nic(raw).addresses == (v4("10.0.0.9") if is_shown else ())
