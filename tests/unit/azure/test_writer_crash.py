"""A process that ends at any step of a write, and the one that starts after it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipamd.errors import SubnetExhausted, Transient
from ipamd.model import EniId
from providers.azure.journal import Journal, Write
from providers.azure.names import Kind, names_of
from providers.azure.settle import Clock
from providers.azure.writer import Writer
from tests.unit.azure.memory_arm import INSTANCE_ENI, NIC_ENI
from tests.unit.azure.writing import Scene

both = pytest.mark.parametrize("eni_id", [NIC_ENI, INSTANCE_ENI], ids=["nic", "instance"])


class Killed(BaseException):
    """The process ends here."""


class Fuse:
    """Ends the process at the n-th step: before or after a call, a write to disk or a pause."""

    def __init__(self, steps: int) -> None:
        self._left = steps

    def step(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise Killed

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def stepping(*arguments: Any) -> Any:
            self.step()
            answer = call(*arguments)
            self.step()
            return answer

        return stepping


class FusedDoor:
    def __init__(self, door: object, fuse: Fuse) -> None:
        self._door = door
        self._fuse = fuse

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self._fuse.around(getattr(self._door, name))


class FusedJournal(Journal):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        super().__init__(path)
        self._fuse = fuse

    def _save(self) -> None:
        self._fuse.around(super()._save)()


def mortal(scene: Scene, fuse: Fuse) -> Writer:
    clock = scene.clock.clock()
    fused = Clock(monotonic=clock.monotonic, sleep=fuse.around(clock.sleep), chance=clock.chance)
    door: Any = FusedDoor(scene.arm, fuse)
    return Writer(door, FusedJournal(scene.path, fuse), clock=fused)


def crashes(
    tmp_path: Path, eni_id: EniId, act: Callable[[Scene], object], *, held: int = 0
) -> Iterator[Scene]:
    """Scenes in which `act` was ended at its first, second ... step, and a process started anew."""
    for steps in itertools.count():
        scene = Scene(tmp_path / f"{steps}.json", eni_id)
        if held:
            scene.add(held, token="before")
        living = scene.writer
        scene.writer = mortal(scene, Fuse(steps))
        try:
            act(scene)
        except Killed:
            assert living is not scene.writer
            scene.writer = scene.new_writer()
            yield scene
        else:
            assert steps > 10
            return


@both
def test_a_repeat_of_the_token_has_what_was_asked_for_once(tmp_path: Path, eni_id: EniId) -> None:
    for scene in crashes(tmp_path, eni_id, lambda scene: scene.add(3)):
        assert len(scene.add(3)) == 3
        assert len(scene.held()) == 3
        assert scene.arm.collisions == 0
        assert scene.journal.writes() == ()


@both
def test_another_change_waits_for_what_is_under_way(tmp_path: Path, eni_id: EniId) -> None:
    for scene in crashes(tmp_path, eni_id, lambda scene: scene.add(3)):
        assert len(scene.add(2, token="t2")) == 2
        assert len(scene.held()) in (2, 5)
        assert scene.arm.collisions == 0


@both
def test_a_removal_is_done_once_it_is_asked_for_again(tmp_path: Path, eni_id: EniId) -> None:
    def act(scene: Scene) -> None:
        scene.remove(*scene.writer.apply(scene.change(add=2, token="before")).added[:1])

    for scene in crashes(tmp_path, eni_id, act, held=2):
        first = names_of("before", Kind.ADDRESS, 1)[0]
        hidden = scene.writer.hidden(eni_id)
        assert hidden in (frozenset(), frozenset({first}))
        if first in scene.arm.names(eni_id):
            listed = (scene.arm.views.get(eni_id) or scene.arm.resources[eni_id])["properties"]
            address = next(
                raw["properties"]["privateIPAddress"]
                for raw in listed["ipConfigurations"]
                if raw["name"] == first
            )
            scene.remove(type(next(iter(scene.arm.used)))(address), token="t3")
        scene.idle()
        assert len(scene.held()) == 1
        assert scene.arm.collisions == 0


@both
def test_starting_looks_once_and_keeps_waiting_in_mind(tmp_path: Path, eni_id: EniId) -> None:
    scene = Scene(tmp_path / "writes.json", eni_id)
    scene.arm.write_seconds = 10_000
    with pytest.raises(Transient):
        scene.add(1)
    scene.writer = scene.new_writer()

    scene.writer.resume()
    assert len(scene.journal.writes()) == 1
    assert scene.notes[-1][0] == "azure_write_awaited"

    scene.clock.now += 10_000
    scene.writer.resume()
    assert scene.journal.writes() == ()
    assert len(scene.held()) == 1


@both
def test_why_an_earlier_write_failed_is_told_to_who_asks_again(
    tmp_path: Path, eni_id: EniId
) -> None:
    scene = Scene(tmp_path / "writes.json", eni_id)
    scene.arm.write_seconds = 700
    scene.arm.failing = [("SubnetIsFull", "none")]
    with pytest.raises(Transient):
        scene.add(2)
    scene.writer = scene.new_writer()
    puts = scene.arm.puts

    with pytest.raises(SubnetExhausted) as refusal:
        scene.add(2)
    assert refusal.value.code == "SubnetIsFull"
    assert scene.arm.puts == puts


@both
def test_why_an_earlier_write_failed_is_logged_for_others(tmp_path: Path, eni_id: EniId) -> None:
    scene = Scene(tmp_path / "writes.json", eni_id)
    scene.arm.write_seconds = 700
    scene.arm.failing = [("SubnetIsFull", "none")]
    with pytest.raises(Transient):
        scene.add(2)
    scene.writer = scene.new_writer()
    scene.arm.write_seconds = 1

    assert len(scene.add(1, token="t2")) == 1
    event, facts = scene.notes[0]
    assert event == "azure_earlier_write_ended"
    assert "SubnetIsFull" in str(facts["error"])
    assert len(scene.held()) == 1


def test_a_write_of_a_nic_that_is_gone_is_forgotten(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "writes.json", NIC_ENI)
    scene.arm.write_seconds = 10_000
    with pytest.raises(Transient):
        scene.add(1)
    scene.writer = scene.new_writer()
    del scene.arm.resources[scene.target]

    scene.writer.resume()

    assert scene.journal.writes() == ()


def test_a_start_is_not_held_up_by_looks_that_take_long(tmp_path: Path) -> None:
    scene = Scene(tmp_path / "writes.json", NIC_ENI)
    for number in range(8):
        scene.journal.begin(Write(target_id=f"{scene.target}{number}"))
    scene.arm.faults["nic"] = [lambda: scene.clock.sleep(10.0)] * 8

    scene.new_writer().resume()

    assert scene.clock.now == 1010
    assert len(scene.journal.writes()) == 7
