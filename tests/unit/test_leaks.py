"""What signs make of an allocation: the rule table, and what no single witness can do."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from cni_shim.datapath.identity import Identity, decode_alias, encode_alias
from cni_shim.leaks import USUAL, Assessment, Memory, Rule, Standing, assess, explains_all
from cni_shim.signs import Held, Look, Namespaces, RoutedAddress, Sight, Wiring, Witness
from cni_shim.spec import AttachmentKey
from hypothesis import given
from hypothesis import strategies as st

NOW_UNIX = 1_000_000.0
ALL_WITNESSES = frozenset((w, is_pod) for w in Witness for is_pod in (True, False))


def held(number: int = 1, wiring: Wiring = Wiring.OURS, **changed: object) -> Held:
    values: dict[str, object] = {
        "key": AttachmentKey(container_id=f"c{number}", ifname="eth0"),
        "generation": number,
        "netns_cookie": 100 + number,
        "network_name": "vpc",
        "addresses": frozenset({ip_address(f"10.0.0.{number}")}),
        "wiring": wiring,
        "is_pod": True,
        "allocated_unix": NOW_UNIX - 3600,
    }
    return Held(**(values | changed))  # type: ignore[arg-type]


def identity(of: Held) -> Identity:
    return Identity(
        container_id=of.key.container_id,
        ifname=of.key.ifname,
        network_name=of.network_name,
        netns_cookie=of.netns_cookie,
        pod_namespace="default",
        pod_name="web",
    )


def entry(of: Held) -> str:
    return f"{of.network_name}-{of.key.container_id}-{of.key.ifname}"


def living(*pods: Held, sees_processes: bool = True) -> Look:
    """A node on which all of these live and every witness sees what it can."""
    ours = tuple(identity(h) for h in pods if h.wiring is Wiring.OURS)
    routes = tuple(
        RoutedAddress(address=a, owner=identity(h) if h.wiring is Wiring.OURS else None)
        for h in pods
        for a in h.addresses
    )
    cookies = frozenset(h.netns_cookie for h in pods if h.netns_cookie)
    return Look(
        epoch="e1",
        held=pods,
        links=ours,
        routes=routes,
        mounts=Namespaces(cookies=cookies, is_whole=True),
        processes=Namespaces(cookies=cookies, is_whole=sees_processes),
        cache=frozenset(map(entry, pods)),
        sandboxes={h.key.container_id: True for h in pods if h.is_pod},
    )


NEIGHBOUR = held(9)


def without(look: Look, *lost: Held) -> Look:
    """The same ledger on a node where these have vanished from everything."""
    left = tuple(h for h in look.held if h not in lost)
    seen = living(*left, sees_processes=look.processes.is_whole)
    return replace(seen, held=look.held)


def looked(look: Look, *, now: float = 1000.0, memory: Memory | None = None) -> Assessment:
    """One look of a process that has known everything for an hour and trusts everybody."""
    known = {h.name: now - 3600 for h in look.held}
    trusting = Memory(epoch="e1", trust=ALL_WITNESSES, known=known)
    return assess(memory or trusting, look, now=now, now_unix=NOW_UNIX)


def verdict_on(subject: Held, look: Look) -> tuple[Standing, Rule | None]:
    (verdict,) = [v for v in looked(look).verdicts if v.held == subject]
    return verdict.standing, verdict.rule


OURS = held(1)
OTHERS = held(1, Wiring.MAIN_PLUGIN)
PEERS = held(1, Wiring.PEER, netns_cookie=0)
CTR = held(1, is_pod=False)
BLIND = Namespaces()
LIVE, UNSURE = (Standing.LIVE, None), (Standing.UNSURE, None)
GONE, FORGOTTEN = (Standing.CANDIDATE, Rule.GONE), (Standing.CANDIDATE, Rule.FORGOTTEN)


def plus(look: Look, **changed: object) -> Look:
    return replace(look, **changed)  # type: ignore[arg-type]


def gone(subject: Held, **changed: object) -> Look:
    return plus(without(living(subject, NEIGHBOUR), subject), **changed)


def alive(subject: Held, **changed: object) -> Look:
    return plus(living(subject, NEIGHBOUR), **changed)


ONE_LESS = {"c9": True}
ENTRY = frozenset({entry(OURS), entry(NEIGHBOUR)})
NO_ENTRY = frozenset({entry(NEIGHBOUR)})
ROWS = {
    # rule 1
    "its-del-is-queued": (OURS, gone(OURS, queued=frozenset({OURS.key})), LIVE),
    "a-verb-holds-its-lock": (OURS, gone(OURS, busy=frozenset({OURS.key})), LIVE),
    "younger-than-a-minute": (
        held(1, allocated_unix=NOW_UNIX - 59),
        gone(held(1, allocated_unix=NOW_UNIX - 59)),
        LIVE,
    ),
    "from-the-future-as-the-clock-was-set-back": (
        held(1, allocated_unix=NOW_UNIX + 900),
        gone(held(1, allocated_unix=NOW_UNIX + 900)),
        LIVE,
    ),
    # rule 2
    "sandbox-ready-though-all-else-is-gone": (
        OURS,
        gone(OURS, sandboxes={"c1": True, "c9": True}),
        LIVE,
    ),
    # rule 3
    "everything-gone": (OURS, gone(OURS), GONE),
    "gone-and-only-the-list-says-so": (
        OURS,
        gone(OURS, cache=None, processes=BLIND),
        GONE,
    ),
    "gone-and-the-sandbox-is-not-ready": (
        OURS,
        gone(OURS, sandboxes={"c1": False, "c9": True}, cache=ENTRY, processes=BLIND),
        GONE,
    ),
    "gone-and-only-the-cache-says-so": (
        OURS,
        gone(OURS, sandboxes=None, processes=BLIND),
        GONE,
    ),
    "gone-and-only-the-processes-say-so": (
        OURS,
        gone(OURS, sandboxes=None, cache=ENTRY, mounts=BLIND),
        GONE,
    ),
    "gone-with-an-entry-of-the-container-under-multus": (
        OURS,
        gone(OURS, sandboxes=None, processes=BLIND, cache=NO_ENTRY | {"multus-c1-net0"}),
        UNSURE,
    ),
    "gone-with-the-loopbacks-entry-left": (
        OURS,
        gone(OURS, sandboxes=None, processes=BLIND, cache=NO_ENTRY | {"cni-loopback-c1-lo"}),
        GONE,
    ),
    "gone-but-nobody-else-can-say-so": (
        OURS,
        gone(OURS, sandboxes=None, cache=None, processes=BLIND),
        UNSURE,
    ),
    "gone-with-an-entry-in-the-cache-alone": (
        OURS,
        gone(OURS, sandboxes=None, cache=ENTRY, processes=BLIND),
        UNSURE,
    ),
    "no-namespace-can-be-seen": (
        OURS,
        gone(OURS, mounts=BLIND, processes=BLIND, sandboxes=None),
        UNSURE,
    ),
    "links-cannot-be-read": (OURS, gone(OURS, links=None), UNSURE),
    "routes-cannot-be-read": (OURS, gone(OURS, routes=None), UNSURE),
    "its-address-is-routed-elsewhere": (
        OURS,
        plus(
            gone(OURS),
            routes=(RoutedAddress(address=ip_address("10.0.0.1"), owner=identity(NEIGHBOUR)),),
        ),
        LIVE,
    ),
    "cookie-never-known": (
        held(1, netns_cookie=0),
        gone(held(1, netns_cookie=0), sandboxes=None),
        UNSURE,
    ),
    "only-a-process-is-left": (
        OURS,
        gone(OURS, processes=Namespaces(cookies=frozenset({101, 109}), is_whole=True)),
        LIVE,
    ),
    "only-the-mount-is-left-and-an-entry": (
        OURS,
        gone(OURS, mounts=Namespaces(cookies=frozenset({101, 109}), is_whole=True), cache=ENTRY),
        LIVE,
    ),
    "container-of-ctr-gone": (CTR, gone(CTR, processes=BLIND), GONE),
    "container-of-ctr-is-in-no-list": (
        CTR,
        gone(CTR, processes=BLIND, cache=None, sandboxes=ONE_LESS),
        UNSURE,
    ),
    # rule 4
    "another-plugins-gone": (OTHERS, gone(OTHERS), GONE),
    "another-plugins-gone-by-the-cache": (OTHERS, gone(OTHERS, sandboxes=None), GONE),
    "another-plugins-gone-by-namespaces-alone": (
        OTHERS,
        gone(OTHERS, sandboxes=None, cache=None),
        UNSURE,
    ),
    "another-plugins-address-has-a-route": (
        OTHERS,
        gone(OTHERS, routes=(RoutedAddress(address=ip_address("10.0.0.1"), owner=None),)),
        LIVE,
    ),
    "another-plugins-forgotten": (
        OTHERS,
        alive(OTHERS, sandboxes=ONE_LESS, cache=NO_ENTRY, processes=BLIND),
        LIVE,
    ),
    # rule 5
    "forgotten": (
        OURS,
        alive(OURS, sandboxes=ONE_LESS, cache=NO_ENTRY, processes=BLIND),
        FORGOTTEN,
    ),
    "forgotten-and-no-namespace-can-be-seen": (
        OURS,
        gone(OURS, mounts=BLIND, processes=BLIND),
        FORGOTTEN,
    ),
    "forgotten-but-a-process-runs": (OURS, alive(OURS, sandboxes=ONE_LESS, cache=NO_ENTRY), LIVE),
    "forgotten-but-in-the-cache": (OURS, alive(OURS, sandboxes=ONE_LESS, processes=BLIND), LIVE),
    "forgotten-and-the-cache-is-unseen": (
        OURS,
        alive(OURS, sandboxes=ONE_LESS, cache=None, processes=BLIND),
        LIVE,
    ),
    "not-ready-is-not-forgotten": (
        OURS,
        alive(OURS, sandboxes={"c1": False, "c9": True}, cache=NO_ENTRY, processes=BLIND),
        LIVE,
    ),
    "a-container-of-ctr-is-never-forgotten": (
        CTR,
        alive(CTR, sandboxes=ONE_LESS, cache=NO_ENTRY, processes=BLIND),
        LIVE,
    ),
    # rule 6
    "aws-nodes-gone": (PEERS, gone(PEERS), FORGOTTEN),
    "aws-nodes-gone-but-in-the-cache": (PEERS, gone(PEERS, cache=ENTRY), UNSURE),
    "aws-nodes-gone-but-not-ready": (
        PEERS,
        gone(PEERS, sandboxes={"c1": False, "c9": True}),
        UNSURE,
    ),
    "aws-nodes-gone-and-no-list": (PEERS, gone(PEERS, sandboxes=None), UNSURE),
    "aws-nodes-route-stands": (PEERS, alive(PEERS, sandboxes=ONE_LESS), LIVE),
    "aws-nodes-namespace-is-mounted": (
        held(1, Wiring.PEER),
        gone(
            held(1, Wiring.PEER),
            mounts=Namespaces(cookies=frozenset({101, 109}), is_whole=True),
        ),
        LIVE,
    ),
    "aws-nodes-without-names": (
        held(1, Wiring.PEER, is_pod=False),
        gone(held(1, Wiring.PEER, is_pod=False)),
        UNSURE,
    ),
    # rule 7
    "alive": (OURS, alive(OURS), LIVE),
    "alive-with-nothing-but-a-link": (
        OURS,
        alive(OURS, sandboxes=None, cache=None, mounts=BLIND, processes=BLIND, routes=None),
        LIVE,
    ),
}


@pytest.mark.parametrize(("subject", "look", "expected"), ROWS.values(), ids=ROWS)
def test_what_is_seen_decides(
    subject: Held, look: Look, expected: tuple[Standing, Rule | None]
) -> None:
    assert verdict_on(subject, look) == expected


def test_a_link_whose_names_were_hashed_is_found() -> None:
    long = held(1, key=AttachmentKey(container_id="c" * 250, ifname="eth0"))
    from_alias = replace(identity(long), pod_name="p" * 250)
    written = decode_alias(encode_alias(from_alias))
    assert written is not None
    assert written.container_id.startswith("~"), "the case must be the hashed one"
    look = gone(long, links=(written, identity(NEIGHBOUR)), sandboxes=None)
    assert verdict_on(long, look)[0] is Standing.LIVE


def fresh(look: Look, *, memory: Memory | None = None) -> Assessment:
    return assess(memory or Memory(), look, now=1000.0, now_unix=NOW_UNIX)


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (gone(OURS, processes=BLIND), Standing.CANDIDATE),
        (without(living(OURS, sees_processes=False), OURS), Standing.UNSURE),
        (gone(OURS, processes=BLIND, mounts=Namespaces(is_whole=True)), Standing.UNSURE),
        (
            gone(OURS, processes=BLIND, cache=frozenset(), sandboxes=None),
            Standing.UNSURE,
        ),
        (gone(OURS, processes=BLIND, cache=frozenset(), sandboxes={}), Standing.UNSURE),
        (without(living(OURS), OURS), Standing.CANDIDATE),
    ],
    ids=[
        "a-neighbour-proves-the-witnesses",
        "nobody-lives-and-nothing-is-proven",
        "the-mounts-miss-a-living-neighbour",
        "the-cache-misses-a-living-neighbour",
        "the-list-is-of-another-runtime",
        "the-hosts-processes-need-no-proof",
    ],
)
def test_silence_counts_only_from_who_has_shown_a_living_one(
    look: Look, expected: Standing
) -> None:
    verdict = next(v for v in fresh(look).verdicts if v.held == OURS)
    assert verdict.standing is expected


def standing_of(subject: Held, assessment: Assessment) -> Standing:
    return next(v.standing for v in assessment.verdicts if v.held == subject)


def test_mounts_that_miss_one_living_pod_of_many_prove_nothing() -> None:
    crowd = [held(n) for n in range(1, 6)]
    look = without(living(*crowd, sees_processes=False), OURS)
    partial = Namespaces(cookies=frozenset({103, 104, 105}), is_whole=True)
    assert standing_of(OURS, fresh(look)) is Standing.CANDIDATE
    assert standing_of(OURS, fresh(plus(look, mounts=partial))) is not Standing.CANDIDATE


def test_a_pod_that_is_being_made_does_not_speak_against_a_witness() -> None:
    """Its cache entry comes only when the whole chain has run."""
    young = held(2, allocated_unix=NOW_UNIX - 5)
    look = without(living(OURS, young, NEIGHBOUR, sees_processes=False), OURS)
    unfinished = plus(look, mounts=Namespaces(cookies=frozenset({109}), is_whole=True))
    assert standing_of(OURS, fresh(unfinished)) is Standing.CANDIDATE


def test_nobody_proves_itself_by_its_own_word() -> None:
    """Another plugin's pod of which the mounts alone know."""
    theirs = held(2, Wiring.MAIN_PLUGIN)
    look = without(living(OURS, theirs, sees_processes=False), OURS)
    alone = plus(look, routes=(), processes=BLIND, sandboxes=None)
    assert (Witness.MOUNTS, True) not in fresh(alone).memory.trust


