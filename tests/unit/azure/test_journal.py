from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipamd.errors import Busy
from ipamd.model import EniId
from providers.azure.journal import Journal, Named, Write, write_of
from providers.azure.merge import Goal
from providers.azure.names import Kind

ENI = EniId("/nic")
WRITE = Write(
    target_id="/nic",
    adding=(Named(eni_id=ENI, name="ipamd-00000001", kind=Kind.BLOCK),),
    removing=(Named(eni_id=ENI, name="ipamd-00000002"),),
    etag='W/"1"',
)


class Notes(list[tuple[str, dict[str, object]]]):
    def __call__(self, event: str, /, **facts: object) -> None:
        self.append((event, facts))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "writes.json"


def test_a_write_is_there_for_the_next_process(path: Path) -> None:
    journal = Journal(path)
    journal.begin(WRITE)
    journal.answered("/nic", "https://arm/op")
    journal.set_stuck(ENI, frozenset({"ipamd-00000003"}))

    later = Journal(path)

    (write,) = later.writes()
    assert write.operation_url == "https://arm/op"
    assert (write.adding, write.removing, write.etag) == (WRITE.adding, WRITE.removing, WRITE.etag)
    assert later.stuck(ENI) == {"ipamd-00000003"}
    assert later.leaving(ENI) == {"ipamd-00000002"}


def test_a_write_that_has_ended_is_gone(path: Path) -> None:
    journal = Journal(path)
    journal.begin(WRITE)
    journal.end("/nic")
    journal.end("/nic")
    assert Journal(path).writes() == ()


def test_the_goals_of_a_write_come_back_from_its_note() -> None:
    added = (("ipamd-00000001", Kind.BLOCK),)
    goals = (
        Goal(eni_id=ENI, adding=added, missing=added),
        Goal(eni_id=EniId("/other"), removing=frozenset({"ipamd-00000002"})),
    )
    assert write_of("/instance", goals, "").goals == goals


def test_only_root_may_read_it(path: Path) -> None:
    path.touch(mode=0o644)
    Journal(path).begin(WRITE)
    assert path.stat().st_mode & 0o777 == 0o600
    assert [p.name for p in path.parent.iterdir() if p.name.endswith(".new")] == []


def test_a_link_in_its_place_is_not_followed(path: Path) -> None:
    other = path.with_name("other")
    other.write_text("precious")
    path.with_name(path.name + ".new").symlink_to(other)
    with pytest.raises(Busy):
        Journal(path).begin(WRITE)
    assert other.read_text() == "precious"


GOOD = {"version": 1, "writes": [], "stuck": []}
NAMED = {"eni": "/nic", "name": "ipamd-00000001", "kind": "address"}
ONE = {"target": "/nic", "etag": "", "operation_url": "", "adding": [NAMED], "removing": []}


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"{", id="cut off"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"[" * 100_000, id="deep"),
        pytest.param(b"null", id="null"),
        pytest.param(b"[]", id="list"),
        pytest.param(json.dumps({**GOOD, "version": 2}).encode(), id="another version"),
        pytest.param(json.dumps({"version": 1}).encode(), id="members missing"),
        pytest.param(json.dumps({**GOOD, "writes": [{**ONE, "etag": 1}]}).encode(), id="number"),
        pytest.param(json.dumps({**GOOD, "stuck": ["x"]}).encode(), id="stuck is text"),
        pytest.param(
            json.dumps({**GOOD, "stuck": [{**NAMED, "name": "ipconfig1"}]}).encode(),
            id="a name that is not ours",
        ),
        pytest.param(
            json.dumps({**GOOD, "stuck": [{**NAMED, "kind": "v6"}]}).encode(), id="unknown kind"
        ),
    ],
)
def test_what_cannot_be_read_is_set_aside(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    notes = Notes()

    journal = Journal(path, note=notes, unix=lambda: 12.0)

    assert journal.writes() == ()
    assert path.with_name("writes.json.unusable-12000").read_bytes() == content
    assert [event for event, _ in notes] == ["azure_journal_set_aside"]
    journal.begin(WRITE)
    assert Journal(path).writes() == (WRITE,)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    said=st.fixed_dictionaries(
        {"version": st.just(1)},
        optional={
            name: st.recursive(
                st.none() | st.booleans() | st.integers() | st.text(max_size=8),
                lambda inner: (
                    st.lists(inner, max_size=3)
                    | st.dictionaries(
                        st.sampled_from(["target", "adding", "removing", "eni", "name", "kind"]),
                        inner,
                    )
                ),
            )
            for name in ("writes", "stuck")
        },
    )
)
def test_no_content_is_fatal(path: Path, said: object) -> None:
    path.write_text(json.dumps(said))
    journal = Journal(path, unix=lambda: 1.0)
    journal.begin(WRITE)
    assert WRITE in Journal(path).writes()


def test_what_cannot_be_noted_is_not_to_be_sent(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "missing" / "writes.json")
    with pytest.raises(Busy, match="so it is not sent") as refusal:
        journal.begin(WRITE)
    assert refusal.value.code == "JournalFailed"
    assert refusal.value.retry_after_seconds > 0
    assert journal.writes() == ()


def test_an_end_that_cannot_be_noted_is_one_all_the_same(path: Path) -> None:
    notes = Notes()
    journal = Journal(path, note=notes)
    journal.begin(WRITE)
    path.unlink()
    path.mkdir()
    (path / "x").touch()
    journal.answered("/nic", "https://arm/op?sig=secret")
    journal.end("/nic")
    assert journal.writes() == ()
    assert [event for event, _ in notes] == ["azure_journal_failed"] * 2
    assert "secret" not in str(notes)
