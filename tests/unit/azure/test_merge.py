from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipamd.cloud import AddressChange
from ipamd.errors import CloudError, LimitReached, NotFound, Transient, Unsupported
from ipamd.model import EniId, IPAddress, IPNetwork
from providers.azure import merge, names
from providers.azure.bodies import MAX_CONFIGS, Edit
from providers.azure.configs import Config
from providers.azure.merge import Goal, NicPicture, Picture
from providers.azure.names import Kind, is_ours, names_of

ENI = EniId("nic")


def held(
    name: str, carries: str | None, *, is_primary: bool = False, state: str = "succeeded"
) -> Config:
    what: IPAddress | IPNetwork | None = None
    if carries is not None:
        what = IPv4Network(carries) if "/" in carries else IPv4Address(carries)
    return Config(name=name, is_primary=is_primary, state=state, carries=what)


PRIMARY = held("ipconfig1", "10.0.0.4", is_primary=True)


def kind_of(config: Config) -> Kind:
    return Kind.BLOCK if isinstance(config.carries, IPv4Network) else Kind.ADDRESS


def picture(*configs: Config, written: dict[str, Kind] | None = None) -> Picture:
    listed = (PRIMARY, *configs)
    shown = {config.key: config for config in listed}
    model = {key: kind_of(config) for key, config in shown.items()} if written is None else written
    nic = NicPicture(eni_id=ENI, subnet_id="subnet", shown=shown, written=model)
    return Picture(etag="e", state="succeeded", body={}, nics={ENI: nic})


def change(token: str = "t1", **wanted: object) -> AddressChange:
    return replace(AddressChange(eni_id=ENI, token=token), **wanted)  # type: ignore[arg-type]


def goals(seen: Picture, *changes: AddressChange) -> tuple[Goal | CloudError, ...]:
    return merge.merge(seen, changes, {}).goals


def goal(seen: Picture, one: AddressChange) -> Goal:
    (found,) = goals(seen, one)
    assert isinstance(found, Goal), found
    return found


def address(text: str) -> IPv4Address:
    return IPv4Address(text)


@pytest.mark.parametrize(
    ("wanted", "kind", "code"),
    [
        pytest.param(change(remove=(address("10.0.0.4"),)), CloudError, "NotOurs", id="primary"),
        pytest.param(change(remove=(address("10.0.0.9"),)), CloudError, "NotOurs", id="others'"),
        pytest.param(
            change(remove=(address("10.0.0.7"),)), CloudError, "NotOurs", id="primary in disguise"
        ),
        pytest.param(change(add=MAX_CONFIGS), LimitReached, "MaxConfigs", id="too many"),
        pytest.param(change(add_prefixes_v6=1), Unsupported, "NoPrefixV6", id="IPv6 block"),
        pytest.param(change(eni_id=EniId("other"), add=1), NotFound, "NotOnNode", id="another NIC"),
    ],
)
def test_what_cannot_be_is_refused(wanted: AddressChange, kind: type, code: str) -> None:
    seen = picture(held("web", "10.0.0.9"), held("ipamd-00000007", "10.0.0.7", is_primary=True))
    merged = merge.merge(seen, [wanted], {})
    (refusal,) = merged.goals
    assert isinstance(refusal, CloudError)
    assert (type(refusal), refusal.code) == (kind, code)
    assert merged.edits == {}


def test_a_nic_that_is_not_shown_proves_nothing() -> None:
    seen = picture()
    hidden = replace(seen, nics={ENI: replace(seen.nics[ENI], shown={})})
    (refusal,) = goals(hidden, change(remove=(address("10.0.0.9"),)))
    assert isinstance(refusal, Transient)
    assert not merge.is_reached(Goal(eni_id=ENI), hidden)
    assert merge.has_effect(Goal(eni_id=ENI), hidden)


@pytest.mark.parametrize(
    ("carries", "removes", "goes"),
    [
        pytest.param("10.0.0.9", change(remove=(address("10.0.0.9"),)), True, id="address"),
        pytest.param(
            "10.0.0.16/28",
            change(remove_prefixes=(IPv4Network("10.0.0.16/28"),)),
            True,
            id="block",
        ),
        pytest.param(
            "10.0.0.16/28", change(remove=(address("10.0.0.16"),)), False, id="first of a block"
        ),
        pytest.param(
            "10.0.0.16",
            change(remove_prefixes=(IPv4Network("10.0.0.16/28"),)),
            False,
            id="block that is an address",
        ),
        pytest.param(None, change(remove=(address("10.0.0.9"),)), False, id="nothing yet"),
    ],
)
def test_only_what_carries_exactly_this_goes(
    carries: str | None, removes: AddressChange, goes: bool
) -> None:
    wanted = goal(picture(held("Ipamd-0000000A", carries)), removes)
    assert wanted.removing == (frozenset({"ipamd-0000000a"}) if goes else frozenset())


