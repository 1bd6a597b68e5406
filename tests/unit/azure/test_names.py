from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.azure import names
from providers.azure.names import Kind, is_ours, names_of

tokens = st.text(min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        pytest.param("ipamd-0a1b2c3d", True, id="ours"),
        pytest.param("IPAMD-0A1B2C3D", True, id="ours, as ARM may spell it"),
        pytest.param("ipconfig1", False, id="azure's default"),
        pytest.param("Cilium-ABCDEFGH", False, id="another agent's"),
        pytest.param("my-ipamd-0a1b2c3d", False, id="prefix in the middle"),
        pytest.param("", False, id="none"),
    ],
)
def test_the_prefix_says_whose_a_configuration_is(name: str, ours: bool) -> None:
    assert is_ours(name) is ours


@given(token=tokens, count=st.integers(0, 64), kind=st.sampled_from(Kind))
def test_a_token_stands_for_the_same_distinct_names_each_time(
    token: str, count: int, kind: Kind
) -> None:
    made = names_of(token, kind, count)
    assert len(set(made)) == count
    assert made == names_of(token, kind, count)
    assert all(re.fullmatch(r"ipamd-[0-9a-f]{8}", name) and is_ours(name) for name in made)


@given(token=tokens, few=st.integers(0, 8), more=st.integers(0, 8))
def test_a_smaller_repeat_names_the_first_of_the_larger_one(
    token: str, few: int, more: int
) -> None:
    assert names_of(token, Kind.ADDRESS, few) == names_of(token, Kind.ADDRESS, few + more)[:few]


@given(token=tokens, count=st.integers(1, 8), data=st.data())
def test_a_name_that_stands_for_something_else_is_passed_over(
    token: str, count: int, data: st.DataObject
) -> None:
    plain = names_of(token, Kind.BLOCK, count)
    refused = frozenset(data.draw(st.sets(st.sampled_from(plain))))
    made = names_of(token, Kind.BLOCK, count, refused=refused)
    assert len(made) == count
    assert not refused & set(made)


def test_tokens_and_kinds_do_not_share_names() -> None:
    made = [n for token in ("a", "b") for kind in Kind for n in names_of(token, kind, 256)]
    assert len(set(made)) == 1024


def test_a_name_come_upon_twice_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "DIGITS", 1)
    assert len(set(names_of("token", Kind.ADDRESS, 16))) == 16