def test_what_is_proven_for_pods_is_not_for_other_containers() -> None:
    """`ctr` mounts its containers' namespaces nowhere."""
    look = without(living(CTR, NEIGHBOUR, sees_processes=False), CTR)
    (verdict,) = fresh(look).of(Standing.UNSURE)
    assert verdict.signs is not None
    assert (verdict.signs.mounts, verdict.signs.cache) == (Sight.UNKNOWN, Sight.UNKNOWN)


def test_who_has_shown_a_living_one_is_believed_when_the_last_is_gone() -> None:
    before = fresh(living(OURS, sees_processes=False))
    after = fresh(without(living(OURS, sees_processes=False), OURS), memory=before.memory)
    assert [v.standing for v in after.verdicts] == [Standing.CANDIDATE]


def test_who_misses_a_living_one_has_to_prove_itself_anew() -> None:
    blind = replace(living(OURS), cache=frozenset())
    assert (Witness.CACHE, True) in looked(living(OURS)).memory.trust
    assert (Witness.CACHE, True) not in looked(blind).memory.trust


def test_a_candidate_is_confirmed_after_half_a_minute_and_not_before() -> None:
    first = looked(gone(OURS), now=1000.0)
    early = looked(gone(OURS), now=1000.0 + USUAL.confirm - 1, memory=first.memory)
    late = looked(gone(OURS), now=1000.0 + USUAL.confirm, memory=early.memory)
    assert [a.verdicts[0].standing for a in (first, early, late)] == [
        Standing.CANDIDATE,
        Standing.CANDIDATE,
        Standing.CONFIRMED,
    ]