def test_a_name_that_stands_there_for_another_kind_is_passed_over() -> None:
    (name,) = names_of("t1", Kind.ADDRESS, 1)
    wanted = goal(picture(held(name, "10.0.0.16/28")), change(add=1))
    assert wanted.missing == wanted.adding
    assert wanted.adding[0][0] != name


def test_two_tokens_that_share_a_name_get_one_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(names, "DIGITS", 1)
    changes = [change(token=f"t{n}", add=3) for n in range(5)]
    wanted = [one for one in goals(picture(), *changes) if isinstance(one, Goal)]
    made = [name for one in wanted for name, _ in one.adding]
    assert len(set(made)) == len(made) == 15


def test_room_that_one_makes_is_there_for_another() -> None:
    full = picture(*[held(f"ipamd-{n:08x}", str(address("10.0.1.0") + n)) for n in range(255)])
    first, second, third = goals(
        full,
        change(add=1),
        change(token="t2", remove=(address("10.0.1.7"),)),
        change(token="t3", add=1),
    )
    assert isinstance(first, Goal)
    assert isinstance(second, Goal)
    assert isinstance(third, LimitReached)


configs = st.builds(
    held,
    st.integers(0, 30).map(lambda n: f"ipamd-{n:08x}") | st.sampled_from(["web", "db"]),
    st.integers(5, 60).map(lambda n: f"10.0.0.{n}") | st.just("10.0.0.64/28") | st.none(),
    state=st.sampled_from(["succeeded", "updating", "failed"]),
)
changes = st.lists(
    st.builds(
        change,
        token=st.sampled_from(["t1", "t2", "t3"]),
        add=st.integers(0, 300),
        add_prefixes=st.integers(0, 3),
        remove=st.lists(st.integers(4, 61).map(lambda n: address(f"10.0.0.{n}"))).map(tuple),
    ),
    max_size=4,
)
pictures = st.lists(configs, max_size=20, unique_by=lambda c: c.key).map(lambda c: picture(*c))


@given(seen=pictures, asked=changes, stuck=st.sets(st.integers(0, 30)))
def test_an_edit_keeps_to_what_is_ours_and_fits(
    seen: Picture, asked: list[AddressChange], stuck: set[int]
) -> None:
    nic = seen.nics[ENI]
    merged = merge.merge(seen, asked, {ENI: frozenset(f"ipamd-{n:08x}" for n in stuck)})
    edit = merged.edits.get(ENI, Edit())
    added = [name for name, _ in edit.adds]
    assert all(is_ours(key) and not nic.shown[key].is_primary for key in edit.removes)
    assert len(set(added)) == len(added)
    assert not set(added) & nic.written.keys()
    refused = [one for one in merged.goals if isinstance(one, CloudError)]
    if not refused:
        assert len(nic.written.keys() - edit.removes) + len(added) <= MAX_CONFIGS


def after(seen: Picture, merged: merge.Merged) -> Picture:
    """As if the write had come about."""
    edit = merged.edits.get(ENI, Edit())
    kept = {k: c for k, c in seen.nics[ENI].shown.items() if k not in edit.removes}
    for number, (name, kind) in enumerate(edit.adds):
        start = address("10.9.0.0") + 16 * number
        kept[name] = held(name, f"{start}/28" if kind is Kind.BLOCK else str(start))
    usable = (replace(config, state="succeeded") for config in kept.values())
    return picture(*[config for config in usable if not config.is_primary])


@given(seen=pictures, asked=changes)
def test_what_was_asked_for_is_reached_by_the_write_and_asks_for_no_other(
    seen: Picture, asked: list[AddressChange]
) -> None:
    seen = picture(
        *[c for c in seen.nics[ENI].shown.values() if c.carries is not None and c != PRIMARY]
    )
    merged = merge.merge(seen, asked, {})
    wanted = [
        (one, by) for one, by in zip(merged.goals, asked, strict=True) if isinstance(one, Goal)
    ]
    done = after(seen, merged)
    for one, by in wanted:
        if {name for name, _ in one.adding} & {k for g, _ in wanted for k in g.removing}:
            continue  # asked for and given back in one breath
        assert merge.is_reached(one, done)
        assert len(merge.outcome(one, done).added) == by.add
        assert len(merge.outcome(one, done).added_prefixes) == by.add_prefixes


def test_what_a_failed_write_left_is_what_cannot_be_used() -> None:
    added = tuple((f"ipamd-0000000{n}", Kind.ADDRESS) for n in range(5))
    wanted = Goal(eni_id=ENI, adding=added, missing=added[:4])
    seen = picture(
        held("ipamd-00000000", "10.0.0.9"),
        held("ipamd-00000001", "10.0.0.10", state="failed"),
        held("ipamd-00000002", None),
        held("ipamd-00000004", "10.0.0.11", state="failed"),
    )
    assert merge.left_behind([wanted], seen) == {ENI: {"ipamd-00000001", "ipamd-00000002"}}
