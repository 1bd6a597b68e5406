"""docs/max-pods.md says what the program says: its examples, its numbers, its lists."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from ipamd.cli.main import main
from ipamd.cli.max_pods import TABLE_VARIABLE
from ipamd.instance_types import load
from ipamd.sizing import PodNetwork, max_pods

TEXT = (Path(__file__).resolve().parents[2] / "docs/max-pods.md").read_text()
TYPES = load().types


def examples() -> dict[str, str]:
    """Each command of the console blocks with what the page shows below it."""
    blocks = re.findall(r"^```console\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE)
    parts = (p for block in blocks for p in re.split(r"^\$ ", block, flags=re.MULTILINE) if p)
    return {command: shown for command, _, shown in (p.partition("\n") for p in parts)}


@pytest.mark.parametrize("command", examples())
def test_an_example_prints_what_the_page_shows(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(TABLE_VARIABLE, raising=False)
    program, *words = shlex.split(command)
    status = main(["max-pods", *words])
    assert (program, status, capsys.readouterr().out) == (
        "scripts/max-pods",
        0,
        examples()[command],
    )


def rows(columns: int) -> list[list[str]]:
    """The tables' rows of that many columns whose first cell is an instance type."""
    lines = [re.split(r" *\| *", line.strip("| ")) for line in TEXT.splitlines() if "|" in line]
    return [line for line in lines if len(line) == columns and line[0] in TYPES]


def test_the_worked_numbers_are_right() -> None:
    modes = [
        PodNetwork(prefixes=prefixes, custom_networking=custom)
        for prefixes in (False, True)
        for custom in (False, True)
    ]
    made = [
        [
            one.name,
            f"{one.max_enis} x {one.addresses_per_eni}, {one.vcpus}",
            *(str(max_pods(one, mode).pods) for mode in modes),
        ]
        for one in (TYPES[row[0]] for row in rows(6))
    ]
    assert rows(6) == made
    assert len(made) == 5


def test_the_listed_disagreements_are_real_on_our_side() -> None:
    for name, ours, theirs, our_pods, their_pods in rows(5):
        one = TYPES[name]
        assert (ours, our_pods) == (
            ",".join(map(str, one.card_enis)),
            str(max_pods(one, PodNetwork()).pods),
        )
        assert sum(one.card_enis) == int(theirs)
        assert max_pods(one, PodNetwork(all_cards=True)).pods == int(their_pods)
    assert len(rows(5)) == 4


def listed(after: str) -> list[str]:
    quoted = TEXT.partition(after)[2].split("\n\n")[1]
    return quoted.replace(">", " ").split()


def test_the_lists_of_types_in_one_table_only_are_complete() -> None:
    theirs, ours = listed("Only in theirs, 23"), listed("Only in ours, 27")
    assert (len(set(theirs)), len(set(ours))) == (23, 27)
    assert [name for name in theirs if name in TYPES] == []
    assert [name for name in ours if name not in TYPES] == []
    assert len(TYPES) - len(ours) == 1368


@pytest.mark.parametrize(
    ("sentence", "count"),
    [
        ("1,395 types", len(TYPES)),
        ("71 types have several", sum(len(t.card_enis) > 1 for t in TYPES.values())),
        ("154\nare bare metal", sum(t.is_bare_metal for t in TYPES.values())),
        ("74 run on Xen and have no prefixes", sum(not t.has_prefixes for t in TYPES.values())),
        ("14 of those no IPv6", sum(not t.addresses_v6_per_eni for t in TYPES.values())),
    ],
)
def test_a_count_on_the_page_is_the_tables(sentence: str, count: int) -> None:
    assert sentence in TEXT
    assert int(sentence.split(maxsplit=1)[0].replace(",", "")) == count