INTERRUPTIONS = {
    "it-lives": (alive(OURS), OURS),
    "nothing-can-be-seen": (gone(OURS, links=None), OURS),
    "another-rule": (alive(OURS, sandboxes=ONE_LESS, cache=NO_ENTRY, processes=BLIND), OURS),
    "its-del-was-queued": (gone(OURS, queued=frozenset({OURS.key})), OURS),
    "another-epoch": (replace(gone(OURS), epoch="e2"), OURS),
    "another-generation": (gone(held(1, generation=77)), held(1, generation=77)),
    "it-was-released": (replace(living(NEIGHBOUR), held=(NEIGHBOUR,)), None),
}


@pytest.mark.parametrize("between", INTERRUPTIONS.values(), ids=INTERRUPTIONS)
def test_whatever_comes_between_starts_it_anew(between: tuple[Look, Held | None]) -> None:
    memory = looked(gone(OURS), now=1000.0).memory
    memory = looked(between[0], now=1020.0, memory=memory).memory
    known = dict.fromkeys((h.name for h in gone(OURS).held), 0.0)
    after = looked(gone(OURS), now=1040.0, memory=replace(memory, known=known))
    assert after.verdicts[0].standing is not Standing.CONFIRMED


def test_a_forgotten_one_must_have_been_known_for_five_minutes() -> None:
    """containerd 1.6 lists a sandbox only once it runs, which may take the kubelet's 4 minutes."""
    look = alive(OURS, sandboxes=ONE_LESS, cache=NO_ENTRY, processes=BLIND)
    memory = Memory(epoch="e1", trust=ALL_WITNESSES, known={OURS.name: 1000.0, NEIGHBOUR.name: 0.0})
    early = assess(memory, look, now=1000 + USUAL.forgotten - 1, now_unix=NOW_UNIX)
    late = assess(memory, look, now=1000 + USUAL.forgotten, now_unix=NOW_UNIX)
    assert [early.verdicts[0].standing, late.verdicts[0].standing] == [
        Standing.LIVE,
        Standing.CANDIDATE,
    ]


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (Look(epoch="e", held=(OURS,), links=(identity(OURS),), sandboxes={"c1": True}), True),
        (Look(epoch="e", held=(OURS,), links=(identity(OURS),)), True),
        (Look(epoch="e", held=(OURS,), links=(identity(OURS),), sandboxes={}), False),
        (Look(epoch="e", held=(OURS,), links=(), sandboxes={"c1": True}), False),
        (Look(epoch="e", held=(OURS,), links=None), False),
        (Look(epoch="e", held=(OTHERS,), links=()), False),
        (Look(epoch="e", held=(held(1, allocated_unix=NOW_UNIX),), links=()), True),
        (Look(epoch="e", held=()), True),
    ],
    ids=[
        "link-and-sandbox",
        "no-list-of-the-runtime",
        "not-in-the-list",
        "no-link",
        "links-unread",
        "wired-by-another-plugin",
        "young",
        "nothing-held",
    ],
)
def test_the_usual_look_is_cheap(look: Look, expected: bool) -> None:
    assert explains_all(look, now_unix=NOW_UNIX) is expected


