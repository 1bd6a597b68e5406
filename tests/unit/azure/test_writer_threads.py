"""Several callers at once: what is merged, and what each of them is told."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from ipamd.cloud import AddressOutcome
from ipamd.errors import Busy, CloudError, SubnetExhausted, Throttled, Transient
from ipamd.model import EniId
from providers.azure.lanes import Lane, Want
from tests.unit.azure.memory_arm import INSTANCE_ENI, NIC_ENI, SECOND_ENI, config
from tests.unit.azure.writing import Scene, a

WAIT_SECONDS = 20.0  # of real time, only ever used up by a test that fails


class Crowd:
    """Callers that come while the first one waits for company: as many as are named."""

    def __init__(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        self._scene = scene
        self._asked = 0
        self.later: list[Future[AddressOutcome]] = []
        self._changed = threading.Condition()
        ask = Lane.ask

        def counted(lane: Lane, want: Want) -> None:
            ask(lane, want)
            with self._changed:
                self._asked += 1
                self._changed.notify_all()

        monkeypatch.setattr(Lane, "ask", counted)

    def wait(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: self._asked >= count, WAIT_SECONDS)

    def all(
        self,
        *changes: dict[str, Any],
        at: int = 0,
        then: Callable[[], None] = lambda: None,
    ) -> list[AddressOutcome | CloudError]:
        """What each is told; all but the first come during the pause number `at`, which ends with
        `then`."""
        writer, scene, before = self._scene.writer, self._scene, self._asked
        with ThreadPoolExecutor(len(changes)) as pool:
            told = self.later = []

            def come() -> None:
                for number, change in enumerate(changes[1:], 2):
                    told.append(pool.submit(writer.apply, scene.change(**change)))
                    self.wait(before + number)
                then()

            scene.clock.during = [*[lambda: None] * at, come]
            first = pool.submit(writer.apply, scene.change(**changes[0]))
            first.exception(WAIT_SECONDS)
            return [_result(future) for future in (first, *told)]


def _result(future: Future[AddressOutcome]) -> AddressOutcome | CloudError:
    error = future.exception(WAIT_SECONDS)
    if error is None:
        return future.result()
    assert isinstance(error, CloudError), error
    return error


@pytest.fixture(params=[NIC_ENI, INSTANCE_ENI], ids=["nic", "instance"])
def scene(request: pytest.FixtureRequest, tmp_path: Path) -> Scene:
    return Scene(tmp_path / "writes.json", request.param)


@pytest.fixture
def crowd(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> Crowd:
    return Crowd(scene, monkeypatch)


def added(told: AddressOutcome | CloudError) -> list[str]:
    assert isinstance(told, AddressOutcome), told
    return [str(one) for one in (*told.added, *told.added_prefixes)]


def test_those_that_come_together_share_a_write(scene: Scene, crowd: Crowd) -> None:
    told = crowd.all({"add": 2}, {"add": 3, "token": "t2"}, {"add_prefixes": 1, "token": "t3"})
    assert [len(added(one)) for one in told] == [2, 3, 1]
    assert sorted(one for each in told for one in added(each)) == sorted(scene.held())
    assert scene.arm.puts == 1


def test_adds_and_removals_share_a_write(scene: Scene, crowd: Crowd) -> None:
    (old,) = scene.add(1, token="before")
    told = crowd.all({"add": 1}, {"remove": (old,), "token": "t2"})
    assert scene.held() == added(told[0])
    assert scene.arm.puts == 2


def test_a_token_asked_for_twice_at_once_is_added_once(scene: Scene, crowd: Crowd) -> None:
    told = crowd.all({"add": 2}, {"add": 2})
    assert added(told[0]) == added(told[1]) == scene.held()


def test_one_that_cannot_be_does_not_spoil_the_others(scene: Scene, crowd: Crowd) -> None:
    scene.arm.put_config(scene.eni_id, config("other", "10.0.0.99"))
    told = crowd.all(
        {"add": 2}, {"remove": (a("10.0.0.99"),), "token": "t2"}, {"add": 256, "token": "t3"}
    )
    assert len(added(told[0])) == 2
    assert [getattr(one, "code", "") for one in told[1:]] == ["NotOurs", "MaxConfigs"]
    assert scene.arm.puts == 1


def test_what_is_there_already_is_told_beside_what_has_to_be_written(
    scene: Scene, crowd: Crowd
) -> None:
    old = scene.add(1, token="before")
    scene.writer = scene.new_writer()
    told = crowd.all({"add": 1}, {"add": 1, "token": "before"})
    assert added(told[1]) == [str(old[0])]
    assert len(scene.held()) == 2


def test_who_comes_later_is_in_the_next_write(scene: Scene, crowd: Crowd) -> None:
    told = crowd.all({"add": 1}, {"add": 2, "token": "t2"}, {"add": 3, "token": "t3"}, at=1)
    assert [len(added(one)) for one in told] == [1, 2, 3]
    assert scene.arm.puts == 2
    assert scene.arm.collisions == 0


def test_who_has_waited_for_too_long_does_not_hurry_the_others(scene: Scene, crowd: Crowd) -> None:
    def late() -> None:
        waiting = scene.writer._lane(scene.writer._target(scene.eni_id))._waiting
        waiting[1].deadline = scene.clock.now + 1

    told = crowd.all({"add": 1}, {"add": 2, "token": "t2"}, then=late)
    assert len(added(told[0])) == 1
    assert [getattr(one, "code", "") for one in told[1:]] == ["NoTimeLeft"]


def test_who_comes_while_the_budget_is_spent_joins_the_write(scene: Scene, crowd: Crowd) -> None:
    scene.arm.faults[scene.put] = [Throttled("spent", code="BudgetSpent", retry_after_seconds=14.0)]
    told = crowd.all({"add": 1}, {"add": 2, "token": "t2"}, at=1)
    assert [len(added(one)) for one in told] == [1, 2]
    assert scene.arm.puts == 2  # the one that was not sent, and the one for both


def test_a_removal_is_not_held_up_by_a_growth_that_cannot_be_had(
    scene: Scene, crowd: Crowd
) -> None:
    (old,) = scene.add(1, token="before")
    scene.arm.cidr = IPv4Network("10.0.0.0/28")
    told = crowd.all({"add": 100}, {"remove": (old,), "token": "t2"}, {"add": 1, "token": "t3"})
    assert isinstance(told[0], SubnetExhausted)
    assert added(told[1]) == []
    assert len(added(told[2])) == 1
    assert scene.arm.collisions == 0


def test_a_removal_is_told_before_the_growth_beside_it_is_tried_again(
    scene: Scene, crowd: Crowd
) -> None:
    (old,) = scene.add(1, token="before")
    full = SubnetExhausted("full", code="SubnetIsFull")

    def removed_first() -> None:
        assert added(_result(crowd.later[0])) == []

    scene.arm.faults[scene.put] = [full, lambda: None, removed_first]
    told = crowd.all({"add": 1}, {"remove": (old,), "token": "t2"})
    assert len(added(told[0])) == 1
    assert scene.arm.puts == 4


def test_a_growth_that_fails_late_does_not_hold_up_a_removal(scene: Scene, crowd: Crowd) -> None:
    (old,) = scene.add(1, token="before")
    scene.arm.failing = [("SubnetIsFull", "none"), ("", "all"), ("SubnetIsFull", "none")]
    told = crowd.all({"add": 5}, {"remove": (old,), "token": "t2"})
    assert isinstance(told[0], SubnetExhausted)
    if scene.eni_id == NIC_ENI:
        assert added(told[1]) == []
    else:
        assert isinstance(told[1], Transient)  # the model has lost it, the NIC not yet
    assert scene.writer.hidden(scene.eni_id) != frozenset()


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(Throttled("slow", code="TooManyRequests"), id="throttled"),
        pytest.param(Busy("locked", code="RetryableError", retry_after_seconds=99), id="busy"),
    ],
)
def test_what_holds_for_all_is_told_to_all_at_once(
    scene: Scene, crowd: Crowd, error: CloudError
) -> None:
    scene.arm.faults[scene.put] = [error]
    told = crowd.all({"add": 1}, {"add": 2, "token": "t2"})
    assert [type(one) for one in told] == [type(error)] * 2
    assert told[0] is not told[1]
    assert scene.arm.puts == 1


def test_a_writer_that_breaks_off_leaves_nobody_waiting(scene: Scene, crowd: Crowd) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    scene.arm.faults[scene.read] = [broken]
    with ThreadPoolExecutor(1) as pool:
        later: list[Future[AddressOutcome]] = []

        def come() -> None:
            later.append(pool.submit(scene.writer.apply, scene.change(add=1, token="t2")))
            crowd.wait(2)

        scene.clock.during = [come]
        with pytest.raises(RuntimeError):
            scene.add(1)
        told = _result(later[0])
    assert isinstance(told, Transient)
    assert told.code == "BrokenOff"
    assert len(scene.add(1)) == 1


def test_several_nics_of_an_instance_share_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = Scene(tmp_path / "writes.json", INSTANCE_ENI)
    told = Crowd(instance, monkeypatch).all(
        {"add": 1}, {"add": 2, "eni_id": SECOND_ENI, "token": "t2"}
    )
    assert added(told[0]) == instance.held()
    assert added(told[1]) == instance.arm.held(SECOND_ENI)
    assert instance.arm.puts == 1


def test_nics_of_a_machine_are_written_side_by_side(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "writes.json", NIC_ENI)
    other = EniId(NIC_ENI + "2")
    scene.arm.resources[other] = {**scene.arm.resources[NIC_ENI], "id": str(other)}
    both_there = threading.Barrier(2, timeout=WAIT_SECONDS)

    def meet() -> None:
        both_there.wait()

    scene.clock.during = [meet, meet]
    with ThreadPoolExecutor(2) as pool:
        told = [
            pool.submit(scene.writer.apply, scene.change(eni_id=eni_id, add=1))
            for eni_id in (NIC_ENI, other)
        ]
        assert [len(one.result(WAIT_SECONDS).added) for one in told] == [1, 1]
