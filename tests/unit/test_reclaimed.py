"""Which releases count as addresses that were found again."""

from __future__ import annotations

import pytest

from ipamd.handlers import counted_as


@pytest.mark.parametrize(
    ("reason", "outcome", "label"),
    [
        ("lost DEL, gone: link missing", "released", "reclaimed"),
        ("lost DEL, gone: link missing", "other_generation", "other_generation"),
        ("DEL", "released", "released"),
        ("", "unknown_key", "unknown_key"),
    ],
    ids=["found-again", "came-back-meanwhile", "the-runtimes-del", "a-repeat"],
)
def test_only_a_lost_del_that_was_ended_counts_as_reclaimed(
    reason: str, outcome: str, label: str
) -> None:
    assert counted_as(reason, outcome) == label
