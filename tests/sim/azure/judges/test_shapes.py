"""The judges themselves: they must be able to say no, and their tables must be sound."""

from __future__ import annotations

import pytest

from tests.sim.azure.judges.shapes import (
    Fact,
    disagreements,
    facts,
    is_kind,
    leaves,
    resource_type,
    rows,
    unforeseen,
)

SUBNET = "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/virtualNetworks/v/subnets/n"
GUID = "3e6f5b4a-0000-4000-8000-0123456789ab"


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("text", "eastus", ""),
        ("bool", False, "false"),
        ("number", 28.0, True),
        ("list", [], {}),
        ("object", {}, []),
        ("guid", GUID, "guid"),
        ("etag", f'W/"{GUID}"', GUID),
        ("count", '"12"', "12"),
        ("mac", "00-0D-3A-1B-C7-21", "00:0D:3A:1B:C7:21"),
        ("mac", "00-0D-3A-1B-C7-21", "00-0d-3a-1b-c7-21"),
        ("url", "https://127.0.0.1/x", "/x"),
        ("address", "172.20.2.4", "172.20.2.16/28"),
        ("block", "172.20.2.16/28", "172.20.2.17/28"),
        ("address|block", "172.20.2.16/28", "172.20.2.16/27"),
        ("range", "10.0.0.0/16", "10.0.0.0"),
        ("date", "2022-05-18T10:34:57.5308623+00:00", "yesterday"),
        ("id", SUBNET, "subnet"),
        (
            "id:Microsoft.Network/virtualNetworks/subnets",
            SUBNET.replace("v/s", "V/S"),
            SUBNET + "/x/y",
        ),
        ("is:Count", "Count", "count"),
        ("enum:Succeeded|Updating", "Updating", "updating"),
    ],
)
def test_a_kind_takes_its_own_and_refuses_others(kind: str, good: object, bad: object) -> None:
    assert (is_kind(kind, good), is_kind(kind, bad)) == (True, False)


def test_an_answer_that_lacks_a_member_or_has_another_kind_disagrees() -> None:
    wanted = (
        Fact(path="value[].id", kind="id"),
        Fact(path="value[].etag", kind="etag"),
        Fact(path="unit", kind="is:Count"),
    )
    answer = {"value": [{"id": SUBNET}, {"id": 3}], "unit": "Count", "more": {"x": 1}}
    assert disagreements(wanted, answer) == {
        "value[].id": "3 is not of kind id",
        "value[].etag": "is missing",
    }
    assert unforeseen(wanted, answer) == {"more.x"}


def test_leaves_are_values_and_empty_containers() -> None:
    assert leaves({"a": {"b": [{"c": 1}, {"c": 2, "d": []}]}, "e": {}}) == {
        "a.b[].c",
        "a.b[].d",
        "e",
    }


def test_a_resource_type_is_every_second_segment() -> None:
    assert resource_type(SUBNET) == "Microsoft.Network/virtualNetworks/subnets"
    assert resource_type("/subscriptions/s/resourceGroups/g") == ""


def test_every_example_and_recording_names_its_source() -> None:
    assert {row["example"] for row in rows("examples")} == {
        row["example"] for row in rows("example_sources")
    }
    assert {row["recording"] for row in rows("recordings")} == {
        row["recording"] for row in rows("recording_sources")
    }


def test_every_kind_and_every_shape_that_a_table_names_exists() -> None:
    for row in (*rows("examples"), *rows("recorded_shapes")):
        is_kind(row["kind"], "")  # a KeyError names the word
    named = {row[column] for row in rows("recordings") for column in ("sends", "returns")} - {"-"}
    assert all(facts("recorded_shapes", shape=name) for name in named)