KINDS = st.sampled_from(
    [(Wiring.OURS, True), (Wiring.OURS, False), (Wiring.MAIN_PLUGIN, True), (Wiring.PEER, True)]
)


@st.composite
def crowds(draw: st.DrawFn) -> tuple[Held, ...]:
    kinds = draw(st.lists(KINDS, min_size=1, max_size=6))
    return tuple(
        held(n, wiring, is_pod=is_pod, netns_cookie=0 if wiring is Wiring.PEER else 100 + n)
        for n, (wiring, is_pod) in enumerate(kinds, 1)
    )


@st.composite
def lies(draw: st.DrawFn, look: Look) -> Look:
    """One witness of the look cannot be read, or leaves out any part of what it should show."""
    match draw(st.sampled_from(["kernel", "mounts", "processes", "cache", "runtime"])):
        case "kernel" if draw(st.booleans()):
            return replace(look, links=None, routes=None)
        case "kernel":
            kept = [o for o in look.links or () if draw(st.booleans())]
            routes = [r for r in look.routes or () if draw(st.booleans())]
            return replace(look, links=tuple(kept), routes=tuple(routes))
        case "mounts" | "processes" as name:
            cookies = frozenset(c for c in getattr(look, name).cookies if draw(st.booleans()))
            return plus(look, **{name: Namespaces(cookies=cookies, is_whole=draw(st.booleans()))})
        case "cache":
            names = frozenset(n for n in look.cache or () if draw(st.booleans()))
            return replace(look, cache=draw(st.sampled_from([None, names])))
        case _:
            listed = {i: draw(st.booleans()) for i in look.sandboxes or {} if draw(st.booleans())}
            return replace(look, sandboxes=draw(st.sampled_from([None, listed])))


