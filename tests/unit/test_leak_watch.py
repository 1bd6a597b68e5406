"""The loop that ends lost DELs, on virtual time: a ledger, locks and a node in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import pytest
from cni_shim.allocations import key_of
from cni_shim.datapath.errors import DatapathError
from cni_shim.datapath.identity import Identity
from cni_shim.ipam_client import IpamdError
from cni_shim.leak_watch import LeakWatch
from cni_shim.leaks import USUAL
from cni_shim.signs import Namespaces, RoutedAddress
from cni_shim.spec import AttachmentKey
from cni_shim.verbs import Verbs
from ipam_api.v1 import door
from ipam_api.v1 import ipam_pb2 as pb

from tests.cni_bench import FakeDatapath, FakeIpam
from tests.delegates import FakeDelegates

AWAY = IpamdError(door.Status.UNAVAILABLE, "away", None)


class Ledger(FakeIpam):
    """ipamd with a list of its own, and releases that are by generation."""

    def __init__(self) -> None:
        super().__init__([])
        self.epoch = "e1"
        self.allocations: dict[AttachmentKey, pb.Allocation] = {}
        self.released: list[pb.ReleaseRequest] = []
        self.on_release: Callable[[str], None] = lambda name: None
        self.is_away = False

    def list(self, *, deadline_monotonic: float) -> pb.ListReply:
        if self.is_away:
            raise AWAY
        return pb.ListReply(epoch=self.epoch, allocations=self.allocations.values())

    def release(self, request: pb.ReleaseRequest, *, deadline_monotonic: float) -> pb.ReleaseReply:
        if self.is_away:
            raise AWAY
        self.released.append(request)
        self.on_release(request.key.container_id)
        key = AttachmentKey(container_id=request.key.container_id, ifname=request.key.ifname)
        held = self.allocations.get(key)
        if held is None:
            return pb.ReleaseReply(outcome=pb.ReleaseReply.UNKNOWN_KEY)
        if request.generation != held.generation:
            return pb.ReleaseReply(outcome=pb.ReleaseReply.OTHER_GENERATION)
        del self.allocations[key]
        return pb.ReleaseReply(outcome=pb.ReleaseReply.RELEASED, address=held.address)


@dataclass
class Node:
    """What the witnesses see; fields are changed by the tests."""

    links_: dict[AttachmentKey, Identity] = field(default_factory=dict)
    cookies: set[int] = field(default_factory=set)
    entries: set[str] = field(default_factory=set)
    ready: dict[str, bool] = field(default_factory=dict)
    unseen: dict[str, str] = field(default_factory=dict)
    blind_to: set[str] = field(default_factory=set)
    closer_looks: int = 0
    at_look: Callable[[], None] = lambda: None

    def links(self) -> tuple[Identity, ...] | None:
        return None if "links" in self.blind_to else tuple(self.links_.values())

    def routes(self) -> tuple[RoutedAddress, ...] | None:
        return None if "routes" in self.blind_to else ()

    def namespaces(self) -> tuple[Namespaces, Namespaces]:
        self.closer_looks += 1
        self.at_look()
        whole = "namespaces" not in self.blind_to
        found = frozenset(self.cookies) if whole else frozenset()
        return Namespaces(cookies=found, is_whole=whole), Namespaces()

    def cache(self) -> frozenset[str] | None:
        return None if "cache" in self.blind_to else frozenset(self.entries)

    def sandboxes(self) -> dict[str, bool] | None:
        return None if "runtime" in self.blind_to else dict(self.ready)


class Bench:
    """A node with pods, its ledger, and a loop whose clocks the test moves."""

    def __init__(self, **options: object) -> None:
        self.now, self.unix = 5000.0, 1_000_000.0
        self.ledger, self.node, self.datapath = Ledger(), Node(), FakeDatapath([])
        self.queued: set[AttachmentKey] = set()
        self.after_look: Callable[[], None] = lambda: None
        self.reported = {"e1"}
        self.options = options
        self.verbs = Verbs(
            self.ledger,
            self.datapath,
            delegates=FakeDelegates([]),
            queue_release=lambda request: None,
            finish_queued=lambda key: None,
        )
        self.restart()

    def restart(self) -> None:
        """A new process: everything that the loop remembered is gone."""
        self.watch = LeakWatch(
            self.ledger,
            self.verbs,
            self.node,
            is_reported=lambda epoch: epoch in self.reported,
            is_queued=lambda key: key in self.queued,
            clock=self.clock,
            wall_clock=lambda: self.unix,
            **self.options,  # type: ignore[arg-type]
        )

    def clock(self) -> float:
        self.after_look()
        return self.now

    def pod(self, name: str, number: int, *, age: float = 3600.0) -> AttachmentKey:
        """A pod that lives, in every witness's eyes."""
        key = AttachmentKey(container_id=name, ifname="eth0")
        self.ledger.allocations[key] = pb.Allocation(
            key=pb.AttachmentKey(container_id=name, ifname="eth0"),
            generation=number,
            netns_cookie=100 + number,
            network_name="vpc",
            pod_namespace="default",
            pod_name=name,
            address=f"10.0.0.{number}",
            allocated_unix=self.unix - age,
        )
        self.node.links_[key] = Identity(
            container_id=name,
            ifname="eth0",
            network_name="vpc",
            netns_cookie=100 + number,
            pod_namespace="default",
            pod_name=name,
        )
        self.node.cookies.add(100 + number)
        self.node.entries.add(f"vpc-{name}-eth0")
        self.node.ready[name] = True
        return key

    def lose(self, key: AttachmentKey) -> None:
        """The pod goes, and its DEL is lost: only ipamd still knows it."""
        number = self.ledger.allocations[key].generation
        self.node.links_.pop(key, None)
        self.node.cookies.discard(100 + number)
        self.node.entries.discard(f"vpc-{key.container_id}-eth0")
        self.node.ready.pop(key.container_id, None)

    def steps(self, count: int = 1) -> list[float]:
        """So many looks, each after the pause that the last one asked for."""
        pauses = []
        for _ in range(count):
            pauses.append(self.watch.step())
            self.now += pauses[-1]
            self.unix += pauses[-1]
        return pauses


