"""The table of instance types: its file, its answers, its merge, and how true it is."""

from __future__ import annotations

import importlib.metadata
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from moto.ec2.models.instance_types import INSTANCE_TYPES

from ipamd.instance_types import (
    BUNDLED,
    Table,
    TableError,
    UnknownType,
    from_answer,
    from_row,
    load,
    merged,
    parse,
    to_row,
    to_text,
)
from ipamd.sizing import InstanceType

TABLE = load()


def answer(**network: Any) -> dict[str, Any]:
    return {
        "InstanceType": "x9.large",
        "VCpuInfo": {"DefaultVCpus": 2},
        "Hypervisor": "nitro",
        "BareMetal": False,
        "NetworkInfo": {
            "MaximumNetworkInterfaces": 3,
            "Ipv4AddressesPerInterface": 10,
            "Ipv6AddressesPerInterface": 10,
            **network,
        },
    }


def card(index: int, enis: int) -> dict[str, int]:
    return {"NetworkCardIndex": index, "MaximumNetworkInterfaces": enis}


def test_the_bundled_table_is_what_the_pinned_answers_say() -> None:
    made = {raw["InstanceType"]: from_answer(raw) for raw in INSTANCE_TYPES.values()}
    assert dict(TABLE.types) == made


def test_the_bundled_table_names_its_origin() -> None:
    version = importlib.metadata.version("moto")
    assert TABLE.origin == f"DescribeInstanceTypes, {len(TABLE.types)} answers of moto {version}"


def test_a_table_read_and_written_again_has_the_same_bytes() -> None:
    assert to_text(TABLE) == BUNDLED.read_text()


def test_a_table_is_sorted_whatever_order_its_types_come_in() -> None:
    backwards = Table(origin=TABLE.origin, types=dict(sorted(TABLE.types.items(), reverse=True)))
    assert to_text(backwards) == to_text(TABLE)


NAMES = st.from_regex(r"[a-z][a-z0-9-]{0,6}\.[a-z0-9-]{1,8}", fullmatch=True)
TYPES = st.builds(
    InstanceType,
    name=NAMES,
    vcpus=st.integers(1, 1000),
    hypervisor=st.sampled_from(("nitro", "xen", "")),
    is_bare_metal=st.booleans(),
    default_card=st.just(0),
    card_enis=st.lists(st.integers(1, 99), min_size=1, max_size=4).map(tuple),
    addresses_per_eni=st.integers(1, 99),
    addresses_v6_per_eni=st.integers(0, 99),
)


@given(TYPES)
def test_a_row_keeps_every_field(one: InstanceType) -> None:
    assert from_row(to_row(one)) == one


@pytest.mark.parametrize(
    ("network", "default_card", "enis"),
    [
        pytest.param({}, 0, (3,), id="a partition that lists no cards"),
        pytest.param(
            {"NetworkCards": [card(1, 7), card(0, 8)], "DefaultNetworkCardIndex": 1},
            1,
            (8, 7),
            id="cards in any order, another default",
        ),
        pytest.param(
            {"NetworkCards": [card(0, 4), card(2, 2)], "DefaultNetworkCardIndex": 0},
            0,
            (4, 0, 2),
            id="an index that is left out",
        ),
    ],
)
def test_cards_are_counted_by_their_index(
    network: dict[str, Any], default_card: int, enis: tuple[int, ...]
) -> None:
    one = from_answer(answer(**network))
    assert (one.default_card, one.card_enis, one.max_enis) == (
        default_card,
        enis,
        enis[default_card],
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "no header", id="empty"),
        pytest.param("name,enis\nm5.large,3\n", "no header", id="another file"),
        pytest.param("m5.large\t2\n", "line 4: 2 columns instead of 8", id="a line cut short"),
        pytest.param("m5.large\ttwo\tnitro\tno\t0\t3\t10\t10\n", "line 4: .*'two'", id="no number"),
        pytest.param(
            "m5.large\t2\tnitro\tno\t1\t3\t10\t10\n",
            "line 4: .*no network card 1",
            id="no such card",
        ),
        pytest.param(
            "m5.large\t2\tnitro\tno\t0\t0\t10\t10\n", "line 4: .*cannot have", id="no ENI at all"
        ),
    ],
)
def test_what_is_no_table_is_named_with_its_line(text: str, message: str) -> None:
    head = (
        "" if "no header" in message else "".join(BUNDLED.read_text().splitlines(keepends=True)[:3])
    )
    with pytest.raises(TableError, match=message):
        parse(head + text, name="a-file")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"gone\.tsv cannot be read"):
        load(tmp_path / "gone.tsv")


@pytest.mark.parametrize(
    ("asked", "near"),
    [
        ("m5.lrage", "m5.large"),
        ("M5.LARGE", "m5.large"),
        ("m5.largee", "m5.large"),
        ("p4.24xlarge", "p4d.24xlarge"),
    ],
)
def test_an_unknown_type_names_the_nearest(asked: str, near: str) -> None:
    with pytest.raises(UnknownType, match=f"{asked}.*nearest:.*{near}"):
        TABLE.find(asked)


def test_an_unknown_type_like_no_other_names_none() -> None:
    with pytest.raises(UnknownType) as caught:
        TABLE.find("?????????")
    assert "nearest" not in str(caught.value)


def test_a_merge_tells_new_changed_and_kept_types() -> None:
    small = Table(origin="old", types={n: TABLE.types[n] for n in ("m5.large", "m5.xlarge")})
    fresh = [replace(TABLE.types["m5.large"], card_enis=(4,)), TABLE.types["m4.large"]]
    table, changes = merged(small, fresh, origin="new")
    assert (changes.new, changes.changed, changes.kept) == (
        ("m4.large",),
        ("m5.large",),
        ("m5.xlarge",),
    )
    assert (table.origin, table.types["m5.large"].max_enis, len(table.types)) == ("new", 4, 3)