@given(st.data(), crowds(), st.booleans())
def test_no_witness_alone_makes_a_living_attachment_suspect(
    data: st.DataObject, pods: tuple[Held, ...], sees_processes: bool
) -> None:
    lie = data.draw(lies(living(*pods, sees_processes=sees_processes)))
    assert looked(lie).of(Standing.CANDIDATE) == ()


@given(st.data(), crowds())
def test_who_cannot_be_asked_never_makes_anything_suspect(
    data: st.DataObject, pods: tuple[Held, ...]
) -> None:
    """Of a node with leaks: whoever falls silent, no further allocation becomes a candidate."""
    lost = tuple(p for p in pods if data.draw(st.booleans()))
    look = without(living(*pods), *lost)
    before = {v.held.name for v in looked(look).of(Standing.CANDIDATE)}
    silences = {
        "links": None,
        "routes": None,
        "mounts": Namespaces(),
        "processes": Namespaces(),
        "cache": None,
        "sandboxes": None,
    }
    chosen = data.draw(st.sets(st.sampled_from(sorted(silences))))
    quiet = plus(look, **{name: silences[name] for name in chosen})
    after = {v.held.name for v in looked(quiet).of(Standing.CANDIDATE)}
    assert after <= before
    assert after <= {p.name for p in lost}


@given(crowds(), st.data())
def test_only_what_was_lost_is_ever_suspect(pods: tuple[Held, ...], data: st.DataObject) -> None:
    lost = tuple(p for p in pods if data.draw(st.booleans()))
    found = looked(without(living(*pods), *lost)).of(Standing.CANDIDATE)
    assert {v.held for v in found} <= set(lost)
    assert {v.held for v in found} >= {p for p in lost if p.wiring is Wiring.OURS}