@pytest.fixture
def bench() -> Bench:
    made = Bench()
    made.pod("lives", 9)
    return made


def test_a_lost_del_costs_an_address_two_looks(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.steps()
    bench.lose(lost)
    pauses = bench.steps(2)
    assert lost not in bench.ledger.allocations
    assert pauses == [USUAL.confirm, USUAL.between]


def test_even_a_pod_of_seconds_is_found_by_the_third_look(bench: Bench) -> None:
    lost = bench.pod("lost", 1, age=5.0)
    bench.lose(lost)
    bench.steps(3)
    assert lost not in bench.ledger.allocations


def test_a_leak_is_torn_down_and_released_by_its_generation(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps(2)
    (release,) = bench.ledger.released
    assert (release.key.container_id, release.generation) == ("lost", 1)
    assert release.reason.startswith("lost DEL, gone: link missing")
    assert bench.datapath.diary == ["unwire 10.0.0.1 of lost"]


def test_what_lives_stays_and_is_looked_at_cheaply(bench: Bench) -> None:
    bench.steps(10)
    assert bench.ledger.released == []
    assert bench.node.closer_looks == 0


SOURCES = ("links", "routes", "namespaces", "cache", "runtime")


@pytest.mark.parametrize("blind", SOURCES)
def test_a_living_pod_stays_whichever_source_cannot_be_read(bench: Bench, blind: str) -> None:
    bench.steps(2)
    bench.node.blind_to.add(blind)
    bench.steps(10)
    assert bench.ledger.released == []


@pytest.mark.parametrize("lie", ["links", "cookies", "cache", "runtime"])
def test_a_living_pod_stays_whichever_source_forgets_it(bench: Bench, lie: str) -> None:
    key = bench.pod("forgotten", 1)
    bench.steps(2)
    match lie:
        case "links":
            del bench.node.links_[key]
        case "cookies":
            bench.node.cookies.discard(101)
        case "cache":
            bench.node.entries.discard("vpc-forgotten-eth0")
        case "runtime":
            del bench.node.ready["forgotten"]
    bench.steps(20)
    assert bench.ledger.released == []


def test_a_source_that_fails_between_the_looks_starts_it_anew(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    bench.node.blind_to.update({"links", "namespaces"})
    bench.steps()
    bench.node.blind_to.clear()
    bench.steps()
    assert lost in bench.ledger.allocations
    bench.steps()
    assert lost not in bench.ledger.allocations


def test_what_is_unsure_is_a_note_for_as_long_as_it_is(bench: Bench) -> None:
    bench.steps()
    assert list(bench.watch.notes) == []
    for number in range(1, 6):
        bench.lose(bench.pod(f"lost{number}", number))
    bench.node.blind_to.update(SOURCES)
    bench.node.unseen = {"runtime": "no socket of a runtime is there"}
    bench.steps()
    (note,) = bench.watch.notes
    assert (
        "6 allocations live cannot be told (lives/eth0, lost1/eth0, lost2/eth0 and 3 more)" in note
    )
    assert "runtime: no socket of a runtime is there" in note
    bench.node.blind_to.clear()
    bench.steps(3)
    assert list(bench.watch.notes) == []


def test_a_restart_between_the_looks_starts_it_anew(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    bench.restart()
    bench.steps()
    assert lost in bench.ledger.allocations
    bench.steps()
    assert lost not in bench.ledger.allocations


def test_a_new_epoch_between_the_looks_starts_it_anew(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    bench.ledger.epoch = "e2"
    bench.reported.add("e2")
    bench.steps()
    assert lost in bench.ledger.allocations


@pytest.mark.parametrize("obstacle", ["away", "not-reported", "queued"])
def test_nothing_is_done_when(bench: Bench, obstacle: str) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    match obstacle:
        case "away":
            bench.ledger.is_away = True
        case "not-reported":
            bench.reported.clear()
        case "queued":
            bench.queued.add(lost)
    bench.steps(5)
    assert lost in bench.ledger.allocations
    assert bench.ledger.released == []


def test_an_ipamd_that_goes_away_before_the_release_is_asked_again(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    bench.node.at_look = lambda: setattr(bench.ledger, "is_away", True)
    bench.steps()
    assert lost in bench.ledger.allocations
    bench.node.at_look = lambda: None
    bench.ledger.is_away = False
    bench.steps(2)
    assert lost not in bench.ledger.allocations


def test_a_verb_at_work_keeps_it_alive(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    with bench.verbs.locked(lost, timeout_seconds=0.0):
        bench.steps(3)
    assert lost in bench.ledger.allocations


def test_a_verb_that_begins_after_the_second_look_keeps_it_alive(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    with ExitStack() as verb:
        taken: list[None] = []

        def begin() -> None:
            if not taken:
                taken.append(None)
                verb.enter_context(bench.verbs.locked(lost, timeout_seconds=0.0))

        bench.after_look = begin
        bench.steps()
    assert bench.ledger.released == []


def test_what_came_back_since_the_second_look_stays(bench: Bench) -> None:
    """The second look says leak; before the lock is had, an ADD of the key has been served."""
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    looks: list[None] = []

    def come_back() -> None:
        looks.append(None)
        if len(looks) == 1:
            bench.pod("lost", 2, age=0.0)

    bench.node.at_look = come_back
    bench.steps()
    assert bench.ledger.allocations[lost].generation == 2
    assert bench.ledger.released == []


def test_what_a_look_under_the_lock_finds_alive_stays(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps()
    seen = []

    def come_back() -> None:
        seen.append(bench.verbs.is_busy(lost))
        if seen[-1]:
            bench.node.cookies.add(101)

    bench.node.at_look = come_back
    bench.steps()
    assert seen == [False, True], "the last look is made with the lock held"
    assert lost in bench.ledger.allocations


def test_locks_are_given_back(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps(2)
    assert not bench.verbs.is_busy(lost)


def test_a_kernel_that_refuses_keeps_it_allocated_and_is_asked_again(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.datapath.script["unwire"] = [DatapathError("delete link", 16)]
    bench.steps(2)
    assert lost in bench.ledger.allocations
    bench.steps()
    assert lost not in bench.ledger.allocations


def test_one_that_cannot_be_ended_does_not_hold_up_the_others(bench: Bench) -> None:
    first, second = bench.pod("lost1", 1), bench.pod("lost2", 2)
    bench.lose(first)
    bench.lose(second)
    bench.datapath.script["unwire"] = [DatapathError("delete link", 16)]
    bench.steps(2)
    assert first in bench.ledger.allocations
    assert second not in bench.ledger.allocations


def test_many_leaks_are_ended_in_one_go(bench: Bench) -> None:
    lost = [bench.pod(f"lost{n}", 10 + n) for n in range(70)]
    for key in lost:
        bench.lose(key)
    unlocked: list[str] = []
    by_name = {key.container_id: key for key in lost}
    bench.ledger.on_release = lambda name: (
        None if bench.verbs.is_busy(by_name[name]) else unlocked.append(name)
    )
    bench.steps(2)
    assert unlocked == [], "each with its lock held"
    assert list(map(key_of, bench.ledger.allocations.values())) == [
        AttachmentKey(container_id="lives", ifname="eth0")
    ]


def test_where_leaks_are_only_told_nothing_is_released() -> None:
    bench = Bench(may_release=False)
    bench.pod("lives", 9)
    lost = bench.pod("lost", 1)
    bench.lose(lost)
    bench.steps(5)
    assert bench.ledger.released == []


def test_a_kind_of_wiring_that_is_not_known_is_nobodys_leak(bench: Bench) -> None:
    lost = bench.pod("lost", 1)
    bench.ledger.allocations[lost].wired_by = "somebody-newer"
    bench.lose(lost)
    bench.steps(5)
    assert bench.ledger.released == []


def test_a_look_that_crashes_does_not_end_the_loop(bench: Bench) -> None:
    bench.options["waits"] = replace(USUAL, first=0.0, between=0.0)
    bench.restart()
    asked: list[str] = []

    def crash_once(epoch: str) -> bool:
        asked.append(epoch)
        if len(asked) == 1:
            raise ValueError("an address that is none")
        return False

    bench.watch._is_reported = crash_once
    bench.watch.run(lambda: len(asked) > 1)
    assert len(asked) == 2


def test_the_first_look_is_soon_and_stopping_ends_the_loop(bench: Bench) -> None:
    bench.options["waits"] = replace(USUAL, first=0.0)
    bench.restart()
    stops = threading.Event()

    def stop_at_the_look(epoch: str) -> bool:
        stops.set()
        bench.watch.wake()
        return False

    bench.watch._is_reported = stop_at_the_look
    bench.watch.run(stops.is_set)
    assert stops.is_set()
